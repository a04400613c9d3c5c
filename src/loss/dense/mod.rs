//! Losses that look at every class's probability: what is kept of a target, written out.
//!
//! Each has a file and takes `[positions, classes]` log-probabilities of target and student at the same
//! temperature; each gives `[positions]`, but for what relates the samples of a batch. What compares the head's logits in
//! the same way lies beside it.

mod cosine;
mod dist;
mod dkd;
mod jsd;
mod mse;
mod nkd;
mod reverse_kl;
mod total_variation;

use tch::{Kind, Tensor};

pub use cosine::{cosine, logit_cosine};
pub use dist::{dist_inter, dist_intra};
pub use dkd::dkd;
pub use jsd::jsd;
pub use mse::{logit_mse, mse};
pub use nkd::nkd;
pub use reverse_kl::reverse_kl;
pub use total_variation::total_variation;

/// What stands for the logarithm of no probability: its exponential is 0, and nothing computed with it NaN.
const LOG_OF_NONE: f64 = -1e4;

/// Log-probabilities without infinities.
pub(super) fn finite(log_p: &Tensor) -> Tensor {
    log_p.clamp_min(LOG_OF_NONE)
}

/// The log-probability of all classes but the label, `[positions, 1]`, and theirs by themselves, `[positions, classes]`,
/// in which the label has no probability.
pub(super) fn without_label(log: &Tensor, label: &Tensor) -> (Tensor, Tensor) {
    let others = log.scatter_value(-1, label, f64::NEG_INFINITY);
    let of_others = others.logsumexp([-1], true);
    let alone = finite(&(others - &of_others));
    (of_others, alone)
}

/// Logits relative to their mean over the head, and 0 for what fills a head up: without the constant that no softmax sees.
pub(super) fn centred(logits: &Tensor, in_head: Option<&Tensor>) -> Tensor {
    let Some(in_head) = in_head else {
        return logits - logits.mean_dim([-1i64].as_slice(), true, Kind::Float);
    };
    let sum = |tensor: &Tensor| tensor.sum_dim_intlist(-1, true, Kind::Float);
    let in_head = in_head.to_kind(Kind::Float);
    let mean = sum(&(logits * &in_head)) / sum(&in_head);
    (logits - mean) * in_head
}
