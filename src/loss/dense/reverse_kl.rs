//! Reverse KL: a student that is unsure puts its mass where the target has some.

use tch::{Kind, Tensor};

/// `KL(q ‖ p) = Σ q (log q − log p)`, in nats. Source: Gu et al., "MiniLLM", 2024.
///
/// # Shapes
/// `log_p`, `log_q`: `[positions, classes]`, of target and student; every class of the target has mass. The result
/// is `[positions]`.
pub fn reverse_kl(log_p: &Tensor, log_q: &Tensor) -> Tensor {
    (log_q.exp() * (log_q - log_p)).sum_dim_intlist(-1, false, Kind::Float)
}
