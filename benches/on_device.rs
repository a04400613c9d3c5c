//! What do selection and loss cost where libtorch computes, beside merely reading and writing as many logits?
//!
//! Selection finds the k largest of a row and sums exponentials at five nodes over the rest; what it found comes to the CPU.
//! Beside it: the sum of all logits, which reads them once; a copy on the device, which writes them too; and `topk` with
//! `logsumexp`, which give the head and one node. The loss is the divergence from a cache's targets with the cross-entropy
//! on labels, forward and backward, with a prior and with a shape of rank 8; beside it libtorch's cross-entropy alone, and the
//! copy. All take turns; figures are ratios within a round.
//!
//! ```text
//! cargo bench --profile release --bench on_device [-- DEVICE [ROUNDS]]
//! ```

#![allow(clippy::unwrap_used, reason = "a bench has nobody to report to")]

mod figures;

use kd_cache::config::LossConfig;
use kd_cache::libtorch;
use kd_cache::loss::{Means, TargetSpace, TargetTensors, WeightedLoss};
use kd_cache::select::Selector;
use kd_cache::target::{TailHandling, TailModel, TailNodes, TailPrior, TailShape};
use tch::{Device, Kind, Reduction, Tensor};

use figures::{Arm, spread, take_turns};

/// Classes, and rows of a batch: an image classifier's, and two language models', whose batches are a few rows of 512 tokens.
const SHAPES: [(usize, usize); 3] = [(1_000, 50_000), (49_152, 4_096), (151_936, 1_536)];
const HEADS: [usize; 2] = [12, 64];
const KINDS: [(Kind, &str); 2] = [(Kind::Float, "f32"), (Kind::BFloat16, "bf16")];
const RANK: usize = 8;
const ROUNDS: usize = 15;

/// Logits that spread over about 16 nats, no two rows alike.
fn logits(rows: usize, classes: usize, device: Device) -> Tensor {
    Tensor::randn([rows as i64, classes as i64], (Kind::Float, device)) * 2.5
}

/// Until all that was asked of its device is done.
fn wait(tensor: &Tensor) {
    let _one = tensor.double_value(&vec![0; tensor.dim()]);
}

/// How many times as long as each other arm the first one takes, and its rows a second.
fn compare(rows: usize, arms: &mut [Arm<'_>], rounds: usize) -> String {
    // What is compiled is compiled when it is first called.
    arms.iter_mut().for_each(|(_, call)| call());
    let seconds = take_turns(arms, rounds);
    let rate = spread(seconds[0].iter().map(|seconds| rows as f64 / seconds).collect(), 0);
    let others = seconds[1..]
        .iter()
        .map(|other| spread(other.iter().zip(&seconds[0]).map(|(other, own)| other / own).collect(), 2));
    std::iter::once(rate).chain(others).collect::<Vec<_>>().join(" | ")
}

fn selection(device: Device, rounds: usize) {
    println!(
        "| classes | type | k | rows selected / s | of a sum's rate | of a copy's | times topk + logsumexp |"
    );
    println!("|---|---|---|---|---|---|---|");
    for (classes, rows) in SHAPES {
        for (kind, name) in KINDS {
            let logits = logits(rows, classes, device).to_kind(kind);
            for k in HEADS {
                let selector = Selector::new(classes, k, &TailNodes::default()).unwrap();
                let mut arms: Vec<Arm<'_>> = vec![
                    ("select", Box::new(|| drop(selector.select_on_device(&logits).unwrap()))),
                    ("sum", Box::new(|| wait(&logits.sum(Kind::Float)))),
                    ("copy", Box::new(|| wait(&logits.copy()))),
                    (
                        "libtorch",
                        Box::new(|| {
                            let _guard = tch::no_grad_guard();
                            drop(logits.topk(k as i64, -1, true, true));
                            wait(&logits.logsumexp([-1i64].as_slice(), false));
                        }),
                    ),
                ];
                println!("| {classes} | {name} | {k} | {} |", compare(rows, &mut arms, rounds));
            }
        }
    }
}

/// A tail model of meaningless numbers.
fn space(classes: usize, k: usize) -> TargetSpace {
    let nodes = TailNodes::default();
    let noise =
        |len: usize| -> Vec<f32> { (0..len).map(|at| (at * 7919 % 1009) as f32 / 1009.0 - 0.5).collect() };
    let prior = || TailPrior::new(nodes.clone(), classes, noise(nodes.len() * classes)).unwrap();
    let basis = noise(classes * RANK).iter().map(|value| value / 100.0).collect();
    let shape = TailShape::new(prior(), RANK, basis).unwrap();
    let tail_model = TailModel::new(prior(), Some(shape));
    TargetSpace { classes, k, draws: None, nodes, tail_model }
}

fn loss(device: Device, rounds: usize) {
    println!(
        "\n| classes | type | temperature | tail | rows lost / s, forward and backward | times cross-entropy's | of a copy's rate |"
    );
    println!("|---|---|---|---|---|---|---|");
    for (classes, rows) in SHAPES {
        let space = space(classes, HEADS[0]);
        for (kind, name) in KINDS {
            let student = logits(rows, classes, device).to_kind(kind);
            let selector = Selector::new(classes, HEADS[0], &space.nodes).unwrap();
            let mut targets = selector.select_on_device(&logits(rows, classes, device)).unwrap().targets;
            targets.rank = RANK;
            targets.codes = (0..rows * RANK).map(|at| (at % 41) as i8 - 20).collect();
            let targets = [TargetTensors::new(&targets, device)];
            let labels = Tensor::randint(classes as i64, [rows as i64], (Kind::Int64, device));
            let means = Means { positions: rows, labels: rows };
            for (temperature, tail) in
                [(1.0, TailHandling::Prior), (2.0, TailHandling::Prior), (2.0, TailHandling::Shape)]
            {
                let mut config =
                    LossConfig { temperature: temperature.into(), tail, ..LossConfig::default() };
                config.weights.kl = 0.7.into();
                config.weights.cross_entropy = 0.3.into();
                let loss = WeightedLoss::new(&config, std::slice::from_ref(&space), device).unwrap();
                let leaf = || student.detach().set_requires_grad(true);
                let mut arms: Vec<Arm<'_>> = vec![
                    (
                        "loss",
                        Box::new(|| {
                            let leaf = leaf();
                            loss.forward(&leaf, Some(&labels), &targets, means).backward(1.0).unwrap();
                            wait(&leaf.grad());
                        }),
                    ),
                    (
                        "cross-entropy",
                        Box::new(|| {
                            let leaf = leaf();
                            let loss = leaf.to_kind(Kind::Float).cross_entropy_loss::<Tensor>(
                                &labels,
                                None,
                                Reduction::Mean,
                                -100,
                                0.0,
                            );
                            loss.backward();
                            wait(&leaf.grad());
                        }),
                    ),
                    ("copy", Box::new(|| wait(&student.copy()))),
                ];
                println!(
                    "| {classes} | {name} | {temperature} | {tail} | {} |",
                    compare(rows, &mut arms, rounds)
                );
            }
        }
    }
}

fn main() {
    // Cargo adds `--bench`.
    let mut words = std::env::args().skip(1).filter(|word| !word.starts_with("--"));
    let device = libtorch::resolve(&words.next().unwrap_or_else(|| "cuda".into())).unwrap();
    let rounds = words.next().map_or(ROUNDS, |word| word.parse().unwrap());
    println!("{device:?}, {rounds} rounds: median (least to largest)\n");
    selection(device, rounds);
    loss(device, rounds);
}
