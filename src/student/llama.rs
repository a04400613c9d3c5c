//! A decoder-only transformer, under the names that Hugging Face's Llama has.
//!
//! Sources: Touvron et al., "LLaMA", 2023 (the layout); Zhang & Sennrich, "Root Mean Square Layer
//! Normalization", 2019; Su et al., "RoFormer", 2021 (rotary positions; here the two halves of a head are
//! turned, as in the checkpoints that circulate); Shazeer, "GLU Variants Improve Transformer", 2020 (SwiGLU);
//! Ainslie et al., "GQA", 2023.

use std::path::Path;

use tch::nn::{Init, VarStore};
use tch::{CModule, Device, Kind, Tensor, nn};

use super::{Input, Model, State, Student, StudentError, TokenTensors};
use crate::config::LlamaConfig;

/// Standard deviation of the first weights, that of the published models.
const SPREAD: f64 = 0.02;

pub(super) struct Llama {
    vs: VarStore,
    embedding: Tensor,
    layers: Vec<Layer>,
    norm: Tensor,
    /// `None`: the embedding.
    head: Option<Tensor>,
    shape: Shape,
}

/// What all layers have in common.
struct Shape {
    heads: i64,
    kv_heads: i64,
    head_dim: i64,
    eps: f64,
    /// `θ^(−2i/d)`: `[head_dim / 2]`.
    frequencies: Tensor,
}

struct Layer {
    input_norm: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    o: Tensor,
    after_norm: Tensor,
    gate: Tensor,
    up: Tensor,
    down: Tensor,
}

/// Cosines and sines of each position, and who attends to whom.
struct Positions {
    cos: Tensor,
    sin: Tensor,
    mask: Option<Tensor>,
}

fn matrix(path: nn::Path<'_>, out: i64, inputs: i64) -> Tensor {
    path.var("weight", &[out, inputs], Init::Randn { mean: 0.0, stdev: SPREAD })
}

fn ones(path: nn::Path<'_>, width: i64) -> Tensor {
    path.var("weight", &[width], Init::Const(1.0))
}

/// `x · weightᵀ`.
fn times(x: &Tensor, weight: &Tensor) -> Tensor {
    x.matmul(&weight.tr())
}

impl Llama {
    /// The model that `config` describes, over `vocabulary` tokens.
    pub(super) fn new(config: &LlamaConfig, vocabulary: i64, vs: VarStore) -> Self {
        let width = i64::from(config.hidden_size);
        let heads = i64::from(config.num_attention_heads);
        let kv_heads = i64::from(config.kv_heads());
        let head_dim = width / heads;
        let inner = i64::from(config.inner_size());
        let root = vs.root();
        let model = &root / "model";
        let embedding = matrix(&model / "embed_tokens", vocabulary, width);
        let layer = |at: u32| {
            let path = &model / "layers" / at;
            let (attention, mlp) = (&path / "self_attn", &path / "mlp");
            Layer {
                input_norm: ones(&path / "input_layernorm", width),
                q: matrix(&attention / "q_proj", heads * head_dim, width),
                k: matrix(&attention / "k_proj", kv_heads * head_dim, width),
                v: matrix(&attention / "v_proj", kv_heads * head_dim, width),
                o: matrix(&attention / "o_proj", width, heads * head_dim),
                after_norm: ones(&path / "post_attention_layernorm", width),
                gate: matrix(&mlp / "gate_proj", inner, width),
                up: matrix(&mlp / "up_proj", inner, width),
                down: matrix(&mlp / "down_proj", width, inner),
            }
        };
        let layers = (0..config.num_hidden_layers).map(layer).collect();
        let norm = ones(&model / "norm", width);
        let head = (!config.tie_word_embeddings).then(|| matrix(&root / "lm_head", vocabulary, width));
        let frequencies: Vec<f32> = (0..head_dim / 2)
            .map(|at| config.rope_theta.powf(-2.0 * at as f64 / head_dim as f64) as f32)
            .collect();
        let frequencies = Tensor::from_slice(&frequencies).to_device(vs.device());
        let shape = Shape { heads, kv_heads, head_dim, eps: config.rms_norm_eps, frequencies };
        Self { vs, embedding, layers, norm, head, shape }
    }

    /// `[rows, length]` tokens to `[rows, length, width]`. `sizes`: whether sizes may be written out, as they may
    /// not where the computation is recorded for others.
    fn hidden(&self, tokens: &Tensor, places: &Tensor, mask: Option<Tensor>, sizes: bool) -> Tensor {
        let angles = places.unsqueeze(-1).to_kind(Kind::Float) * &self.shape.frequencies;
        // Both halves of a head turn by the same angles; over all heads: [rows, 1, length, head_dim].
        let angles = Tensor::cat(&[&angles, &angles], -1).unsqueeze(1);
        let at = Positions { cos: angles.cos(), sin: angles.sin(), mask };
        let mut x = Tensor::embedding(&self.embedding, tokens, -1, false, false);
        for layer in &self.layers {
            x = &x + layer.attention(&self.shape.norm(&x, &layer.input_norm), &at, &self.shape, sizes);
            x = &x + layer.mlp(&self.shape.norm(&x, &layer.after_norm));
        }
        self.shape.norm(&x, &self.norm)
    }

