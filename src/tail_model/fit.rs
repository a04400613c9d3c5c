//! Collects a sample of positions and fits the whole tail model.

use std::io;
use std::path::{Path, PathBuf};

use half::f16;
use nalgebra::DMatrix;
use rayon::prelude::*;

use super::calibrate::{MAX_ROUNDS, Positions, calibrate};
use super::directions;
use super::encoder::{self, TailEncoder};
use super::heads::Heads;
use super::least_squares::{self, add_outer};
use super::panels::Panels;
use super::prior::PriorFit;
use super::sample::{Sample, Watched};
use crate::target::{TailModel, TailNodes, TailPrior, TailShape, TargetBatch};

/// Rounds of alternating least squares.
const SWEEPS: usize = 3;
/// Share of the codes' mean square that holds a class's row back where few positions know it.
const RIDGE: f64 = 1e-6;

/// Why a tail model could not be fitted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FitError {
    /// The sample could not be kept aside.
    #[error("cannot write {path}, which holds the sample of tail.fit_samples while the tail model is fitted")]
    Scratch {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Whoever watched wanted no more.
    #[error("the fit of the tail model was stopped")]
    Stopped,
    /// Fewer positions than directions.
    #[error(
        "tail.rank: expected less than the {positions} positions of the sample, found {rank}; raise tail.fit_samples"
    )]
    Rank {
        /// Positions seen.
        positions: usize,
        /// The rank asked for.
        rank: usize,
    },
    /// The sample has no tail, or one that is not finite.
    #[error(
        "the tail model could not be fitted: the sample of {positions} positions gives no finite log-weights"
    )]
    NotFinite {
        /// Positions seen.
        positions: usize,
    },
}

/// A tail model, and what gives positions their codes in it.
#[derive(Clone, Debug, PartialEq)]
pub struct Fitted {
    /// What the cache keeps.
    pub model: TailModel,
    /// What a build needs beside it; `None` for rank 0.
    pub encoder: Option<TailEncoder>,
    /// The codes of the sample: `[positions, rank]`.
    pub codes: Vec<i8>,
}

/// Fits a tail model on the positions it is given.
///
/// With rank 0 it keeps of them what grows with `k`; with a higher rank their logits go to a file, two
/// bytes each, which is read once for each pass of the fit and removed.
pub struct TailFit {
    nodes: TailNodes,
    rank: usize,
    prior: PriorFit,
    sample: Option<Sample>,
}

impl TailFit {
    /// An empty sample over `classes` classes with heads of `k`; `scratch` is the file for logits.
    ///
    /// # Errors
    /// [`FitError::Scratch`].
    pub fn new(
        classes: usize,
        k: usize,
        nodes: &TailNodes,
        rank: usize,
        scratch: &Path,
    ) -> Result<Self, FitError> {
        let create = || Sample::create(scratch, classes);
        let failed = |source| FitError::Scratch { path: scratch.to_owned(), source };
        let sample = (rank > 0).then(create).transpose().map_err(failed)?;
        Ok(Self { nodes: nodes.clone(), rank, prior: PriorFit::new(classes, k, nodes), sample })
    }

    /// Bytes of the file in `scratch` once so many positions have been added.
    pub fn scratch_bytes(classes: usize, rank: usize, positions: u64) -> u64 {
        if rank == 0 { 0 } else { Sample::bytes(classes).saturating_mul(positions) }
    }

    /// Adds positions: their raw logits `[rows, classes]` and what was selected from them.
    ///
    /// # Errors
    /// [`FitError::Scratch`].
    ///
    /// # Panics
    /// When the shapes of `logits` and `batch` disagree with each other or with this fit.
    pub fn add(&mut self, logits: &[f32], batch: &TargetBatch) -> Result<(), FitError> {
        self.prior.add(logits, batch);
        let Some(sample) = &mut self.sample else { return Ok(()) };
        for (row, z) in logits.chunks_exact(sample.classes()).enumerate() {
            let z_max = z[batch.row(row).0[0] as usize];
            sample.add(z, z_max).map_err(|source| scratch(sample, source))?;
        }
        Ok(())
    }

