//! Picks the head and sums the tail of every position: from `[rows, classes]` logits to a
//! [`TargetBatch`](crate::target::TargetBatch).

mod bound;
mod keys;
#[cfg(feature = "torch")]
mod on_device;
pub mod reference;
mod sampler;
mod selector;
mod shorten;
mod sums;

#[cfg(feature = "torch")]
pub use on_device::Selected;
pub use sampler::Sampler;
pub use selector::{NonFinite, Selector};
