//! A run from its first step to the exported student.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use tch::Device;

use super::course::{Course, seed};
use super::data::RunData;
use super::further::Further;
use super::infer::{Use, begun_with, eval};
use super::resume::{self, resolved};
use super::retain::{self, BEST, Retention};
use super::select::SelectBy;
use super::setup::{self, Training};
use super::state::{Kept, Place};
use super::sums::Sums;
use super::validation::{self, ValidationSet};
use super::watch::{self, Watch};
use super::{
    EpochReport, RunCaches, RunFolder, TrainError, TrainOutcome, TrainReport, doubt, responses, trial,
};
use crate::checkpoint;
use crate::config::{Precision, StudentConfig, TrainConfig};
use crate::libtorch;
use crate::loader::Ranks;
use crate::loss::{FeatureLoss, LossSchedule, ReturnedLoss, WeightedLoss};
use crate::ops::Progress;
use crate::optim::{Average, Optimizer, Schedule};
use crate::student::{self, Asked, Initialised, State, Student, Wanted};
use crate::tracking::mlflow;

/// Parts the seed of projections from that of the student: neither's first weights depend on the other.
const PROJECTION_STREAM: u64 = 0x7f4a_7c15_9e37_79b9;
/// Before the names of projections among those of the student, none of which has a colon.
const PROJECTION: &str = "projection:";

/// The checkpoint of an epoch that is better than the best and was cut short by `train.max_steps`.
const CUT: &str = "cut";

/// Where a run takes its targets from and where it goes.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// The caches over the training samples, of a teacher each; none for labels alone.
    pub caches: Vec<PathBuf>,
    /// The run's folder.
    pub out: PathBuf,
    /// Whether an earlier run there may be removed.
    pub overwrite: bool,
    /// Whether to go on with an interrupted run there; one that kept nothing begins.
    pub resume: bool,
    /// What the environment says of an MLflow server, for `tracking.mlflow`.
    pub mlflow: mlflow::Access,
    /// Which of several processes of the run this is. More than one are refused: they cannot talk yet.
    pub ranks: Ranks,
}

