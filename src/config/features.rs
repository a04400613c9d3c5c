//! What is kept of a teacher beside its logits, and what a student learns from it.

use std::collections::BTreeSet;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Fault;
use super::name::{self, Name};

/// The longest name of a feature.
pub const MAX_FEATURE_NAME: usize = 48;

/// A further output of the teacher that is kept: a vector of one width for each sample and view, or for each token.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FeatureConfig {
    /// What it is called in the cache and in `loss.features`: small letters, digits and `_`.
    pub name: String,
    /// Which output it is. ONNX: the name of an output of the graph. TorchScript: its place in the tuple that the
    /// module returns, from 0, or its key in the dictionary. With `command` what the program calls it.
    #[serde(deserialize_with = "name::text")]
    #[schemars(with = "Name")]
    pub output: String,
    /// How its numbers are written.
    #[serde(default)]
    pub values: FeatureValues,
    /// How an output of more dimensions becomes a vector; without it such an output is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<FeaturePool>,
}

/// How the numbers of a feature are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FeatureValues {
    /// IEEE half precision: 11 significant bits.
    #[default]
    F16,
    /// Whole numbers from −127 to 127 and a scale for each vector, its largest magnitude over 127: half the bytes,
    /// and an error of at most half a scale.
    I8,
}

impl FeatureValues {
    /// The word used in configs and manifests.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::F16 => "f16",
            Self::I8 => "i8",
        }
    }
}

/// How an output of more dimensions becomes a vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FeaturePool {
    /// The mean over all places: of a map `[batch, channels, height, width]` over height and width, of the
    /// `[batch, tokens, width]` of a vision transformer over the tokens.
    Mean,
    /// Of `[batch, tokens, width]` the first token: where it stands for the class.
    First,
    /// All numbers, one after the other.
    Flatten,
}

impl FeaturePool {
    /// The word used in configs and manifests.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Mean => "mean",
            Self::First => "first",
            Self::Flatten => "flatten",
        }
    }
}

/// Whether `name` may be a feature's: it is part of a column's name.
pub fn is_feature_name(name: &str) -> bool {
    let sound = |letter: u8| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == b'_';
    !name.is_empty() && name.len() <= MAX_FEATURE_NAME && name.bytes().all(sound)
}

/// Faults of the list `features` of a cache's config.
pub(super) fn validate(features: &[FeatureConfig]) -> Vec<Fault> {
    validate_names("features", features.iter().map(|feature| feature.name.as_str()))
}

/// Faults of the names in the list `list` of a config, which are parts of names elsewhere and each another.
pub(super) fn validate_names<'a>(list: &str, all: impl Iterator<Item = &'a str>) -> Vec<Fault> {
    let mut faults = Vec::new();
    let mut names = BTreeSet::new();
    for (at, name) in all.enumerate() {
        let problem = if !is_feature_name(name) {
            format!("expected 1 to {MAX_FEATURE_NAME} of the letters a to z, digits and _, found {name:?}")
        } else if !names.insert(name) {
            format!("{name:?} is there twice; give each another name")
        } else {
            continue;
        };
        faults.push(Fault::new(format!("{list}[{at}].name"), problem));
    }
    faults
}

/// A layer of the student that is to give the teacher's feature, by a linear projection that is learned with it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FeatureLossConfig {
    /// The feature of the cache.
    pub name: String,
    /// Weight of the term.
    #[serde(default = "one")]
    #[schemars(extend("exclusiveMinimum" = 0.0))]
    pub weight: f64,
    /// How the two are compared.
    #[serde(default)]
    pub kind: FeatureLossKind,
    /// Which of the student's layers: `features`, what its last layer makes logits of. Of a TorchScript student that
    /// returns a tuple: the place in it, from 1 (0 are the logits).
    #[serde(default = "features", skip_serializing_if = "is_features")]
    #[schemars(skip_serializing_if = "super::outline::never")]
    pub layer: String,
}

/// How a student's feature `f`, projected, is compared with the teacher's `t` of `d` numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FeatureLossKind {
    /// `(1/d) ‖W f + b − t‖²`.
    #[default]
    Mse,
    /// `1 − cos(W f + b, t)`.
    Cosine,
}

/// The layer of every student that has a head apart: what the head makes logits of.
pub const FEATURES_LAYER: &str = "features";

fn one() -> f64 {
    1.0
}

fn features() -> String {
    FEATURES_LAYER.into()
}

fn is_features(layer: &str) -> bool {
    layer == FEATURES_LAYER
}

/// Faults of the list `loss.features` of a run's config.
pub(super) fn validate_losses(losses: &[FeatureLossConfig]) -> Vec<Fault> {
    let mut names = BTreeSet::new();
    let twice = losses.iter().enumerate().filter(|(_, loss)| !names.insert(&loss.name));
    let fault = |(at, loss): (usize, &FeatureLossConfig)| {
        let problem = format!("{:?} is there twice; a feature has one term", loss.name);
        Fault::new(format!("loss.features[{at}].name"), problem)
    };
    twice.map(fault).collect()
}
