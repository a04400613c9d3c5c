//! TorchScript modules through libtorch.

use std::path::{Path, PathBuf};

use tch::{CModule, Device, IValue, Kind, Tensor};

use super::{OutputType, RawOutput, Teacher, TeacherError};
use crate::config::TeacherConfig;
use crate::libtorch;

/// A module in evaluation mode.
pub(super) struct TorchScriptTeacher {
    module: CModule,
    path: PathBuf,
    runtime: String,
    device: Device,
    /// `[batch, …]`, the batch filled in at each pass.
    shape: Vec<i64>,
}

impl TorchScriptTeacher {
    pub(super) fn open(config: &TeacherConfig, input_shape: &[usize]) -> Result<Self, TeacherError> {
        let device = libtorch::resolve(&config.device).map_err(|error| TeacherError::Device {
            device: config.device.clone(),
            problem: error.to_string(),
        })?;
        if let Some(threads) = config.threads {
            tch::set_num_threads(i32::try_from(threads).unwrap_or(i32::MAX));
        }
        let mut module = CModule::load_on_device(&config.path, device)
            .map_err(|error| failed(&config.path, "loading the model", &error))?;
        module.set_eval();
        let mut shape = vec![0];
        shape.extend(input_shape.iter().map(|d| *d as i64));
        let runtime = format!("libtorch {}", libtorch::VERSION);
        Ok(Self { module, path: config.path.clone(), runtime, device, shape })
    }
}

impl Teacher for TorchScriptTeacher {
    fn runtime(&self) -> &str {
        &self.runtime
    }

    fn forward(&mut self, inputs: &[f32], rows: usize) -> Result<RawOutput, TeacherError> {
        self.shape[0] = rows as i64;
        let input = Tensor::from_slice(inputs).view(self.shape.as_slice()).to_device(self.device);
        let result = tch::no_grad(|| self.module.forward_is(&[IValue::Tensor(input)]))
            .map_err(|error| failed(&self.path, "the forward pass", &error))?;
        let IValue::Tensor(output) = result else {
            return Err(self.refuse(rows, "no tensor".into()));
        };
        let kind = output.kind();
        let dtype = match kind {
            Kind::Float => OutputType::F32,
            Kind::Half => OutputType::F16,
            Kind::BFloat16 => OutputType::Bf16,
            Kind::Double => OutputType::F64,
            _ => return Err(self.refuse(rows, format!("{kind:?} {:?}", output.size()))),
        };
        let classes = match output.size()[..] {
            [batch, classes] if batch == rows as i64 && classes >= 2 => classes as usize,
            _ => return Err(self.refuse(rows, format!("{kind:?} {:?}", output.size()))),
        };
        let mut values = vec![0.0f32; rows * classes];
        output
            .to_device(Device::Cpu)
            .to_kind(Kind::Float)
            .contiguous()
            .copy_data(&mut values, rows * classes);
        Ok(RawOutput { rows, classes, values, dtype })
    }
}

impl TorchScriptTeacher {
    fn refuse(&self, rows: usize, found: String) -> TeacherError {
        let expected = format!("float [batch = {rows}, classes]");
        TeacherError::Output { path: self.path.clone(), expected, found }
    }
}

fn failed(path: &Path, doing: &'static str, error: &tch::TchError) -> TeacherError {
    TeacherError::Runtime { path: path.to_owned(), doing, problem: libtorch::plain_message(error) }
}
