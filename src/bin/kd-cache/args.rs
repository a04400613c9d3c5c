//! The command line.

use std::ops::Range;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use kd_cache::config::{
    DEFAULT_CURVE_STEP, DEFAULT_LEVEL, DEFAULT_STEP, DEFAULT_STEP_GROWTH, StorageForm, ValueEncoding,
};
use kd_cache::foreign::ForeignFormat;
use kd_cache::ops::ExportForm;

use crate::shared::{Format, PrintConfigArgs};

/// Run a teacher once and keep its predictions: distillation targets that are right at every
/// temperature.
#[derive(Debug, Parser)]
#[command(
    name = "kd-cache",
    version,
    arg_required_else_help = true,
    after_help = "\
Examples:
  kd-cache plan --config configs/cache/fashion-mnist.toml --out my-cache --price-per-hour 2.5
  kd-cache build --config configs/cache/fashion-mnist.toml --out my-cache
  kd-cache build --config configs/cache/fashion-mnist.toml --out small --set head.k=3 --set dataset.limit=1000
  kd-cache inspect my-cache
  kd-cache show my-cache --sample 0 --temperature 4
  kd-cache fidelity my-cache --config configs/cache/fashion-mnist.toml --temperatures 1,2,4
  kd-cache fidelity my-cache --config configs/cache/fashion-mnist.toml --format json > fidelity.json
  kd-cache report my-cache --fidelity fidelity.json
  kd-cache verify my-cache
  kd-cache export my-cache --to npz --out my-cache.npz
  kd-cache convert my-cache my-cache-parquet --form parquet
  kd-cache import --from vllm-jsonl --tokenizer tokenizer.json --teacher my-llm --out my-cache logprobs/*.jsonl

Exit codes: 0 done; 1 verify found damage; 2 could not run (the message says why); 130 interrupted
(the same build goes on where it was)."
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Say what a build will take: time by a few batches of the teacher, and bytes; writes nothing
    Plan(PlanArgs),
    /// List the images of a dataset as JSON Lines: the id that a cache has each under, its file and its label
    Samples(SamplesArgs),
    /// Run the teacher over a dataset and write a cache; an interrupted build goes on
    Build(BuildArgs),
    /// Say what a cache holds, and what it was made of
    Inspect(CacheArgs),
    /// Check every digest and every row of a cache
    Verify(VerifyArgs),
    /// Decode one sample's target at a temperature
    Show(ShowArgs),
    /// Run the teacher again on a sample and measure how far the cached targets are from it
    Fidelity(FidelityArgs),
    /// Write a cache's rows for tools that read neither Arrow nor Parquet
    Export(ExportArgs),
    /// Write the same targets in another form: Arrow for training, Parquet for any tool
    Convert(ConvertArgs),
    /// Make a cache of log-probabilities that another tool kept; its tails are known at T = 1 only
    Import(ImportArgs),
    /// Print a build's config as it is understood, or every key with its default
    Config(PrintConfigArgs),
    /// Write one HTML page with pictures of a cache's targets, size and provenance, or its data as JSON
    Report(PageArgs),
}

/// A config and changes to it.
#[derive(Args, Debug)]
pub struct ConfigArgs {
    /// The cache config (TOML; schemas/cache-config.json describes it)
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// Change a key of the config, e.g. --set head.k=3 (may be repeated)
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
}

/// How a report is given.
#[derive(Args, Debug)]
pub struct ReportArgs {
    /// Form of the report on standard output
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
}

/// Plan.
#[derive(Args, Debug)]
pub struct PlanArgs {
    /// What to plan.
    #[command(flatten)]
    pub config: ConfigArgs,
    /// Where the cache is to lie, to compare its size with the free space there
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Batches to measure the teacher on, after one to warm up; rates are those of the median
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..))]
    pub batches: u32,
    /// Price of an hour of this machine, in any currency
    #[arg(long, value_name = "X")]
    pub price_per_hour: Option<f64>,
    /// No progress on standard error
    #[arg(long, short)]
    pub quiet: bool,
    /// The report.
    #[command(flatten)]
    pub report: ReportArgs,
}

/// Samples.
#[derive(Args, Debug)]
pub struct SamplesArgs {
    /// Whose dataset.
    #[command(flatten)]
    pub config: ConfigArgs,
}

/// Build.
#[derive(Args, Debug)]
pub struct BuildArgs {
    /// What to build.
    #[command(flatten)]
    pub config: ConfigArgs,
    /// The cache's folder, new or of an interrupted build with the same settings
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Stop when tail model and codes are fitted: other builds can take them (tail.from), among them
    /// parts of one dataset on several machines; the same command without this goes on
    #[arg(long)]
    pub fit_only: bool,
    /// No progress on standard error
    #[arg(long, short)]
    pub quiet: bool,
    /// The report.
    #[command(flatten)]
    pub report: ReportArgs,
}

/// A cache.
#[derive(Args, Debug)]
pub struct CacheArgs {
    /// The cache's folder
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
    /// The report.
    #[command(flatten)]
    pub report: ReportArgs,
}

/// Verify.
#[derive(Args, Debug)]
pub struct VerifyArgs {
    /// Which cache.
    #[command(flatten)]
    pub cache: CacheArgs,
    /// No progress on standard error
    #[arg(long, short)]
    pub quiet: bool,
}

/// Show.
#[derive(Args, Debug)]
pub struct ShowArgs {
    /// Which cache.
    #[command(flatten)]
    pub cache: CacheArgs,
    /// The sample's id (for IDX files its index, from 0)
    #[arg(long, value_name = "ID")]
    pub sample: u64,
    /// Softmax temperature T [default: 1; that of a sampled cache]
    #[arg(long, value_name = "T")]
    pub temperature: Option<f64>,
    /// The position in the sample
    #[arg(long, value_name = "P", default_value_t = 0)]
    pub position: u32,
}

/// Fidelity.
#[derive(Args, Debug)]
pub struct FidelityArgs {
    /// Which cache.
    #[command(flatten)]
    pub cache: CacheArgs,
    /// Its teacher and data.
    #[command(flatten)]
    pub config: ConfigArgs,
    /// Positions to measure, drawn with the config's seed
    #[arg(long, value_name = "N", default_value_t = 4096, value_parser = clap::value_parser!(u64).range(1..))]
    pub samples: u64,
    /// Temperatures to measure at [default: 1,2,4,8; that of a sampled cache]
    #[arg(long, value_name = "T,T,…", value_delimiter = ',')]
    pub temperatures: Vec<f64>,
    /// No progress on standard error
    #[arg(long, short)]
    pub quiet: bool,
}

/// Export.
#[derive(Args, Debug)]
pub struct ExportArgs {
    /// Which cache.
    #[command(flatten)]
    pub cache: CacheArgs,
    /// Form of what is written
    #[arg(long, value_enum, value_name = "FORM")]
    pub to: To,
    /// Where to; - is standard output, and then the report goes to standard error
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// Probabilities at temperature T instead of raw logits (jsonl only)
    #[arg(long, value_name = "T")]
    pub temperature: Option<f64>,
    /// Only samples with these ids, from A on and below B; either may be left out
    #[arg(long, value_name = "A..B", value_parser = sample_range)]
    pub samples: Option<Range<u64>>,
    /// No progress on standard error
    #[arg(long, short)]
    pub quiet: bool,
}

/// Convert.
#[derive(Args, Debug)]
pub struct ConvertArgs {
    /// The cache to read
    #[arg(value_name = "FROM")]
    pub from: PathBuf,
    /// The cache to write: a new folder, or that of an interrupted conversion
    #[arg(value_name = "TO")]
    pub to: PathBuf,
    /// Form of its shards
    #[arg(long, value_enum, value_name = "FORM")]
    pub form: Form,
    /// What its logits and curves are, if not what they were: f32 loses nothing, quantized and f16 a little that does not come back
    #[arg(long, value_enum, value_name = "VALUES")]
    pub values: Option<Values>,
    /// Step of logits that become quantized, at the largest, in nats
    #[arg(long, value_name = "NATS", help = format!("Step of logits that become quantized, at the largest, in nats [default: {DEFAULT_STEP}]"))]
    pub step: Option<f64>,
    /// By how much of it each further step is larger, 0 for steps that are all alike
    #[arg(long, value_name = "SHARE", help = format!("By how much of it each further step is larger, 0 for steps that are all alike [default: {DEFAULT_STEP_GROWTH}]"))]
    pub step_growth: Option<f64>,
    /// Step of tail curves that become quantized, in nats
    #[arg(long, value_name = "NATS", help = format!("Step of tail curves that become quantized, in nats [default: {DEFAULT_CURVE_STEP}]"))]
    pub curve_step: Option<f64>,
    /// zstd level of Parquet
    #[arg(long, value_name = "N", default_value_t = DEFAULT_LEVEL, value_parser = clap::value_parser!(i32).range(1..=22))]
    pub level: i32,
    /// No progress on standard error
    #[arg(long, short)]
    pub quiet: bool,
    /// The report.
    #[command(flatten)]
    pub report: ReportArgs,
}

/// Import.
#[derive(Args, Debug)]
#[command(after_help = "\
Positions are tokens, and a target is what follows one; a row's last token has none, and is left out. What each
format has to look like is in schemas/import.md. kd-cache convert --values quantized makes the cache smaller.")]
pub struct ImportArgs {
    /// Whose files they are
    #[arg(long, value_enum, value_name = "FORMAT")]
    pub from: ImportFrom,
    /// Files, folders or patterns to read
    #[arg(value_name = "PATH", required = true)]
    pub paths: Vec<PathBuf>,
    /// The cache to write: a new folder, or that of an interrupted import
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// The teacher's name: by it, and by what the files say, the cache knows its teacher
    #[arg(long, value_name = "NAME")]
    pub teacher: String,
    /// The teacher's tokenizer.json: a trainer refuses another, and texts beside the tokens are compared with them
    #[arg(long, value_name = "FILE")]
    pub tokenizer: Option<PathBuf>,
    /// Number of the teacher's logits [default: the tokenizer's tokens]
    #[arg(long, value_name = "V")]
    pub classes: Option<usize>,
    /// Classes to keep of each position [default: as many as every position has]
    #[arg(long, value_name = "K")]
    pub k: Option<usize>,
    /// DistillKit's compression config [default: compression_config.yaml beside the first file]
    #[arg(long, value_name = "FILE")]
    pub compression_config: Option<PathBuf>,
    /// Form of the cache's shards
    #[arg(long, value_enum, value_name = "FORM", default_value = "arrow")]
    pub form: Form,
    /// What logits and the tail's mass are kept as
    #[arg(long, value_enum, value_name = "VALUES", default_value = "f16")]
    pub values: Floats,
    /// Rows of tokens per shard
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = clap::value_parser!(u64).range(1..=u64::from(u32::MAX)))]
    pub shard_samples: u64,
    /// zstd level of Parquet
    #[arg(long, value_name = "N", default_value_t = DEFAULT_LEVEL, value_parser = clap::value_parser!(i32).range(1..=22))]
    pub level: i32,
    /// No progress on standard error
    #[arg(long, short)]
    pub quiet: bool,
    /// The report.
    #[command(flatten)]
    pub report: ReportArgs,
}

/// Whose files are imported.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum ImportFrom {
    /// vLLM's prompt_logprobs, a request a line
    VllmJsonl,
    /// DistillKit's Parquet captures
    Distillkit,
    /// Rows for axolotl's KD plugin: JSON Lines or Parquet
    Axolotl,
    /// NumPy arrays input_ids, token_ids and logprobs
    Npz,
}

impl From<ImportFrom> for ForeignFormat {
    fn from(from: ImportFrom) -> Self {
        match from {
            ImportFrom::VllmJsonl => Self::VllmJsonl,
            ImportFrom::Distillkit => Self::Distillkit,
            ImportFrom::Axolotl => Self::Axolotl,
            ImportFrom::Npz => Self::Npz,
        }
    }
}

/// Floats that values are kept as.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Floats {
    /// Half precision
    F16,
    /// Single precision
    F32,
}

impl From<Floats> for ValueEncoding {
    fn from(floats: Floats) -> Self {
        match floats {
            Floats::F16 => Self::F16,
            Floats::F32 => Self::F32,
        }
    }
}

/// The form of a cache's shards.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Form {
    /// Arrow IPC files: memory-mapped, random access
    Arrow,
    /// Parquet files: columns that any tool reads
    Parquet,
}

impl From<Form> for StorageForm {
    fn from(form: Form) -> Self {
        match form {
            Form::Arrow => Self::Arrow,
            Form::Parquet => Self::Parquet,
        }
    }
}

/// What a cache's logits and curves are.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Values {
    /// Half precision
    F16,
    /// Single precision
    F32,
    /// Multiples of a step
    Quantized,
}

impl From<Values> for ValueEncoding {
    fn from(values: Values) -> Self {
        match values {
            Values::F16 => Self::F16,
            Values::F32 => Self::F32,
            Values::Quantized => Self::Quantized,
        }
    }
}

/// Report.
#[derive(Args, Debug)]
pub struct PageArgs {
    /// Which cache; with --format json its data is printed and no page written.
    #[command(flatten)]
    pub cache: CacheArgs,
    /// The page to write; - for standard output [default: DIR's name and -report.html, in the current folder]
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// What `kd-cache fidelity --format json` printed about this cache, to be drawn too
    #[arg(long, value_name = "FILE")]
    pub fidelity: Option<PathBuf>,
    /// Positions to look at, drawn with the cache's seed
    #[arg(long, value_name = "N", default_value_t = 4096, value_parser = clap::value_parser!(u64).range(1..))]
    pub samples: u64,
    /// No progress on standard error
    #[arg(long, short)]
    pub quiet: bool,
}

/// The form of an export.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum To {
    /// JSON Lines: one object a row
    Jsonl,
    /// NumPy's archive: one array a column
    Npz,
}

impl From<To> for ExportForm {
    fn from(to: To) -> Self {
        match to {
            To::Jsonl => Self::Jsonl,
            To::Npz => Self::Npz,
        }
    }
}

/// `A..B`, `A..`, `..B`.
fn sample_range(text: &str) -> Result<Range<u64>, String> {
    let wrong = || format!("expected A..B (from sample A on, below sample B), found {text:?}");
    let (from, below) = text.split_once("..").ok_or_else(wrong)?;
    let id =
        |text: &str, absent| if text.is_empty() { Ok(absent) } else { text.parse().map_err(|_| wrong()) };
    let range = id(from, 0)?..id(below, u64::MAX)?;
    if range.is_empty() { Err(format!("{text} holds no sample; {}", wrong())) } else { Ok(range) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_of_samples_may_leave_out_either_end() {
        for (text, range) in [("3..7", 3..7), ("3..", 3..u64::MAX), ("..7", 0..7), ("..", 0..u64::MAX)] {
            assert_eq!(sample_range(text), Ok(range), "{text}");
        }
        for wrong in ["", "7", "a..b", "3..3", "7..3", "-1..4", "1...4"] {
            let error = sample_range(wrong).unwrap_err();
            assert!(error.contains("expected A..B") && error.contains(wrong), "{wrong}: {error}");
        }
    }
}
