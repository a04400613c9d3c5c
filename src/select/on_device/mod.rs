//! Selection where libtorch has the logits: what crosses the bus is k classes and a curve a row.
//!
//! On a GPU by a kernel of our own, which reads each logit once (`kernel`), and wherever there is none by libtorch's operators
//! (`operators`). Of equal logits the one with the smaller id goes first, as everywhere.

mod kernel;
mod operators;

use tch::Tensor;

use super::selector::{NonFinite, Selector};
use super::shorten::shorten;
use crate::libtorch::numbers;
use crate::target::TargetBatch;

/// What was selected on a device.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Selected {
    /// Heads and tail curves.
    pub targets: TargetBatch,
    /// The largest logit of each row.
    pub largest: Vec<f32>,
}

impl Selector {
    /// Heads and tail curves of `logits`, computed where they are: as [`Selector::select`] gives them but for the last bits
    /// of curves, and that 0 and −0 are equal.
    ///
    /// # Shapes
    /// `logits`: `[rows, classes]`, raw, of any type of floats and on any device.
    ///
    /// # Errors
    /// [`NonFinite`]: the first logit, in row order, that is NaN or infinite.
    ///
    /// # Panics
    /// Where the shape is another, or libtorch fails, as for want of memory.
    pub fn select_on_device(&self, logits: &Tensor) -> Result<Selected, NonFinite> {
        let size = logits.size();
        assert!(size.len() == 2 && size[1] == self.classes as i64, "logits of another number of classes");
        let _no_gradients = tch::no_grad_guard();
        let by_kernel = if logits.device().is_cuda() { self.by_kernel(logits) } else { None };
        by_kernel.unwrap_or_else(|| self.by_operators(logits, operators::CHUNK_VALUES))
    }

    /// A batch of so many rows that nothing is known of yet.
    fn unknown(&self, rows: usize) -> Selected {
        Selected { targets: TargetBatch::zeroed(rows, self.k, self.curve_len()), largest: vec![0.0; rows] }
    }

    /// Ends heads where they hold enough.
    fn finish(&self, mut selected: Selected) -> Selected {
        if let Some(mass) = self.mass {
            shorten(&mut selected.targets, mass, &self.nodes);
        }
        selected
    }
}

/// The first logit of row `row` that is not finite.
fn not_finite(logits: &Tensor, row: usize) -> NonFinite {
    NonFinite::in_row(row, &numbers::<f32>(&logits.get(row as i64), tch::Kind::Float))
}

#[cfg(test)]
mod tests {
    use tch::Kind;

    use super::*;
    use crate::libtorch::of_tests;
    use crate::select::reference;
    use crate::target::TailNodes;

    /// Logits over `classes`, of so few values that many are equal.
    fn coarse(rows: usize, classes: usize, step: f32) -> Vec<f32> {
        let noise = crate::permutation::Permutation::new(1 << 24, 5, 0);
        let at = |i: usize| noise.at(i as u64 % (1 << 24)) as f32 / (1 << 24) as f32;
        (0..rows * classes).map(|i| ((at(i).powi(3) * 30.0 - 12.0) / step).round() * step + 0.0).collect()
    }

    fn tensor(logits: &[f32], classes: usize) -> Tensor {
        Tensor::from_slice(logits).view([-1, classes as i64]).to_device(of_tests())
    }

    /// What operators select, and what the kernel does, which on the CPU is its source compiled for that.
    fn every_way(selector: &Selector, logits: &Tensor) -> Vec<Result<Selected, NonFinite>> {
        let operators = selector.by_operators(logits, operators::CHUNK_VALUES);
        let fits = selector.k < kernel::THREADS && logits.kind() != Kind::Double;
        let kernel = selector.by_kernel(logits);
        assert_eq!(kernel.is_some(), fits, "{:?}", logits.size());
        std::iter::once(operators).chain(kernel).collect()
    }

    fn agrees_with_the_slow_reference(nodes: &TailNodes, classes: usize, k: usize, steps: &[f32]) {
        for step in steps {
            let logits = coarse(3, classes, *step);
            let selector = Selector::new(classes, k, nodes).unwrap();
            for found in every_way(&selector, &tensor(&logits, classes)) {
                let Selected { targets, largest } = found.unwrap();
                for (at, row) in logits.chunks(classes).enumerate() {
                    let exact = reference::select_row(row, k, nodes);
                    let (ids, values, curve) = targets.row(at);
                    assert_eq!(ids, exact.ids, "{classes}, {k}, {step}");
                    assert_eq!(largest[at], row[ids[0] as usize]);
                    for (value, exact) in values.iter().zip(&exact.values) {
                        assert!((f64::from(*value) - exact).abs() <= 1e-6 * exact.abs(), "{value} {exact}");
                    }
                    assert_eq!(curve.len(), exact.curve.len());
                    for (g, exact) in curve.iter().zip(&exact.curve) {
                        let off = (f64::from(*g) - exact).abs();
                        assert!(off < 1e-5 * (1.0 + exact.abs()), "{g} {exact}, {classes}, {k}, {step}");
                    }
                }
            }
        }
    }

