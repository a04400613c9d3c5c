//! The tail prior by iterative proportional fitting.
//!
//! At each node `β`, find `u_j = exp(b_β(j))` such that over the sample the predicted tail mass
//! of every class equals the true one:
//!
//! ```text
//! Σ_n m_n [j ∉ H_n] u_j / Σ_{i∉H_n} u_i  =  Σ_n [j ∉ H_n] p_n(j)        for every class j
//! ```
//!
//! by rounds of `b ← b + log(true / predicted)` (Deming & Stephan, 1940). Because the sum over a
//! tail is the sum over all classes less the head's, a round costs `positions · k + classes`, and
//! nothing of size `positions × classes` is kept: memory is the heads of the sample.

use rayon::prelude::*;

use super::heads::Heads;
use super::powers::{BLOCK, NodePowers};
use crate::target::{TailNodes, TailPrior, TargetBatch};

/// Rounds at most; a few suffice, and they are cheap.
const MAX_ROUNDS: usize = 64;
/// Rounds end when no class's predicted mass is off by more than this fraction.
const TOLERANCE: f64 = 1e-6;
/// Share of the mean mass that a class is given for certain: keeps every `b` finite.
const FLOOR: f64 = 1e-12;
/// Classes that one task sums over all rows: rows stay in order, so thread counts change nothing.
const CLASSES_PER_TASK: usize = 1024;
/// Below this share of `Σu` left to a tail, the difference is summed anew rather than subtracted.
const CANCELLATION: f64 = 1e-2;

/// Collects a sample of positions and fits the prior.
pub struct PriorFit {
    classes: usize,
    nodes: TailNodes,
    powers: NodePowers,
    k: usize,
    /// True tail mass of each class, summed over positions: `[nodes][classes]`.
    tail_mass: Vec<Vec<f64>>,
    /// Heads of the positions seen.
    heads: Heads,
    /// Tail mass of each position: `[nodes][positions]`.
    position_mass: Vec<Vec<f64>>,
}

impl PriorFit {
    /// An empty sample over `classes` classes with heads of `k`.
    pub fn new(classes: usize, k: usize, nodes: &TailNodes) -> Self {
        Self {
            classes,
            nodes: nodes.clone(),
            powers: NodePowers::new(nodes),
            k,
            tail_mass: vec![vec![0.0; classes]; nodes.len()],
            heads: Heads::default(),
            position_mass: vec![Vec::new(); nodes.len()],
        }
    }

    /// Adds positions: their raw logits `[rows, classes]` and what was selected from them.
    ///
    /// # Panics
    /// When the shapes of `logits` and `batch` disagree with each other or with this fit.
    pub fn add(&mut self, logits: &[f32], batch: &TargetBatch) {
        assert_eq!(logits.len(), batch.rows * self.classes, "logits of another shape");
        assert_eq!((batch.k, batch.nodes), (self.k, self.nodes.len()), "targets of another shape");
        let betas = self.nodes.as_slice();
        let mut log_z = vec![0.0f64; batch.rows * betas.len()];
        let mut z_max = vec![0.0f32; batch.rows];
        for row in 0..batch.rows {
            let (ids, values, curve) = batch.row(row);
            z_max[row] = logits[row * self.classes + ids[0] as usize];
            for (node, beta) in betas.iter().enumerate() {
                let tail = f64::from(curve[node]).exp();
                let head: f64 = values.iter().map(|v| (beta * f64::from(*v)).exp()).sum();
                log_z[row * betas.len() + node] = (head + tail).ln();
                self.position_mass[node].push(tail / (head + tail));
            }
        }
        self.heads.add(batch);
        let (classes, powers) = (self.classes, &self.powers);
        let parts: Vec<Vec<Vec<f64>>> = (0..classes.div_ceil(CLASSES_PER_TASK))
            .into_par_iter()
            .map(|part| {
                let first = part * CLASSES_PER_TASK;
                let last = (first + CLASSES_PER_TASK).min(classes);
                let mut sums = vec![vec![0.0f64; last - first]; betas.len()];
                for row in 0..batch.rows {
                    let z = &logits[row * classes + first..row * classes + last];
                    add_row(powers, z, z_max[row], &log_z[row * betas.len()..], &mut sums);
                    // Heads are the part of the row that is no tail; taking back what was just
                    // added is exact because both come from the same computation.
                    for id in batch.row(row).0.iter().map(|id| *id as usize) {
                        if (first..last).contains(&id) {
                            let z = &logits[row * classes + id..=row * classes + id];
                            let mut one = vec![vec![0.0]; betas.len()];
                            add_row(powers, z, z_max[row], &log_z[row * betas.len()..], &mut one);
                            for (sums, one) in sums.iter_mut().zip(&one) {
                                sums[id - first] -= one[0];
                            }
                        }
                    }
                }
                sums
            })
            .collect();
        for (part, sums) in parts.iter().enumerate() {
            for (mass, sums) in self.tail_mass.iter_mut().zip(sums) {
                let first = part * CLASSES_PER_TASK;
                for (mass, sum) in mass[first..first + sums.len()].iter_mut().zip(sums) {
                    *mass += sum;
                }
            }
        }
    }

