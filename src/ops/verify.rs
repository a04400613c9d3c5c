//! `kd-cache verify`: whether a cache is what its manifest says, down to every row.

use std::path::Path;
use std::sync::Arc;

use rayon::prelude::*;
use schemars::JsonSchema;
use serde::Serialize;

use super::Progress;
use crate::cache::{
    CacheError, Coding, Manifest, ShardEntry, ShardReader, read_encoder, read_manifest, read_tail_model,
};
use crate::causes;
use crate::config::ValueEncoding;
use crate::digest::Digest;
use crate::encoding::{Scale, Steps};
use crate::target::TargetBatch;

/// Damages listed at most per file; the rest is counted.
const LISTED_PER_FILE: usize = 10;

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Damage {
    /// The file, inside the cache.
    pub file: String,
    /// The row in it, where it is a row.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub row: Option<u64>,
    /// The sample in that row.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sample: Option<u64>,
    /// What is wrong: expected and found.
    pub problem: String,
}

/// What was checked and found.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct VerifyReport {
    /// Whether nothing is wrong.
    pub sound: bool,
    /// Whether every shard is there.
    pub complete: bool,
    /// Files checked.
    pub files: usize,
    /// Rows checked.
    pub rows: u64,
    /// What is wrong, at most ten a file.
    pub damages: Vec<Damage>,
    /// Damages beyond those listed.
    pub unlisted: u64,
}

/// Checks every digest and every row of the cache in `dir`.
///
/// # Errors
/// [`CacheError`] when there is no cache, or it cannot be checked by this version or not be read; damage is no
/// error but a report.
pub fn verify(dir: &Path, progress: &dyn Progress) -> Result<VerifyReport, CacheError> {
    let manifest = match read_manifest(dir) {
        Ok(manifest) => manifest,
        Err(ref error @ (CacheError::Json { ref path, .. } | CacheError::Damaged { ref path, .. })) => {
            // The manifest, or what stands for it as long as a build is not finished.
            let file = path.strip_prefix(dir).unwrap_or(path).display().to_string();
            let damage = Damage { file, row: None, sample: None, problem: error.to_string() };
            let damages = vec![damage];
            return Ok(VerifyReport {
                sound: false,
                complete: false,
                files: 1,
                rows: 0,
                damages,
                unlisted: 0,
            });
        }
        Err(error) => return Err(error),
    };
    let mut found = Found::default();
    if !manifest.complete {
        let (committed, expected) = (manifest.shards.len(), manifest.expected_shards());
        let problem = format!("the build is not finished: {committed} of {expected} shards; run it again");
        found.add("manifest.json", None, None, problem);
    }
    let mut files = 1 + manifest.shards.len();
    if let Some(model) = &manifest.tail.model {
        files += 1;
        check_content(dir, &model.file, model.bytes, &model.digest, &mut found)?;
        if let Err(error) = read_tail_model(dir, &manifest) {
            found.add(&model.file, None, None, causes::told(&error));
        }
    }
    if let Some(encoder) = &manifest.tail.encoder {
        files += 1;
        check_content(dir, &encoder.file, encoder.bytes, &encoder.digest, &mut found)?;
        if let Err(error) = read_encoder(dir, &manifest) {
            found.add(&encoder.file, None, None, causes::told(&error));
        }
    }
    // What rows are read with; nothing can be said of rows without it.
    let mut coding = Some(Arc::default());
    if let Some(codebook) = &manifest.storage.codebook {
        files += 1;
        let before = found.damages.len();
        check_content(dir, &codebook.file, codebook.bytes, &codebook.digest, &mut found)?;
        coding = None;
        if found.damages.len() == before {
            match Coding::read(dir, &manifest) {
                Ok(read) => coding = Some(Arc::new(read)),
                Err(error) => found.add(&codebook.file, None, None, causes::told(&error)),
            }
        }
    }
    let rows = if coding.is_some() { manifest.committed_rows() } else { 0 };
    progress.phase("verify", rows, 0);
    let by_shard: Vec<Found> = manifest
        .shards
        .par_iter()
        .map(|entry| {
            let mut found = Found::default();
            check_content(dir, &entry.file, entry.bytes, &entry.digest, &mut found)?;
            if let Some(coding) = &coding {
                check_shard(dir, entry, &manifest, coding, &mut found);
            }
            progress.advance(entry.rows);
            Ok(found)
        })
        .collect::<Result<_, CacheError>>()?;
    progress.finish();
    for shard in by_shard {
        found.merge(shard);
    }
    Ok(VerifyReport {
        sound: found.damages.is_empty(),
        complete: manifest.complete,
        files,
        rows,
        damages: found.damages,
        unlisted: found.unlisted,
    })
}

