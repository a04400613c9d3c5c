//! What configs say of optimizers.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Fault;

/// How weights are changed. Weight decay is of matrices and kernels; norms and biases keep their size unless
/// `decay_all` is set.
///
/// With `layer_decay = d`, a weight's learning rate is multiplied by d to the power of its depth. A layer's number is
/// that after `layer`, `layers`, `block`, `blocks`, `stage`, `stages`, `hidden` or `h` in a weight's name
/// (`model.layers.3.mlp`, `layer3.0.conv1`, `stage2.block1.conv1`); several numbers count one after the other. The
/// uppermost layer has depth 1, the one below it 2, and so on. Weights without a number have depth 0 (a head, the last
/// norm), but those of the input, a layer's more than the lowest: where a part of the name contains `embed` or `stem`,
/// or is `wte` or `wpe`, or the name begins with `conv1.` or `bn1.`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum OptimizerConfig {
    /// Adam with decoupled weight decay (Loshchilov & Hutter, 2019).
    Adamw {
        /// Peak learning rate.
        #[schemars(extend("exclusiveMinimum" = 0.0))]
        learning_rate: f64,
        /// Decoupled weight decay.
        #[serde(default = "default_weight_decay")]
        #[schemars(range(min = 0.0))]
        weight_decay: f64,
        /// Whether norms and biases decay too.
        #[serde(default)]
        decay_all: bool,
        /// Decay rates of the two moments.
        #[serde(default = "default_betas")]
        betas: [f64; 2],
        /// Added to the denominator.
        #[serde(default = "default_eps")]
        #[schemars(extend("exclusiveMinimum" = 0.0))]
        eps: f64,
        /// Each layer learns at so many times the rate of the layer above it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schemars(extend("exclusiveMinimum" = 0.0, "maximum" = 1.0))]
        layer_decay: Option<f64>,
        /// Weights with a rate or a decay of their own.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        #[schemars(skip_serializing_if = "super::outline::never")]
        groups: Vec<GroupConfig>,
    },
    /// Adam (Kingma & Ba, 2015), weight decay as an L2 penalty.
    Adam {
        /// Peak learning rate.
        #[schemars(extend("exclusiveMinimum" = 0.0))]
        learning_rate: f64,
        /// L2 penalty.
        #[serde(default)]
        #[schemars(range(min = 0.0))]
        weight_decay: f64,
        /// Whether norms and biases are penalised too.
        #[serde(default)]
        decay_all: bool,
        /// Decay rates of the two moments.
        #[serde(default = "default_betas")]
        betas: [f64; 2],
        /// Added to the denominator.
        #[serde(default = "default_eps")]
        #[schemars(extend("exclusiveMinimum" = 0.0))]
        eps: f64,
        /// Each layer learns at so many times the rate of the layer above it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schemars(extend("exclusiveMinimum" = 0.0, "maximum" = 1.0))]
        layer_decay: Option<f64>,
        /// Weights with a rate or a decay of their own.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        #[schemars(skip_serializing_if = "super::outline::never")]
        groups: Vec<GroupConfig>,
    },
    /// Stochastic gradient descent with momentum.
    Sgd {
        /// Peak learning rate.
        #[schemars(extend("exclusiveMinimum" = 0.0))]
        learning_rate: f64,
        /// Momentum.
        #[serde(default = "default_momentum")]
        #[schemars(range(min = 0.0, max = 1.0))]
        momentum: f64,
        /// L2 penalty.
        #[serde(default)]
        #[schemars(range(min = 0.0))]
        weight_decay: f64,
        /// Whether norms and biases are penalised too.
        #[serde(default)]
        decay_all: bool,
        /// Nesterov's form of momentum.
        #[serde(default)]
        nesterov: bool,
        /// Each layer learns at so many times the rate of the layer above it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schemars(extend("exclusiveMinimum" = 0.0, "maximum" = 1.0))]
        layer_decay: Option<f64>,
        /// Weights with a rate or a decay of their own.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        #[schemars(skip_serializing_if = "super::outline::never")]
        groups: Vec<GroupConfig>,
    },
    /// RMSprop (Hinton, 2012).
    Rmsprop {
        /// Peak learning rate.
        #[schemars(extend("exclusiveMinimum" = 0.0))]
        learning_rate: f64,
        /// Decay rate of the mean square.
        #[serde(default = "default_alpha")]
        #[schemars(range(min = 0.0, max = 1.0))]
        alpha: f64,
        /// Momentum.
        #[serde(default)]
        #[schemars(range(min = 0.0, max = 1.0))]
        momentum: f64,
        /// L2 penalty.
        #[serde(default)]
        #[schemars(range(min = 0.0))]
        weight_decay: f64,
        /// Whether norms and biases are penalised too.
        #[serde(default)]
        decay_all: bool,
        /// Added to the denominator.
        #[serde(default = "default_eps")]
        #[schemars(extend("exclusiveMinimum" = 0.0))]
        eps: f64,
        /// Each layer learns at so many times the rate of the layer above it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schemars(extend("exclusiveMinimum" = 0.0, "maximum" = 1.0))]
        layer_decay: Option<f64>,
        /// Weights with a rate or a decay of their own.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        #[schemars(skip_serializing_if = "super::outline::never")]
        groups: Vec<GroupConfig>,
    },
    /// Lion (Chen et al., 2023): steps of one size, along the sign of the momentum.
    Lion {
        /// Peak learning rate; about a tenth of Adam's.
        #[schemars(extend("exclusiveMinimum" = 0.0))]
        learning_rate: f64,
        /// Decoupled weight decay.
        #[serde(default = "default_weight_decay")]
        #[schemars(range(min = 0.0))]
        weight_decay: f64,
        /// Whether norms and biases decay too.
        #[serde(default)]
        decay_all: bool,
        /// Shares of the past in the step and in the momentum.
        #[serde(default = "default_lion_betas")]
        betas: [f64; 2],
        /// Each layer learns at so many times the rate of the layer above it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schemars(extend("exclusiveMinimum" = 0.0, "maximum" = 1.0))]
        layer_decay: Option<f64>,
        /// Weights with a rate or a decay of their own.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        #[schemars(skip_serializing_if = "super::outline::never")]
        groups: Vec<GroupConfig>,
    },
}