    /// Positions seen.
    pub fn positions(&self) -> usize {
        self.position_mass[0].len()
    }

    /// Heads of the positions seen.
    pub(super) fn heads(&self) -> &Heads {
        &self.heads
    }

    /// Tail mass of each position: `[nodes][positions]`.
    pub(super) fn position_mass(&self) -> &[Vec<f64>] {
        &self.position_mass
    }

    /// True tail mass of each class, summed over positions: `[nodes][classes]`.
    pub(super) fn tail_mass(&self) -> &[Vec<f64>] {
        &self.tail_mass
    }

    /// The prior of everything seen, or `None` when nothing was.
    pub fn fit(&self) -> Option<TailPrior> {
        if self.positions() == 0 {
            return None;
        }
        let fitted: Vec<Vec<f32>> = (0..self.nodes.len()).into_par_iter().map(|n| self.fit_node(n)).collect();
        TailPrior::new(self.nodes.clone(), self.classes, fitted.concat())
    }

    fn fit_node(&self, node: usize) -> Vec<f32> {
        let truth = &self.tail_mass[node];
        let floor = (FLOOR * truth.iter().sum::<f64>() / self.classes as f64).max(f64::MIN_POSITIVE);
        let mut b: Vec<f64> = truth.iter().map(|t| (t.max(0.0) + floor).ln()).collect();
        for _ in 0..MAX_ROUNDS {
            centre(&mut b);
            let predicted = self.predict(node, &b);
            let mut worst = 0.0f64;
            for ((b, truth), predicted) in b.iter_mut().zip(truth).zip(&predicted) {
                // A class that is in every head has no tail to predict: leave it.
                if *predicted > 0.0 {
                    let change = ((truth.max(0.0) + floor) / (predicted + floor)).ln();
                    *b += change;
                    worst = worst.max(change.abs());
                }
            }
            if worst < TOLERANCE {
                break;
            }
        }
        centre(&mut b);
        b.iter().map(|b| *b as f32).collect()
    }

    /// Predicted tail mass of every class, summed over positions.
    fn predict(&self, node: usize, b: &[f64]) -> Vec<f64> {
        let u: Vec<f64> = b.iter().map(|b| b.exp()).collect();
        let total: f64 = u.iter().sum();
        let mut weight_sum = 0.0;
        let mut in_head = vec![0.0; self.classes];
        for (head, mass) in self.heads.iter().zip(&self.position_mass[node]) {
            let held: f64 = head.iter().map(|id| u[*id as usize]).sum();
            let mut left = total - held;
            if left < CANCELLATION * total {
                let mut rest = u.clone();
                for id in head {
                    rest[*id as usize] = 0.0;
                }
                left = rest.iter().sum();
            }
            if left <= 0.0 {
                continue;
            }
            let weight = mass / left;
            weight_sum += weight;
            for id in head {
                in_head[*id as usize] += weight;
            }
        }
        u.iter().zip(&in_head).map(|(u, head)| u * (weight_sum - head).max(0.0)).collect()
    }
}

/// Adds `exp(β (z − z_max)) / Z(β)` of each class to `sums[node]`.
fn add_row(powers: &NodePowers, z: &[f32], z_max: f32, log_z: &[f64], sums: &mut [Vec<f64>]) {
    let mut x = [0.0f32; BLOCK];
    for (block, z) in z.chunks(BLOCK).enumerate() {
        for (x, z) in x.iter_mut().zip(z) {
            *x = (z - z_max).min(0.0);
        }
        powers.for_each_node(&x[..z.len()], |node, e| {
            let scale = (-log_z[node]).exp();
            for (sum, e) in sums[node][block * BLOCK..].iter_mut().zip(e) {
                *sum += f64::from(*e) * scale;
            }
        });
    }
}

