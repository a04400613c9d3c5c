//! Cross-entropy on hard labels.

use tch::{Kind, Tensor};

/// `−log softmax(logits)[label]`, in nats, at T = 1.
///
/// # Shapes
/// `logits`: `[batch, classes]`, raw. `labels`: `[batch]`, int64 below `classes`. The result is
/// `[batch]`.
pub fn cross_entropy(logits: &Tensor, labels: &Tensor) -> Tensor {
    let log_q = logits.log_softmax(-1, Kind::Float);
    -log_q.gather(-1, &labels.unsqueeze(-1), false).squeeze_dim(-1)
}
