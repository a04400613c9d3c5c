//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use kd_cache::train::ExportedForm;

use crate::shared::{Format, PrintConfigArgs};

/// Train students from cached teacher predictions: no teacher runs in any epoch.
///
/// Samples, student, loss, optimizer and validation sets stand in the config; the teacher's
/// targets stream from the cache, at whatever temperature the config asks for. Without --cache it
/// trains on labels alone.
#[derive(Debug, Parser)]
#[command(
    name = "kd-train",
    version,
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    after_help = "\
Examples:
  kd-train --cache my-cache --config configs/train/fashion-mnist.toml --out runs/t4 --set loss.temperature=4
  kd-train --cache my-cache --config configs/train/fashion-mnist.toml --out runs/t4 --set loss.temperature=4 --resume
  kd-train config --defaults > my-config.toml
  kd-train eval runs/t4
  kd-train eval runs/t4 --dataset held_out --set validation.held_out.dataset.kind=folder --set validation.held_out.dataset.path=photos
  kd-train predict runs/t4 --dataset test --out predictions.parquet --top 5
  kd-train generate runs/lm --prompt 'The list is sorted' --max-new-tokens 40
  kd-train sweep --config configs/sweep/fashion-mnist.toml --out sweeps/temperature
  kd-train export runs/t4 --to onnx --out student.onnx

A run's folder holds config.toml, caches.json and data.json (what it was begun with), metrics.jsonl (a line an epoch),
steps.jsonl and tensorboard/ (if [tracking] asks for them), summary.json, checkpoints/{best,last}.safetensors (and step-000123 of more epochs, as
[checkpoint] in the config says), student.safetensors and student.pt (TorchScript); of a language model also
transformers/, which Hugging Face's from_pretrained loads.

A sweep's folder holds runs/, sweep.json, table.md (the best first) and plot.svg.

Exit codes: 0 done; 1 some runs of a sweep failed; 2 could not run (the message says why); 130 interrupted."
)]
pub struct Cli {
    /// What to do instead of training.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// Training.
    #[command(flatten)]
    pub train: Option<TrainArgs>,
}

/// Train a student.
#[derive(Args, Debug)]
pub struct TrainArgs {
    /// The cache over the training samples (kd-cache build); without it, labels alone are used. Given several
    /// times, each of another teacher over the same samples, targets are averaged (loss.mixture)
    #[arg(long = "cache", value_name = "DIR")]
    pub caches: Vec<PathBuf>,
    /// The training config (TOML; schemas/train-config.json describes it)
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// The run's folder
    #[arg(long, value_name = "RUN")]
    pub out: PathBuf,
    /// Change a key of the config, e.g. --set loss.temperature=4 (may be repeated)
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Remove an earlier run in the folder
    #[arg(long)]
    pub overwrite: bool,
    /// Go on with an interrupted run in the folder, to the same bits as one that was never interrupted; begin where there is none
    #[arg(long, conflicts_with = "overwrite")]
    pub resume: bool,
    /// Form of the report on standard output
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
    /// No progress on standard error
    #[arg(long, short)]
    pub quiet: bool,
    /// Stop, as Ctrl-C would make it, when standard input ends: how a sweep holds its runs
    #[arg(long, hide = true)]
    pub stop_at_end_of_input: bool,
}

/// Using a finished run, and many runs.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Measure a run's student on the validation sets of its config, or of another
    Eval(EvalArgs),
    /// Write a run's predictions for a validation set, as JSON Lines or Parquet
    Predict(PredictArgs),
    /// Go on with a prompt, as a run's language model would
    Generate(GenerateArgs),
    /// Write a run's student as TorchScript, safetensors or ONNX
    Export(ExportArgs),
    /// Train a student for every combination of keys, and rank them
    Sweep(SweepArgs),
    /// Print a config as it is understood, or every key with its default
    Config(PrintConfigArgs),
}

/// Which run, and whose data.
#[derive(Args, Debug)]
pub struct RunArgs {
    /// The run's folder
    #[arg(value_name = "RUN")]
    pub run: PathBuf,
    /// A training config with the validation sets to use [default: the run's own]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Change a key of the config, e.g. --set train.device=cuda (may be repeated)
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Use a checkpoint of the run: best, last, or step-000123 that the config kept [default: what the run exported]
    #[arg(long, value_name = "NAME")]
    pub checkpoint: Option<String>,
}

