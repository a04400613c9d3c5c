//! The columns of features (version 5): vectors of the teacher, beside the targets of their rows.
//!
//! For each feature, after all other columns and in the order of the manifest:
//!
//! | column | type | |
//! |---|---|---|
//! | `feature_NAME` | `fixed_size_list<float16 or int8>[width]` | the vector; of whole numbers, in units of the scale |
//! | `scale_NAME` | float32 | the vector's scale; absent with float16 |
//!
//! In a dataset of tokens, `list<float16 or int8>` of width numbers for each position, and `list<float32>` of a scale
//! for each. No two columns can have one name, because their beginnings differ.

use arrow::datatypes::{DataType, Field};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::format::{item_field, list_of};
use crate::config::{FeatureConfig, FeaturePool, FeatureValues, MAX_FEATURE_NAME, is_feature_name};

/// How the columns of vectors begin.
pub(super) const FEATURE_PREFIX: &str = "feature_";

/// What each feature adds at most to a file beside its rows: two more columns in schema, footer and metadata, and
/// what pads their buffers.
pub const FEATURE_OVERHEAD_BYTES: u64 = 2048;

/// A further output of the teacher that is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FeatureLayout {
    /// Its name, of the letters a to z, digits and `_`.
    pub name: String,
    /// Which output of the teacher it is.
    pub output: String,
    /// How its numbers are written.
    pub values: FeatureValues,
    /// How a vector was made of an output of more dimensions; absent where that was not asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<FeaturePool>,
    /// Numbers of a vector.
    pub width: usize,
}

impl FeatureLayout {
    /// What `config` asks for, which the teacher gives `width` numbers of.
    pub fn new(config: &FeatureConfig, width: usize) -> Self {
        let FeatureConfig { name, output, values, pool } = config.clone();
        Self { name, output, values, pool, width }
    }

    /// The column of its vectors.
    pub fn column(&self) -> String {
        format!("{FEATURE_PREFIX}{}", self.name)
    }

    /// The column of its scales.
    pub fn scale_column(&self) -> String {
        format!("scale_{}", self.name)
    }

    /// What a vector takes in its columns.
    ///
    /// # Units
    /// Bytes.
    pub fn bytes_per_position(&self) -> u64 {
        let width = self.width as u64;
        match self.values {
            FeatureValues::F16 => width.saturating_mul(2),
            FeatureValues::I8 => width.saturating_add(4),
        }
    }

    /// Its columns; of a dataset of tokens lists of what all positions of a row have.
    pub(super) fn fields(&self, of_tokens: bool) -> Vec<Field> {
        let item = match self.values {
            FeatureValues::F16 => DataType::Float16,
            FeatureValues::I8 => DataType::Int8,
        };
        let (vectors, scale) = match of_tokens {
            true => (DataType::List(item_field(item)), DataType::List(item_field(DataType::Float32))),
            false => (list_of(item, self.width), DataType::Float32),
        };
        let mut fields = vec![Field::new(self.column(), vectors, false)];
        if self.values == FeatureValues::I8 {
            fields.push(Field::new(self.scale_column(), scale, false));
        }
        fields
    }
}

/// What is wrong with the features of a manifest: key, expected and found.
pub(super) fn unsound(features: &[FeatureLayout]) -> Option<(String, String, String)> {
    features.iter().enumerate().find_map(|(at, feature)| {
        let twice = features[..at].iter().any(|before| before.name == feature.name);
        if !is_feature_name(&feature.name) || twice {
            let expected =
                format!("1 to {MAX_FEATURE_NAME} of the letters a to z, digits and _, each name once");
            return Some((format!("features[{at}].name"), expected, format!("{:?}", feature.name)));
        }
        let sound = feature.width > 0 && i32::try_from(feature.width).is_ok();
        let expected = "1 to 2^31 - 1".into();
        (!sound).then(|| (format!("features[{at}].width"), expected, feature.width.to_string()))
    })
}
