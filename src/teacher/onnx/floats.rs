//! A model's output where the runtime left it, in the model's own type.

use std::ops::Range;
use std::path::Path;

use half::{bf16, f16};
use ort::session::SessionOutputs;
use ort::value::{TensorElementType, ValueType};

use super::runtime::failed;
use crate::teacher::{OutputType, TeacherError};

/// A tensor of floats in the runtime's own buffer: nothing is copied before it is asked for.
#[derive(Clone, Copy)]
pub(super) enum Floats<'a> {
    F32(&'a [f32]),
    F16(&'a [f16]),
    Bf16(&'a [bf16]),
    F64(&'a [f64]),
}

impl<'a> Floats<'a> {
    /// Shape and values of the output `name`; `expected` is what an error says it should have been.
    pub(super) fn of(
        path: &Path,
        outputs: &'a SessionOutputs<'_>,
        name: &str,
        expected: &str,
    ) -> Result<(Vec<usize>, Self), TeacherError> {
        let refuse = |found: String| TeacherError::Output {
            path: path.to_owned(),
            expected: expected.to_owned(),
            found,
        };
        let value = outputs.get(name).ok_or_else(|| refuse(format!("no output {name:?}")))?;
        let ValueType::Tensor { ty, shape, .. } = value.dtype() else {
            return Err(refuse(value.dtype().to_string()));
        };
        let failed = |error: ort::Error| failed(path, "reading the output", &error);
        let floats = match ty {
            TensorElementType::Float32 => Self::F32(value.try_extract_tensor().map_err(failed)?.1),
            TensorElementType::Float16 => Self::F16(value.try_extract_tensor().map_err(failed)?.1),
            TensorElementType::Bfloat16 => Self::Bf16(value.try_extract_tensor().map_err(failed)?.1),
            TensorElementType::Float64 => Self::F64(value.try_extract_tensor().map_err(failed)?.1),
            other => return Err(refuse(format!("{other} {:?}", &shape[..]))),
        };
        Ok((shape.iter().map(|d| usize::try_from(*d).unwrap_or(0)).collect(), floats))
    }

    /// Adds a range of the values as single precision.
    pub(super) fn append(self, range: Range<usize>, into: &mut Vec<f32>) {
        match self {
            Self::F32(all) => into.extend_from_slice(&all[range]),
            Self::F16(all) => into.extend(all[range].iter().map(|v| v.to_f32())),
            Self::Bf16(all) => into.extend(all[range].iter().map(|v| v.to_f32())),
            Self::F64(all) => into.extend(all[range].iter().map(|v| *v as f32)),
        }
    }

    pub(super) fn dtype(self) -> OutputType {
        match self {
            Self::F32(_) => OutputType::F32,
            Self::F16(_) => OutputType::F16,
            Self::Bf16(_) => OutputType::Bf16,
            Self::F64(_) => OutputType::F64,
        }
    }

    /// The type in the runtime's words.
    pub(super) fn name(self) -> String {
        match self {
            Self::F32(_) => TensorElementType::Float32,
            Self::F16(_) => TensorElementType::Float16,
            Self::Bf16(_) => TensorElementType::Bfloat16,
            Self::F64(_) => TensorElementType::Float64,
        }
        .to_string()
    }
}
