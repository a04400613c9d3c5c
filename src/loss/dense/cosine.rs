//! The angle between two distributions.

use tch::{Kind, Tensor};

/// `1 − p · q / (‖p‖ ‖q‖)`, from 0 to 1 (`torch.nn.CosineEmbeddingLoss` of probabilities, targets 1).
///
/// # Shapes
/// `log_p`, `log_q`: `[positions, classes]`, of target and student. The result is `[positions]`.
pub fn cosine(log_p: &Tensor, log_q: &Tensor) -> Tensor {
    let (p, q) = (log_p.exp(), log_q.exp());
    let dot = |a: &Tensor, b: &Tensor| (a * b).sum_dim_intlist(-1, false, Kind::Float);
    // A distribution's norm is 1/√classes at least.
    1.0 - dot(&p, &q) / (dot(&p, &p) * dot(&q, &q)).sqrt()
}