/// Weights with a rate or a decay of their own.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GroupConfig {
    /// What their names begin with: `model.embed_tokens`, say. A weight belongs to the first group that it fits.
    #[serde(rename = "match")]
    pub prefix: String,
    /// What the learning rate is multiplied by.
    #[serde(default = "whole")]
    #[schemars(range(min = 0.0))]
    pub rate: f64,
    /// Weight decay in the place of the optimizer's; norms and biases keep their size here too, unless `decay_all` is set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0))]
    pub weight_decay: Option<f64>,
}

fn whole() -> f64 {
    1.0
}

fn default_weight_decay() -> f64 {
    0.01
}

fn default_betas() -> [f64; 2] {
    [0.9, 0.999]
}

fn default_lion_betas() -> [f64; 2] {
    [0.9, 0.99]
}

fn default_eps() -> f64 {
    1e-8
}

fn default_momentum() -> f64 {
    0.9
}

fn default_alpha() -> f64 {
    0.99
}

impl OptimizerConfig {
    /// What every kind has: peak learning rate, weight decay, and whether norms and biases decay too.
    fn common(&self) -> (f64, f64, bool) {
        match self {
            Self::Adamw { learning_rate, weight_decay, decay_all, .. }
            | Self::Adam { learning_rate, weight_decay, decay_all, .. }
            | Self::Sgd { learning_rate, weight_decay, decay_all, .. }
            | Self::Rmsprop { learning_rate, weight_decay, decay_all, .. }
            | Self::Lion { learning_rate, weight_decay, decay_all, .. } => {
                (*learning_rate, *weight_decay, *decay_all)
            }
        }
    }

    /// The peak learning rate.
    pub fn learning_rate(&self) -> f64 {
        self.common().0
    }

    /// Weight decay, decoupled or L2.
    pub fn weight_decay(&self) -> f64 {
        self.common().1
    }

    /// Whether norms and biases decay too.
    pub fn decays_all(&self) -> bool {
        self.common().2
    }

    /// What each layer's rate is multiplied by, relative to the layer above it.
    pub fn layer_decay(&self) -> Option<f64> {
        self.parts().0
    }

    /// Weights with a rate or a decay of their own.
    pub fn groups(&self) -> &[GroupConfig] {
        self.parts().1
    }

    fn parts(&self) -> (Option<f64>, &[GroupConfig]) {
        match self {
            Self::Adamw { layer_decay, groups, .. }
            | Self::Adam { layer_decay, groups, .. }
            | Self::Sgd { layer_decay, groups, .. }
            | Self::Rmsprop { layer_decay, groups, .. }
            | Self::Lion { layer_decay, groups, .. } => (*layer_decay, groups),
        }
    }

    pub(super) fn validate(&self) -> Vec<Fault> {
        let mut faults = Vec::new();
        if let Self::Adamw { betas, .. } | Self::Adam { betas, .. } | Self::Lion { betas, .. } = self
            && let Some(bad) = betas.iter().find(|b| !(0.0..1.0).contains(*b))
        {
            let problem = format!("expected values in [0, 1), found {bad}");
            faults.push(Fault::new("optimizer.betas", problem));
        }
        if let Self::Sgd { momentum, nesterov: true, .. } = self
            && *momentum == 0.0
        {
            faults.push(Fault::new("optimizer.nesterov", "needs a positive optimizer.momentum, found 0"));
        }
        faults
    }
}
