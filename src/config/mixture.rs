//! What configs say of several teachers.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Fault;

/// How several teachers' targets become one.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct MixtureConfig {
    /// Each teacher's weight, in the order of `--cache`; only their ratios count. Default: the same for all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(skip_serializing_if = "super::outline::never")]
    pub weights: Vec<f64>,
    /// What of them is averaged.
    pub average: MixtureAverage,
}

/// What of several teachers is averaged at the temperature.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum MixtureAverage {
    /// Probabilities: what any of them thinks possible stays possible. `kl` is then the weighted mean of the divergences from each of
    /// them, which has the gradients of that from the average and is larger by how far they are apart.
    #[default]
    Probabilities,
    /// Logits: what any of them thinks impossible becomes so. Needs mass on every class, which is written out.
    Logits,
}

impl MixtureConfig {
    /// Faults within the section.
    pub(super) fn validate(&self) -> Vec<Fault> {
        let wrong = self.weights.iter().enumerate().filter(|(_, weight)| **weight <= 0.0);
        let fault = |(at, weight): (usize, &f64)| {
            let problem = format!("expected a number above 0, found {weight}; leave that --cache out");
            Fault::new(format!("loss.mixture.weights[{at}]"), problem)
        };
        wrong.map(fault).collect()
    }
}
