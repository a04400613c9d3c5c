//! Logits that stay on the device they were made on.

use tch::Tensor;

use super::to_host;

/// A teacher's logits where libtorch has them, of whatever type of floats the model answers in: `[rows, classes]`.
#[derive(Debug)]
pub struct DeviceLogits(pub Tensor);

impl DeviceLogits {
    /// Waits until they are there: devices answer later than they are asked.
    pub fn wait(&self) {
        if self.0.numel() > 0 {
            let _one = self.0.reshape([-1]).double_value(&[0]);
        }
    }

    /// Single precision in memory of our own, row after row. Waits for the device.
    pub fn to_host(&self) -> Vec<f32> {
        to_host(&self.0)
    }
}