/// Trains the student of `config`, validates it after each epoch, and exports the best.
///
/// `stop` is looked at before each step; when it is set, the run's state is kept, and the same call with
/// [`RunOptions::resume`] goes on to the same bits as one that was never interrupted.
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
    if options.ranks.world() > 1 {
        return Err(TrainError::Ranks { rank: options.ranks.rank(), world: options.ranks.world() });
    }
    let device = libtorch::resolve(&config.train.device)?;
    if config.train.deterministic {
        libtorch::make_deterministic(device)?;
    }
    if let Some(threads) = config.train.threads {
        tch::set_num_threads(i32::try_from(threads).unwrap_or(i32::MAX));
    }
    let training = setup::training(config, &options.caches)?;
    if let Some(told) = responses::told(&training.samples)? {
        progress.say(&told);
    }
    let samples = training.samples.len();
    if config.train.batches_of(samples) == 0 {
        return Err(TrainError::NoBatch { batch: config.train.batch, samples });
    }
    let weights = &config.loss.weights;
    let loss = WeightedLoss::new(&config.loss, &training.spaces, device)?;
    let knows = training.knows(&config.loss);
    let sets = config
        .validation
        .iter()
        .map(|(name, set)| validation::open(name, set, &knows, &config.loss, device))
        .collect::<Result<Vec<ValidationSet>, TrainError>>()?;
    let server = watch::server(config, options)?;
    let select_by = SelectBy::new(config.train.select_by.as_deref(), &sets)?;
    if options.out.to_str().is_none() {
        return Err(TrainError::NotText { path: options.out.clone() });
    }
    let folder = RunFolder::of_rank(&options.out, options.ranks);
    let resolved = resolved(config, &training);
    let caches = RunCaches::of(training.samples.caches())?;
    let data = RunData::of(&training, knows.class_names, &sets)?;
    // Whoever starts it again and again, as queues do, gives the same command the first time.
    let goes_on = options.resume && !folder.may_begin();
    if options.resume && !goes_on {
        progress.say("nothing was kept of this run to go on from: it begins");
    }
    let mut lock = goes_on.then(|| folder.lock()).transpose()?;
    let kept = goes_on.then(|| resume::open(&folder, &resolved, &caches, &data)).transpose()?;

    seed(config.seed, device);
    let mut student = create(config, &training, kept.as_ref(), device)?;
    sets.iter().try_for_each(|set| set.check(student.as_ref(), device))?;
    freeze(student.as_ref(), &config.train.freeze)?;
    let further = further(config, &training, student.as_ref(), device)?;
    let mut optimizer = Optimizer::new(&config.optimizer, student.variables())?;
    optimizer.add(PROJECTION, further.features.variables());
    if config.train.precision == Precision::F16 {
        optimizer.scale_loss();
    }
    let init = match (&kept, &config.init) {
        (Some(_), Some(_)) => folder.kept_init()?,
        (None, Some(init)) => {
            let done = student::initialise(student.as_mut(), &init.weights, init.layers)?;
            progress.say(&first_weights(&done, &init.weights));
            if let StudentConfig::Llama(llama) = &config.student {
                for other in student::other_model(llama, &init.weights) {
                    progress
                        .say(&format!("warning: init.weights: {}: expected {other}", init.weights.display()));
                }
            }
            Some(done)
        }
        (_, None) => None,
    };
    if kept.is_none() {
        let doubts = trial::of_student(config, student.as_mut(), &training.samples, device);
        doubts.iter().for_each(|doubt| progress.say(doubt));
    }
    let mut average = config.train.ema.map(|decay| Average::new(decay, student.variables()));
    let trainable = student.variables().trainable_variables();
    let parameters = trainable.iter().filter(|v| v.requires_grad()).map(|v| v.numel() as u64).sum();
    let mut report = TrainReport {
        outcome: TrainOutcome::Trained,
        epochs: 0,
        steps: 0,
        samples,
        seconds: 0.0,
        train_loss: None,
        best_epoch: None,
        validation: BTreeMap::new(),
        selected_by: select_by.to_string(),
        checkpoints: Vec::new(),
        cache: options.caches.first().map(|path| path.display().to_string()),
        further_caches: options.caches.iter().skip(1).map(|path| path.display().to_string()).collect(),
        teacher_digest: training.samples.cache().map(|cache| cache.manifest().teacher.digest.to_string()),
        temperature: weights.of_targets().then(|| config.loss.temperature.ends()[0]),
        device: config.train.device.clone(),
        seed: config.seed,
        parameters,
        init,
        warning: doubt::of_tails(config, &training)?,
        tracking_warning: None,
    };
    if let Err(slower) = libtorch::kernels_on(device) {
        progress.say(&format!("warning: {slower}"));
    }
    if let Some(warning) = &report.warning {
        progress.say(warning);
    }
    let (mut place, mut sums, mut window) = (Place::default(), Sums::default(), None);
    let (mut retention, mut scores) = (Retention::new(config.checkpoint), Vec::new());
    // Where a measure chooses, it does among the epochs whose turn it is to be measured.
    let in_turn = |epoch: u32| config.train.validates_after(epoch) || !select_by.is_measure();
    // The last epoch, where it was measured because `train.max_steps` ended the run with it.
    let mut out_of_turn = None;
    match kept {
        None => {
            lock = Some(folder.claim(options.overwrite, options.resume)?);
            caches.write(&folder)?;
            folder.write_config(&resolved)?;
            folder.keep_init(report.init.as_ref())?;
        }
        Some(kept) => {
            folder.write_config(&resume::moved(begun_with(&folder)?, &resolved))?;
            kept.put(&folder, student.as_mut(), &further.features, &mut optimizer, average.as_mut())?;
            (place, sums, window) = (kept.place, kept.sums, kept.window);
            retain::settle_best(&folder, place.best.map(|(epoch, _)| epoch))?;
            sums.move_to(device);
            for EpochReport { epoch, step, train_loss, validation, .. } in
                resume::report(&folder, &place, &mut report)?
            {
                let score = select_by.score(epoch, train_loss, &validation);
                let in_turn = in_turn(epoch);
                scores.push(score);
                retention.add(epoch, step, if in_turn { score } else { f64::NAN }, true);
                let measured = !in_turn && !validation.is_empty();
                out_of_turn = measured.then_some((epoch, score, validation));
            }
            retention.forget_missing(&folder);
        }
    }
    data.write(&folder)?;
    let before = (report.epochs, place.step);
    let batches = config.train.batches_of(samples);
    let peak = config.optimizer.learning_rate();
    let steps_per_epoch = batches.div_ceil(config.train.accumulate as u64);
    let schedule = Schedule::new(&config.schedule, peak, config.train.epochs, steps_per_epoch);
    let every = if select_by.is_measure() { config.train.validate_every } else { 1 };
    let patience = config.train.patience.map(|patience| patience.saturating_mul(every));
    let loss_schedule = LossSchedule::new(&config.loss, config.train.epochs, steps_per_epoch);
    let watch = Watch::begin(&folder, &resolved, &training, server, &place, window, &sums)?;
    let mut course = Course {
        config,
        training: &training,
        folder: &folder,
        loss,
        loss_schedule,
        further,
        optimizer,
        average,
        schedule,
        patience,
        device,
        ranks: options.ranks,
        place,
        sums,
        watch,
        last_loss: report.train_loss,
    };
    course.say_troubles(progress);
    let is_better = |score: f64, place: &Place| {
        place.best.is_none_or(|(_, best)| score > best || best.is_nan() && !score.is_nan())
    };
    let mut best = BEST;
    if let Some((epoch, score, validation)) = out_of_turn
        && course.place.batches == 0
        && !course.goes_on()
        && is_better(score, &course.place)
    {
        // Nothing is added to the run: it ends as it did.
        best = CUT;
        (report.best_epoch, report.validation) = (Some(epoch), validation);
    }
    // An epoch of which steps were kept is told, even if `train.max_steps` leaves no more of them.
    let mut begun_epoch = course.place.batches > 0;
    while std::mem::take(&mut begun_epoch) || course.goes_on() {
        student.set_training(true);
        let trained = course.epoch(student.as_mut(), stop, progress);
        progress.finish();
        let Some(mut trained) = trained? else {
            report.outcome = TrainOutcome::Interrupted;
            break;
        };
        student.set_training(false);
        course.check(student.as_ref(), trained.epoch)?;
        course.swap();
        let turn = config.train.validates_after(trained.epoch);
        let ends = config.train.max_steps.is_some_and(|most| course.place.step >= most);
        let measured = match turn || ends {
            true => course.measure(student.as_ref(), &sets, stop),
            false => Ok(Some(BTreeMap::new())),
        };
        let Some(measured) = course.or_keep(trained.epoch, measured, student.as_mut())? else {
            report.outcome = TrainOutcome::Interrupted;
            break;
        };
        trained.validation = measured;
        folder.save(student.as_mut(), "last")?;
        let score = select_by.score(trained.epoch, trained.train_loss, &trained.validation);
        let whole = course.place.batches >= batches;
        let in_turn = in_turn(trained.epoch);
        scores.push(score);
        retention.add(trained.epoch, trained.step, if in_turn { score } else { f64::NAN }, whole);
        retention.save(&folder, student.as_mut())?;
        if is_better(score, &course.place) && (in_turn || ends) {
            if !whole || !in_turn {
                // Cut short, or measured out of its turn: who resumes goes on as if it had not been looked at.
                best = CUT;
                folder.save(student.as_mut(), CUT)?;
            } else {
                course.place.best = Some((trained.epoch, score));
                retain::offer_best(&folder, student.as_mut(), trained.epoch)?;
            }
            report.best_epoch = Some(trained.epoch);
            report.validation.clone_from(&trained.validation);
        }
        course.swap();
        (report.epochs, report.steps) = (trained.epoch, trained.step);
        report.train_loss = Some(trained.train_loss);
        folder.add_epoch(&trained)?;
        course.watch.tell_epoch(&trained);
        course.end_epoch(batches);
        course.keep(student.as_mut())?;
        retain::settle_best(&folder, course.place.best.map(|(epoch, _)| epoch))?;
        retention.prune(&folder);
        progress.say(&line(&trained, config.train.epochs));
        course.say_troubles(progress);
    }
    if let Some(doubt) = select_by.doubt(&scores) {
        progress.say(&doubt);
    }
    if report.best_epoch.is_some() {
        keep_best(student.as_mut(), &folder, best)?;
        folder.for_transformers(config, &training)?;
        // What chose it was no measure, and its epoch not one whose turn it was.
        let unmeasured = report.validation.is_empty() && !sets.is_empty() && folder.writes();
        if unmeasured && report.outcome == TrainOutcome::Trained {
            let kept = Use { run: folder.path(), config: &resolved, checkpoint: None };
            match eval(&kept, &[], stop) {
                Ok(Some(measured)) => report.validation = measured.validation,
                Ok(None) => report.outcome = TrainOutcome::Interrupted,
                Err(error) => {
                    progress.say(&format!("warning: the student that is kept could not be measured: {error}"))
                }
            }
        }
    }
    if let Some(temperature) = &mut report.temperature {
        *temperature = course.loss_schedule.at(course.place.step.saturating_sub(1)).temperature;
    }
    report.checkpoints = retention.kept();
    let mut untold = Vec::new();
    for (warning, is_new) in course.watch.end(report.outcome) {
        if is_new {
            progress.say(&warning);
        }
        untold.push(warning);
    }
    report.tracking_warning = (!untold.is_empty()).then(|| untold.join("\n"));
    // Of a run that had ended already, this was a look.
    if (report.epochs, course.place.step) != before || report.outcome == TrainOutcome::Interrupted {
        report.seconds += begun.elapsed().as_secs_f64();
    }
    folder.write_summary(&report)?;
    drop(lock);
    Ok(report)
}

