//! What a student minimises, given its logits and a batch's targets: one file a loss.
//!
//! A loss sees tensors, never the cache. Cached targets are decoded on the device, at whatever
//! temperature, without gradients; only the student's logits carry them.

mod cross_entropy;
pub mod dense;
mod fused;
mod kl;
#[cfg(test)]
mod reference;
mod targets;
mod weighted;

pub use cross_entropy::cross_entropy;
pub use kl::KlDivergence;
pub use targets::{DecodedBatch, TargetSpace, TargetTensors};
pub use weighted::{LossTerms, Means, WeightedLoss};

use crate::target::{NotCovered, TailHandling};

/// Why a loss cannot be computed from a cache.
#[derive(Debug, thiserror::Error, PartialEq)]
#[non_exhaustive]
pub enum LossError {
    /// Targets are not known at the temperature.
    #[error("loss.temperature: {0}")]
    Temperature(#[from] NotCovered),
    /// Logits of targets that are draws.
    #[error("loss.weights.logit_mse compares logits, and this cache has draws instead (head.draws); use kl")]
    NoLogits,
    /// A term that needs mass on every class.
    #[error(
        "loss.weights: {what} needs a target with mass on every class, and with loss.tail = \"{tail}\" this cache's have none; use shape, prior or uniform, and no sampled targets"
    )]
    NoMass {
        /// The term.
        what: &'static str,
        /// The handling asked for.
        tail: TailHandling,
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
