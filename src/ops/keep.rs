//! What is kept of a position's logits: a head and a tail curve, or draws.

use super::source::SourceError;
use crate::cache::HeadLayout;
use crate::config::HeadConfig;
use crate::floats::Floats;
use crate::ids::Position;
#[cfg(feature = "torch")]
use crate::libtorch::DeviceLogits;
#[cfg(feature = "torch")]
use crate::select::Selected;
use crate::select::{NonFinite, Sampler, Selector};
use crate::target::{TailNodes, TargetBatch};

/// Turns logits into targets.
pub(super) enum Keep {
    /// The largest logits, and the curve of the others.
    Selected(Selector),
    /// Classes drawn from the softmax, and how often.
    Sampled(Sampler),
}

impl Keep {
    /// What `head` says of teachers of `classes` classes; draws are made with `seed`.
    pub(super) fn new(
        head: &HeadLayout,
        classes: usize,
        nodes: &TailNodes,
        seed: u64,
    ) -> Result<Self, SourceError> {
        if let Some(draws) = head.draws() {
            return Ok(Self::Sampled(Sampler::new(classes, draws, seed)));
        }
        let selector = Selector::new(classes, head.k, nodes);
        selector
            .and_then(|selector| selector.with_mass(head.mass))
            .map(Self::Selected)
            .ok_or(SourceError::Head { k: head.k, classes })
    }

    /// The targets of `positions`.
    ///
    /// # Shapes
    /// `logits`: `[positions, classes]`, raw.
    ///
    /// # Errors
    /// [`NonFinite`]: the first logit that is NaN or infinite.
    pub(super) fn targets<'a>(
        &self,
        logits: impl Into<Floats<'a>>,
        positions: &[Position],
    ) -> Result<TargetBatch, NonFinite> {
        match self {
            Self::Selected(selector) => selector.select(logits),
            Self::Sampled(sampler) => sampler.draw(logits, positions),
        }
    }

    /// The targets of logits on a device; `None` where they are drawn.
    ///
    /// # Shapes
    /// As in [`Self::targets`].
    ///
    /// # Errors
    /// As [`Self::targets`].
    #[cfg(feature = "torch")]
    pub(super) fn selected_on_device(&self, logits: &DeviceLogits) -> Option<Result<Selected, NonFinite>> {
        match self {
            Self::Selected(selector) => Some(selector.select_on_device(logits.tensor())),
            Self::Sampled(_) => None,
        }
    }
}

/// The heads of a cache that is built as `config` says over a teacher of `classes` classes.
pub(super) fn layout(config: &HeadConfig, classes: usize) -> HeadLayout {
    HeadLayout {
        k: config.largest(classes),
        mass: config.mass,
        draws: config.draws,
        temperature: config.draws.map(|_| config.temperature.unwrap_or(1.0)),
    }
}

/// The config of the heads of a cache that is there.
pub(super) fn config(layout: &HeadLayout) -> HeadConfig {
    let HeadLayout { k, mass, draws, temperature } = *layout;
    let of_mass = mass.is_some();
    let fixed = !layout.is_variable();
    HeadConfig { k: fixed.then_some(k), mass, max_k: of_mass.then_some(k), draws, temperature }
}
