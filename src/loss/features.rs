//! The teacher's features as targets: a projection of the student's layer, learned with it, is to give them.

use std::collections::BTreeMap;

use tch::nn::{self, Module, VarStore};
use tch::{Device, Kind, Tensor};

use crate::config::{FeatureLossConfig, FeatureLossKind};

/// Terms on features, and the projections they need.
///
/// For a position, `f` is the student's layer, of its own width, `t` the teacher's vector of `d` numbers, `W` and `b`
/// the projection:
///
/// ```text
/// mse      (1/d) Σ_j ((W f + b)_j − t_j)²
/// cosine   1 − (W f + b) · t / (‖W f + b‖ ‖t‖)
/// ```
///
/// Sources: Romero et al., "FitNets", 2015 (the regressor and the squares); the cosine is that of DistilBERT (Sanh et
/// al., 2019).
///
/// The projections are no part of the student: they lie in a store of their own and are left when training ends.
pub struct FeatureLoss {
    store: VarStore,
    terms: Vec<Term>,
}

struct Term {
    /// What it is called among the terms.
    name: String,
    config: FeatureLossConfig,
    projection: nn::Linear,
}

/// What a term is called in reports: `feature_NAME`.
pub fn feature_term(name: &str) -> String {
    format!("feature_{name}")
}

/// What keeps a cosine of zeros from being no number.
const LEAST_NORM: f64 = 1e-12;

impl FeatureLoss {
    /// The terms of `configs`, each with the width of the student's layer and that of the teacher's vectors. First
    /// weights are drawn from libtorch's generator (seed it before), as PyTorch's linear layers begin.
    pub fn new(configs: &[FeatureLossConfig], widths: &[(i64, i64)], device: Device) -> Self {
        let store = VarStore::new(device);
        let term = |(config, (student, teacher)): (&FeatureLossConfig, &(i64, i64))| Term {
            name: feature_term(&config.name),
            config: config.clone(),
            projection: nn::linear(
                store.root() / config.name.as_str(),
                *student,
                *teacher,
                nn::LinearConfig::default(),
            ),
        };
        let terms = configs.iter().zip(widths).map(term).collect();
        Self { store, terms }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.terms.is_empty()
    }

    /// The layers of the student that are asked for, a term each.
    pub fn layers(&self) -> Vec<String> {
        self.terms.iter().map(|term| term.config.layer.clone()).collect()
    }

    /// The projections' variables: `NAME.weight` `[teacher, student]` and `NAME.bias` `[teacher]`.
    pub fn variables(&self) -> &VarStore {
        &self.store
    }

    /// The weighted sum of all terms, a scalar, and each term by its name, unweighted and detached: sums over the
    /// positions given, divided by `positions`.
    ///
    /// # Shapes
    /// `layers` and `targets`: a term each, `[n, student]` and `[n, teacher]`.
    pub fn forward(
        &self,
        layers: &[Tensor],
        targets: &[Tensor],
        positions: usize,
    ) -> (Tensor, BTreeMap<String, Tensor>) {
        let mut total = Tensor::zeros([], (Kind::Float, self.store.device()));
        let mut terms = BTreeMap::new();
        for (term, (layer, target)) in self.terms.iter().zip(layers.iter().zip(targets)) {
            let projected = term.projection.forward(&layer.to_kind(Kind::Float));
            let off = match term.config.kind {
                FeatureLossKind::Mse => {
                    let off = projected - target;
                    (&off * &off).mean_dim([-1i64].as_slice(), false, Kind::Float)
                }
                FeatureLossKind::Cosine => cosine(&projected, target),
            };
            let mean = off.sum(Kind::Float) / positions.max(1) as f64;
            total += &mean * term.config.weight;
            terms.insert(term.name.clone(), mean.detach());
        }
        (total, terms)
    }
}

