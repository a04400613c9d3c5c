//! The models that are trained: built in, or any TorchScript module.

mod built_in;
mod computed;
mod conv;
mod init;
mod input;
mod llama;
mod mlp;
mod resnet;
mod torchscript;

use std::path::{Path, PathBuf};

use tch::nn::VarStore;
use tch::{Device, Kind, TchError, Tensor};

use crate::config::{FEATURES_LAYER, ResnetConfig, StudentConfig};
use crate::libtorch::AutocastError;

use built_in::{BuiltIn, Takes};
pub use computed::{Computation, computed};
pub use init::{Initialised, OtherShape, initialise, other_model};
pub use input::{Input, TokenTensors};
use resnet::Depth;
pub use torchscript::ask;

/// Something that answers a batch, in two steps: so that of many positions and classes the logits need never
/// exist all at once.
pub trait Model {
    /// What [`Self::head`] makes logits of; the logits themselves where the model has no head apart.
    ///
    /// # Shapes
    /// The result is `[positions, width]`, a position for each image or each token that is asked about.
    ///
    /// # Errors
    /// [`StudentError`]: the model refuses the input or answers with something else.
    fn features(&self, input: &Input) -> Result<Tensor, StudentError>;

    /// Raw logits of some positions.
    ///
    /// # Shapes
    /// `[positions, width]` to `[positions, classes]`.
    fn head(&self, features: &Tensor) -> Tensor {
        features.shallow_clone()
    }

    /// Whether there is a head apart from the features.
    fn has_head(&self) -> bool {
        false
    }

    /// The features, and what else is wanted.
    ///
    /// # Shapes
    /// As [`Answer`] has them.
    ///
    /// # Errors
    /// As [`Self::features`]; and [`StudentError::Layer`], [`StudentError::Returned`]: it has no such thing.
    fn answer(&self, input: &Input, wanted: &Wanted) -> Result<Answer, StudentError> {
        let features = self.features(input)?;
        let layer = |layer: &String| match layer.as_str() {
            FEATURES_LAYER if self.has_head() => Ok(features.shallow_clone()),
            _ => Err(StudentError::Layer {
                layer: layer.clone(),
                known: if self.has_head() { vec![FEATURES_LAYER.into()] } else { Vec::new() },
            }),
        };
        let layers = wanted.layers.iter().map(layer).collect::<Result<_, StudentError>>()?;
        match wanted.losses.first() {
            None => Ok(Answer { features, layers, losses: Vec::new() }),
            Some(output) => {
                Err(StudentError::Returned { output: *output, found: "it returns logits alone".into() })
            }
        }
    }
}

/// What is wanted of a model beside its features.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// Layers by their names.
    pub layers: Vec<String>,
    /// Losses that it returns itself, each by its place in what a module returns.
    pub losses: Vec<usize>,
}

impl Wanted {
    /// Whether nothing is.
    pub fn is_empty(&self) -> bool {
        self.layers.is_empty() && self.losses.is_empty()
    }
}

/// The features of a batch, and what else was wanted.
#[derive(Debug)]
pub struct Answer {
    /// `[positions, width]`: what [`Model::features`] gives.
    pub features: Tensor,
    /// `[positions, width]` each, of the same positions.
    pub layers: Vec<Tensor>,
    /// Scalars: means over the batch.
    pub losses: Vec<Tensor>,
}

