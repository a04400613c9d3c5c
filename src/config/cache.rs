//! The config of `kd-cache build` and `kd-cache fidelity`.

use std::fmt;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    AugmentConfig, Config, DatasetConfig, Fault, FeatureConfig, PreprocessConfig, TeacherConfig, features,
};
use crate::target::{MAX_RANK, TailNodes};

/// Default of [`TailConfig::rank`] for rows of tokens: on real language models the first eight directions halve the
/// divergence that the prior leaves, for about seven bytes a position (benches/runs).
pub const DEFAULT_TOKEN_RANK: usize = 8;
/// The least that [`TailConfig::fit_samples`] is by default, and so many for each number of a code: what is fitted grows
/// with the rank (at rank 32 16,384 positions leave 2 % less divergence than 4,096, benches/runs).
pub const DEFAULT_FIT_SAMPLES: u64 = 4096;
/// See [`DEFAULT_FIT_SAMPLES`].
pub const FIT_SAMPLES_PER_RANK: u64 = 512;
/// Default of [`HeadConfig::max_k`].
pub const DEFAULT_MAX_K: usize = 64;
/// Default of [`StorageConfig::step`].
pub const DEFAULT_STEP: f64 = 0.025;
/// Default of [`StorageConfig::step_growth`].
pub const DEFAULT_STEP_GROWTH: f64 = 0.0625;
/// Default of [`StorageConfig::curve_step`].
pub const DEFAULT_CURVE_STEP: f64 = 0.0625;
/// Default of [`StorageConfig::level`].
pub const DEFAULT_LEVEL: i32 = 19;
/// Default of [`StorageConfig::shard_samples`], where these are not many or large.
pub const DEFAULT_SHARD_SAMPLES: u64 = 8192;
/// Positions of a shard by default, at most.
const SHARD_POSITIONS: u64 = 1 << 19;
/// Numbers of four bytes that are kept of a shard's positions by default, at most: 2 GiB before they are written.
const SHARD_NUMBERS: u64 = 1 << 29;

/// Everything that decides what a cache holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "kd-cache build configuration")]
pub struct CacheConfig {
    /// Seeds the sample from which the tail model is fitted, the draws of `head.draws`, and the sample of `kd-cache fidelity`.
    #[serde(default)]
    pub seed: u64,
    /// The samples the teacher is asked about.
    pub dataset: DatasetConfig,
    /// How a sample becomes the teacher's input.
    #[serde(default)]
    pub preprocess: PreprocessConfig,
    /// Views of each image; default: one, as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub augment: Option<AugmentConfig>,
    /// The model whose predictions are kept.
    pub teacher: TeacherConfig,
    /// What is kept exactly.
    pub head: HeadConfig,
    /// What is kept of the other classes.
    #[serde(default)]
    pub tail: TailConfig,
    /// Further outputs of the teacher that are kept, for losses on features.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(skip_serializing_if = "super::outline::never")]
    pub features: Vec<FeatureConfig>,
    /// How it lies on disk.
    #[serde(default)]
    pub storage: StorageConfig,
}

/// The part of a prediction that is kept class by class: `k` classes, as many as hold `mass`, or those of
/// so many `draws`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HeadConfig {
    /// Number of classes with the largest logits; no more than the teacher has. With all of
    /// them the target is exact and there is no tail.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub k: Option<usize>,
    /// Instead of `k`: the smallest head that holds so much of the softmax at T = 1, a head for each
    /// prediction.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("exclusiveMinimum" = 0.0, "maximum" = 1.0))]
    pub mass: Option<f64>,
    /// With `mass`: the most classes in a head, 64 unless given; always less than the teacher has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub max_k: Option<usize>,
    /// Instead of `k`: sampled targets (random-sampling KD). So many classes are drawn, with replacement,
    /// from the softmax at `temperature`, and nothing else is kept: right on average, at that temperature
    /// and no other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub draws: Option<u16>,
    /// With `draws`: the temperature of the softmax they are drawn from, 1 unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("exclusiveMinimum" = 0.0))]
    pub temperature: Option<f64>,
}

impl HeadConfig {
    /// The size of the largest head of a teacher of `classes` classes.
    pub fn largest(&self, classes: usize) -> usize {
        match (self.k, self.draws) {
            (Some(k), _) => k,
            (None, Some(draws)) => usize::from(draws).min(classes),
            (None, None) => self.max_k.unwrap_or(DEFAULT_MAX_K).min(classes.saturating_sub(1)),
        }
    }
}

