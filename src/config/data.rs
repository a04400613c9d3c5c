//! What both programs say of data: where it lies and how it becomes a model's input.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Fault;
use super::images::{FolderConfig, Interpolation};
use super::tokens::{JsonlConfig, ParquetConfig, TextConfig, TokensConfig};

/// The longest side that images may be brought to.
const LARGEST_SIDE: u32 = 16_384;

/// Where the samples lie.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum DatasetConfig {
    /// IDX files (the MNIST family), plain or packed by gzip or zstd.
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
    /// A folder of image files, of any size; its folders are the classes.
    Folder(FolderConfig),
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

/// How a sample's bytes become a model's input: grey or of three channels, resized, cropped, and then
/// `(value × scale − mean) / std`, per channel.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PreprocessConfig {
    /// Images: 1 for grey, as PIL's `convert("L")`; 3 for colours, which grey images have three times alike: torchvision's
    /// `Grayscale(1)`, and `Grayscale(3)` of grey images, before anything else. Default: as they are; files in a folder have 3.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 3))]
    pub channels: Option<u8>,
    /// Images: the length of the shorter side after resizing; the longer one keeps the shape, as
    /// torchvision's `Resize` with one number.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = LARGEST_SIDE))]
    pub resize: Option<u32>,
    /// Images: `[height, width]` after resizing, whatever the shape was.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(inner(range(min = 1, max = LARGEST_SIDE)))]
    pub size: Option<[u32; 2]>,
    /// How images are resized.
    #[serde(skip_serializing_if = "Interpolation::is_default")]
    #[schemars(skip_serializing_if = "super::outline::never")]
    pub interpolation: Interpolation,
    /// Images: the side of the square that is cut out of the middle, as torchvision's `CenterCrop`; after resizing, if there is
    /// any, no more than the shorter side is then, and without what a smaller image lacks is black.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = LARGEST_SIDE))]
    pub crop: Option<u32>,
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
        Self {
            channels: None,
            resize: None,
            size: None,
            interpolation: Interpolation::default(),
            crop: None,
            scale: 1.0 / 255.0,
            mean: vec![0.0],
            std: vec![1.0],
            layout: Layout::default(),
        }
    }
}

impl PreprocessConfig {
    /// Everything that is wrong with the values; keys are given below `prefix`.
    pub fn validate(&self, prefix: &str) -> Vec<Fault> {
        let mut faults = self.validate_images(prefix);
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
