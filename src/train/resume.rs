//! Going on with an interrupted run: what it was begun with, and what it has found out.

use std::fs;
use std::path::Path;

use serde::Deserialize;
use toml::Value;

use super::data::RunData;
use super::setup::Training;
use super::state::{Kept, Place};
use super::{EpochReport, RunCaches, RunFolder, TrainError, TrainReport};
use crate::config::{ResponsesConfig, Tokens, TrainConfig};
use crate::durable;

/// Keys that a run may go on with otherwise: none of them changes the steps that were made.
const FREE: [&str; 10] = [
    "train.device",
    "train.threads",
    "train.prefetch",
    "train.max_steps",
    "train.patience",
    "train.keep_every",
    "checkpoint",
    "tracking.every",
    "tracking.tensorboard",
    "tracking.mlflow",
];

/// Whether a run may go on with another value of `key`, `free` being those that may. So it is, always, with a metric's
/// command that failed and was mended.
fn is_free(key: &str, free: &[&str]) -> bool {
    let of_metric = key.starts_with("validation.") && key.contains(".metrics.");
    free.contains(&key) || of_metric && (key.ends_with(".command") || key.ends_with(".timeout"))
}

/// The config with what it left to the cache filled in: the run can be used without the cache.
pub(super) fn resolved(config: &TrainConfig, training: &Training) -> TrainConfig {
    let mut config = config.clone();
    config.preprocess.clone_from(&training.preprocess);
    config.augment.clone_from(&training.augment);
    *config.student.classes_mut() = Some(training.classes);
    // A text is what a tokenizer makes of it, which may lie elsewhere one day.
    config.responses = training.samples.responses().map(|responses| ResponsesConfig {
        begin: Tokens::Ids(responses.begin.clone()),
        end: responses.end.clone().map(Tokens::Ids),
    });
    config
}

/// What the run in `folder` has kept, once it is known to be the run that `config`, `caches` and `data` describe.
///
/// # Errors
/// [`TrainError::NothingToResume`], [`TrainError::OtherCaches`], [`TrainError::Resumed`].
pub(super) fn open(
    folder: &RunFolder,
    config: &TrainConfig,
    caches: &RunCaches,
    data: &RunData,
) -> Result<Kept, TrainError> {
    let kept = Kept::read(folder)?;
    // Before the config, part of which another cache would fill in otherwise.
    if let Some(begun) = RunCaches::read(folder)?.filter(|begun| !begun.are(caches)) {
        let (kept, found) = (begun.to_string(), caches.to_string());
        return Err(TrainError::OtherCaches { path: folder.path().to_owned(), kept, found });
    }
    let path = folder.config();
    let text = fs::read_to_string(&path).map_err(|source| TrainError::Read { path: path.clone(), source })?;
    let damaged = |problem: String| TrainError::State { path: path.clone(), problem };
    let begun: Value = toml::from_str(&text).map_err(|error| damaged(error.to_string()))?;
    let now = Value::try_from(config).map_err(|error| damaged(error.to_string()))?;
    let samples = RunData::read(folder)?;
    // The same samples may lie elsewhere, and what is called as before may be others.
    let places = samples.as_ref().map(|samples| samples.places(data)).unwrap_or_default();
    let free: Vec<&str> = FREE.into_iter().chain(places.iter().map(String::as_str)).collect();
    let other = difference(&begun, &now, &free).or_else(|| samples?.difference(data));
    match other {
        None => Ok(kept),
        Some((key, kept, found)) => {
            Err(TrainError::Resumed { path: folder.path().to_owned(), key, kept, found })
        }
    }
}

/// The config that a run was `begun` with, its samples where they lie `now`.
pub(super) fn moved(mut begun: TrainConfig, now: &TrainConfig) -> TrainConfig {
    begun.dataset.clone_from(&now.dataset);
    for (name, set) in &mut begun.validation {
        if let Some(now) = now.validation.get(name) {
            set.dataset.clone_from(&now.dataset);
            set.cache.clone_from(&now.cache);
        }
    }
    begun
}

/// The first key, in the order of their names, that is in one of both only or has another value; `free` may.
pub(crate) fn difference(begun: &Value, now: &Value, free: &[&str]) -> Option<(String, String, String)> {
    difference_at(begun, now, free, "")
}

fn difference_at(begun: &Value, now: &Value, free: &[&str], key: &str) -> Option<(String, String, String)> {
    if is_free(key, free) {
        return None;
    }
    if let (Value::Table(begun), Value::Table(now)) = (begun, now) {
        let mut keys: Vec<&String> = begun.keys().chain(now.keys()).collect();
        keys.sort_unstable();
        keys.dedup();
        return keys.into_iter().find_map(|name| {
            let path = if key.is_empty() { name.clone() } else { format!("{key}.{name}") };
            match (begun.get(name), now.get(name)) {
                (Some(begun), Some(now)) => difference_at(begun, now, free, &path),
                _ if is_free(&path, free) => None,
                // A section that is missing has none of its keys.
                (begun, now) if free.iter().any(|free| free.strip_prefix(&path).is_some_and(of_section)) => {
                    let empty = Value::Table(toml::Table::new());
                    difference_at(begun.unwrap_or(&empty), now.unwrap_or(&empty), free, &path)
                }
                (begun, now) => {
                    let word = |value: Option<&Value>| value.map_or("nothing".into(), ToString::to_string);
                    Some((path, word(begun), word(now)))
                }
            }
        });
    }
    (begun != now).then(|| (key.to_owned(), begun.to_string(), now.to_string()))
}

