//! Models of prepared samples.

use tch::{IValue, Tensor};

use super::module::{Module, output_type, values};
use crate::config::TeacherConfig;
use crate::teacher::{RawOutput, Teacher, TeacherError};

/// A module and the shape of its inputs.
pub(in super::super) struct TorchScriptTeacher {
    module: Module,
    runtime: String,
    /// `[batch, …]`, the batch filled in at each pass.
    shape: Vec<i64>,
}

impl TorchScriptTeacher {
    pub(in super::super) fn open(
        config: &TeacherConfig,
        input_shape: &[usize],
    ) -> Result<Self, TeacherError> {
        let mut shape = vec![0];
        shape.extend(input_shape.iter().map(|d| *d as i64));
        let module = Module::load(config, &config.path)?;
        Ok(Self { module, runtime: super::module::version(), shape })
    }
}

impl Teacher for TorchScriptTeacher {
    fn runtime(&self) -> &str {
        &self.runtime
    }

    fn forward(&mut self, inputs: &[f32], rows: usize) -> Result<RawOutput, TeacherError> {
        self.shape[0] = rows as i64;
        let input = Tensor::from_slice(inputs).view(self.shape.as_slice()).to_device(self.module.device);
        let IValue::Tensor(output) = self.module.forward(&[IValue::Tensor(input)])? else {
            return Err(self.refuse(rows, "no tensor".into()));
        };
        let found = || format!("{:?} {:?}", output.kind(), output.size());
        let Some(dtype) = output_type(output.kind()) else { return Err(self.refuse(rows, found())) };
        let classes = match output.size()[..] {
            [batch, classes] if batch == rows as i64 && classes >= 2 => classes as usize,
            _ => return Err(self.refuse(rows, found())),
        };
        Ok(RawOutput { rows, classes, values: values(&output), dtype })
    }
}

impl TorchScriptTeacher {
    fn refuse(&self, rows: usize, found: String) -> TeacherError {
        let expected = format!("float [batch = {rows}, classes]");
        TeacherError::Output { path: self.module.path.clone(), expected, found }
    }
}
