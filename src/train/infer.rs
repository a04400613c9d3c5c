//! A finished run's student at work: measured on sets, or asked for predictions.

use std::collections::BTreeMap;
use std::path::Path;

use schemars::JsonSchema;
use serde::Serialize;
use tch::{CModule, Device, Kind, Tensor};

use super::evaluate::{evaluate, for_each_batch};
use super::setup::{self, ValidationSet};
use super::{RunFolder, TrainError};
use crate::config::{PreprocessConfig, TrainConfig};
use crate::libtorch;
use crate::metrics::Evaluation;
use crate::student::StudentError;

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

/// An exported student on its device.
struct Exported {
    module: CModule,
    device: Device,
    classes: usize,
    preprocess: PreprocessConfig,
}

impl Exported {
    fn load(run: &RunFolder, config: &TrainConfig) -> Result<Self, TrainError> {
        let device = libtorch::resolve(&config.train.device)?;
        if let Some(threads) = config.train.threads {
            tch::set_num_threads(i32::try_from(threads).unwrap_or(i32::MAX));
        }
        let path = run.module();
        if let Err(source) = std::fs::File::open(&path) {
            return Err(TrainError::Read { path, source });
        }
        let mut module = CModule::load_on_device(&path, device)
            .map_err(|error| failed(format!("loading {}", path.display()), &error))?;
        module.set_eval();
        let classes = config.student.classes().ok_or(TrainError::NoClasses)?;
        Ok(Self { module, device, classes, preprocess: config.preprocess.clone().unwrap_or_default() })
    }

    fn set(&self, name: &str, config: &TrainConfig) -> Result<ValidationSet, TrainError> {
        let Some(set) = config.validation.get(name) else {
            let known = config.validation.keys().cloned().collect::<Vec<_>>().join(", ");
            return Err(TrainError::NoSuchSet { name: name.to_owned(), known });
        };
        setup::validation(name, set, &self.preprocess, self.classes, config.loss.tail, self.device)
    }

    fn forward(&self, input: &Tensor) -> Result<Tensor, StudentError> {
        let logits = self
            .module
            .forward_ts(&[input])
            .map_err(|error| failed("the student's forward pass".into(), &error))?;
        let expected = [input.size()[0], self.classes as i64];
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
    let student = Exported::load(&RunFolder::new(run), config)?;
    let forward = |input: &Tensor| student.forward(input);
    let measure = |name: &String| {
        let set = student.set(name, config)?;
        Ok((name.clone(), evaluate(&forward, &set, config.train.batch, student.device)?))
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
    let student = Exported::load(&RunFolder::new(run), config)?;
    let set = student.set(set, config)?;
    let forward = |input: &Tensor| student.forward(input);
    let mut done = 0;
    for_each_batch(&forward, &set.samples, config.train.batch, student.device, |batch, _, logits| {
        let (probability, class) = logits.softmax(-1, Kind::Float).max_dim(-1, false);
        for (row, id) in batch.ids.iter().enumerate() {
            let prediction = Prediction {
                sample: id.0,
                class: class.int64_value(&[row as i64]).unsigned_abs() as u32,
                probability: probability.double_value(&[row as i64]),
                label: batch.labels.as_ref().map(|labels| labels[row]),
            };
            each(&prediction).map_err(|source| TrainError::Write { path: to.to_owned(), source })?;
            done += 1;
        }
        Ok(())
    })?;
    Ok(done)
}
