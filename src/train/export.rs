//! A finished run's student in another form.

use std::fs;
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::{CModule, Device};

use super::infer::{learned_from_tokens, readable};
use super::{RunFolder, TrainError, transformers};
use crate::checkpoint;
use crate::config::{StudentConfig, TrainConfig};
use crate::dataset;
use crate::digest::Digest;
use crate::durable;
use crate::libtorch::plain_message;
use crate::preprocess::Preprocess;

/// A form of a student.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ExportedForm {
    /// A TorchScript module on the processor, for inference.
    Torchscript,
    /// Weights under their names; of a `llama` student a folder that Hugging Face's transformers load.
    Safetensors,
    /// An ONNX model.
    Onnx,
}

/// How an ONNX model was compared with the TorchScript module that it was made of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct OnnxCheck {
    /// What ran the ONNX model, and its version.
    pub runtime: String,
    /// The largest difference of a logit, as a share of the largest logit (of 1 where all are smaller).
    pub largest_difference: f64,
    /// The largest that is allowed.
    pub tolerance: f64,
}

/// What was written.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(title = "kd-train export report")]
pub struct ExportedStudent {
    /// The run's folder.
    pub run: String,
    /// The form.
    pub form: ExportedForm,
    /// The file or folder that was written.
    pub out: String,
    /// Its files, by their names in `out`; empty where that is a file itself.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<String>,
    /// All of its bytes.
    pub bytes: u64,
    /// The digest of the file; of a folder that of its weights.
    pub digest: String,
    /// The student's kind, as its config has it.
    pub student: String,
    /// Of an ONNX model: how it was compared with the TorchScript module.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub check: Option<OnnxCheck>,
    /// What is not in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// What a student is asked with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StudentInput {
    /// Images of this shape, without the batch.
    Images(Vec<usize>),
    /// Rows of tokens below this number.
    Tokens(usize),
}

impl StudentInput {
    /// What the student of the run in `run` is asked with; images have the shape that the data of `config` give.
    ///
    /// # Errors
    /// [`TrainError`]: there is no run, or data that cannot be read.
    pub fn of(run: &Path, config: &TrainConfig) -> Result<Self, TrainError> {
        if learned_from_tokens(&RunFolder::new(run))? {
            return config.student.classes().map(Self::Tokens).ok_or(TrainError::NoClasses);
        }
        let sets = config
            .validation
            .iter()
            .filter_map(|(name, set)| Some((format!("validation.{name}.dataset"), set.dataset.as_ref()?)));
        let of_training = config.dataset.as_ref().map(|dataset| ("dataset".to_owned(), dataset));
        let (key, dataset) = sets.chain(of_training).next().ok_or(TrainError::NoDataset)?;
        let dataset = dataset::open_images(dataset, &key)?;
        let preprocess = config.preprocess.clone().unwrap_or_default();
        let prepared = Preprocess::new(&preprocess, dataset.sample_shape())?;
        Ok(Self::Images(prepared.output_shape().to_vec()))
    }
}

