//! A module on its device, and its results as plain numbers.

use std::path::{Path, PathBuf};

use tch::{CModule, Device, IValue, Kind, Tensor};

use crate::config::{TeacherConfig, TeacherKind};
use crate::libtorch::{self, DeviceLogits};
use crate::teacher::error::hint;
use crate::teacher::{OutputType, TeacherError, Values};

/// A module in evaluation mode, and the file it is from.
pub(super) struct Module {
    pub(super) module: CModule,
    pub(super) path: PathBuf,
    pub(super) device: Device,
}

impl Module {
    /// Loads `path` to be run as `config` says.
    pub(super) fn load(config: &TeacherConfig, path: &Path) -> Result<Self, TeacherError> {
        let device = libtorch::resolve(&config.device).map_err(|error| TeacherError::Device {
            device: config.device.clone(),
            problem: error.to_string(),
        })?;
        if let Some(threads) = config.threads {
            tch::set_num_threads(i32::try_from(threads).unwrap_or(i32::MAX));
        }
        let loaded = CModule::load_on_device(path, device);
        let mut module = loaded.map_err(|error| TeacherError::Runtime {
            path: path.to_owned(),
            doing: "loading the model",
            problem: libtorch::plain_message(&error) + hint(path, TeacherKind::Torchscript),
        })?;
        module.set_eval();
        Ok(Self { module, path: path.to_owned(), device })
    }

    /// The values of an output `[rows, classes]`: on the CPU as they are wanted there, elsewhere where they are.
    pub(super) fn values(&self, output: &Tensor) -> Values {
        let output = DeviceLogits::new(output.detach());
        match self.device {
            Device::Cpu => output.to_host().into(),
            _ => Values::Device(output),
        }
    }

    /// One pass, of which no gradients are kept.
    pub(super) fn forward(&self, arguments: &[IValue]) -> Result<IValue, TeacherError> {
        tch::no_grad(|| self.module.forward_is(arguments))
            .map_err(|error| failed(&self.path, "the forward pass", &error))
    }
}

/// The runtime and its version.
pub(super) fn version() -> String {
    format!("libtorch {}", libtorch::VERSION)
}

/// The type of a tensor of floats.
pub(super) fn output_type(kind: Kind) -> Option<OutputType> {
    match kind {
        Kind::Float => Some(OutputType::F32),
        Kind::Half => Some(OutputType::F16),
        Kind::BFloat16 => Some(OutputType::Bf16),
        Kind::Double => Some(OutputType::F64),
        _ => None,
    }
}

pub(super) fn failed(path: &Path, doing: &'static str, error: &tch::TchError) -> TeacherError {
    TeacherError::Runtime { path: path.to_owned(), doing, problem: libtorch::plain_message(error) }
}