/// Measure.
#[derive(Args, Debug)]
pub struct EvalArgs {
    /// Which run.
    #[command(flatten)]
    pub run: RunArgs,
    /// Measure on this validation set alone, [validation.NAME] in the config (may be repeated) [default: all]
    #[arg(long, value_name = "NAME")]
    pub dataset: Vec<String>,
    /// Form of the report on standard output
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
}

/// Predict.
#[derive(Args, Debug)]
pub struct PredictArgs {
    /// Which run.
    #[command(flatten)]
    pub run: RunArgs,
    /// Name of the validation set, [validation.NAME] in the config
    #[arg(long, value_name = "NAME")]
    pub dataset: String,
    /// The file to write: Parquet where its name ends in .parquet (schemas/predictions.md), else a JSON object per
    /// line; - is standard output
    #[arg(long, value_name = "FILE", default_value = "-")]
    pub out: PathBuf,
    /// Of Parquet: the K most probable classes and their probabilities too
    #[arg(long, value_name = "K", value_parser = clap::value_parser!(u32).range(1..))]
    pub top: Option<u32>,
    /// Of Parquet: all logits too
    #[arg(long)]
    pub logits: bool,
}

/// Generate.
#[derive(Args, Debug)]
pub struct GenerateArgs {
    /// Which run.
    #[command(flatten)]
    pub run: RunArgs,
    /// The text to go on with
    #[arg(long, value_name = "TEXT")]
    pub prompt: String,
    /// The tokenizer.json of the tokens [default: the run's own, if its config named one]
    #[arg(long, value_name = "FILE")]
    pub tokenizer: Option<PathBuf>,
    /// Tokens to add at most
    #[arg(long, value_name = "N", default_value_t = 64)]
    pub max_new_tokens: usize,
    /// Softmax temperature of the draws; 0 takes the most probable token each time
    #[arg(long, value_name = "T", default_value_t = 0.0)]
    pub temperature: f64,
    /// Seed of the draws
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// Form of the report on standard output
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
}

/// Sweep.
#[derive(Args, Debug)]
pub struct SweepArgs {
    /// The sweep's config (TOML; schemas/sweep-config.json describes it)
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// The sweep's folder; what is in it is gone on with
    #[arg(long, value_name = "FOLDER")]
    pub out: PathBuf,
    /// Change a key of the sweep's config, e.g. --set jobs=2 or --set 'grid.seed=[0, 1]' (may be repeated)
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Check everything and list the runs, but start and write nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Form of the report on standard output
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
    /// No progress on standard error
    #[arg(long, short)]
    pub quiet: bool,
}

/// Export.
#[derive(Args, Debug)]
pub struct ExportArgs {
    /// The run's folder
    #[arg(value_name = "RUN")]
    pub run: PathBuf,
    /// The form
    #[arg(long, value_enum, value_name = "FORM")]
    pub to: ExportTo,
    /// What to write [default: RUN's name with .pt, .safetensors or .onnx, in this folder; of a language model's
    /// safetensors a folder for Hugging Face's transformers, unless the name ends in .safetensors]
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// ONNX: the Python that has PyTorch and onnx
    #[arg(long, value_name = "PROGRAM", default_value = "python3")]
    pub python: PathBuf,
    /// ONNX: the shape of one image, e.g. 1,28,28 [default: as the data of the run's config have it]
    #[arg(long, value_name = "SIZES", value_delimiter = ',')]
    pub shape: Option<Vec<usize>>,
    /// ONNX: operator set
    #[arg(long, value_name = "N", default_value_t = 17)]
    pub opset: u32,
    /// ONNX: largest difference of a logit from the TorchScript's, as a share of the largest logit
    #[arg(long, value_name = "SHARE", default_value_t = 1e-4)]
    pub tolerance: f64,
    /// Form of the report on standard output
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
}

/// Forms of a student.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ExportTo {
    /// A TorchScript module: torch.jit.load
    Torchscript,
    /// Weights by name; of a language model a folder that Hugging Face's transformers load
    Safetensors,
    /// An ONNX model, made by PyTorch and compared with the TorchScript's logits
    Onnx,
}

impl From<ExportTo> for ExportedForm {
    fn from(to: ExportTo) -> Self {
        match to {
            ExportTo::Torchscript => Self::Torchscript,
            ExportTo::Safetensors => Self::Safetensors,
            ExportTo::Onnx => Self::Onnx,
        }
    }
}
