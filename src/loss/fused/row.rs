//! A group of rows, block after block: loss and gradient of each.

use std::mem::MaybeUninit;
use std::ops::Range;

use pulp::{Simd, WithSimd};

use super::block::{self, Weighted};
use super::{Head, KlPart, LabelPart, Spread};
use crate::vectors::{BLOCK, Exp2, TILE, all_finite, softmax};

/// What a thread needs beside the rows themselves; kept from one group of rows to the next.
#[derive(Default)]
pub(super) struct Scratch {
    /// The student's exponentials, then the gradient: `[rows, padded]`.
    student: Vec<f32>,
    /// The tail's, where these depend on the position: `[rows, padded]`.
    tail: Vec<f32>,
    /// The student's at T = 1, where the divergence is at another and there are labels: `[rows, padded]`.
    plain: Vec<f32>,
    /// `[rows, blocks]`.
    sums: Vec<Sums>,
}

/// Of a block of a row, each relative to its own largest.
#[derive(Clone, Copy, Default)]
struct Sums {
    /// Largest logit off the head.
    most: f32,
    sum: f32,
    /// Largest log-weight off the head.
    tail_most: f32,
    tail: Weighted,
    /// Largest logit of all.
    plain_most: f32,
    plain: f32,
}

impl Sums {
    /// What logits are taken relative to in [`Weighted::mean`], which then loses nothing where blocks lie far apart.
    fn near(&self) -> f32 {
        if self.most > f32::MIN { self.most } else { 0.0 }
    }
}

/// Rows of logits and where their gradient goes.
pub(super) struct Rows<'a> {
    pub(super) kl: Option<&'a KlPart<'a>>,
    pub(super) labels: Option<&'a LabelPart>,
    /// The place of the first one in the batch.
    pub(super) first: usize,
    pub(super) classes: usize,
    /// `[rows, classes]`.
    pub(super) logits: &'a [f32],
    /// `[rows, classes]`, all of it is written.
    pub(super) gradient: &'a mut [MaybeUninit<f32>],
    pub(super) scratch: &'a mut Scratch,
}

impl WithSimd for Rows<'_> {
    /// Σ KL and Σ cross-entropy, in nats.
    type Output = [f64; 2];

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> [f64; 2] {
        let Self { kl, labels, first, classes, logits, gradient, scratch } = self;
        let padded = classes.next_multiple_of(TILE);
        let mut rows: Vec<Row<'_>> = logits
            .chunks(classes)
            .zip(first..)
            .map(|(logits, at)| Row::new(logits, kl.map(|kl| (kl, kl.targets.row(at))), labels, at))
            .collect();
        let blocks = padded.div_ceil(BLOCK);
        let room = |wanted: bool| if wanted { rows.len() * padded } else { 0 };
        scratch.student.resize(room(true), 0.0);
        scratch.tail.resize(room(rows.iter().any(|row| row.shape().is_some())), 0.0);
        scratch.plain.resize(room(rows.iter().any(|row| row.plain)), 0.0);
        scratch.sums.clear();
        scratch.sums.resize(rows.len() * blocks, Sums::default());
        let exp = Exp2::new(simd);
        let place = |row: usize, at: &Range<usize>| row * padded + at.start..row * padded + at.end;
        // All rows of a block, so that what is the same for all of them is read once.
        for number in 0..blocks {
            let at = number * BLOCK..padded.min((number + 1) * BLOCK);
            for (index, row) in rows.iter_mut().enumerate() {
                let place = place(index, &at);
                scratch.sums[index * blocks + number] = row.read(
                    simd,
                    &exp,
                    number,
                    at.clone(),
                    &mut scratch.student[place.clone()],
                    scratch.tail.get_mut(place.clone()).unwrap_or_default(),
                    scratch.plain.get_mut(place).unwrap_or_default(),
                );
            }
        }
        let mut losses = [0.0; 2];
        for (index, (row, gradient)) in rows.iter().zip(gradient.chunks_mut(classes)).enumerate() {
            let sums = &scratch.sums[index * blocks..(index + 1) * blocks];
            let ([divergence, cross_entropy], known) = row.conclude(sums);
            losses = [losses[0] + divergence, losses[1] + cross_entropy];
            let Some(known) = known else {
                // A run that has gone astray is told by its loss; a row with nothing to compare has no gradient.
                let all = if row.sound { 0.0 } else { f32::NAN };
                gradient.fill(MaybeUninit::new(all));
                continue;
            };
            for (number, (sums, out)) in sums.iter().zip(gradient.chunks_mut(BLOCK)).enumerate() {
                let at = number * BLOCK..padded.min((number + 1) * BLOCK);
                let place = place(index, &at);
                let student = &mut scratch.student[place.clone()];
                let tail = scratch.tail.get(place.clone()).unwrap_or_default();
                let plain = scratch.plain.get(place).unwrap_or_default();
                row.write(&known, sums, number, at, student, tail, plain);
                for (out, g) in out.iter_mut().zip(&*student) {
                    *out = MaybeUninit::new(*g);
                }
            }
        }
        losses
    }
}

