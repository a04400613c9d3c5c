//! What is told of a run while it goes on: lines of steps, event files, a server.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use serde::Serialize;

use super::setup::Training;
use super::state::Place;
use super::sums::Sums;
use super::window::Window;
use super::{EpochReport, RunFolder, RunOptions, TrainError, TrainOutcome};
use crate::config::TrainConfig;
use crate::tracking::mlflow::{self, Mlflow, RunStatus, Server};
use crate::tracking::tensorboard::EventFile;
use crate::tracking::{Line, LineKind, StepLines, StepReport};

/// Everything that is told, and to whom.
pub(super) struct Watch {
    folder: RunFolder,
    every: Option<u64>,
    epoch_lines: LineKind,
    lines: Option<StepLines>,
    events: Option<EventFile>,
    mlflow: Option<Mlflow>,
    window: Window,
    clock: Clock,
}

/// A step that is done.
pub(super) struct Step {
    /// Counts from 1.
    pub(super) epoch: u32,
    /// Counts from 1.
    pub(super) step: u64,
    pub(super) learning_rate: f64,
    pub(super) samples: u64,
    pub(super) positions: usize,
}

/// Counts samples and positions, and the time that their steps took, since the last line of this session.
#[derive(Default)]
struct Clock {
    samples: u64,
    positions: usize,
    /// Of the time before `since`.
    seconds: f64,
    since: Option<Instant>,
}

impl Clock {
    fn go(&mut self) {
        self.since = Some(Instant::now());
    }

    fn rest(&mut self) {
        self.seconds += self.since.take().map_or(0.0, |since| since.elapsed().as_secs_f64());
    }

    /// Samples and positions a second; the clock begins anew.
    fn close(&mut self) -> (f64, f64) {
        self.rest();
        let seconds = self.seconds.max(f64::MIN_POSITIVE);
        let rates = (self.samples as f64 / seconds, self.positions as f64 / seconds);
        *self = Self::default();
        self.go();
        rates
    }
}

/// The server of a config, if it names one: known before anything is written.
pub(super) fn server(config: &TrainConfig, options: &RunOptions) -> Result<Option<Server>, TrainError> {
    let mlflow = config.tracking.mlflow.as_ref();
    Ok(mlflow.map(|mlflow| Server::new(mlflow, &options.mlflow)).transpose()?)
}

/// Cuts what was told after `place`, which is gone back to.
pub(super) fn cut(folder: &RunFolder, place: &Place) -> Result<(), TrainError> {
    if !folder.writes() {
        return Ok(());
    }
    let write = |path, source| TrainError::Write { path, source };
    StepLines::cut(&folder.steps(), place.step).map_err(|source| write(folder.steps(), source))?;
    EventFile::cut(&folder.tensorboard(), place.step, place.epochs)
        .map_err(|source| write(folder.tensorboard(), source))
}

impl Watch {
    /// Begins to tell. `resolved` is the run's config as it is kept; `window` what a run that goes on had kept of its
    /// own, and `sums` those that it goes on with.
    pub(super) fn begin(
        folder: &RunFolder,
        resolved: &TrainConfig,
        training: &Training,
        server: Option<Server>,
        window: Option<Window>,
        sums: &Sums,
    ) -> Result<Self, TrainError> {
        let tracking = &resolved.tracking;
        let write = |path, source| TrainError::Write { path, source };
        let lines =
            tracking.every.filter(|_| folder.writes()).map(|_| StepLines::open(&folder.steps())).transpose();
        let lines = lines.map_err(|source| write(folder.steps(), source))?;
        let events = (tracking.tensorboard && folder.writes()).then(|| events(folder, resolved)).transpose();
        let events = events.map_err(|source| write(folder.tensorboard(), source))?;
        let epoch_lines = if tracking.every.is_some() { LineKind::EpochBesideSteps } else { LineKind::Epoch };
        let server = server.filter(|_| folder.writes());
        let mlflow = server.map(|server| Mlflow::start(server, run(folder, resolved, training, epoch_lines)));
        Ok(Self {
            folder: folder.clone(),
            every: tracking.every,
            epoch_lines,
            lines,
            events,
            mlflow: mlflow.transpose()?,
            // A window that was not kept begins here.
            window: match (window, tracking.every) {
                (Some(window), Some(_)) => window,
                (None, Some(_)) => Window::beginning(sums.totals()),
                (_, None) => Window::default(),
            },
            clock: Clock::default(),
        })
    }

    /// What the next line begins with; nothing where there are no lines.
    pub(super) fn window(&self) -> Option<&Window> {
        self.every.map(|_| &self.window)
    }

    /// Steps follow.
    pub(super) fn go(&mut self) {
        self.clock.go();
    }

    /// No steps for a while.
    pub(super) fn rest(&mut self) {
        self.clock.rest();
    }