    /// Passes over the sample that [`Self::finish`] may take; 0 where it takes no time to speak of.
    pub fn passes(&self) -> usize {
        if self.sample.is_some() { directions::PASSES + 2 * SWEEPS + 2 + MAX_ROUNDS } else { 0 }
    }

    /// The model of everything seen. `go_on` is asked after each pass over the sample.
    ///
    /// # Errors
    /// [`FitError`], of which [`FitError::Stopped`] where `go_on` said no.
    pub fn finish(self, go_on: &mut dyn FnMut() -> bool) -> Result<Fitted, FitError> {
        let positions = self.prior.positions();
        let not_finite = || FitError::NotFinite { positions };
        let prior = self.prior.fit().ok_or_else(not_finite)?;
        let Some(mut sample) = self.sample else {
            let model = TailModel::new(prior, None).ok_or_else(not_finite)?;
            return Ok(Fitted { model, encoder: None, codes: Vec::new() });
        };
        if self.rank >= positions {
            return Err(FitError::Rank { positions, rank: self.rank });
        }
        let (shape, encoder, codes) =
            fit_shape(&mut Watched::new(&mut sample, go_on), &self.prior, &self.nodes, self.rank)
                .map_err(|source| scratch(&sample, source))?;
        let model = shape.and_then(|shape| TailModel::new(prior, Some(shape))).ok_or_else(not_finite)?;
        Ok(Fitted { model, encoder: Some(encoder), codes })
    }
}

fn scratch(sample: &Sample, source: io::Error) -> FitError {
    match source.kind() {
        io::ErrorKind::Interrupted => FitError::Stopped,
        _ => FitError::Scratch { path: sample.path().to_owned(), source },
    }
}

/// The basis, the encoder that gives codes in it, and the log-weights that calibrate it.
///
/// Logits of the tail are modelled as `z_j − z_max ≈ a + μ_j + Σ_i D_ji c_i`, those of the head being
/// missing: principal directions to begin with, then alternating least squares for the codes of all
/// positions and for the rows `(μ_j, D_j)` of all classes. A class is thus known by the positions in
/// whose tail it was, and nothing of the head leaks into a tail's code.
fn fit_shape(
    sample: &mut Watched<'_>,
    prior: &PriorFit,
    nodes: &TailNodes,
    rank: usize,
) -> io::Result<(Option<TailShape>, TailEncoder, Vec<i8>)> {
    let classes = sample.classes();
    let heads = prior.heads();
    let weights = class_weights(prior.tail_mass());
    let single: Vec<f32> = weights.iter().map(|w| *w as f32).collect();
    let mut mean = directions::mean(sample, heads, &weights)?;
    let mut basis = directions::principal(sample, heads, &weights, &mean, rank)?;
    for _ in 0..SWEEPS {
        let encoder = TailEncoder::with_basis(rank, mean, single.clone(), |class, at| basis.at(class, at));
        let codes = solve(sample, heads, &encoder)?;
        (mean, basis) = regress(sample, heads, rank, &codes)?;
    }
    let encoder =
        TailEncoder::with_basis(rank, mean.clone(), single.clone(), |class, at| basis.at(class, at));
    let mut largest = vec![0.0f32; rank];
    for code in solve(sample, heads, &encoder)?.chunks_exact(1 + rank) {
        for (largest, code) in largest.iter_mut().zip(&code[1..]) {
            *largest = largest.max(code.abs());
        }
    }
    // In units in which the sample's largest code is the largest there is, and as the cache keeps it: what
    // is calibrated is what is read.
    let scaled = |class: usize, at: usize| {
        f16::from_f32(basis.at(class, at) * largest[at] / encoder::LARGEST).to_f32()
    };
    let encoder = TailEncoder::with_basis(rank, mean, single, scaled);
    let solved = solve(sample, heads, &encoder)?;
    let codes = solved.chunks_exact(1 + rank).flat_map(|code| &code[1..]);
    let codes: Vec<i8> = codes.map(|code| encoder::round(*code)).collect();
    let by_rank: Vec<Vec<f32>> =
        (0..rank).map(|at| (0..classes).map(|class| scaled(class, at)).collect()).collect();
    let positions = Positions { heads, codes: &codes, mass: prior.position_mass() };
    let log_weights = calibrate(nodes, &by_rank, &positions, prior.tail_mass(), || sample.told())?;
    let by_class = (0..classes).flat_map(|class| by_rank.iter().map(move |d| d[class])).collect();
    let shape = TailPrior::new(nodes.clone(), classes, log_weights.concat())
        .and_then(|base| TailShape::new(base, rank, by_class));
    Ok((shape, encoder, codes))
}

