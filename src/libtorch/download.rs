//! Tensors on their way from a device.

use cudarc::driver::CudaEvent;
use tch::{Device, Kind, Tensor};

use super::kernels::event;
use super::memory::Numbers;

/// A tensor that is brought here while the device, and whoever asks things of it, goes on.
#[derive(Debug)]
pub(crate) struct Download {
    here: Tensor,
    /// When it is there: not when all else is done that was asked of the device meanwhile.
    ready: Option<CudaEvent>,
}

impl Download {
    /// Has `tensor`, as it will be once what was asked of its device is done, brought here as numbers of type `kind`.
    pub(crate) fn begin(tensor: &Tensor, kind: Kind) -> Self {
        let tensor = tensor.detach().to_kind(kind).contiguous();
        if tensor.device().is_cuda() {
            // Into memory that the system does not move, as libtorch takes for this.
            let here = tensor.to_device_(Device::Cpu, kind, true, false);
            if let Some(ready) = event(tensor.device()) {
                return Self { here, ready: Some(ready) };
            }
        }
        Self { here: tensor, ready: None }
    }

    /// The numbers, where they came to; waits until they are here. `T` is the type that they were asked for in.
    pub(crate) fn numbers<T: tch::kind::Element>(self) -> Numbers<T> {
        if let Some(ready) = &self.ready
            && let Err(error) = ready.synchronize()
        {
            panic!("waiting for the GPU: {error}");
        }
        Numbers::of(&self.here)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::libtorch::of_tests;

    #[test]
    fn what_is_asked_for_later_changes_nothing_of_what_comes() {
        let mut numbers = Tensor::arange(1 << 20, (Kind::Float, of_tests()));
        let first = Download::begin(&(&numbers * 2.0), Kind::Double);
        numbers *= 0.0;
        let second = Download::begin(&numbers, Kind::Int64);
        assert!(
            first.numbers::<f64>().as_slice().iter().enumerate().all(|(at, value)| *value == 2.0 * at as f64)
        );
        assert!(second.numbers::<i64>().as_slice().iter().all(|value| *value == 0));
    }
}
