//! The manifest: everything a reader needs to know, and what a trainer checks before it begins.

use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::columns::{ShardColumns, ShardLayout};
use super::features::FeatureLayout;
use super::format::{FORMAT, FORMAT_VERSION, IdType, OLDEST_FORMAT_VERSION};
use super::identity::{AugmentIdentity, DatasetIdentity, PreprocessIdentity, TeacherIdentity};
use super::{CacheError, durable, features};
use crate::config::{StorageForm, ValueEncoding};
use crate::digest::Digest;
use crate::encoding::{Layout, Scale, Steps, StepsError};
use crate::target::{Draws, MAX_RANK, NotCovered, TailNodes, Temperature};

/// The contents of `manifest.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(title = "kd-cache manifest, format versions 1 to 5")]
pub struct Manifest {
    /// `kd-cache`.
    pub format: String,
    /// 1; 2 where `tail.rank` is above 0; 3 where shards have columns of version 3; 4 where targets are
    /// sampled or steps grow; 5 where features are kept.
    pub format_version: u32,
    /// Program and version that wrote the cache.
    pub created_by: String,
    /// Whether every shard is there.
    pub complete: bool,
    /// Samples of the dataset.
    pub samples: u64,
    /// Augmentation views per sample.
    pub views: u32,
    /// Predictions kept: one per sample and view, or one per token of it.
    pub positions: u64,
    /// Classes the teacher tells apart, `V`.
    pub classes: usize,
    /// What is kept exactly.
    pub head: HeadLayout,
    /// What is kept of the rest.
    pub tail: TailLayout,
    /// Further outputs of the teacher that are kept, in the order of their columns.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub features: Vec<FeatureLayout>,
    /// How it lies on disk.
    pub storage: StorageLayout,
    /// Seed of the sample from which the tail model was fitted.
    pub seed: u64,
    /// Who predicted.
    pub teacher: TeacherIdentity,
    /// What was predicted on.
    pub dataset: DatasetIdentity,
    /// How samples became the teacher's input; absent where they are tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preprocess: Option<PreprocessIdentity>,
    /// What views of a sample are; absent where there are none but the sample itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub augment: Option<AugmentIdentity>,
    /// The shards, in order of sample ids.
    pub shards: Vec<ShardEntry>,
}

/// What is kept class by class.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct HeadLayout {
    /// Classes per prediction, at most.
    pub k: usize,
    /// Where heads differ in size: the mass at T = 1 that each holds, unless it has `k` classes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mass: Option<f64>,
    /// Where targets are sampled: draws for each prediction, of which its head has the distinct classes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub draws: Option<u16>,
    /// Where targets are sampled: the temperature of the softmax they were drawn from, the only one at
    /// which they mean anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f64>,
}

impl HeadLayout {
    /// How targets were sampled; `None` where they were not.
    pub fn draws(&self) -> Option<Draws> {
        Draws::new(self.draws?, self.temperature?)
    }

    /// Whether heads differ in size.
    pub fn is_variable(&self) -> bool {
        self.mass.is_some() || self.draws.is_some()
    }
}

/// What is kept of the classes outside the head.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TailLayout {
    /// Inverse temperatures of the curve and the prior.
    pub nodes: TailNodes,
    /// Numbers per prediction that say where the tail lies; 0: the prior alone.
    pub rank: usize,
    /// Positions from which the tail model was fitted.
    pub fit_samples: u64,
    /// Digest of the tail model's file in the cache that it was taken from; absent where it was fitted to
    /// positions of this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Digest>,
    /// The tail model's file; absent when the head holds every class.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<FileEntry>,
    /// What gave predictions their codes, for caches that take over this tail model; absent for rank 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encoder: Option<FileEntry>,
}

/// How the cache lies on disk.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct StorageLayout {
    /// The form of the shards.
    pub form: StorageForm,
    /// Integer of the class ids.
    pub ids: IdType,
    /// What logits and curves are.
    pub values: ValueEncoding,
    /// The step of quantized logits at the largest, in nats.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<f64>,
    /// By how much of that each further step is larger; absent where all are alike.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step_growth: Option<f64>,
    /// The step of quantized curves, in nats.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub curve_step: Option<f64>,
    /// The codes of quantized positions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub codebook: Option<FileEntry>,
    /// Samples per shard; the last may have fewer.
    pub shard_samples: u64,
}

/// A file of the cache.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct FileEntry {
    /// Path inside the cache.
    pub file: String,
    /// Size.
    pub bytes: u64,
    /// Content.
    pub digest: Digest,
}

/// A shard.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ShardEntry {
    /// Path inside the cache.
    pub file: String,
    /// Rows (samples × views).
    pub rows: u64,
    /// Positions in them; absent where each row has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub positions: Option<u64>,
    /// The lowest sample id in it.
    pub first_sample: u64,
    /// Size.
    pub bytes: u64,
    /// Content.
    pub digest: Digest,
}

