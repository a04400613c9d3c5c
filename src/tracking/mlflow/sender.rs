//! The thread that sends a run's lines.

use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::api::{Failure, METRICS_PER_CALL, Metric, PARAMS_PER_CALL};
use super::kept::Kept;
use super::params::name;
use super::tail::Tail;
use super::{MlflowError, Server};
use crate::tracking::{Line, LineKind};

/// Tries, one after the other, before it is said that the server is away.
const TRIES: u32 = 5;
/// The pause after the first of them; each one is followed by a pause of twice the length.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// The pause between two tries when that has been said.
const LONG_PAUSE: Duration = Duration::from_secs(60);
/// Tries when the run has ended, and how long it then waits for them in all.
const LAST_TRIES: u32 = 2;
const TO_END: Duration = Duration::from_secs(20);

/// How a run on the server is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunStatus {
    /// It goes on.
    Running,
    /// It came to its end.
    Finished,
    /// It could not go on.
    Failed,
    /// It was stopped.
    Killed,
}

impl RunStatus {
    /// MLflow's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "RUNNING",
            Self::Finished => "FINISHED",
            Self::Failed => "FAILED",
            Self::Killed => "KILLED",
        }
    }
}

/// A run, and where its lines stand.
#[derive(Clone, Debug)]
pub struct Run {
    /// Its name, where the config gives none.
    pub name: String,
    /// The config, by [`super::flatten`].
    pub params: Vec<(String, String)>,
    /// What else is told once.
    pub tags: Vec<(String, String)>,
    /// `steps.jsonl`, which may not be there.
    pub steps: PathBuf,
    /// `metrics.jsonl`.
    pub epochs: PathBuf,
    /// How the lines of epochs are read.
    pub epoch_lines: LineKind,
    /// Where to keep what the server has got.
    pub kept: PathBuf,
}

/// Sends a run's lines to a server while it goes on.
///
/// Nothing here waits for the server but [`Self::end`], and that not for long. A run that is dropped without it has
/// failed.
#[derive(Debug)]
pub struct Mlflow {
    uri: String,
    shared: Arc<Shared>,
    /// Whether it was said that the server is away.
    said: bool,
    ended: bool,
}

/// What both threads know.
#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Whether there may be lines that have not been looked at.
    more: bool,
    end: Option<RunStatus>,
    /// Whether the thread has come to its end.
    done: bool,
    /// What keeps lines from the server.
    trouble: Option<String>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state());
        self.changed.notify_all();
    }

    /// Waits for what is to be done.
    fn wait_for_work(&self) {
        let idle = |state: &mut State| !state.more && state.end.is_none();
        drop(self.changed.wait_while(self.state(), idle));
    }

    /// Waits at most so long for what `wanted` waits for.
    fn wait(&self, most: Duration, wanted: impl Fn(&State) -> bool) {
        drop(self.changed.wait_timeout_while(self.state(), most, |state| !wanted(state)));
    }
}

/// Says that the thread has come to its end, however it did.
struct Done(Arc<Shared>);

impl Drop for Done {
    fn drop(&mut self) {
        self.0.change(|state| state.done = true);
    }
}

impl Mlflow {
    /// Begins to send, on a thread of its own: first what stands in the files and has not been sent.
    ///
    /// # Errors
    /// [`MlflowError::Thread`].
    pub fn start(server: Server, run: Run) -> Result<Self, MlflowError> {
        let uri = server.client.uri().to_owned();
        let shared = Arc::new(Shared::default());
        shared.state().more = true;
        let mut sender = Sender {
            kept: Kept::read(&run.kept, &uri, &server.experiment),
            steps: Tail::new(run.steps.clone(), LineKind::Step),
            epochs: Tail::new(run.epochs.clone(), run.epoch_lines),
            begun: false,
            time: None,
            shared: shared.clone(),
            server,
            run,
        };
        let done = Done(shared.clone());
        let work = move || {
            let _done = done;
            sender.work();
        };
        thread::Builder::new().name("mlflow".into()).spawn(work).map_err(MlflowError::Thread)?;
        Ok(Self { uri, shared, said: false, ended: false })
    }

    /// Says that the files have grown.
    pub fn more(&self) {
        self.shared.change(|state| state.more = true);
    }

    /// What keeps lines from the server, said once.
    pub fn trouble(&mut self) -> Option<String> {
        let trouble = if self.said { None } else { self.shared.state().trouble.clone() };
        self.said |= trouble.is_some();
        trouble.map(|trouble| self.warning(&trouble))
    }

    /// Sends what is left and says how the run ended; gives what has kept lines from the server, and whether that is
    /// new.
    pub fn end(&mut self, status: RunStatus) -> Option<(String, bool)> {
        self.ended = true;
        self.shared.change(|state| state.end = Some(status));
        self.shared.wait(TO_END, |state| state.done);
        let state = self.shared.state();
        let slow = || format!("{} does not answer in time", self.uri);
        let trouble = state.trouble.clone().or_else(|| (!state.done).then(slow));
        trouble.map(|trouble| (self.warning(&trouble), !self.said))
    }

    fn warning(&self, trouble: &str) -> String {
        format!(
            "warning: MLflow: {trouble}. The run is not disturbed by it; lines that the server has not got are in its \
             folder, and are sent when it answers, or by the same command with --resume"
        )
    }
}

impl Drop for Mlflow {
    fn drop(&mut self) {
        if !self.ended {
            self.end(RunStatus::Failed);
        }
    }
}

