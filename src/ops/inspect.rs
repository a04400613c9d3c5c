//! `kd-cache inspect`: what a cache says of itself.

use std::path::Path;

use schemars::JsonSchema;
use serde::Serialize;

use crate::cache::{CacheError, CacheReader, FeatureLayout, Manifest, head_type};
use crate::config::{AugmentConfig, PreprocessConfig, StorageForm, ValueEncoding};
use crate::target::TargetBatch;

/// The contents of a cache.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct InspectReport {
    /// Format version.
    pub format_version: u32,
    /// Program that wrote it.
    pub created_by: String,
    /// Whether every shard is there.
    pub complete: bool,
    /// Samples of the dataset.
    pub samples: u64,
    /// Predictions in the committed shards.
    pub positions: u64,
    /// Classes the teacher tells apart.
    pub classes: usize,
    /// Classes of the largest head.
    pub k: usize,
    /// Where heads differ in size: the softmax's mass at T = 1 that each has at least, unless it is one of the largest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mass: Option<f64>,
    /// Draws for each prediction, where targets are sampled.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub draws: Option<u16>,
    /// The one temperature of sampled targets.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f64>,
    /// Inverse temperatures of the tail curve; empty when the head holds every class.
    pub nodes: Vec<f64>,
    /// Numbers per prediction that say where its tail lies; 0: the prior alone.
    pub rank: usize,
    /// What logits and curves are: `float16`, `float32` or `quantized` with its steps.
    pub values: String,
    /// Further outputs of the teacher that are kept; absent where there are none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub features: Vec<FeatureLayout>,
    /// The shards' form.
    pub form: StorageForm,
    /// Bytes of shards and of the files beside them.
    pub bytes: u64,
    /// `bytes / positions`, ids, labels and tail model included.
    pub bytes_per_position: f64,
    /// Committed shards.
    pub shards: usize,
    /// Shards of the finished cache.
    pub expected_shards: u64,
    /// Teacher: kind and file.
    pub teacher: String,
    /// Teacher: what its outputs were taken as (`logits`, `probabilities` or `log_probabilities`).
    pub output_kind: String,
    /// Teacher: digest of the file.
    pub teacher_digest: String,
    /// Teacher: runtime and version.
    pub runtime: String,
    /// Dataset: digest of the samples.
    pub dataset_fingerprint: String,
    /// What was done to samples; absent where they are tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preprocess: Option<PreprocessConfig>,
    /// What views of a sample are; absent where there are none but the sample itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub augment: Option<AugmentConfig>,
    /// Share of labelled samples whose label is the teacher's first class; absent without labels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub teacher_accuracy: Option<f64>,
}

impl InspectReport {
    /// What the manifest alone tells.
    pub(super) fn of_manifest(manifest: &Manifest) -> Self {
        let positions = manifest.committed_positions();
        let bytes = manifest.bytes();
        let columns = manifest.columns();
        Self {
            format_version: manifest.format_version,
            created_by: manifest.created_by.clone(),
            complete: manifest.complete,
            samples: manifest.samples,
            positions,
            classes: manifest.classes,
            k: columns.k,
            mass: manifest.head.mass,
            draws: manifest.head.draws,
            temperature: manifest.head.temperature,
            nodes: if columns.nodes > 0 { manifest.tail.nodes.as_slice().to_vec() } else { Vec::new() },
            rank: manifest.tail.rank,
            values: values(manifest),
            features: manifest.features.clone(),
            form: manifest.storage.form,
            bytes,
            bytes_per_position: if positions > 0 { bytes as f64 / positions as f64 } else { 0.0 },
            shards: manifest.shards.len(),
            expected_shards: manifest.expected_shards(),
            teacher: format!("{} {}", manifest.teacher.kind, manifest.teacher.file),
            output_kind: manifest.teacher.output_kind.clone(),
            teacher_digest: manifest.teacher.digest.to_string(),
            runtime: manifest.teacher.runtime.clone(),
            dataset_fingerprint: manifest.dataset.fingerprint.to_string(),
            preprocess: manifest.preprocess.as_ref().map(|preprocess| preprocess.config.clone()),
            augment: manifest.augment.as_ref().map(|augment| augment.config.clone()),
            teacher_accuracy: None,
        }
    }

    /// What manifest and shards tell.
    pub(super) fn of_reader(reader: &CacheReader) -> Result<Self, CacheError> {
        let mut report = Self::of_manifest(reader.manifest());
        report.teacher_accuracy = teacher_accuracy(reader)?;
        Ok(report)
    }
}

/// What logits and curves are, in words.
fn values(manifest: &Manifest) -> String {
    match (manifest.storage.values, manifest.storage.step, manifest.storage.curve_step) {
        (ValueEncoding::Quantized, Some(step), Some(curve)) => {
            let grows = manifest.storage.step_growth.map_or_else(String::new, |g| format!(" growing by {g}"));
            format!("quantized, steps of {step}{grows} and {curve}")
        }
        (values, ..) => head_type(values).to_string().to_lowercase(),
    }
}

/// Reads what the cache in `dir`, finished or not, says of itself.
///
/// # Errors
/// [`CacheError`] when there is none or a shard cannot be read.
pub fn inspect(dir: &Path) -> Result<InspectReport, CacheError> {
    InspectReport::of_reader(&CacheReader::open_partial(dir)?)
}

/// How often the head's first class is the label.
fn teacher_accuracy(reader: &CacheReader) -> Result<Option<f64>, CacheError> {
    let mut targets = TargetBatch::default();
    let mut hits = 0u64;
    for (reader, index, rows) in reader.each_shard() {
        let Some(labels) = reader.shard(index)?.labels() else { return Ok(None) };
        reader.gather(&rows.collect::<Vec<u64>>(), &mut targets)?;
        let first = targets.ids.chunks(targets.k).map(|ids| ids[0]);
        hits += first.zip(labels).filter(|(id, label)| id == *label).count() as u64;
    }
    let rows = reader.rows();
    Ok((rows > 0).then(|| hits as f64 / rows as f64))
}
