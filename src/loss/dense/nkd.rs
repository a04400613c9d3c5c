//! Normalised KD: the label as the teacher sees it, and the other classes by themselves.

use tch::{Kind, Tensor};

use super::{finite, without_label};

/// `−p_y log q_y` at T = 1, and `γ T²` times the cross-entropy `−Σ_{j≠y} p̂_j log q̂_j` at `T`, in nats: y is the label,
/// `p̂` and `q̂` are the other classes, which sum to 1 again. A cross-entropy: not 0 where the student equals the target.
/// Source: Yang, Zeng, Li, Zhang, Yuan & Li, "From Knowledge Distillation to Self-Knowledge Distillation: A Unified
/// Approach with Normalized Loss and Customized Soft Labels", ICCV 2023.
///
/// # Shapes
/// `at_one`: `[positions, classes]` each, log-probabilities of target and student at T = 1; `at_t`: the same at `T`;
/// `labels`: `[positions]`, int64, negative where there is none. The result is `[positions]`, 0 where there is no
/// label. `weight` is `γ T²`.
pub fn nkd(at_one: (&Tensor, &Tensor), at_t: (&Tensor, &Tensor), labels: &Tensor, weight: f64) -> Tensor {
    let label = labels.clamp_min(0).unsqueeze(-1);
    let of_label = |log: &Tensor| log.gather(-1, &label, false).squeeze_dim(-1);
    let target = of_label(at_one.0).exp() * of_label(at_one.1);
    let (_, p) = without_label(&finite(at_t.0), &label);
    let (_, q) = without_label(at_t.1, &label);
    let others = (p.exp() * q).sum_dim_intlist(-1, false, Kind::Float);
    -(target + others * weight) * labels.ge(0)
}
