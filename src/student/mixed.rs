//! A student whose products are in a half type: its variables, features, layers and logits stay single precision.

use std::path::Path;

use tch::nn::VarStore;
use tch::{Kind, Tensor};

use super::{Answer, Input, Model, State, Student, StudentError, Wanted};
use crate::config::Precision;
use crate::libtorch::Autocast;

struct Mixed {
    student: Box<dyn Student>,
    autocast: Autocast,
}

/// The same student with matrices and kernels multiplied in `precision`, forward and backward; it is exported as one
/// of single precision, because whoever loads it decides what it is computed in.
///
/// # Errors
/// [`StudentError::Precision`]: the libtorch that is loaded cannot do it.
pub fn in_precision(
    student: Box<dyn Student>,
    precision: Precision,
) -> Result<Box<dyn Student>, StudentError> {
    if precision == Precision::F32 {
        return Ok(student);
    }
    let autocast = Autocast::new(student.variables().device(), precision).map_err(StudentError::Precision)?;
    Ok(Box::new(Mixed { student, autocast }))
}

impl Model for Mixed {
    fn features(&self, input: &Input) -> Result<Tensor, StudentError> {
        Ok(self.autocast.run(|| self.student.features(input))?.to_kind(Kind::Float))
    }

    fn answer(&self, input: &Input, wanted: &Wanted) -> Result<Answer, StudentError> {
        let Answer { features, layers, losses } = self.autocast.run(|| self.student.answer(input, wanted))?;
        let float = |tensors: Vec<Tensor>| tensors.iter().map(|one| one.to_kind(Kind::Float)).collect();
        Ok(Answer { features: features.to_kind(Kind::Float), layers: float(layers), losses: float(losses) })
    }

    fn head(&self, features: &Tensor) -> Tensor {
        self.autocast.run(|| self.student.head(features)).to_kind(Kind::Float)
    }

    fn has_head(&self) -> bool {
        self.student.has_head()
    }
}

impl Student for Mixed {
    fn set_training(&mut self, training: bool) {
        self.student.set_training(training);
    }

    fn variables(&self) -> &VarStore {
        self.student.variables()
    }

    fn variables_mut(&mut self) -> &mut VarStore {
        self.student.variables_mut()
    }

    fn export(&mut self, path: &Path) -> Result<(), StudentError> {
        self.student.export(path)
    }

    fn state(&self) -> State {
        self.student.state()
    }
}
