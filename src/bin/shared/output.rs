//! Reports go to standard output, everything else to standard error.

use std::borrow::Cow;
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

/// `text` with what would move a terminal's cursor or change its colours written out: a cache's manifest may be a stranger's.
fn visible(text: &str) -> Cow<'_, str> {
    let moves = |character: char| character.is_control() && !matches!(character, '\n' | '\t');
    if !text.contains(moves) {
        return text.into();
    }
    let written = |character: char| match moves(character) {
        true => character.escape_default().to_string(),
        false => character.to_string(),
    };
    text.chars().map(written).collect()
}

/// Writes `text` to standard output. A reader that went away (`| head`) is no error.
pub fn print(text: &str) -> anyhow::Result<()> {
    write(&visible(text))
}

/// The same of a document or a text that somebody asked for, as it is.
pub fn write(text: &str) -> anyhow::Result<()> {
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
    write(&text)
}

/// Writes a line to standard error. Where that has gone (a closed terminal, `2>&1 | head`, a full disk), the work goes on without.
pub fn tell(line: impl std::fmt::Display) {
    _ = writeln!(std::io::stderr(), "{}", visible(&line.to_string()));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_strangers_words_do_not_move_the_cursor() {
        assert_eq!(visible("two\nlines\tof é"), "two\nlines\tof é");
        assert_eq!(visible("\x1b[2Jgone\r\u{9b}1m\x07\x7f"), "\\u{1b}[2Jgone\\r\\u{9b}1m\\u{7}\\u{7f}");
    }
}
