//! What configs say of students.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Fault;

/// The model to train. Inputs and number of classes come from the data and the cache.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum StudentConfig {
    /// Fully connected layers with ReLU between them.
    Mlp {
        /// Widths of the hidden layers.
        hidden: Vec<u32>,
        /// Number of classes; default: the cache's.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schemars(range(min = 2))]
        classes: Option<usize>,
    },
    /// Blocks of 3×3 convolution, batch norm and ReLU, with 2×2 max-pooling between blocks, then a global average
    /// and a linear layer.
    Conv {
        /// Channels of each block.
        channels: Vec<u32>,
        /// Convolutions in each block.
        #[serde(default = "one")]
        #[schemars(range(min = 1, max = 8))]
        depth: u32,
        /// Number of classes; default: the cache's.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schemars(range(min = 2))]
        classes: Option<usize>,
    },
    /// ResNet-18, its weights named as torchvision's are.
    Resnet18(ResnetConfig),
    /// ResNet-34, its weights named as torchvision's are.
    Resnet34(ResnetConfig),
    /// ResNet-50 (v1.5: a bottleneck halves the image in its 3×3 convolution), its weights named as torchvision's are.
    Resnet50(ResnetConfig),
    /// A decoder-only transformer: RMSNorm, rotary positions, SwiGLU, grouped-query attention.
    Llama(LlamaConfig),
    /// Any TorchScript module that maps inputs to logits; its parameters are trained.
    Torchscript {
        /// The module's file, made with `torch.jit.script`: a traced module cannot change between training and evaluation.
        path: PathBuf,
        /// Number of classes; default: the cache's.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schemars(range(min = 2))]
        classes: Option<usize>,
    },
}

fn one() -> u32 {
    1
}

impl StudentConfig {
    /// The number of classes, if the config gives one.
    pub fn classes(&self) -> Option<usize> {
        match self {
            Self::Mlp { classes, .. }
            | Self::Conv { classes, .. }
            | Self::Resnet18(ResnetConfig { classes, .. })
            | Self::Resnet34(ResnetConfig { classes, .. })
            | Self::Resnet50(ResnetConfig { classes, .. })
            | Self::Torchscript { classes, .. }
            | Self::Llama(LlamaConfig { classes, .. }) => *classes,
        }
    }

    /// Where that number stands.
    pub fn classes_mut(&mut self) -> &mut Option<usize> {
        match self {
            Self::Mlp { classes, .. }
            | Self::Conv { classes, .. }
            | Self::Resnet18(ResnetConfig { classes, .. })
            | Self::Resnet34(ResnetConfig { classes, .. })
            | Self::Resnet50(ResnetConfig { classes, .. })
            | Self::Torchscript { classes, .. }
            | Self::Llama(LlamaConfig { classes, .. }) => classes,
        }
    }

    /// The word used in configs.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Mlp { .. } => "mlp",
            Self::Conv { .. } => "conv",
            Self::Resnet18(_) => "resnet18",
            Self::Resnet34(_) => "resnet34",
            Self::Resnet50(_) => "resnet50",
            Self::Llama(_) => "llama",
            Self::Torchscript { .. } => "torchscript",
        }
    }

    pub(super) fn validate(&self) -> Vec<Fault> {
        let mut faults = Vec::new();
        match self {
            Self::Mlp { hidden, .. } if hidden.contains(&0) => {
                faults.push(Fault::new("student.hidden", "expected widths of at least 1, found 0"));
            }
            Self::Conv { channels, .. } if channels.is_empty() || channels.contains(&0) => {
                let problem = format!("expected one or more positive widths, found {channels:?}");
                faults.push(Fault::new("student.channels", problem));
            }
            Self::Llama(llama) => faults.extend(llama.validate()),
            _ => {}
        }
        faults
    }
}

/// A residual network. Its input channels are the data's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ResnetConfig {
    /// What comes before the first stage.
    #[serde(default, skip_serializing_if = "Stem::is_default")]
    #[schemars(skip_serializing_if = "super::outline::never")]
    pub stem: Stem,
    /// Channels of the first stage; 64 is the published width.
    #[serde(default = "resnet_width")]
    #[schemars(range(min = 1))]
    pub width: u32,
    /// Number of classes; default: the cache's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 2))]
    pub classes: Option<usize>,
}

impl Default for ResnetConfig {
    fn default() -> Self {
        Self { stem: Stem::default(), width: resnet_width(), classes: None }
    }
}

fn resnet_width() -> u32 {
    64
}

/// What comes before a residual network's first stage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Stem {
    /// A 3×3 convolution of stride 1 and no pooling, for images of 28×28 or 32×32.
    #[default]
    Small,
    /// A 7×7 convolution of stride 2 and 3×3 max-pooling of stride 2: torchvision's, for images of 224×224.
    Imagenet,
}

impl Stem {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// A decoder-only transformer, with the names that Hugging Face's `LlamaConfig` has.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LlamaConfig {
    /// Width between layers.
    #[schemars(range(min = 2))]
    pub hidden_size: u32,
    /// Width within an MLP; default: 8/3 of `hidden_size`, rounded up to a multiple of 32.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub intermediate_size: Option<u32>,
    /// Number of layers.
    #[schemars(range(min = 1))]
    pub num_hidden_layers: u32,
    /// Heads of queries; each has `hidden_size / num_attention_heads` dimensions, an even number.
    #[schemars(range(min = 1))]
    pub num_attention_heads: u32,
    /// Heads of keys and values, of which each serves as many of queries; default: one for each.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub num_key_value_heads: Option<u32>,
    /// Base of the rotary positions' wavelengths.
    #[serde(default = "default_rope_theta")]
    #[schemars(extend("exclusiveMinimum" = 0.0))]
    pub rope_theta: f64,
    /// Added to the mean square in norms.
    #[serde(default = "default_norm_eps")]
    #[schemars(extend("exclusiveMinimum" = 0.0))]
    pub rms_norm_eps: f64,
    /// Whether the head is the embedding.
    #[serde(default = "yes")]
    pub tie_word_embeddings: bool,
    /// Number of tokens; default: the cache's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 2))]
    pub classes: Option<usize>,
}

fn default_rope_theta() -> f64 {
    10_000.0
}

fn default_norm_eps() -> f64 {
    1e-5
}

fn yes() -> bool {
    true
}

impl LlamaConfig {
    /// Width within an MLP.
    pub fn inner_size(&self) -> u32 {
        self.intermediate_size.unwrap_or_else(|| {
            let size = (u64::from(self.hidden_size) * 8).div_ceil(3).next_multiple_of(32);
            u32::try_from(size).unwrap_or(u32::MAX)
        })
    }

    /// Heads of keys and values.
    pub fn kv_heads(&self) -> u32 {
        self.num_key_value_heads.unwrap_or(self.num_attention_heads)
    }

    fn validate(&self) -> Vec<Fault> {
        let mut faults = Vec::new();
        let (width, heads) = (u64::from(self.hidden_size), u64::from(self.num_attention_heads));
        let kv_heads = u64::from(self.kv_heads());
        if heads > 0 && !width.is_multiple_of(2 * heads) {
            let problem =
                format!("expected a multiple of 2 · num_attention_heads = {}, found {width}", 2 * heads);
            faults.push(Fault::new("student.hidden_size", problem));
        }
        if kv_heads > 0 && !heads.is_multiple_of(kv_heads) {
            let problem = format!("expected a divisor of num_attention_heads = {heads}, found {kv_heads}");
            faults.push(Fault::new("student.num_key_value_heads", problem));
        }
        faults
    }
}
