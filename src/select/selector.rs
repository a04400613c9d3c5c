//! Selection and tail curve of a batch, rows in parallel.

use rayon::prelude::*;

use super::head::{Candidate, best};
use super::lanes::{all_finite, sum, widest};
use super::powers::{BLOCK, NodePowers};
use super::shorten::shorten;
use crate::target::{TailNodes, TargetBatch};

/// A logit that is NaN or infinite.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[error("class {class} has the logit {value}, which is not finite")]
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
    pub(super) fn in_row(row: usize, logits: &[f32]) -> Self {
        let class = logits.iter().position(|z| !z.is_finite()).unwrap_or(0);
        Self { row, class, value: logits[class] }
    }
}

/// Turns logits into heads and tail curves.
#[derive(Clone, Debug)]
pub struct Selector {
    classes: usize,
    k: usize,
    nodes: TailNodes,
    powers: NodePowers,
    /// Heads end where they hold this much at T = 1.
    mass: Option<f64>,
}

/// What a thread reuses from row to row.
#[derive(Default)]
struct Scratch {
    found: Vec<Candidate>,
    sums: Vec<f64>,
}

impl Selector {
    /// A selector of `k` of `classes` classes, or `None` unless `1 ≤ k ≤ classes`.
    pub fn new(classes: usize, k: usize, nodes: &TailNodes) -> Option<Self> {
        (k >= 1 && k <= classes).then(|| Self {
            classes,
            k,
            nodes: nodes.clone(),
            powers: NodePowers::new(nodes),
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
    /// `logits`: `[rows, classes]`, raw logits; the result has `rows` positions.
    ///
    /// # Errors
    /// [`NonFinite`]: the first logit, in row order, that is NaN or infinite.
    ///
    /// # Panics
    /// When the length of `logits` is no multiple of `classes`.
    pub fn select(&self, logits: &[f32]) -> Result<TargetBatch, NonFinite> {
        assert_eq!(logits.len() % self.classes, 0, "logits of another number of classes");
        let rows = logits.len() / self.classes;
        let nodes = self.curve_len();
        let mut batch = TargetBatch::zeroed(rows, self.k, nodes);
        // chunks_mut(0) panics, and zip ends with the shortest: rows without a curve get [].
        let mut no_curves: Vec<[f32; 0]> = vec![[]; rows];
        let curves: Vec<&mut [f32]> = if nodes == 0 {
            no_curves.iter_mut().map(|c| c.as_mut_slice()).collect()
        } else {
            batch.curve.chunks_mut(nodes).collect()
        };
        let failed = logits
            .par_chunks(self.classes)
            .zip(batch.ids.par_chunks_mut(self.k))
            .zip(batch.values.par_chunks_mut(self.k))
            .zip(curves)
            .map_init(Scratch::default, |scratch, (((row, ids), values), curve)| {
                widest(|| {
                    let sound = all_finite(row);
                    if sound {
                        self.select_row(row, scratch, ids, values, curve);
                    }
                    sound
                })
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
            Some((row, _)) => Err(NonFinite::in_row(row, &logits[row * self.classes..][..self.classes])),
        }
    }

    #[inline(always)]
    fn select_row(
        &self,
        row: &[f32],
        scratch: &mut Scratch,
        ids: &mut [u32],
        values: &mut [f32],
        curve: &mut [f32],
    ) {
        // One more than the head: the largest logit of the tail.
        let wanted = if curve.is_empty() { self.k } else { self.k + 1 };
        best(row, wanted, &mut scratch.found);
        let z_max = scratch.found[0].logit;
        for ((id, value), candidate) in ids.iter_mut().zip(values).zip(&scratch.found) {
            *id = candidate.id;
            *value = candidate.logit - z_max;
        }
        if curve.is_empty() {
            return;
        }
        let tail_max = scratch.found[self.k].logit;
        scratch.sums.clear();
        scratch.sums.resize(curve.len(), 0.0);
        self.sum_tail(row, tail_max, &mut scratch.sums);
        let drop = f64::from(tail_max) - f64::from(z_max);
        for ((g, sum), beta) in curve.iter_mut().zip(&scratch.sums).zip(self.nodes.as_slice()) {
            *g = (beta * drop + sum.ln()) as f32;
        }
    }

    /// `Σ_{i∉H} exp(β (z_i − tail_max))` at every node.
    ///
    /// Relative to the *tail's* largest, so the sum is at least 1 however far below the head the
    /// tail lies. Head logits are clamped to that largest and so contribute exactly 1 each, which
    /// is taken away at the end: no mask, no branch.
    #[inline(always)]
    fn sum_tail(&self, row: &[f32], tail_max: f32, sums: &mut [f64]) {
        let mut x = [0.0f32; BLOCK];
        for block in row.chunks(BLOCK) {
            for (x, z) in x.iter_mut().zip(block) {
                *x = (z - tail_max).min(0.0);
            }
            self.powers.for_each_node(&x[..block.len()], |node, e| sums[node] += f64::from(sum(e)));
        }
        for sum in sums {
            *sum -= self.k as f64;
        }
    }
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

    #[test]
    fn tails_far_below_the_head_keep_their_curve() {
        let row: Vec<f32> = (0..50).map(|i| if i == 20 { 0.0 } else { -1000.0 - i as f32 }).collect();
        check(&row, 50, 1, &TailNodes::default());
    }

    #[test]
    fn the_whole_row_as_head_has_no_curve() {
        let batch = Selector::new(3, 3, &TailNodes::default()).unwrap().select(&[1.0, 3.0, 2.0]).unwrap();
        assert_eq!((&batch.ids[..], &batch.values[..]), (&[1, 2, 0][..], &[0.0, -1.0, -2.0][..]));
        assert_eq!((batch.nodes, batch.curve.len()), (0, 0));
    }

    #[test]
    fn the_first_bad_logit_is_named() {
        let mut logits = vec![0.0f32; 5 * 40];
        logits[3 * 40 + 7] = f32::NAN;
        logits[4 * 40] = f32::INFINITY;
        let error = Selector::new(40, 2, &TailNodes::default()).unwrap().select(&logits).unwrap_err();
        assert_eq!((error.row, error.class), (3, 7));
    }

    #[test]
    fn no_rows_are_no_rows() {
        assert_eq!(Selector::new(4, 2, &TailNodes::default()).unwrap().select(&[]).unwrap().rows, 0);
        assert!(Selector::new(4, 5, &TailNodes::default()).is_none());
        assert!(Selector::new(4, 0, &TailNodes::default()).is_none());
    }
}
