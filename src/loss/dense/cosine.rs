//! The angle between two distributions, and between the logits of a head.

use tch::{Kind, Tensor};

use super::centred;

/// Added to the squares of both norms, as PyTorch's `cosine_embedding_loss` does.
const EPS: f64 = 1e-12;

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

/// `1 − s · z / (‖s‖ ‖z‖)`, from 0 to 2, of the logits of the head's classes, each side relative to its own mean over the
/// head: what neither a temperature nor the constant that a softmax ignores changes. On centred logits it is
/// `torch.nn.CosineEmbeddingLoss`, targets 1; and it is 1 less their correlation.
///
/// Where the target's logits are all equal, as in a head of one class, there is no angle: 0. Where only the student's
/// are, it is 1.
///
/// # Shapes
/// `values`, `student`: `[positions, k]`, raw logits of the head's classes; `in_head`: `[positions, k]`, 1 for what is
/// in a head and 0 for what fills it up, `None` where nothing does. The result is `[positions]`.
pub fn logit_cosine(values: &Tensor, student: &Tensor, in_head: Option<&Tensor>) -> Tensor {
    let (z, s) = (centred(values, in_head), centred(student, in_head));
    let dot = |a: &Tensor, b: &Tensor| (a * b).sum_dim_intlist(-1, false, Kind::Float);
    let of_target = dot(&z, &z);
    let norms = ((&of_target + EPS) * (dot(&s, &s) + EPS)).sqrt();
    (1.0 - dot(&s, &z) / norms) * of_target.gt(0.0)
}