impl ShardEntry {
    /// Positions in its rows.
    pub fn positions(&self) -> u64 {
        self.positions.unwrap_or(self.rows)
    }
}

impl Manifest {
    /// Reads and checks `path`.
    ///
    /// # Errors
    /// [`CacheError`]: missing, no JSON, another format or version, or numbers that contradict
    /// each other.
    pub fn load(path: &Path) -> Result<Self, CacheError> {
        let text =
            std::fs::read(path).map_err(|source| CacheError::Read { path: path.to_owned(), source })?;
        let json =
            |error: serde_json::Error| CacheError::Json { path: path.to_owned(), problem: error.to_string() };
        /// What every version has.
        #[derive(Deserialize)]
        struct Version {
            format: String,
            format_version: u32,
        }
        let version: Version = serde_json::from_slice(&text).map_err(json)?;
        let supported = OLDEST_FORMAT_VERSION..=FORMAT_VERSION;
        if version.format != FORMAT || !supported.contains(&version.format_version) {
            return Err(CacheError::Version {
                path: path.to_owned(),
                oldest: OLDEST_FORMAT_VERSION,
                newest: FORMAT_VERSION,
                found: format!("{}, version {}", version.format, version.format_version),
            });
        }
        let manifest: Self = serde_json::from_slice(&text).map_err(json)?;
        manifest.check(path)?;
        Ok(manifest)
    }

    /// Writes the manifest to `path`, atomically.
    ///
    /// # Errors
    /// [`CacheError::Write`].
    pub(super) fn save(&self, path: &Path) -> Result<(), CacheError> {
        let mut text = serde_json::to_vec_pretty(self)
            .map_err(|error| CacheError::Json { path: path.to_owned(), problem: error.to_string() })?;
        text.push(b'\n');
        durable::write_file(path, &text)
    }

    /// Identifies the finished cache: teacher, data, settings and every shard's content.
    ///
    /// # Errors
    /// [`CacheError::Json`] when the manifest has no JSON form.
    pub fn digest(&self) -> Result<Digest, CacheError> {
        Digest::of_json(self)
            .map_err(|error| CacheError::Json { path: "manifest".into(), problem: error.to_string() })
    }

    /// Identifies what rows are read as: the same for every copy of the cache, and for one that is built again to the same
    /// bytes, whoever wrote it; another where samples, settings or a single prediction differ.
    ///
    /// # Errors
    /// [`CacheError::Json`] when what is digested has no JSON form.
    pub fn targets_digest(&self) -> Result<Digest, CacheError> {
        let StorageLayout { form, ids, values, step, step_growth, curve_step, codebook, .. } = &self.storage;
        let digest = |file: &Option<FileEntry>| file.as_ref().map(|file| file.digest.clone());
        let shards: Vec<&Digest> = self.shards.iter().map(|shard| &shard.digest).collect();
        let read = (
            (&self.dataset.fingerprint, self.samples, self.views, self.positions, self.classes),
            (&self.head, &self.tail.nodes, self.tail.rank, digest(&self.tail.model), &self.features),
            (form, ids, values, step, step_growth, curve_step, digest(codebook)),
            shards,
        );
        Digest::of_json(&read)
            .map_err(|error| CacheError::Json { path: "manifest".into(), problem: error.to_string() })
    }

    /// What a shard's columns are.
    pub fn columns(&self) -> ShardColumns {
        ShardColumns {
            form: self.storage.form,
            k: self.head.k,
            variable: self.head.is_variable(),
            nodes: if self.has_tail() { self.tail.nodes.len() } else { 0 },
            rank: self.tail.rank,
            ids: self.storage.ids,
            values: self.storage.values,
            labelled: self.dataset.labels.is_some(),
            tokens: self.dataset.tokens.as_ref().map(|tokens| IdType::for_classes(tokens.vocabulary)),
            features: self.features.clone(),
        }
    }

    /// What the whole numbers of heads and curves stand for; `None` for floats.
    ///
    /// # Errors
    /// What [`Steps::new`] refuses; never for a manifest that has been loaded.
    pub fn scale(&self) -> Result<Option<Scale>, StepsError> {
        match self.storage.values {
            ValueEncoding::F16 | ValueEncoding::F32 => Ok(None),
            ValueEncoding::Quantized => {
                let step = |step: Option<f64>| step.unwrap_or(f64::NAN);
                let growth = self.storage.step_growth.unwrap_or(0.0);
                let steps = Steps::new(step(self.storage.step), growth, step(self.storage.curve_step))?;
                Ok(Some(Scale::Steps(steps)))
            }
            ValueEncoding::Counts => Ok(self.draws().map(Scale::Draws)),
        }
    }

