//! Selection and tail curve of a batch, rows in parallel.

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::bound::bound;
use super::keys::{id_of, key, least, logit_of};
use super::shorten::shorten;
use super::sums::NodeSums;
use crate::floats::Floats;
use crate::target::{TailNodes, TargetBatch};
use crate::vectors::{all_finite, with_widest};

/// A logit that is NaN or infinite.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[error("class {class} has the logit {value}, which is not finite{}", if *value == f32::NEG_INFINITY { "; give masked classes a finite one, -1e9 say" } else { "" })]
pub struct NonFinite {
    /// Row of the batch.
    pub row: usize,
    /// Class.
    pub class: usize,
    /// What was found.
    pub value: f32,
}

impl NonFinite {
    /// The first of a row's logits that is not finite.
    pub(super) fn in_row<'a>(row: usize, logits: impl Into<Floats<'a>>) -> Self {
        let mut wide = Vec::new();
        let logits = logits.into().widened(&mut wide);
        let class = logits.iter().position(|z| !z.is_finite()).unwrap_or(0);
        Self { row, class, value: logits[class] }
    }
}

/// Turns logits into heads and tail curves.
#[derive(Clone, Debug)]
pub struct Selector {
    pub(super) classes: usize,
    pub(super) k: usize,
    pub(super) nodes: TailNodes,
    pub(super) sums: NodeSums,
    /// Heads end where they hold this much at T = 1.
    pub(super) mass: Option<f64>,
}

/// Rows from here on have their bound guessed from an eighth of them.
const LONG: usize = 8192;
const STEP: usize = 8;

/// What a thread reuses from row to row.
#[derive(Default)]
struct Scratch {
    maxima: Vec<f32>,
    /// Of what may belong to the head, by rising id.
    keys: Vec<i64>,
    /// Of the head and the tail's largest, in order.
    head: Vec<i64>,
    /// Logits that may have belonged to the head and do not.
    close: Vec<f32>,
    /// Sums over those and over all others.
    sums: Vec<f64>,
    sums_below: Vec<f64>,
}

impl Selector {
    /// A selector of `k` of `classes` classes, or `None` unless `1 ≤ k ≤ classes`.
    pub fn new(classes: usize, k: usize, nodes: &TailNodes) -> Option<Self> {
        (k >= 1 && k <= classes).then(|| Self {
            classes,
            k,
            nodes: nodes.clone(),
            sums: NodeSums::new(nodes),
            mass: None,
        })
    }

    /// Where `mass` is given, heads are to be the smallest that hold it of the softmax at T = 1, of `k`
    /// classes at most; `None` where `k` is all of them, so that some head would leave no tail.
    pub fn with_mass(mut self, mass: Option<f64>) -> Option<Self> {
        self.mass = mass;
        (mass.is_none() || self.k < self.classes).then_some(self)
    }

    /// Inverse temperatures of the curves.
    pub fn nodes(&self) -> &TailNodes {
        &self.nodes
    }

    /// Values per tail curve: the nodes, or 0 when the head holds every class.
    pub fn curve_len(&self) -> usize {
        if self.k < self.classes { self.nodes.len() } else { 0 }
    }

    /// Heads and tail curves of `logits`.
    ///
    /// # Shapes
    /// `logits`: `[rows, classes]`, raw logits of any type of floats; the result has `rows` positions.
    ///
    /// # Errors
    /// [`NonFinite`]: the first logit, in row order, that is NaN or infinite.
    ///
    /// # Panics
    /// When the length of `logits` is no multiple of `classes`.
    pub fn select<'a>(&self, logits: impl Into<Floats<'a>>) -> Result<TargetBatch, NonFinite> {
        let logits = logits.into();
        assert_eq!(logits.len() % self.classes, 0, "logits of another number of classes");
        let rows = logits.len() / self.classes;
        let nodes = self.curve_len();
        let mut batch = TargetBatch::zeroed(rows, self.k, nodes);
        // Chunks of nothing there are none, and zip ends with the shortest: rows without a curve get one to leave.
        let mut no_curves = if nodes == 0 { vec![0.0; rows] } else { Vec::new() };
        let curves = if nodes == 0 { &mut no_curves } else { &mut batch.curve };
        let failed = (0..rows)
            .into_par_iter()
            .zip(batch.ids.par_chunks_mut(self.k))
            .zip(batch.values.par_chunks_mut(self.k))
            .zip(curves.par_chunks_mut(nodes.max(1)))
            .map_init(<(Vec<f32>, Scratch)>::default, |(wide, scratch), (((row, ids), values), curve)| {
                let (row, ahead) = logits.part(row * self.classes..logits.len()).first(self.classes, wide);
                let curve = &mut curve[..nodes];
                with_widest(Row { selector: self, row, ahead, scratch, ids, values, curve })
            })
            .enumerate()
            .find_first(|(_, sound)| !sound);
        match failed {
            None => {
                if let Some(mass) = self.mass {
                    shorten(&mut batch, mass, &self.nodes);
                }
                Ok(batch)
            }
            Some((row, _)) => Err(NonFinite::in_row(row, logits.row(row, self.classes))),
        }
    }
}