/// Damages so far.
#[derive(Default)]
struct Found {
    damages: Vec<Damage>,
    unlisted: u64,
}

impl Found {
    fn add(&mut self, file: &str, row: Option<u64>, sample: Option<u64>, problem: String) {
        if self.damages.len() < LISTED_PER_FILE {
            self.damages.push(Damage { file: file.to_owned(), row, sample, problem });
        } else {
            self.unlisted += 1;
        }
    }

    fn merge(&mut self, other: Self) {
        self.damages.extend(other.damages);
        self.unlisted += other.unlisted;
    }
}

/// Checks size and digest. A file that is not there is damage; whether one is damaged that may not be read, or on a disk that does not
/// answer, nobody knows.
fn check_content(
    dir: &Path,
    file: &str,
    bytes: u64,
    digest: &Digest,
    found: &mut Found,
) -> Result<(), CacheError> {
    let path = dir.join(file);
    match std::fs::metadata(&path).and_then(|data| Ok((data.len(), Digest::of_file(&path)?))) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            return Err(CacheError::Read { path, source });
        }
        Err(error) => found.add(file, None, None, format!("cannot be read: {error}")),
        Ok((size, _)) if size != bytes => {
            found.add(file, None, None, format!("expected {bytes} bytes, found {size}"));
        }
        Ok((_, content)) if content != *digest => {
            found.add(file, None, None, format!("expected content {digest}, found {content}"));
        }
        Ok(_) => {}
    }
    Ok(())
}

/// Checks every row.
fn check_shard(dir: &Path, entry: &ShardEntry, manifest: &Manifest, coding: &Arc<Coding>, found: &mut Found) {
    let file = entry.file.as_str();
    let columns = manifest.columns();
    let shard = match ShardReader::open(dir, entry, &columns, coding) {
        Ok(shard) => shard,
        // The file's absence has been reported.
        Err(CacheError::Read { .. }) => return,
        Err(error) => return found.add(file, None, None, causes::told(&error)),
    };
    let mut targets = TargetBatch::default();
    let rules = Rules::new(manifest);
    let vocabulary = manifest.dataset.tokens.as_ref().map(|tokens| tokens.vocabulary);
    let ids = shard.sample_ids();
    if ids.first().is_some_and(|first| *first != entry.first_sample) {
        let problem = format!("expected sample {} (manifest), found {}", entry.first_sample, ids[0]);
        found.add(file, Some(0), Some(ids[0]), problem);
    }
    for (row, sample) in ids.iter().enumerate() {
        let mut wrong = |problem: String| found.add(file, Some(row as u64), Some(*sample), problem);
        // The views of a sample, all of them, and then the next sample's.
        let place = row as u64 % u64::from(manifest.views);
        let same = row > 0 && ids[row - 1] == *sample;
        if row > 0 && (ids[row - 1] > *sample || same != (place > 0)) {
            let rule = if manifest.views == 1 {
                "sample ids must rise"
            } else {
                "all views of a sample come together"
            };
            wrong(format!("{rule}, but {sample} follows {}", ids[row - 1]));
        }
        if u64::from(shard.views()[row]) != place {
            wrong(format!("expected view {place}, found {}", shard.views()[row]));
        }
        if let Some(label) =
            shard.labels().map(|labels| labels[row]).filter(|l| *l as usize >= manifest.classes)
        {
            wrong(format!("expected a label below {}, found {label}", manifest.classes));
        }
        if let Some(Err(error)) = vocabulary.map(|vocabulary| shard.tokens(row, vocabulary)) {
            wrong(causes::told(&error));
        }
        if let Some((name, problem)) = shard.broken_feature(row) {
            wrong(format!("feature {name}: {problem}"));
        }
        if let Err(error) = shard.row_targets(row, &mut targets) {
            wrong(causes::told(&error));
            continue;
        }
        for position in 0..targets.rows {
            let place = if targets.rows > 1 { format!("position {position}: ") } else { String::new() };
            if let Some(problem) = rules.broken(&targets, position) {
                wrong(place + &problem);
            }
        }
    }
}

