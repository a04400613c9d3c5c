//! `kd-cache fidelity`: how far cached targets are from the teacher's full softmax.

use std::path::Path;

use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Progress;
use super::keep;
use super::samples::Wanted;
use super::source::{Source, SourceError};
use crate::cache::{CacheError, CacheReader, Manifest};
use crate::config::{CacheConfig, OutputKind};
use crate::digest::Digest;
use crate::ids::{SampleView, ShardIndex};
use crate::target::{NotCovered, PositionTarget, TailHandling, TailModelAt, TargetBatch, Temperature};

/// Temperatures measured at unless others are asked for.
const UNLESS_ASKED: [f64; 4] = [1.0, 2.0, 4.0, 8.0];
/// Stream of the seed from which samples are drawn; the tail model's sample is stream 0.
const STREAM: u64 = 1;

/// Why fidelity could not be measured.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FidelityError {
    /// Data, preprocessing or teacher.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The cache.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// The config describes another teacher or other data.
    #[error("{what}: the cache was made from {cached}, the config gives {found}")]
    Mismatch {
        /// What differs.
        what: &'static str,
        /// In the cache.
        cached: String,
        /// From the config.
        found: String,
    },
    /// Not covered by the nodes.
    #[error("--temperatures: {0}")]
    Temperature(#[from] NotCovered),
}

/// One tail handling at one temperature, over all positions measured.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct FidelityRow {
    /// `shape` (where the cache has one), `prior`, `uniform`, `bucket` or `renormalize`.
    pub tail: TailHandling,
    /// The temperature.
    pub temperature: f64,
    /// Root mean square of `‖p̂ − p‖₂`.
    pub rms: f64,
    /// Mean `KL(p ‖ p̂)` in nats; null when infinite (classes of the tail are given no mass).
    pub kl: Option<f64>,
    /// Mean mass that the head holds of the full softmax.
    pub kept_mass: f64,
    /// Share of positions whose most probable class is the same.
    pub top1_agreement: f64,
    /// `‖mean(p̂ − p)‖₁`: what does not average out in training.
    pub drift: f64,
}

/// What was measured.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct FidelityReport {
    /// Positions measured.
    pub positions: u64,
    /// Classes.
    pub classes: usize,
    /// Classes kept exactly.
    pub k: usize,
    /// Bytes of the whole cache per position.
    pub bytes_per_position: f64,
    /// One row per tail handling and temperature.
    pub rows: Vec<FidelityRow>,
}

/// Runs the teacher of `config` again on about `positions` of the cache in `dir`, drawn with the config's
/// seed, at `temperatures`; at 1, 2, 4 and 8, or at that of a sampled cache, where none is given.
///
/// Teacher, dataset and preprocessing of `config` must be the cache's; head, tail and storage
/// are taken from the cache.
///
/// # Errors
/// [`FidelityError`].
pub fn fidelity(
    config: &CacheConfig,
    dir: &Path,
    positions: u64,
    temperatures: &[Temperature],
    progress: &dyn Progress,
) -> Result<FidelityReport, FidelityError> {
    let reader = CacheReader::open(dir)?;
    let manifest = reader.manifest();
    let temperatures = match temperatures {
        [] => manifest.temperatures(&UNLESS_ASKED),
        asked => asked.to_vec(),
    };
    for temperature in &temperatures {
        manifest.require_covered(*temperature)?;
    }
    let mut config = config.clone();
    config.head = keep::config(&manifest.head);
    (config.tail.nodes, config.tail.rank, config.tail.from) = (manifest.tail.nodes.clone(), None, None);
    config.teacher.output_kind = match manifest.teacher.output_kind.as_str() {
        "probabilities" => OutputKind::Probabilities,
        "log_probabilities" => OutputKind::LogProbabilities,
        _ => OutputKind::Logits,
    };
    let mut source = Source::open(&config, Some(manifest.teacher.batch))?;
    let found = source.plan(&config)?;
    let identities = |of: &Manifest| {
        let digest = |digest: Option<&Digest>| digest.map_or("none".to_owned(), Digest::to_string);
        [
            ("teacher.path", of.teacher.digest.to_string()),
            ("teacher.head", digest(of.teacher.head.as_ref())),
            ("teacher.output", of.teacher.output.clone().unwrap_or("the only one".into())),
            ("classes", of.classes.to_string()),
            ("dataset", of.dataset.fingerprint.to_string()),
            ("preprocess", digest(of.preprocess.as_ref().map(|preprocess| &preprocess.digest))),
            ("augment", digest(of.augment.as_ref().map(|augment| &augment.digest))),
        ]
    };
    for ((what, cached), (_, found)) in identities(manifest).into_iter().zip(identities(&found)) {
        if cached != found {
            return Err(FidelityError::Mismatch { what, cached, found });
        }
    }
    let drawn = source.samples.draw(positions, config.seed, STREAM)?;
    // Without a shape, that handling is the prior's once more.
    let has_shape = manifest.tail.rank > 0;
    let tells = |tail: &TailHandling| match tail {
        TailHandling::Renormalize => true,
        // Of what was not drawn nothing is kept that could be handled.
        _ if manifest.head.draws.is_some() => false,
        TailHandling::Shape => has_shape,
        _ => true,
    };
    let handlings: Vec<TailHandling> = TailHandling::ALL.into_iter().filter(tells).collect();
    let mut sums: Vec<Sums<'_>> = temperatures
        .iter()
        .flat_map(|temperature| {
            handlings.iter().map(|tail| Sums::new(&reader, *tail, *temperature)).collect::<Vec<_>>()
        })
        .collect();
    progress.phase("fidelity", drawn.iter().map(|wanted| wanted.positions.len() as u64).sum(), 0);
    let mut measured = 0;
    // Shards come one after the other: that of the row before is still open.
    let mut near: Option<(ShardIndex, CacheReader)> = None;
    for wanted in drawn.chunks(source.batch) {
        let (cached, mut at) = (gather(&reader, &mut near, wanted)?, 0);
        source.ask(wanted, |logits, asked| {
            let targets = cached.of(&(at..at + asked.rows).collect::<Vec<_>>());
            at += asked.rows;
            sums.par_iter_mut().for_each(|sums| sums.add(manifest, logits, &targets));
            measured += targets.rows as u64;
            progress.advance(targets.rows as u64);
            Ok::<(), FidelityError>(())
        })?;
    }
    progress.finish();
    Ok(FidelityReport {
        positions: measured,
        classes: manifest.classes,
        k: manifest.head.k,
        bytes_per_position: manifest.bytes() as f64 / manifest.positions.max(1) as f64,
        rows: sums.into_iter().map(Sums::finish).collect(),
    })
}

