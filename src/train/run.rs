//! A run from its first step to the exported student.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use tch::nn::Optimizer;
use tch::{Cuda, Device, Kind, Tensor};

use super::evaluate::{DeviceBatch, evaluate};
use super::select::SelectBy;
use super::setup::{self, Training, ValidationSet};
use super::step::backward;
use super::{EpochReport, RunFolder, TrainError, TrainOutcome, TrainReport};
use crate::checkpoint;
use crate::config::TrainConfig;
use crate::libtorch;
use crate::loader::{Order, stream};
use crate::loss::{LossTerms, Means, WeightedLoss};
use crate::ops::Progress;
use crate::optim::{self, Schedule};
use crate::student::{self, Asked, Initialised, State, Student};
use crate::target::Temperature;

/// Steps between two looks at the loss: each one waits for the device.
const STEPS_PER_LOOK: u64 = 50;

/// Where a run takes its targets from and where it goes.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// The cache over the training samples.
    pub cache: Option<PathBuf>,
    /// The run's folder.
    pub out: PathBuf,
    /// Whether an earlier run there may be removed.
    pub overwrite: bool,
}

/// Trains the student of `config`, validates it after each epoch, and exports the best.
///
/// `stop` is looked at before each step; when it is set, the epoch at hand is given up and what
/// earlier epochs left in the folder stays.
///
/// # Errors
/// [`TrainError`]. Nothing is written before data, cache, student and device have been checked.
pub fn run(
    config: &TrainConfig,
    options: &RunOptions,
    stop: &AtomicBool,
    progress: &dyn Progress,
) -> Result<TrainReport, TrainError> {
    let begun = Instant::now();
    let device = libtorch::resolve(&config.train.device)?;
    if let Some(threads) = config.train.threads {
        tch::set_num_threads(i32::try_from(threads).unwrap_or(i32::MAX));
    }
    let temperature = Temperature::new(config.loss.temperature)?;
    let training = setup::training(config, options.cache.as_deref())?;
    let weights = &config.loss.weights;
    let loss = WeightedLoss::new(weights, temperature, config.loss.tail, training.space.as_ref(), device)?;
    let sets = config
        .validation
        .iter()
        .map(|(name, set)| {
            let Training { preprocess, classes, .. } = &training;
            setup::validation(name, set, preprocess.as_ref(), *classes, config.loss.tail, device)
        })
        .collect::<Result<Vec<ValidationSet>, TrainError>>()?;
    let select_by = SelectBy::new(config.train.select_by.as_deref(), &sets)?;

    // Seeds are bit patterns: the conversion keeps every one of them apart.
    tch::manual_seed(config.seed as i64);
    if let Device::Cuda(_) = device {
        Cuda::manual_seed_all(config.seed);
    }
    let asked = training.samples.image_shape().map_or(Asked::Tokens, Asked::Images);
    let mut student = student::create(&config.student, asked, training.classes, device)?;
    if let Some(init) = &config.init {
        let done = student::initialise(student.as_mut(), &init.weights)?;
        progress.say(&begun_with(&done, &init.weights));
    }
    let optimizer = optim::build(&config.optimizer, student.variables())
        .map_err(|error| libtorch_failed("making the optimizer", &error))?;
    let steps_per_epoch = training.samples.len().div_ceil(config.train.batch as u64);
    let schedule = Schedule::new(
        &config.schedule,
        config.optimizer.learning_rate(),
        config.train.epochs,
        steps_per_epoch,
    );
    let parameters = student.variables().trainable_variables().iter().map(|v| v.numel() as u64).sum();

    let folder = RunFolder::new(&options.out);
    folder.claim(options.overwrite)?;
    folder.write_config(&resolved(config, &training))?;
    let mut report = TrainReport {
        outcome: TrainOutcome::Trained,
        epochs: 0,
        steps: 0,
        samples: training.samples.len(),
        seconds: 0.0,
        train_loss: None,
        best_epoch: None,
        validation: BTreeMap::new(),
        selected_by: select_by.to_string(),
        cache: options.cache.as_ref().map(|path| path.display().to_string()),
        teacher_digest: training.samples.cache().map(|cache| cache.manifest().teacher.digest.to_string()),
        temperature: (weights.kl > 0.0).then(|| temperature.get()),
        device: config.train.device.clone(),
        seed: config.seed,
        parameters,
    };
    let mut course = Course { config, training: &training, loss, optimizer, schedule, device, step: 0 };
    let mut best_score = f64::NEG_INFINITY;
    for epoch in 1..=config.train.epochs {
        student.set_training(true);
        let trained = course.epoch(epoch, student.as_ref(), stop, progress);
        progress.finish();
        let Some(mut trained) = trained? else {
            report.outcome = TrainOutcome::Interrupted;
            break;
        };
        student.set_training(false);
        for set in &sets {
            let (batch, classes) = (config.train.batch, training.classes);
            let measured = evaluate(student.as_ref(), set, batch, classes, device)?;
            trained.validation.insert(set.name.clone(), measured);
        }
        checkpoint::save(student.as_mut(), &folder.checkpoint("last"))?;
        let score = select_by.score(epoch, trained.train_loss, &trained.validation);
        if report.best_epoch.is_none() || score > best_score {
            best_score = score;
            checkpoint::save(student.as_mut(), &folder.checkpoint("best"))?;
            report.best_epoch = Some(epoch);
            report.validation.clone_from(&trained.validation);
        }
        (report.epochs, report.steps) = (epoch, course.step);
        report.train_loss = Some(trained.train_loss);
        folder.add_epoch(&trained)?;
        progress.say(&line(&trained, config.train.epochs));
    }
    if report.best_epoch.is_some() {
        keep_best(student.as_mut(), &folder)?;
        folder.for_transformers(config, &training)?;
    }
    report.seconds = begun.elapsed().as_secs_f64();
    folder.write_summary(&report)?;
    Ok(report)
}