impl HeadConfig {
    fn validate(&self) -> Vec<Fault> {
        let Self { k, mass, max_k, draws, temperature } = self;
        let mut faults = Vec::new();
        let ways: Vec<&str> = [("k", k.is_some()), ("mass", mass.is_some()), ("draws", draws.is_some())]
            .into_iter()
            .filter_map(|(key, given)| given.then_some(key))
            .collect();
        match ways[..] {
            [_] => {}
            [] => {
                let problem = "expected k, the number of classes kept, mass, what they are to hold, or draws, \
                               how many to sample; found none";
                faults.push(Fault::new("head", problem));
            }
            _ => {
                let problem = format!(
                    "expected either k, mass or draws, found {}; for a bound beside mass use max_k",
                    ways.join(" and ")
                );
                faults.push(Fault::new("head", problem));
            }
        }
        if max_k.is_some() && mass.is_none() && !ways.is_empty() {
            faults.push(Fault::new("head.max_k", format!("goes with mass, not with {}; remove it", ways[0])));
        }
        if temperature.is_some() && draws.is_none() {
            let problem = "is that of draws, and none are asked for; what a head and a curve say holds at every \
                           temperature, so remove it";
            faults.push(Fault::new("head.temperature", problem));
        }
        faults
    }
}

/// The part of a prediction that is kept as a curve and a shape.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TailConfig {
    /// Another cache of the same classes and head whose tail model this one takes, rather than fitting one
    /// of its own: training and validation sets of one teacher then differ in nothing but their samples. It
    /// need not be complete (`kd-cache build --fit-only`). Nodes, rank and `fit_samples` are that cache's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<PathBuf>,
    /// Inverse temperatures `β = 1/T` of the tail curve, rising, 1 among them.
    pub nodes: TailNodes,
    /// Numbers per prediction, a byte each, that say where its tail's mass lies; 0: the prior alone,
    /// which is the same for all. Worth their bytes where the tail holds much and classes are many:
    /// unless given 0, or 8 where samples are rows of tokens. Always 0 where the head holds every class and leaves no tail.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = MAX_RANK))]
    pub rank: Option<usize>,
    /// Positions from which the tail model is fitted: samples, or tokens of many; unless given 512 for each number of
    /// `rank`, and 4096 at least.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub fit_samples: Option<u64>,
}

impl TailConfig {
    /// Positions from which a tail model of `rank` is fitted.
    pub fn fit_samples(&self, rank: usize) -> u64 {
        self.fit_samples.unwrap_or(DEFAULT_FIT_SAMPLES.max(FIT_SAMPLES_PER_RANK.saturating_mul(rank as u64)))
    }
}

/// The form of the shards.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum StorageForm {
    /// Arrow IPC files: memory-mapped, random access.
    #[default]
    Arrow,
    /// Parquet files, compressed by zstd: columns of plain numbers that any tool reads. For sharing and
    /// archives; training reads each shard whole into memory.
    Parquet,
}

impl fmt::Display for StorageForm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Arrow => "arrow",
            Self::Parquet => "parquet",
        })
    }
}

/// How logits and curves are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ValueEncoding {
    /// IEEE half precision: 11 significant bits. Values below −65504 are kept as −65504.
    #[default]
    F16,
    /// IEEE single precision: as computed.
    F32,
    /// Multiples of [`StorageConfig::step`], written in as few bits as they need.
    Quantized,
    /// How often each class was drawn, as it is: what sampled targets ([`HeadConfig::draws`]) have.
    Counts,
}

impl ValueEncoding {
    /// The word used in configs and manifests.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::F16 => "f16",
            Self::F32 => "f32",
            Self::Quantized => "quantized",
            Self::Counts => "counts",
        }
    }
}

/// How the cache lies on disk.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct StorageConfig {
    /// The form of the shards.
    pub form: StorageForm,
    /// How logits and curves are written: unless given `f16`, or `quantized` where samples
    /// are rows of tokens; draws are `counts`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub values: Option<ValueEncoding>,
    /// With quantized values: the step of logits at the largest, in nats.
    #[schemars(range(min = 0.002, max = 2.0))]
    pub step: f64,
    /// With quantized values: by how much of it each further step is larger, because errors of improbable
    /// classes cost less; 0 for steps that are all alike. Adds about (step² + 2 · step_growth · step · x̄) / 24
    /// nats to the divergence at T = 1, x̄ being how far below the largest logit the mean outcome is.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub step_growth: f64,
    /// With quantized values: the step of tail curves, in nats.
    #[schemars(range(min = 0.002, max = 2.0))]
    pub curve_step: f64,
    /// With form parquet: the zstd level.
    #[schemars(range(min = 1, max = 22))]
    pub level: i32,
    /// Samples per shard; an interrupted build loses at most one shard of work. Unless given 8192, but rows of tokens for no more
    /// than 524,288 positions, and fewer of either where much is kept of each.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 4294967295u64))]
    pub shard_samples: Option<u64>,
}

