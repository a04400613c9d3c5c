//! `kd-cache build`: runs the teacher once over a dataset and keeps what it says.

use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use schemars::JsonSchema;
use serde::Serialize;

use super::source::{Source, SourceError};
use super::{InspectReport, Progress, apart, other_tokenizer, pipeline, prepass, steady};
use crate::cache::{CacheError, CacheWriter, Found, Manifest, ShardEntry, read_encoder, read_tail_model};
use crate::config::{CacheConfig, NumberOrAuto, OutputKind};
use crate::tail_model::{FitError, TailEncoder};

/// Why a cache could not be built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// Data, preprocessing or teacher.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The cache on disk.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// The tail model.
    #[error(transparent)]
    Fit(#[from] FitError),
}

/// How a build ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum BuildOutcome {
    /// The cache is complete.
    Built,
    /// The cache was complete before; nothing was done.
    AlreadyComplete,
    /// Tail model and codes are there, and no more was asked for.
    Fitted,
    /// Stopped on request; what was committed is kept and resumed by the next build.
    Interrupted,
}

/// What a build did.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct BuildReport {
    /// How it ended.
    pub outcome: BuildOutcome,
    /// Samples predicted in this run, each view of them counted, the tail model's sample not.
    pub samples_done: u64,
    /// Samples that were there before, of an interrupted run or of a whole cache that had lost others; each view of them
    /// counted.
    pub samples_resumed: u64,
    /// Wall-clock time of this run, loading included.
    pub seconds: f64,
    /// `samples_done` per second of the main pass.
    pub samples_per_second: f64,
    /// The same in positions.
    pub positions_per_second: f64,
    /// What the cache is now.
    pub cache: InspectReport,
}

/// How far a build is to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BuildUntil {
    /// Until tail model and codes are fitted, which other builds can then take (`tail.from`).
    Fitted,
    /// Until the cache is complete.
    Complete,
}

/// Builds the cache that `config` describes in `dir`, or goes on with an interrupted one.
///
/// `stop` is looked at between batches; when it is set, the shard at hand is given up and the
/// outcome is [`BuildOutcome::Interrupted`].
///
/// # Errors
/// [`BuildError`]. Faults of data and teacher that show in the first batch or in the tail
/// model's sample leave nothing behind; later ones leave the shards committed so far.
pub fn build(
    config: &CacheConfig,
    dir: &Path,
    until: BuildUntil,
    stop: &AtomicBool,
    progress: &dyn Progress,
) -> Result<BuildReport, BuildError> {
    let begun = Instant::now();
    let mut source = Source::open(config, CacheWriter::batch_kept_in(dir)?)?;
    if config.teacher.batch == Some(NumberOrAuto::Auto) {
        progress.say(&format!("teacher.batch = \"auto\": {} samples in a forward pass", source.batch));
    }
    if let Some(slower) = &source.slower {
        progress.say(&format!("warning: {slower}"));
    }
    let (plan, level) = (source.plan(config)?, config.storage.level);
    let found = match until {
        BuildUntil::Fitted => CacheWriter::open(dir, plan, level),
        BuildUntil::Complete => CacheWriter::open_or_mend(dir, plan, level),
    };
    let mut writer = match found? {
        Found::Complete(manifest) => {
            let run = Run { begun, main: Duration::ZERO, before: Committed::of(&manifest) };
            return Ok(run.report(BuildOutcome::AlreadyComplete, &manifest));
        }
        Found::Writer(writer) => *writer,
    };
    match writer.lost() {
        0 => {}
        lost => progress
            .say(&format!("{}: {lost} of its shards are missing or cut, and are made again", dir.display())),
    }
    if config.teacher.output_kind == OutputKind::Auto {
        let kind = source.reading.output.as_str();
        progress.say(&format!("teacher.output_kind = \"auto\": the teacher's outputs are taken as {kind}"));
    }
    if !writer.is_planned() {
        source.samples.notes().iter().for_each(|note| progress.say(note));
        let doubt = source.reading.doubt.take();
        let tokenizer = other_tokenizer::warning(config, &source.samples);
        let warnings = [doubt, tokenizer, apart::warning(&mut source), steady::warning(&mut source)];
        warnings.iter().flatten().for_each(|warning| progress.say(warning));
        let fitted = prepass::run(&mut source, &mut writer, stop, progress);
        match fitted {
            Ok(true) => {}
            Ok(false) => {
                let run = Run { begun, main: Duration::ZERO, before: Committed::default() };
                let report = run.report(BuildOutcome::Interrupted, writer.manifest());
                writer.abandon()?;
                return Ok(report);
            }
            Err(error) => {
                // What went wrong first is what is told.
                _ = writer.abandon();
                return Err(error);
            }
        }
    }
    let before = Committed::of(writer.manifest());
    if until == BuildUntil::Fitted {
        let run = Run { begun, main: Duration::ZERO, before };
        return Ok(run.report(BuildOutcome::Fitted, writer.manifest()));
    }
    source.reading.encoder = encoder(&writer, dir)?;
    let main = Instant::now();
    progress.phase("teacher", source.samples.rows(), before.samples);
    let ended = pipeline::run(&mut source, &mut writer, stop, progress);
    progress.finish();
    let ended = ended?;
    let run = Run { begun, main: main.elapsed(), before: before.and(writer.adopted()) };
    if !ended && (writer.manifest().shards.len() as u64) < writer.manifest().expected_shards() {
        let report = run.report(BuildOutcome::Interrupted, writer.manifest());
        writer.abandon()?;
        return Ok(report);
    }
    let manifest = writer.finish()?;
    Ok(run.report(BuildOutcome::Built, &manifest))
}

