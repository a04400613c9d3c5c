//! What memory does a training step take where there are many positions of many classes?
//!
//! The largest resident size of a whole process, each of its own: `kd-train` for one step of so many positions
//! from a cache with 49,152 classes; and a step of a dense loss on features of the same width, with the teacher's
//! probabilities, the student's logits and all that automatic differentiation keeps of them, as a trainer without
//! a cache has them. Linux only: it reads `/proc`.

#![allow(clippy::unwrap_used, reason = "a bench has nobody to report to")]

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use kd_cache::config::ValueEncoding;
use kd_cache::target::DEFAULT_NODES;
use tch::{Device, Kind, Reduction, Tensor};

#[path = "../tests/synthetic/mod.rs"]
mod synthetic;

use synthetic::Synthetic;

const CLASSES: usize = 49_152;
const K: usize = 12;
const LENGTH: usize = 512;
const HIDDEN: i64 = 128;
const POSITIONS: [usize; 4] = [512, 2_048, 8_192, 32_768];
/// Beyond it the dense loss takes more than small machines have.
const MOST_DENSE: usize = 8_192;
/// What asks a process of this bench for the dense step.
const DENSE: &str = "--dense";

/// Rows of tokens enough for the largest step; what the targets are is not measured.
fn write(dir: &Path) {
    let settings = Synthetic {
        samples: (POSITIONS[POSITIONS.len() - 1] / LENGTH) as u64,
        classes: CLASSES,
        k: K,
        nodes: DEFAULT_NODES.to_vec(),
        values: ValueEncoding::F16,
        shard_samples: 8,
        sequence: LENGTH,
        ..Synthetic::fixture()
    };
    settings.write_meaningless(dir);
}

/// The largest resident size of a process while it runs, in bytes.
fn peak(mut command: Command) -> u64 {
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let path = format!("/proc/{}/status", child.id());
    let mut largest = 0;
    loop {
        let status = std::fs::read_to_string(&path).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kilobytes = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
        largest = largest.max(kilobytes.unwrap_or(0) * 1024);
        if let Some(status) = child.try_wait().unwrap() {
            assert!(status.success(), "{status}");
            return largest;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A step of `positions` from the cache in `dir`.
fn cached(dir: &Path, positions: usize) -> Command {
    let config = dir.with_file_name("train.toml");
    let text = format!(
        "student = {{ kind = \"llama\", hidden_size = {HIDDEN}, num_hidden_layers = 1, num_attention_heads = 2 }}\n\
         loss = {{ weights = {{ kl = 1.0 }} }}\n\
         optimizer = {{ kind = \"adamw\", learning_rate = 1e-3 }}\n\
         train = {{ epochs = 1, max_steps = 1, batch = {} }}\n",
        positions / LENGTH
    );
    std::fs::write(&config, text).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_kd-train"));
    command.arg("--cache").arg(dir).arg("--config").arg(config);
    command.arg("--out").arg(dir.with_file_name(format!("run-{positions}")));
    command
}

/// A step on everything at once: T² KL of whole probabilities to whole logits.
fn dense(positions: i64) {
    let kind = (Kind::Float, Device::Cpu);
    let teacher = Tensor::randn([positions, CLASSES as i64], kind).softmax(-1, Kind::Float);
    let features = Tensor::randn([positions, HIDDEN], kind).set_requires_grad(true);
    let head = Tensor::randn([CLASSES as i64, HIDDEN], kind).set_requires_grad(true);
    let logits = features.matmul(&head.tr());
    let loss = logits.log_softmax(-1, Kind::Float).kl_div(&teacher, Reduction::Sum, false) / positions as f64;
    loss.backward();
    assert!(loss.double_value(&[]).is_finite() && head.grad().defined());
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if let Some(at) = arguments.iter().position(|word| word == DENSE) {
        return dense(arguments[at + 1].parse().unwrap());
    }
    let dir = tempfile::tempdir().unwrap();
    let cache = dir.path().join("cache");
    write(&cache);
    println!("largest resident size of one step, {CLASSES} classes, whole process");
    println!("{:>9}  {:>16}  {:>12}", "positions", "kd-train, MiB", "dense, MiB");
    for positions in POSITIONS {
        let ours = peak(cached(&cache, positions)) >> 20;
        let dense = (positions <= MOST_DENSE).then(|| {
            let mut command = Command::new(std::env::current_exe().unwrap());
            command.args([DENSE, &positions.to_string()]);
            (peak(command) >> 20).to_string()
        });
        println!("{positions:>9}  {ours:>16}  {:>12}", dense.as_deref().unwrap_or("–"));
    }
}