/// The student of the config; where a run goes on and the student is a module, the module that it kept.
fn create(
    config: &TrainConfig,
    training: &Training,
    kept: Option<&Kept>,
    device: Device,
) -> Result<Box<dyn Student>, TrainError> {
    let asked = training.samples.image_shape().map_or(Asked::Tokens, Asked::Images);
    let mut student = config.student.clone();
    if let (StudentConfig::Torchscript { path, .. }, Some(module)) =
        (&mut student, kept.and_then(|kept| kept.module.as_ref()))
    {
        path.clone_from(module);
    }
    let student = student::create(&student, asked, training.classes, device)?;
    Ok(student::computed(student, &config.train)?)
}

/// The terms on the teacher's features, with what projects the student's layers to them, and the student's own.
fn further(
    config: &TrainConfig,
    training: &Training,
    student: &dyn Student,
    device: Device,
) -> Result<Further, TrainError> {
    let losses = &config.loss.features;
    let returned = ReturnedLoss::new(&config.loss.returned);
    let layers = losses.iter().map(|loss| loss.layer.clone()).collect();
    let wanted = Wanted { layers, losses: returned.outputs() };
    if wanted.is_empty() {
        return Ok(Further::new(FeatureLoss::new(&[], &[], device), returned));
    }
    let asked = training.samples.image_shape().map_or(Asked::Tokens, Asked::Images);
    let widths = student::widths(student, asked, &wanted, device)?;
    let widths: Vec<(i64, i64)> = widths.into_iter().zip(training.widths.iter().copied()).collect();
    seed(config.seed ^ PROJECTION_STREAM, device);
    Ok(Further::new(FeatureLoss::new(losses, &widths, device), returned))
}