/// The cached targets of the positions that are wanted, in order.
fn gather(
    reader: &CacheReader,
    near: &mut Option<(ShardIndex, CacheReader)>,
    wanted: &[Wanted],
) -> Result<TargetBatch, FidelityError> {
    let (mut all, mut row_targets) = (TargetBatch::default(), TargetBatch::default());
    for Wanted { row: SampleView { sample, view }, positions } in wanted {
        let missing = || FidelityError::Mismatch {
            what: "dataset",
            cached: "no such sample".into(),
            found: format!("sample {sample}, view {view}"),
        };
        let index = reader.shard_of_sample(*sample).ok_or_else(missing)?;
        near.take_if(|(open, _)| *open != index);
        let (_, near) = near.get_or_insert_with(|| (index, reader.of_shard(index)));
        let row = near.row_of(*sample, *view)?.ok_or_else(missing)?;
        near.gather(&[row], &mut row_targets)?;
        all.extend(&row_targets.of(positions));
    }
    Ok(all)
}

/// What is summed for one row of the report.
struct Sums<'a> {
    tail: TailHandling,
    temperature: Temperature,
    tail_model: Option<TailModelAt<'a>>,
    positions: u64,
    square: f64,
    kl: f64,
    kept: f64,
    agreed: u64,
    difference: Vec<f64>,
}

impl<'a> Sums<'a> {
    fn new(reader: &'a CacheReader, tail: TailHandling, temperature: Temperature) -> Self {
        Self {
            tail,
            temperature,
            tail_model: reader.tail_model().map(|model| model.at(temperature)),
            positions: 0,
            square: 0.0,
            kl: 0.0,
            kept: 0.0,
            agreed: 0,
            difference: vec![0.0; reader.manifest().classes],
        }
    }

    fn add(&mut self, manifest: &Manifest, logits: &[f32], targets: &TargetBatch) {
        let classes = manifest.classes;
        for (row, z) in logits.chunks(classes).enumerate() {
            let (ids, values, curve) = targets.row(row);
            let target = PositionTarget { classes, ids, values, nodes: &manifest.tail.nodes, curve };
            let log_weights =
                self.tail_model.as_ref().and_then(|model| model.log_weights(self.tail, targets.code(row)));
            let cached = target.dense(self.temperature, self.tail, log_weights.as_deref());
            let truth = softmax(z, self.temperature.beta());
            let mut square = 0.0;
            for ((p, q), difference) in truth.iter().zip(&cached).zip(&mut self.difference) {
                square += (q - p) * (q - p);
                *difference += q - p;
                if *p > 0.0 {
                    self.kl += p * (p.ln() - q.ln());
                }
            }
            self.square += square;
            self.kept += ids.iter().map(|id| truth[*id as usize]).sum::<f64>();
            // Steps may make the first two alike; which is first the head still says.
            self.agreed += u64::from(ids.first().is_some_and(|first| *first as usize == largest(&truth)));
            self.positions += 1;
        }
    }

    fn finish(self) -> FidelityRow {
        let n = self.positions.max(1) as f64;
        let kl = self.kl / n;
        FidelityRow {
            tail: self.tail,
            temperature: self.temperature.get(),
            rms: (self.square / n).sqrt(),
            kl: kl.is_finite().then_some(kl),
            kept_mass: self.kept / n,
            top1_agreement: self.agreed as f64 / n,
            drift: self.difference.iter().map(|d| (d / n).abs()).sum(),
        }
    }
}

fn softmax(z: &[f32], beta: f64) -> Vec<f64> {
    let largest = z.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut p: Vec<f64> = z.iter().map(|z| (f64::from(z - largest) * beta).exp()).collect();
    let sum: f64 = p.iter().sum();
    for p in &mut p {
        *p /= sum;
    }
    p
}

/// The first of the largest.
fn largest(p: &[f64]) -> usize {
    let mut best = 0;
    for (at, value) in p.iter().enumerate() {
        if *value > p[best] {
            best = at;
        }
    }
    best
}
