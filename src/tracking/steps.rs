//! `steps.jsonl`: a line every few steps.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Line, LineKind};
use crate::durable;

/// The steps since the line before: a line of `steps.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct StepReport {
    /// Steps since the run began, the last one of the line; a multiple of `tracking.every`.
    pub step: u64,
    /// The epoch of that step; counts from 1.
    pub epoch: u32,
    /// Learning rate of that step.
    pub learning_rate: f64,
    /// Mean of what is minimised over the samples of the line's steps.
    pub train_loss: f64,
    /// The terms that are minimised, each by the name of its weight: means over the samples of the line's steps,
    /// unweighted, with their factor `T²` where they have one.
    #[serde(flatten)]
    pub terms: BTreeMap<String, f64>,
    /// Mean norm of the gradients of a step before they were clipped; absent unless `train.clip_norm` or
    /// `tracking.gradient_norm` asks for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gradient_norm: Option<f64>,
    /// Samples trained on per second of training, validation left out.
    pub samples_per_second: f64,
    /// Positions trained on per second, where samples are rows of tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub positions_per_second: Option<f64>,
}

/// The file, to which lines are added.
#[derive(Debug)]
pub struct StepLines(File);

impl StepLines {
    /// Opens the file in `path`, or makes it.
    ///
    /// # Errors
    /// Whatever opening returns.
    pub fn open(path: &Path) -> io::Result<Self> {
        OpenOptions::new().create(true).append(true).open(path).map(Self)
    }

    /// Adds a line, in one piece.
    ///
    /// # Errors
    /// Whatever writing returns.
    pub fn add(&mut self, report: &StepReport) -> io::Result<()> {
        let mut line = serde_json::to_vec(report)?;
        line.push(b'\n');
        self.0.write_all(&line)
    }

    /// Flushes to the disk: before what a run goes on from is kept, so that no line before it is ever missing.
    ///
    /// # Errors
    /// Whatever flushing returns.
    pub fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    /// Cuts the file in `path`, if there is one, to its lines up to `step`: what comes after is done again.
    ///
    /// # Errors
    /// Whatever reading or cutting returns.
    pub fn cut(path: &Path, step: u64) -> io::Result<()> {
        let Some(text) = durable::if_there(fs::read(path))? else { return Ok(()) };
        let mut end = 0;
        for line in text.split_inclusive(|byte| *byte == b'\n') {
            let whole = line.strip_suffix(b"\n").and_then(|line| str::from_utf8(line).ok());
            let kept = whole.and_then(|line| Line::parse(line, LineKind::Step));
            if kept.is_none_or(|line| line.step > step) {
                break;
            }
            end += line.len();
        }
        if end < text.len() {
            let file = OpenOptions::new().write(true).open(path)?;
            file.set_len(end as u64)?;
            file.sync_all()?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(step: u64) -> StepReport {
        StepReport {
            step,
            epoch: 1,
            learning_rate: 0.1,
            train_loss: 2.5,
            terms: [("kl".to_owned(), 2.5)].into(),
            gradient_norm: None,
            samples_per_second: 10.0,
            positions_per_second: None,
        }
    }

    #[test]
    fn a_file_is_cut_to_the_step_that_is_gone_back_to() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("steps.jsonl");
        StepLines::cut(&path, 5).unwrap();
        assert!(!path.exists());
        let mut lines = StepLines::open(&path).unwrap();
        for step in [5, 10, 15] {
            lines.add(&report(step)).unwrap();
        }
        lines.sync().unwrap();
        let whole = fs::read_to_string(&path).unwrap();
        // A line that a power cut tore.
        fs::write(&path, format!("{whole}{{\"step\":20,\"epo")).unwrap();
        StepLines::cut(&path, 99).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), whole);
        StepLines::cut(&path, 14).unwrap();
        let kept: Vec<StepReport> = fs::read_to_string(&path)
            .unwrap()
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(kept, [report(5), report(10)]);
        StepLines::open(&path).unwrap().add(&report(15)).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), whole);
    }
}
