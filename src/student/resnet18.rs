//! ResNet-18 for small images.
//!
//! Source: He, Zhang, Ren & Sun, "Deep Residual Learning for Image Recognition", 2015: the
//! 18-layer network of table 1 with the 3×3 stem and no first pooling that section 4.2 uses for
//! 32×32 images.

use tch::Tensor;
use tch::nn::{self, ModuleT, Path};

use super::built_in::Net;
use super::conv::{batch_norm, conv3x3};

/// Two 3×3 convolutions and a shortcut.
#[derive(Debug)]
struct Block {
    conv1: nn::Conv2D,
    norm1: nn::BatchNorm,
    conv2: nn::Conv2D,
    norm2: nn::BatchNorm,
    /// 1×1 convolution and batch norm where size or width change.
    shortcut: Option<(nn::Conv2D, nn::BatchNorm)>,
}

impl Block {
    fn new(path: &Path<'_>, from: i64, to: i64, stride: i64) -> Self {
        let shortcut = (stride != 1 || from != to).then(|| {
            let config = nn::ConvConfig { stride, bias: false, ..Default::default() };
            let path = path / "shortcut";
            (nn::conv2d(&path / "conv", from, to, 1, config), batch_norm(&path / "norm", to))
        });
        Self {
            conv1: conv3x3(path / "conv1", from, to, stride),
            norm1: batch_norm(path / "norm1", to),
            conv2: conv3x3(path / "conv2", to, to, 1),
            norm2: batch_norm(path / "norm2", to),
            shortcut,
        }
    }
}

impl ModuleT for Block {
    fn forward_t(&self, x: &Tensor, train: bool) -> Tensor {
        let y = x.apply(&self.conv1).apply_t(&self.norm1, train).relu();
        let y = y.apply(&self.conv2).apply_t(&self.norm2, train);
        match &self.shortcut {
            Some((conv, norm)) => (y + x.apply(conv).apply_t(norm, train)).relu(),
            None => (y + x).relu(),
        }
    }
}

/// Four stages of two blocks, `width` channels in the first and twice as many in each next.
pub(super) fn resnet18(root: &Path<'_>, input: i64, width: i64, classes: i64) -> Net {
    let stem = conv3x3(root / "stem" / "conv", input, width, 1);
    let norm = batch_norm(root / "stem" / "norm", width);
    let mut net = nn::seq_t().add_fn_t(move |x, train| x.apply(&stem).apply_t(&norm, train).relu());
    let mut from = width;
    for stage in 0..4 {
        let to = width << stage;
        for block in 0..2 {
            let stride = if stage > 0 && block == 0 { 2 } else { 1 };
            let path = root / format!("stage{stage}") / format!("block{block}");
            net = net.add(Block::new(&path, from, to, stride));
            from = to;
        }
    }
    let body = net.add_fn(|x| x.mean_dim([2i64, 3].as_slice(), false, None));
    Net { body, head: nn::linear(root / "head", from, classes, nn::LinearConfig::default()) }
}
