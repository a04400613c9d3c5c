//! Logits that stay on the device they were made on.

use std::sync::Arc;

use tch::Tensor;

use super::{KernelError, kernels_on, to_host};

/// A teacher's logits where libtorch has them, of whatever type of floats the model answers in: `[rows, classes]`.
#[derive(Debug)]
pub struct DeviceLogits(pub Tensor);

impl DeviceLogits {
    /// Waits until they are there: devices answer later than they are asked.
    pub fn wait(&self) {
        if self.0.numel() > 0 {
            let _one = self.0.double_value(&[0, 0]);
        }
    }

    /// Whether kernels of our own can be made where they are.
    ///
    /// # Errors
    /// As [`kernels_on`].
    pub fn kernels(&self) -> Result<(), Arc<KernelError>> {
        kernels_on(self.0.device())
    }

    /// The rows from `start` on, `len` of them, where they are.
    pub fn rows(&self, start: usize, len: usize) -> Self {
        Self(self.0.narrow(0, start as i64, len as i64))
    }

    /// Some of the rows, in the order of `rows`.
    pub fn some(&self, rows: &[usize]) -> Self {
        let rows: Vec<i64> = rows.iter().map(|row| *row as i64).collect();
        Self(self.0.index_select(0, &Tensor::from_slice(&rows).to_device(self.0.device())))
    }

    /// Single precision in memory of our own, row after row. Waits for the device.
    pub fn to_host(&self) -> Vec<f32> {
        to_host(&self.0)
    }
}