    fn head_weight(&self) -> &Tensor {
        self.head.as_ref().unwrap_or(&self.embedding)
    }

    /// Records the computation on whole rows, and writes it.
    fn trace(&self, path: &Path) -> Result<(), StudentError> {
        let example = Tensor::zeros([2, 3], (Kind::Int64, Device::Cpu));
        let mut forward = |inputs: &[Tensor]| {
            let tokens = &inputs[0];
            let places = tokens.ones_like().cumsum(-1, Kind::Int64) - 1;
            vec![self.head(&self.hidden(tokens, &places, None, false))]
        };
        CModule::create_by_tracing("Llama", "forward", &[example], &mut forward)
            .and_then(|module| module.save(path))
            .map_err(|error| {
                StudentError::libtorch(format!("writing the student to {}", path.display()), &error)
            })
    }
}

impl Shape {
    /// `x / √(mean x² + ε) · weight`, in single precision: what is added up along the layers always is.
    fn norm(&self, x: &Tensor, weight: &Tensor) -> Tensor {
        let square = (x * x).mean_dim([-1i64].as_slice(), true, Kind::Float);
        x * (square + self.eps).rsqrt() * weight
    }

    /// `[rows, length, heads · head_dim]` to `[rows, heads, length, head_dim]`.
    fn split(&self, x: &Tensor, heads: i64, sizes: bool) -> Tensor {
        if sizes {
            let [rows, length, _] = x.size()[..] else { return x.shallow_clone() };
            return x.view([rows, length, heads, self.head_dim]).transpose(1, 2);
        }
        let parts: Vec<Tensor> =
            (0..heads).map(|head| x.narrow(-1, head * self.head_dim, self.head_dim)).collect();
        Tensor::stack(&parts, 1)
    }

    /// `x cos + (−second half, first half) sin`.
    fn turn(&self, x: &Tensor, at: &Positions) -> Tensor {
        let half = self.head_dim / 2;
        let turned = Tensor::cat(&[-x.narrow(-1, half, half), x.narrow(-1, 0, half)], -1);
        x * &at.cos + turned * &at.sin
    }
}

impl Layer {
    fn attention(&self, x: &Tensor, at: &Positions, shape: &Shape, sizes: bool) -> Tensor {
        let split = |weight: &Tensor, heads: i64| shape.split(&times(x, weight), heads, sizes);
        let q = shape.turn(&split(&self.q, shape.heads), at);
        let k = shape.turn(&split(&self.k, shape.kv_heads), at);
        let v = split(&self.v, shape.kv_heads);
        // Each head of keys and values serves several of queries.
        let share = |x: Tensor| match shape.heads / shape.kv_heads {
            1 => x,
            each => {
                let parts: Vec<Tensor> = (0..shape.heads).map(|head| x.select(1, head / each)).collect();
                Tensor::stack(&parts, 1)
            }
        };
        let (k, v) = (share(k), share(v));
        let causal = at.mask.is_none();
        let mixed =
            Tensor::scaled_dot_product_attention(&q, &k, &v, at.mask.as_ref(), 0.0, causal, None, false);
        let heads: Vec<Tensor> = (0..shape.heads).map(|head| mixed.select(1, head)).collect();
        times(&Tensor::cat(&heads, -1), &self.o)
    }

    fn mlp(&self, x: &Tensor) -> Tensor {
        let inner = times(x, &self.gate).silu() * times(x, &self.up);
        times(&inner, &self.down)
    }
}

impl Model for Llama {
    fn features(&self, input: &Input) -> Result<Tensor, StudentError> {
        let Input::Tokens(tokens) = input else { return Err(StudentError::NeedsTokens { kind: "llama" }) };
        let TokenTensors { tokens: ids, places, .. } = tokens;
        Ok(tokens.pick(&self.hidden(ids, places, tokens.mask(), true)))
    }

    fn head(&self, features: &Tensor) -> Tensor {
        times(features, self.head_weight())
    }

    fn has_head(&self) -> bool {
        true
    }
}

impl Student for Llama {
    // Nothing in it behaves otherwise in training.
    fn set_training(&mut self, _: bool) {}

    fn variables(&self) -> &VarStore {
        &self.vs
    }

    fn variables_mut(&mut self) -> &mut VarStore {
        &mut self.vs
    }

    fn export(&mut self, path: &Path) -> Result<(), StudentError> {
        let device = self.vs.device();
        let to = |student: &mut Self, device: Device| {
            student.vs.set_device(device);
            student.shape.frequencies = student.shape.frequencies.to_device(device);
        };
        to(self, Device::Cpu);
        self.vs.freeze();
        let traced = self.trace(path);
        self.vs.unfreeze();
        to(self, device);
        traced
    }

    fn state(&self) -> State {
        State::Variables
    }
}
