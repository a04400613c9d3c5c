//! A finished run's student at work: measured on sets, or asked for predictions.

use std::collections::BTreeMap;
use std::path::Path;

use schemars::JsonSchema;
use serde::Serialize;
use tch::{CModule, Device, Kind, Tensor};

use super::evaluate::{evaluate, for_each_batch};
use super::setup::{self, ValidationSet};
use super::{RunFolder, TrainError};
use crate::checkpoint;
use crate::config::{PreprocessConfig, StudentConfig, TrainConfig};
use crate::libtorch;
use crate::metrics::Evaluation;
use crate::student::{self, Asked, Input, Model, State, StudentError};

/// A run's student on the validation sets of a config.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[schemars(title = "kd-train eval report")]
pub struct EvalReport {
    /// The run's folder.
    pub run: String,
    /// Device it ran on.
    pub device: String,
    /// Each set.
    pub validation: BTreeMap<String, Evaluation>,
}

/// One prediction: a line of `kd-train predict`.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[schemars(title = "kd-train prediction")]
pub struct Prediction {
    /// The sample's id in its dataset.
    pub sample: u64,
    /// The most probable class.
    pub class: u32,
    /// Its probability at T = 1.
    pub probability: f64,
    /// The hard label, where the dataset has labels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<u32>,
}

/// A finished run's student.
struct Finished {
    model: Box<dyn Model>,
    device: Device,
    classes: usize,
    /// `None` for language models.
    preprocess: Option<PreprocessConfig>,
}

impl Finished {
    fn load(run: &RunFolder, config: &TrainConfig) -> Result<Self, TrainError> {
        let device = libtorch::resolve(&config.train.device)?;
        if let Some(threads) = config.train.threads {
            tch::set_num_threads(i32::try_from(threads).unwrap_or(i32::MAX));
        }
        if learned_from_tokens(run)? {
            let (model, classes) = language_model(run, config, device)?;
            return Ok(Self { model, device, classes, preprocess: None });
        }
        let classes = config.student.classes().ok_or(TrainError::NoClasses)?;
        let model = Box::new(Exported::load(run, classes, device)?);
        Ok(Self { model, device, classes, preprocess: Some(config.preprocess.clone().unwrap_or_default()) })
    }

    fn set(&self, name: &str, config: &TrainConfig) -> Result<ValidationSet, TrainError> {
        let Some(set) = config.validation.get(name) else {
            let known = config.validation.keys().cloned().collect::<Vec<_>>().join(", ");
            return Err(TrainError::NoSuchSet { name: name.to_owned(), known });
        };
        setup::validation(name, set, self.preprocess.as_ref(), self.classes, config.loss.tail, self.device)
    }
}

/// Whether the run's student is a language model: a run over images says how they were prepared.
fn learned_from_tokens(run: &RunFolder) -> Result<bool, TrainError> {
    let path = run.config();
    let read = |source| TrainError::Read { path: path.clone(), source };
    let text = std::fs::read_to_string(&path).map_err(read)?;
    let own: toml::Table = toml::from_str(&text).map_err(|error| read(std::io::Error::other(error)))?;
    Ok(!own.contains_key("preprocess"))
}

/// The language model of a finished run, and the number of its tokens.
pub(super) fn language_model(
    run: &RunFolder,
    config: &TrainConfig,
    device: Device,
) -> Result<(Box<dyn Model>, usize), TrainError> {
    let classes = config.student.classes().ok_or(TrainError::NoClasses)?;
    let mut kept = config.student.clone();
    if let StudentConfig::Torchscript { path, .. } = &mut kept {
        *path = run.module();
    }
    readable(&run.variables())?;
    let mut student = student::create(&kept, Asked::Tokens, classes, device)?;
    student.compute_in(config.train.precision)?;
    if student.state() == State::Variables {
        checkpoint::load_variables(student.as_mut(), &run.variables())?;
    }
    student.set_training(false);
    Ok((student, classes))
}

/// Says which file of a run is missing, in the system's words.
fn readable(path: &Path) -> Result<(), TrainError> {
    let opened = std::fs::File::open(path);
    opened.map(|_| ()).map_err(|source| TrainError::Read { path: path.to_owned(), source })
}

/// An image classifier as it was exported.
struct Exported {
    module: CModule,
    classes: usize,
}

impl Exported {
    fn load(run: &RunFolder, classes: usize, device: Device) -> Result<Self, TrainError> {
        let path = run.module();
        readable(&path)?;
        let mut module = CModule::load_on_device(&path, device)
            .map_err(|error| failed(format!("loading {}", path.display()), &error))?;
        module.set_eval();
        Ok(Self { module, classes })
    }
}

impl Model for Exported {
    fn features(&self, input: &Input) -> Result<Tensor, StudentError> {
        let Input::Images(images) = input else {
            return Err(StudentError::NeedsImages { kind: "student.pt" });
        };
        let logits = self
            .module
            .forward_ts(&[images])
            .map_err(|error| failed("the student's forward pass".into(), &error))?;
        let expected = [images.size()[0], self.classes as i64];
        if logits.size() != expected {
            return Err(StudentError::Output { expected, found: logits.size() });
        }
        Ok(logits)
    }
}

fn failed(doing: String, error: &tch::TchError) -> StudentError {
    StudentError::Libtorch { doing, problem: libtorch::plain_message(error) }
}

/// Measures the student of the run in `run` on every validation set of `config`.
///
/// # Errors
/// [`TrainError`]: there is no finished run, or data and student do not fit.
pub fn eval(run: &Path, config: &TrainConfig) -> Result<EvalReport, TrainError> {
    let student = Finished::load(&RunFolder::new(run), config)?;
    let measure = |name: &String| {
        let set = student.set(name, config)?;
        let Finished { model, classes, device, .. } = &student;
        Ok((name.clone(), evaluate(model.as_ref(), &set, config.train.batch, *classes, *device)?))
    };
    Ok(EvalReport {
        run: run.display().to_string(),
        device: config.train.device.clone(),
        validation: config.validation.keys().map(measure).collect::<Result<_, TrainError>>()?,
    })
}

/// Hands `each` the predictions of the run's student for the validation set `set` of `config`, in
/// the order of the dataset. Returns how many there were.
///
/// # Errors
/// [`TrainError`], as [`eval`], and what `each` returns as [`TrainError::Write`] to `to`.
pub fn predict(
    run: &Path,
    config: &TrainConfig,
    set: &str,
    to: &Path,
    mut each: impl FnMut(&Prediction) -> std::io::Result<()>,
) -> Result<u64, TrainError> {
    let student = Finished::load(&RunFolder::new(run), config)?;
    if student.preprocess.is_none() {
        let problem = "predictions are of image classifiers; ask a language model with kd-train generate";
        return Err(TrainError::OfTokens { key: "predict".into(), problem: problem.into() });
    }
    let set = student.set(set, config)?;
    let mut done = 0;
    let (model, device) = (student.model.as_ref(), student.device);
    for_each_batch(model, &set.samples, config.train.batch, device, |batch, _, logits| {
        let (probability, class) = logits.softmax(-1, Kind::Float).max_dim(-1, false);
        for (row, id) in batch.ids.iter().enumerate() {
            let prediction = Prediction {
                sample: id.0,
                class: class.int64_value(&[row as i64]).unsigned_abs() as u32,
                probability: probability.double_value(&[row as i64]),
                label: batch.labels.as_ref().map(|labels| labels[row].unsigned_abs() as u32),
            };
            each(&prediction).map_err(|source| TrainError::Write { path: to.to_owned(), source })?;
            done += 1;
        }
        Ok(())
    })?;
    Ok(done)
}
