//! Reports go to standard output, everything else to standard error.

use std::io::{ErrorKind, Write};
use std::process::ExitCode;

use anyhow::Context;
use serde::Serialize;

/// Exit code of everything that could not run.
const COULD_NOT_RUN: u8 = 2;

/// The form of a report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// One JSON document; schemas/ describes it.
    Json,
}

/// Writes `text` to standard output. A reader that went away (`| head`) is no error.
pub fn print(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(error).context("cannot write to standard output")
        }
        _ => Ok(()),
    }
}

/// Writes `report` as JSON to standard output.
pub fn print_json(report: &impl Serialize) -> anyhow::Result<()> {
    let mut text = serde_json::to_string_pretty(report)?;
    text.push('\n');
    print(&text)
}

/// Writes a line to standard error. Where that has gone (a closed terminal, `2>&1 | head`, a full disk), the work goes on without.
pub fn tell(line: impl std::fmt::Display) {
    _ = writeln!(std::io::stderr(), "{line}");
}

/// Says what went wrong, each cause once, and gives the exit code for it.
pub fn fail(error: &anyhow::Error) -> ExitCode {
    let mut text = String::new();
    for cause in error.chain() {
        let cause = cause.to_string();
        // Some errors already tell what their source says.
        if text.is_empty() {
            text = cause;
        } else if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    tell(format_args!("error: {text}"));
    ExitCode::from(COULD_NOT_RUN)
}
