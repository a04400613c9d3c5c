//! What goes from epoch to epoch, and the step.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use tch::{Cuda, Device, Tensor};

use super::evaluate::evaluate;
use super::further::Further;
use super::setup::Training;
use super::state::{self, Place};
use super::step::backward;
use super::sums::Sums;
use super::upload::{Loaded, means, on_device};
use super::validation::ValidationSet;
use super::watch::{Step, Watch};
use super::{EpochReport, RunFolder, TrainError};
use crate::config::{Setting, TrainConfig};
use crate::loader::{Order, Ranks, Share, share};
use crate::loss::{LossSchedule, LossTerms, Means, WeightedLoss};
use crate::metrics::Evaluation;
use crate::ops::Progress;
use crate::optim::{Average, Optimizer, Schedule};
use crate::student::Student;

/// Steps between two looks at the loss: each one waits for the device.
const STEPS_PER_LOOK: u64 = 50;

/// Seeds every generator of libtorch's.
pub(super) fn seed(seed: u64, device: Device) {
    // Seeds are bit patterns: the conversion keeps every one of them apart.
    tch::manual_seed(seed as i64);
    if let Device::Cuda(_) = device {
        Cuda::manual_seed_all(seed);
    }
}

/// A run on its way.
pub(super) struct Course<'a> {
    pub(super) config: &'a TrainConfig,
    pub(super) training: &'a Training,
    pub(super) folder: &'a RunFolder,
    pub(super) loss: WeightedLoss,
    pub(super) loss_schedule: LossSchedule,
    pub(super) further: Further,
    pub(super) optimizer: Optimizer,
    /// Of the weights, where it is what is measured and kept.
    pub(super) average: Option<Average>,
    pub(super) schedule: Schedule,
    /// Epochs without a better one that end the run.
    pub(super) patience: Option<u32>,
    pub(super) device: Device,
    pub(super) ranks: Ranks,
    pub(super) place: Place,
    /// Of the epoch at hand.
    pub(super) sums: Sums,
    pub(super) watch: Watch,
    /// The loss when it was last read back.
    pub(super) last_loss: Option<f64>,
}

