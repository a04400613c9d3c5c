//! Fully connected layers with ReLU between them.

use tch::nn::{self, Module, Path, Sequential};

/// Inputs of any shape are flattened.
pub(super) fn mlp(root: &Path<'_>, inputs: i64, hidden: &[u32], classes: i64) -> Sequential {
    let mut net = nn::seq().add_fn(|x| x.flatten(1, -1));
    let mut width = inputs;
    for (at, next) in hidden.iter().map(|next| i64::from(*next)).enumerate() {
        let layer = nn::linear(root / format!("hidden{at}"), width, next, nn::LinearConfig::default());
        net = net.add_fn(move |x| layer.forward(x).relu());
        width = next;
    }
    net.add(nn::linear(root / "head", width, classes, nn::LinearConfig::default()))
}
