//! `kd-cache convert`: the same targets in another form.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use schemars::JsonSchema;
use serde::Serialize;

use super::prepass::fit_codes;
use super::{InspectReport, Progress};
use crate::cache::{
    Beginnings, CacheError, CacheReader, CacheWriter, Coding, Found, Manifest, ShardRows, read_encoder,
};
use crate::config::{DEFAULT_CURVE_STEP, DEFAULT_STEP, DEFAULT_STEP_GROWTH, StorageForm, ValueEncoding};
use crate::encoding::{Codebook, StepsError};
use crate::ids::{SampleId, ShardIndex};
use crate::permutation::Permutation;
use crate::target::TargetBatch;

/// Stream of the seed from which rows are drawn to fit codes to; the tail model's sample is stream 0.
const STREAM: u64 = 3;
/// Rows that codes are fitted to, and positions at most.
const CODE_ROWS: u64 = 4096;
const CODE_POSITIONS: u64 = 1 << 16;

/// Why a cache could not be converted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConvertError {
    /// One of the caches.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// A step that no cache is written with.
    #[error("--step, --step-growth, --curve-step: {0}")]
    Steps(#[from] StepsError),
    /// Draws are no logits.
    #[error(
        "--values {asked}: expected {kept}, as the values of {path} are: how often classes were drawn, and no logits"
    )]
    Values {
        /// The cache.
        path: std::path::PathBuf,
        /// What was asked for.
        asked: &'static str,
        /// What they are.
        kept: &'static str,
    },
    /// A cache within another is none.
    #[error("TO: expected a folder outside of the cache {path}, found one in it")]
    Inside {
        /// The cache.
        path: std::path::PathBuf,
    },
    /// Steps of what does not become quantized.
    #[error(
        "--{option}: expected --values quantized of values that are not yet, found {kept} ones in {path} that are not to be; \
         leave it out"
    )]
    Superfluous {
        /// The cache.
        path: std::path::PathBuf,
        /// What was given.
        option: &'static str,
        /// What they are.
        kept: &'static str,
    },
}

/// What the other cache is to be like.
#[derive(Clone, Debug)]
pub struct ConvertSettings {
    /// The form of its shards.
    pub form: StorageForm,
    /// What its logits and curves are; those of the cache it is made from unless given.
    pub values: Option<ValueEncoding>,
    /// The step of logits that become quantized, in nats; unless given [`DEFAULT_STEP`].
    pub step: Option<f64>,
    /// By how much of it each further step is larger; unless given [`DEFAULT_STEP_GROWTH`].
    pub step_growth: Option<f64>,
    /// The step of curves that become quantized, in nats; unless given [`DEFAULT_CURVE_STEP`].
    pub curve_step: Option<f64>,
    /// The zstd level of Parquet.
    pub level: i32,
}

/// What was converted.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct ConvertReport {
    /// Whether the targets are the same, bit for bit.
    pub lossless: bool,
    /// Whether every shard is there; otherwise the same command goes on where it was.
    pub complete: bool,
    /// Bytes of the cache it was made from.
    pub bytes_before: u64,
    /// Wall-clock time of this run.
    pub seconds: f64,
    /// What the new cache is.
    pub cache: InspectReport,
}

/// Writes the cache in `from` to `to` as `settings` have it, or goes on with an interrupted run.
///
/// Rows, shards and tail model stay as they are. Unless other values than single precision are asked for, every target comes out
/// bit for bit the same.
///
/// # Errors
/// [`ConvertError`].
pub fn convert(
    from: &Path,
    to: &Path,
    settings: &ConvertSettings,
    stop: &AtomicBool,
    progress: &dyn Progress,
) -> Result<ConvertReport, ConvertError> {
    let begun = Instant::now();
    let reader = CacheReader::open(from)?;
    // Of a path that is not there yet, the deepest folder that is says where it will lie.
    let real = |path: &Path| path.canonicalize().ok();
    let lies = std::path::absolute(to).ok().and_then(|to| to.ancestors().find_map(real));
    if real(from).zip(lies).is_some_and(|(cache, lies)| lies.starts_with(cache)) {
        return Err(ConvertError::Inside { path: from.to_owned() });
    }
    let source = reader.manifest();
    let plan = plan(source, settings, from)?;
    // Single precision has every number of half precision, and what steps are read as.
    let lossless = [source.storage.values, ValueEncoding::F32].contains(&plan.storage.values);
    let bytes_before = source.bytes();
    let report = |manifest: &Manifest| ConvertReport {
        lossless,
        complete: manifest.complete,
        bytes_before,
        seconds: begun.elapsed().as_secs_f64(),
        cache: InspectReport::of_manifest(manifest),
    };
    let mut writer = match CacheWriter::open_or_mend(to, plan, settings.level)? {
        Found::Complete(manifest) => return Ok(report(&manifest)),
        Found::Writer(writer) => *writer,
    };
    if !writer.is_planned() {
        reader.check_beside()?;
        let codebook = codebook(&reader, writer.manifest())?;
        let (model, encoder) = (reader.tail_model(), read_encoder(from, source)?);
        writer.begin(Beginnings { model, encoder: encoder.as_ref(), codebook: codebook.as_ref() })?;
    }
    progress.phase("convert", source.rows(), writer.manifest().committed_rows());
    loop {
        let before = writer.manifest().committed_rows();
        if writer.missing()?.is_empty() {
            break;
        }
        progress.advance(writer.manifest().committed_rows() - before);
        if stop.load(Ordering::Relaxed) {
            progress.finish();
            let report = report(writer.manifest());
            writer.abandon()?;
            return Ok(report);
        }
        let rows = rows(&reader, writer.next_shard())?;
        writer.commit_shard(&rows)?;
        progress.advance(rows.sample_ids.len() as u64);
    }
    progress.finish();
    Ok(report(&writer.finish()?))
}

