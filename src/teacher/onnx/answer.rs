//! What a pass gave, where the runtime left it, in the model's own types.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use ort::session::SessionOutputs;
use ort::value::{DynTensorRef, DynValue, PrimitiveTensorElementType, TensorElementType, ValueType};

use super::runtime::failed;
use crate::floats::{FloatBuf, Floats, Holder};
#[cfg(feature = "torch")]
use crate::libtorch::{DeviceLogits, Element};
use crate::teacher::{OutputType, TeacherError, Values};

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
        let dtype = match ty {
            TensorElementType::Float32 => OutputType::F32,
            TensorElementType::Float16 => OutputType::F16,
            TensorElementType::Bfloat16 => OutputType::Bf16,
            TensorElementType::Float64 => OutputType::F64,
            other => return Err(refuse(format!("{other} {:?}", &shape[..]))),
        };
        let shape = shape.iter().map(|d| usize::try_from(*d).unwrap_or(0)).collect();
        let tensor = Tensor { value: value.clone(), dtype };
        tensor.check().map_err(|error| failed(path, "reading the output", &error))?;
        Ok((shape, tensor))
    }
}

/// Floats in the runtime's own memory, which stays for as long as this is there.
#[derive(Debug)]
pub(super) struct Tensor {
    value: Arc<DynValue>,
    dtype: OutputType,
}

impl Tensor {
    /// Refuses what could be read neither here nor on a device.
    fn check(&self) -> ort::Result<()> {
        match self.dtype {
            _ if self.gpu().is_some() => Ok(()),
            OutputType::F32 => numbers::<f32>(&self.value).map(drop),
            OutputType::F16 => numbers::<half::f16>(&self.value).map(drop),
            OutputType::Bf16 => numbers::<half::bf16>(&self.value).map(drop),
            OutputType::F64 => numbers::<f64>(&self.value).map(drop),
        }
    }

    /// As what is known to be a tensor.
    fn tensor(&self) -> Option<DynTensorRef<'_>> {
        self.value.view().downcast().ok()
    }

    /// The GPU in whose memory it is.
    fn gpu(&self) -> Option<usize> {
        let tensor = self.tensor()?;
        let place = tensor.memory_info();
        if place.is_cpu_accessible() { None } else { usize::try_from(place.device_id()).ok() }
    }

    /// The first `classes` of the rows in `ranges`, of rows of `width`: where they are, if they lie there one behind the other.
    ///
    /// # Panics
    /// When it has no such.
    pub(super) fn rows(self: &Arc<Self>, width: usize, ranges: &[Range<usize>], classes: usize) -> Values {
        #[cfg(feature = "torch")]
        if let Some(gpu) = self.gpu() {
            let all = match self.dtype {
                OutputType::F32 => self.on_gpu::<f32>(gpu, width, classes),
                OutputType::F16 => self.on_gpu::<half::f16>(gpu, width, classes),
                OutputType::Bf16 => self.on_gpu::<half::bf16>(gpu, width, classes),
                OutputType::F64 => self.on_gpu::<f64>(gpu, width, classes),
            };
            let part = |range: &Range<usize>| all.rows(range.start, range.len());
            return Values::Device(match ranges {
                [range] => part(range),
                _ => DeviceLogits::joined(&ranges.iter().map(part).collect::<Vec<_>>()),
            });
        }
        match ranges {
            [range] if classes == width => {
                FloatBuf::held(self.clone(), range.start * width..range.end * width).into()
            }
            _ => {
                let floats = self.floats();
                let rows = ranges.iter().map(Range::len).sum::<usize>();
                let mut values = Vec::with_capacity(rows * classes);
                for row in ranges.iter().flat_map(Range::clone) {
                    floats.part(row * width..row * width + classes).append_to(&mut values);
                }
                values.into()
            }
        }
    }

    /// The first `classes` of all its rows of `width` numbers that are `T`, in the memory of the GPU `gpu`.
    #[cfg(feature = "torch")]
    fn on_gpu<T: Element>(self: &Arc<Self>, gpu: usize, width: usize, classes: usize) -> DeviceLogits {
        let (start, there) = self
            .tensor()
            .map_or((std::ptr::null(), 0), |tensor| (tensor.data_ptr(), tensor.shape().num_elements()));
        assert!(classes <= width, "no such classes");
        // SAFETY: of a tensor of numbers of this type the runtime says where they begin and how many there are, and whole rows of
        // them are looked at; what a pass gave is written by nobody, and there for as long as the tensor is.
        #[allow(unsafe_code)]
        unsafe {
            DeviceLogits::in_memory_of(
                self.clone(),
                start.cast::<T>(),
                (there / width, classes),
                width,
                Some(gpu),
            )
        }
    }

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
