//! What memory does a training step take where there are many positions of many classes?
//!
//! The largest resident size of a whole process, each of its own: `kd-train` for one step of so many positions
//! from a cache with 49,152 classes; and a step of a dense loss on features of the same width, with the teacher's
//! probabilities, the student's logits and all that automatic differentiation keeps of them, as a trainer without
//! a cache has them. Linux only: it reads `/proc`. On a GPU it is the memory that `nvidia-smi` says is used, less what was
//! used before, every five milliseconds or as often as it answers; libtorch's context is a part of it, in both alike.
//!
//! ```text
//! cargo bench --profile release --bench loss_memory [-- DEVICE]
//! ```

#![allow(clippy::unwrap_used, reason = "a bench has nobody to report to")]

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use kd_cache::config::ValueEncoding;
use kd_cache::libtorch;
use kd_cache::target::DEFAULT_NODES;
use tch::{Device, Kind, Reduction, Tensor};

mod figures;

#[path = "../tests/synthetic/mod.rs"]
mod synthetic;

use figures::kd_train;
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

/// The largest resident size of a process so far, in MiB.
fn resident(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok()).unwrap_or(0) >> 10
}

/// What all processes use of the first GPU now, in MiB.
fn used_of_gpu() -> u64 {
    let mut command = Command::new("nvidia-smi");
    command.args(["--query-gpu=memory.used", "--format=csv,noheader,nounits", "--id=0"]);
    String::from_utf8(command.output().unwrap().stdout).unwrap().trim().parse().unwrap()
}

/// The most memory that a process takes while it runs, in MiB.
fn peak(mut command: Command, gpu: bool) -> u64 {
    let before = if gpu { used_of_gpu() } else { 0 };
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let mut largest = 0;
    loop {
        let now = if gpu { used_of_gpu() } else { resident(child.id()) };
        largest = largest.max(now.saturating_sub(before));
        if let Some(status) = child.try_wait().unwrap() {
            assert!(status.success(), "{status}");
            return largest;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A step of `positions` from the cache in `dir`.
fn cached(dir: &Path, positions: usize, device: &str) -> Command {
    let config = dir.with_file_name("train.toml");
    let text = format!(
        "student = {{ kind = \"llama\", hidden_size = {HIDDEN}, num_hidden_layers = 1, num_attention_heads = 2 }}\n\
         loss = {{ weights = {{ kl = 1.0 }} }}\n\
         optimizer = {{ kind = \"adamw\", learning_rate = 1e-3 }}\n\
         train = {{ epochs = 1, max_steps = 1, batch = {}, device = \"{device}\" }}\n",
        positions / LENGTH
    );
    std::fs::write(&config, text).unwrap();
    let mut command = kd_train();
    command.arg("--cache").arg(dir).arg("--config").arg(config);
    command.arg("--out").arg(dir.with_file_name(format!("run-{positions}")));
    command
}

/// A step on everything at once: T² KL of whole probabilities to whole logits.
fn dense(positions: i64, device: &str) {
    let kind = (Kind::Float, libtorch::resolve(device).unwrap());
    let teacher = Tensor::randn([positions, CLASSES as i64], kind).softmax(-1, Kind::Float);
    let features = Tensor::randn([positions, HIDDEN], kind).set_requires_grad(true);
    let head = Tensor::randn([CLASSES as i64, HIDDEN], kind).set_requires_grad(true);
    let logits = features.matmul(&head.tr());
    let loss = logits.log_softmax(-1, Kind::Float).kl_div(&teacher, Reduction::Sum, false) / positions as f64;
    loss.backward();
    assert!(loss.double_value(&[]).is_finite() && head.grad().defined());
    if kind.1 != Device::Cpu {
        // For as long as `nvidia-smi` takes to look at it.
        std::thread::sleep(Duration::from_secs(2));
    }
}

fn main() {
    // Cargo adds `--bench`.
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    if let [word, positions, device] = words.as_slice()
        && word == DENSE
    {
        return dense(positions.parse().unwrap(), device);
    }
    let device = words.first().map_or("cpu", String::as_str);
    let gpu = device != "cpu";
    let dir = tempfile::tempdir().unwrap();
    let cache = dir.path().join("cache");
    write(&cache);
    println!("most memory of one step, {CLASSES} classes, whole process, {device}");
    println!("{:>9}  {:>16}  {:>12}", "positions", "kd-train, MiB", "dense, MiB");
    for positions in POSITIONS {
        let ours = peak(cached(&cache, positions, device), gpu);
        let dense = (gpu || positions <= MOST_DENSE).then(|| {
            let mut command = Command::new(std::env::current_exe().unwrap());
            command.args([DENSE, &positions.to_string(), device]);
            peak(command, gpu).to_string()
        });
        println!("{positions:>9}  {ours:>16}  {:>12}", dense.as_deref().unwrap_or("–"));
    }
}
