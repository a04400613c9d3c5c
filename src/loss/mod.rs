//! What a student minimises, given its logits and a batch's targets: one file a loss.
//!
//! A loss sees tensors, never the cache. Cached targets are decoded on the device, at whatever
//! temperature, without gradients; only the student's logits carry them. Temperature and weights may change from step to
//! step, as a function of the step alone ([`LossSchedule`]).

mod cross_entropy;
pub mod dense;
mod features;
mod fused;
mod kernel;
mod kl;
mod mixture;
mod ranking;
#[cfg(test)]
mod reference;
mod returned;
mod schedule;
mod targets;
mod terms;
mod weighted;

pub use cross_entropy::cross_entropy;
pub use features::{FeatureLoss, feature_term};
pub use kl::KlDivergence;
pub use ranking::ranking;
pub use returned::ReturnedLoss;
pub use schedule::{LossSchedule, LossValues};
pub use targets::{TargetSpace, TargetTensors};
pub use terms::{LossTerms, Means};
pub use weighted::WeightedLoss;

use crate::target::{NotCovered, TailHandling, TemperatureError};

/// Why a loss cannot be computed from a cache.
#[derive(Debug, thiserror::Error, PartialEq)]
#[non_exhaustive]
pub enum LossError {
    /// Targets are not known at the temperature.
    #[error("loss.temperature: {0}")]
    Temperature(#[from] NotCovered),
    /// A temperature that is none.
    #[error("loss.temperature: {0}")]
    NoTemperature(#[from] TemperatureError),
    /// The label's probability at T = 1 is not known.
    #[error("loss.weights.nkd needs the label's probability at T = 1: {0}")]
    Label(NotCovered),
    /// Samples of a batch that is not there all at once.
    #[error(
        "loss.dist.gamma = {gamma} relates the samples of a batch, and a language model's positions are taken in parts; \
         set loss.dist.gamma = 0, which leaves the relation between classes"
    )]
    InParts {
        /// Its weight.
        gamma: f64,
    },
    /// Logits of targets that are draws.
    #[error("loss.weights.{term} compares logits, and this cache has draws instead (head.draws); use kl")]
    NoLogits {
        /// The term.
        term: &'static str,
    },
    /// A term that needs mass on every class.
    #[error(
        "{what} needs a target with mass on every class, and with loss.tail = \"{tail}\" this cache's have none; use shape, prior or uniform, and no sampled targets"
    )]
    NoMass {
        /// The term.
        what: &'static str,
        /// The handling asked for.
        tail: TailHandling,
    },
    /// Weights of other teachers than there are.
    #[error(
        "loss.mixture.weights: expected a weight for each --cache, {teachers} of them, found {given}; leave the key out \
         for the same weight each"
    )]
    Teachers {
        /// Weights.
        given: usize,
        /// Caches.
        teachers: usize,
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
