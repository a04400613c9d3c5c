//! Selection by libtorch's operators, on whatever device the logits are, some rows at a time; the next rows are under way before
//! the results of the last are waited for. Which of equal logits libtorch's `topk` takes is nobody's promise, so rows whose last
//! class has an equal outside the head are asked again.

use tch::{Kind, Tensor};

use super::{NonFinite, Selected, Selector, not_finite};
use crate::libtorch::numbers;
use crate::select::keys::{id_of, key, logit_of};

/// Logits that are looked at together: what bounds the memory for what is made of them, four times as much in single
/// precision.
pub(super) const CHUNK_VALUES: i64 = 1 << 25;

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

/// What is known of a row when its head is.
struct Row<'a> {
    /// Classes of the head, in order.
    ids: &'a [u32],
    /// Their logits, and the largest of the tail where there is one: 0 is never −0.
    logits: &'a [f32],
    /// `ln Σ exp(β (z − largest of the tail))` over the tail, of each node; empty where there is no tail.
    log_sums: &'a [f64],
}

impl Selector {
    /// [`Selector::select_on_device`] with so many logits looked at together.
    pub(super) fn by_operators(&self, logits: &Tensor, together: i64) -> Result<Selected, NonFinite> {
        let (rows, classes) = (logits.size()[0], logits.size()[1]);
        let mut selected = self.unknown(rows as usize);
        let step = (together / classes).max(1);
        let mut under_way: Option<Asked> = None;
        for start in (0..rows).step_by(step as usize) {
            let next = self.ask(&logits.narrow(0, start, step.min(rows - start)), start as usize);
            if let Some(asked) = under_way.replace(next) {
                self.answer(&asked, &mut selected)?;
            }
        }
        if let Some(asked) = under_way {
            self.answer(&asked, &mut selected)?;
        }
        Ok(self.finish(selected))
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

    /// Writes what is known of row `at` into `selected`.
    fn put(&self, selected: &mut Selected, at: usize, row: &Row<'_>) {
        let Selected { targets, largest } = selected;
        let (k, nodes) = (self.k, self.curve_len());
        let first = row.logits[0];
        largest[at] = first;
        targets.ids[at * k..][..k].copy_from_slice(row.ids);
        for (value, logit) in targets.values[at * k..][..k].iter_mut().zip(row.logits) {
            *value = logit - first;
        }
        let curve = targets.curve[at * nodes..][..nodes].iter_mut();
        for ((g, log_sum), beta) in curve.zip(row.log_sums).zip(self.nodes.as_slice()) {
            *g = (beta * (f64::from(row.logits[k]) - f64::from(first)) + log_sum) as f32;
        }
    }

    /// Waits for what was asked, and puts it where it belongs.
    fn answer(&self, asked: &Asked, selected: &mut Selected) -> Result<(), NonFinite> {
        let Asked { start, logits, values, ids, least, curves } = asked;
        let (k, nodes) = (self.k, self.curve_len());
        let rows = logits.size()[0] as usize;
        let wanted = k + usize::from(nodes > 0);
        let (largest, classes, least): (Vec<f32>, Vec<i64>, Vec<f32>) =
            (numbers(values, Kind::Float), numbers(ids, Kind::Int64), numbers(least, Kind::Float));
        let log_sums: Vec<f64> =
            curves.as_ref().map(|curves| numbers(curves, Kind::Double)).unwrap_or_default();
        // NaN goes before all there is.
        let bad = |row: &usize| !largest[row * wanted].is_finite() || !least[*row].is_finite();
        if let Some(row) = (0..rows).find(bad) {
            return Err(NonFinite { row: start + row, ..not_finite(logits, row) });
        }
        let last = |row: usize| &largest[row * wanted + k - 1..];
        let tied: Vec<usize> = (0..rows).filter(|row| nodes > 0 && last(*row)[0] == last(*row)[1]).collect();
        let mut equals = equals_of_the_last(logits, values, &tied, k).into_iter().peekable();
        let (mut keys, mut head, mut in_order) = (Vec::with_capacity(k), Vec::new(), Vec::new());
        for row in 0..rows {
            let (values, ids) = (&largest[row * wanted..][..wanted], &classes[row * wanted..][..k]);
            keys.clear();
            // Of the two zeros neither is the larger here.
            keys.extend(values.iter().zip(ids).map(|(value, id)| key(value + 0.0, *id as u32)));
            let mut room = k;
            while let Some((_, id)) = equals.next_if(|(of, _)| *of == row) {
                room -= 1;
                keys[room] = key(values[k - 1] + 0.0, id);
            }
            keys.sort_unstable();
            head.clear();
            head.extend(keys.iter().map(|key| id_of(*key)));
            in_order.clear();
            in_order.extend(keys.iter().map(|key| logit_of(*key)).chain(values[k..].iter().map(|z| z + 0.0)));
            let log_sums = &log_sums[row * nodes..][..nodes];
            self.put(selected, start + row, &Row { ids: &head, logits: &in_order, log_sums });
        }
        Ok(())
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