/// What the thread has.
struct Sender {
    server: Server,
    run: Run,
    shared: Arc<Shared>,
    kept: Option<Kept>,
    /// Whether the run on the server is there, with its parameters, and known to go on.
    begun: bool,
    /// The time of the metrics that are being sent. One that is sent again, because the answer to the first was lost, is
    /// the same to MLflow only if its time is, too.
    time: Option<u64>,
    steps: Tail,
    epochs: Tail,
}

impl Sender {
    /// Sends until the run has ended, or the server refuses what would be no other the next time.
    fn work(&mut self) {
        let (mut failed, mut failed_at_end) = (0, 0);
        loop {
            self.shared.wait_for_work();
            let end = {
                let mut state = self.shared.state();
                state.more = false;
                state.end
            };
            let Err(Failure { again, problem, .. }) = self.send(end) else {
                failed = 0;
                self.shared.change(|state| state.trouble = None);
                if end.is_some() {
                    return;
                }
                continue;
            };
            failed += 1;
            failed_at_end += u32::from(end.is_some());
            let gives_up = !again || failed_at_end >= LAST_TRIES;
            if gives_up || failed >= TRIES {
                self.shared.change(|state| state.trouble = Some(problem));
            }
            if gives_up {
                return;
            }
            if end.is_some() {
                thread::sleep(FIRST_PAUSE);
            } else {
                let pause = if failed < TRIES { FIRST_PAUSE * 2u32.pow(failed - 1) } else { LONG_PAUSE };
                self.shared.wait(pause, |state| state.end.is_some());
            }
            self.more();
        }
    }

    fn more(&self) {
        self.shared.state().more = true;
    }

    /// Sends everything that the server has not got, and how the run ended, if it has.
    fn send(&mut self, end: Option<RunStatus>) -> Result<(), Failure> {
        let mut kept = match &self.kept {
            Some(kept) => kept.clone(),
            None => self.create()?,
        };
        if !self.begun {
            self.begin(&mut kept)?;
        }
        while self.send_lines(&mut kept)? {}
        match end {
            Some(status) => self.server.client.update_run(&kept.run_id, status, Some(now())),
            None => Ok(()),
        }
    }

    /// The run on the server, new.
    fn create(&mut self) -> Result<Kept, Failure> {
        let Self { server, run, .. } = &*self;
        let experiment = server.client.experiment(&server.experiment)?;
        let name = server.run_name.as_ref().unwrap_or(&run.name);
        let run_id = server.client.create_run(&experiment, name, now(), &run.tags)?;
        let (uri, experiment) = (server.client.uri().to_owned(), server.experiment.clone());
        let kept = Kept { uri, experiment, run_id, params: false, step: 0, epoch_step: 0 };
        self.keep(&kept)?;
        Ok(kept)
    }

    /// Gives the run its parameters, or lets one that was there go on.
    fn begin(&mut self, kept: &mut Kept) -> Result<(), Failure> {
        if !kept.params {
            for params in self.run.params.chunks(PARAMS_PER_CALL) {
                self.server.client.log(&kept.run_id, &[], params)?;
            }
            kept.params = true;
            self.keep(kept)?;
        } else {
            self.server.client.update_run(&kept.run_id, RunStatus::Running, None)?;
        }
        self.begun = true;
        Ok(())
    }

    /// Sends the next lines of either file; `false` where there are none.
    fn send_lines(&mut self, kept: &mut Kept) -> Result<bool, Failure> {
        let unread = |error: std::io::Error| Failure::here(format!("cannot read the run's lines: {error}"));
        let (steps, epochs) = (self.steps.next().map_err(unread)?, self.epochs.next().map_err(unread)?);
        if steps.is_none() && epochs.is_none() {
            return Ok(false);
        }
        let lines = steps.iter().chain(&epochs).flat_map(|next| &next.lines);
        // What an interrupted run does again comes out as it did before, and stands there already.
        let new: Vec<&Line> = lines
            .filter(|line| if line.of_epoch { line.step > kept.epoch_step } else { line.step > kept.step })
            .collect();
        let time = *self.time.get_or_insert_with(now);
        let metric = |line: &Line, (key, value): &(String, f64)| Metric {
            key: name(key),
            value: *value,
            time,
            step: line.step,
        };
        let metrics: Vec<Metric> = new
            .iter()
            .flat_map(|line| line.figures.iter().map(move |figure| (line, figure)))
            .map(|(line, figure)| metric(line, figure))
            .collect();
        for metrics in metrics.chunks(METRICS_PER_CALL) {
            self.server.client.log(&kept.run_id, metrics, &[])?;
        }
        self.time = None;
        for line in &new {
            if line.of_epoch {
                kept.epoch_step = kept.epoch_step.max(line.step);
            } else {
                kept.step = kept.step.max(line.step);
            }
        }
        if !new.is_empty() {
            self.keep(kept)?;
        }
        if let Some(steps) = &steps {
            self.steps.done(steps);
        }
        if let Some(epochs) = &epochs {
            self.epochs.done(epochs);
        }
        Ok(true)
    }

    fn keep(&mut self, kept: &Kept) -> Result<(), Failure> {
        self.kept = Some(kept.clone());
        let path = &self.run.kept;
        kept.write(path).map_err(|error| Failure::here(format!("cannot write {}: {error}", path.display())))
    }
}

/// Milliseconds since 1970.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}
