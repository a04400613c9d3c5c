//! What teachers and training share of libtorch: devices and the way to them, its messages in a line, products in half
//! types, memory formats, the same bits from the same numbers, its memory, the way back from gradients that are known, and kernels of our
//! own beside its operators.

mod autocast;
mod backward;
mod channels_last;
mod deterministic;
mod device;
mod download;
mod kernels;
mod logits;
mod memory;
mod message;
mod upload;

pub use autocast::{Autocast, AutocastError};
pub(crate) use backward::backward;
pub(crate) use channels_last::channels_last;
pub use deterministic::{DeterministicError, make_deterministic};
#[cfg(feature = "onnx")]
pub(crate) use device::gpu;
#[cfg(test)]
pub(crate) use device::of_tests;
pub use device::{DeviceError, resolve};
pub(crate) use download::Download;
pub(crate) use kernels::{Argument, Reads, SHARED, Source};
pub use kernels::{KernelError, kernels_on};
pub use logits::DeviceLogits;
pub(crate) use memory::{Floats, filled, numbers, to_host};
pub(crate) use message::other_than_torchscript;
pub use message::{panicked, plain_message};
/// Numbers that tensors are made of.
#[cfg(feature = "onnx")]
pub(crate) use tch::kind::Element;
pub(crate) use upload::upload;

/// The libtorch that the bindings are made for.
pub const VERSION: &str = "2.11.0";