/// The other cache's manifest before anything is in it.
fn plan(source: &Manifest, settings: &ConvertSettings, from: &Path) -> Result<Manifest, ConvertError> {
    let mut plan = source.clone();
    plan.complete = false;
    plan.shards.clear();
    (plan.tail.model, plan.tail.encoder) = (None, None);
    plan.storage.codebook = None;
    plan.storage.form = settings.form;
    let (kept, values) = (source.storage.values, settings.values.unwrap_or(source.storage.values));
    if kept == ValueEncoding::Counts && values != kept {
        return Err(ConvertError::Values {
            path: from.to_owned(),
            asked: values.as_str(),
            kept: kept.as_str(),
        });
    }
    let ConvertSettings { step, step_growth, curve_step, .. } = *settings;
    if values == ValueEncoding::Quantized && kept != values {
        plan.storage.step = Some(step.unwrap_or(DEFAULT_STEP));
        plan.storage.curve_step = Some(curve_step.unwrap_or(DEFAULT_CURVE_STEP));
        plan.storage.step_growth =
            Some(step_growth.unwrap_or(DEFAULT_STEP_GROWTH)).filter(|growth| *growth != 0.0);
    } else {
        let given = [("step", step), ("step-growth", step_growth), ("curve-step", curve_step)];
        if let Some((option, _)) = given.into_iter().find(|(_, given)| given.is_some()) {
            return Err(ConvertError::Superfluous { path: from.to_owned(), option, kept: kept.as_str() });
        }
    }
    if values != ValueEncoding::Quantized {
        (plan.storage.step, plan.storage.step_growth, plan.storage.curve_step) = (None, None, None);
    }
    plan.storage.values = values;
    plan.scale()?;
    plan.format_version = plan.version();
    Ok(plan)
}

/// The codes of the other cache: those there are, or fitted to a seeded sample of its rows.
fn codebook(reader: &CacheReader, plan: &Manifest) -> Result<Option<Codebook>, ConvertError> {
    if plan.scale()?.is_none() {
        return Ok(None);
    }
    if let Some(codebook) = Coding::read(reader.dir(), reader.manifest())?.into_codebook() {
        return Ok(Some(codebook));
    }
    let order = Permutation::new(reader.rows(), plan.seed, STREAM);
    let manifest = reader.manifest();
    // Whole rows: a row of many positions counts for many.
    let of_a_row = (manifest.positions / reader.rows().max(1)).max(1);
    let few = CODE_ROWS.min(CODE_POSITIONS.div_ceil(of_a_row)).min(reader.rows());
    let mut rows: Vec<u64> = (0..few).map(|at| order.at(at)).collect();
    rows.sort_unstable();
    let (mut sample, mut of_shard) = (TargetBatch::default(), TargetBatch::default());
    for (reader, rows) in reader.by_shard(&rows) {
        reader.gather(rows, &mut of_shard)?;
        sample.extend(&of_shard);
    }
    Ok(fit_codes(plan, &sample, reader.tail_model()))
}

/// The rows of a shard.
fn rows(reader: &CacheReader, index: ShardIndex) -> Result<ShardRows, CacheError> {
    // What is damaged would be sound from then on.
    reader.check_shard(index)?;
    let reader = reader.of_shard(index);
    let shard = reader.shard(index)?;
    let first: u64 = reader.manifest().shards[..index.as_usize()].iter().map(|shard| shard.rows).sum();
    let range = first..first + shard.sample_ids().len() as u64;
    let mut rows = ShardRows {
        sample_ids: shard.sample_ids().iter().map(|id| SampleId(*id)).collect(),
        views: shard.views().to_vec(),
        labels: shard.labels().map(<[u32]>::to_vec).unwrap_or_default(),
        ..ShardRows::default()
    };
    if reader.manifest().dataset.tokens.is_some() {
        for row in range.clone() {
            rows.tokens.extend(reader.tokens(row)?);
        }
    }
    let of_shard = 0..shard.sample_ids().len();
    let features = 0..reader.manifest().features.len();
    rows.features = features.filter_map(|feature| shard.feature(feature, of_shard.clone())).collect();
    reader.gather(&range.collect::<Vec<u64>>(), &mut rows.targets)?;
    Ok(rows)
}
