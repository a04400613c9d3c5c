//! A finished run's student at work: measured on sets, or asked for predictions.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use schemars::JsonSchema;
use serde::Serialize;
use tch::{CModule, Device, Kind, Tensor};

use super::data::RunData;
use super::evaluate::{evaluate, for_each_batch};
use super::predictions::{PredictionColumns, PredictionWriter};
use super::setup::Knows;
use super::upload::chunks;
use super::validation::{self, ValidationSet};
use super::{RunFolder, TrainError, responses, retain};
use crate::checkpoint;
use crate::config::{self, StudentConfig, TrainConfig};
use crate::durable;
use crate::libtorch;
use crate::metrics::Evaluation;
use crate::student::{self, Asked, Computation, Input, Model, State, StudentError};

/// A run's student on the validation sets of a config.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[schemars(title = "kd-train eval report")]
pub struct EvalReport {
    /// The run's folder.
    pub run: String,
    /// The checkpoint of the run that was asked for; absent where it is the student that the run chose.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<String>,
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

/// A run that is used, and which of its students.
#[derive(Clone, Copy, Debug)]
pub struct Use<'a> {
    /// The run's folder.
    pub run: &'a Path,
    /// Its config, or another one with other sets.
    pub config: &'a TrainConfig,
    /// The name of one of its checkpoints (`last`, `step-000123`); the student that it chose unless given.
    pub checkpoint: Option<&'a str>,
}

impl Use<'_> {
    pub(super) fn folder(&self) -> RunFolder {
        RunFolder::new(self.run)
    }

    /// The student's variables and, where it holds state of its own or is an exported classifier, its module.
    fn files(&self) -> Result<(PathBuf, PathBuf), TrainError> {
        let folder = self.folder();
        let Some(name) = self.checkpoint else { return Ok((folder.variables(), folder.module())) };
        let known = retain::names(&folder);
        if !known.iter().any(|known| known == name) {
            let (name, path) = (name.to_owned(), self.run.to_owned());
            return Err(TrainError::NoSuchCheckpoint { name, path, known: known.join(", ") });
        }
        Ok(checkpoint::files(&folder.checkpoint(name)))
    }

    /// The device of the config, the threads set.
    pub(super) fn device(&self) -> Result<Device, TrainError> {
        if let Some(threads) = self.config.train.threads {
            tch::set_num_threads(i32::try_from(threads).unwrap_or(i32::MAX));
        }
        Ok(libtorch::resolve(&self.config.train.device)?)
    }

    /// The run's language model, and the number of its tokens.
    pub(super) fn language_model(&self, device: Device) -> Result<(Box<dyn Model>, usize), TrainError> {
        let classes = self.config.student.classes().ok_or(TrainError::NoClasses)?;
        let (variables, module) = self.files()?;
        let mut kept = self.config.student.clone();
        if let StudentConfig::Torchscript { path, .. } = &mut kept {
            *path = module;
        }
        readable(&variables)?;
        let mut student = student::create(&kept, Asked::Tokens, classes, device)?;
        if student.state() == State::Variables {
            checkpoint::load_variables(student.as_mut(), &variables)?;
        }
        student.set_training(false);
        Ok((student::computed(student, &self.config.train)?, classes))
    }

    /// The run's classifier of images of `shape`.
    fn classifier(&self, shape: &[usize], device: Device) -> Result<Box<dyn Model>, TrainError> {
        let classes = self.config.student.classes().ok_or(TrainError::NoClasses)?;
        let (variables, module) = self.files()?;
        // A checkpoint is exported only where variables are not all of the student.
        if self.checkpoint.is_none() || module.exists() {
            let by = Computation::new(&self.config.train, device)?;
            return Ok(Box::new(Exported::load(&module, classes, device, by)?));
        }
        let mut student = student::create(&self.config.student, Asked::Images(shape), classes, device)?;
        checkpoint::load_variables(student.as_mut(), &variables)?;
        student.set_training(false);
        Ok(student::computed(student, &self.config.train)?)
    }
}

/// A finished run's student, and sets that it is asked about.
struct Finished {
    model: Box<dyn Model>,
    device: Device,
    classes: usize,
    sets: Vec<ValidationSet>,
}

