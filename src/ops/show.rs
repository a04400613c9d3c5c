//! `kd-cache show`: one target, decoded at a temperature.

use std::path::Path;

use schemars::JsonSchema;
use serde::Serialize;

use crate::cache::{CacheError, CacheReader};
use crate::ids::SampleId;
use crate::target::{NotCovered, PositionTarget, TargetBatch, Temperature};

/// Why a target could not be shown.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ShowError {
    /// The cache.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// No such sample.
    #[error("--sample {sample}: the cache has no such sample (it has {samples}, from {first} to {last})")]
    Sample {
        /// Asked for.
        sample: SampleId,
        /// In the cache.
        samples: u64,
        /// The lowest id.
        first: u64,
        /// The highest id.
        last: u64,
    },
    /// No such position.
    #[error("--position {position}: sample {sample} of this cache has {positions} (from 0)")]
    Position {
        /// The sample.
        sample: SampleId,
        /// Asked for.
        position: u32,
        /// Positions of the sample.
        positions: usize,
    },
    /// Not covered by the nodes.
    #[error(transparent)]
    Temperature(#[from] NotCovered),
}

/// A decoded target.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct ShowReport {
    /// The sample.
    pub sample: u64,
    /// The position in it.
    pub position: u32,
    /// The temperature.
    pub temperature: f64,
    /// The token at the position, where samples are made of tokens: the last that the teacher saw.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<u32>,
    /// Its label, where the dataset has labels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<u32>,
    /// Classes of the head, by falling probability: `[k]`.
    pub ids: Vec<u32>,
    /// Their probabilities: `[k]`.
    pub probabilities: Vec<f64>,
    /// Logits relative to the largest: `[k]`.
    pub logits: Vec<f32>,
    /// Mass of all other classes; with the head's it sums to 1.
    pub tail_mass: f64,
    /// Number of other classes.
    pub tail_classes: usize,
}

/// Decodes the target of one position of a sample at `temperature`; at 1, or that of a sampled cache, where
/// none is given.
///
/// # Errors
/// [`ShowError`].
pub fn show(
    dir: &Path,
    sample: SampleId,
    position: u32,
    temperature: Option<Temperature>,
) -> Result<ShowReport, ShowError> {
    let reader = CacheReader::open_partial(dir)?;
    let drawn = reader.manifest().draws().map(|draws| draws.temperature());
    let temperature = temperature.or(drawn).unwrap_or(Temperature::ONE);
    reader.manifest().require_covered(temperature)?;
    let Some(row) = reader.row_of(sample, 0)? else {
        let shards = &reader.manifest().shards;
        let last = shards.last().map_or(0, |shard| {
            let samples = shard.rows.div_ceil(u64::from(reader.manifest().views));
            shard.first_sample + samples.saturating_sub(1)
        });
        let first = shards.first().map_or(0, |shard| shard.first_sample);
        let samples = reader.rows() / u64::from(reader.manifest().views);
        return Err(ShowError::Sample { sample, samples, first, last });
    };
    let mut targets = TargetBatch::default();
    reader.gather(&[row], &mut targets)?;
    let (at, positions) = (position as usize, targets.rows);
    if at >= positions {
        return Err(ShowError::Position { sample, position, positions });
    }
    let (ids, values, curve) = targets.row(at);
    let manifest = reader.manifest();
    let target =
        PositionTarget { classes: manifest.classes, ids, values, nodes: &manifest.tail.nodes, curve };
    let decoded = target.decode(temperature);
    Ok(ShowReport {
        sample: sample.0,
        position,
        temperature: temperature.get(),
        token: reader.tokens(row)?.map(|row| row.tokens[at]),
        label: reader.label(row)?,
        ids: ids.to_vec(),
        probabilities: decoded.probabilities,
        logits: values.to_vec(),
        tail_mass: decoded.tail_mass,
        tail_classes: manifest.classes - ids.len(),
    })
}
