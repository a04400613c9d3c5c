//! What teachers and training share of libtorch: devices, its messages in a line, products in half types, and its memory.

mod autocast;
mod device;
mod memory;
mod message;

pub use autocast::{Autocast, AutocastError};
#[cfg(test)]
pub(crate) use device::of_tests;
pub use device::{DeviceError, resolve};
pub(crate) use memory::{Floats, filled};
pub use message::plain_message;

/// The libtorch that the bindings are made for.
pub const VERSION: &str = "2.11.0";
