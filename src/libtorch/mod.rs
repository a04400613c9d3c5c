//! What teachers and training share of libtorch: devices, and its messages in a line.

mod device;
mod message;

pub use device::{DeviceError, resolve};
pub use message::plain_message;

/// The libtorch that the bindings are made for.
pub const VERSION: &str = "2.11.0";
