//! What a language model says: one token after another.

use std::path::PathBuf;
use std::time::Instant;

use schemars::JsonSchema;
use serde::Serialize;
use tch::{Kind, Tensor};

use super::{TrainError, Use};
use crate::dataset::{DatasetError, Tokenizer};
use crate::student::{Input, TokenTensors};

/// What is to be said.
#[derive(Clone, Debug)]
pub struct GenerateSettings {
    /// The text to go on with.
    pub prompt: String,
    /// Its tokenizer; that of the run unless given.
    pub tokenizer: Option<PathBuf>,
    /// Tokens to add at most.
    pub max_new_tokens: usize,
    /// Softmax temperature of the draws; 0: always the most probable token.
    pub temperature: f64,
    /// Of the draws.
    pub seed: u64,
}

/// What was said.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[schemars(title = "kd-train generate report")]
pub struct Generated {
    /// The prompt.
    pub prompt: String,
    /// What follows it.
    pub text: String,
    /// The same in tokens.
    pub tokens: Vec<u32>,
    /// Whether the end of the text was said.
    pub ended: bool,
    /// Tokens a second.
    pub tokens_per_second: f64,
}

/// Goes on with a prompt, the student saying how.
///
/// # Errors
/// [`TrainError`]: there is no finished run of a language model, or no tokenizer, or another one.
pub fn generate(used: &Use<'_>, settings: &GenerateSettings) -> Result<Generated, TrainError> {
    let path = settings.tokenizer.clone().or_else(|| used.folder().tokenizer());
    let path = path.ok_or_else(|| TrainError::OfTokens {
        key: "--tokenizer".into(),
        problem: "missing; the run was made without the key tokenizer and has none".into(),
    })?;
    let wrong = |problem: String| TrainError::OfTokens { key: "--prompt".into(), problem };
    let tokenizer = Tokenizer::open(&path).map_err(DatasetError::from)?;
    let device = used.device()?;
    let (model, classes) = used.language_model(device)?;
    if tokenizer.identity().size as usize > classes {
        let problem = format!(
            "{} has {} tokens, and the student {classes}; give the teacher's own",
            path.display(),
            tokenizer.identity().size
        );
        return Err(TrainError::OfTokens { key: "--tokenizer".into(), problem });
    }
    let prompt = tokenizer.encode(&settings.prompt).map_err(wrong)?;
    if prompt.is_empty() {
        return Err(wrong("expected some text, found none that makes a token".into()));
    }
    tch::manual_seed(settings.seed as i64);
    let _guard = tch::no_grad_guard();
    let begun = Instant::now();
    let mut all: Vec<i64> = prompt.iter().map(|token| i64::from(*token)).collect();
    let mut said = Vec::new();
    let mut ended = false;
    while said.len() < settings.max_new_tokens {
        let features = model.features(&Input::Tokens(TokenTensors::whole(1, &all, device)))?;
        let last = features.narrow(0, features.size()[0] - 1, 1);
        let token = next(&model.head(&last), settings.temperature);
        if Some(token) == tokenizer.end() {
            ended = true;
            break;
        }
        all.push(i64::from(token));
        said.push(token);
    }
    let seconds = begun.elapsed().as_secs_f64();
    Ok(Generated {
        prompt: settings.prompt.clone(),
        text: tokenizer.decode(&said).map_err(wrong)?,
        tokens_per_second: said.len() as f64 / seconds.max(f64::MIN_POSITIVE),
        tokens: said,
        ended,
    })
}

/// One token by its logits, `[1, classes]`.
fn next(logits: &Tensor, temperature: f64) -> u32 {
    let chosen = match temperature > 0.0 {
        false => logits.argmax(-1, false),
        true => (logits / temperature).softmax(-1, Kind::Float).multinomial(1, true).flatten(0, -1),
    };
    chosen.int64_value(&[0]).unsigned_abs() as u32
}