/// The selection of one row. `false`, with nothing of use, where a logit is not finite.
struct Row<'a> {
    selector: &'a Selector,
    row: &'a [f32],
    /// What will be read when so much more has been.
    ahead: &'a [f32],
    scratch: &'a mut Scratch,
    ids: &'a mut [u32],
    values: &'a mut [f32],
    curve: &'a mut [f32],
}

impl WithSimd for Row<'_> {
    type Output = bool;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> bool {
        let Self { selector, row, ahead, scratch, ids, values, curve } = self;
        let Scratch { maxima, keys, head, close, sums, sums_below } = scratch;
        // One more than the head: the largest logit of the tail.
        let wanted = selector.k + usize::from(!curve.is_empty());
        for sums in [&mut *sums, &mut *sums_below] {
            sums.clear();
            sums.resize(curve.len(), 0.0);
        }
        let reference = candidates(simd, &selector.sums, (row, ahead), wanted, maxima, keys, sums_below);
        let Some(reference) = reference else { return false };
        least(simd, keys, wanted, head);
        let z_max = logit_of(head[0]);
        for ((id, value), key) in ids.iter_mut().zip(values).zip(&*head) {
            *id = id_of(*key);
            *value = logit_of(*key) - z_max;
        }
        if curve.is_empty() {
            return true;
        }
        let first = head[selector.k];
        let tail_max = logit_of(first);
        close.clear();
        close.extend(keys.iter().filter(|key| **key >= first).map(|key| logit_of(*key)));
        if selector.sums.reaches(tail_max) {
            selector.sums.over(simd, close, tail_max, keys, sums);
        } else {
            selector.sums.exactly(close, tail_max, sums);
        }
        // Relative to the *tail's* largest, so that a sum is at least 1 however far below the head the tail lies.
        let drop = f64::from(tail_max) - f64::from(z_max);
        selector.sums.add_lower(f64::from(reference) - f64::from(tail_max), sums_below, sums);
        for ((g, sum), beta) in curve.iter_mut().zip(&*sums).zip(selector.nodes.as_slice()) {
            *g = (beta * drop + sum.ln()) as f32;
        }
        true
    }
}

