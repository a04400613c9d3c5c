//! Loss and gradient of a row of logits in one go, on the CPU.
//!
//! Of `L = a · KL(p ‖ softmax(s / T)) + b · CE(softmax(s), y)` the gradient has a closed form,
//! `∂L/∂s = a β (softmax(β s) − p) + b (softmax(s) − y)`, so that nothing has to be kept for a backward pass and a row
//! is read while it is in the cache. What libtorch's operators would write and read some twenty times is written
//! twice here.

use rayon::prelude::*;
use tch::{Kind, Tensor};

use super::DecodedBatch;
use crate::select::exp_non_positive;
use crate::select::lanes::{all_finite, dot, largest, sum, widest};

/// Values handled at once: they stay in the first-level cache.
const BLOCK: usize = 256;
/// Rows that one thread takes at a time: a basis is read once for all of them.
const ROWS: usize = 4;

/// Where the mass off the head lies, in memory of our own.
#[derive(Debug)]
pub(super) enum Spread {
    /// There is none, or it is not compared.
    Nowhere,
    /// In one outcome of its own.
    Bucket,
    /// The same for all positions.
    Prior {
        /// Probabilities, of all classes together 1: `[classes]`.
        w: Vec<f32>,
        /// Their logarithms.
        log_w: Vec<f64>,
        /// `Σ_j w_j log w_j`.
        negative_entropy: f64,
    },
    /// By the code of each position.
    Shape {
        /// Log-weights of code 0: `[classes]`.
        log_w: Vec<f32>,
        /// β times the basis: `[rank, classes]`.
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

/// A tensor's values, row after row.
pub(super) fn numbers<T: tch::kind::Element + Copy + Default>(tensor: &Tensor, kind: Kind) -> Vec<T> {
    let flat = tensor.detach().to_kind(kind).contiguous();
    let mut values = vec![T::default(); flat.numel()];
    let all = values.len();
    flat.copy_data(&mut values, all);
    values
}

/// Both parts of `logits`, `[rows, classes]`.
pub(super) fn rows(logits: &Tensor, kl: Option<&KlPart<'_>>, labels: Option<&LabelPart>) -> Fused {
    let size = logits.size();
    let classes = size[1] as usize;
    let mut values: Vec<f32> = numbers(logits, Kind::Float);
    let mut gradient = vec![0.0f32; values.len()];
    let sums: Vec<[f64; 2]> = values
        .par_chunks_mut(ROWS * classes)
        .zip(gradient.par_chunks_mut(ROWS * classes))
        .enumerate()
        .map_init(Vec::new, |scratch, (at, (values, gradient))| {
            let spread = kl.map_or(&Spread::Nowhere, |kl| kl.spread);
            if let (Some(kl), Spread::Shape { log_w, basis }) = (kl, spread) {
                widest(|| log_weights(log_w, basis, kl, at * ROWS, values.len() / classes, scratch));
            }
            let mut sums = [0.0; 2];
            let both = values.chunks_mut(classes).zip(gradient.chunks_mut(classes));
            for (within, (values, gradient)) in both.enumerate() {
                let row = Row {
                    kl: kl.map(|kl| (kl, kl.targets.row(at * ROWS + within))),
                    label: labels.map(|part| (part, part.labels[at * ROWS + within])),
                    tail: scratch.get_mut(within * classes..(within + 1) * classes).unwrap_or_default(),
                };
                let [divergence, cross_entropy] = widest(|| row.fuse(values, gradient));
                sums = [sums[0] + divergence, sums[1] + cross_entropy];
            }
            sums
        })
        .collect();
    let sum = |part: usize| sums.iter().map(|sums| sums[part]).sum();
    Fused { gradient: Tensor::from_slice(&gradient).view(size.as_slice()), kl: sum(0), cross_entropy: sum(1) }
}

/// `out = log_w + c · basis` of the `rows` rows from `first` on.
#[inline(always)]
fn log_weights(log_w: &[f32], basis: &[f32], kl: &KlPart<'_>, first: usize, rows: usize, out: &mut Vec<f32>) {
    let classes = log_w.len();
    out.resize(rows * classes, 0.0);
    for (block, log_w) in log_w.chunks(BLOCK).enumerate() {
        let start = block * BLOCK;
        for row in 0..rows {
            let out = &mut out[row * classes + start..][..log_w.len()];
            out.copy_from_slice(log_w);
            for (direction, c) in basis.chunks_exact(classes).zip(kl.targets.row(first + row).code) {
                for (z, d) in out.iter_mut().zip(&direction[start..]) {
                    *z += c * d;
                }
            }
        }
    }
}

struct Row<'a> {
    kl: Option<(&'a KlPart<'a>, Head<'a>)>,
    label: Option<(&'a LabelPart, i64)>,
    /// With a shape, the row's log-weights.
    tail: &'a mut [f32],
}

impl Row<'_> {
    /// Writes the gradient and gives the divergence and the cross-entropy. `logits` are spoilt.
    #[inline(always)]
    fn fuse(mut self, logits: &mut [f32], gradient: &mut [f32]) -> [f64; 2] {
        if !all_finite(logits) && logits.iter().any(|l| l.is_nan() || *l == f32::INFINITY) {
            // A run that has gone astray is told by its loss.
            gradient.fill(f32::NAN);
            return [f64::NAN; 2];
        }
        let label = self.label.filter(|(_, label)| *label >= 0);
        let picked = label.map(|(part, label)| {
            let mean = if part.smoothing > 0.0 { mean(logits) } else { 0.0 };
            (1.0 - part.smoothing) * f64::from(logits[label as usize]) + part.smoothing * mean
        });
        let Some((kl, head)) = self.kl else {
            let Some(((part, label), picked)) = label.zip(picked) else { return [0.0; 2] };
            let base = largest(logits);
            let log_sum = exponentials(logits, gradient, 1.0, &[], base);
            scale(gradient, part.factor * (-log_sum).exp());
            part.take_label(label, gradient);
            return [0.0, f64::from(base) + log_sum - picked];
        };
        // One softmax serves both where T = 1.
        let shared = label.filter(|_| kl.beta == 1.0).map_or(0.0, |(part, _)| part.factor);
        let (divergence, log_sum, kept) = self.divergence(kl, head, logits, gradient, shared);
        let Some(((part, label), picked)) = label.zip(picked) else { return [divergence, 0.0] };
        let log_sum = if kl.beta == 1.0 {
            log_sum
        } else {
            for (id, logit) in head.ids.iter().zip(&kept) {
                logits[*id as usize] = *logit;
            }
            add_softmax(logits, gradient, part.factor)
        };
        part.take_label(label, gradient);
        [divergence, log_sum - picked]
    }

    /// The divergence; its gradient, and `also` times the student's softmax, are written. Gives its log-sum-exp
    /// and the head's logits, which are gone from `logits`.
    #[inline(always)]
    fn divergence(
        &mut self,
        kl: &KlPart<'_>,
        head: Head<'_>,
        logits: &mut [f32],
        gradient: &mut [f32],
        also: f64,
    ) -> (f64, f64, Vec<f32>) {
        let beta = kl.beta;
        let kept: Vec<f32> = head.ids.iter().map(|id| logits[*id as usize]).collect();
        let tail = head.log_tail.filter(|_| !matches!(kl.spread, Spread::Nowhere));
        let base = cover(head.ids, logits);
        let mut off = Off::default();
        match (kl.spread, tail) {
            (Spread::Prior { w, log_w, negative_entropy }, Some(_)) => {
                off = Off::of_prior(head.ids, logits, beta, base, (w, log_w, *negative_entropy));
            }
            (Spread::Shape { .. }, Some(_)) => off = Off::of_shape(head.ids, logits, beta, base, self.tail),
            _ => {}
        }
        let off_head = exponentials(logits, gradient, beta, head.ids, base);
        // Relative to the largest logit off the head, so that a tail far below is no sum of zeros.
        let above: Vec<f64> = kept.iter().map(|l| beta * (f64::from(*l) - f64::from(base))).collect();
        let log_sum = log_sum_exp(off_head, &above);
        let a = kl.factor * beta;
        let inverse = (-log_sum).exp();
        let mut divergence = 0.0;
        for (log_p, above) in head.log_p.iter().zip(&above) {
            let log_p = f64::from(*log_p);
            divergence += log_p.exp() * (log_p - (above - log_sum));
        }
        let mut student = a + also;
        let mut target = 0.0;
        if let Some(log_mass) = tail {
            let mass = log_mass.exp();
            if let Spread::Bucket = kl.spread {
                let log_rest = off_head - log_sum;
                divergence += mass * (log_mass - log_rest);
                student -= a * (log_mass - log_rest).exp();
            } else {
                divergence += mass * (log_mass + off.negative_entropy - (off.mean - log_sum));
                target = a * mass * off.inverse;
            }
        }
        match kl.spread {
            Spread::Prior { w, .. } if tail.is_some() => combine(gradient, student * inverse, w, target),
            Spread::Shape { .. } if tail.is_some() => combine(gradient, student * inverse, self.tail, target),
            _ => scale(gradient, student * inverse),
        }
        for ((id, log_p), above) in head.ids.iter().zip(head.log_p).zip(&above) {
            let q = (above - log_sum).exp();
            gradient[*id as usize] = (a * (q - f64::from(*log_p).exp()) + also * q) as f32;
        }
        (divergence, beta * f64::from(base) + log_sum, kept)
    }
}

/// The target's distribution `u` over the classes off the head.
#[derive(Default)]
struct Off {
    /// What its weights are multiplied by to be probabilities.
    inverse: f64,
    /// `Σ u log u`.
    negative_entropy: f64,
    /// `Σ u β (l − base)`, of the same base as [`exponentials`] has.
    mean: f64,
}

impl Off {
    /// With `u_j = w_j / (1 − W)`, `W` being the head's share.
    #[inline(always)]
    fn of_prior(
        head: &[i64],
        logits: &[f32],
        beta: f64,
        base: f32,
        (w, log_w, all): (&[f32], &[f64], f64),
    ) -> Self {
        let mut mean = 0.0;
        let mut x = [0.0f32; BLOCK];
        for (w, logits) in w.chunks(BLOCK).zip(logits.chunks(BLOCK)) {
            let x = &mut x[..logits.len()];
            for (x, l) in x.iter_mut().zip(logits) {
                *x = l - base;
            }
            mean += f64::from(dot(w, x));
        }
        let (mut share, mut on_head) = (0.0, 0.0);
        for id in head {
            let log_w = log_w[*id as usize];
            share += log_w.exp();
            on_head += log_w.exp() * log_w;
        }
        let kept = (1.0 - share).max(f64::MIN_POSITIVE);
        let negative_entropy = (all - on_head) / kept - kept.ln();
        Self { inverse: 1.0 / kept, negative_entropy, mean: beta * mean / kept }
    }

    /// With `u_j ∝ exp(z_j)`; leaves `exp(z_j − max z)` in `z`.
    #[inline(always)]
    fn of_shape(head: &[i64], logits: &[f32], beta: f64, base: f32, z: &mut [f32]) -> Self {
        for id in head {
            z[*id as usize] = f32::NEG_INFINITY;
        }
        let most = largest(z);
        let (mut all, mut of_log, mut mean) = (0.0, 0.0, 0.0);
        let (mut x, mut log) = ([0.0f32; BLOCK], [0.0f32; BLOCK]);
        for (z, logits) in z.chunks_mut(BLOCK).zip(logits.chunks(BLOCK)) {
            let (x, log) = (&mut x[..z.len()], &mut log[..z.len()]);
            for (((x, log), z), l) in x.iter_mut().zip(&mut *log).zip(&mut *z).zip(logits) {
                *x = l - base;
                // What vanishes has no part in the entropy either; −∞ times 0 would be none at all.
                *log = (*z - most).max(-1e4);
                *z = exp_non_positive(*log);
            }
            all += f64::from(sum(z));
            of_log += f64::from(dot(z, log));
            mean += f64::from(dot(z, x));
        }
        Self { inverse: 1.0 / all, negative_entropy: of_log / all - all.ln(), mean: beta * mean / all }
    }
}

impl LabelPart {
    /// Takes `(1 − ε)` of the label and `ε` of all classes evenly from a gradient.
    #[inline(always)]
    fn take_label(&self, label: i64, gradient: &mut [f32]) {
        if self.smoothing > 0.0 {
            let even = (self.factor * self.smoothing / gradient.len() as f64) as f32;
            for g in gradient.iter_mut() {
                *g -= even;
            }
        }
        gradient[label as usize] -= (self.factor * (1.0 - self.smoothing)) as f32;
    }
}

/// Puts the largest logit off the head in the place of the head's, and gives it; 0 where the head is all there is.
#[inline(always)]
fn cover(head: &[i64], logits: &mut [f32]) -> f32 {
    for id in head {
        logits[*id as usize] = f32::NEG_INFINITY;
    }
    let base = if head.len() < logits.len() { largest(logits) } else { 0.0 };
    for id in head {
        logits[*id as usize] = base;
    }
    base
}

/// `out = exp(β (l − base))`, and nothing on the head; with the logarithm of their sum.
#[inline(always)]
fn exponentials(logits: &mut [f32], out: &mut [f32], beta: f64, head: &[i64], base: f32) -> f64 {
    for id in head {
        logits[*id as usize] = f32::NEG_INFINITY;
    }
    let step = beta as f32;
    let mut all = 0.0;
    for (out, logits) in out.chunks_mut(BLOCK).zip(logits.chunks(BLOCK)) {
        for (e, l) in out.iter_mut().zip(logits) {
            *e = exp_non_positive(step * (l - base));
        }
        all += f64::from(sum(out));
    }
    if head.len() < logits.len() { all.ln() } else { f64::NEG_INFINITY }
}

/// Adds `factor · softmax(l)` to `out`, and gives the log-sum-exp. Exponentials are left in `logits`.
#[inline(always)]
fn add_softmax(logits: &mut [f32], out: &mut [f32], factor: f64) -> f64 {
    let base = largest(logits);
    let mut all = 0.0;
    for block in logits.chunks_mut(BLOCK) {
        for l in block.iter_mut() {
            *l = exp_non_positive(*l - base);
        }
        all += f64::from(sum(block));
    }
    let factor = (factor / all) as f32;
    for (g, e) in out.iter_mut().zip(logits) {
        *g += factor * *e;
    }
    f64::from(base) + all.ln()
}

/// `g = a g − b t`.
#[inline(always)]
fn combine(gradient: &mut [f32], a: f64, target: &[f32], b: f64) {
    let (a, b) = (a as f32, b as f32);
    for (g, t) in gradient.iter_mut().zip(target) {
        *g = a * *g - b * *t;
    }
}

/// `g = a g`.
#[inline(always)]
fn scale(gradient: &mut [f32], a: f64) {
    let a = a as f32;
    for g in gradient {
        *g *= a;
    }
}

#[inline(always)]
fn mean(values: &[f32]) -> f64 {
    values.chunks(BLOCK).map(|block| f64::from(sum(block))).sum::<f64>() / values.len() as f64
}

/// `log(e^first + Σ e^others)`.
#[inline(always)]
fn log_sum_exp(first: f64, others: &[f64]) -> f64 {
    let most = others.iter().copied().fold(first, f64::max);
    most + ((first - most).exp() + others.iter().map(|other| (other - most).exp()).sum::<f64>()).ln()
}
