//! `exp(β x)` at every node from as few exponentials as the nodes allow.

use crate::target::TailNodes;
use crate::vectors::exp_non_positive;

/// Values handled at once: they and their powers stay in the first-level cache.
pub(super) const BLOCK: usize = 256;

/// Largest multiple of the first node that is reached by multiplying.
const MAX_MULTIPLE: f64 = 64.0;

/// How each node's exponential is obtained from the one before.
#[derive(Clone, Debug)]
enum Step {
    /// Multiply the previous node's by `exp(β_0 x)` to this power.
    Multiply(u32),
    /// Compute it anew, `exp(β x)`.
    Exp(f32),
}

/// The plan for a set of nodes: one `exp` a value where all nodes are multiples of the first.
#[derive(Clone, Debug)]
pub(super) struct NodePowers {
    steps: Vec<Step>,
}

impl NodePowers {
    pub(super) fn new(nodes: &TailNodes) -> Self {
        let nodes = nodes.as_slice();
        let multiple = |beta: f64| {
            let m = beta / nodes[0];
            ((m - m.round()).abs() < 1e-9 && m <= MAX_MULTIPLE).then_some(m.round() as u32)
        };
        let mut previous = None;
        let steps = nodes
            .iter()
            .map(|&beta| {
                let here = multiple(beta);
                let step = match (previous, here) {
                    (Some(before), Some(m)) => Step::Multiply(m - before),
                    _ => Step::Exp(beta as f32),
                };
                previous = here;
                step
            })
            .collect();
        Self { steps }
    }

    /// Calls `each(node, exp(β_node x))` for up to [`BLOCK`] values `x ≤ 0`.
    #[inline(always)]
    pub(super) fn for_each_node(&self, x: &[f32], mut each: impl FnMut(usize, &[f32])) {
        let len = x.len().min(BLOCK);
        let x = &x[..len];
        let (mut base, mut factor, mut current) = ([0.0f32; BLOCK], [0.0f32; BLOCK], [0.0f32; BLOCK]);
        let mut factor_power = 0;
        for (node, step) in self.steps.iter().enumerate() {
            match *step {
                Step::Exp(beta) => {
                    for (e, x) in current[..len].iter_mut().zip(x) {
                        *e = exp_non_positive(beta * x);
                    }
                    if node == 0 {
                        base[..len].copy_from_slice(&current[..len]);
                    }
                }
                Step::Multiply(power) => {
                    if factor_power != power {
                        raise(&base[..len], power, &mut factor[..len]);
                        factor_power = power;
                    }
                    for (e, f) in current[..len].iter_mut().zip(&factor[..len]) {
                        *e *= f;
                    }
                }
            }
            each(node, &current[..len]);
        }
    }
}

/// `out = base^power`, `power ≥ 1`.
#[inline(always)]
fn raise(base: &[f32], power: u32, out: &mut [f32]) {
    out.copy_from_slice(base);
    for bit in (0..power.ilog2()).rev() {
        for (o, b) in out.iter_mut().zip(base) {
            *o *= *o;
            if power >> bit & 1 == 1 {
                *o *= b;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(nodes: &[f64]) {
        let powers = NodePowers::new(&TailNodes::try_from(nodes.to_vec()).unwrap());
        let x: Vec<f32> = (0..200).map(|i| -(i as f32) * 0.11).collect();
        let mut seen = 0;
        powers.for_each_node(&x, |node, e| {
            assert_eq!(node, seen);
            seen += 1;
            for (x, e) in x.iter().zip(e) {
                let exact = (nodes[node] * f64::from(*x)).exp();
                let error = (f64::from(*e) - exact).abs();
                // The argument is rounded once, and each multiplication adds its own rounding;
                // below the normal range nothing is left.
                let bound = (5e-6 + 1.5e-7 * nodes[node] / nodes[0]) * exact + f64::from(f32::MIN_POSITIVE);
                assert!(error < bound, "node {} at {x}: {error:e} of {exact:e}", nodes[node]);
            }
        });
        assert_eq!(seen, nodes.len());
    }

    #[test]
    fn multiples_and_strangers_alike() {
        check(&[0.125, 0.25, 0.5, 0.75, 1.0]);
        check(&[0.1, 0.3, 1.0]);
        check(&[0.3, 0.7, 1.0, 1.4, 2.0]);
        check(&[1.0]);
        check(&[1.0, 64.0]);
    }

    #[test]
    fn the_default_nodes_need_one_exponential() {
        let powers = NodePowers::new(&TailNodes::default());
        assert_eq!(powers.steps.iter().filter(|s| matches!(s, Step::Exp(_))).count(), 1);
    }
}
