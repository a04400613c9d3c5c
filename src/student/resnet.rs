//! ResNets of 18, 34 and 50 layers, under the names that torchvision's parameters have.
//!
//! Source: He, Zhang, Ren & Sun, "Deep Residual Learning for Image Recognition", 2015: table 1, with the stem of
//! that table or the one that section 4.2 has for 32×32 images, a 3×3 convolution without pooling. Where a bottleneck
//! halves the image, its 3×3 convolution does, not the first 1×1 one, as in torchvision ("ResNet v1.5").

use tch::Tensor;
use tch::nn::{self, ModuleT, Path};

use super::built_in::Net;
use super::conv::{batch_norm, conv3x3};
use crate::config::{ResnetConfig, Stem};

/// How many times as wide as its 3×3 convolution a bottleneck's output is.
const EXPANSION: i64 = 4;

/// Number of layers with weights, counted as the paper does.
#[derive(Clone, Copy, Debug)]
pub(super) enum Depth {
    L18,
    L34,
    L50,
}

impl Depth {
    /// Blocks of each stage.
    fn blocks(self) -> [u32; 4] {
        match self {
            Self::L18 => [2, 2, 2, 2],
            Self::L34 | Self::L50 => [3, 4, 6, 3],
        }
    }

    /// Whether blocks are 1×1, 3×3, 1×1 rather than twice 3×3.
    fn bottleneck(self) -> bool {
        matches!(self, Self::L50)
    }
}

/// Convolutions, each with its batch norm, and a shortcut around them.
#[derive(Debug)]
struct Block {
    layers: Vec<(nn::Conv2D, nn::BatchNorm)>,
    /// 1×1 convolution and batch norm where size or width change.
    shortcut: Option<(nn::Conv2D, nn::BatchNorm)>,
}

impl Block {
    /// From `from` channels to `width`, or to [`EXPANSION`] times as many where it is a bottleneck.
    fn new(path: &Path<'_>, from: i64, width: i64, stride: i64, bottleneck: bool) -> Self {
        let to = if bottleneck { width * EXPANSION } else { width };
        let shortcut = (stride != 1 || from != to).then(|| {
            let path = path / "downsample";
            (conv1x1(&path / "0", from, to, stride), batch_norm(&path / "1", to))
        });
        let conv = |at: usize| path / format!("conv{at}");
        let norm = |at: usize, channels| batch_norm(path / format!("bn{at}"), channels);
        let layers = if bottleneck {
            vec![
                (conv1x1(conv(1), from, width, 1), norm(1, width)),
                (conv3x3(conv(2), width, width, stride), norm(2, width)),
                (conv1x1(conv(3), width, to, 1), norm(3, to)),
            ]
        } else {
            vec![
                (conv3x3(conv(1), from, to, stride), norm(1, to)),
                (conv3x3(conv(2), to, to, 1), norm(2, to)),
            ]
        };
        Self { layers, shortcut }
    }
}

impl ModuleT for Block {
    fn forward_t(&self, x: &Tensor, train: bool) -> Tensor {
        let mut y = x.shallow_clone();
        for (at, (conv, norm)) in self.layers.iter().enumerate() {
            if at > 0 {
                y = y.relu();
            }
            y = y.apply(conv).apply_t(norm, train);
        }
        match &self.shortcut {
            Some((conv, norm)) => (y + x.apply(conv).apply_t(norm, train)).relu(),
            None => (y + x).relu(),
        }
    }
}

fn conv1x1(path: Path<'_>, from: i64, to: i64, stride: i64) -> nn::Conv2D {
    let config = nn::ConvConfig { stride, bias: false, ..Default::default() };
    nn::conv2d(path, from, to, 1, config)
}

/// The first convolution.
fn stem(path: Path<'_>, stem: Stem, input: i64, width: i64) -> nn::Conv2D {
    match stem {
        Stem::Small => conv3x3(path, input, width, 1),
        Stem::Imagenet => {
            let config = nn::ConvConfig { padding: 3, stride: 2, bias: false, ..Default::default() };
            nn::conv2d(path, input, width, 7, config)
        }
    }
}

/// A stem, four stages of blocks, the first `config.width` channels wide and each next twice as wide, global
/// average, linear.
pub(super) fn resnet(root: &Path<'_>, depth: Depth, config: &ResnetConfig, input: i64, classes: i64) -> Net {
    let width = i64::from(config.width);
    let first = stem(root / "conv1", config.stem, input, width);
    let norm = batch_norm(root / "bn1", width);
    let mut net = nn::seq_t().add_fn_t(move |x, train| x.apply(&first).apply_t(&norm, train).relu());
    if config.stem == Stem::Imagenet {
        net = net.add_fn(|x| x.max_pool2d([3, 3], [2, 2], [1, 1], [1, 1], false));
    }
    let mut from = width;
    for (stage, blocks) in depth.blocks().into_iter().enumerate() {
        let width = width << stage;
        for block in 0..blocks {
            let stride = if stage > 0 && block == 0 { 2 } else { 1 };
            let path = root / format!("layer{}", stage + 1) / block;
            net = net.add(Block::new(&path, from, width, stride, depth.bottleneck()));
            from = if depth.bottleneck() { width * EXPANSION } else { width };
        }
    }
    let body = net.add_fn(|x| x.mean_dim([2i64, 3].as_slice(), false, None));
    Net { body, head: nn::linear(root / "fc", from, classes, nn::LinearConfig::default()) }
}