    #[test]
    fn heads_and_curves_are_those_of_the_slow_reference_also_where_logits_are_equal() {
        let nodes = TailNodes::default();
        for (classes, k) in [(7, 7), (1000, 12), (9001, 64), (300, 299)] {
            agrees_with_the_slow_reference(&nodes, classes, k, &[1e-6, 4.0]);
        }
        let odd = TailNodes::try_from(vec![0.1, 0.3, 1.0, 1.7]).unwrap();
        for (classes, k) in [(7, 3), (1000, 1)] {
            agrees_with_the_slow_reference(&odd, classes, k, &[0.25, 100.0]);
        }
    }

    /// More is kept of it than there is room for: rows that rise, one of them below 0, and one of which most is equal. And rows of
    /// which a teacher masks most, or all but fewer than are wanted.
    #[test]
    fn rows_whose_largest_come_last_are_selected_too() {
        let (classes, k) = (12_000, 5);
        let least = |kind| if kind == Kind::Half { -65_504.0 } else { -3.3e38 };
        for kind in [Kind::Float, Kind::Half, Kind::BFloat16] {
            let rising = (0..classes).map(|j| j as f32 / 50.0 - 100.0);
            let below = (0..classes).map(|j| j as f32 / 50.0 - 300.0);
            let equal = (0..classes).map(|j| if j % 1000 == 999 { 2.0 } else { [0.0, -0.0][j % 2] });
            let masked = |each: usize| {
                (0..classes).map(move |j| if j % each == 7 { j as f32 / 900.0 - 6.0 } else { least(kind) })
            };
            let logits: Vec<f32> =
                rising.chain(below).chain(equal).chain(masked(1000)).chain(masked(5000)).collect();
            let logits = tensor(&logits, classes).to_kind(kind);
            let selector = Selector::new(classes, k, &TailNodes::default()).unwrap();
            let rounded: Vec<f32> = numbers(&logits, Kind::Float);
            let wanted = selector.select(&rounded.iter().map(|z| z + 0.0).collect::<Vec<_>>()).unwrap();
            for found in every_way(&selector, &logits) {
                let found = found.unwrap().targets;
                assert_eq!((&found.ids, &found.values), (&wanted.ids, &wanted.values));
                let near = |(a, b): (&f32, &f32)| a == b || (a - b).abs() < 1e-4 * (1.0 + a.abs());
                let curves = (&found.curve, &wanted.curve);
                assert!(curves.0.iter().zip(curves.1).all(near), "{kind:?}: {curves:?}");
            }
        }
    }

    #[test]
    fn heads_by_mass_and_half_types_are_those_of_the_cpu() {
        let (classes, k) = (2000, 20);
        for kind in [Kind::Half, Kind::BFloat16, Kind::Float, Kind::Double] {
            let logits = tensor(&coarse(3, classes, 1e-6), classes).to_kind(kind);
            let rounded: Vec<f32> = numbers(&logits, Kind::Float);
            let selector = Selector::new(classes, k, &TailNodes::default()).unwrap();
            let selector = selector.with_mass(Some(0.6)).unwrap();
            let wanted = selector.select(&rounded).unwrap();
            for found in every_way(&selector, &logits) {
                let found = found.unwrap().targets;
                assert_eq!(
                    (&found.ids, &found.values, &found.counts),
                    (&wanted.ids, &wanted.values, &wanted.counts)
                );
                assert!(found.curve.iter().zip(&wanted.curve).all(|(a, b)| (a - b).abs() < 1e-5));
            }
        }
    }

    /// More rows than the operators look at together.
    #[test]
    fn parts_of_the_rows_are_all_of_them_in_order() {
        let (rows, classes) = (19, 300);
        let logits = tensor(&coarse(rows, classes, 0.5), classes);
        let selector = Selector::new(classes, 5, &TailNodes::default()).unwrap();
        let whole = selector.select_on_device(&logits).unwrap();
        for together in [1, 299, 300, 1000, 4 * 300, 19 * 300] {
            let found = selector.by_operators(&logits, together).unwrap();
            assert_eq!(found.largest, whole.largest);
            let (found, whole) = (&found.targets, &whole.targets);
            assert_eq!((&found.ids, &found.values), (&whole.ids, &whole.values));
            assert!(found.curve.iter().zip(&whole.curve).all(|(a, b)| (a - b).abs() < 1e-5));
        }
    }

    #[test]
    fn the_first_bad_logit_is_named() {
        for (classes, k) in [(40, 40), (1000, 12)] {
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let mut logits = vec![0.0f32; 5 * classes];
                logits[4 * classes - 1] = bad;
                logits[4 * classes] = f32::INFINITY;
                let selector = Selector::new(classes, k, &TailNodes::default()).unwrap();
                for found in every_way(&selector, &tensor(&logits, classes)) {
                    let error = found.unwrap_err();
                    assert_eq!((error.row, error.class), (3, classes - 1));
                }
            }
        }
    }

    #[test]
    fn no_rows_are_no_rows() {
        let selector = Selector::new(4, 2, &TailNodes::default()).unwrap();
        assert_eq!(selector.select_on_device(&tensor(&[], 4)).unwrap().targets.rows, 0);
    }
}