/// The config with what it left to the cache filled in: the run can be used without the cache.
fn resolved(config: &TrainConfig, training: &Training) -> TrainConfig {
    let mut config = config.clone();
    config.preprocess.clone_from(&training.preprocess);
    config.augment.clone_from(&training.augment);
    *config.student.classes_mut() = Some(training.classes);
    config
}

/// What a student begins with, in a line.
fn begun_with(done: &Initialised, path: &Path) -> String {
    const SHOWN: usize = 5;
    let mut text = format!(
        "{} of {} weights from {}",
        done.taken.len(),
        done.taken.len() + done.left.len(),
        path.display()
    );
    if !done.left.is_empty() {
        let shown = done.left.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", ");
        let more = if done.left.len() > SHOWN { ", …" } else { "" };
        text.push_str(&format!("; drawn: {shown}{more}"));
    }
    text
}

/// What does not change from epoch to epoch, and the step.
struct Course<'a> {
    config: &'a TrainConfig,
    training: &'a Training,
    loss: WeightedLoss,
    optimizer: Optimizer,
    schedule: Schedule,
    device: Device,
    step: u64,
}

impl Course<'_> {
    /// One pass over the samples; `None` when it was stopped.
    fn epoch(
        &mut self,
        epoch: u32,
        student: &dyn Student,
        stop: &AtomicBool,
        progress: &dyn Progress,
    ) -> Result<Option<EpochReport>, TrainError> {
        let (section, samples) = (&self.config.train, &self.training.samples);
        let total = samples.len();
        progress.phase(&format!("epoch {epoch}/{}", section.epochs), total, 0);
        let begun = Instant::now();
        let mut sums = Sums { over: Means { positions: 0, labels: 0 }, terms: [None, None, None] };
        let order = Order::Shuffled { seed: self.config.seed, epoch: epoch - 1 };
        let mut learning_rate = 0.0;
        for batch in stream(samples, order, section.batch, section.prefetch) {
            if stop.load(Ordering::Relaxed) {
                return Ok(None);
            }
            let batch = batch?;
            let rows = batch.ids.len();
            let batch = DeviceBatch::new(&batch, samples.image_shape(), self.device);
            learning_rate = self.schedule.at(self.step);
            self.optimizer.set_lr(learning_rate);
            self.optimizer.zero_grad();
            let terms = backward(student, &batch, &self.loss, self.training.classes)?;
            self.optimizer.step();
            sums.add(&terms, batch.means);
            self.step += 1;
            if self.step.is_multiple_of(STEPS_PER_LOOK) {
                self.check(epoch, terms.total.double_value(&[]))?;
            }
            progress.advance(rows as u64);
        }
        let positions = samples.image_shape().is_none().then_some(sums.over.positions);
        let [train_loss, kl, cross_entropy] = sums.means();
        let train_loss = train_loss.unwrap_or(f64::NAN);
        self.check(epoch, train_loss)?;
        let seconds = begun.elapsed().as_secs_f64();
        Ok(Some(EpochReport {
            epoch,
            step: self.step,
            learning_rate,
            train_loss,
            kl,
            cross_entropy,
            seconds,
            samples_per_second: total as f64 / seconds.max(f64::MIN_POSITIVE),
            positions_per_second: positions
                .map(|positions| positions as f64 / seconds.max(f64::MIN_POSITIVE)),
            validation: BTreeMap::new(),
        }))
    }

    fn check(&self, epoch: u32, loss: f64) -> Result<(), TrainError> {
        if loss.is_finite() { Ok(()) } else { Err(TrainError::Diverged { epoch, step: self.step, loss }) }
    }
}

