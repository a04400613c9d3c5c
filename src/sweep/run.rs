//! A sweep from its first run to its last.

use std::collections::VecDeque;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::abreast::Abreast;
use super::plan::{self, Planned};
use super::process::{Ended, Process};
use super::{
    Begin, Order, PointReport, PointState, RankBy, SweepError, SweepFolder, SweepOutcome, SweepReport,
};
use crate::config::{NumberOrAuto, SweepConfig};
use crate::ops::Progress;
use crate::train::{FoundRun, RunFolder, TrainReport};

/// Between two looks at the processes.
const BETWEEN_LOOKS: Duration = Duration::from_millis(50);
/// Between two looks at what they have written.
const BETWEEN_COUNTS: Duration = Duration::from_secs(1);

/// Where a sweep goes.
#[derive(Clone, Debug)]
pub struct SweepOptions {
    /// The sweep's folder.
    pub out: PathBuf,
    /// Cores to divide between runs.
    pub cores: usize,
    /// Whether the points are only planned: nothing is run or written.
    pub plan_only: bool,
}

/// Runs every point of `config` that is not done yet, each as the process that `command` makes of an order.
///
/// `stop` is looked at all the time; when it is set, the runs at work are asked to stop, and the same call goes on
/// later, to the same bits. A run that fails is told, and the others go on.
///
/// # Errors
/// [`SweepError`]. Nothing is started before every point has been checked.
pub fn run(
    config: &SweepConfig,
    options: &SweepOptions,
    command: &dyn Fn(&Order<'_>) -> Command,
    stop: &AtomicBool,
    progress: &dyn Progress,
) -> Result<SweepReport, SweepError> {
    let begun = Instant::now();
    let folder = SweepFolder::new(&options.out);
    let mut points = plan::points(config)?;
    let rank_by = config.rank_by.as_deref().map(|given| RankBy::given(given, &points)).transpose()?;
    let _lock = (!options.plan_only).then(|| folder.claim()).transpose()?;
    let earlier = folder.earlier()?;
    let earlier = |name: &str| earlier.as_ref()?.points.iter().find(|point| point.name == name);
    for planned in &mut points {
        let name = planned.point.name.clone();
        planned.look(&folder, earlier(&name))?;
    }
    let report = SweepReport {
        outcome: if options.plan_only { SweepOutcome::Planned } else { SweepOutcome::Running },
        base: config.base.display().to_string(),
        rank_by: rank_by.as_ref().map(ToString::to_string),
        higher_is_better: rank_by.as_ref().is_some_and(RankBy::higher_is_better),
        keys: config.swept(),
        points: points.iter().map(|planned| of(planned, earlier(&planned.point.name))).collect(),
        seconds: 0.0,
    };
    let mut work = Work { folder, points, rank_by, done: Vec::new(), report, progress };
    work.done = work.points.iter().map(|planned| trained(&planned.found)).collect();
    for at in 0..work.points.len() {
        work.fill(at);
    }
    work.report.rank(work.rank_by.as_ref(), &work.points, &work.done);
    if options.plan_only {
        return Ok(work.report);
    }
    match plan::left_over(&work.folder, &work.points) {
        0 => {}
        more => progress
            .say(&format!("{more} more in {} are no runs of this sweep", work.folder.run("").display())),
    }
    for planned in work.points.iter().filter(|planned| planned.found == FoundRun::Nothing) {
        planned.write_config(&work.folder)?;
    }
    work.folder.write_report(&work.report)?;
    let interrupted = work.all(config.jobs, options.cores, command, stop)?;
    progress.finish();
    let report = &mut work.report;
    report.outcome = match (interrupted, report.count(PointState::Trained) == report.points.len()) {
        (true, _) => SweepOutcome::Interrupted,
        (false, true) => SweepOutcome::Finished,
        (false, false) => SweepOutcome::Failed,
    };
    report.seconds = begun.elapsed().as_secs_f64();
    work.folder.write_report(&work.report)?;
    Ok(work.report)
}

/// What is known of a point before it runs.
fn of(planned: &Planned, earlier: Option<&PointReport>) -> PointReport {
    let state = match planned.found {
        FoundRun::Trained(_) => PointState::Trained,
        FoundRun::Interrupted => PointState::Interrupted,
        FoundRun::Nothing | FoundRun::Begun => PointState::Pending,
    };
    PointReport {
        name: planned.point.name.clone(),
        run: SweepFolder::run_within(&planned.point.name),
        keys: planned.point.keys.clone(),
        state,
        rank: None,
        score: None,
        validation: Default::default(),
        train_loss: None,
        best_epoch: None,
        epochs: None,
        parameters: None,
        student_bytes: None,
        cache: planned.cache.as_ref().map(|cache| cache.display().to_string()),
        cache_bytes: planned.cache_bytes,
        seconds: match planned.found {
            FoundRun::Nothing | FoundRun::Begun => None,
            _ => earlier.and_then(|point| point.seconds),
        },
        error: None,
    }
}

/// What a finished run found out.
fn trained(found: &FoundRun) -> Option<TrainReport> {
    match found {
        FoundRun::Trained(report) => Some((**report).clone()),
        _ => None,
    }
}

struct Work<'a> {
    folder: SweepFolder,
    points: Vec<Planned>,
    rank_by: Option<RankBy>,
    /// What the runs that are done found out.
    done: Vec<Option<TrainReport>>,
    report: SweepReport,
    progress: &'a dyn Progress,
}

