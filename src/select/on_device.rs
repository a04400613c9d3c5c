//! Selection where libtorch has the logits: what crosses the bus is k classes and a curve a row.
//!
//! libtorch's operators, on whatever device the logits are, some rows at a time; the next rows are under way before the
//! results of the last are waited for. Of equal logits the one with the smaller id goes first, as everywhere; which of them
//! libtorch's `topk` takes is nobody's promise, so rows whose last class has an equal outside the head are asked again.

use tch::{Kind, Tensor};

use super::keys::{id_of, key, logit_of};
use super::selector::{NonFinite, Selector};
use super::shorten::shorten;
use crate::libtorch::numbers;
use crate::target::TargetBatch;

/// Logits that are looked at together: what bounds the memory for what is made of them, four times as much in single
/// precision.
const CHUNK_VALUES: i64 = 1 << 25;

/// Rows whose heads are known, for whoever wants more of them than a selection.
pub struct SelectedRows<'a> {
    /// `[rows, classes]`, single precision.
    pub logits: &'a Tensor,
    /// The largest of each row: `[rows, 1]`.
    pub largest: &'a Tensor,
    /// Ids of the heads in their order, what fills a shorter one up its first: `[rows, k]`, int64.
    pub heads: &'a Tensor,
}

/// What libtorch was asked about some rows, and need not have answered yet.
struct Asked {
    /// The first row.
    start: usize,
    /// `[rows, classes]`, single precision.
    logits: Tensor,
    /// The largest, with one more than the head has where there is a tail: `[rows, wanted]` each.
    values: Tensor,
    ids: Tensor,
    /// `[rows]`.
    least: Tensor,
    /// `ln Σ exp(β (z − largest of the tail))` over the tail: `[rows, nodes]`, double; `None` where there is no tail.
    curves: Option<Tensor>,
}

