//! What is told of a run while it goes on: lines of steps, event files, a server. Where one of them cannot be told, that is
//! said, and the run goes on: nothing of it is needed to go on from, other than the lines of epochs, which are not here.

use std::io;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use serde::Serialize;

use super::outlet::Outlet;
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
    every: Option<u64>,
    epoch_lines: LineKind,
    lines: Outlet<StepLines>,
    events: Outlet<EventFile>,
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

impl Watch {
    /// Begins to tell, from `place` on: what was told after it is cut. `resolved` is the run's config as it is kept;
    /// `window` what a run that goes on had kept of its own, and `sums` those that it goes on with.
    ///
    /// # Errors
    /// [`TrainError::Mlflow`]: a server that was asked for cannot even be tried.
    pub(super) fn begin(
        folder: &RunFolder,
        resolved: &TrainConfig,
        training: &Training,
        server: Option<Server>,
        place: &Place,
        window: Option<Window>,
        sums: &Sums,
    ) -> Result<Self, TrainError> {
        let tracking = &resolved.tracking;
        let (steps, board) = (folder.steps(), folder.tensorboard());
        let (every, tensorboard) =
            (tracking.every.filter(|_| folder.writes()), tracking.tensorboard && folder.writes());
        // What could not be cut is not added to: lines would stand there twice.
        let cut = |done: fn(&RunFolder, &Place) -> io::Result<()>| match folder.writes() {
            true => done(folder, place),
            false => Ok(()),
        };
        let lines = cut(|folder, place| StepLines::cut(&folder.steps(), place.step));
        let events_cut = cut(|folder, place| EventFile::cut(&folder.tensorboard(), place.step, place.epochs));
        // Of what nobody asked for now nothing is lost.
        let lines = every.map(|_| lines.and_then(|()| StepLines::open(&steps))).transpose();
        let events = tensorboard.then(|| events_cut.and_then(|()| events(folder, resolved))).transpose();
        // The server is told what stands in the file.
        let lost = if server.is_some() { "lines of steps, for MLflow too," } else { "lines of steps" };
        let epoch_lines = if tracking.every.is_some() { LineKind::EpochBesideSteps } else { LineKind::Epoch };
        let server = server.filter(|_| folder.writes());
        let mlflow = server.map(|server| Mlflow::start(server, run(folder, resolved, training, epoch_lines)));
        Ok(Self {
            every: tracking.every,
            epoch_lines,
            lines: Outlet::new(steps, lost, lines),
            events: Outlet::new(board, "TensorBoard's curves", events),
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
    /// waited for. None ends where nothing was counted since the last, of steps that half precision left out.
    pub(super) fn stepped(&mut self, step: &Step, sums: &Sums, of_tokens: bool) -> Option<StepReport> {
        self.clock.samples += step.samples;
        self.clock.positions += step.positions;
        self.every.filter(|every| step.step.is_multiple_of(*every))?;
        let means = self.window.close(sums.totals());
        let train_loss = means.total?;
        let (samples, positions) = self.clock.close();
        Some(StepReport {
            step: step.step,
            epoch: step.epoch,
            learning_rate: step.learning_rate,
            train_loss,
            terms: means.terms,
            gradient_norm: means.gradient_norm,
            samples_per_second: samples,
            positions_per_second: of_tokens.then_some(positions),
        })
    }

    /// Tells a line of steps.
    pub(super) fn tell_step(&mut self, report: &StepReport) {
        self.lines.tell(|lines| lines.add(report));
        self.tell(report, LineKind::Step);
    }

    /// Tells an epoch, whose line stands in `metrics.jsonl`.
    pub(super) fn tell_epoch(&mut self, report: &EpochReport) {
        self.tell(report, self.epoch_lines);
    }

    fn tell(&mut self, report: &impl Serialize, kind: LineKind) {
        self.events.tell(|events| {
            let line = serde_json::to_value(report)?;
            Line::of(&line, kind).map_or(Ok(()), |line| events.add(seconds(), &line))
        });
        if let Some(mlflow) = &self.mlflow {
            mlflow.more();
        }
    }

    /// The epoch has ended with `sums`; the next one's begin anew.
    pub(super) fn end_epoch(&mut self, sums: &Sums) {
        if self.every.is_some() {
            self.window.end_epoch(&sums.totals());
        }
    }

    /// What keeps the run from being told somewhere, said once.
    pub(super) fn troubles(&mut self) -> impl Iterator<Item = String> + use<> {
        let mlflow = self.mlflow.as_mut().and_then(Mlflow::trouble);
        [self.lines.trouble(), self.events.trouble(), mlflow].into_iter().flatten()
    }

    /// Flushes what was told to the disk: before what the run goes on from is kept.
    pub(super) fn sync(&mut self) {
        self.lines.tell(|lines| lines.sync());
        self.events.tell(|events| events.sync());
    }

    /// The run has ended. Gives what has kept it from being told somewhere, and whether that is new.
    pub(super) fn end(&mut self, outcome: TrainOutcome) -> impl Iterator<Item = (String, bool)> + use<> {
        let status = match outcome {
            TrainOutcome::Trained => RunStatus::Finished,
            TrainOutcome::Interrupted => RunStatus::Killed,
        };
        let mlflow = self.mlflow.as_mut().and_then(|mlflow| mlflow.end(status));
        [self.lines.end(), self.events.end(), mlflow].into_iter().flatten()
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
