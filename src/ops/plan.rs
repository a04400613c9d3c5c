//! `kd-cache plan`: what a build will take, before anything heavy runs or anything is written.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use schemars::JsonSchema;
use serde::Serialize;

use super::Progress;
use super::keep::Keep;
use super::prepass;
use super::source::{Source, SourceError};
use crate::cache::format::tail_model_bytes;
use crate::cache::{CacheError, FeatureLayout, Manifest, ShardRows, TokenRow, measure_shard};
use crate::config::CacheConfig;
use crate::ids::{Position, SampleId, SampleView};
use crate::tail_model::TailFit;

/// Head sizes that are told beside the config's, as far as there are more classes.
const HEADS: [usize; 6] = [4, 8, 12, 16, 32, 64];

/// Why a build could not be planned.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PlanError {
    /// Data, preprocessing or teacher.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// A shard could not be tried.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// A price that is none.
    #[error("--price-per-hour: expected a number from 0 up, found {found}")]
    Price {
        /// What was given.
        found: f64,
    },
    /// The free space could not be asked for.
    #[error("--out: cannot tell the free space of {path}")]
    Space {
        /// The folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// What is to be planned beside the config.
#[derive(Clone, Debug)]
pub struct PlanSettings {
    /// Batches to measure the teacher on, at least one.
    pub batches: usize,
    /// Where the cache is to lie, if it is to be said whether it fits.
    pub out: Option<PathBuf>,
    /// Price of an hour of this machine, in any currency.
    pub price_per_hour: Option<f64>,
}

/// How fast the teacher is.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, JsonSchema)]
pub struct TeacherRate {
    /// Batches measured, after one to warm up.
    pub batches: usize,
    /// Samples in each.
    pub batch: usize,
    /// Samples per second of the teacher alone; by the median batch, as all rates here.
    pub teacher_samples_per_second: f64,
    /// Samples per second when each batch is read, predicted and selected from, one after the
    /// other.
    pub samples_per_second: f64,
    /// The same in positions.
    pub positions_per_second: f64,
}

/// What a head size costs.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, JsonSchema)]
pub struct PlanSize {
    /// Classes kept exactly.
    pub k: usize,
    /// Whether it is the config's.
    pub configured: bool,
    /// Bytes of a position in all columns; where they depend on what is in them, estimated on the last
    /// batch that was measured, with a byte for each number of a tail code (they take a little less).
    pub bytes_per_position: f64,
    /// Bytes of the whole cache, tail model and files' overhead included; an upper bound where columns are
    /// of fixed width.
    pub bytes: u64,
}

/// How long a build will take at [`TeacherRate::samples_per_second`].
///
/// An estimate: what else the machine does is not known, and a build reads and selects while the
/// teacher predicts, which saves time where cores are to spare. Fitting the tail model, once the
/// teacher has been asked, is not in it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, JsonSchema)]
pub struct PlanTime {
    /// Hours for the sample that tail model and codes are fitted to; 0 where none is asked about.
    pub tail_model_hours: f64,
    /// Hours for the main pass.
    pub main_pass_hours: f64,
    /// Hours for both.
    pub hours: f64,
    /// Their price; absent unless the price of an hour is given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cost: Option<f64>,
}

/// What a build will take.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct PlanReport {
    /// Samples of the dataset.
    pub samples: u64,
    /// Predictions to be kept.
    pub positions: u64,
    /// Classes the teacher tells apart.
    pub classes: usize,
    /// Positions from which tail model and codes will be fitted; 0 where there are neither, or those of another cache
    /// are taken.
    pub fit_samples: u64,
    /// Bytes of the file that holds this sample in the cache's folder while a tail model with codes is fitted.
    pub scratch_bytes: u64,
    /// Shards to be written.
    pub shards: u64,
    /// Teacher: runtime and version.
    pub runtime: String,
    /// Device it runs on.
    pub device: String,
    /// How fast it is.
    pub rate: TeacherRate,
    /// How long the build will take.
    pub time: PlanTime,
    /// What the config's head size costs, and others.
    pub sizes: Vec<PlanSize>,
    /// Free bytes where the cache is to lie; absent unless that is given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub free_bytes: Option<u64>,
}

impl PlanReport {
    /// What the config's head size costs.
    pub fn configured(&self) -> Option<&PlanSize> {
        self.sizes.iter().find(|size| size.configured)
    }

    /// Whether the cache, and before it the sample of its fit, will fit into what is free; `None` unless that is known.
    pub fn fits(&self) -> Option<bool> {
        Some(self.configured()?.bytes.max(self.scratch_bytes) <= self.free_bytes?)
    }
}

