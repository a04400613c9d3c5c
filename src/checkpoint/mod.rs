//! Keeps a student on disk: its variables as safetensors, and as TorchScript where the module
//! holds state of its own. Files are replaced whole.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use tch::TchError;

use crate::durable;
use crate::libtorch::plain_message;
use crate::student::{State, Student, StudentError};

/// Suffix of variables.
const VARIABLES: &str = "safetensors";
/// Suffix of whole modules.
const MODULE: &str = "pt";

/// Why a checkpoint could not be written or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// A file could not be written.
    #[error("cannot write {path}")]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// libtorch could not write or read the variables.
    #[error("{path}: {problem}")]
    Variables {
        /// The file.
        path: PathBuf,
        /// libtorch's own words.
        problem: String,
    },
    /// The student could not be exported.
    #[error(transparent)]
    Student(#[from] StudentError),
}

/// What goes wrong while a file is being made.
enum Making {
    Io(std::io::Error),
    Torch(TchError),
    Student(StudentError),
}

impl From<std::io::Error> for Making {
    fn from(error: std::io::Error) -> Self {
        Self::Io(error)
    }
}

/// Writes `student` as `<path>.safetensors`, and as `<path>.pt` where variables are not all.
///
/// # Errors
/// [`CheckpointError`]; what stood there before is kept.
pub fn save(student: &mut dyn Student, path: &Path) -> Result<(), CheckpointError> {
    save_variables(student, &path.with_extension(VARIABLES))?;
    match student.state() {
        State::Variables => Ok(()),
        State::Module => export(student, &path.with_extension(MODULE)),
    }
}

/// Writes the variables of `student` to `path`, under their PyTorch names.
///
/// # Errors
/// [`CheckpointError`]; what stood there before is kept.
pub fn save_variables(student: &dyn Student, path: &Path) -> Result<(), CheckpointError> {
    let named: Vec<_> = student.variables().variables().into_iter().collect();
    save_tensors(&named, path)
}

/// Writes tensors with names to `path`.
///
/// # Errors
/// [`CheckpointError`]; what stood there before is kept.
pub fn save_tensors(named: &[(String, tch::Tensor)], path: &Path) -> Result<(), CheckpointError> {
    let on_host = |(name, tensor): &(String, tch::Tensor)| {
        (name.clone(), tensor.to_device(tch::Device::Cpu).contiguous())
    };
    // `VarStore::save` takes the format from the suffix, and a temporary file has another.
    let named: Vec<_> = named.iter().map(on_host).collect();
    make(path, |temporary| tch::Tensor::write_safetensors(&named, temporary).map_err(Making::Torch))
}

/// The tensors of a file and their names.
///
/// # Errors
/// [`CheckpointError::Variables`]: no such file, or none of tensors.
pub fn read_tensors(path: &Path) -> Result<Vec<(String, tch::Tensor)>, CheckpointError> {
    tch::Tensor::read_safetensors(path)
        .map_err(|error| CheckpointError::Variables { path: path.to_owned(), problem: plain_message(&error) })
}

/// Writes `student` as TorchScript for inference to `path`.
///
/// # Errors
/// [`CheckpointError`]; what stood there before is kept.
pub fn export(student: &mut dyn Student, path: &Path) -> Result<(), CheckpointError> {
    make(path, |temporary| student.export(temporary).map_err(Making::Student))
}

/// Brings the built-in `student` back to what [`save`] wrote as `<path>.safetensors`.
///
/// # Errors
/// [`CheckpointError`]: no such file, or another student's.
pub fn load_variables(student: &mut dyn Student, path: &Path) -> Result<(), CheckpointError> {
    let path = path.with_extension(VARIABLES);
    let named = read_tensors(&path)?.into_iter().collect();
    put(student.variables().variables(), &named)
        .map_err(|problem| CheckpointError::Variables { path, problem })
}

/// Gives each of `variables` the value that has its name among `named`; `Err`: expected and found, where there is none of its
/// shape.
pub fn put(
    variables: impl IntoIterator<Item = (String, tch::Tensor)>,
    named: &BTreeMap<String, tch::Tensor>,
) -> Result<(), String> {
    for (name, mut variable) in variables {
        let kept = named.get(&name);
        // Copying would spread a smaller one over a larger one without a word.
        let Some(kept) = kept.filter(|kept| kept.size() == variable.size()) else {
            let found = kept.map_or("none".to_owned(), |kept| format!("{:?}", kept.size()));
            return Err(format!("expected {name} of shape {:?}, found {found}", variable.size()));
        };
        tch::no_grad(|| variable.copy_(kept));
    }
    Ok(())
}

/// Puts a copy of the file `from` in `to`'s place.
///
/// # Errors
/// [`CheckpointError`]; what stood there before is kept.
pub fn copy(from: &Path, to: &Path) -> Result<(), CheckpointError> {
    make(to, |temporary| Ok(fs::copy(from, temporary).map(|_| ())?))
}

/// `<path>.safetensors` and `<path>.pt`.
pub fn files(path: &Path) -> (PathBuf, PathBuf) {
    (path.with_extension(VARIABLES), path.with_extension(MODULE))
}

fn make(path: &Path, write: impl FnOnce(&Path) -> Result<(), Making>) -> Result<(), CheckpointError> {
    durable::replace_file(path, write).map_err(|error| match error {
        Making::Io(source) => CheckpointError::Write { path: path.to_owned(), source },
        Making::Torch(error) => {
            CheckpointError::Variables { path: path.to_owned(), problem: plain_message(&error) }
        }
        Making::Student(error) => error.into(),
    })
}
