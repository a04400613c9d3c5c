//! What a pass gave, where the runtime left it, in the model's own types.

use std::path::Path;
use std::sync::Arc;

use ort::session::SessionOutputs;
use ort::value::{DynValue, PrimitiveTensorElementType, TensorElementType, ValueType};

use super::runtime::failed;
use crate::floats::{Floats, Holder};
use crate::teacher::{OutputType, TeacherError};

/// The outputs of a pass by name.
pub(super) struct Answer(Vec<(String, Arc<DynValue>)>);

impl Answer {
    pub(super) fn of(outputs: SessionOutputs<'_>) -> Self {
        Self(outputs.into_iter().map(|(name, value)| (name.to_owned(), Arc::new(value))).collect())
    }

    /// Shape and numbers of the output `name`; `expected` is what an error says it should have been.
    pub(super) fn floats(
        &self,
        path: &Path,
        name: &str,
        expected: &str,
    ) -> Result<(Vec<usize>, Tensor), TeacherError> {
        let refuse = |found: String| TeacherError::Output {
            path: path.to_owned(),
            expected: expected.to_owned(),
            found,
        };
        let value = self.0.iter().find(|(own, _)| own == name).map(|(_, value)| value);
        let value = value.ok_or_else(|| refuse(format!("no output {name:?}")))?;
        let ValueType::Tensor { ty, shape, .. } = value.dtype() else {
            return Err(refuse(value.dtype().to_string()));
        };
        let (dtype, readable) = match ty {
            TensorElementType::Float32 => (OutputType::F32, numbers::<f32>(value).map(drop)),
            TensorElementType::Float16 => (OutputType::F16, numbers::<half::f16>(value).map(drop)),
            TensorElementType::Bfloat16 => (OutputType::Bf16, numbers::<half::bf16>(value).map(drop)),
            TensorElementType::Float64 => (OutputType::F64, numbers::<f64>(value).map(drop)),
            other => return Err(refuse(format!("{other} {:?}", &shape[..]))),
        };
        readable.map_err(|error| failed(path, "reading the output", &error))?;
        let shape = shape.iter().map(|d| usize::try_from(*d).unwrap_or(0)).collect();
        Ok((shape, Tensor { value: value.clone(), dtype }))
    }
}

/// Floats in the runtime's own memory, which stays for as long as this is there.
#[derive(Debug)]
pub(super) struct Tensor {
    value: Arc<DynValue>,
    dtype: OutputType,
}

impl Tensor {
    pub(super) fn dtype(&self) -> OutputType {
        self.dtype
    }

    /// The type in the runtime's words.
    pub(super) fn name(&self) -> String {
        match self.dtype {
            OutputType::F32 => TensorElementType::Float32,
            OutputType::F16 => TensorElementType::Float16,
            OutputType::Bf16 => TensorElementType::Bfloat16,
            OutputType::F64 => TensorElementType::Float64,
        }
        .to_string()
    }
}

impl Holder for Tensor {
    fn floats(&self) -> Floats<'_> {
        // They were read like that when this was made.
        match self.dtype {
            OutputType::F32 => Floats::F32(numbers(&self.value).unwrap_or_default()),
            OutputType::F16 => Floats::F16(numbers(&self.value).unwrap_or_default()),
            OutputType::Bf16 => Floats::Bf16(numbers(&self.value).unwrap_or_default()),
            OutputType::F64 => Floats::F64(numbers(&self.value).unwrap_or_default()),
        }
    }
}

fn numbers<T: PrimitiveTensorElementType>(value: &DynValue) -> ort::Result<&[T]> {
    value.try_extract_tensor().map(|(_, all)| all)
}