/// Plans the build that `config` describes: asks the teacher about a few batches and writes nothing.
///
/// # Errors
/// [`PlanError`]. What would stop the build at its first batch stops the plan.
pub fn plan(
    config: &CacheConfig,
    settings: &PlanSettings,
    progress: &dyn Progress,
) -> Result<PlanReport, PlanError> {
    if let Some(found) = settings.price_per_hour.filter(|price| !(price.is_finite() && *price >= 0.0)) {
        return Err(PlanError::Price { found });
    }
    // Both can fail, and neither takes as long as a teacher.
    let free_bytes = settings.out.as_deref().map(free_bytes).transpose()?.flatten();
    let mut source = Source::open(config, None)?;
    let manifest = source.plan(config)?;
    let (rate, logits) = measure(&mut source, settings.batches, progress)?;
    let (fitting, coding) = prepass::needs(source.inherited.as_ref(), &manifest);
    let fit_samples = if fitting || coding { manifest.tail.fit_samples } else { 0 };
    let scratch = TailFit::scratch_bytes(manifest.classes, manifest.tail.rank, fit_samples);
    let hours = |rows: u64| rows as f64 / rate.samples_per_second / 3600.0;
    // Of a row of tokens only some positions are drawn, but all are predicted.
    let drawn = source.samples.draw(fit_samples, manifest.seed, prepass::STREAM)?.len() as u64;
    let (tail_model_hours, main_pass_hours) = (hours(drawn), hours(manifest.rows()));
    Ok(PlanReport {
        samples: manifest.samples,
        positions: manifest.positions,
        classes: manifest.classes,
        fit_samples,
        scratch_bytes: if fitting { scratch } else { 0 },
        shards: manifest.expected_shards(),
        runtime: manifest.teacher.runtime.clone(),
        device: manifest.teacher.device.clone(),
        rate,
        time: PlanTime {
            tail_model_hours,
            main_pass_hours,
            hours: tail_model_hours + main_pass_hours,
            cost: settings.price_per_hour.map(|price| price * (tail_model_hours + main_pass_hours)),
        },
        sizes: sizes(&manifest, &logits, config.storage.level)?,
        free_bytes,
    })
}

/// The head sizes worth telling, rising, each with what it costs.
fn sizes(manifest: &Manifest, logits: &[f32], level: i32) -> Result<Vec<PlanSize>, PlanError> {
    let configured = manifest.head.k;
    let mut heads: Vec<usize> = HEADS.into_iter().filter(|k| *k < manifest.classes).collect();
    // Of draws there is one number, and no head that others could be compared with.
    heads.retain(|_| manifest.head.draws.is_none());
    heads.push(configured);
    heads.sort_unstable();
    heads.dedup();
    let size = |k: usize| {
        let mut manifest = manifest.clone();
        manifest.head.k = k;
        let columns = manifest.columns();
        let row = match columns.bytes_per_row() {
            Some(bytes) => bytes as f64,
            None => {
                // Whatever is in them; in Parquet they are hardly smaller.
                let features = columns.features.iter().map(FeatureLayout::bytes_per_position);
                estimate(&manifest, logits, level)? + features.sum::<u64>() as f64
            }
        };
        let model = if columns.nodes > 0 {
            tail_model_bytes(manifest.classes, columns.nodes, columns.rank)
        } else {
            0
        };
        let framing = manifest.expected_shards().saturating_mul(columns.overhead_bytes());
        let rows = (row * manifest.positions as f64).ceil() as u64;
        let bytes = rows.saturating_add(framing).saturating_add(model);
        Ok(PlanSize { k, configured: k == configured, bytes_per_position: row, bytes })
    };
    heads.into_iter().map(size).collect()
}

/// Bytes of a position where they depend on what is in it, from the positions of `logits`.
fn estimate(manifest: &Manifest, logits: &[f32], level: i32) -> Result<f64, PlanError> {
    let classes = manifest.classes;
    let keep = Keep::new(&manifest.head, classes, &manifest.tail.nodes, manifest.seed)?;
    // What makes codes is not fitted yet.
    let codes = manifest.tail.rank as f64;
    let mut manifest = manifest.clone();
    manifest.tail.rank = 0;
    manifest.features.clear();
    // Such as the source has not refused.
    let row = SampleView { sample: SampleId(0), view: 0 };
    let positions: Vec<Position> =
        (0..logits.len() / classes).map(|at| Position { row, position: at as u32 }).collect();
    let targets = keep.targets(logits, &positions).unwrap_or_default();
    let rows = targets.rows;
    // Of tokens, all positions in a row; a token takes the same whichever it is.
    let tokens =
        manifest.dataset.tokens.is_some().then(|| TokenRow { tokens: vec![0; rows], documents: vec![0] });
    let samples = if tokens.is_some() { 1 } else { rows as u64 };
    let shard = ShardRows {
        sample_ids: (0..samples).map(SampleId).collect(),
        tokens: tokens.into_iter().collect(),
        labels: if manifest.dataset.labels.is_some() { vec![0; rows] } else { Vec::new() },
        targets,
        ..ShardRows::default()
    };
    // What a file has beside its rows: that of one without any.
    let none = ShardRows { targets: shard.targets.of(&[]), ..ShardRows::default() };
    let bytes =
        measure_shard(&manifest, &shard, level)?.saturating_sub(measure_shard(&manifest, &none, level)?);
    Ok(bytes as f64 / rows.max(1) as f64 + codes)
}

