//! Decoupled KD: how sure of the label, and what of the other classes, each with a weight of its own.

use tch::{Kind, Tensor};

use super::{finite, without_label};

/// `α KL(b_p ‖ b_q) + β KL(p̂ ‖ q̂)`, in nats: `b` is the label against all else, `p̂` the other classes
/// by themselves. Plain KL is `α = 1, β = 1 − p_label`. Source: Zhao et al., "Decoupled Knowledge Distillation", 2022,
/// equation 7.
///
/// # Shapes
/// `log_p`, `log_q`: `[positions, classes]`, of target and student; `labels`: `[positions]`, int64, negative where
/// there is none. The result is `[positions]`, 0 where there is no label.
pub fn dkd(log_p: &Tensor, log_q: &Tensor, labels: &Tensor, alpha: f64, beta: f64) -> Tensor {
    let label = labels.clamp_min(0).unsqueeze(-1);
    let log_p = finite(log_p);
    // Log-probabilities of the label, of all else, and of all else by itself.
    let parts = |log: &Tensor| {
        let of_label = log.gather(-1, &label, false);
        let (of_others, others) = without_label(log, &label);
        (Tensor::cat(&[&of_label, &of_others], -1), others)
    };
    let ((b_p, p), (b_q, q)) = (parts(&log_p), parts(log_q));
    let kl = |log_a: &Tensor, log_b: &Tensor| {
        (log_a.exp() * (log_a - log_b)).sum_dim_intlist(-1, false, Kind::Float)
    };
    (kl(&b_p, &b_q) * alpha + kl(&p, &q) * beta) * labels.ge(0)
}
