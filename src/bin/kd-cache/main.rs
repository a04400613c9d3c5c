//! `kd-cache`: builds caches, and says what is in them.

mod args;
mod page;
mod report;
#[path = "../shared/mod.rs"]
mod shared;

use std::io::{BufWriter, ErrorKind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::AtomicBool;

use anyhow::{Context, bail};
use clap::Parser;
use kd_cache::config::{self, CacheConfig};
use kd_cache::ids::SampleId;
use kd_cache::ops::{
    self, BuildOutcome, BuildUntil, ConvertSettings, ExportError, ExportSettings, ExportTo, ImportSettings,
    ListError, PlanSettings, ReportSettings,
};
use kd_cache::target::Temperature;
use serde::Serialize;

use args::{
    BuildArgs, CacheArgs, Cli, Command, ConfigArgs, ConvertArgs, ExportArgs, FidelityArgs, ImportArgs,
    PageArgs, PlanArgs, ReportArgs, SamplesArgs, ShowArgs, VerifyArgs,
};
use shared::{Format, INTERRUPTED, Terminal, on_interrupt, print, print_config, print_json, tell, write};

/// What is said of work that goes on from its last shard.
const GOES_ON: &str = "interrupted; the same command goes on where it was";
/// Exit code of a cache that is not what its manifest says.
const DAMAGED: u8 = 1;

fn main() -> ExitCode {
    let cli = Cli::parse();
    shared::run("lower teacher.batch", || match cli.command {
        Command::Plan(args) => plan(&args),
        Command::Samples(args) => samples(&args),
        Command::Build(args) => build(&args),
        Command::Inspect(args) => inspect(&args),
        Command::Verify(args) => verify(&args),
        Command::Show(args) => show(&args),
        Command::Fidelity(args) => fidelity(&args),
        Command::Export(args) => export(&args),
        Command::Convert(args) => convert(&args),
        Command::Import(args) => import(&args),
        Command::Config(args) => print_config::<CacheConfig>(&args),
        Command::Report(args) => page_of(&args),
    })
}

fn plan(args: &PlanArgs) -> anyhow::Result<ExitCode> {
    let config = load(&args.config)?;
    let settings = PlanSettings {
        batches: args.batches as usize,
        out: args.out.clone(),
        price_per_hour: args.price_per_hour,
    };
    let report = ops::plan(&config, &settings, &Terminal::new(args.quiet))?;
    give(&args.report, &report, || report::plan(&report))?;
    Ok(ExitCode::SUCCESS)
}

fn samples(args: &SamplesArgs) -> anyhow::Result<ExitCode> {
    let config = load(&args.config)?;
    match ops::list_samples(&config.dataset, &mut BufWriter::new(std::io::stdout().lock())) {
        // Whoever read the lines (`| head`) has seen enough.
        Err(ListError::Write(source)) if source.kind() == ErrorKind::BrokenPipe => {}
        listed => listed?,
    }
    Ok(ExitCode::SUCCESS)
}

fn build(args: &BuildArgs) -> anyhow::Result<ExitCode> {
    let config = load(&args.config)?;
    let stop = on_interrupt()?;
    let until = if args.fit_only { BuildUntil::Fitted } else { BuildUntil::Complete };
    let report = ops::build(&config, &args.out, until, stop, &Terminal::new(args.quiet))?;
    give(&args.report, &report, || report::build(&report, &args.out))?;
    if report.outcome == BuildOutcome::Interrupted {
        tell(match report.samples_done + report.samples_resumed {
            0 => "interrupted; the same command begins with the first shard",
            _ => GOES_ON,
        });
        return Ok(ExitCode::from(INTERRUPTED));
    }
    Ok(ExitCode::SUCCESS)
}

fn inspect(args: &CacheArgs) -> anyhow::Result<ExitCode> {
    let report = ops::inspect(&args.dir)?;
    give(&args.report, &report, || report::inspect(&report))?;
    Ok(ExitCode::SUCCESS)
}

fn verify(args: &VerifyArgs) -> anyhow::Result<ExitCode> {
    let report = ops::verify(&args.cache.dir, &Terminal::new(args.quiet))?;
    give(&args.cache.report, &report, || report::verify(&report))?;
    Ok(if report.sound { ExitCode::SUCCESS } else { ExitCode::from(DAMAGED) })
}

fn show(args: &ShowArgs) -> anyhow::Result<ExitCode> {
    let temperature = args.temperature.map(Temperature::new).transpose().context("--temperature")?;
    let report = ops::show(&args.cache.dir, SampleId(args.sample), args.position, temperature)?;
    give(&args.cache.report, &report, || report::show(&report))?;
    Ok(ExitCode::SUCCESS)
}

fn fidelity(args: &FidelityArgs) -> anyhow::Result<ExitCode> {
    let config = load(&args.config)?;
    let temperatures = args.temperatures.iter().map(|t| Temperature::new(*t));
    let temperatures = temperatures.collect::<Result<Vec<_>, _>>().context("--temperatures")?;
    let progress = Terminal::new(args.quiet);
    let report = ops::fidelity(&config, &args.cache.dir, args.samples, &temperatures, &progress)?;
    give(&args.cache.report, &report, || report::fidelity(&report))?;
    Ok(ExitCode::SUCCESS)
}

fn export(args: &ExportArgs) -> anyhow::Result<ExitCode> {
    let temperature = args.temperature.map(Temperature::new).transpose().context("--temperature")?;
    let settings = ExportSettings { form: args.to.into(), temperature, samples: args.samples.clone() };
    let (dir, progress) = (&args.cache.dir, Terminal::new(args.quiet));
    if args.out != Path::new("-") {
        let report = match ops::export(dir, &settings, ExportTo::File(&args.out), on_interrupt()?, &progress)
        {
            Err(ExportError::Interrupted) => {
                tell("interrupted; what was there before is untouched");
                return Ok(ExitCode::from(INTERRUPTED));
            }
            report => report?,
        };
        give(&args.cache.report, &report, || report::export(&report, &args.out))?;
        return Ok(ExitCode::SUCCESS);
    }
    // What goes to standard output ends with Ctrl-C at once.
    let (to, go_on) = (&mut std::io::stdout().lock(), AtomicBool::new(false));
    match ops::export(dir, &settings, ExportTo::Stream(to), &go_on, &progress) {
        // Whoever read the rows (`| head`) has seen enough.
        Err(ExportError::Write { source, .. }) if source.kind() == ErrorKind::BrokenPipe => {}
        Err(error) => return Err(error.into()),
        Ok(_) if args.quiet => {}
        Ok(report) => match args.cache.report.format {
            Format::Json => tell(serde_json::to_string_pretty(&report)?),
            Format::Text => tell(report::export(&report, &args.out).trim_end()),
        },
    }
    Ok(ExitCode::SUCCESS)
}

fn convert(args: &ConvertArgs) -> anyhow::Result<ExitCode> {
    let settings = ConvertSettings {
        form: args.form.into(),
        values: args.values.map(Into::into),
        step: args.step,
        step_growth: args.step_growth,
        curve_step: args.curve_step,
        level: args.level,
    };
    let stop = on_interrupt()?;
    let report = ops::convert(&args.from, &args.to, &settings, stop, &Terminal::new(args.quiet))?;
    give(&args.report, &report, || report::convert(&report, &args.to))?;
    if !report.complete {
        tell(GOES_ON);
        return Ok(ExitCode::from(INTERRUPTED));
    }
    Ok(ExitCode::SUCCESS)
}

fn import(args: &ImportArgs) -> anyhow::Result<ExitCode> {
    let settings = ImportSettings {
        from: args.from.into(),
        paths: args.paths.clone(),
        codec: args.compression_config.clone(),
        tokenizer: args.tokenizer.clone(),
        classes: args.classes,
        teacher: args.teacher.clone(),
        k: args.k,
        form: args.form.into(),
        values: args.values.into(),
        level: args.level,
        shard_samples: args.shard_samples,
    };
    let stop = on_interrupt()?;
    let Some(report) = ops::import(&settings, &args.out, stop, &Terminal::new(args.quiet))? else {
        tell("interrupted; the same command begins to read again");
        return Ok(ExitCode::from(INTERRUPTED));
    };
    give(&args.report, &report, || report::import(&report, &args.out))?;
    if !report.complete {
        tell(GOES_ON);
        return Ok(ExitCode::from(INTERRUPTED));
    }
    Ok(ExitCode::SUCCESS)
}

/// The report as a page, or its data as JSON.
fn page_of(args: &PageArgs) -> anyhow::Result<ExitCode> {
    let (dir, format) = (&args.cache.dir, args.cache.report.format);
    if format == Format::Json && args.out.is_some() {
        bail!("--out: --format json prints the data and writes no page; leave one of them out");
    }
    let settings = ReportSettings { samples: args.samples, fidelity: args.fidelity.clone() };
    let report = ops::report(dir, &settings, &Terminal::new(args.quiet))?;
    if format == Format::Json {
        print_json(&report)?;
        return Ok(ExitCode::SUCCESS);
    }
    let name = name_of(dir);
    let page = page::page(&report, &name);
    if args.out.as_deref() == Some(Path::new("-")) {
        write(&page)?;
        return Ok(ExitCode::SUCCESS);
    }
    let out = args.out.clone().unwrap_or_else(|| PathBuf::from(format!("{name}-report.html")));
    // Written in place: renaming, as caches are committed, would replace a pipe or a device.
    std::fs::write(&out, &page).with_context(|| format!("--out: cannot write {}", out.display()))?;
    print(&report::page(&report, &out, page.len()))?;
    Ok(ExitCode::SUCCESS)
}

/// The last part of the folder's name, also of `.`.
fn name_of(dir: &Path) -> String {
    let whole = dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
    whole.file_name().map_or_else(|| "cache".into(), |name| name.to_string_lossy().into_owned())
}

fn load(args: &ConfigArgs) -> anyhow::Result<CacheConfig> {
    Ok(config::load(&args.config, &args.set)?)
}

/// Writes a report in the form that is asked for.
fn give(args: &ReportArgs, report: &impl Serialize, text: impl FnOnce() -> String) -> anyhow::Result<()> {
    match args.format {
        Format::Json => print_json(report),
        Format::Text => print(&text()),
    }
}
