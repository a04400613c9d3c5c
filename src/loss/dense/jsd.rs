//! Generalised Jensen–Shannon divergence: between forward and reverse KL.

use tch::{Kind, Tensor};

use super::finite;

/// `β KL(p ‖ m) + (1 − β) KL(q ‖ m)` with `m = β p + (1 − β) q` and `0 < β < 1`, in nats. Source: Agarwal et al.,
/// "On-Policy Distillation of Language Models" (GKD), 2024, equation 1.
///
/// # Shapes
/// `log_p`, `log_q`: `[positions, classes]`, of target and student. The result is `[positions]`.
pub fn jsd(log_p: &Tensor, log_q: &Tensor, beta: f64) -> Tensor {
    let log_p = finite(log_p);
    let log_m = (&log_p + beta.ln()).logaddexp(&(log_q + (1.0 - beta).ln()));
    let kl = |log_a: &Tensor| (log_a.exp() * (log_a - &log_m)).sum_dim_intlist(-1, false, Kind::Float);
    kl(&log_p) * beta + kl(log_q) * (1.0 - beta)
}