/// `1 − cos`: `[n, d]` twice to `[n]`.
fn cosine(a: &Tensor, b: &Tensor) -> Tensor {
    let norm = |x: &Tensor| (x * x).sum_dim_intlist(-1, false, Kind::Float).clamp_min(LEAST_NORM).sqrt();
    let dot = (a * b).sum_dim_intlist(-1, false, Kind::Float);
    dot / (norm(a) * norm(b)) * -1.0 + 1.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::libtorch::of_tests;

    const POSITIONS: usize = 5;
    const STUDENT: usize = 3;
    const TEACHER: usize = 4;

    fn numbers(count: usize, seed: usize) -> Vec<f32> {
        (0..count).map(|at| ((at * 7919 + seed * 104_729) % 1009) as f32 / 400.0 - 1.2).collect()
    }

    fn config(kind: FeatureLossKind, weight: f64) -> FeatureLossConfig {
        FeatureLossConfig { name: "pooled".into(), weight, kind, layer: "features".into() }
    }

    /// Both terms by definition, in double precision.
    fn reference(kind: FeatureLossKind, weight: &[f32], bias: &[f32], layer: &[f32], target: &[f32]) -> f64 {
        let mut sum = 0.0;
        for row in 0..POSITIONS {
            let f: Vec<f64> = layer[row * STUDENT..][..STUDENT].iter().map(|v| f64::from(*v)).collect();
            let t: Vec<f64> = target[row * TEACHER..][..TEACHER].iter().map(|v| f64::from(*v)).collect();
            let projected: Vec<f64> = (0..TEACHER)
                .map(|j| {
                    let row = &weight[j * STUDENT..][..STUDENT];
                    row.iter().zip(&f).map(|(w, f)| f64::from(*w) * f).sum::<f64>() + f64::from(bias[j])
                })
                .collect();
            let norm = |x: &[f64]| x.iter().map(|v| v * v).sum::<f64>().sqrt();
            sum += match kind {
                FeatureLossKind::Mse => {
                    projected.iter().zip(&t).map(|(a, b)| (a - b).powi(2)).sum::<f64>() / TEACHER as f64
                }
                FeatureLossKind::Cosine => {
                    1.0 - projected.iter().zip(&t).map(|(a, b)| a * b).sum::<f64>()
                        / norm(&projected)
                        / norm(&t)
                }
            };
        }
        sum / POSITIONS as f64
    }

    #[test]
    fn terms_are_what_their_formulas_say_and_so_are_their_gradients() {
        for kind in [FeatureLossKind::Mse, FeatureLossKind::Cosine] {
            let loss =
                FeatureLoss::new(&[config(kind, 2.0)], &[(STUDENT as i64, TEACHER as i64)], of_tests());
            let variables = loss.variables().variables();
            let list = |tensor: &Tensor| Vec::<f32>::try_from(tensor.reshape([-1])).unwrap();
            let (mut weight, bias) = (list(&variables["pooled.weight"]), list(&variables["pooled.bias"]));
            let (mut values, targets) = (numbers(POSITIONS * STUDENT, 1), numbers(POSITIONS * TEACHER, 2));
            let target =
                Tensor::from_slice(&targets).view([POSITIONS as i64, TEACHER as i64]).to_device(of_tests());
            let layer =
                Tensor::from_slice(&values).view([POSITIONS as i64, STUDENT as i64]).to_device(of_tests());
            let layer = layer.set_requires_grad(true);
            let (total, terms) = loss.forward(&[layer.shallow_clone()], &[target], POSITIONS);
            let wanted = reference(kind, &weight, &bias, &values, &targets);
            let term = terms["feature_pooled"].double_value(&[]);
            assert!((term - wanted).abs() < 1e-5, "{kind:?}: {term} is not {wanted}");
            assert!((total.double_value(&[]) - 2.0 * wanted).abs() < 2e-5, "the weight is 2");
            total.backward();
            // Central differences of the reference, whose error is of the step's square: weights are drawn, and a vector may be short.
            let step = 1e-3f32;
            let slope = |from: f64, to: f64, kept: f32| {
                (to - from) / (f64::from(kept + step) - f64::from(kept - step))
            };
            let of_layer = list(&layer.grad());
            for at in 0..values.len() {
                let kept = values[at];
                let mut at_value = |value: f32| {
                    values[at] = value;
                    reference(kind, &weight, &bias, &values, &targets)
                };
                let slope = slope(at_value(kept - step), at_value(kept + step), kept);
                values[at] = kept;
                assert!((f64::from(of_layer[at]) - 2.0 * slope).abs() < 2e-3, "{kind:?}, layer {at}");
            }
            let of_weight = list(&variables["pooled.weight"].grad());
            for at in 0..weight.len() {
                let kept = weight[at];
                let mut at_value = |value: f32| {
                    weight[at] = value;
                    reference(kind, &weight, &bias, &values, &targets)
                };
                let slope = slope(at_value(kept - step), at_value(kept + step), kept);
                weight[at] = kept;
                assert!((f64::from(of_weight[at]) - 2.0 * slope).abs() < 2e-3, "{kind:?}, weight {at}");
            }
        }
    }

    #[test]
    fn a_cosine_of_zeros_is_a_number_and_means_are_over_the_whole_batch() {
        let configs = [config(FeatureLossKind::Cosine, 1.0)];
        let loss = FeatureLoss::new(&configs, &[(2, 2)], of_tests());
        let zeros = || Tensor::zeros([1, 2], (Kind::Float, of_tests()));
        let (total, _) = loss.forward(&[zeros()], &[zeros()], 4);
        assert_eq!(total.double_value(&[]), 0.25);
    }
}
