//! Cross-entropy on hard labels.

use tch::{Kind, Tensor};

/// `−log softmax(logits)[label]`, in nats, at T = 1.
///
/// # Shapes
/// `logits`: `[batch, classes]`, raw. `labels`: `[batch]`, int64 below `classes`, negative where there is none. The
/// result is `[batch]`, 0 where there is no label.
pub fn cross_entropy(logits: &Tensor, labels: &Tensor) -> Tensor {
    smoothed(logits, labels, 0.0)
}

/// The same on `1 − smoothing` of the label and `smoothing` of all classes evenly (Szegedy et al., 2016; as
/// `torch.nn.CrossEntropyLoss` has it).
///
/// # Shapes
/// As in [`cross_entropy`].
pub fn smoothed(logits: &Tensor, labels: &Tensor, smoothing: f64) -> Tensor {
    against(&logits.log_softmax(-1, Kind::Float), labels, smoothing)
}

/// The same of a student's log-probabilities.
pub(super) fn against(log_q: &Tensor, labels: &Tensor, smoothing: f64) -> Tensor {
    let picked = log_q.gather(-1, &labels.clamp_min(0).unsqueeze(-1), false).squeeze_dim(-1);
    let against = match smoothing == 0.0 {
        true => picked,
        false => {
            picked * (1.0 - smoothing) + log_q.mean_dim([-1i64].as_slice(), false, Kind::Float) * smoothing
        }
    };
    -against * labels.ge(0)
}
