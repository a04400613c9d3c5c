//! Temperature and weights at each step of a run.

use std::f64::consts::PI;

use crate::config::{ChangeConfig, ChangeShape, LossConfig, LossWeights, Setting, TermWeights};

/// Temperature and weights over a known number of steps: a function of the step alone.
#[derive(Clone, Debug)]
pub struct LossSchedule {
    temperature: Setting,
    weights: LossWeights,
    epochs: f64,
    steps_per_epoch: f64,
}

/// Temperature and weights at a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LossValues {
    /// `T`.
    pub temperature: f64,
    /// Of the terms.
    pub weights: TermWeights,
}

impl LossValues {
    /// What `config` begins with.
    pub fn first(config: &LossConfig) -> Self {
        let first = |setting: &Setting| setting.ends()[0];
        Self { temperature: first(&config.temperature), weights: config.weights.map(first) }
    }
}

impl LossSchedule {
    /// The schedule of a run of `epochs` epochs of `steps_per_epoch` steps.
    pub fn new(config: &LossConfig, epochs: u32, steps_per_epoch: u64) -> Self {
        let (temperature, weights) = (config.temperature, config.weights.clone());
        Self { temperature, weights, epochs: f64::from(epochs), steps_per_epoch: steps_per_epoch as f64 }
    }

    /// Temperature and weights of `step`, counted from 0.
    pub fn at(&self, step: u64) -> LossValues {
        let value = |setting: &Setting| self.value(setting, step);
        LossValues { temperature: value(&self.temperature), weights: self.weights.map(value) }
    }

    /// A setting at `step`.
    pub fn value(&self, setting: &Setting, step: u64) -> f64 {
        let change = match setting {
            Setting::Fixed(value) => return *value,
            Setting::Changing(change) => change,
        };
        let ChangeConfig { from, to, shape, start_epochs, over_epochs, over_steps } = *change;
        let begin = start_epochs * self.steps_per_epoch;
        let length = match (over_steps, over_epochs) {
            (Some(steps), _) => steps as f64,
            (None, Some(epochs)) => epochs * self.steps_per_epoch,
            (None, None) => self.epochs * self.steps_per_epoch - begin,
        };
        let done = ((step as f64 - begin) / length.max(1.0)).clamp(0.0, 1.0);
        let done = match shape {
            ChangeShape::Linear => done,
            ChangeShape::Cosine => 0.5 * (1.0 - (PI * done).cos()),
        };
        // Rounding leads to no value that was not checked.
        if done < 1.0 { (from + (to - from) * done).clamp(from.min(to), from.max(to)) } else { to }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(from: f64, to: f64) -> ChangeConfig {
        let shape = ChangeShape::Linear;
        ChangeConfig { from, to, shape, start_epochs: 0.0, over_epochs: None, over_steps: None }
    }

    fn values(change: ChangeConfig, steps: &[u64]) -> Vec<f64> {
        let config = LossConfig { temperature: Setting::Changing(change), ..LossConfig::default() };
        let schedule = LossSchedule::new(&config, 4, 10);
        steps.iter().map(|step| schedule.at(*step).temperature).collect()
    }

    #[test]
    fn lines_and_cosines_go_from_end_to_end() {
        assert_eq!(values(change(8.0, 2.0), &[0, 10, 20, 40, 400]), [8.0, 6.5, 5.0, 2.0, 2.0]);
        let late = ChangeConfig { start_epochs: 1.0, ..change(1.0, 3.0) };
        assert_eq!(values(late, &[0, 9, 10, 25, 40]), [1.0, 1.0, 1.0, 2.0, 3.0]);
        let short = ChangeConfig { over_epochs: Some(0.5), ..late };
        assert_eq!(values(short, &[10, 11, 15, 16]), [1.0, 1.4, 3.0, 3.0]);
        let steps = ChangeConfig { over_steps: Some(4), ..change(0.0, 1.0) };
        assert_eq!(values(steps, &[0, 1, 2, 3, 4]), [0.0, 0.25, 0.5, 0.75, 1.0]);
        let cosine = ChangeConfig { shape: ChangeShape::Cosine, ..change(4.0, 2.0) };
        let found = values(cosine, &[0, 10, 20, 30, 40]);
        let expected = [0.0, 0.25, 0.5, 0.75, 1.0].map(|done: f64| 3.0 + (PI * done).cos());
        for (found, expected) in found.iter().zip(expected) {
            assert!((found - expected).abs() < 1e-12, "{found} is not {expected}");
        }
    }

    #[test]
    fn each_weight_has_its_own_way() {
        let weights = LossWeights {
            kl: Setting::Changing(change(0.0, 1.0)),
            cross_entropy: Setting::Changing(change(1.0, 0.5)),
            mse: 0.3.into(),
            ..LossWeights::default()
        };
        let config = LossConfig { weights, ..LossConfig::default() };
        let schedule = LossSchedule::new(&config, 2, 4);
        let expected = TermWeights { kl: 0.5, cross_entropy: 0.75, mse: 0.3, ..TermWeights::default() };
        assert_eq!(schedule.at(4), LossValues { temperature: 1.0, weights: expected });
        assert_eq!(schedule.at(0), LossValues::first(&config));
    }
}