    /// The temperatures at which to look where nobody says at which: `otherwise`, or the only one at which
    /// sampled targets mean anything.
    pub fn temperatures(&self, otherwise: &[f64]) -> Vec<Temperature> {
        match self.draws() {
            Some(draws) => vec![draws.temperature()],
            None => otherwise.iter().filter_map(|t| Temperature::new(*t).ok()).collect(),
        }
    }

    /// How targets were sampled; `None` where they were not.
    pub fn draws(&self) -> Option<Draws> {
        self.head.draws()
    }

    /// What decides the codes of quantized positions.
    pub fn code_layout(&self) -> Layout {
        Layout {
            classes: self.classes,
            k: self.head.k,
            variable: self.head.is_variable(),
            nodes: self.has_tail().then(|| self.tail.nodes.clone()),
            rank: self.tail.rank,
        }
    }

    /// The lowest version that has what this cache holds, so that older programs read what they can.
    pub fn version(&self) -> u32 {
        match self.columns().layout() {
            _ if !self.features.is_empty() => 5,
            _ if self.head.draws.is_some() || self.storage.step_growth.is_some() => 4,
            _ if self.augment.is_some() => 3,
            ShardLayout::Fixed => 1 + u32::from(self.tail.rank > 0),
            ShardLayout::Lists | ShardLayout::Packed => 3,
        }
    }

    /// Rows of the finished cache: views of all samples.
    pub fn rows(&self) -> u64 {
        self.samples.saturating_mul(u64::from(self.views))
    }

    /// Positions of the longest row.
    pub fn longest_row(&self) -> usize {
        let tokens = self.dataset.tokens.as_ref().and(self.dataset.sample_shape.first());
        tokens.map_or(1, |length| (*length).max(1))
    }

    /// Rows in the shards there are.
    pub fn committed_rows(&self) -> u64 {
        self.shards.iter().map(|shard| shard.rows).fold(0, u64::saturating_add)
    }

    /// Positions in the shards there are.
    pub fn committed_positions(&self) -> u64 {
        self.shards.iter().map(ShardEntry::positions).fold(0, u64::saturating_add)
    }

    /// Whether anything is kept of classes outside the head: not of sampled targets, nor where the head
    /// holds every class.
    pub fn has_tail(&self) -> bool {
        self.head.k < self.classes && self.head.draws.is_none()
    }

    /// Refuses a temperature at which the tail's mass is not known, or at which nothing was drawn.
    ///
    /// # Errors
    /// [`NotCovered`].
    pub fn require_covered(&self, temperature: Temperature) -> Result<(), NotCovered> {
        if let Some(draws) = self.draws() {
            return draws.require(temperature);
        }
        if self.has_tail() { self.tail.nodes.require(temperature) } else { Ok(()) }
    }

    /// Shards of the finished cache.
    pub fn expected_shards(&self) -> u64 {
        self.samples.div_ceil(self.storage.shard_samples.max(1))
    }

    /// The files beside the shards, which are there once for all: tail model, encoder, codebook.
    pub fn files_beside(&self) -> impl Iterator<Item = &FileEntry> {
        [&self.tail.model, &self.tail.encoder, &self.storage.codebook].into_iter().flatten()
    }

    /// Bytes of shards and of the files beside them.
    pub fn bytes(&self) -> u64 {
        let beside = self.files_beside().map(|file| file.bytes);
        beside.chain(self.shards.iter().map(|shard| shard.bytes)).fold(0, u64::saturating_add)
    }

