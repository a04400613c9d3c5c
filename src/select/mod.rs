//! Picks the head and sums the tail of every position: from `[rows, classes]` logits to a
//! [`TargetBatch`](crate::target::TargetBatch).

mod bound;
mod keys;
pub mod reference;
mod sampler;
mod selector;
mod shorten;
mod sums;

pub use sampler::Sampler;
pub use selector::{NonFinite, Selector};
