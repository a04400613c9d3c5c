//! What both programs say of data: where it lies and how it becomes a model's input.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Fault;
use super::tokens::{JsonlConfig, ParquetConfig, TextConfig, TokensConfig};

/// Where the samples lie.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum DatasetConfig {
    /// IDX files (the MNIST family), plain or gzip.
    Idx {
        /// Samples: unsigned bytes, `[samples, height, width]`, `[samples, height, width,
        /// channels]` or `[samples, features]`.
        images: PathBuf,
        /// Labels: unsigned bytes, `[samples]`. A cache needs none.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        labels: Option<PathBuf>,
        /// Only the first so many samples.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schemars(range(min = 1))]
        limit: Option<u64>,
    },
    /// Text files; each is a document.
    Text(TextConfig),
    /// JSON Lines; each line is a document.
    Jsonl(JsonlConfig),
    /// Parquet files; each row of the table is a document, of text or of token ids.
    Parquet(ParquetConfig),
    /// Tokens made by another program: `.bin`, `.npy`, `.arrow` or `.parquet`.
    Tokens(TokensConfig),
}

/// The order of a prepared sample's dimensions, batch first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Layout {
    /// `[batch, channels, height, width]`.
    #[default]
    Nchw,
    /// `[batch, height, width, channels]`.
    Nhwc,
    /// `[batch, features]`.
    Flat,
}

/// How a sample's bytes become a model's input: `(value × scale − mean) / std`, per channel.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PreprocessConfig {
    /// Factor on the raw byte, before mean and standard deviation. Default 1/255.
    #[schemars(extend("exclusiveMinimum" = 0.0))]
    pub scale: f64,
    /// Subtracted after scaling: one value, or one per channel.
    pub mean: Vec<f64>,
    /// Divided by last: one value, or one per channel.
    pub std: Vec<f64>,
    /// The order of the dimensions.
    pub layout: Layout,
}

impl Default for PreprocessConfig {
    fn default() -> Self {
        Self { scale: 1.0 / 255.0, mean: vec![0.0], std: vec![1.0], layout: Layout::default() }
    }
}

impl PreprocessConfig {
    /// Everything that is wrong with the values; keys are given below `prefix`.
    pub fn validate(&self, prefix: &str) -> Vec<Fault> {
        let mut faults = Vec::new();
        if self.mean.is_empty() || self.std.is_empty() || self.mean.len() != self.std.len() {
            let found = format!("found {} and {}", self.mean.len(), self.std.len());
            let problem = format!("expected as many values as in {prefix}.std, and at least one; {found}");
            faults.push(Fault::new(format!("{prefix}.mean"), problem));
        }
        if let Some(bad) = self.std.iter().find(|s| **s <= 0.0) {
            faults
                .push(Fault::new(format!("{prefix}.std"), format!("expected positive values, found {bad}")));
        }
        faults
    }
}
