//! Fully connected layers with ReLU between them.

use tch::nn::{self, Module, Path};

use super::built_in::Net;

/// Inputs of any shape are flattened.
pub(super) fn mlp(root: &Path<'_>, inputs: i64, hidden: &[u32], classes: i64) -> Net {
    let mut body = nn::seq_t().add_fn(|x| x.flatten(1, -1));
    let mut width = inputs;
    for (at, next) in hidden.iter().map(|next| i64::from(*next)).enumerate() {
        let layer = nn::linear(root / format!("hidden{at}"), width, next, nn::LinearConfig::default());
        body = body.add_fn(move |x| layer.forward(x).relu());
        width = next;
    }
    Net { body, head: nn::linear(root / "head", width, classes, nn::LinearConfig::default()) }
}