/// What is in the shards of a cache.
#[derive(Clone, Copy, Default)]
struct Committed {
    samples: u64,
    positions: u64,
}

impl Committed {
    /// And what shards of these sizes hold.
    fn and(self, shards: &[ShardEntry]) -> Self {
        Self {
            samples: self.samples + shards.iter().map(|shard| shard.rows).sum::<u64>(),
            positions: self.positions + shards.iter().map(ShardEntry::positions).sum::<u64>(),
        }
    }

    fn of(manifest: &Manifest) -> Self {
        Self { samples: manifest.committed_rows(), positions: manifest.committed_positions() }
    }
}

/// How long a run took, and what was there before it.
struct Run {
    begun: Instant,
    /// Of the main pass.
    main: Duration,
    before: Committed,
}

impl Run {
    fn report(&self, outcome: BuildOutcome, manifest: &Manifest) -> BuildReport {
        let (before, after) = (self.before, Committed::of(manifest));
        let rate = |done: u64| if self.main.is_zero() { 0.0 } else { done as f64 / self.main.as_secs_f64() };
        BuildReport {
            outcome,
            samples_done: after.samples - before.samples,
            samples_resumed: before.samples,
            seconds: self.begun.elapsed().as_secs_f64(),
            samples_per_second: rate(after.samples - before.samples),
            positions_per_second: rate(after.positions - before.positions),
            cache: InspectReport::of_manifest(manifest),
        }
    }
}

/// What gives positions their codes. Read from the files and not taken from the fit, so that an
/// interrupted build goes on with exactly what it began with.
fn encoder(writer: &CacheWriter, dir: &Path) -> Result<Option<TailEncoder>, BuildError> {
    let manifest = writer.manifest();
    let (Some(table), Some(model)) = (read_encoder(dir, manifest)?, read_tail_model(dir, manifest)?) else {
        return Ok(None);
    };
    let positions = manifest.tail.fit_samples as usize;
    let encoder = prepass::encoder(table, &model).ok_or(FitError::NotFinite { positions })?;
    Ok(Some(encoder))
}
