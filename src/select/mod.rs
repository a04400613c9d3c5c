//! Picks the head and sums the tail of every position: from `[rows, classes]` logits to a
//! [`TargetBatch`](crate::target::TargetBatch).

mod exp;
mod head;
pub(crate) mod lanes;
mod powers;
pub mod reference;
mod sampler;
mod selector;
mod shorten;

pub(crate) use exp::exp_non_positive;
pub(crate) use powers::{BLOCK as POWERS_BLOCK, NodePowers};
pub use sampler::Sampler;
pub use selector::{NonFinite, Selector};