    /// A step is done, and `sums` have it. Gives the line that ends with it, if one does: only then the device is
    /// waited for.
    pub(super) fn stepped(&mut self, step: &Step, sums: &Sums, of_tokens: bool) -> Option<StepReport> {
        self.clock.samples += step.samples;
        self.clock.positions += step.positions;
        self.every.filter(|every| step.step.is_multiple_of(*every))?;
        let means = self.window.close(sums.totals());
        let (samples, positions) = self.clock.close();
        Some(StepReport {
            step: step.step,
            epoch: step.epoch,
            learning_rate: step.learning_rate,
            train_loss: means.total.unwrap_or(f64::NAN),
            terms: means.terms,
            gradient_norm: means.gradient_norm,
            samples_per_second: samples,
            positions_per_second: of_tokens.then_some(positions),
        })
    }

    /// Tells a line of steps.
    pub(super) fn tell_step(&mut self, report: &StepReport) -> Result<(), TrainError> {
        if let Some(lines) = &mut self.lines {
            let written = lines.add(report);
            written.map_err(|source| TrainError::Write { path: self.folder.steps(), source })?;
        }
        self.tell(report, LineKind::Step)
    }

    /// Tells an epoch, whose line stands in `metrics.jsonl`.
    pub(super) fn tell_epoch(&mut self, report: &EpochReport) -> Result<(), TrainError> {
        self.tell(report, self.epoch_lines)
    }

    fn tell(&mut self, report: &impl Serialize, kind: LineKind) -> Result<(), TrainError> {
        if let Some(events) = &mut self.events {
            let line = serde_json::to_value(report).map_err(std::io::Error::from);
            let written = line
                .and_then(|line| Line::of(&line, kind).map_or(Ok(()), |line| events.add(seconds(), &line)));
            written.map_err(|source| TrainError::Write { path: self.folder.tensorboard(), source })?;
        }
        if let Some(mlflow) = &self.mlflow {
            mlflow.more();
        }
        Ok(())
    }

    /// The epoch has ended with `sums`; the next one's begin anew.
    pub(super) fn end_epoch(&mut self, sums: &Sums) {
        if self.every.is_some() {
            self.window.end_epoch(&sums.totals());
        }
    }

    /// What keeps the server from being told, said once.
    pub(super) fn trouble(&mut self) -> Option<String> {
        self.mlflow.as_mut().and_then(Mlflow::trouble)
    }

    /// Flushes what was told to the disk: before what the run goes on from is kept.
    pub(super) fn sync(&self) -> Result<(), TrainError> {
        if let Some(lines) = &self.lines {
            lines.sync().map_err(|source| TrainError::Write { path: self.folder.steps(), source })?;
        }
        if let Some(events) = &self.events {
            events.sync().map_err(|source| TrainError::Write { path: self.folder.tensorboard(), source })?;
        }
        Ok(())
    }

    /// The run has ended. Gives what has kept the server from being told, and whether that is new.
    pub(super) fn end(&mut self, outcome: TrainOutcome) -> Option<(String, bool)> {
        let status = match outcome {
            TrainOutcome::Trained => RunStatus::Finished,
            TrainOutcome::Interrupted => RunStatus::Killed,
        };
        self.mlflow.as_mut().and_then(|mlflow| mlflow.end(status))
    }
}

/// A new event file; the first of a run has the config.
fn events(folder: &RunFolder, resolved: &TrainConfig) -> std::io::Result<EventFile> {
    let is_first = !folder.tensorboard().exists();
    let mut events = EventFile::begin(&folder.tensorboard(), seconds())?;
    if is_first {
        events.add_config(seconds(), &toml::to_string(resolved).map_err(std::io::Error::other)?)?;
    }
    Ok(events)
}

/// The run, as a server is told of it.
fn run(
    folder: &RunFolder,
    resolved: &TrainConfig,
    training: &Training,
    epoch_lines: LineKind,
) -> mlflow::Run {
    let mut tags = vec![
        ("mlflow.source.name".to_owned(), "kd-train".to_owned()),
        ("mlflow.source.type".to_owned(), "LOCAL".to_owned()),
        ("kd_cache.version".to_owned(), env!("CARGO_PKG_VERSION").to_owned()),
    ];
    if let Some(cache) = training.samples.cache() {
        tags.push(("kd_cache.cache".to_owned(), cache.dir().display().to_string()));
        tags.push(("kd_cache.teacher_digest".to_owned(), cache.manifest().teacher.digest.to_string()));
    }
    let name = folder.path().canonicalize().unwrap_or_else(|_| folder.path().to_owned());
    mlflow::Run {
        name: name.file_name().map_or("run".into(), |name| name.to_string_lossy().into_owned()),
        params: mlflow::flatten(resolved),
        tags,
        steps: folder.steps(),
        epochs: folder.metrics(),
        epoch_lines,
        kept: folder.mlflow(),
    }
}

/// Since 1970.
fn seconds() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}