/// A process, the point it runs, and the epochs that were told of it.
struct Running {
    at: usize,
    process: Process,
    /// Epochs that were written down when it began, and that have been counted.
    begun_with: u64,
    epochs: u64,
}

impl Work<'_> {
    /// Runs everything that is left; gives whether it was stopped.
    fn all(
        &mut self,
        jobs: NumberOrAuto,
        cores: usize,
        command: &dyn Fn(&Order<'_>) -> Command,
        stop: &AtomicBool,
    ) -> Result<bool, SweepError> {
        let all = 0..self.points.len();
        let mut waiting: VecDeque<usize> = all.clone().filter(|at| self.done[*at].is_none()).collect();
        let on_gpu = |at: &usize| self.points[*at].config.train.device != "cpu";
        let threads = waiting.iter().filter_map(|at| self.points[*at].config.train.threads).max();
        let mut abreast = Abreast::new(jobs, cores, threads, waiting.len(), waiting.iter().any(on_gpu));
        let epochs = |at: usize| u64::from(self.points[at].config.train.epochs);
        let told = all.clone().map(|at| self.done[at].as_ref().map_or(self.epochs(at), |_| epochs(at))).sum();
        self.progress.epochs("sweep", all.map(epochs).sum(), told);
        let (mut running, mut counted) = (Vec::<Running>::new(), Instant::now());
        let mut stopped = false;
        loop {
            if stop.load(Ordering::Relaxed) && !stopped {
                stopped = true;
                running.iter_mut().for_each(|run| run.process.stop());
            }
            while !stopped && running.len() < abreast.now() {
                let Some(at) = waiting.pop_front() else { break };
                match self.start(at, abreast.share(), command)? {
                    Some(process) => {
                        let epochs = self.epochs(at);
                        running.push(Running { at, process, begun_with: epochs, epochs });
                    }
                    // An earlier sweep's process is about to end there.
                    None => {
                        waiting.push_back(at);
                        break;
                    }
                }
            }
            if running.is_empty() && (stopped || waiting.is_empty()) {
                // What was asked to stop may have been done by then.
                return Ok(stopped && self.report.count(PointState::Trained) < self.points.len());
            }
            std::thread::sleep(BETWEEN_LOOKS);
            if let [run] = running.as_slice()
                && abreast.looks()
            {
                let ended = self.epochs(run.at).saturating_sub(run.begun_with);
                if abreast.look(run.process.id(), run.process.begun.elapsed(), ended) {
                    self.progress.say(&format!("jobs = \"auto\": {} at a time", abreast.now()));
                }
            }
            let mut still = Vec::new();
            for mut run in running {
                match run.process.ended() {
                    Some(ended) => self.end(&run, ended)?,
                    None => still.push(run),
                }
            }
            running = still;
            if counted.elapsed() >= BETWEEN_COUNTS {
                counted = Instant::now();
                for run in &mut running {
                    let now = self.epochs(run.at).max(run.epochs);
                    self.progress.advance(now - run.epochs);
                    run.epochs = now;
                }
            }
        }
    }

    /// Epochs that the run of a point has written down.
    fn epochs(&self, at: usize) -> u64 {
        let text = fs::read(self.run(at).metrics()).unwrap_or_default();
        text.iter().filter(|byte| **byte == b'\n').count() as u64
    }

    fn run(&self, at: usize) -> RunFolder {
        RunFolder::new(&self.folder.run(&self.points[at].point.name))
    }

    fn start(
        &mut self,
        at: usize,
        share: Option<usize>,
        command: &dyn Fn(&Order<'_>) -> Command,
    ) -> Result<Option<Process>, SweepError> {
        let run = self.run(at);
        let name = &self.points[at].point.name;
        // It may have been about to end when the points were planned.
        let begin = match run.found()? {
            FoundRun::Nothing => Begin::New,
            FoundRun::Begun => Begin::Over,
            FoundRun::Interrupted | FoundRun::Trained(_) => Begin::GoOn,
        };
        let config = self.folder.config(name);
        let threads = self.threads(at, share, begin)?;
        let order = Order {
            config: &config,
            cache: self.points[at].cache.as_deref(),
            out: run.path(),
            begin,
            threads,
            share,
        };
        let started = Process::start(command(&order), &self.folder.log(name))?;
        if started.is_some() {
            self.report.points[at].state = PointState::Running;
            self.folder.write_report(&self.report)?;
        }
        Ok(started)
    }

    /// The threads of a run: its share, but where it goes on those that it was begun with, because the order of sums
    /// may depend on them.
    fn threads(&self, at: usize, share: Option<usize>, begin: Begin) -> Result<Option<usize>, SweepError> {
        if self.points[at].config.train.threads.is_some() {
            return Ok(None);
        }
        if begin != Begin::GoOn {
            return Ok(share);
        }
        let path = self.run(at).config();
        let read = |source| SweepError::Read { path: path.clone(), source };
        let text = fs::read_to_string(&path).map_err(read)?;
        let begun: toml::Table = toml::from_str(&text).map_err(|error| read(std::io::Error::other(error)))?;
        let threads = begun.get("train").and_then(|train| train.get("threads")?.as_integer());
        Ok(threads.and_then(|threads| usize::try_from(threads).ok()))
    }

    fn end(&mut self, run: &Running, ended: Ended) -> Result<(), SweepError> {
        let at = run.at;
        let session = run.process.begun.elapsed().as_secs_f64();
        let point = &mut self.report.points[at];
        point.seconds = Some(point.seconds.unwrap_or(0.0) + session);
        point.error = None;
        point.state = match ended {
            Ended::Trained => PointState::Trained,
            Ended::Interrupted => PointState::Interrupted,
            Ended::Failed(why) => {
                point.error = Some(why);
                PointState::Failed
            }
        };
        if point.state == PointState::Trained {
            self.done[at] = trained(&self.run(at).found()?);
            self.fill(at);
            self.report.rank(self.rank_by.as_ref(), &self.points, &self.done);
        }
        self.folder.write_report(&self.report)?;
        let point = &self.report.points[at];
        if point.state != PointState::Interrupted {
            // Of one that ended early nothing is left to come.
            let all = u64::from(self.points[at].config.train.epochs);
            self.progress.advance(all.saturating_sub(run.epochs));
        }
        let (ended, all) = (self.count_ended(), self.points.len());
        self.progress.say(&format!("{ended} of {all}: {}", told(point, self.report.rank_by.as_deref())));
        Ok(())
    }

    fn count_ended(&self) -> usize {
        self.report.count(PointState::Trained) + self.report.count(PointState::Failed)
    }

    /// Puts what a finished run found out into the report.
    fn fill(&mut self, at: usize) {
        let Some(run) = &self.done[at] else { return };
        let bytes = fs::metadata(self.run(at).variables()).map(|file| file.len()).ok();
        let point = &mut self.report.points[at];
        point.state = PointState::Trained;
        point.validation.clone_from(&run.validation);
        point.train_loss = run.train_loss;
        point.best_epoch = run.best_epoch;
        point.epochs = Some(run.epochs);
        point.parameters = Some(run.parameters);
        point.student_bytes = bytes;
        point.seconds = point.seconds.or(Some(run.seconds));
    }
}

/// A run that has ended, in a line.
fn told(point: &PointReport, rank_by: Option<&str>) -> String {
    let seconds = point.seconds.unwrap_or(0.0);
    match (point.state, point.score, rank_by) {
        (PointState::Trained, Some(score), Some(rank_by)) => {
            format!("{}: {rank_by} {score:.4}, {seconds:.1} s", point.name)
        }
        (PointState::Trained, ..) => format!("{}: done, {seconds:.1} s", point.name),
        (PointState::Failed, ..) => {
            format!("{}: failed: {}", point.name, point.error.as_deref().unwrap_or("nobody knows why"))
        }
        _ => format!("{}: interrupted", point.name),
    }
}
