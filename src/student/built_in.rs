//! What all built-in students share: variables, mode, and export by tracing.

use std::path::Path;

use tch::nn::{Linear, Module, ModuleT, SequentialT, VarStore};
use tch::{CModule, Device, Kind, Tensor};

use super::{Input, Model, State, Student, StudentError};

/// Layers in two parts.
pub(super) struct Net {
    /// Inputs to features: `[batch, …]` to `[batch, width]`.
    pub(super) body: SequentialT,
    /// Features to logits.
    pub(super) head: Linear,
}

/// Which images the layers can be asked about.
#[derive(Clone, Copy, Debug)]
pub(super) enum Takes {
    /// So many numbers, whatever their shape.
    Numbers(i64),
    /// So many channels, of so many pixels each way at least.
    Channels(i64, i64),
}

impl Takes {
    /// What is wrong with images of `shape`, which is without the batch.
    fn expected(self, shape: &[i64]) -> Option<String> {
        match self {
            Self::Numbers(numbers) if shape.iter().product::<i64>() == numbers => None,
            Self::Numbers(numbers) => Some(format!("images of {numbers} numbers")),
            Self::Channels(channels, least) => match shape {
                [found, height, width] if *found == channels && *height.min(width) >= least => None,
                _ => Some(format!(
                    "images of shape [{channels}, height, width], at least {least} pixels each way"
                )),
            },
        }
    }
}

pub(super) struct BuiltIn {
    name: &'static str,
    vs: VarStore,
    net: Net,
    takes: Takes,
    input_shape: Vec<i64>,
    training: bool,
}

impl BuiltIn {
    /// A student called `name`, which is recorded on images of `input_shape` and asked about such as it `takes`.
    pub(super) fn new(
        name: &'static str,
        vs: VarStore,
        net: Net,
        takes: Takes,
        input_shape: Vec<i64>,
    ) -> Self {
        Self { name, vs, net, takes, input_shape, training: false }
    }

    /// Records the computation in evaluation mode on an example, and writes it.
    fn trace(&self, path: &Path) -> Result<(), StudentError> {
        let mut shape = vec![2];
        shape.extend_from_slice(&self.input_shape);
        let example = Tensor::zeros(shape, (Kind::Float, Device::Cpu));
        let mut forward = |inputs: &[Tensor]| vec![self.head(&self.net.body.forward_t(&inputs[0], false))];
        CModule::create_by_tracing(self.name, "forward", &[example], &mut forward)
            .and_then(|module| module.save(path))
            .map_err(|error| {
                StudentError::libtorch(format!("writing the student to {}", path.display()), &error)
            })
    }
}

impl Model for BuiltIn {
    fn features(&self, input: &Input) -> Result<Tensor, StudentError> {
        match input {
            Input::Images(images) => {
                let shape = images.size();
                let shape = shape.get(1..).unwrap_or_default();
                match self.takes.expected(shape) {
                    None => Ok(self.net.body.forward_t(images, self.training)),
                    Some(expected) => Err(StudentError::Image { expected, found: shape.to_vec() }),
                }
            }
            Input::Tokens(_) => Err(StudentError::NeedsImages { kind: self.name }),
        }
    }

    fn head(&self, features: &Tensor) -> Tensor {
        self.net.head.forward(features)
    }

    fn has_head(&self) -> bool {
        true
    }
}

impl Student for BuiltIn {
    fn set_training(&mut self, training: bool) {
        self.training = training;
    }

    fn variables(&self) -> &VarStore {
        &self.vs
    }

    fn variables_mut(&mut self) -> &mut VarStore {
        &mut self.vs
    }

    fn export(&mut self, path: &Path) -> Result<(), StudentError> {
        // On the processor, so that the file loads where there is no GPU; frozen until it is
        // written, because a recorded constant may not ask for gradients.
        let device = self.vs.device();
        self.vs.set_device(Device::Cpu);
        self.vs.freeze();
        let traced = self.trace(path);
        self.vs.unfreeze();
        self.vs.set_device(device);
        traced
    }

    fn state(&self) -> State {
        State::Variables
    }
}
