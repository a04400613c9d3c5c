//! Picks the head and sums the tail of every position: from `[rows, classes]` logits to a
//! [`TargetBatch`](crate::target::TargetBatch).

mod bound;
mod exp;
mod keys;
pub(crate) mod lanes;
pub mod reference;
mod sampler;
mod selector;
mod shorten;
mod sums;

#[cfg(feature = "torch")]
pub(crate) use exp::Exp2;
pub(crate) use exp::exp_non_positive;
pub use sampler::Sampler;
pub use selector::{NonFinite, Selector};
