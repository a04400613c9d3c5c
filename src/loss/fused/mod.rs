//! Loss and gradient of a row of logits in one go, on the CPU.
//!
//! Of `L = a · KL(p ‖ softmax(s / T)) + b · CE(softmax(s), y)` the gradient has a closed form,
//! `∂L/∂s = a β (softmax(β s) − p) + b (softmax(s) − y)`, so that nothing has to be kept for a backward pass and a row
//! is read while it is in the cache. What libtorch's operators would write and read some twenty times is read once and
//! written once here: a row goes through in blocks, each with exponentials relative to its own largest logit, which are put
//! right once all are known (Milakov & Gimelshein, "Online normalizer calculation for softmax", 2018).

mod block;
mod row;

use std::cell::RefCell;

use rayon::prelude::*;
use tch::{Kind, Tensor};

use super::targets::DecodedBatch;
use crate::libtorch::{Floats, filled, numbers};
use crate::vectors::{BLOCK, TILE, filled_up, with_widest};
use row::{Rows, Scratch};

/// Where the mass off the head lies, in memory of our own. What is of all classes is filled up with zeros to whole tiles.
#[derive(Debug)]
pub(super) enum Spread {
    /// There is none, or it is not compared.
    Nowhere,
    /// In one outcome of its own.
    Bucket,
    /// The same for all positions.
    Prior {
        /// Probabilities, of all classes together 1: `[classes]`, filled up.
        w: Vec<f32>,
        /// Their logarithms: `[classes]`.
        log_w: Vec<f64>,
        /// The probabilities of each block.
        by_block: Vec<f64>,
        /// `Σ_j w_j log w_j`.
        negative_entropy: f64,
    },
    /// By the code of each position.
    Shape {
        /// Log-weights of code 0: `[classes]`, filled up.
        log_w: Vec<f32>,
        /// β times the basis, block after block: `[rank, classes of the block]` each, filled up.
        basis: Vec<f32>,
    },
}

/// The divergence's part.
pub(super) struct KlPart<'a> {
    /// 1 / T.
    pub(super) beta: f64,
    pub(super) spread: &'a Spread,
    pub(super) targets: Targets,
    /// What the gradient of each position's divergence is multiplied by.
    pub(super) factor: f64,
}

/// Decoded targets in memory of our own.
pub(super) struct Targets {
    k: usize,
    rank: usize,
    ids: Vec<i64>,
    log_head: Vec<f32>,
    /// Empty where there is no tail.
    log_tail: Vec<f32>,
    codes: Vec<f32>,
    /// Empty where all heads have k classes.
    counts: Vec<f32>,
}

/// The part of the labels.
pub(super) struct LabelPart {
    /// Negative where there is none.
    pub(super) labels: Vec<i64>,
    pub(super) smoothing: f64,
    /// What the gradient of each position's cross-entropy is multiplied by.
    pub(super) factor: f64,
}

/// What comes out: sums over the rows, and the gradient of the whole.
pub(super) struct Fused {
    /// `[rows, classes]`, float.
    pub(super) gradient: Tensor,
    /// Σ KL, in nats, without `T²`.
    pub(super) kl: f64,
    /// Σ cross-entropy, in nats, over the rows with a label.
    pub(super) cross_entropy: f64,
}

impl Spread {
    /// By probabilities of all classes and their logarithms, `[classes]` each, with `Σ_j w_j log w_j`.
    pub(super) fn prior(w: &[f64], log_w: Vec<f64>, negative_entropy: f64) -> Self {
        let by_block = w.chunks(BLOCK).map(|block| block.iter().sum()).collect();
        let w = filled_up(w.iter().map(|w| *w as f32));
        Self::Prior { w, log_w, by_block, negative_entropy }
    }

    /// By log-weights of code 0, `[classes]`, and β times the basis, `[rank, classes]`.
    pub(super) fn shape(log_w: &[f64], basis: &[f32]) -> Self {
        let classes = log_w.len();
        let log_w = filled_up(log_w.iter().map(|log| *log as f32));
        let mut by_block = Vec::with_capacity(basis.len() / classes * log_w.len());
        for first in (0..classes).step_by(BLOCK) {
            for direction in basis.chunks(classes) {
                by_block.extend(&direction[first..classes.min(first + BLOCK)]);
                by_block.resize(by_block.len().next_multiple_of(TILE), 0.0);
            }
        }
        Self::Shape { log_w, basis: by_block }
    }

    /// Rows that one thread takes together: as many as share what is read of all classes, and no more than leave their
    /// exponentials in the cache.
    fn rows_together(&self) -> usize {
        match self {
            Self::Nowhere | Self::Bucket => 1,
            Self::Prior { .. } => 2,
            Self::Shape { .. } => 4,
        }
    }
}

impl Targets {
    pub(super) fn new(targets: &super::TargetTensors, decoded: &DecodedBatch) -> Self {
        let size = |tensor: &Tensor| tensor.size()[1] as usize;
        Self {
            k: size(&targets.ids),
            rank: size(&targets.codes),
            ids: numbers(&targets.ids, Kind::Int64),
            log_head: numbers(&decoded.log_head, Kind::Float),
            log_tail: decoded.log_tail.as_ref().map(|tail| numbers(tail, Kind::Float)).unwrap_or_default(),
            codes: numbers(&targets.codes, Kind::Float),
            counts: targets.counts.as_ref().map(|counts| numbers(counts, Kind::Float)).unwrap_or_default(),
        }
    }

    fn row(&self, at: usize) -> Head<'_> {
        let count = self.counts.get(at).map_or(self.k, |count| *count as usize);
        Head {
            ids: &self.ids[at * self.k..][..count],
            log_p: &self.log_head[at * self.k..][..count],
            log_tail: self.log_tail.get(at).map(|log| f64::from(*log)),
            code: &self.codes[at * self.rank..][..self.rank],
        }
    }
}

/// A position's target.
#[derive(Clone, Copy)]
struct Head<'a> {
    ids: &'a [i64],
    log_p: &'a [f32],
    log_tail: Option<f64>,
    code: &'a [f32],
}

impl LabelPart {
    /// `Σ_j y_j l_j` of the smoothed label.
    fn picked(&self, logits: &[f32], label: usize) -> f64 {
        let mean = || logits.iter().map(|l| f64::from(*l)).sum::<f64>() / logits.len() as f64;
        let even = if self.smoothing > 0.0 { self.smoothing * mean() } else { 0.0 };
        (1.0 - self.smoothing) * f64::from(logits[label]) + even
    }
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// Both parts of `logits`, `[rows, classes]`.
pub(super) fn rows(logits: &Tensor, kl: Option<&KlPart<'_>>, labels: Option<&LabelPart>) -> Fused {
    let size = logits.size();
    let classes = size[1] as usize;
    let together = kl.map_or(&Spread::Nowhere, |kl| kl.spread).rows_together();
    let logits = Floats::of(logits);
    let mut sums = Vec::new();
    let gradient = filled(&size, |gradient| {
        let groups = logits.as_slice().par_chunks(together * classes);
        let groups = groups.zip(gradient.par_chunks_mut(together * classes)).enumerate();
        let group = |(at, (logits, gradient))| {
            SCRATCH.with_borrow_mut(|scratch| {
                with_widest(Rows { kl, labels, first: at * together, classes, logits, gradient, scratch })
            })
        };
        sums = groups.map(group).collect();
    });
    let sum = |part: usize| sums.iter().map(|sums: &[f64; 2]| sums[part]).sum();
    Fused { gradient, kl: sum(0), cross_entropy: sum(1) }
}
