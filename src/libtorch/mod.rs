//! What teachers and training share of libtorch: devices, its messages in a line, and products in half types.

mod autocast;
mod device;
mod message;

pub use autocast::{Autocast, AutocastError};
pub use device::{DeviceError, resolve};
pub use message::plain_message;

/// The libtorch that the bindings are made for.
pub const VERSION: &str = "2.11.0";
