//! Cross-entropy on hard labels.

use tch::{Kind, Tensor};

/// `−log softmax(logits)[label]`, in nats, at T = 1.
///
/// # Shapes
/// `logits`: `[batch, classes]`, raw. `labels`: `[batch]`, int64 below `classes`, negative where there is none. The
/// result is `[batch]`, 0 where there is no label.
pub fn cross_entropy(logits: &Tensor, labels: &Tensor) -> Tensor {
    let log_q = logits.log_softmax(-1, Kind::Float);
    let picked = log_q.gather(-1, &labels.clamp_min(0).unsqueeze(-1), false).squeeze_dim(-1);
    -picked * labels.ge(0)
}