/// A model with trainable variables.
pub trait Student: Model {
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

/// What a student is asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked<'a> {
    /// Images of this shape, without the batch.
    Images(&'a [usize]),
    /// What follows each token of a row.
    Tokens,
}

/// Makes the student that `config` describes, its first weights drawn from libtorch's generator
/// (seed it before), for `classes` classes, or as many tokens.
///
/// # Errors
/// [`StudentError`]: the model and the input do not fit, or a module cannot be loaded or does not
/// answer `[batch, classes]`.
pub fn create(
    config: &StudentConfig,
    asked: Asked<'_>,
    classes: usize,
    device: Device,
) -> Result<Box<dyn Student>, StudentError> {
    let classes = classes as i64;
    let mut student = match asked {
        Asked::Images(shape) => of_images(config, shape, classes, device)?,
        Asked::Tokens => of_tokens(config, classes, device)?,
    };
    student.set_training(false);
    try_out(student.as_ref(), asked, classes, device)?;
    Ok(student)
}

/// Asks `model`, which is in evaluation mode, about something like `asked`, so that what it cannot take is told before
/// anything depends on it.
///
/// # Errors
/// [`StudentError`]: it refuses the input, or does not answer `[positions, classes]`.
pub fn try_out(
    model: &dyn Model,
    asked: Asked<'_>,
    classes: i64,
    device: Device,
) -> Result<(), StudentError> {
    let (probe, positions) = probe(asked, device);
    let found = tch::no_grad(|| Ok::<_, StudentError>(model.head(&model.features(&probe)?).size()))?;
    match found == [positions, classes] {
        true => Ok(()),
        false => Err(StudentError::Output { expected: [positions, classes], found }),
    }
}

/// The widths of the layers that are wanted of a student, in evaluation mode, once its losses are known to be there.
///
/// # Errors
/// [`StudentError`]: there is no such layer or loss, or it is not one vector for each position, or not one number.
pub fn widths(
    student: &dyn Student,
    asked: Asked<'_>,
    wanted: &Wanted,
    device: Device,
) -> Result<Vec<i64>, StudentError> {
    let (probe, positions) = probe(asked, device);
    let answer = tch::no_grad(|| student.answer(&probe, wanted))?;
    let width = |(layer, found): (&String, &Tensor)| match found.size()[..] {
        [rows, width] if rows == positions && width > 0 => Ok(width),
        _ => Err(StudentError::LayerShape { layer: layer.clone(), positions, found: found.size() }),
    };
    wanted.layers.iter().zip(&answer.layers).map(width).collect()
}

/// Something to ask a student about, and its positions.
fn probe(asked: Asked<'_>, device: Device) -> (Input, i64) {
    match asked {
        Asked::Images(shape) => {
            let mut probe = vec![2];
            probe.extend(shape.iter().map(|d| *d as i64));
            (Input::Images(Tensor::zeros(probe, (Kind::Float, device))), 2)
        }
        Asked::Tokens => (Input::Tokens(TokenTensors::whole(2, &[0; 6], device)), 6),
    }
}

fn of_tokens(
    config: &StudentConfig,
    vocabulary: i64,
    device: Device,
) -> Result<Box<dyn Student>, StudentError> {
    let vs = VarStore::new(device);
    match config {
        StudentConfig::Llama(config) => Ok(Box::new(llama::Llama::new(config, vocabulary, vs))),
        StudentConfig::Torchscript { path, .. } => {
            Ok(Box::new(torchscript::TorchScriptStudent::load(path, vs)?))
        }
        other => Err(StudentError::NeedsImages { kind: other.kind() }),
    }
}

fn of_images(
    config: &StudentConfig,
    input_shape: &[usize],
    classes: i64,
    device: Device,
) -> Result<Box<dyn Student>, StudentError> {
    let shape: Vec<i64> = input_shape.iter().map(|d| *d as i64).collect();
    let vs = VarStore::new(device);
    let root = vs.root();
    Ok(match config {
        StudentConfig::Mlp { hidden, .. } => {
            let numbers = shape.iter().product();
            let net = mlp::mlp(&root, numbers, hidden, classes);
            Box::new(BuiltIn::new("Mlp", vs, net, Takes::Numbers(numbers), shape))
        }
        StudentConfig::Conv { channels, depth, .. } => {
            let [input, height, width] = image("conv", &shape)?;
            let smallest = height.min(width);
            if channels.len() > 32 || smallest >> (channels.len() - 1) == 0 {
                return Err(StudentError::TooSmall { blocks: channels.len(), shape: input_shape.to_vec() });
            }
            let net = conv::conv(&root, input, channels, *depth, classes);
            let takes = Takes::Channels(input, 1 << (channels.len() - 1));
            Box::new(BuiltIn::new("Conv", vs, net, takes, shape))
        }
        StudentConfig::Resnet18(resnet) => residual(config.kind(), Depth::L18, resnet, vs, &shape, classes)?,
        StudentConfig::Resnet34(resnet) => residual(config.kind(), Depth::L34, resnet, vs, &shape, classes)?,
        StudentConfig::Resnet50(resnet) => residual(config.kind(), Depth::L50, resnet, vs, &shape, classes)?,
        StudentConfig::Torchscript { path, .. } => Box::new(torchscript::TorchScriptStudent::load(path, vs)?),
        StudentConfig::Llama(_) => return Err(StudentError::NeedsTokens { kind: config.kind() }),
    })
}

fn residual(
    kind: &'static str,
    depth: Depth,
    config: &ResnetConfig,
    vs: VarStore,
    shape: &[i64],
    classes: i64,
) -> Result<Box<dyn Student>, StudentError> {
    let [input, ..] = image(kind, shape)?;
    let net = resnet::resnet(&vs.root(), depth, config, input, classes);
    Ok(Box::new(BuiltIn::new(kind, vs, net, Takes::Channels(input, 1), shape.to_vec())))
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
    /// Images that the layers were not made for.
    #[error("student: expected {expected}, found {found:?}")]
    Image {
        /// Shapes that it takes.
        expected: String,
        /// One image's shape.
        found: Vec<i64>,
    },
    /// Every block but the last halves the image.
    #[error("student.channels: {blocks} blocks halve images of shape {shape:?} to nothing; use fewer")]
    TooSmall {
        /// Blocks asked for.
        blocks: usize,
        /// One input's shape.
        shape: Vec<usize>,
    },
    /// No products in half types.
    #[error(transparent)]
    Precision(AutocastError),
    /// A language model over images.
    #[error(
        "student.kind = \"{kind}\" learns from rows of tokens, and the samples are images; use conv, say"
    )]
    NeedsTokens {
        /// The student.
        kind: &'static str,
    },
    /// An image classifier over tokens.
    #[error(
        "student.kind = \"{kind}\" learns from images, and the samples are rows of tokens; use llama or torchscript"
    )]
    NeedsImages {
        /// The student.
        kind: &'static str,
    },
    /// No such layer.
    #[error(
        "loss.features: the student has no layer \"{layer}\"; {}",
        if known.is_empty() {
            "a TorchScript student gives one by returning a tuple, logits first, and layer = \"1\" is then the second"
                .to_owned()
        } else {
            format!("it has {}", known.join(", "))
        }
    )]
    Layer {
        /// Asked for.
        layer: String,
        /// What there is.
        known: Vec<String>,
    },
    /// A layer that is no vector for each position.
    #[error(
        "loss.features: the student's layer \"{layer}\": expected [{positions}, width], found {found:?}; pool it in the \
         module"
    )]
    LayerShape {
        /// The layer.
        layer: String,
        /// Positions asked about.
        positions: i64,
        /// Its shape.
        found: Vec<i64>,
    },
    /// No loss at that place.
    #[error(
        "loss.returned: expected the student to return a loss, one number, at place {output} of a tuple that begins with \
         the logits; {found}"
    )]
    Returned {
        /// Its place.
        output: usize,
        /// What there is instead.
        found: String,
    },
    /// Weights to begin with that cannot be had.
    #[error("init.weights: {path}: {problem}")]
    Init {
        /// The file or folder.
        path: PathBuf,
        /// Expected and found.
        problem: String,
    },
    /// Something other than logits.
    #[error("student: expected logits of shape {expected:?}, found {found:?}")]
    Output {
        /// Positions and classes.
        expected: [i64; 2],
        /// The model's answer.
        found: Vec<i64>,
    },
    /// The module's weights are of another type than a student's.
    #[error(
        "student.path: {path}: expected weights in single precision, found {found}; save the module as model.float(), and have its \
         products made in a half type with train.precision"
    )]
    NotSingle {
        /// The module's file.
        path: PathBuf,
        /// A weight's type.
        found: String,
    },
    /// The module has nothing to train.
    #[error(
        "{path}: the module has no trainable parameters (a traced export?); export it with torch.jit.script, or give a built-in student the student.safetensors beside it as init.weights"
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
