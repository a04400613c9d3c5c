//! Where a run is, kept so that an interrupted one goes on to the same bits.
//!
//! One file, `checkpoints/state.safetensors`, replaced whole: the student's variables and their average, the projections
//! of losses on features, what the optimizer remembers, the sums of the epoch at hand and where the last line of steps
//! was in them, and a few numbers. A module that holds state of its own lies beside
//! it, in a file that is named after the step and written first.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use tch::{Kind, Tensor};

use super::sums::Sums;
use super::window::Window;
use super::{RunFolder, TrainError};
use crate::checkpoint;
use crate::loss::FeatureLoss;
use crate::optim::{Average, Optimizer};
use crate::student::{State, Student};

const MODEL: &str = "model.";
const OPTIMIZER: &str = "optimizer.";
const AVERAGE: &str = "average.";
const PROJECTION: &str = "projection.";
const SUMS: &str = "sums.";
const WINDOW: &str = "window.";
const NUMBERS: &str = "numbers";
const SCORE: &str = "score";

/// How far a run is.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Place {
    /// Epochs done.
    pub(super) epochs: u32,
    /// Batches done of the next one.
    pub(super) batches: u64,
    /// Steps done in all.
    pub(super) step: u64,
    /// The best epoch so far, from 1, and its score.
    pub(super) best: Option<(u32, f64)>,
}

/// Keeps everything that the rest of the run depends on.
pub(super) fn save(
    folder: &RunFolder,
    place: &Place,
    student: &mut dyn Student,
    features: &FeatureLoss,
    optimizer: &Optimizer,
    average: Option<&Average>,
    (sums, window): (&Sums, Option<&Window>),
) -> Result<(), TrainError> {
    if !folder.writes() {
        return Ok(());
    }
    if student.state() == State::Module {
        checkpoint::export(student, &module(folder, place.step))?;
        student.set_training(true);
    }
    let (optimizer_steps, memory) = optimizer.state();
    let mut named: Vec<(String, Tensor)> = Vec::new();
    named.extend(
        student.variables().variables().into_iter().map(|(name, value)| (MODEL.to_owned() + &name, value)),
    );
    let projections = features.variables().variables();
    named.extend(projections.into_iter().map(|(name, value)| (PROJECTION.to_owned() + &name, value)));
    named.extend(memory.into_iter().map(|(name, value)| (OPTIMIZER.to_owned() + &name, value)));
    if let Some(average) = average {
        named.extend(average.state().into_iter().map(|(name, value)| (AVERAGE.to_owned() + &name, value)));
    }
    named.extend(sums.tensors().into_iter().map(|(name, value)| (SUMS.to_owned() + &name, value)));
    let window = window.map(Window::tensors).unwrap_or_default();
    named.extend(window.into_iter().map(|(name, value)| (WINDOW.to_owned() + &name, value)));
    let (best, score) = place.best.map_or((0, 0.0), |(epoch, score)| (epoch, score));
    let over = sums.over();
    // Counts far below 2⁶³.
    let numbers = [
        u64::from(place.epochs),
        place.batches,
        place.step,
        u64::from(best),
        optimizer_steps,
        over.positions as u64,
        over.labels as u64,
        sums.steps(),
    ];
    named.push((NUMBERS.into(), Tensor::from_slice(&numbers.map(|number| number as i64))));
    named.push((SCORE.into(), Tensor::from_slice(&[score])));
    named.sort_by(|a, b| a.0.cmp(&b.0));
    checkpoint::save_tensors(&named, &folder.state())?;
    remove_others(folder, place.step);
    Ok(())
}

/// The module's file of a step.
fn module(folder: &RunFolder, step: u64) -> PathBuf {
    folder.state().with_file_name(format!("state-{step}.pt"))
}

/// Modules of earlier steps are of no more use; what cannot be removed does no harm.
fn remove_others(folder: &RunFolder, step: u64) {
    let keep = module(folder, step);
    let Some(entries) = keep.parent().and_then(|parent| fs::read_dir(parent).ok()) else { return };
    for path in entries.flatten().map(|entry| entry.path()) {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if path != keep && name.starts_with("state-") && name.ends_with(".pt") {
            drop(fs::remove_file(path));
        }
    }
}

