//! A plain convolutional network for small images.

use tch::nn::{self, ModuleT, Path};

use super::built_in::Net;

/// 3×3 convolution that keeps the size, without bias: batch norm follows.
pub(super) fn conv3x3(path: Path<'_>, from: i64, to: i64, stride: i64) -> nn::Conv2D {
    let config = nn::ConvConfig { padding: 1, stride, bias: false, ..Default::default() };
    nn::conv2d(path, from, to, 3, config)
}

/// Batch norm that begins as the identity.
pub(super) fn batch_norm(path: Path<'_>, channels: i64) -> nn::BatchNorm {
    let config = nn::BatchNormConfig { ws_init: nn::Init::Const(1.0), ..Default::default() };
    nn::batch_norm2d(path, channels, config)
}

/// Blocks of `depth` × (3×3 convolution, batch norm, ReLU), 2×2 max-pooling between them, global
/// average, linear.
pub(super) fn conv(root: &Path<'_>, input: i64, channels: &[u32], depth: u32, classes: i64) -> Net {
    let mut net = nn::seq_t();
    let mut width = input;
    for (block, next) in channels.iter().map(|next| i64::from(*next)).enumerate() {
        if block > 0 {
            net = net.add_fn(|x| x.max_pool2d_default(2));
        }
        for layer in 0..depth {
            let path = root / format!("block{block}") / format!("layer{layer}");
            let convolution = conv3x3(&path / "conv", width, next, 1);
            let norm = batch_norm(&path / "norm", next);
            net = net.add_fn_t(move |x, train| norm.forward_t(&x.apply(&convolution), train).relu());
            width = next;
        }
    }
    let body = net.add_fn(|x| x.mean_dim([2i64, 3].as_slice(), false, None));
    Net { body, head: nn::linear(root / "head", width, classes, nn::LinearConfig::default()) }
}