/// Whether what follows a key is a key of its section.
fn of_section(rest: &str) -> bool {
    rest.starts_with('.')
}

/// What is read of the summary of a run that goes on.
#[derive(Deserialize)]
struct Begun {
    seconds: f64,
}

/// Fills `report` with what the epochs up to `place` have found out, gives them, and cuts what was written after them.
///
/// # Errors
/// [`TrainError::State`]: lines that are missing.
pub(super) fn report(
    folder: &RunFolder,
    place: &Place,
    report: &mut TrainReport,
) -> Result<Vec<EpochReport>, TrainError> {
    let path = folder.metrics();
    let lines = cut_lines(&path, place.epochs as usize, folder.writes())
        .map_err(|source| TrainError::Write { path: path.clone(), source })?;
    let damaged = |problem: String| TrainError::State { path: path.clone(), problem };
    if lines.len() != place.epochs as usize {
        return Err(damaged(format!(
            "expected a line for each of {} epochs, found {}",
            place.epochs,
            lines.len()
        )));
    }
    let parse = |line: &String| serde_json::from_str(line).map_err(|error| damaged(error.to_string()));
    let epochs = lines.iter().map(parse).collect::<Result<Vec<EpochReport>, TrainError>>()?;
    // A process that was killed has told of its epochs alone.
    let summary: Option<Begun> = folder.read_json(folder.summary()).ok().flatten();
    let of_epochs: f64 = epochs.iter().map(|epoch| epoch.seconds).sum();
    report.seconds = summary.map_or(0.0, |summary| summary.seconds).max(of_epochs);
    if let Some(last) = epochs.last() {
        (report.epochs, report.steps) = (last.epoch, last.step);
        report.train_loss = Some(last.train_loss);
    }
    if let Some(best) = place.best.and_then(|(epoch, _)| epochs.iter().find(|found| found.epoch == epoch)) {
        report.best_epoch = Some(best.epoch);
        report.validation.clone_from(&best.validation);
    }
    Ok(epochs)
}

/// The first `lines` of a file of lines, to which it is cut where it is this process's to write: what comes after them
/// came after the state that is gone back to.
fn cut_lines(path: &Path, lines: usize, writes: bool) -> std::io::Result<Vec<String>> {
    let text = durable::if_there(fs::read_to_string(path))?.unwrap_or_default();
    let kept: Vec<String> = text.lines().take(lines).map(str::to_owned).collect();
    let text: String = kept.iter().map(|line| format!("{line}\n")).collect();
    if writes {
        durable::write_file(path, text.as_bytes())?;
    }
    Ok(kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_told_by_their_key() {
        let begun: Value =
            toml::from_str("seed = 1\n[train]\nepochs = 3\ndevice = \"cpu\"\n[loss]\nt = 2.0").unwrap();
        let same: Value = toml::from_str(
            "seed = 1\n[train]\nepochs = 3\ndevice = \"cuda\"\nmax_steps = 9\n[loss]\nt = 2.0",
        )
        .unwrap();
        assert_eq!(difference(&begun, &same, &FREE), None);
        // A metric's command may be mended, but not what it says.
        let metric =
            |text: &str| toml::from_str::<Value>(&format!("[validation.a.metrics.b]\n{text}")).unwrap();
        let before = metric("command = [\"a\"]\ntimeout = 9.0\nbetter = \"lower\"");
        let mended = metric("command = [\"b\", \"c\"]\ntimeout = 10.0\nbetter = \"lower\"");
        assert_eq!(difference(&before, &mended, &FREE), None);
        let other = metric("command = [\"a\"]\ntimeout = 9.0\nbetter = \"higher\"");
        assert_eq!(difference(&before, &other, &FREE).unwrap().0, "validation.a.metrics.b.better");
        let other: Value = toml::from_str("seed = 1\n[train]\nepochs = 4\n[loss]\nt = 2.0").unwrap();
        let (key, kept, found) = difference(&begun, &other, &FREE).unwrap();
        assert_eq!((key.as_str(), kept.as_str(), found.as_str()), ("train.epochs", "3", "4"));
        // What is told of a run may change, but for what it measures.
        let told = "seed = 1\n[train]\nepochs = 3\n[loss]\nt = 2.0\n[tracking]\nevery = 5";
        let tracked: Value = toml::from_str(told).unwrap();
        assert_eq!(difference(&begun, &tracked, &FREE), None);
        assert_eq!(difference(&tracked, &begun, &FREE), None);
        let measured: Value = toml::from_str(&format!("{told}\ngradient_norm = true")).unwrap();
        for (a, b) in [(&begun, &measured), (&measured, &begun)] {
            assert_eq!(difference(a, b, &FREE).unwrap().0, "tracking.gradient_norm");
        }
        let fewer: Value = toml::from_str("seed = 1\n[train]\nepochs = 3").unwrap();
        let (key, _, found) = difference(&begun, &fewer, &FREE).unwrap();
        assert_eq!((key.as_str(), found.as_str()), ("loss", "nothing"));
    }
}