/// What was kept.
pub(super) struct Kept {
    pub(super) place: Place,
    pub(super) sums: Sums,
    /// Where the last line of steps was, if there were such lines.
    pub(super) window: Option<Window>,
    /// The module to begin with, where the student holds state of its own.
    pub(super) module: Option<PathBuf>,
    named: BTreeMap<String, Tensor>,
    optimizer_steps: u64,
}

impl Kept {
    /// What the run in `folder` has kept.
    ///
    /// # Errors
    /// [`TrainError::NothingToResume`], or the checkpoint's own.
    pub(super) fn read(folder: &RunFolder) -> Result<Self, TrainError> {
        let path = folder.state();
        if !path.exists() {
            return Err(TrainError::NothingToResume { path });
        }
        let named: BTreeMap<String, Tensor> = checkpoint::read_tensors(&path)?.into_iter().collect();
        let damaged = |problem: &str| TrainError::State { path: path.clone(), problem: problem.into() };
        let list = |name: &str| named.get(name).ok_or_else(|| damaged("it is no state of a run"));
        let numbers = Vec::<i64>::try_from(list(NUMBERS)?).unwrap_or_default();
        let score = Vec::<f64>::try_from(list(SCORE)?).unwrap_or_default();
        let numbers: Vec<u64> = numbers.into_iter().map(i64::unsigned_abs).collect();
        let (&[epochs, batches, step, best, optimizer_steps, positions, labels, steps], &[score]) =
            (numbers.as_slice(), score.as_slice())
        else {
            return Err(damaged("expected 8 numbers and a score"));
        };
        let epoch = |number: u64| u32::try_from(number).map_err(|_| damaged("expected fewer epochs"));
        let best = (best > 0).then(|| Ok::<_, TrainError>((epoch(best)?, score))).transpose()?;
        let place = Place { epochs: epoch(epochs)?, batches, step, best };
        let sum = |(name, sum): (&String, &Tensor)| {
            Some((name.strip_prefix(SUMS)?.to_owned(), sum.to_kind(Kind::Double)))
        };
        let sums = Sums::restored(positions as usize, labels as usize, steps, named.iter().filter_map(sum));
        let since = |(name, value): (&String, &Tensor)| {
            Some((name.strip_prefix(WINDOW)?.to_owned(), value.shallow_clone()))
        };
        let window = Window::restored(named.iter().filter_map(since));
        let module = Some(module(folder, step)).filter(|module| module.exists());
        Ok(Self { place, sums, window, module, named, optimizer_steps })
    }

    /// Puts student, projections and optimizer where they were.
    ///
    /// # Errors
    /// [`TrainError::State`]: the state of another student.
    pub(super) fn put(
        &self,
        folder: &RunFolder,
        student: &mut dyn Student,
        features: &FeatureLoss,
        optimizer: &mut Optimizer,
        average: Option<&mut Average>,
    ) -> Result<(), TrainError> {
        let own = student.variables().variables().into_iter().map(|(name, v)| (MODEL.to_owned() + &name, v));
        let projections = features.variables().variables().into_iter();
        let projections = projections.map(|(name, variable)| (PROJECTION.to_owned() + &name, variable));
        checkpoint::put(own.chain(projections), &self.named)
            .map_err(|problem| TrainError::State { path: folder.state(), problem })?;
        let memory = |of: &str| {
            let named = self.named.iter();
            let own = named.filter_map(|(name, value)| Some((name.strip_prefix(of)?.to_owned(), value)));
            own.map(|(name, value)| (name, value.shallow_clone())).collect()
        };
        optimizer.restore(self.optimizer_steps, &memory(OPTIMIZER));
        if let Some(average) = average {
            average.restore(self.place.step, &memory(AVERAGE));
        }
        Ok(())
    }
}
