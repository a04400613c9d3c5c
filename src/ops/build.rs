//! `kd-cache build`: runs the teacher once over a dataset and keeps what it says.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use schemars::JsonSchema;
use serde::Serialize;

use super::source::{Source, SourceError};
use super::{InspectReport, Progress, pipeline};
use crate::cache::{CacheError, CacheWriter, Found, Manifest};
use crate::config::CacheConfig;
use crate::ids::SampleId;
use crate::permutation::Permutation;
use crate::tail_model::PriorFit;
use crate::target::TailPrior;

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
    /// The sample had no tail to fit.
    #[error(
        "the tail prior could not be fitted: the sample of {samples} samples gives no finite log-weights"
    )]
    Prior {
        /// Samples asked for.
        samples: u64,
    },
}

/// How a build ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum BuildOutcome {
    /// The cache is complete.
    Built,
    /// The cache was complete before; nothing was done.
    AlreadyComplete,
    /// Stopped on request; what was committed is kept and resumed by the next build.
    Interrupted,
}

/// What a build did.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct BuildReport {
    /// How it ended.
    pub outcome: BuildOutcome,
    /// Samples predicted in this run, the tail model's sample not counted.
    pub samples_done: u64,
    /// Samples that an earlier, interrupted run had committed.
    pub samples_resumed: u64,
    /// Wall-clock time of this run, loading included.
    pub seconds: f64,
    /// `samples_done` per second of the main pass.
    pub samples_per_second: f64,
    /// What the cache is now.
    pub cache: InspectReport,
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
    stop: &AtomicBool,
    progress: &dyn Progress,
) -> Result<BuildReport, BuildError> {
    let begun = Instant::now();
    let mut source = Source::open(config)?;
    let mut writer = match CacheWriter::open(dir, source.plan(config)?)? {
        Found::Complete(manifest) => {
            return Ok(report(
                BuildOutcome::AlreadyComplete,
                &manifest,
                0,
                manifest.samples,
                begun,
                Duration::ZERO,
            ));
        }
        Found::Writer(writer) => *writer,
    };
    if !writer.is_planned() {
        let begin =
            fit_prior(&mut source, writer.manifest(), stop, progress).and_then(|fitted| match fitted {
                Fitted::Interrupted => Ok(false),
                Fitted::NoTail => writer.begin(None).map(|()| true).map_err(BuildError::from),
                Fitted::Prior(prior) => writer.begin(Some(&prior)).map(|()| true).map_err(BuildError::from),
            });
        match begin {
            Ok(true) => {}
            Ok(false) => {
                let report =
                    report(BuildOutcome::Interrupted, writer.manifest(), 0, 0, begun, Duration::ZERO);
                writer.abandon()?;
                return Ok(report);
            }
            Err(error) => {
                writer.abandon()?;
                return Err(error);
            }
        }
    }
    let committed = |manifest: &Manifest| manifest.shards.iter().map(|shard| shard.rows).sum::<u64>();
    let resumed = committed(writer.manifest());
    let main = Instant::now();
    progress.phase("teacher", writer.manifest().samples, resumed);
    let ended = pipeline::run(&mut source, &mut writer, stop, progress);
    progress.finish();
    let ended = ended?;
    let elapsed = main.elapsed();
    let done = committed(writer.manifest()) - resumed;
    if !ended && (writer.manifest().shards.len() as u64) < writer.manifest().expected_shards() {
        let report = report(BuildOutcome::Interrupted, writer.manifest(), done, resumed, begun, elapsed);
        writer.abandon()?;
        return Ok(report);
    }
    let manifest = writer.finish()?;
    Ok(report(BuildOutcome::Built, &manifest, done, resumed, begun, elapsed))
}

fn report(
    outcome: BuildOutcome,
    manifest: &Manifest,
    done: u64,
    resumed: u64,
    begun: Instant,
    main: Duration,
) -> BuildReport {
    let rate = if main.is_zero() { 0.0 } else { done as f64 / main.as_secs_f64() };
    BuildReport {
        outcome,
        samples_done: done,
        samples_resumed: resumed,
        seconds: begun.elapsed().as_secs_f64(),
        samples_per_second: rate,
        cache: InspectReport::of_manifest(manifest),
    }
}

enum Fitted {
    Prior(TailPrior),
    NoTail,
    Interrupted,
}

/// The pre-pass: fits the tail prior on a seeded sample, in the order of the dataset.
fn fit_prior(
    source: &mut Source,
    plan: &Manifest,
    stop: &AtomicBool,
    progress: &dyn Progress,
) -> Result<Fitted, BuildError> {
    if !plan.has_tail() {
        return Ok(Fitted::NoTail);
    }
    let samples = plan.tail.fit_samples;
    let order = Permutation::new(source.dataset.len(), plan.seed, 0);
    let mut chosen: Vec<SampleId> = (0..samples).map(|at| source.dataset.id_at(order.at(at))).collect();
    chosen.sort_unstable();
    let mut fit = PriorFit::new(plan.classes, plan.head.k, &plan.tail.nodes);
    progress.phase("tail model", samples, 0);
    for ids in chosen.chunks(source.batch) {
        if stop.load(Ordering::Relaxed) {
            progress.finish();
            return Ok(Fitted::Interrupted);
        }
        let (logits, targets) = source.ask(ids)?;
        fit.add(&logits, &targets);
        progress.advance(ids.len() as u64);
    }
    progress.finish();
    fit.finish().map(Fitted::Prior).ok_or(BuildError::Prior { samples })
}