    /// Numbers that contradict each other would otherwise surface as wild reads much later.
    pub(super) fn check(&self, path: &Path) -> Result<(), CacheError> {
        let damaged = |what: &str, expected: String, found: String| {
            Err(CacheError::Damaged { path: path.to_owned(), what: what.to_owned(), expected, found })
        };
        if self.classes < 2 || self.head.k == 0 || self.head.k > self.classes {
            let expected = format!("1 to classes = {}", self.classes);
            return damaged("head.k", expected, self.head.k.to_string());
        }
        if self.head.is_variable() && u16::try_from(self.head.k).is_err() {
            let expected = format!("at most {}, because heads differ in size", u16::MAX);
            return damaged("head.k", expected, self.head.k.to_string());
        }
        if u32::try_from(self.classes).is_err() {
            return damaged("classes", "at most 2^32 - 1".into(), self.classes.to_string());
        }
        if self.storage.ids != IdType::for_classes(self.classes) {
            let expected = format!("{:?} for {} classes", IdType::for_classes(self.classes), self.classes);
            return damaged("storage.ids", expected, format!("{:?}", self.storage.ids));
        }
        if self.has_tail() && self.complete && self.tail.model.is_none() {
            return damaged("tail.model", "a file, because k < classes".into(), "none".into());
        }
        let most = if self.has_tail() { MAX_RANK } else { 0 };
        if self.tail.rank > most {
            return damaged("tail.rank", format!("at most {most}"), self.tail.rank.to_string());
        }
        if self.format_version != self.version() {
            let expected = format!("{} for what its shards hold", self.version());
            return damaged("format_version", expected, self.format_version.to_string());
        }
        let views = self.augment.as_ref().map_or(1, |augment| u32::from(augment.config.views));
        if self.views != views
            || views == 0
            || (self.dataset.tokens.is_none() && self.positions != self.rows())
        {
            let expected = format!("{} views of {} samples, a position each", views.max(1), self.samples);
            return damaged("views", expected, format!("{} views, {} positions", self.views, self.positions));
        }
        if let Some((expected, found)) = self.preprocess.as_ref().and_then(PreprocessIdentity::unsound) {
            return damaged("preprocess", expected, found);
        }
        if let Some((expected, found)) = self.augment.as_ref().and_then(AugmentIdentity::unsound) {
            return damaged("augment", expected, found);
        }
        if let Err(error) = self.scale() {
            return damaged(
                "storage.step, storage.step_growth, storage.curve_step",
                error.to_string(),
                "others".into(),
            );
        }
        let quantised = matches!(self.storage.values, ValueEncoding::Quantized | ValueEncoding::Counts);
        if quantised && self.complete && self.storage.codebook.is_none() {
            return damaged("storage.codebook", "a file, because values are quantized".into(), "none".into());
        }
        let sampled = self.head.draws.is_some();
        let counted = self.storage.values == ValueEncoding::Counts;
        if sampled != counted || sampled != self.draws().is_some() || sampled && self.head.mass.is_some() {
            let expected =
                "head.draws of at least 1, with storage.values = counts and without head.mass, or neither";
            let found = format!("{:?} with {:?}", self.head, self.storage.values);
            return damaged("head.draws", expected.into(), found);
        }
        if let Some(mass) = self.head.mass.filter(|mass| !(*mass > 0.0 && *mass <= 1.0 && self.has_tail())) {
            let expected = "above 0 and at most 1, with k below the number of classes".into();
            return damaged("head.mass", expected, mass.to_string());
        }
        if let Some(tokens) =
            self.dataset.tokens.as_ref().filter(|t| u32::try_from(t.vocabulary).is_err() || t.vocabulary == 0)
        {
            let expected = "1 to 2^32 - 1".into();
            return damaged("dataset.tokens.vocabulary", expected, tokens.vocabulary.to_string());
        }
        if let Some((what, expected, found)) = features::unsound(&self.features) {
            return damaged(&what, expected, found);
        }
        if self.storage.shard_samples == 0 {
            return damaged("storage.shard_samples", "at least 1".into(), "0".into());
        }
        let mut next = None;
        for (index, shard) in self.shards.iter().enumerate() {
            if next.is_some_and(|next| shard.first_sample < next) || shard.rows == 0 {
                let expected = format!("at least one row, from sample {} on", next.unwrap_or(0));
                let found = format!("{} rows from sample {}", shard.rows, shard.first_sample);
                return damaged(&format!("shards[{index}]"), expected, found);
            }
            next = shard.first_sample.checked_add(shard.rows.div_ceil(u64::from(self.views)));
            if next.is_none() {
                let expected = "sample ids and rows within 64 bits".into();
                let found = format!("{} rows from sample {}", shard.rows, shard.first_sample);
                return damaged(&format!("shards[{index}]"), expected, found);
            }
            if !is_inside(&shard.file) {
                return damaged(
                    &format!("shards[{index}].file"),
                    "a path inside the cache".into(),
                    shard.file.clone(),
                );
            }
        }
        for (key, file) in [
            ("tail.model.file", &self.tail.model),
            ("tail.encoder.file", &self.tail.encoder),
            ("storage.codebook.file", &self.storage.codebook),
        ] {
            if let Some(entry) = file.as_ref().filter(|entry| !is_inside(&entry.file)) {
                return damaged(key, "a path inside the cache".into(), entry.file.clone());
            }
        }
        let rows = self.committed_rows();
        let positions = self.committed_positions();
        if self.complete && (rows, positions) != (self.rows(), self.positions) {
            let expected = format!("{} rows with {} positions in all", self.rows(), self.positions);
            return damaged("shards", expected, format!("{rows} with {positions}"));
        }
        Ok(())
    }
}

/// A manifest from a stranger must not name files outside its folder.
fn is_inside(file: &str) -> bool {
    use std::path::Component;
    !file.is_empty() && Path::new(file).components().all(|part| matches!(part, Component::Normal(_)))
}
