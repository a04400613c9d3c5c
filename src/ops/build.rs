//! `kd-cache build`: runs the teacher once over a dataset and keeps what it says.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use schemars::JsonSchema;
use serde::Serialize;

use super::source::{Source, SourceError};
use super::{InspectReport, Progress, pipeline};
use crate::cache::{Beginnings, CacheError, CacheWriter, EncoderTable, Found, Manifest, read_tail_model};
use crate::config::CacheConfig;
use crate::encoding::{Codebook, Steps};
use crate::tail_model::{FitError, Fitted, TailEncoder, TailFit};
use crate::target::{TargetBatch, Temperature};

/// Stream of the seed from which the sample is drawn.
const STREAM: u64 = 0;

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
    /// Samples that an earlier, interrupted run had committed, each view of them counted.
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
    let mut writer = match CacheWriter::open(dir, source.plan(config)?, config.storage.level)? {
        Found::Complete(manifest) => {
            let run = Run { begun, main: Duration::ZERO, before: Committed::of(&manifest) };
            return Ok(run.report(BuildOutcome::AlreadyComplete, &manifest));
        }
        Found::Writer(writer) => *writer,
    };
    if !writer.is_planned() {
        let fitted = fit(&mut source, &writer, stop, progress)
            .and_then(|fitted| begin(&mut writer, fitted).map_err(BuildError::from));
        match fitted {
            Ok(true) => {}
            Ok(false) => {
                let run = Run { begun, main: Duration::ZERO, before: Committed::default() };
                let report = run.report(BuildOutcome::Interrupted, writer.manifest());
                writer.abandon()?;
                return Ok(report);
            }
            Err(error) => {
                writer.abandon()?;
                return Err(error);
            }
        }
    }
    source.reading.encoder = encoder(&writer, dir)?;
    let before = Committed::of(writer.manifest());
    let main = Instant::now();
    progress.phase("teacher", source.samples.rows(), before.samples);
    let ended = pipeline::run(&mut source, &mut writer, stop, progress);
    progress.finish();
    let ended = ended?;
    let run = Run { begun, main: main.elapsed(), before };
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
    fn of(manifest: &Manifest) -> Self {
        let samples = manifest.shards.iter().map(|shard| shard.rows).fold(0, u64::saturating_add);
        Self { samples, positions: manifest.committed_positions() }
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

/// What came of the pre-pass.
enum Pass {
    Done {
        /// `None` when the head holds every class.
        fitted: Option<Box<Fitted>>,
        /// `None` for floats.
        codebook: Option<Box<Codebook>>,
    },
    Interrupted,
}

/// Commits tail model and codebook; returns whether the build goes on.
fn begin(writer: &mut CacheWriter, pass: Pass) -> Result<bool, CacheError> {
    match pass {
        Pass::Interrupted => Ok(false),
        Pass::Done { fitted, codebook } => {
            let fitted = fitted.as_deref();
            let table = fitted.and_then(|fitted| fitted.encoder.as_ref()).map(|encoder| EncoderTable {
                mean: encoder.mean().to_vec(),
                weights: encoder.weights().to_vec(),
            });
            let model = fitted.map(|fitted| &fitted.model);
            writer.begin(Beginnings { model, encoder: table.as_ref(), codebook: codebook.as_deref() })?;
            Ok(true)
        }
    }
}

/// What gives positions their codes. Read from the files and not taken from the fit, so that an
/// interrupted build goes on with exactly what it began with.
fn encoder(writer: &CacheWriter, dir: &Path) -> Result<Option<TailEncoder>, BuildError> {
    let manifest = writer.manifest();
    let (Some(table), Some(model)) = (writer.encoder()?, read_tail_model(dir, manifest)?) else {
        return Ok(None);
    };
    let positions = manifest.tail.fit_samples as usize;
    let shape = model.shape().ok_or(FitError::NotFinite { positions })?;
    let encoder = TailEncoder::new(shape.rank(), table.mean, table.weights, shape.basis());
    Ok(Some(encoder.ok_or(FitError::NotFinite { positions })?))
}

/// The pre-pass: fits the tail model and the codes on a seeded sample, in the order of the dataset.
fn fit(
    source: &mut Source,
    writer: &CacheWriter,
    stop: &AtomicBool,
    progress: &dyn Progress,
) -> Result<Pass, BuildError> {
    let plan = writer.manifest();
    let steps = plan.steps().ok().flatten();
    if !plan.has_tail() && steps.is_none() {
        return Ok(Pass::Done { fitted: None, codebook: None });
    }
    let positions = plan.tail.fit_samples;
    let drawn = source.samples.draw(positions, plan.seed, STREAM)?;
    let new_fit =
        || TailFit::new(plan.classes, plan.head.k, &plan.tail.nodes, plan.tail.rank, &writer.scratch());
    let mut fit = plan.has_tail().then(new_fit).transpose()?;
    let mut sample = TargetBatch::default();
    progress.phase("tail model", positions, 0);
    for wanted in drawn.chunks(source.batch) {
        if stop.load(Ordering::Relaxed) {
            progress.finish();
            return Ok(Pass::Interrupted);
        }
        source.ask(wanted, |logits, targets| {
            if let Some(fit) = &mut fit {
                fit.add(logits, targets)?;
            }
            sample.extend(targets);
            progress.advance(targets.rows as u64);
            Ok::<(), BuildError>(())
        })?;
    }
    progress.finish();
    if plan.tail.rank > 0 {
        let (rank, positions) = (plan.tail.rank, sample.rows);
        progress.say(&format!("tail model: fitting {rank} directions to {positions} positions"));
    }
    let fitted = fit.map(TailFit::finish).transpose()?;
    if let Some(fitted) = &fitted {
        sample.rank = plan.tail.rank;
        sample.codes.clone_from(&fitted.codes);
    }
    let popularity = fitted.as_ref().map(|fitted| fitted.model.prior().at(Temperature::ONE));
    let codes = |steps: &Steps| {
        Codebook::fit(plan.code_layout(), steps.curve(), &steps.quantise(&sample), popularity.as_deref())
    };
    Ok(Pass::Done { fitted: fitted.map(Box::new), codebook: steps.as_ref().map(codes).map(Box::new) })
}