impl Finished {
    /// The student of `used` and the sets of `names`, at least one, and whether it is `measured` on them.
    fn open<'a>(
        used: &Use<'_>,
        names: impl Iterator<Item = &'a str>,
        measured: bool,
    ) -> Result<Self, TrainError> {
        let device = used.device()?;
        let config = used.config;
        let of_tokens = learned_from_tokens(&used.folder())?;
        let classes = config.student.classes().ok_or(TrainError::NoClasses)?;
        let preprocess = (!of_tokens).then(|| config.preprocess.clone().unwrap_or_default());
        let data = RunData::read(&used.folder())?;
        let class_names = data.as_ref().and_then(RunData::class_names);
        let responses = responses::of_config(config)?;
        let student = Knows {
            preprocess: preprocess.as_ref(),
            classes,
            class_names,
            responses: responses.as_ref(),
            measured,
        };
        let open = |name: &str| {
            let Some(set) = config.validation.get(name) else {
                let known = config.validation.keys().cloned().collect::<Vec<_>>().join(", ");
                return Err(TrainError::NoSuchSet { name: name.to_owned(), known });
            };
            validation::open(name, set, &student, &config.loss, device)
        };
        // A run that is not there is told before sets that are not.
        let (variables, module) = used.files()?;
        readable(if of_tokens || used.checkpoint.is_some() { &variables } else { &module })?;
        let sets = names.map(open).collect::<Result<Vec<ValidationSet>, TrainError>>()?;
        let first = sets.first().ok_or(TrainError::NoSets)?;
        let model = match first.samples.image_shape() {
            Some(shape) => used.classifier(shape, device)?,
            None => used.language_model(device)?.0,
        };
        sets.iter().try_for_each(|set| set.check(model.as_ref(), device))?;
        Ok(Self { model, device, classes, sets })
    }
}

/// The config that the run was begun with.
pub(super) fn begun_with(run: &RunFolder) -> Result<TrainConfig, TrainError> {
    let path = run.config();
    readable(&path)?;
    Ok(config::load(&path, &[])?)
}

/// Whether the run's student is a language model: a run over images says how they were prepared.
pub(super) fn learned_from_tokens(run: &RunFolder) -> Result<bool, TrainError> {
    Ok(begun_with(run)?.preprocess.is_none())
}

/// `config`, which is to be used with the run in `run`, with what it leaves out as the run's caches had it: how images are
/// prepared, how many classes there are, and what of documents is a response.
///
/// # Errors
/// [`TrainError::Read`], [`TrainError::Config`]: there is no run, or its config is damaged.
pub fn completed(mut config: TrainConfig, run: &Path) -> Result<TrainConfig, TrainError> {
    let begun = begun_with(&RunFolder::new(run))?;
    config.preprocess = config.preprocess.or(begun.preprocess);
    let classes = config.student.classes().or(begun.student.classes());
    *config.student.classes_mut() = classes;
    config.responses = config.responses.or(begun.responses);
    Ok(config)
}

/// Says which file of a run is missing, in the system's words.
pub(super) fn readable(path: &Path) -> Result<(), TrainError> {
    let opened = std::fs::File::open(path);
    opened.map(|_| ()).map_err(|source| TrainError::Read { path: path.to_owned(), source })
}

/// An image classifier as it was exported, computed as it was measured.
struct Exported {
    module: CModule,
    classes: usize,
    by: Computation,
}

impl Exported {
    fn load(path: &Path, classes: usize, device: Device, by: Computation) -> Result<Self, TrainError> {
        readable(path)?;
        let mut module = CModule::load_on_device(path, device)
            .map_err(|error| failed(format!("loading {}", path.display()), &error))?;
        module.set_eval();
        Ok(Self { module, classes, by })
    }
}

impl Model for Exported {
    fn features(&self, input: &Input) -> Result<Tensor, StudentError> {
        let asked = self.by.run(input, |input| match input {
            Input::Images(images) => Ok((student::ask(&self.module, images)?, images.size()[0])),
            Input::Tokens(_) => Err(StudentError::NeedsImages { kind: "student.pt" }),
        });
        let (mut found, rows) = asked?;
        let logits = found.swap_remove(0);
        let expected = [rows, self.classes as i64];
        if logits.size() != expected {
            return Err(StudentError::Output { expected, found: logits.size() });
        }
        Ok(logits.to_kind(Kind::Float))
    }
}

fn failed(doing: String, error: &tch::TchError) -> StudentError {
    StudentError::Libtorch { doing, problem: libtorch::plain_message(error) }
}

/// Measures the student on the sets of its config that `names` lists, all of them where it lists none; `None` when
/// `stop` was set.
///
/// # Errors
/// [`TrainError`]: there is no finished run, or data and student do not fit, or a command failed.
pub fn eval(used: &Use<'_>, names: &[String], stop: &AtomicBool) -> Result<Option<EvalReport>, TrainError> {
    let config = used.config;
    let names =
        if names.is_empty() { config.validation.keys().collect::<Vec<_>>() } else { names.iter().collect() };
    let Finished { model, device, classes, sets } =
        Finished::open(used, names.into_iter().map(String::as_str), true)?;
    let mut validation = BTreeMap::new();
    for set in &sets {
        let measured = evaluate(model.as_ref(), set, config.train.batch, classes, device, stop)?;
        let Some(measured) = measured else { return Ok(None) };
        validation.insert(set.name.clone(), measured);
    }
    Ok(Some(EvalReport {
        run: used.run.display().to_string(),
        checkpoint: used.checkpoint.map(str::to_owned),
        device: config.train.device.clone(),
        validation,
    }))
}

