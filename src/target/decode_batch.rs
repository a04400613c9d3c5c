//! Many positions' targets at one temperature, in single precision.

use pulp::{Simd, WithSimd};

use super::{TailHandling, TailNodes, TargetBatch, Temperature};
use crate::vectors::{Exp2, TILE, softmax, with_widest};

/// Decodes batches at one temperature, as one tail handling sees them.
///
/// [`PositionTarget::decode_as`](super::PositionTarget::decode_as) for many positions at once, which it is tested against:
/// probabilities and masses are within 1e−6 of it.
#[derive(Clone, Debug)]
pub struct BatchDecoder {
    beta: f64,
    classes: usize,
    tail: Option<Tail>,
}

/// `g(β) = at_zero · log(V − k) + Σ_i weights_i g_i`: linear in the nodes that are kept.
#[derive(Clone, Debug)]
struct Tail {
    at_zero: f64,
    weights: Vec<f64>,
}

/// Targets at a temperature.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DecodedTargets {
    /// Probabilities of the heads' classes, in the order of [`TargetBatch::ids`]: `[rows, k]`; 0 for what fills up a
    /// shorter head.
    pub probabilities: Vec<f32>,
    /// Mass of everything else: `[rows]`; with the head's it sums to 1.
    pub tail_mass: Vec<f32>,
}

impl BatchDecoder {
    /// A decoder of targets over `classes` classes whose curves have `nodes`. Whether these reach so far is for the
    /// caller to ask ([`TailNodes::require`]).
    pub fn new(nodes: &TailNodes, classes: usize, temperature: Temperature, handling: TailHandling) -> Self {
        let beta = temperature.beta();
        let tail = handling.curve_weights(nodes, temperature);
        let tail = tail.map(|mut weights| Tail { at_zero: weights.remove(0), weights });
        Self { beta, classes, tail }
    }

    /// The targets of all positions of `targets`, written to `out`, which is made to fit.
    pub fn decode(&self, targets: &TargetBatch, out: &mut DecodedTargets) {
        out.probabilities.resize(targets.values.len(), 0.0);
        out.tail_mass.resize(targets.rows, 0.0);
        let mut exponents = vec![f32::NEG_INFINITY; targets.rows];
        // Where the head is all there is, there are no curves.
        if let Some(tail) = self.tail.as_ref().filter(|_| targets.nodes > 0) {
            let full = self.log_outside(targets.k);
            for (row, curve) in targets.curve.chunks_exact(targets.nodes).enumerate() {
                let at_zero =
                    if targets.counts.is_empty() { full } else { self.log_outside(targets.count(row)) };
                let at_nodes = curve.iter().zip(&tail.weights).map(|(g, w)| f64::from(*g) * w);
                let g = tail.at_zero * at_zero + at_nodes.sum::<f64>();
                exponents[row] = (g * std::f64::consts::LOG2_E).min(LARGEST) as f32;
            }
        }
        let scale = (self.beta * std::f64::consts::LOG2_E) as f32;
        with_widest(Decode { targets, scale, exponents: &exponents, out });
    }

    /// The logarithm of how many classes are outside a head of `count`.
    fn log_outside(&self, count: usize) -> f64 {
        ((self.classes - count.min(self.classes)) as f64).ln()
    }
}

/// Of 2: no sound tail is larger, and none makes an infinity.
const LARGEST: f64 = 100.0;

/// Powers of logits and of tails, and what they are of their sum.
struct Decode<'a> {
    targets: &'a TargetBatch,
    /// Of logits, to exponents of 2.
    scale: f32,
    /// Of tails: `[rows]`; −∞ where there is none.
    exponents: &'a [f32],
    out: &'a mut DecodedTargets,
}

impl WithSimd for Decode<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { targets, scale, exponents, out } = self;
        let exp = Exp2::new(simd);
        powers(simd, &exp, &targets.values, scale, &mut out.probabilities);
        powers(simd, &exp, exponents, 1.0, &mut out.tail_mass);
        let heads = out.probabilities.chunks_exact_mut(targets.k.max(1));
        for (row, (head, mass)) in heads.zip(&mut out.tail_mass).enumerate() {
            if !targets.counts.is_empty() {
                head[targets.count(row)..].fill(0.0);
            }
            // What the vectors take for the least power is none.
            let tail = if exponents[row] == f32::NEG_INFINITY { 0.0 } else { f64::from(*mass) };
            let inverse = 1.0 / (f64::from(sum(head)) + tail);
            *mass = (tail * inverse) as f32;
            let inverse = inverse as f32;
            head.iter_mut().for_each(|p| *p *= inverse);
        }
    }
}

