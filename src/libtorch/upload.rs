//! Tensors on their way to a device.

use tch::{Device, Tensor};

/// `tensor`, which is of the CPU, on `device`.
///
/// A copy to a GPU is made from memory that the system does not move, and not waited for: what is asked of the device
/// later finds it there, and libtorch keeps the memory until it is.
pub(crate) fn upload(tensor: Tensor, device: Device) -> Tensor {
    match device {
        Device::Cpu => tensor,
        _ => {
            let kind = tensor.kind();
            // (`pin_memory` would say on standard error that it takes no device any more.)
            tensor.internal_pin_memory(device).to_device_(device, kind, true, false)
        }
    }
}