/// Writes the student that the run in `run` kept to `out`: as TorchScript or as safetensors what the run itself
/// holds, and as ONNX what `to_onnx` makes of the run's TorchScript in the file that it is given.
///
/// # Errors
/// [`TrainError`]: there is no finished run, or `out` cannot be written; or whatever `to_onnx` returns. What stood in
/// `out` before is kept then.
pub fn export<E: From<TrainError> + From<std::io::Error>>(
    run: &Path,
    config: &TrainConfig,
    form: ExportedForm,
    out: &Path,
    to_onnx: impl FnOnce(&Path, &Path) -> Result<OnnxCheck, E>,
) -> Result<ExportedStudent, E> {
    let folder = RunFolder::new(run);
    let (module, variables) = (folder.module(), folder.variables());
    readable(&module)?;
    readable(&variables)?;
    let of_module = matches!(config.student, StudentConfig::Torchscript { .. });
    let transformers = folder.transformers();
    let is_file = out.extension().is_some_and(|suffix| suffix == "safetensors");
    let (mut files, mut check, mut note) = (Vec::new(), None, None);
    match form {
        // A module of the user's is written on the device that it learned on.
        ExportedForm::Torchscript if of_module => on_processor(&module, out)?,
        ExportedForm::Torchscript => copy(&module, out)?,
        ExportedForm::Safetensors if transformers.exists() && !is_file => {
            files = copy_folder(&transformers, out)?;
        }
        ExportedForm::Safetensors => {
            copy(&variables, out)?;
            let buffers = "parameters alone: the buffers of a TorchScript module are in the form torchscript";
            note = of_module.then(|| buffers.to_owned());
        }
        ExportedForm::Onnx
            if out.parent().is_some_and(|parent| !parent.as_os_str().is_empty() && !parent.is_dir()) =>
        {
            let source = std::io::Error::new(std::io::ErrorKind::NotFound, "there is no such folder");
            return Err(TrainError::Write { path: out.to_owned(), source }.into());
        }
        ExportedForm::Onnx => durable::replace_file(out, |temporary| {
            check = Some(to_onnx(&module, temporary)?);
            Ok::<(), E>(())
        })?,
    }
    let read = |path: &Path, source| TrainError::Read { path: path.to_owned(), source };
    let written: Vec<PathBuf> = match files.is_empty() {
        true => vec![out.to_owned()],
        false => files.iter().map(|name| out.join(name)).collect(),
    };
    let mut bytes = 0;
    for path in &written {
        bytes += fs::metadata(path).map_err(|source| read(path, source))?.len();
    }
    let weights = written.iter().find(|path| path.ends_with(transformers::MODEL)).unwrap_or(&written[0]);
    let digest = Digest::of_file(weights).map_err(|source| read(weights, source))?;
    Ok(ExportedStudent {
        run: run.display().to_string(),
        form,
        out: out.display().to_string(),
        files,
        bytes,
        digest: digest.to_string(),
        student: config.student.kind().to_owned(),
        check,
        note,
    })
}

fn copy(from: &Path, to: &Path) -> Result<(), TrainError> {
    Ok(checkpoint::copy(from, to)?)
}

/// Every file of a folder of [`transformers`], and their names.
fn copy_folder(from: &Path, to: &Path) -> Result<Vec<String>, TrainError> {
    durable::create_folder(to).map_err(|source| TrainError::Write { path: to.to_owned(), source })?;
    let read = |source| TrainError::Read { path: from.to_owned(), source };
    let mut names = Vec::new();
    for entry in fs::read_dir(from).map_err(read)? {
        names.push(entry.map_err(read)?.file_name().to_string_lossy().into_owned());
    }
    names.retain(|name| !name.ends_with(durable::TEMPORARY));
    names.sort();
    // All of them are there before one takes the place of an older one: a config of this student and weights of another
    // would be neither.
    let beside = tempfile::Builder::new().prefix(".").suffix(durable::TEMPORARY).tempdir_in(to);
    let written = |source| TrainError::Write { path: to.to_owned(), source };
    let beside = beside.map_err(written)?;
    for name in &names {
        copy(&from.join(name), &beside.path().join(name))?;
    }
    for name in &names {
        durable::rename(&beside.path().join(name), &to.join(name)).map_err(written)?;
    }
    Ok(names)
}

/// The module at `from`, as it is loaded where there is no GPU.
fn on_processor(from: &Path, to: &Path) -> Result<(), TrainError> {
    let doing = "writing the module for the processor";
    let failed = |error: &tch::TchError| TrainError::Libtorch { doing, problem: plain_message(error) };
    let module = CModule::load_on_device(from, Device::Cpu).map_err(|error| failed(&error))?;
    durable::replace_file(to, |temporary| {
        module.save(temporary).map_err(|error| std::io::Error::other(plain_message(&error)))
    })
    .map_err(|source| TrainError::Write { path: to.to_owned(), source })
}