/// In four parts, so that an addition need not wait for the one before.
#[inline(always)]
fn sum(values: &[f32]) -> f32 {
    let mut parts = [0.0f32; 4];
    let fours = values.chunks_exact(4);
    let rest: f32 = fours.remainder().iter().sum();
    for four in fours {
        parts.iter_mut().zip(four).for_each(|(part, value)| *part += value);
    }
    (parts[0] + parts[1]) + (parts[2] + parts[3]) + rest
}

/// `out = 2^(scale · value)`.
#[inline(always)]
fn powers<S: Simd>(simd: S, exp: &Exp2<S>, values: &[f32], scale: f32, out: &mut [f32]) {
    let whole = values.len() / TILE * TILE;
    softmax::exponentials(simd, exp, &values[..whole], 0.0, scale, &mut out[..whole]);
    let (mut last, mut powers) = ([0.0; TILE], [0.0; TILE]);
    let rest = values.len() - whole;
    last[..rest].copy_from_slice(&values[whole..]);
    softmax::exponentials(simd, exp, &last, 0.0, scale, &mut powers);
    out[whole..].copy_from_slice(&powers[..rest]);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::target::PositionTarget;

    proptest! {
        /// Of heads of any size, as large as all classes, and such that differ.
        #[test]
        fn many_are_decoded_as_each_is_by_definition(
            logits in proptest::collection::vec(-20.0f32..20.0, 8..400),
            classes in 2usize..30,
            share in 0.0f64..1.0,
            temperature in 1.0f64..20.0,
            variable: bool,
        ) {
            let k = 1 + (share * (classes - 1) as f64).round() as usize;
            let nodes = TailNodes::default();
            let rows = logits.len() / classes;
            let mut batch = TargetBatch::zeroed(rows, k, if k < classes { nodes.len() } else { 0 });
            if variable && k < classes {
                batch.vary();
            }
            for (row, z) in logits.chunks_exact(classes).enumerate() {
                let mut z = z.to_vec();
                z.sort_by(|a, b| b.total_cmp(a));
                let count = 1 + (row * 7) % k;
                batch.set_count(row, count);
                let count = batch.count(row);
                for rank in 0..k {
                    batch.ids[row * k + rank] = rank as u32;
                    batch.values[row * k + rank] = z[rank] - z[0];
                }
                for (node, beta) in nodes.as_slice().iter().take(batch.nodes).enumerate() {
                    let tail = z[count..].iter().map(|l| (beta * f64::from(l - z[0])).exp()).sum::<f64>();
                    batch.curve[row * batch.nodes + node] = tail.ln() as f32;
                }
            }
            batch.pad();
            let temperature = Temperature::new(temperature).unwrap();
            // What an earlier batch has left is of no matter.
            let mut found = DecodedTargets { probabilities: vec![7.0; 3], tail_mass: vec![7.0; 500] };
            for handling in TailHandling::ALL {
                BatchDecoder::new(&nodes, classes, temperature, handling).decode(&batch, &mut found);
                prop_assert_eq!((found.probabilities.len(), found.tail_mass.len()), (rows * k, rows));
                for row in 0..rows {
                    let (ids, values, curve) = batch.row(row);
                    let target = PositionTarget { classes, ids, values, nodes: &nodes, curve };
                    let wanted = target.decode_as(temperature, handling);
                    prop_assert!((f64::from(found.tail_mass[row]) - wanted.tail_mass).abs() < 1e-6);
                    let head = &found.probabilities[row * k..(row + 1) * k];
                    for (p, wanted) in head.iter().zip(&wanted.probabilities) {
                        prop_assert!((f64::from(*p) - wanted).abs() < 1e-6, "{} is not {}", p, wanted);
                    }
                    prop_assert!(head[ids.len()..].iter().all(|p| *p == 0.0));
                }
            }
        }
    }
}