/// Writes the predictions of a classifier for the set `set` of the config to `out`, a line of JSON each, in the order of the
/// dataset. Returns how many there were; `None` when `stop` was set. `to` is what errors call `out`.
///
/// # Errors
/// [`TrainError`], as [`eval`], and what `out` returns as [`TrainError::Write`].
pub fn predict(
    used: &Use<'_>,
    set: &str,
    to: &Path,
    out: &mut dyn Write,
    stop: &AtomicBool,
) -> Result<Option<u64>, TrainError> {
    let failed = |source| TrainError::Write { path: to.to_owned(), source };
    if learned_from_tokens(&used.folder())? {
        let problem = "a language model's predictions are written as Parquet: give --out FILE.parquet \
                       (kd-train generate asks it for text)";
        return Err(TrainError::OfTokens { key: "predict".into(), problem: problem.into() });
    }
    let Finished { model, device, sets, .. } = Finished::open(used, std::iter::once(set), false)?;
    let set = sets.first().ok_or(TrainError::NoSets)?;
    let mut done = 0;
    for_each_batch(model.as_ref(), &set.samples, used.config.train.batch, device, |batch, _, features| {
        if stop.load(Ordering::Relaxed) {
            return Ok(ControlFlow::Break(()));
        }
        let (probability, class) = model.head(features).softmax(-1, Kind::Float).max_dim(-1, false);
        for (row, id) in batch.ids.iter().enumerate() {
            let prediction = Prediction {
                sample: id.0,
                class: class.int64_value(&[row as i64]).unsigned_abs() as u32,
                probability: probability.double_value(&[row as i64]),
                label: batch.labels.as_ref().map(|labels| labels[row].unsigned_abs() as u32),
            };
            serde_json::to_writer(&mut *out, &prediction)
                .map_err(std::io::Error::from)
                .and_then(|()| out.write_all(b"\n"))
                .map_err(failed)?;
            done += 1;
        }
        Ok(ControlFlow::Continue(()))
    })?;
    out.flush().map_err(failed)?;
    Ok(Some(done).filter(|_| !stop.load(Ordering::Relaxed)))
}

/// As [`predict`], to the file `to`, which is replaced whole.
///
/// # Errors
/// As [`predict`]; what was there before is then kept.
pub fn predict_lines(
    used: &Use<'_>,
    set: &str,
    to: &Path,
    stop: &AtomicBool,
) -> Result<Option<u64>, TrainError> {
    replaced(to, |temporary| {
        let failed = |source| TrainError::Write { path: to.to_owned(), source };
        let mut out = BufWriter::new(File::create(temporary).map_err(failed)?);
        predict(used, set, to, &mut out, stop)
    })
}

/// What goes wrong while a file is being made.
enum Making {
    Io(std::io::Error),
    Train(TrainError),
    /// On request.
    Stopped,
}

impl From<std::io::Error> for Making {
    fn from(error: std::io::Error) -> Self {
        Self::Io(error)
    }
}

/// Has `make` write what replaces the file `to`, unless it was stopped and says nothing.
fn replaced(
    to: &Path,
    make: impl FnOnce(&Path) -> Result<Option<u64>, TrainError>,
) -> Result<Option<u64>, TrainError> {
    let mut done = None;
    let made = durable::replace_file(to, |temporary| {
        done = make(temporary).map_err(Making::Train)?;
        done.map(drop).ok_or(Making::Stopped)
    });
    match made {
        Ok(()) | Err(Making::Stopped) => Ok(done),
        Err(Making::Io(source)) => Err(TrainError::Write { path: to.to_owned(), source }),
        Err(Making::Train(error)) => Err(error),
    }
}

/// Writes the student's predictions for the set `set` of the config as Parquet to `to`, which is replaced whole: a row
/// for each sample, or for each position of a language model, in their order (`schemas/predictions.md`). Returns how
/// many there were; `None` when `stop` was set.
///
/// # Errors
/// [`TrainError`], as [`eval`]; what was there before is then kept.
pub fn predict_parquet(
    used: &Use<'_>,
    set: &str,
    to: &Path,
    columns: PredictionColumns,
    stop: &AtomicBool,
) -> Result<Option<u64>, TrainError> {
    let Finished { model, device, classes, sets } = Finished::open(used, std::iter::once(set), false)?;
    let write = |temporary: &Path, set: &ValidationSet| {
        let mut writer = PredictionWriter::create(temporary, set.is_of_tokens(), set.is_labelled(), columns)?;
        for_each_batch(
            model.as_ref(),
            &set.samples,
            used.config.train.batch,
            device,
            |batch, _, features| {
                if stop.load(Ordering::Relaxed) {
                    return Ok(ControlFlow::Break(()));
                }
                for (start, len) in chunks(features, classes) {
                    writer.add(batch, start as usize, &model.head(&features.narrow(0, start, len)))?;
                }
                Ok(ControlFlow::Continue(()))
            },
        )?;
        writer.finish()
    };
    let set = sets.first().ok_or(TrainError::NoSets)?;
    replaced(to, |temporary| {
        let done = write(temporary, set)?;
        Ok(Some(done).filter(|_| !stop.load(Ordering::Relaxed)))
    })
}