/// A row on its way.
struct Row<'a> {
    logits: &'a [f32],
    kl: Option<(&'a KlPart<'a>, Head<'a>)>,
    label: Option<(&'a LabelPart, usize)>,
    beta: f64,
    /// Whether the student's softmax at T = 1 is another than the divergence's.
    plain: bool,
    heads: Heads,
    /// Whether no logit is NaN or +∞.
    sound: bool,
}

/// A head's ranks by the block that its classes lie in.
struct Heads {
    ranks: Vec<u32>,
    /// `[blocks + 1]`.
    starts: Vec<u32>,
}

/// What the gradient of a row is made of, once all of it has been read.
struct Known {
    /// The largest of [`Sums::most`], [`Sums::tail_most`] and [`Sums::plain_most`].
    most: [f64; 3],
    /// What the exponentials relative to these are multiplied by.
    factors: [f64; 3],
    /// What is taken from the first of them for the target's bucket.
    bucket: f64,
    /// By rank: the gradient on the head.
    head: Vec<f32>,
}

impl<'a> Row<'a> {
    fn new(
        logits: &'a [f32],
        kl: Option<(&'a KlPart<'a>, Head<'a>)>,
        labels: Option<&'a LabelPart>,
        at: usize,
    ) -> Self {
        let label = labels.and_then(|part| Some((part, usize::try_from(part.labels[at]).ok()?)));
        let beta = kl.as_ref().map_or(1.0, |(kl, _)| kl.beta);
        let ids = kl.as_ref().map_or(&[][..], |(_, head)| head.ids);
        let heads = Heads::new(ids, logits.len().div_ceil(BLOCK));
        Self { logits, kl, label, beta, plain: label.is_some() && beta != 1.0, heads, sound: true }
    }

    fn spread(&self) -> &'a Spread {
        self.kl.as_ref().map_or(&Spread::Nowhere, |(kl, _)| kl.spread)
    }

    /// Log-weights and basis of the tail.
    fn shape(&self) -> Option<(&'a [f32], &'a [f32])> {
        match self.spread() {
            Spread::Shape { log_w, basis } => Some((log_w, basis)),
            _ => None,
        }
    }

    /// The head's ranks and ids in a block, the latter counted from its first class.
    fn head(&self, block: usize) -> impl Iterator<Item = (usize, usize)> + '_ {
        let ids = self.kl.as_ref().map_or(&[][..], |(_, head)| head.ids);
        self.heads.of(block).map(move |rank| (rank, ids[rank] as usize - block * BLOCK))
    }

    /// Exponentials and sums of a block, `at` in the padded row.
    #[inline(always)]
    #[allow(clippy::too_many_arguments, reason = "three arrays of one place")]
    fn read<S: Simd>(
        &mut self,
        simd: S,
        exp: &Exp2<S>,
        number: usize,
        at: Range<usize>,
        student: &mut [f32],
        tail: &mut [f32],
        plain: &mut [f32],
    ) -> Sums {
        let logits = &self.logits[at.start..at.end.min(self.logits.len())];
        self.sound &= all_finite(logits) || !logits.iter().any(|l| l.is_nan() || *l == f32::INFINITY);
        let mut x = [f32::NEG_INFINITY; BLOCK];
        let x = &mut x[..at.len()];
        x[..logits.len()].copy_from_slice(logits);
        let mut sums = Sums::default();
        let log2_e = std::f64::consts::LOG2_E;
        if self.plain {
            sums.plain_most = softmax::largest(simd, x).max(f32::MIN);
            sums.plain = softmax::exponentials(simd, exp, x, sums.plain_most, log2_e as f32, plain);
        }
        for (_, id) in self.head(number) {
            x[id] = f32::NEG_INFINITY;
        }
        // Beside the least of all floats what is −∞ is still nothing.
        sums.most = softmax::largest(simd, x).max(f32::MIN);
        sums.sum = softmax::exponentials(simd, exp, x, sums.most, (self.beta * log2_e) as f32, student);
        let Some((_, head)) = &self.kl else { return sums };
        if head.log_tail.is_none() {
            return sums;
        }
        let near = sums.near();
        // No mass of the tail is on the head, nor behind the last class.
        for (_, id) in self.head(number) {
            x[id] = near;
        }
        x[logits.len()..].fill(near);
        match self.spread() {
            Spread::Nowhere | Spread::Bucket => {}
            Spread::Prior { w, .. } => sums.tail.mean = block::mean(simd, &w[at], x, near),
            Spread::Shape { log_w, basis } => {
                let rank = head.code.len();
                let basis = &basis[at.start * rank..at.end * rank];
                softmax::log_weights(simd, &log_w[at], basis, head.code, tail);
                for (_, id) in self.head(number) {
                    tail[id] = f32::NEG_INFINITY;
                }
                tail[logits.len()..].fill(f32::NEG_INFINITY);
                sums.tail_most = softmax::largest(simd, tail).max(f32::MIN);
                sums.tail = block::weigh(simd, exp, tail, sums.tail_most, x, near);
            }
        }
        sums
    }

    /// Divergence and cross-entropy, and what the gradient is made of; `None` where it is the same for all classes.
    #[inline(never)]
    fn conclude(&self, sums: &[Sums]) -> ([f64; 2], Option<Known>) {
        if !self.sound {
            return ([f64::NAN; 2], None);
        }
        if self.kl.is_none() && self.label.is_none() {
            return ([0.0; 2], None);
        }
        let (most, off_head) = total(sums.iter().map(|sums| (sums.most, sums.sum)), self.beta);
        let (plain_most, plain) = total(sums.iter().map(|sums| (sums.plain_most, sums.plain)), 1.0);
        let ids = self.kl.as_ref().map_or(&[][..], |(_, head)| head.ids);
        // Where the head is all there is, or all there is of numbers.
        let (most, off_head) =
            if most > f64::from(f32::MIN) { (most, off_head.ln()) } else { (0.0, f64::NEG_INFINITY) };
        // Relative to the largest logit off the head, so that a tail far below is no sum of zeros.
        let on_head = ids.iter().map(|id| f64::from(self.logits[*id as usize]));
        let above: Vec<f64> = on_head.map(|l| self.beta * (l - most)).collect();
        let log_sum = log_sum_exp(off_head, &above);
        // One softmax serves both where T = 1.
        let also = self.label.filter(|_| !self.plain).map_or(0.0, |(part, _)| part.factor);
        let mut known = Known {
            most: [most, 0.0, plain_most],
            factors: [also, 0.0, 0.0],
            bucket: 0.0,
            head: above.iter().map(|above| (also * (above - log_sum).exp()) as f32).collect(),
        };
        let mut losses = [0.0; 2];
        if let Some((kl, head)) = &self.kl {
            losses[0] = self.diverge(kl, head, sums, (off_head, log_sum), &above, &mut known);
        }
        known.factors[0] = known.factors[0] * (-log_sum).exp() - known.bucket;
        if let Some((part, label)) = self.label {
            let mut log_sum_plain = self.beta * most + log_sum;
            if self.plain {
                log_sum_plain = plain_most + plain.ln();
                known.factors[2] = part.factor * (-plain.ln()).exp();
            }
            losses[1] = log_sum_plain - part.picked(self.logits, label);
        }
        (losses, Some(known))
    }

    /// The divergence; its gradient is put into `known`, less the student's normaliser.
    fn diverge(
        &self,
        kl: &KlPart<'_>,
        head: &Head<'_>,
        sums: &[Sums],
        (off_head, log_sum): (f64, f64),
        above: &[f64],
        known: &mut Known,
    ) -> f64 {
        let a = kl.factor * kl.beta;
        let mut divergence = 0.0;
        for ((log_p, above), g) in head.log_p.iter().zip(above).zip(&mut known.head) {
            let (log_p, log_q) = (f64::from(*log_p), above - log_sum);
            divergence += log_p.exp() * (log_p - log_q);
            *g += (a * (log_q.exp() - log_p.exp())) as f32;
        }
        known.factors[0] += a;
        let Some(log_mass) = head.log_tail else { return divergence };
        let mass = log_mass.exp();
        let off = match kl.spread {
            Spread::Nowhere => return divergence,
            Spread::Bucket => {
                // Where the student has nothing off the head, no gradient can say so.
                if off_head > f64::NEG_INFINITY {
                    known.bucket = a * (log_mass - off_head).exp();
                }
                return divergence + mass * (log_mass - (off_head - log_sum));
            }
            Spread::Prior { log_w, by_block, negative_entropy, .. } => {
                Off::of_prior(head.ids, sums, known.most[0], (log_w, by_block, *negative_entropy))
            }
            Spread::Shape { .. } => Off::of_shape(sums, known.most[0]),
        };
        known.most[1] = off.most;
        known.factors[1] = -a * mass * off.inverse;
        divergence + mass * (log_mass + off.negative_entropy - (kl.beta * off.mean - log_sum))
    }

    /// The gradient of a block, in `student`.
    #[inline(always)]
    #[allow(clippy::too_many_arguments, reason = "three arrays of one place")]
    fn write(
        &self,
        known: &Known,
        sums: &Sums,
        number: usize,
        at: Range<usize>,
        student: &mut [f32],
        tail: &[f32],
        plain: &[f32],
    ) {
        let relative = |most: f32, of: usize, beta: f64| {
            known.factors[of] * (beta * (f64::from(most) - known.most[of])).exp()
        };
        let own = relative(sums.most, 0, self.beta);
        match self.spread() {
            Spread::Prior { w, .. } if known.factors[1] != 0.0 => {
                block::combine(student, own, &w[at], known.factors[1]);
            }
            Spread::Shape { .. } if known.factors[1] != 0.0 => {
                block::combine(student, own, tail, relative(sums.tail_most, 1, 1.0));
            }
            _ => block::scale(student, own),
        }
        for (rank, id) in self.head(number) {
            student[id] = known.head[rank];
        }
        if self.plain {
            block::combine(student, 1.0, plain, relative(sums.plain_most, 2, 1.0));
        }
        let Some((part, label)) = self.label else { return };
        if part.smoothing > 0.0 {
            block::shift(student, -part.factor * part.smoothing / self.logits.len() as f64);
        }
        if label / BLOCK == number {
            student[label % BLOCK] -= (part.factor * (1.0 - part.smoothing)) as f32;
        }
    }
}