/// Shifts `b` so that `Σ exp(b) = 1`: a constant means nothing, and this one keeps `exp` in range.
fn centre(b: &mut [f64]) {
    let largest = b.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let log_sum = largest + b.iter().map(|b| (b - largest).exp()).sum::<f64>().ln();
    for b in b {
        *b -= log_sum;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::permutation::Permutation;
    use crate::select::Selector;
    use crate::target::{PositionTarget, TailHandling, Temperature};

    /// Logits with a strong class bias, as real teachers have.
    fn logits(rows: usize, classes: usize) -> Vec<f32> {
        let noise = Permutation::new(1 << 20, 7, 0);
        (0..rows * classes)
            .map(|i| {
                let bias = -((i % classes) as f32).ln_1p();
                bias + noise.at(i as u64) as f32 / (1 << 18) as f32
            })
            .collect()
    }

    fn fit(logits: &[f32], classes: usize, k: usize, pieces: usize) -> (PriorFit, TargetBatch) {
        let nodes = TailNodes::default();
        let selector = Selector::new(classes, k, &nodes).unwrap();
        let mut fit = PriorFit::new(classes, k, &nodes);
        for piece in logits.chunks(logits.len() / pieces) {
            fit.add(piece, &selector.select(piece).unwrap());
        }
        (fit, selector.select(logits).unwrap())
    }

    /// The definition: over the sample, predicted and true mean tail mass agree in every class.
    #[test]
    fn every_class_is_right_on_average() {
        for (classes, k) in [(60, 4), (10, 3), (10, 9), (5, 4)] {
            let z = logits(400, classes);
            let (prior_fit, batch) = fit(&z, classes, k, 4);
            let prior = prior_fit.fit().unwrap();
            for beta in prior.nodes().as_slice() {
                let t = Temperature::new(beta.recip()).unwrap();
                let (mut truth, mut predicted) = (vec![0.0; classes], vec![0.0; classes]);
                for (row, z) in z.chunks(classes).enumerate() {
                    let (ids, values, curve) = batch.row(row);
                    let nodes = prior.nodes();
                    let target = PositionTarget { classes, ids, values, nodes, curve };
                    let p = target.dense(t, TailHandling::Prior, Some(&prior.at(t)));
                    let max = z.iter().copied().fold(f32::MIN, f32::max);
                    let e: Vec<f64> = z.iter().map(|z| (f64::from(z - max) * beta).exp()).collect();
                    let sum: f64 = e.iter().sum();
                    for j in (0..classes).filter(|j| !ids.contains(&(*j as u32))) {
                        truth[j] += e[j] / sum / 400.0;
                        predicted[j] += p[j] / 400.0;
                    }
                }
                for j in 0..classes {
                    let error = (truth[j] - predicted[j]).abs();
                    assert!(
                        error < 1e-5 + 1e-3 * truth[j],
                        "class {j} at β {beta}: {} for {}",
                        predicted[j],
                        truth[j]
                    );
                }
            }
        }
    }

    #[test]
    fn one_thread_fits_what_many_do() {
        let z = logits(256, 2100);
        let whole = fit(&z, 2100, 5, 8).0.fit().unwrap();
        let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
        let single = pool.install(|| fit(&z, 2100, 5, 8).0.fit().unwrap());
        assert_eq!(whole, single);
    }

    /// A padded vocabulary: nothing that can be seen is left of any tail.
    #[test]
    fn tails_without_mass_have_a_prior_too() {
        let classes = 20_000;
        let row: Vec<f32> = (0..classes).map(|class| if class < 3 { class as f32 } else { -1e9 }).collect();
        let prior = fit(&row.repeat(4), classes, 5, 2).0.fit().unwrap();
        for beta in prior.nodes().as_slice() {
            assert!(prior.at(Temperature::new(beta.recip()).unwrap()).iter().all(|b| b.is_finite()));
        }
    }

    #[test]
    fn no_sample_is_no_prior() {
        assert!(PriorFit::new(4, 2, &TailNodes::default()).fit().is_none());
    }
}
