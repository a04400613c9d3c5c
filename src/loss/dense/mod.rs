//! Losses that look at every class's probability: what is kept of a target, written out.
//!
//! Each has a file and takes `[positions, classes]` log-probabilities of target and student at the same
//! temperature; each gives `[positions]`, but for what relates the samples of a batch.

mod cosine;
mod dist;
mod dkd;
mod jsd;
mod mse;
mod nkd;
mod reverse_kl;
mod total_variation;

use tch::Tensor;

pub use cosine::cosine;
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
