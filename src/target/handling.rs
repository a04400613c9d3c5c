//! What is assumed of the classes outside the head.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{TailNodes, Temperature};

/// How the mass outside the head is spread over the other classes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TailHandling {
    /// The tail's exact mass at `T`, spread as the cache's tail shape says for this very position.
    /// In a cache of rank 0, which keeps nothing of a position's tail but its mass, the same as
    /// [`Self::Prior`].
    #[default]
    Shape,
    /// The tail's exact mass at `T`, spread as the cache's calibrated prior says: the same for every
    /// position.
    Prior,
    /// The tail's exact mass at `T`, spread evenly.
    Uniform,
    /// One further outcome (ghost token) that holds the mass left over at T = 1 and is tempered
    /// like a class, `m₁^(1/T)`: what top-k caches without a curve compute. Right at T = 1 only.
    Bucket,
    /// The head alone, renormalised to 1; the other classes get no mass.
    Renormalize,
}

impl TailHandling {
    /// All of them, best first.
    pub const ALL: [Self; 5] = [Self::Shape, Self::Prior, Self::Uniform, Self::Bucket, Self::Renormalize];

    /// Whether the tail is spread over classes with its mass at `T` read from the curve.
    pub fn reads_curve(self) -> bool {
        matches!(self, Self::Shape | Self::Prior | Self::Uniform)
    }

    /// With which weights the logarithm of the tail's sum at `temperature` is made of `log(V − k)`, the first, and of a
    /// curve at `nodes`, the others; `None` where the tail has no mass. It is linear in these, so that they are the same
    /// for all positions.
    pub fn curve_weights(self, nodes: &TailNodes, temperature: Temperature) -> Option<Vec<f64>> {
        match self {
            Self::Shape | Self::Prior | Self::Uniform => Some(nodes.weights(temperature)),
            // The mass left over at T = 1, tempered like a class.
            Self::Bucket => {
                let at_one = nodes.weights(Temperature::ONE);
                Some(at_one.iter().map(|weight| weight * temperature.beta()).collect())
            }
            Self::Renormalize => None,
        }
    }

    /// The word used in configs and reports.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Shape => "shape",
            Self::Prior => "prior",
            Self::Uniform => "uniform",
            Self::Bucket => "bucket",
            Self::Renormalize => "renormalize",
        }
    }
}

impl fmt::Display for TailHandling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