impl Selector {
    /// Heads and tail curves of `logits`, computed where they are: as [`Selector::select`] gives them but for the last bits
    /// of curves, and that 0 and −0 are equal. `more` is called with parts of the rows, in order.
    ///
    /// # Shapes
    /// `logits`: `[rows, classes]`, raw, of any type of floats and on any device.
    ///
    /// # Errors
    /// [`NonFinite`]: the first logit, in row order, that is NaN or infinite.
    ///
    /// # Panics
    /// Where the shape is another, or libtorch fails, as for want of memory.
    pub fn select_on_device(
        &self,
        logits: &Tensor,
        more: impl FnMut(SelectedRows<'_>),
    ) -> Result<TargetBatch, NonFinite> {
        self.select_in_parts(logits, CHUNK_VALUES, more)
    }

    /// The same with so many logits looked at together.
    fn select_in_parts(
        &self,
        logits: &Tensor,
        together: i64,
        mut more: impl FnMut(SelectedRows<'_>),
    ) -> Result<TargetBatch, NonFinite> {
        let size = logits.size();
        assert!(size.len() == 2 && size[1] == self.classes as i64, "logits of another number of classes");
        let _no_gradients = tch::no_grad_guard();
        let rows = size[0];
        let mut batch = TargetBatch::zeroed(0, self.k, self.curve_len());
        let step = (together / size[1]).max(1);
        let mut under_way: Option<Asked> = None;
        for start in (0..rows).step_by(step as usize) {
            let next = self.ask(&logits.narrow(0, start, step.min(rows - start)), start as usize);
            if let Some(asked) = under_way.replace(next) {
                batch.extend(&self.answer(&asked, &mut more)?);
            }
        }
        if let Some(asked) = under_way {
            batch.extend(&self.answer(&asked, &mut more)?);
        }
        Ok(batch)
    }

    fn ask(&self, logits: &Tensor, start: usize) -> Asked {
        let logits = logits.to_kind(Kind::Float);
        let has_tail = self.curve_len() > 0;
        // One more than the head: the largest logit of the tail.
        let wanted = self.k + usize::from(has_tail);
        let (values, ids) = logits.topk(wanted as i64, -1, true, true);
        let least = logits.amin([-1], false);
        // Which of several equal classes are in the head changes no sum.
        let curves = has_tail.then(|| {
            let k = self.k as i64;
            self.curves_on_device(&logits, &ids.narrow(-1, 0, k), &values.narrow(-1, k, 1))
        });
        Asked { start, logits, values, ids, least, curves }
    }

    /// [`Asked::curves`] of `logits` without those at `head`, `[rows, k]`. Relative to the largest of the tail, `tail_max`
    /// `[rows, 1]`, so that a sum is at least 1 however far below the head the tail lies.
    fn curves_on_device(&self, logits: &Tensor, head: &Tensor, tail_max: &Tensor) -> Tensor {
        let nodes = self.nodes.as_slice();
        let mut relative = logits - tail_max;
        drop(relative.scatter_value_(-1, head, f64::NEG_INFINITY));
        if !self.sums.are_multiples() {
            let of = |node: &f64| {
                let sum = (&relative * *node).exp_().sum_dim_intlist(-1, false, Kind::Float);
                sum.to_kind(Kind::Double).log()
            };
            return Tensor::stack(&nodes.iter().map(of).collect::<Vec<_>>(), 1);
        }
        let e = relative.g_mul_scalar_(nodes[0]).exp_();
        let of = |node: &f64| {
            // A norm is a sum of powers that is read once and written nowhere.
            let power = (node / nodes[0]).round();
            e.norm_scalaropt_dim(power, [-1], false).to_kind(Kind::Double).log() * power
        };
        Tensor::stack(&nodes.iter().map(of).collect::<Vec<_>>(), 1)
    }

    fn answer(
        &self,
        asked: &Asked,
        more: &mut impl FnMut(SelectedRows<'_>),
    ) -> Result<TargetBatch, NonFinite> {
        let Asked { start, logits, values, ids, least, curves } = asked;
        let (k, nodes) = (self.k, self.curve_len());
        let rows = logits.size()[0] as usize;
        let wanted = k + usize::from(nodes > 0);
        let (largest, classes, least): (Vec<f32>, Vec<i64>, Vec<f32>) =
            (numbers(values, Kind::Float), numbers(ids, Kind::Int64), numbers(least, Kind::Float));
        // NaN goes before all there is.
        let bad = |row: &usize| !largest[row * wanted].is_finite() || !least[*row].is_finite();
        if let Some(row) = (0..rows).find(bad) {
            let NonFinite { class, value, .. } =
                NonFinite::in_row(row, &numbers::<f32>(&logits.narrow(0, row as i64, 1), Kind::Float));
            return Err(NonFinite { row: start + row, class, value });
        }
        let last = |row: usize| &largest[row * wanted + k - 1..];
        let tied: Vec<usize> = (0..rows).filter(|row| nodes > 0 && last(*row)[0] == last(*row)[1]).collect();
        let mut equals = equals_of_the_last(logits, values, &tied, k).into_iter().peekable();
        let mut batch = TargetBatch::zeroed(rows, k, nodes);
        let heads = batch.ids.chunks_exact_mut(k).zip(batch.values.chunks_exact_mut(k));
        let mut keys = Vec::with_capacity(k);
        for (row, (head, relative)) in heads.enumerate() {
            let (values, ids) = (&largest[row * wanted..][..k], &classes[row * wanted..][..k]);
            keys.clear();
            // Of the two zeros neither is the larger here.
            keys.extend(values.iter().zip(ids).map(|(value, id)| key(value + 0.0, *id as u32)));
            let mut room = k;
            while let Some((_, id)) = equals.next_if(|(of, _)| *of == row) {
                room -= 1;
                keys[room] = key(values[k - 1] + 0.0, id);
            }
            keys.sort_unstable();
            for ((id, value), key) in head.iter_mut().zip(relative).zip(&keys) {
                (*id, *value) = (id_of(*key), logit_of(*key) - values[0]);
            }
        }
        if let Some(curves) = curves {
            let log_sums: Vec<f64> = numbers(curves, Kind::Double);
            let curves = batch.curve.chunks_exact_mut(nodes).zip(log_sums.chunks_exact(nodes));
            for ((curve, log_sums), largest) in curves.zip(largest.chunks_exact(wanted)) {
                let drop = f64::from(largest[k]) - f64::from(largest[0]);
                for ((g, log_sum), beta) in curve.iter_mut().zip(log_sums).zip(self.nodes.as_slice()) {
                    *g = (beta * drop + log_sum) as f32;
                }
            }
        }
        if let Some(mass) = self.mass {
            shorten(&mut batch, mass, &self.nodes);
        }
        let heads: Vec<i64> = batch.ids.iter().map(|id| i64::from(*id)).collect();
        let heads = Tensor::from_slice(&heads).view([rows as i64, k as i64]).to_device(logits.device());
        more(SelectedRows { logits, largest: &values.narrow(-1, 0, 1), heads: &heads });
        Ok(batch)
    }
}

/// The classes that belong in the heads of `rows` with the last of their logits, `(row, id)`, rising: of all that have
/// exactly this logit those with the smallest ids. `values`: what `topk` gives of `logits`, `[rows, > k]`.
fn equals_of_the_last(logits: &Tensor, values: &Tensor, rows: &[usize], k: usize) -> Vec<(usize, u32)> {
    if rows.is_empty() {
        return Vec::new();
    }
    let indices: Vec<i64> = rows.iter().map(|row| *row as i64).collect();
    let indices = Tensor::from_slice(&indices).to_device(logits.device());
    let head = values.index_select(0, &indices).narrow(-1, 0, k as i64);
    let last = head.narrow(-1, k as i64 - 1, 1);
    let room = head.eq_tensor(&last).sum_dim_intlist(-1, true, Kind::Int);
    let equal = logits.index_select(0, &indices).eq_tensor(&last);
    let among_the_first = equal.cumsum(-1, Kind::Int).le_tensor(&room);
    let places: Vec<i64> = numbers(&equal.logical_and(&among_the_first).nonzero(), Kind::Int64);
    places.chunks_exact(2).map(|place| (rows[place[0] as usize], place[1] as u32)).collect()
}

#[cfg(test)]
mod tests {
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

    #[test]
    fn agrees_with_the_slow_reference_also_where_logits_are_equal() {
        let odd = TailNodes::try_from(vec![0.1, 0.3, 1.0, 1.7]).unwrap();
        for nodes in [TailNodes::default(), odd] {
            for (classes, k) in [(7, 3), (7, 7), (1000, 12), (1000, 1), (9001, 64), (300, 299)] {
                for step in [1e-6, 0.25, 4.0, 100.0] {
                    let logits = coarse(5, classes, step);
                    let selector = Selector::new(classes, k, &nodes).unwrap();
                    let found = selector.select_on_device(&tensor(&logits, classes), |_| ()).unwrap();
                    for (at, row) in logits.chunks(classes).enumerate() {
                        let exact = reference::select_row(row, k, &nodes);
                        let (ids, values, curve) = found.row(at);
                        assert_eq!(ids, exact.ids, "{classes}, {k}, {step}");
                        for (value, exact) in values.iter().zip(&exact.values) {
                            assert!(
                                (f64::from(*value) - exact).abs() <= 1e-6 * exact.abs(),
                                "{value} {exact}"
                            );
                        }
                        assert_eq!(curve.len(), exact.curve.len());
                        for (g, exact) in curve.iter().zip(&exact.curve) {
                            assert!(
                                (f64::from(*g) - exact).abs() < 1e-5 * (1.0 + exact.abs()),
                                "{g} {exact}"
                            );
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn heads_by_mass_and_half_types_are_those_of_the_cpu() {
        let (classes, k) = (2000, 20);
        for kind in [Kind::Half, Kind::BFloat16, Kind::Float, Kind::Double] {
            let logits = tensor(&coarse(9, classes, 1e-6), classes).to_kind(kind);
            let rounded: Vec<f32> = numbers(&logits, Kind::Float);
            let selector = Selector::new(classes, k, &TailNodes::default()).unwrap();
            let selector = selector.with_mass(Some(0.6)).unwrap();
            let (found, wanted) =
                (selector.select_on_device(&logits, |_| ()).unwrap(), selector.select(&rounded).unwrap());
            assert_eq!(
                (&found.ids, &found.values, &found.counts),
                (&wanted.ids, &wanted.values, &wanted.counts)
            );
            assert!(found.curve.iter().zip(&wanted.curve).all(|(a, b)| (a - b).abs() < 1e-5));
        }
    }

    /// More rows than are looked at together; and what is asked beside the selection is of the heads that it gives.
    #[test]
    fn parts_of_the_rows_are_all_of_them_in_order() {
        let (rows, classes) = (19, 300);
        let logits = coarse(rows, classes, 0.5);
        let selector = Selector::new(classes, 5, &TailNodes::default()).unwrap();
        let whole = selector.select_on_device(&tensor(&logits, classes), |_| ()).unwrap();
        for together in [1, 299, 300, 1000, 4 * 300, 19 * 300] {
            let mut given = Vec::new();
            let more = |rows: SelectedRows<'_>| {
                assert_eq!(rows.logits.size()[0], rows.heads.size()[0]);
                assert_eq!(rows.largest.size(), [rows.heads.size()[0], 1]);
                given.extend(numbers::<i64>(rows.heads, Kind::Int64));
            };
            let found = selector.select_in_parts(&tensor(&logits, classes), together, more).unwrap();
            assert_eq!((&found.ids, &found.values), (&whole.ids, &whole.values));
            assert!(found.curve.iter().zip(&whole.curve).all(|(a, b)| (a - b).abs() < 1e-5));
            assert!(found.ids.iter().map(|id| i64::from(*id)).eq(given));
        }
    }

    #[test]
    fn the_first_bad_logit_is_named() {
        for (classes, k) in [(40, 2), (40, 40), (1000, 12)] {
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let mut logits = vec![0.0f32; 5 * classes];
                logits[4 * classes - 1] = bad;
                logits[4 * classes] = f32::INFINITY;
                let selector = Selector::new(classes, k, &TailNodes::default()).unwrap();
                let error = selector.select_on_device(&tensor(&logits, classes), |_| ()).unwrap_err();
                assert_eq!((error.row, error.class), (3, classes - 1));
            }
        }
    }

    #[test]
    fn no_rows_are_no_rows() {
        let selector = Selector::new(4, 2, &TailNodes::default()).unwrap();
        assert_eq!(selector.select_on_device(&tensor(&[], 4), |_| ()).unwrap().rows, 0);
    }
}