/// Asks the teacher about a batch to warm up, then about `batches` more; also the last logits of the first.
fn measure(
    source: &mut Source,
    batches: usize,
    progress: &dyn Progress,
) -> Result<(TeacherRate, Vec<f32>), SourceError> {
    let rows = source.samples.rows();
    let batch = (source.batch as u64).min(rows);
    let mut alone = Vec::with_capacity(batches);
    let mut whole = Vec::with_capacity(batches);
    let mut logits = Vec::new();
    let mut positions = 0;
    progress.phase("plan", batch * (batches as u64 + 1), 0);
    for at in 0..=batches as u64 {
        // A small dataset is gone through more than once; every batch is a full one.
        let first = at * batch;
        let here = (first..first + batch).map(|index| source.samples.row_at(index % rows)).collect();
        let begun = Instant::now();
        let prepared = source.samples.prepare(here)?;
        let all = prepared.positions();
        let (reading, mut done, mut selecting, mut failed) = (&source.reading, 0, Duration::ZERO, None);
        let asked = Instant::now();
        source.model.forward(&prepared, &mut |output| {
            output.values.wait();
            let selected = Instant::now();
            let here = done..done + output.rows;
            done = here.end;
            let read = match at {
                0 => output.parts().try_fold(here.start, |start, part| {
                    let end = start + part.rows;
                    logits = reading.read(part, &all[start..end])?.0.into_vec();
                    Ok::<_, SourceError>(end)
                }),
                _ => reading.targets(output, &all[here.clone()]).map(|_| here.end),
            };
            failed = read.err();
            selecting += selected.elapsed();
            if failed.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        failed.map_or(Ok(()), Err)?;
        let answered = asked.elapsed().saturating_sub(selecting);
        if at > 0 {
            alone.push(answered);
            whole.push(begun.elapsed());
            positions += all.len();
        }
        progress.advance(batch);
    }
    progress.finish();
    let per_second = |times: Vec<Duration>| batch as f64 / median(times).as_secs_f64().max(1e-9);
    let samples_per_second = per_second(whole);
    let rate = TeacherRate {
        batches,
        batch: batch as usize,
        teacher_samples_per_second: per_second(alone),
        samples_per_second,
        positions_per_second: samples_per_second * positions as f64 / (batch * batches as u64).max(1) as f64,
    };
    Ok((rate, logits))
}

/// The middle one; of an even number the mean of the two in the middle. Zero for none.
fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    match (times.len() / 2, times.len() % 2) {
        (_, _) if times.is_empty() => Duration::ZERO,
        (middle, 1) => times[middle],
        (middle, _) => (times[middle - 1] + times[middle]) / 2,
    }
}

/// Free bytes for this user on the file system that `folder`, which need not exist, would lie on;
/// `None` where the system has no such question.
fn free_bytes(folder: &Path) -> Result<Option<u64>, PlanError> {
    let absolute = std::path::absolute(folder);
    let absolute = absolute.map_err(|source| PlanError::Space { path: folder.to_owned(), source })?;
    let existing = absolute.ancestors().find(|folder| folder.exists()).unwrap_or(&absolute);
    ask_free_bytes(existing).map_err(|source| PlanError::Space { path: existing.to_owned(), source })
}

#[cfg(unix)]
fn ask_free_bytes(folder: &Path) -> std::io::Result<Option<u64>> {
    let found = rustix::fs::statvfs(folder)?;
    Ok(Some(found.f_bavail.saturating_mul(found.f_frsize)))
}

#[cfg(not(unix))]
fn ask_free_bytes(_: &Path) -> std::io::Result<Option<u64>> {
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        let seconds = |list: &[u64]| list.iter().map(|s| Duration::from_secs(*s)).collect::<Vec<_>>();
        assert_eq!(median(seconds(&[])), Duration::ZERO);
        assert_eq!(median(seconds(&[3])), Duration::from_secs(3));
        // One slow batch, of a machine that did something else, counts as one.
        assert_eq!(median(seconds(&[900, 1, 2])), Duration::from_secs(2));
        assert_eq!(median(seconds(&[4, 1, 900, 2])), Duration::from_secs(3));
    }

    #[test]
    fn free_space_of_a_folder_that_is_not_there_is_that_of_the_folder_it_would_lie_in() {
        let dir = tempfile::tempdir().unwrap();
        let here = free_bytes(dir.path()).unwrap();
        let there = free_bytes(&dir.path().join("not/yet")).unwrap();
        assert_eq!((here.is_some(), there.is_some()), (cfg!(unix), cfg!(unix)));
        if let (Some(here), Some(there)) = (here, there) {
            // Others write meanwhile.
            assert!(here.abs_diff(there) < here / 10 + (1 << 30), "{here} {there}");
        }
    }
}
