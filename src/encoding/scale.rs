//! What the whole numbers of a head stand for: steps of logits, or draws.

use super::{QuantisedBatch, Steps};
use crate::target::{Draws, TargetBatch, UnsoundDraws};

/// Between logits and the whole numbers that are kept of them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scale {
    /// Logits and curves in steps; nothing is lost but what rounding loses.
    Steps(Steps),
    /// Numbers of draws; there are no curves, and nothing is lost.
    Draws(Draws),
}

impl Scale {
    /// A batch as whole numbers, of logits relative to the largest.
    pub fn quantise(&self, batch: &TargetBatch) -> QuantisedBatch {
        match self {
            Self::Steps(steps) => steps.quantise(batch),
            Self::Draws(draws) => {
                let mut values = vec![0; batch.values.len()];
                for row in 0..batch.rows {
                    let counts = draws.counts(batch.row(row).1);
                    let first = counts.clone().next().unwrap_or(0);
                    let slots = values[row * batch.k..].iter_mut();
                    slots.zip(counts).for_each(|(value, count)| *value = first.saturating_sub(count));
                }
                QuantisedBatch {
                    rows: batch.rows,
                    k: batch.k,
                    nodes: 0,
                    rank: 0,
                    counts: batch.counts.clone(),
                    ids: batch.ids.clone(),
                    values,
                    curve: Vec::new(),
                    codes: Vec::new(),
                }
            }
        }
    }

    /// Writes the logits of a head whose whole numbers lie so far below the first.
    ///
    /// # Errors
    /// [`UnsoundDraws`]: no numbers of draws; steps are all sound.
    pub fn logits(&self, below: &[u16], out: &mut [f32]) -> Result<(), UnsoundDraws> {
        match self {
            Self::Steps(steps) => {
                out.iter_mut().zip(below).for_each(|(out, below)| *out = steps.value_of(*below));
                Ok(())
            }
            Self::Draws(draws) => draws.logits(draws.counts_below(below)?, out),
        }
    }

    /// The point of a tail curve of so many steps; 0 where there are no curves.
    pub fn curve_of(&self, steps: i16) -> f32 {
        match self {
            Self::Steps(scale) => scale.curve_of(steps),
            Self::Draws(_) => 0.0,
        }
    }

    /// The step of tail curves, in nats; 1 where there are none.
    pub fn curve_step(&self) -> f64 {
        match self {
            Self::Steps(steps) => steps.curve(),
            Self::Draws(_) => 1.0,
        }
    }
}

impl From<Steps> for Scale {
    fn from(steps: Steps) -> Self {
        Self::Steps(steps)
    }
}
