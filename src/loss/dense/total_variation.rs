//! Total variation: the mass that would have to be moved.

use tch::{Kind, Tensor};

/// `½ Σ |p − q|`, from 0 to 1. Source: Wen et al., "f-Divergence Minimization for Sequence-Level Knowledge
/// Distillation", 2023.
///
/// # Shapes
/// `log_p`, `log_q`: `[positions, classes]`, of target and student. The result is `[positions]`.
pub fn total_variation(log_p: &Tensor, log_q: &Tensor) -> Tensor {
    (log_p.exp() - log_q.exp()).abs().sum_dim_intlist(-1, false, Kind::Float) * 0.5
}
