//! What a student minimises, given its logits and a batch's targets: one file a loss.
//!
//! A loss sees tensors, never the cache. Cached targets are decoded on the device, at whatever
//! temperature, without gradients; only the student's logits carry them.

mod cross_entropy;
mod kl;
#[cfg(test)]
mod reference;
mod targets;
mod weighted;

pub use cross_entropy::cross_entropy;
pub use kl::KlDivergence;
pub use targets::{DecodedBatch, TargetSpace, TargetTensors};
pub use weighted::{LossTerms, WeightedLoss};

use crate::target::TailHandling;

/// Why a loss cannot be computed from a cache.
#[derive(Debug, thiserror::Error, PartialEq)]
#[non_exhaustive]
pub enum LossError {
    /// Not covered by the nodes.
    #[error(
        "loss.temperature = {temperature} is below {lowest}, the lowest that the cache's tail nodes cover; raise it, or build a cache with tail.nodes up to {beta}"
    )]
    Temperature {
        /// Asked for.
        temperature: f64,
        /// The lowest covered.
        lowest: f64,
        /// The node that would cover it.
        beta: f64,
    },
    /// A tail model is asked for and there is none.
    #[error(
        "loss.tail = \"{tail}\" needs the cache's tail model, and it has none; use loss.tail = \"uniform\""
    )]
    NoTailModel {
        /// The handling asked for.
        tail: TailHandling,
    },
}