impl Default for StorageConfig {
    fn default() -> Self {
        Self {
            form: StorageForm::default(),
            values: None,
            step: DEFAULT_STEP,
            step_growth: DEFAULT_STEP_GROWTH,
            curve_step: DEFAULT_CURVE_STEP,
            level: DEFAULT_LEVEL,
            shard_samples: None,
        }
    }
}

impl StorageConfig {
    /// Samples per shard, where each has up to so many positions, and so many numbers are kept of each position.
    pub fn shard_samples(&self, positions: u64, numbers: u64) -> u64 {
        let most = SHARD_POSITIONS.min(SHARD_NUMBERS / numbers.max(1));
        self.shard_samples.unwrap_or(DEFAULT_SHARD_SAMPLES.min(most / positions.max(1)).max(1))
    }
}

impl CacheConfig {
    /// Whether samples are rows of tokens, on which some defaults depend.
    fn is_of_tokens(&self) -> bool {
        self.dataset.rows().is_some()
    }

    /// Samples in a forward pass; the fewest where that is to be found out.
    pub fn batch(&self) -> usize {
        if self.is_of_tokens() { self.teacher.token_batch() } else { self.teacher.image_batch() }
    }

    /// [`TailConfig::rank`] unless given.
    pub fn default_rank(&self) -> usize {
        if self.is_of_tokens() { DEFAULT_TOKEN_RANK } else { 0 }
    }

    /// How logits and curves are written.
    pub fn values(&self) -> ValueEncoding {
        let unless_given = match (self.head.draws, self.is_of_tokens()) {
            (Some(_), _) => ValueEncoding::Counts,
            (None, true) => ValueEncoding::Quantized,
            (None, false) => ValueEncoding::F16,
        };
        self.storage.values.unwrap_or(unless_given)
    }
}

impl Config for CacheConfig {
    fn validate(&self) -> Vec<Fault> {
        let mut faults = self.preprocess.validate("preprocess");
        faults.extend(self.dataset.validate("dataset"));
        faults.extend(self.teacher.validate());
        if let Some((k, classes)) = self.head.k.zip(self.teacher.classes).filter(|(k, classes)| k > classes) {
            let problem = format!("expected at most teacher.classes = {classes}, found {k}");
            faults.push(Fault::new("head.k", problem));
        }
        if self.is_of_tokens() && self.preprocess != PreprocessConfig::default() {
            let problem =
                "is for images, and dataset.kind is of tokens, which a teacher takes as they are; remove it";
            faults.push(Fault::new("preprocess", problem));
        }
        if let Some(augment) = &self.augment {
            faults.extend(augment.validate("augment"));
            if self.is_of_tokens() {
                faults.push(Fault::new("augment", "is for images, and dataset.kind is of tokens; remove it"));
            }
        }
        faults.extend(self.head.validate());
        faults.extend(features::validate(&self.features));
        if self.head.draws.is_some() {
            let given = [
                ("tail.rank", self.tail.rank.is_some_and(|rank| rank > 0)),
                ("tail.from", self.tail.from.is_some()),
            ];
            for (key, _) in given.into_iter().filter(|(_, given)| *given) {
                faults.push(Fault::new(
                    key,
                    "is of tails, and with head.draws nothing is kept of them; remove it",
                ));
            }
        }
        match (self.head.draws, self.storage.values) {
            (Some(_), Some(values)) if values != ValueEncoding::Counts => {
                faults.push(Fault::new(
                    "storage.values",
                    "is of logits, and with head.draws none are kept; remove it",
                ));
            }
            (None, Some(ValueEncoding::Counts)) => {
                faults.push(Fault::new(
                    "storage.values",
                    "counts are of draws; expected head.draws with it, found none",
                ));
            }
            _ => {}
        }
        let given = self.tail.rank.zip(self.tail.fit_samples);
        if let Some((rank, samples)) = given.filter(|(rank, samples)| *rank > 0 && *rank as u64 >= *samples) {
            let problem = format!("expected more than tail.rank = {rank}, found {samples}");
            faults.push(Fault::new("tail.fit_samples", problem));
        }
        faults
    }
}
