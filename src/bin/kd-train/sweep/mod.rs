//! `kd-train sweep`: many runs, each a process of this program, and what became of them.

mod plot;
mod scale;
mod series;
mod table;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::Context;
use kd_cache::config::load_sweep;
use kd_cache::sweep::{self, Begin, Order, SweepFolder, SweepOptions, SweepOutcome, SweepReport};

use crate::args::SweepArgs;
use crate::shared::{Format, INTERRUPTED, Terminal, on_interrupt, print, print_json, tell};

/// Exit code of a sweep of which some runs failed.
const SOME_FAILED: u8 = 1;

/// Runs the sweep that `args` describe.
pub fn sweep(args: &SweepArgs) -> anyhow::Result<ExitCode> {
    let config = load_sweep(&args.config, &args.set)?;
    let program = std::env::current_exe().context("cannot find this program's own file")?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let options = SweepOptions { out: args.out.clone(), cores, plan_only: args.dry_run };
    let stop = on_interrupt()?;
    let started = |order: &Order<'_>| command(&program, order);
    let report = sweep::run(&config, &options, &started, stop, &Terminal::new(args.quiet))?;
    let folder = SweepFolder::new(&args.out);
    if report.outcome != SweepOutcome::Planned {
        write(&folder.table(), &table::document(&report))?;
        write(&folder.plot(), &plot::picture(&report))?;
    }
    match args.format {
        Format::Json => print_json(&report)?,
        Format::Text => print(&text(&report, &folder))?,
    }
    Ok(match report.outcome {
        SweepOutcome::Failed => ExitCode::from(SOME_FAILED),
        SweepOutcome::Interrupted => {
            tell(format_args!("interrupted; the same command goes on in {}", args.out.display()));
            ExitCode::from(INTERRUPTED)
        }
        _ => ExitCode::SUCCESS,
    })
}

/// The command line of a run.
fn command(program: &PathBuf, order: &Order<'_>) -> Command {
    let mut command = Command::new(program);
    command.arg("--config").arg(order.config).arg("--out").arg(order.out);
    if let Some(cache) = order.cache {
        command.arg("--cache").arg(cache);
    }
    match order.begin {
        Begin::New => {}
        Begin::Over => drop(command.arg("--overwrite")),
        Begin::GoOn => drop(command.arg("--resume")),
    }
    if let Some(threads) = order.threads {
        command.arg("--set").arg(format!("train.threads={threads}"));
    }
    if let Some(share) = order.share {
        // What prepares batches: it changes no number.
        command.env("RAYON_NUM_THREADS", share.to_string());
    }
    command.args(["--quiet", "--stop-at-end-of-input"]);
    command
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    kd_cache::durable::write_file(path, text.as_bytes())
        .with_context(|| format!("cannot write {}", path.display()))
}

/// The report for people.
fn text(report: &SweepReport, folder: &SweepFolder) -> String {
    let mut text = table::table(report);
    let runs = report.points.len();
    if report.outcome == SweepOutcome::Planned {
        text.push_str(&format!("\n{runs} runs; nothing was started (--dry-run)\n"));
        return text;
    }
    for point in report.points.iter().filter(|point| point.error.is_some()) {
        let error = point.error.as_deref().unwrap_or_default();
        text.push_str(&format!("\nfailed: {}: {error}\n", point.name));
    }
    text.push_str(&format!(
        "\n{runs} runs in {:.1} s; table.md and plot.svg are in {}\n",
        report.seconds,
        folder.path().display()
    ));
    text
}
