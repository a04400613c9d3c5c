//! Logits that stay on the device they were made on.

use std::any::Any;
use std::sync::Arc;

use tch::Tensor;
#[cfg(any(test, feature = "onnx"))]
use tch::{Device, kind::Element};

use super::{KernelError, kernels_on, to_host};

/// Whoever has memory that logits are in, for as long as they are read there.
pub(crate) type Owner = Arc<dyn Any + Send + Sync>;

/// A teacher's logits on a device that libtorch reads, of whatever type of floats the model answers in: `[rows, classes]`.
#[derive(Debug)]
pub struct DeviceLogits {
    tensor: Tensor,
    /// Of memory that is not libtorch's.
    owner: Option<Owner>,
}

impl DeviceLogits {
    /// Logits that libtorch has.
    pub fn new(tensor: Tensor) -> Self {
        Self { tensor, owner: None }
    }

    /// Logits `[rows, classes]` from `start` on in the memory of the GPU `gpu`, or of the CPU without one, of rows that lie `stride`
    /// numbers apart.
    ///
    /// # Safety
    /// There are such, nobody writes there, and they stay for as long as there is the `owner`.
    #[cfg(any(test, feature = "onnx"))]
    #[allow(unsafe_code)]
    pub(crate) unsafe fn in_memory_of<T: Element>(
        owner: Owner,
        start: *const T,
        (rows, classes): (usize, usize),
        stride: usize,
        gpu: Option<usize>,
    ) -> Self {
        let (size, strides) = ([rows as i64, classes as i64], [stride as i64, 1]);
        let device = gpu.map_or(Device::Cpu, Device::Cuda);
        // SAFETY: the caller's.
        let tensor = unsafe { Tensor::from_blob(start.cast(), &size, &strides, T::KIND, device) };
        Self { tensor, owner: Some(owner) }
    }

    /// Where they are. What is made of them asks for nothing later than these are let go.
    pub fn tensor(&self) -> &Tensor {
        &self.tensor
    }

    /// Waits until they are there: devices answer later than they are asked.
    pub fn wait(&self) {
        if self.tensor.numel() > 0 {
            let _one = self.tensor.double_value(&[0, 0]);
        }
    }

    /// Whether kernels of our own can be made where they are.
    ///
    /// # Errors
    /// As [`kernels_on`].
    pub fn kernels(&self) -> Result<(), Arc<KernelError>> {
        kernels_on(self.tensor.device())
    }

    /// The rows from `start` on, `len` of them, where they are.
    pub fn rows(&self, start: usize, len: usize) -> Self {
        let tensor = self.tensor.narrow(0, start as i64, len as i64);
        Self { tensor, owner: self.owner.clone() }
    }

    /// Those of several of one owner one behind the other, on the device that they are on.
    ///
    /// # Panics
    /// Where there are none.
    #[cfg(any(test, feature = "onnx"))]
    pub(crate) fn joined(all: &[Self]) -> Self {
        let tensors: Vec<&Tensor> = all.iter().map(Self::tensor).collect();
        // Copied later than asked for.
        Self { tensor: Tensor::cat(&tensors, 0), owner: all[0].owner.clone() }
    }

    /// Some of the rows in memory of our own, single precision, in the order of `rows`. Waits for the device.
    pub fn some(&self, rows: &[usize]) -> Vec<f32> {
        let rows: Vec<i64> = rows.iter().map(|row| *row as i64).collect();
        to_host(&self.tensor.index_select(0, &Tensor::from_slice(&rows).to_device(self.tensor.device())))
    }

    /// Single precision in memory of our own, row after row. Waits for the device.
    pub fn to_host(&self) -> Vec<f32> {
        to_host(&self.tensor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_in_memory_of_others_is_read_there_and_let_go_with_the_last_of_it() {
        let numbers: Arc<Vec<f32>> = Arc::new((0..12).map(|at| at as f32).collect());
        // SAFETY: three rows of two, the last ends within the twelve numbers, which nobody changes.
        #[allow(unsafe_code)]
        let logits =
            unsafe { DeviceLogits::in_memory_of(numbers.clone(), numbers[1..].as_ptr(), (3, 2), 4, None) };
        assert_eq!(logits.to_host(), [1.0, 2.0, 5.0, 6.0, 9.0, 10.0]);
        let last = logits.rows(1, 2);
        drop(logits);
        assert_eq!(Arc::strong_count(&numbers), 2);
        let joined = DeviceLogits::joined(&[last.rows(1, 1), last.rows(0, 1)]);
        assert_eq!(joined.to_host(), [9.0, 10.0, 5.0, 6.0]);
        drop(joined);
        assert_eq!(last.some(&[1, 1, 0]), [9.0, 10.0, 9.0, 10.0, 5.0, 6.0]);
        drop(last);
        assert_eq!(Arc::strong_count(&numbers), 1);
    }
}