impl Course<'_> {
    /// Whether there is another epoch.
    pub(super) fn goes_on(&self) -> bool {
        let section = &self.config.train;
        let best = self.place.best.map_or(0, |(epoch, _)| epoch);
        self.place.epochs < section.epochs
            && section.max_steps.is_none_or(|most| self.place.step < most)
            && self.patience.is_none_or(|patience| self.place.epochs - best < patience)
    }

    /// The next epoch begins at its first batch; an epoch that `train.max_steps` cut short can go on.
    pub(super) fn end_epoch(&mut self, batches: u64) {
        if self.place.batches < batches {
            return;
        }
        self.place.epochs += 1;
        self.place.batches = 0;
        self.watch.end_epoch(&self.sums);
        self.sums = Sums::default();
    }

    /// Puts the average in place of the weights, and the next time back.
    pub(super) fn swap(&mut self) {
        if let Some(average) = &mut self.average {
            average.swap();
        }
    }

    /// Refuses to go on with a student of which something that it learns, or a built-in one's running statistics, is no number
    /// any more: these do not show in the loss of training, which does not use them.
    pub(super) fn check(&self, student: &dyn Student, epoch: u32) -> Result<(), TrainError> {
        let mut variables: Vec<_> = student.variables().variables().into_iter().collect();
        variables.sort_by(|a, b| a.0.cmp(&b.0));
        let changes = |name: &str, value: &Tensor| value.requires_grad() || name.contains("running_");
        let finite = |value: &Tensor| value.isfinite().all().int64_value(&[]) != 0;
        match variables.into_iter().find(|(name, value)| changes(name, value) && !finite(value)) {
            None => Ok(()),
            Some((name, _)) => {
                let batch = self.config.train.batch;
                let last = (self.config.train.used_of(self.training.samples.len()) - 1) % batch as u64 + 1;
                Err(TrainError::NotFinite { epoch, name, last, batch })
            }
        }
    }

    /// Every set, as the student is now; `None` when `stop` was set.
    pub(super) fn measure(
        &self,
        student: &dyn Student,
        sets: &[ValidationSet],
        stop: &AtomicBool,
    ) -> Result<Option<BTreeMap<String, Evaluation>>, TrainError> {
        let (batch, classes) = (self.config.train.batch, self.training.classes);
        let mut validation = BTreeMap::new();
        for set in sets {
            let Some(measured) = evaluate(student, set, batch, classes, self.device, stop)? else {
                return Ok(None);
            };
            validation.insert(set.name.clone(), measured);
        }
        Ok(Some(validation))
    }

    /// What was measured after `epoch`. Where nothing was, its steps are kept, so that who goes on begins with measuring.
    pub(super) fn or_keep<T>(
        &mut self,
        epoch: u32,
        measured: Result<Option<T>, TrainError>,
        student: &mut dyn Student,
    ) -> Result<Option<T>, TrainError> {
        if let Ok(Some(measured)) = measured {
            return Ok(Some(measured));
        }
        self.swap();
        self.keep(student)?;
        measured.map_err(|source| TrainError::NotMeasured { epoch, source: Box::new(source) })
    }

    pub(super) fn keep(&mut self, student: &mut dyn Student) -> Result<(), TrainError> {
        self.watch.sync();
        let (features, optimizer, average) = (&self.further.features, &self.optimizer, self.average.as_ref());
        let figures = (&self.sums, self.watch.window());
        state::save(self.folder, &self.place, student, features, optimizer, average, figures)
    }

    /// Says what keeps the run from being told somewhere, once.
    pub(super) fn say_troubles(&mut self, progress: &dyn Progress) {
        self.watch.troubles().for_each(|trouble| progress.say(&trouble));
    }

    /// The rest of one pass over the samples; `None` when it was stopped.
    pub(super) fn epoch(
        &mut self,
        student: &mut dyn Student,
        stop: &AtomicBool,
        progress: &dyn Progress,
    ) -> Result<Option<EpochReport>, TrainError> {
        let (section, samples) = (&self.config.train, &self.training.samples);
        let epoch = self.place.epochs + 1;
        let (total, before) = (section.used_of(samples.len()), self.sums.over().positions);
        let done = (self.place.batches * section.batch as u64).min(total);
        progress.phase(&format!("epoch {epoch}/{}", section.epochs), total, done);
        // Until this epoch's own.
        self.last_loss.inspect(|loss| progress.loss(*loss));
        let of_tokens = samples.image_shape().is_none();
        let begun = Instant::now();
        self.watch.go();
        let order = Order::Shuffled { seed: self.config.seed, epoch: epoch - 1, within: section.shuffle };
        // Of the step before, should none be left: the state may have been kept after the last one.
        let mut learning_rate = self.schedule.at(self.place.step.saturating_sub(1));
        let mut rows = 0;
        let own = Share { ranks: self.ranks, group: section.accumulate };
        let left = section.batches_of(samples.len()).saturating_sub(self.place.batches);
        let batches = share(samples, order, section.batch, section.prefetch, self.place.batches, own);
        // A last batch that is left out may be made, but nobody takes it.
        let batches = batches.take(usize::try_from(left).unwrap_or(usize::MAX));
        let mut batches = on_device(samples, batches, section.accumulate, self.device);
        while section.max_steps.is_none_or(|most| self.place.step < most) {
            if stop.load(Ordering::Relaxed) {
                self.keep(student)?;
                return Ok(None);
            }
            let mut group = batches.by_ref().take(section.accumulate).collect::<Result<Vec<_>, _>>()?;
            if group.is_empty() {
                break;
            }
            learning_rate = self.schedule.at(self.place.step);
            let seen = self.sums.over().positions;
            let counted = self.step(&*student, &mut group, learning_rate)?;
            self.place.step += 1;
            self.place.batches += group.len() as u64;
            if let Some(loss) = counted.filter(|_| self.place.step.is_multiple_of(STEPS_PER_LOOK)) {
                self.look(epoch, loss.value.double_value(&[]), progress)?;
            }
            let here: u64 = group.iter().map(|batch| batch.counts().samples as u64).sum();
            rows += here;
            let positions = self.sums.over().positions - seen;
            let done = Step { epoch, step: self.place.step, learning_rate, samples: here, positions };
            if let Some(line) = self.watch.stepped(&done, &self.sums, of_tokens) {
                self.look(epoch, line.train_loss, progress)?;
                self.watch.tell_step(&line);
                self.say_troubles(progress);
            }
            if section.keep_every.is_some_and(|every| self.place.step.is_multiple_of(every)) {
                self.keep(student)?;
            }
            progress.advance(here);
        }
        let means = self.sums.means();
        let train_loss = means.total.ok_or(TrainError::NothingLearned { epoch })?;
        self.look(epoch, train_loss, progress)?;
        let seconds = begun.elapsed().as_secs_f64();
        self.watch.rest();
        let rate = |count: f64| count / seconds.max(f64::MIN_POSITIVE);
        let positions = self.sums.over().positions - before;
        let loss = &self.config.loss;
        let at = |setting: &Setting| self.loss_schedule.value(setting, self.place.step.saturating_sub(1));
        let skipped = self.optimizer.skipped();
        Ok(Some(EpochReport {
            epoch,
            step: self.place.step,
            learning_rate,
            train_loss,
            terms: means.terms,
            temperature: loss.temperature.changes().then(|| at(&loss.temperature)),
            weights: loss.weights.changing().map(|(name, weight)| (name.to_owned(), at(&weight))).collect(),
            gradient_norm: means.gradient_norm,
            loss_scale: skipped.is_some().then(|| self.optimizer.loss_scale()),
            skipped_steps: skipped,
            seconds,
            samples_per_second: rate(rows as f64),
            positions_per_second: of_tokens.then(|| rate(positions as f64)),
            validation: BTreeMap::new(),
        }))
    }

    /// One step on the batches of `group`, whose gradients are those of one batch. `None` where they have nothing to be learned from, and
    /// where it was left out and its loss is no number: half precision does not hold it.
    fn step(
        &mut self,
        student: &dyn Student,
        group: &mut [Loaded],
        learning_rate: f64,
    ) -> Result<Option<LossTerms>, TrainError> {
        // What is random in a step depends on nothing but its number, and on the rank.
        let shared = self.config.seed ^ self.place.step.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        seed(self.ranks.seed(shared), self.device);
        self.loss.set(&self.loss_schedule.at(self.place.step))?;
        self.optimizer.zero_grad();
        let (over, scale) = (means(group), self.optimizer.loss_scale());
        let mut sum: Option<LossTerms> = None;
        for loaded in group {
            // Rows without a response have nothing to be learned from.
            if loaded.counts().positions == 0 {
                continue;
            }
            let Some((_, there)) = loaded.own(&self.training.samples, self.device) else { continue };
            let classes = self.training.classes;
            backward(student, &there, &self.loss, &self.further, over, classes, scale)?.add_to(&mut sum);
        }
        let counted = sum.map(|terms| self.apply(terms, over, learning_rate)).transpose()?.flatten();
        // Its decay depends on the number of the step, which goes on whatever was learned.
        if let Some(average) = &mut self.average {
            average.update();
        }
        Ok(counted)
    }

    /// Changes weights by the gradients that are there, and counts what was lost; `None` as [`Self::step`] has it.
    fn apply(
        &mut self,
        terms: LossTerms,
        over: Means,
        learning_rate: f64,
    ) -> Result<Option<LossTerms>, TrainError> {
        // Gradients are final from here on, and only here: what changes them, a sum over devices say, comes first.
        let (mut norm, usable) = (None, self.optimizer.unscale()?);
        if usable {
            norm = self.clip();
            self.optimizer.step(learning_rate);
        }
        let counts = usable || terms.value.double_value(&[]).is_finite();
        if counts {
            self.sums.add(&terms, over, norm.as_ref());
        }
        Ok(counts.then_some(terms))
    }

    /// Makes gradients smaller as the config asks, and gives their norm where it is wanted.
    fn clip(&mut self) -> Option<Tensor> {
        let (section, told) = (&self.config.train, self.config.tracking.gradient_norm);
        let Some(most) = section.clip_value else {
            return match section.clip_norm {
                Some(most) => self.optimizer.clip_norm(most),
                None if told => self.optimizer.gradient_norm(),
                None => None,
            };
        };
        // What is told is the norm before anything was clipped; what is clipped by its norm has been by value.
        let wanted = told || section.clip_norm.is_some();
        let norm = wanted.then(|| self.optimizer.gradient_norm()).flatten();
        self.optimizer.clip_value(most);
        section.clip_norm.map(|most| self.optimizer.clip_norm(most));
        norm
    }

    /// Looks at a loss that was read back: it must be a number, and is told as the last one.
    fn look(&mut self, epoch: u32, loss: f64, progress: &dyn Progress) -> Result<(), TrainError> {
        if !loss.is_finite() {
            return Err(TrainError::Diverged { epoch, step: self.place.step, loss });
        }
        self.last_loss = Some(loss);
        progress.loss(loss);
        Ok(())
    }
}