/// What must hold for every row.
struct Rules<'a> {
    manifest: &'a Manifest,
    /// Relative error of the logits and curves that were written.
    precision: f64,
    /// Steps of the encoding, where it has some.
    steps: Option<Steps>,
}

impl<'a> Rules<'a> {
    fn new(manifest: &'a Manifest) -> Self {
        // Whatever they are kept as now, they may have been half precision before (`convert`).
        let precision = match manifest.storage.values {
            ValueEncoding::F16 | ValueEncoding::F32 | ValueEncoding::Quantized => 2f64.powi(-11),
            ValueEncoding::Counts => 0.0,
        };
        let steps = match manifest.scale().ok().flatten() {
            Some(Scale::Steps(steps)) => Some(steps),
            Some(Scale::Draws(_)) | None => None,
        };
        Self { manifest, precision, steps }
    }

    /// The first rule that a row breaks.
    fn broken(&self, targets: &TargetBatch, row: usize) -> Option<String> {
        let (ids, values, curve) = targets.row(row);
        let classes = self.manifest.classes;
        if let Some(id) = ids.iter().find(|id| **id as usize >= classes) {
            return Some(format!("head: expected class ids below {classes}, found {id}"));
        }
        let mut sorted = ids.to_vec();
        sorted.sort_unstable();
        if let Some(pair) = sorted.windows(2).find(|pair| pair[0] == pair[1]) {
            return Some(format!("head: class {} is there twice", pair[0]));
        }
        if let Some(value) = values.iter().chain(curve).find(|value| !value.is_finite()) {
            return Some(format!("expected finite values, found {value}"));
        }
        if targets.code(row).contains(&i8::MIN) {
            return Some("tail code: expected numbers from -127 to 127, found -128".to_owned());
        }
        if values[0] != 0.0 {
            return Some(format!("head: expected the largest logit, 0, first, found {}", values[0]));
        }
        if let Some(pair) = values.windows(2).find(|pair| pair[0] < pair[1]) {
            return Some(format!("head: logits must fall, but {} follows {}", pair[1], pair[0]));
        }
        self.broken_tail(ids.len(), f64::from(values[values.len() - 1]), curve)
    }

    /// No tail logit is above the head's lowest, `v`: `g(β) ≤ log(V − k) + β v`; and none is above
    /// the largest, so that `g` falls as `β` rises.
    fn broken_tail(&self, count: usize, lowest: f64, curve: &[f32]) -> Option<String> {
        let log_tail_classes = ((self.manifest.classes - count) as f64).ln();
        let mut before = log_tail_classes;
        for (g, beta) in curve.iter().map(|g| f64::from(*g)).zip(self.manifest.tail.nodes.as_slice()) {
            let rounding = self.steps.map_or(0.0, |s| s.curve() + beta * s.head_at(lowest) / 2.0);
            let slack = 1e-4 + rounding + self.precision * (g.abs() + (beta * lowest).abs() + before.abs());
            let most = log_tail_classes + beta * lowest;
            // What is as low as there are steps may have been anything below.
            let is_least = self.steps.is_some_and(|steps| g <= f64::from(steps.curve_of(i16::MIN)));
            if g > most + slack && !is_least {
                return Some(format!(
                    "tail curve at β = {beta}: the head permits at most {most:.4}, found {g:.4}"
                ));
            }
            if g > before + slack {
                return Some(format!("tail curve must fall, but {g:.4} at β = {beta} follows {before:.4}"));
            }
            before = g;
        }
        None
    }
}