impl Heads {
    fn new(ids: &[i64], blocks: usize) -> Self {
        let mut starts = vec![0; blocks + 1];
        for id in ids {
            starts[*id as usize / BLOCK + 1] += 1;
        }
        for block in 0..blocks {
            starts[block + 1] += starts[block];
        }
        let (mut ranks, mut next) = (vec![0; ids.len()], starts.clone());
        for (rank, id) in ids.iter().enumerate() {
            let next = &mut next[*id as usize / BLOCK];
            ranks[*next as usize] = rank as u32;
            *next += 1;
        }
        Self { ranks, starts }
    }

    fn of(&self, block: usize) -> impl Iterator<Item = usize> + '_ {
        self.ranks[self.starts[block] as usize..self.starts[block + 1] as usize]
            .iter()
            .map(|rank| *rank as usize)
    }
}

/// The target's distribution `u` over the classes off the head.
struct Off {
    /// The largest log-weight, where weights are relative to it.
    most: f64,
    /// What the weights are multiplied by to be probabilities.
    inverse: f64,
    /// `Σ u log u`.
    negative_entropy: f64,
    /// `Σ u (l − most)`, relative to the largest logit off the head.
    mean: f64,
}

impl Off {
    /// With `u_j = w_j / (1 − W)`, `W` being the head's share.
    fn of_prior(
        head: &[i64],
        sums: &[Sums],
        most: f64,
        (log_w, by_block, all): (&[f64], &[f64], f64),
    ) -> Self {
        let (mut share, mut on_head) = (0.0, 0.0);
        let mut rest = by_block.to_vec();
        for id in head {
            let log_w = log_w[*id as usize];
            share += log_w.exp();
            on_head += log_w.exp() * log_w;
            rest[*id as usize / BLOCK] -= log_w.exp();
        }
        let kept = (1.0 - share).max(f64::MIN_POSITIVE);
        let mean = |(sums, rest): (&Sums, f64)| {
            f64::from(sums.tail.mean) + rest.max(0.0) * (f64::from(sums.near()) - most)
        };
        let mean: f64 = sums.iter().zip(rest).map(mean).sum();
        let negative_entropy = (all - on_head) / kept - kept.ln();
        Self { most: 0.0, inverse: 1.0 / kept, negative_entropy, mean: mean / kept }
    }

