//! One target out of several teachers' targets of the same samples.

use tch::{Device, Kind, Tensor};

use super::fused::KlPart;
use super::kernel::OfTargets;
use super::kl::{Probabilities, divergence};
use super::{KlDivergence, LossError, TargetSpace, TargetTensors};
use crate::config::{LossConfig, MixtureAverage, MixtureConfig};
use crate::target::Temperature;

/// The targets of one or several teachers at one temperature, averaged.
///
/// With weights `w_m` that sum to 1 and targets `p_m` at `T`, the average of probabilities is `p = Σ_m w_m p_m`, and that
/// of logits `p ∝ Π_m p_m^{w_m}`, which is `softmax(Σ_m w_m z_m / T)` (You, Xu, Xu & Tao, "Learning from Multiple Teacher
/// Networks", 2017, average the softened outputs; Tran et al., "Hydra", 2020, compare both ways).
#[derive(Debug)]
pub(super) struct Mixture {
    /// With their weights: these sum to 1.
    teachers: Vec<(f64, KlDivergence)>,
    average: MixtureAverage,
}

impl Mixture {
    /// Prepares the average of `spaces`, one for each teacher.
    ///
    /// # Errors
    /// Those of [`KlDivergence::new`] for any of them; [`LossError::Teachers`] where there are not as many weights.
    pub(super) fn new(
        spaces: &[TargetSpace],
        config: &LossConfig,
        temperature: Temperature,
        device: Device,
    ) -> Result<Self, LossError> {
        let weights = weights(&config.mixture, spaces.len())?;
        let teacher =
            |(weight, space)| Ok((weight, KlDivergence::new(space, temperature, config.tail, device)?));
        let teachers = weights.into_iter().zip(spaces).map(teacher).collect::<Result<_, LossError>>()?;
        Ok(Self { teachers, average: config.mixture.average })
    }

    pub(super) fn temperature(&self) -> Temperature {
        self.teachers.first().map_or(Temperature::ONE, |(_, teacher)| teacher.temperature())
    }

    /// Whether a target is known only once it has been written out over all classes.
    fn is_dense(&self) -> bool {
        self.teachers.len() > 1 && self.average == MixtureAverage::Logits
    }

    /// The divergence of each sample, in nats, without the factor `T²`.
    ///
    /// Of an average of probabilities it is `Σ_m w_m KL(p_m ‖ q)`: its gradient is that of `KL(Σ_m w_m p_m ‖ q)`, and its
    /// value is larger by what the teachers differ among themselves, which no student can take away; no target over
    /// all classes is written out for it.
    ///
    /// # Shapes
    /// `logits`: `[batch, classes]`, raw; `targets`: one for each teacher. The result is `[batch]`.
    pub(super) fn per_sample(&self, logits: &Tensor, targets: &[TargetTensors]) -> Tensor {
        if self.is_dense()
            && let Some(log_p) = tch::no_grad(|| self.log_target(targets))
        {
            let scaled = logits.to_kind(Kind::Float) * self.temperature().beta();
            return divergence(&log_p, &scaled.log_softmax(-1, Kind::Float));
        }
        self.mean(targets, |teacher, targets| teacher.per_sample(logits, targets))
    }

    /// The weighted mean of what `of` gives of each teacher's targets.
    pub(super) fn mean(
        &self,
        targets: &[TargetTensors],
        of: impl Fn(&KlDivergence, &TargetTensors) -> Tensor,
    ) -> Tensor {
        let mut each = self.teachers.iter().zip(targets);
        let weighted = |((weight, teacher), targets): (&(f64, KlDivergence), _)| match self.teachers.len() {
            1 => of(teacher, targets),
            _ => of(teacher, targets) * *weight,
        };
        let first = each.next().map(weighted).unwrap_or_default();
        each.map(weighted).fold(first, |sum, more| sum + more)
    }

