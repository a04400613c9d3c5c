//! libtorch's optimizers by their config.

use tch::TchError;
use tch::nn::{AdamW, Optimizer, OptimizerConfig as _, Sgd, VarStore};

use crate::config::OptimizerConfig;

/// The optimizer of all trainable variables of `vs`, at its peak learning rate.
///
/// # Errors
/// What libtorch returns.
pub fn build(config: &OptimizerConfig, vs: &VarStore) -> Result<Optimizer, TchError> {
    match *config {
        OptimizerConfig::Adamw { learning_rate, weight_decay, betas: [beta1, beta2], eps } => {
            AdamW { beta1, beta2, wd: weight_decay, eps, amsgrad: false }.build(vs, learning_rate)
        }
        OptimizerConfig::Sgd { learning_rate, momentum, weight_decay, nesterov } => {
            Sgd { momentum, dampening: 0.0, wd: weight_decay, nesterov }.build(vs, learning_rate)
        }
    }
}