    /// With `u_j ∝ exp(z_j)`.
    fn of_shape(sums: &[Sums], largest: f64) -> Self {
        let (most, all) = total(sums.iter().map(|sums| (sums.tail_most, sums.tail.sum)), 1.0);
        let (mut of_log, mut mean) = (0.0, 0.0);
        for sums in sums {
            let tail = &sums.tail;
            let below = f64::from(sums.tail_most) - most;
            let factor = below.exp();
            // What vanishes has no part in the entropy either; −∞ times 0 would be none at all.
            if factor > 0.0 {
                let log = std::f64::consts::LN_2 * f64::from(tail.log);
                of_log += factor * (log + below * f64::from(tail.sum));
                let near = f64::from(sums.near()) - largest;
                mean += factor * (f64::from(tail.mean) + f64::from(tail.sum) * near);
            }
        }
        Self { most, inverse: 1.0 / all, negative_entropy: of_log / all - all.ln(), mean: mean / all }
    }
}

/// The largest of what sums are relative to, and their sum relative to it.
fn total(sums: impl Iterator<Item = (f32, f32)> + Clone, beta: f64) -> (f64, f64) {
    let most = sums.clone().fold(f32::MIN, |most, (own, _)| most.max(own));
    let relative = |(own, sum)| f64::from(sum) * (beta * (f64::from(own) - f64::from(most))).exp();
    (f64::from(most), sums.map(relative).sum())
}

/// `log(e^first + Σ e^others)`.
fn log_sum_exp(first: f64, others: &[f64]) -> f64 {
    let most = others.iter().copied().fold(first, f64::max);
    most + ((first - most).exp() + others.iter().map(|other| (other - most).exp()).sum::<f64>()).ln()
}
