//! `kd-train`: trains students from a cache, measures them, and asks them.

mod args;
mod export;
mod report;
#[path = "../shared/mod.rs"]
mod shared;
mod sweep;

use std::fs::File;
use std::io::{BufWriter, ErrorKind, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, bail};
use clap::{CommandFactory, Parser, error::ErrorKind as UsageError};
use kd_cache::config::{self, TrainConfig};
use kd_cache::loader::Ranks;
use kd_cache::tracking::mlflow;
use kd_cache::train::{
    self, GenerateSettings, PredictionColumns, RunFolder, RunOptions, TrainError, TrainOutcome, Use,
};

use args::{Cli, Command, EvalArgs, GenerateArgs, PredictArgs, RunArgs, TrainArgs};
use shared::{Format, INTERRUPTED, Terminal, on_interrupt, print, print_config, print_json, tell, write};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let room = "lower train.batch (with as much more of train.accumulate a step is the same)";
    shared::run(room, || match (&cli.command, &cli.train) {
        (Some(Command::Eval(args)), _) => eval(args),
        (Some(Command::Predict(args)), _) => predict(args),
        (Some(Command::Generate(args)), _) => generate(args),
        (Some(Command::Export(args)), _) => export::export(args),
        (Some(Command::Sweep(args)), _) => sweep::sweep(args),
        (Some(Command::Config(args)), _) => print_config::<TrainConfig>(args),
        (None, Some(args)) => train(args),
        (None, None) => Cli::command()
            .error(UsageError::MissingRequiredArgument, "--config and --out are needed, or a subcommand")
            .exit(),
    })
}

fn train(args: &TrainArgs) -> anyhow::Result<ExitCode> {
    let config: TrainConfig = config::load(&args.config, &args.set)?;
    let options = RunOptions {
        caches: args.caches.clone(),
        out: args.out.clone(),
        overwrite: args.overwrite,
        resume: args.resume,
        mlflow: mlflow_access(),
        ranks: Ranks::default(),
    };
    let stop = on_interrupt()?;
    if args.stop_at_end_of_input {
        stop_at_end_of_input(stop);
    }
    let report = train::run(&config, &options, stop, &Terminal::new(args.quiet))?;
    match args.format {
        Format::Json => print_json(&report)?,
        Format::Text => print(&report::run(&report, &args.out))?,
    }
    if report.outcome == TrainOutcome::Interrupted {
        tell(format_args!(
            "interrupted after {} epochs; the same command with --resume goes on in {}",
            report.epochs,
            args.out.display()
        ));
        return Ok(ExitCode::from(INTERRUPTED));
    }
    Ok(ExitCode::SUCCESS)
}

/// Sets `stop` when standard input ends: when whoever holds its other end wishes it, or is no more.
fn stop_at_end_of_input(stop: &'static AtomicBool) {
    std::thread::spawn(|| {
        // Nothing is said there; an error is an end, too.
        drop(std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink()));
        stop.store(true, Ordering::SeqCst);
    });
}

/// What MLflow's own client takes from the environment.
fn mlflow_access() -> mlflow::Access {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    mlflow::Access {
        uri: variable("MLFLOW_TRACKING_URI"),
        username: variable("MLFLOW_TRACKING_USERNAME"),
        password: variable("MLFLOW_TRACKING_PASSWORD"),
        token: variable("MLFLOW_TRACKING_TOKEN"),
        certificates: variable("MLFLOW_TRACKING_SERVER_CERT_PATH").map(Into::into),
    }
}

fn eval(args: &EvalArgs) -> anyhow::Result<ExitCode> {
    let config = load(&args.run)?;
    let stop = on_interrupt()?;
    let Some(report) = train::eval(&used(&args.run, &config), &args.dataset, stop)? else {
        return Ok(ExitCode::from(INTERRUPTED));
    };
    match args.format {
        Format::Json => print_json(&report)?,
        Format::Text => print(&report::evaluations(&report.validation))?,
    }
    Ok(ExitCode::SUCCESS)
}

fn predict(args: &PredictArgs) -> anyhow::Result<ExitCode> {
    let config = load(&args.run)?;
    let used = used(&args.run, &config);
    let (set, out) = (args.dataset.as_str(), args.out.as_path());
    let done = if out.extension().is_some_and(|suffix| suffix == "parquet") {
        let columns = PredictionColumns { top: args.top.unwrap_or(0) as usize, logits: args.logits };
        train::predict_parquet(&used, set, out, columns, on_interrupt()?)?
    } else if args.top.is_some() || args.logits {
        bail!("--top and --logits are columns of Parquet; give --out FILE.parquet");
    } else if out != Path::new("-") && out.symlink_metadata().map_or(true, |found| found.is_file()) {
        train::predict_lines(&used, set, out, on_interrupt()?)?
    } else {
        // Standard output, a pipe, a device or a link is written to, not replaced, and ends with Ctrl-C at once.
        let mut to: Box<dyn Write> = if out == Path::new("-") {
            Box::new(std::io::stdout().lock())
        } else {
            Box::new(File::create(out).with_context(|| format!("cannot write {}", out.display()))?)
        };
        match train::predict(&used, set, out, &mut BufWriter::new(&mut to), &AtomicBool::new(false)) {
            // Whoever read them (`| head`) has seen enough.
            Err(TrainError::Write { source, .. }) if source.kind() == ErrorKind::BrokenPipe => {
                return Ok(ExitCode::SUCCESS);
            }
            done => done?,
        }
    };
    let Some(done) = done else { return Ok(ExitCode::from(INTERRUPTED)) };
    tell(format_args!("{done} predictions"));
    Ok(ExitCode::SUCCESS)
}

fn generate(args: &GenerateArgs) -> anyhow::Result<ExitCode> {
    if !(args.temperature.is_finite() && args.temperature >= 0.0) {
        bail!("--temperature: expected a number from 0 up, found {}", args.temperature);
    }
    let settings = GenerateSettings {
        prompt: args.prompt.clone(),
        tokenizer: args.tokenizer.clone(),
        max_new_tokens: args.max_new_tokens,
        temperature: args.temperature,
        seed: args.seed,
    };
    let said = train::generate(&used(&args.run, &load(&args.run)?), &settings)?;
    match args.format {
        Format::Json => print_json(&said)?,
        Format::Text => write(&format!("{}{}\n", said.prompt, said.text))?,
    }
    Ok(ExitCode::SUCCESS)
}

/// The run of `args` with its config.
fn used<'a>(args: &'a RunArgs, config: &'a TrainConfig) -> Use<'a> {
    Use { run: &args.run, config, checkpoint: args.checkpoint.as_deref() }
}

/// The config of a run, or another that is to be used with it.
fn load(args: &RunArgs) -> anyhow::Result<TrainConfig> {
    match &args.config {
        Some(path) => Ok(train::completed(config::load(path, &args.set)?, &args.run)?),
        None => Ok(config::load(&RunFolder::new(&args.run).config(), &args.set)?),
    }
}
