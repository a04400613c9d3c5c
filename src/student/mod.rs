//! The models that are trained: built in, or any TorchScript module.

mod built_in;
mod conv;
mod mlp;
mod resnet18;
mod torchscript;

use std::path::{Path, PathBuf};

use tch::nn::VarStore;
use tch::{Device, TchError, Tensor};

use crate::config::StudentConfig;

/// A model with trainable variables.
pub trait Student {
    /// Logits of a batch.
    ///
    /// # Shapes
    /// `input`: `[batch, …input shape]`, float. The result is `[batch, classes]`, raw logits.
    ///
    /// # Errors
    /// [`StudentError`]: the model refuses the input or answers with something else.
    fn forward(&self, input: &Tensor) -> Result<Tensor, StudentError>;

    /// Switches batch norm and dropout between training and evaluation.
    fn set_training(&mut self, training: bool);

    /// The variables, trainable and not.
    fn variables(&self) -> &VarStore;

    /// The same, to load values into.
    fn variables_mut(&mut self) -> &mut VarStore;

    /// Writes the model as TorchScript for inference (evaluation mode, no gradients), to be
    /// loaded by PyTorch, by a teacher or by `kd-train eval`.
    ///
    /// # Errors
    /// [`StudentError`]: libtorch could not trace or write it.
    fn export(&mut self, path: &Path) -> Result<(), StudentError>;

    /// What, beyond the variables, has to be kept to bring the model back: the whole module where
    /// it holds state of its own.
    fn state(&self) -> State;
}

/// Where a model's state lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// In the variables alone.
    Variables,
    /// Also in the module's buffers, which only TorchScript itself can write.
    Module,
}

/// Makes the student that `config` describes, its first weights drawn from libtorch's generator
/// (seed it before), for inputs of `input_shape` (without the batch) and `classes` classes.
///
/// # Errors
/// [`StudentError`]: the model and the input do not fit, or a module cannot be loaded or does not
/// answer `[batch, classes]`.
pub fn create(
    config: &StudentConfig,
    input_shape: &[usize],
    classes: usize,
    device: Device,
) -> Result<Box<dyn Student>, StudentError> {
    let shape: Vec<i64> = input_shape.iter().map(|d| *d as i64).collect();
    let classes = classes as i64;
    let vs = VarStore::new(device);
    let root = vs.root();
    let mut student: Box<dyn Student> = match config {
        StudentConfig::Mlp { hidden, .. } => {
            let net = mlp::mlp(&root, shape.iter().product(), hidden, classes);
            Box::new(built_in::BuiltIn::new("Mlp", vs, Box::new(net), shape.clone()))
        }
        StudentConfig::Conv { channels, depth, .. } => {
            let [input, height, width] = image("conv", &shape)?;
            let smallest = height.min(width);
            if smallest >> (channels.len() - 1) == 0 {
                return Err(StudentError::TooSmall { blocks: channels.len(), shape: input_shape.to_vec() });
            }
            let net = conv::conv(&root, input, channels, *depth, classes);
            Box::new(built_in::BuiltIn::new("Conv", vs, Box::new(net), shape.clone()))
        }
        StudentConfig::Resnet18 { width, .. } => {
            let [input, ..] = image("resnet18", &shape)?;
            let net = resnet18::resnet18(&root, input, i64::from(*width), classes);
            Box::new(built_in::BuiltIn::new("Resnet18", vs, Box::new(net), shape.clone()))
        }
        StudentConfig::Torchscript { path, .. } => Box::new(torchscript::TorchScriptStudent::load(path, vs)?),
    };
    student.set_training(false);
    let mut probe = vec![2];
    probe.extend_from_slice(&shape);
    let probe = Tensor::zeros(probe, (tch::Kind::Float, device));
    let found = tch::no_grad(|| student.forward(&probe))?.size();
    if found != [2, classes] {
        return Err(StudentError::Output { expected: [2, classes], found });
    }
    Ok(student)
}

/// Channels, height and width, or an error that says which layout gives them.
fn image(kind: &'static str, shape: &[i64]) -> Result<[i64; 3], StudentError> {
    <[i64; 3]>::try_from(shape).map_err(|_| StudentError::NotAnImage { kind, shape: shape.to_vec() })
}

/// Why a student cannot be made or used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StudentError {
    /// Convolutions need images.
    #[error(
        "student.kind = \"{kind}\" expects inputs of shape [channels, height, width], found {shape:?}; use preprocess.layout = \"nchw\", or kind = \"mlp\""
    )]
    NotAnImage {
        /// The student.
        kind: &'static str,
        /// One input's shape.
        shape: Vec<i64>,
    },
    /// Every block but the last halves the image.
    #[error("student.channels: {blocks} blocks halve images of shape {shape:?} to nothing; use fewer")]
    TooSmall {
        /// Blocks asked for.
        blocks: usize,
        /// One input's shape.
        shape: Vec<usize>,
    },
    /// Something other than logits.
    #[error("student: expected logits of shape {expected:?}, found {found:?}")]
    Output {
        /// Samples and classes.
        expected: [i64; 2],
        /// The model's answer.
        found: Vec<i64>,
    },
    /// The module has nothing to train.
    #[error(
        "{path}: the module has no trainable parameters (a traced export?); export it with torch.jit.script"
    )]
    NothingToTrain {
        /// The module's file.
        path: PathBuf,
    },
    /// libtorch failed.
    #[error("{doing}: {problem}")]
    Libtorch {
        /// What was being done, with the file where there is one.
        doing: String,
        /// libtorch's own words.
        problem: String,
    },
}

impl StudentError {
    fn libtorch(doing: impl Into<String>, error: &TchError) -> Self {
        Self::Libtorch { doing: doing.into(), problem: crate::libtorch::plain_message(error) }
    }
}

#[cfg(test)]
mod tests;