/// Leaves in `keys` those of `row` that reach some reference, by rising id, at least `wanted` of them, and in `sums`
/// the sums over all others; returns the reference. `None` where a logit is not finite.
#[inline(always)]
fn candidates<S: Simd>(
    simd: S,
    node_sums: &NodeSums,
    (row, ahead): (&[f32], &[f32]),
    wanted: usize,
    maxima: &mut Vec<f32>,
    keys: &mut Vec<i64>,
    sums: &mut [f64],
) -> Option<f32> {
    // A guess is meant to be reached by half as many again and 32, so that it is by less than wanted in one row of a
    // thousand; the second bound is reached by as many as are wanted.
    let guess = (wanted + wanted / 2 + 32).div_ceil(STEP);
    let bounds = [(STEP, guess), (1, wanted)];
    // Where the head has all there is, nothing is summed.
    let tried = if sums.is_empty() { bounds.len() } else { usize::from(row.len() < LONG) };
    for (step, count) in &bounds[tried..] {
        let reference = bound(simd, row, *step, *count, maxima).filter(|bound| node_sums.reaches(*bound));
        let Some(reference) = reference else { continue };
        if !node_sums.below(simd, row, ahead, reference, keys, sums) {
            return None;
        }
        if keys.len() >= wanted {
            return Some(reference);
        }
    }
    // So short a row, so large a head or such numbers that each class is looked at.
    keys.clear();
    keys.extend(row.iter().zip(0..).map(|(z, id)| key(*z, id)));
    sums.fill(0.0);
    all_finite(row).then_some(f32::MIN)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::select::reference;

    fn check(logits: &[f32], classes: usize, k: usize, nodes: &TailNodes) {
        let batch = Selector::new(classes, k, nodes).unwrap().select(logits).unwrap();
        for (at, row) in logits.chunks(classes).enumerate() {
            let exact = reference::select_row(row, k, nodes);
            let (ids, values, curve) = batch.row(at);
            assert_eq!(ids, exact.ids);
            for (value, exact) in values.iter().zip(&exact.values) {
                assert!((f64::from(*value) - exact).abs() <= 1e-6 * exact.abs(), "{value} for {exact}");
            }
            assert_eq!(curve.len(), exact.curve.len());
            for (g, exact) in curve.iter().zip(&exact.curve) {
                assert!((f64::from(*g) - exact).abs() < 1e-5 * (1.0 + exact.abs()), "{g} for {exact}");
            }
        }
    }

    proptest! {
        #[test]
        fn agrees_with_the_slow_reference(
            logits in proptest::collection::vec(-30.0f32..30.0, 700),
            classes in prop_oneof![Just(7usize), Just(20), Just(100), Just(350), Just(700)],
            k in 1usize..7,
        ) {
            check(&logits, classes, k, &TailNodes::default());
        }
    }

    /// Logits of a row longer than those whose bound is guessed, spread over `scale`, from `lowest` on.
    fn long(classes: usize, rows: usize, scale: f32, lowest: f32) -> Vec<f32> {
        let noise = crate::permutation::Permutation::new(1 << 24, 5, 0);
        let at = |i: usize| noise.at(i as u64) as f32 / (1 << 24) as f32;
        (0..classes * rows).map(|i| lowest + scale * at(i).powi(3)).collect()
    }

    #[test]
    fn long_rows_and_odd_nodes_agree_too() {
        let odd = TailNodes::try_from(vec![0.1, 0.3, 1.0, 1.7]).unwrap();
        for nodes in [TailNodes::default(), odd] {
            for (classes, k) in [(LONG, 12), (LONG + 63, 64), (20_011, 1), (20_011, 4000)] {
                for (scale, lowest) in [(20.0, -7.0), (0.5, 900.0), (200.0, -5000.0), (0.0, 3.0)] {
                    check(&long(classes, 2, scale, lowest), classes, k, &nodes);
                }
            }
        }
    }

    #[test]
    fn many_classes_far_below_the_tails_largest_are_not_rounded_away() {
        for (classes, k) in [(1024, 511), (1024, 100), (1000, 12), (49_152, 12), (49_152, 5000)] {
            for low in [-9.7, -13.5, -16.1] {
                // The head, one class at the tail's largest, and many that come to something together.
                let at = |i: usize| {
                    if i * 7919 % classes <= k { (i * 7919 % classes) as f32 / 100.0 } else { low }
                };
                let row: Vec<f32> = (0..classes).map(at).collect();
                check(&row, classes, k, &TailNodes::default());
            }
        }
    }

    #[test]
    fn classes_that_a_teacher_masks_are_no_trouble() {
        for masked in [f32::MIN, -1e30, -65504.0] {
            for left in [3, 12, 13, 40] {
                let mut row = vec![masked; 9000];
                for (i, z) in row.iter_mut().step_by(9000 / left).enumerate() {
                    *z = -(i as f32) / 3.0;
                }
                check(&row, 9000, 12, &TailNodes::default());
                check(&row[..500], 500, 12, &TailNodes::default());
            }
        }
    }

    #[test]
    fn a_guess_that_too_few_reach_is_made_good() {
        // All that is large stands where the guess looks, in the first 256 of every 2048.
        let row: Vec<f32> =
            (0..16_384).map(|i| if i % 2048 < 16 { 10.0 + i as f32 / 1e4 } else { i as f32 / 1e4 }).collect();
        check(&row, 16_384, 200, &TailNodes::default());
        check(&row, 16_384, 300, &TailNodes::default());
    }

    #[test]
    fn every_machine_gives_the_same_bits() {
        let selector = Selector::new(LONG + 5, 12, &TailNodes::default()).unwrap();
        for row in long(LONG + 5, 3, 30.0, -20.0).chunks(LONG + 5) {
            let one = |scalar: bool| {
                let (mut ids, mut values, mut curve) = ([0; 12], [0.0; 12], [0.0; 5]);
                let mut scratch = Scratch::default();
                let work = Row {
                    selector: &selector,
                    row,
                    ahead: &[],
                    scratch: &mut scratch,
                    ids: &mut ids,
                    values: &mut values,
                    curve: &mut curve,
                };
                assert!(if scalar { pulp::Scalar.vectorize(work) } else { with_widest(work) });
                (ids, values.map(f32::to_bits), curve.map(f32::to_bits))
            };
            assert_eq!(one(true), one(false));
        }
    }

    #[test]
    fn tails_far_below_the_head_keep_their_curve() {
        let row: Vec<f32> = (0..50).map(|i| if i == 20 { 0.0 } else { -1000.0 - i as f32 }).collect();
        check(&row, 50, 1, &TailNodes::default());
    }

    #[test]
    fn the_whole_row_as_head_has_no_curve() {
        for classes in [1, 15, 16, 17, 32, 64, 100, 1024, LONG, LONG + 16] {
            check(&long(classes, 2, 20.0, -3.0), classes, classes, &TailNodes::default());
        }
        let batch = Selector::new(3, 3, &TailNodes::default()).unwrap().select(&[1.0, 3.0, 2.0]).unwrap();
        assert_eq!((&batch.ids[..], &batch.values[..]), (&[1, 2, 0][..], &[0.0, -1.0, -2.0][..]));
        assert_eq!((batch.nodes, batch.curve.len()), (0, 0));
    }

    #[test]
    fn the_first_bad_logit_is_named() {
        for (classes, k) in [(40, 2), (40, 40), (64, 64), (1000, 12), (LONG + 9, 12)] {
            for bad in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let mut logits = vec![0.0f32; 5 * classes];
                logits[4 * classes - 1] = bad;
                logits[4 * classes] = f32::INFINITY;
                let selector = Selector::new(classes, k, &TailNodes::default()).unwrap();
                let error = selector.select(&logits).unwrap_err();
                assert_eq!((error.row, error.class), (3, classes - 1));
            }
        }
    }

    #[test]
    fn logits_of_half_types_are_what_they_are_in_single_precision() {
        use half::{bf16, f16};
        for (classes, k) in [(100, 7), (1000, 12), (LONG + 9, 12), (20, 20)] {
            let selector = Selector::new(classes, k, &TailNodes::default()).unwrap();
            let logits = long(classes, 3, 30.0, -9.0);
            let halves: Vec<f16> = logits.iter().map(|z| f16::from_f32(*z)).collect();
            let brains: Vec<bf16> = logits.iter().map(|z| bf16::from_f32(*z)).collect();
            let doubles: Vec<f64> = logits.iter().map(|z| f64::from(*z)).collect();
            let wide: [Vec<f32>; 3] = [
                halves.iter().map(|z| z.to_f32()).collect(),
                brains.iter().map(|z| z.to_f32()).collect(),
                logits,
            ];
            for (floats, wide) in
                [Floats::F16(&halves), Floats::Bf16(&brains), Floats::F64(&doubles)].into_iter().zip(&wide)
            {
                assert_eq!(selector.select(floats).unwrap(), selector.select(wide).unwrap());
            }
            let mut bad = halves;
            bad[classes + 3] = f16::NAN;
            let error = selector.select(Floats::F16(&bad)).unwrap_err();
            assert_eq!((error.row, error.class), (1, 3));
        }
    }

    #[test]
    fn no_rows_are_no_rows() {
        assert_eq!(Selector::new(4, 2, &TailNodes::default()).unwrap().select(&[]).unwrap().rows, 0);
        assert!(Selector::new(4, 5, &TailNodes::default()).is_none());
        assert!(Selector::new(4, 0, &TailNodes::default()).is_none());
    }
}