/// The average tail over all nodes, each node with the same say: `[classes]`, summing to 1.
fn class_weights(tail_mass: &[Vec<f64>]) -> Vec<f64> {
    let mut weights = vec![0.0; tail_mass[0].len()];
    for mass in tail_mass {
        let all: f64 = mass.iter().map(|m| m.max(0.0)).sum::<f64>().max(f64::MIN_POSITIVE);
        for (weight, mass) in weights.iter_mut().zip(mass) {
            *weight += mass.max(0.0) / all;
        }
    }
    let all: f64 = weights.iter().sum::<f64>().max(f64::MIN_POSITIVE);
    weights.iter().map(|weight| weight / all).collect()
}

/// Level and code of every position, before rounding: `[positions, 1 + rank]`.
fn solve(sample: &mut Watched<'_>, heads: &Heads, encoder: &TailEncoder) -> io::Result<Vec<f32>> {
    let mut codes = Vec::with_capacity(sample.rows() * (1 + encoder.rank()));
    sample.for_each_block(|first, block| {
        // The sample is relative to each position's largest.
        codes.extend(encoder.solve((&*block).into(), |row| (0.0, heads.of(first + row))));
    })?;
    Ok(codes)
}

/// `(μ_j, D_j)` of every class by least squares over the positions in whose tail it is: means
/// `[classes]` and basis `[classes, rank]`. `codes` are [`solve`]'s.
fn regress(
    sample: &mut Watched<'_>,
    heads: &Heads,
    rank: usize,
    codes: &[f32],
) -> io::Result<(Vec<f32>, Panels)> {
    let (classes, columns) = (sample.classes(), 1 + rank);
    let mut cross = Panels::zeros(classes, columns);
    let mut regressors = codes.to_vec();
    let mut gram = DMatrix::<f64>::zeros(columns, columns);
    for regressor in regressors.chunks_exact_mut(columns) {
        regressor[0] = 1.0;
        add_outer(&mut gram, 1.0, regressor);
    }
    sample.for_each_block(|first, block| {
        block.par_chunks_mut(classes).enumerate().for_each(|(at, row)| {
            let level = codes[(first + at) * columns];
            row.iter_mut().for_each(|z| *z -= level);
            for id in heads.of(first + at) {
                row[*id as usize] = 0.0;
            }
        });
        let rows = block.len() / classes;
        cross.add_back(block, &regressors[first * columns..(first + rows) * columns]);
    })?;
    // Whose head each class was in.
    let mut missing = vec![Vec::new(); classes];
    for row in 0..sample.rows() {
        heads.of(row).iter().for_each(|id| missing[*id as usize].push(row));
    }
    let rows = sample.rows();
    let solved: Vec<Vec<f32>> = (0..classes)
        .into_par_iter()
        .map(|class| {
            let mut gram = gram.clone();
            for row in &missing[class] {
                add_outer(&mut gram, -1.0, &regressors[row * columns..(row + 1) * columns]);
            }
            let right: Vec<f32> = (0..columns).map(|at| cross.at(class, at)).collect();
            // A class that is in every head has no tail to be known by.
            let observed = missing[class].len() < rows;
            let solved = observed.then(|| least_squares::solve(gram, RIDGE, &right)).flatten();
            solved.unwrap_or_else(|| vec![0.0; columns])
        })
        .collect();
    let mean = solved.iter().map(|row| row[0]).collect();
    Ok((mean, Panels::from_fn(classes, rank, |class, at| solved[class][1 + at])))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::permutation::Permutation;
    use crate::select::Selector;
    use crate::target::{PositionTarget, TailHandling, Temperature};

    const CLASSES: usize = 300;
    const K: usize = 4;

    /// Logits that are a bias and a map of `hidden` hidden states, as those of every teacher are.
    fn logits(rows: usize, hidden: usize) -> Vec<f32> {
        let random = Permutation::new(1 << 20, 11, 0);
        let noise = |at: usize| random.at(at as u64 % (1 << 20)) as f32 / (1 << 19) as f32 - 1.0;
        let state = |row: usize, i: usize| 2.0 * noise(row * 31 + i);
        let map = |class: usize, i: usize| noise(500_000 + class * 17 + i);
        let value = |row: usize, class: usize| {
            (0..hidden).map(|i| state(row, i) * map(class, i)).sum::<f32>() - (class as f32).ln_1p()
        };
        (0..rows * CLASSES).map(|at| value(at / CLASSES, at % CLASSES)).collect()
    }

    fn fit(logits: &[f32], rank: usize, pieces: usize) -> Result<(Fitted, TargetBatch), FitError> {
        let dir = tempfile::tempdir().unwrap();
        let scratch = dir.path().join("sample");
        let nodes = TailNodes::default();
        let selector = Selector::new(CLASSES, K, &nodes).unwrap();
        let mut fit = TailFit::new(CLASSES, K, &nodes, rank, &scratch)?;
        for piece in logits.chunks(logits.len() / pieces) {
            fit.add(piece, &selector.select(piece).unwrap())?;
        }
        let fitted = fit.finish(&mut || true)?;
        assert!(!scratch.exists(), "the sample is left behind");
        let mut batch = selector.select(logits).unwrap();
        if let Some(encoder) = &fitted.encoder {
            encoder.encode(logits, &mut batch);
        }
        Ok((fitted, batch))
    }

    /// Mean KL of the cached targets from the full softmax, by definition.
    fn divergence(fitted: &Fitted, batch: &TargetBatch, logits: &[f32], t: f64, tail: TailHandling) -> f64 {
        let t = Temperature::new(t).unwrap();
        let model = fitted.model.at(t);
        let mut kl = 0.0;
        for (row, z) in logits.chunks(CLASSES).enumerate() {
            let (ids, values, curve) = batch.row(row);
            let target = PositionTarget { classes: CLASSES, ids, values, nodes: fitted.model.nodes(), curve };
            let weights = model.log_weights(tail, batch.code(row));
            let cached = target.dense(t, tail, weights.as_deref());
            let largest = z.iter().copied().fold(f32::MIN, f32::max);
            let e: Vec<f64> = z.iter().map(|z| (t.beta() * f64::from(z - largest)).exp()).collect();
            let sum: f64 = e.iter().sum();
            kl += e.iter().zip(&cached).map(|(e, q)| e / sum * (e / sum / q).ln()).sum::<f64>();
        }
        kl / batch.rows as f64
    }

    #[test]
    fn each_direction_brings_the_target_nearer_until_it_is_the_teacher() {
        let z = logits(400, 3);
        let at = |rank: usize, t: f64| {
            let (fitted, batch) = fit(&z, rank, 4).unwrap();
            (divergence(&fitted, &batch, &z, t, TailHandling::Shape), fitted, batch)
        };
        for t in [1.0, 2.0, 3.0, 8.0] {
            let by_rank: Vec<f64> = [0, 1, 2, 3].map(|rank| at(rank, t).0).to_vec();
            assert!(by_rank.windows(2).all(|pair| pair[1] < 0.9 * pair[0]), "T = {t}: {by_rank:?}");
            // What is left is the codes' rounding.
            assert!(by_rank[3] < 0.01 * by_rank[0], "T = {t}: {by_rank:?}");
        }
        // The prior of a model with a shape is that of one without.
        let (_, flat, _) = at(0, 1.0);
        let (_, fitted, batch) = at(2, 1.0);
        assert_eq!(flat.model.prior(), fitted.model.prior());
        let prior = divergence(&fitted, &batch, &z, 2.0, TailHandling::Prior);
        assert!((prior - at(0, 2.0).0).abs() < 1e-9);
    }

    #[test]
    fn a_constant_changes_no_code_and_codes_fill_a_byte() {
        let z = logits(200, 5);
        let (fitted, batch) = fit(&z, 2, 1).unwrap();
        let lifted: Vec<f32> = z.iter().map(|z| z + 8.0).collect();
        let mut again = batch.clone();
        fitted.encoder.unwrap().encode(&lifted, &mut again);
        let differ = batch.codes.iter().zip(&again.codes).filter(|(a, b)| a.abs_diff(**b) > 1).count();
        assert_eq!(differ, 0);
        let largest = |at: usize| batch.codes.chunks(2).map(|code| code[at].unsigned_abs()).max().unwrap();
        assert_eq!((largest(0), largest(1)), (127, 127));
    }

    #[test]
    fn one_thread_fits_what_many_do() {
        let z = logits(128, 6);
        let whole = fit(&z, 3, 8).unwrap();
        let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
        assert_eq!(whole, pool.install(|| fit(&z, 3, 8).unwrap()));
    }

    #[test]
    fn more_directions_than_there_are_do_no_harm() {
        let z = logits(100, 1);
        let at = |rank: usize| {
            let (fitted, batch) = fit(&z, rank, 1).unwrap();
            assert_eq!(fitted.model.rank(), rank);
            assert!(fitted.model.shape().unwrap().basis().iter().all(|d| d.is_finite()));
            divergence(&fitted, &batch, &z, 2.0, TailHandling::Shape)
        };
        let (one, three) = (at(1), at(3));
        assert!(three < 1.5 * one, "{three} with three directions, {one} with one");
    }

    #[test]
    fn too_small_a_sample_is_refused() {
        let refused = fit(&logits(3, 2), 3, 1).unwrap_err();
        assert!(matches!(refused, FitError::Rank { positions: 3, rank: 3 }), "{refused}");
    }

    #[test]
    fn whoever_watches_hears_of_every_pass_and_can_stop() {
        let z = logits(200, 3);
        let nodes = TailNodes::default();
        let dir = tempfile::tempdir().unwrap();
        let scratch = dir.path().join("sample");
        let watched = |most: usize| {
            let mut fit = TailFit::new(CLASSES, K, &nodes, 2, &scratch).unwrap();
            fit.add(&z, &Selector::new(CLASSES, K, &nodes).unwrap().select(&z).unwrap()).unwrap();
            let (all, mut passes) = (fit.passes(), 0);
            let ended = fit.finish(&mut || {
                passes += 1;
                passes < most
            });
            assert!(!scratch.exists(), "the sample is left behind");
            (ended, passes, all)
        };
        let (ended, passes, all) = watched(usize::MAX);
        assert!(ended.is_ok() && (all - MAX_ROUNDS..=all).contains(&passes), "{passes} of {all}");
        for most in [1, 4, 9, passes] {
            let (ended, heard, _) = watched(most);
            assert!(matches!(ended, Err(FitError::Stopped)) && heard == most, "{most}: {ended:?}");
        }
    }
}