    /// Every class's log-probability in the target, −∞ where it has none; `None` for a bucket.
    ///
    /// # Shapes
    /// The result is `[positions, classes]`, float.
    pub(super) fn log_target(&self, targets: &[TargetTensors]) -> Option<Tensor> {
        let each: Vec<Tensor> = self
            .teachers
            .iter()
            .zip(targets)
            .map(|((weight, teacher), targets)| {
                let log_p = teacher.log_target(targets)?;
                Some(match (self.teachers.len(), self.average) {
                    (1, _) => log_p,
                    (_, MixtureAverage::Probabilities) => log_p + weight.ln(),
                    (_, MixtureAverage::Logits) => log_p * *weight,
                })
            })
            .collect::<Option<_>>()?;
        let mut each = each.into_iter();
        let first = each.next()?;
        let several = each.len() > 0;
        let log_p = each.fold(first, |sum, more| match self.average {
            MixtureAverage::Probabilities => sum.logaddexp(&more),
            MixtureAverage::Logits => sum + more,
        });
        Some(if several { log_p.log_softmax(-1, Kind::Float) } else { log_p })
    }

    /// What the CPU's own path takes of `targets`, with each teacher's weight; `None` on other devices, and where a
    /// target must be written out. Gradients are multiplied by `factor` and the weight.
    pub(super) fn parts(&self, targets: &[TargetTensors], factor: f64) -> Option<Vec<(f64, KlPart<'_>)>> {
        if self.is_dense() {
            return None;
        }
        let each = self.teachers.iter().zip(targets);
        each.map(|((weight, teacher), targets)| Some((*weight, teacher.part(targets, factor * weight)?)))
            .collect()
    }

    /// What a GPU's kernel takes of `targets`, with each teacher's weight; `None` where a target must be written out. Gradients
    /// are multiplied by `factor` and the weight.
    pub(super) fn of_targets<'a>(
        &'a self,
        targets: &'a [TargetTensors],
        factor: f64,
    ) -> Option<Vec<(f64, OfTargets<'a>)>> {
        let of = |((weight, teacher), targets): (&'a (f64, KlDivergence), &'a TargetTensors)| {
            (*weight, teacher.of_targets(targets, factor * weight))
        };
        (!self.is_dense()).then(|| self.teachers.iter().zip(targets).map(of).collect())
    }

    /// Whether [`Self::closed`] gives something.
    pub(super) fn has_closed_form(&self) -> bool {
        !self.is_dense() && self.teachers.iter().all(|(_, teacher)| teacher.has_closed_form())
    }

    /// The divergence of each sample and, with each teacher's weight, what its gradient takes away from the student's
    /// softmax ([`KlDivergence::closed`]); `None` for a bucket, and where a target must be written out.
    pub(super) fn closed<'a>(
        &'a self,
        log_q: &Tensor,
        targets: &'a [TargetTensors],
    ) -> Option<(Tensor, Vec<(f64, Probabilities<'a>)>)> {
        if self.is_dense() {
            return None;
        }
        let mut sum: Option<Tensor> = None;
        let mut taken = Vec::with_capacity(self.teachers.len());
        for ((weight, teacher), targets) in self.teachers.iter().zip(targets) {
            let (of_positions, probabilities) = teacher.closed(log_q, targets)?;
            sum = Some(match sum {
                None if self.teachers.len() == 1 => of_positions,
                None => of_positions * *weight,
                Some(sum) => sum + of_positions * *weight,
            });
            taken.push((*weight, probabilities));
        }
        Some((sum?, taken))
    }
}

/// The weights of so many teachers, which sum to 1.
fn weights(config: &MixtureConfig, teachers: usize) -> Result<Vec<f64>, LossError> {
    let given = match config.weights.len() {
        0 => vec![1.0; teachers],
        given if given == teachers => config.weights.clone(),
        given => return Err(LossError::Teachers { given, teachers }),
    };
    let sum: f64 = given.iter().sum();
    Ok(given.into_iter().map(|weight| weight / sum).collect())
}

#[cfg(test)]
mod tests;