/// Sums over an epoch's positions, kept on the device: total, kl, cross-entropy.
struct Sums {
    over: Means,
    terms: [Option<Tensor>; 3],
}

impl Sums {
    /// What each term is a mean over.
    fn each(means: Means) -> [usize; 3] {
        [means.positions, means.positions, means.labels]
    }

    fn add(&mut self, terms: &LossTerms, means: Means) {
        self.over.positions += means.positions;
        self.over.labels += means.labels;
        let given = [Some(&terms.total), terms.kl.as_ref(), terms.cross_entropy.as_ref()];
        for ((sum, term), count) in self.terms.iter_mut().zip(given).zip(Self::each(means)) {
            if let Some(term) = term {
                let weighted = term.detach().to_kind(Kind::Double) * count as f64;
                *sum = Some(match sum.take() {
                    Some(sum) => sum + weighted,
                    None => weighted,
                });
            }
        }
    }

    fn means(self) -> [Option<f64>; 3] {
        let counts = Self::each(self.over).map(|count| count.max(1) as f64);
        let mut counts = counts.into_iter();
        self.terms.map(|sum| counts.next().zip(sum).map(|(count, sum)| sum.double_value(&[]) / count))
    }
}

/// Exports the best checkpoint.
fn keep_best(student: &mut dyn Student, folder: &RunFolder) -> Result<(), TrainError> {
    let best = folder.checkpoint("best");
    let (variables, module) = checkpoint::files(&best);
    match student.state() {
        State::Variables => {
            checkpoint::load_variables(student, &best)?;
            checkpoint::export(student, &folder.module())?;
        }
        State::Module => checkpoint::copy(&module, &folder.module())?,
    }
    checkpoint::copy(&variables, &folder.variables())?;
    Ok(())
}

/// An epoch in a line.
fn line(epoch: &EpochReport, epochs: u32) -> String {
    let rate = match epoch.positions_per_second {
        Some(positions) => format!("{positions:.0} tokens/s"),
        None => format!("{:.0} samples/s", epoch.samples_per_second),
    };
    let mut text = format!("epoch {}/{epochs}: loss {:.4}, {rate}", epoch.epoch, epoch.train_loss);
    for (name, set) in &epoch.validation {
        text.push_str(&format!("; {name}:"));
        let measures = [
            ("perplexity", set.perplexity),
            ("accuracy", set.accuracy),
            ("agreement", set.agreement),
            ("KL", set.kl),
        ];
        let shown: Vec<String> =
            measures.iter().filter_map(|(name, value)| Some(format!(" {name} {:.4}", (*value)?))).collect();
        text.push_str(&shown.join(","));
    }
    text
}

fn libtorch_failed(doing: &'static str, error: &tch::TchError) -> TrainError {
    TrainError::Libtorch { doing, problem: libtorch::plain_message(error) }
}
