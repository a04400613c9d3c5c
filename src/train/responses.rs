//! The tokens that responses lie between, and how much of the samples lies there.

use super::TrainError;
use crate::config::{Tokens, TrainConfig};
use crate::dataset::{DatasetError, Tokenizer};
use crate::loader::{Responses, Samples};

/// Rows in which responses are looked for before a run begins.
const ROWS: u64 = 1024;

/// What `config` says of responses, its texts as the tokens that its tokenizer makes of them.
///
/// # Errors
/// [`TrainError::Dataset`], [`TrainError::OfTokens`]: there is no tokenizer, or it makes nothing of a text.
pub(super) fn of_config(config: &TrainConfig) -> Result<Option<Responses>, TrainError> {
    let Some(responses) = &config.responses else { return Ok(None) };
    // Large ones take a second to open.
    let tokenizer = match &config.tokenizer {
        Some(path) if responses.has_text() => {
            Some((path, Tokenizer::open(path).map_err(DatasetError::from)?))
        }
        _ => None,
    };
    let ids = |key: &str, tokens: &Tokens| {
        let text = match tokens {
            Tokens::Ids(ids) => return Ok(ids.clone()),
            Tokens::Text(text) => text,
        };
        let wrong = |problem: String| TrainError::OfTokens { key: key.to_owned(), problem };
        let (path, tokenizer) = tokenizer
            .as_ref()
            .ok_or_else(|| wrong(format!("expected ids, or the key tokenizer beside it, found {text:?}")))?;
        let ids = tokenizer.encode(text).map_err(wrong)?;
        match ids.is_empty() {
            false => Ok(ids),
            true => Err(wrong(format!(
                "expected a text of at least a token of {}, found {text:?}",
                path.display()
            ))),
        }
    };
    let end = responses.end.as_ref().map(|end| ids("responses.end", end)).transpose()?;
    Ok(Some(Responses { begin: ids("responses.begin", &responses.begin)?, end }))
}

/// What is to be said of how much of `samples` lies in their responses; `None` where everything is learned from.
///
/// # Errors
/// [`TrainError::OfTokens`]: nothing does.
pub(super) fn told(samples: &Samples) -> Result<Option<String>, TrainError> {
    let Some(Responses { begin, .. }) = samples.responses() else { return Ok(None) };
    let rows: Vec<u64> = (0..samples.len().min(ROWS)).collect();
    let (learned, all) = samples.learned_of(&rows)?;
    if learned == 0 {
        let problem = format!(
            "expected in the first {} rows, which do not have its tokens {begin:?} in this order; text that stands elsewhere may be \
             other tokens (kd-cache export CACHE --to jsonl --out - --samples 0..1 has a row's), which can be given as ids",
            rows.len()
        );
        return Err(TrainError::OfTokens { key: "responses.begin".into(), problem });
    }
    let share = 100.0 * learned as f64 / all as f64;
    Ok(Some(format!(
        "responses: {share:.1} % of the tokens of the first {} rows are learned from",
        rows.len()
    )))
}