/// Keeps the weights whose names begin with one of `names` as they are.
fn freeze(student: &dyn Student, names: &[String]) -> Result<(), TrainError> {
    let mut variables: Vec<_> = student.variables().variables().into_iter().collect();
    variables.sort_by(|a, b| a.0.cmp(&b.0));
    let known = || variables.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", ");
    if let Some(name) = names.iter().find(|name| !variables.iter().any(|(own, _)| own.starts_with(*name))) {
        return Err(TrainError::Freeze { name: name.clone(), known: known() });
    }
    let frozen = |own: &str| names.iter().any(|name| own.starts_with(name.as_str()));
    if variables.iter().all(|(own, value)| !value.requires_grad() || frozen(own)) {
        return Err(TrainError::AllFrozen);
    }
    for (_, value) in variables.iter().filter(|(own, _)| frozen(own)) {
        drop(value.set_requires_grad(false));
    }
    Ok(())
}

/// What a student begins with, in a line; the report has the rest.
fn first_weights(done: &Initialised, path: &Path) -> String {
    const SHOWN: usize = 5;
    let left = done.left();
    let all = done.taken + left.len() as u64;
    let mut text = format!("{} of {all} weights from {}", done.taken, path.display());
    for (what, names) in [("drawn", &left), ("not used", &done.unused)] {
        if !names.is_empty() {
            let shown = names.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", ");
            let more = if names.len() > SHOWN { ", …; summary.json will have all of them" } else { "" };
            text.push_str(&format!("; {what}: {shown}{more}"));
        }
    }
    text
}

/// Exports the checkpoint `name`.
fn keep_best(student: &mut dyn Student, folder: &RunFolder, name: &str) -> Result<(), TrainError> {
    if !folder.writes() {
        return Ok(());
    }
    let best = folder.checkpoint(name);
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
        let own = [
            ("perplexity", set.perplexity),
            ("accuracy", set.accuracy),
            ("agreement", set.agreement),
            ("KL", set.kl),
        ];
        let of_commands = set.of_commands.iter().map(|(name, value)| (name.as_str(), Some(*value)));
        let shown: Vec<String> = own
            .into_iter()
            .chain(of_commands)
            .filter_map(|(name, value)| Some(format!(" {name} {:.4}", value?)))
            .collect();
        text.push_str(&shown.join(","));
    }
    text
}
