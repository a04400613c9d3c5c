//! What a run is measured on, and which of its students stay.

use std::collections::BTreeMap;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{DatasetConfig, Fault};

/// One named validation set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ValidationConfig {
    /// Its samples; those of the cache where that keeps tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dataset: Option<DatasetConfig>,
    /// A cache over the same samples, for KL and agreement with the teacher.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache: Option<PathBuf>,
    /// Named measures that programs compute from the student's predictions of the set
    /// (`schemas/metric-command.md`).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(skip_serializing_if = "super::outline::never")]
    pub metrics: BTreeMap<String, MetricConfig>,
}

impl ValidationConfig {
    /// Everything that is wrong with the set `name`.
    pub(super) fn validate(&self, name: &str) -> Vec<Fault> {
        let key = format!("validation.{name}");
        let dataset = format!("{key}.dataset");
        let mut faults: Vec<Fault> =
            self.dataset.iter().flat_map(|dataset_config| dataset_config.validate(&dataset)).collect();
        if self.dataset.is_none() && self.cache.is_none() {
            let problem = "expected dataset, its samples, or cache, one of tokens; found neither";
            faults.push(Fault::new(key.clone(), problem));
        }
        for name in self.metrics.keys().filter(|name| name.is_empty() || name.contains('.')) {
            let problem =
                format!("expected a name without dots, which train.select_by can give; found {name:?}");
            faults.push(Fault::new(format!("{key}.metrics"), problem));
        }
        faults
    }
}

/// Seconds that a metric's command may take unless the config says otherwise.
pub const DEFAULT_METRIC_TIMEOUT: f64 = 600.0;

/// A measure that a program computes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MetricConfig {
    /// The program and its arguments, found as a shell would; a Parquet file of the student's predictions is added
    /// as the last argument. The last line of its standard output is the value.
    #[schemars(length(min = 1))]
    pub command: Vec<String>,
    /// Which of two values is the better one.
    pub better: Better,
    /// Seconds it may take; then it is killed.
    #[serde(default = "default_timeout")]
    #[schemars(extend("exclusiveMinimum" = 0.0))]
    pub timeout: f64,
    /// So many of the most probable classes, and their probabilities, are in the file too.
    #[serde(default, skip_serializing_if = "is_zero")]
    #[schemars(skip_serializing_if = "super::outline::never")]
    pub top: usize,
    /// Whether all logits are in the file too.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    #[schemars(skip_serializing_if = "super::outline::never")]
    pub logits: bool,
}

fn default_timeout() -> f64 {
    DEFAULT_METRIC_TIMEOUT
}

fn is_zero(number: &usize) -> bool {
    *number == 0
}

/// Which of two values is the better one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Better {
    /// The higher one: an accuracy.
    Higher,
    /// The lower one: an error.
    Lower,
}

/// Which students stay on disk. `checkpoints/best` and `checkpoints/last` are always there; of more than one, each
/// lies beside them, as `checkpoints/step-000123` after the step that it is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct CheckpointConfig {
    /// So many of the best, by what `train.select_by` says.
    #[schemars(range(min = 1))]
    pub best: usize,
    /// So many of the latest.
    #[schemars(range(min = 1))]
    pub last: usize,
}

impl Default for CheckpointConfig {
    fn default() -> Self {
        Self { best: 1, last: 1 }
    }
}

impl CheckpointConfig {
    pub(super) fn is_default(&self) -> bool {
        *self == Self::default()
    }
}
