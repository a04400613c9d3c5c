//! The learning rate at each step.

use std::f64::consts::PI;

use crate::config::{Per, ScheduleConfig};

/// A schedule over a known number of steps.
#[derive(Clone, Debug)]
pub struct Schedule {
    config: ScheduleConfig,
    peak: f64,
    warmup: f64,
    steps: f64,
    steps_per_epoch: f64,
    /// Steps that have one rate together.
    together: u64,
}

/// From 1 at 0 to 0 at 1 along half a cosine.
fn cosine(done: f64) -> f64 {
    0.5 * (1.0 + (PI * done).cos())
}

/// From `from` to `to`, with `share` of the first.
fn between(from: f64, to: f64, share: f64) -> f64 {
    to + (from - to) * share
}

impl Schedule {
    /// The schedule of a run of `epochs` epochs of `steps_per_epoch` steps, with `peak` as its
    /// highest learning rate.
    pub fn new(config: &ScheduleConfig, peak: f64, epochs: u32, steps_per_epoch: u64) -> Self {
        // An epoch as if it were a step.
        let (steps_per_epoch, together) = match config.per() {
            Per::Step => (steps_per_epoch as f64, 1),
            Per::Epoch => (1.0, steps_per_epoch.max(1)),
        };
        let warmup = (config.warmup_epochs() * steps_per_epoch).round();
        let steps = f64::from(epochs) * steps_per_epoch;
        Self { config: config.clone(), peak, warmup, steps, steps_per_epoch, together }
    }

    /// The learning rate of `step`, counted from 0.
    ///
    /// Warm-up rises linearly and reaches the peak with its last step. What falls to a final value would have it
    /// at the step after the last; `one_cycle`, as PyTorch's, has it at the last.
    pub fn at(&self, step: u64) -> f64 {
        let step = (step / self.together) as f64;
        if step < self.warmup {
            return self.peak * (step + 1.0) / self.warmup;
        }
        let length = |epochs: f64| (epochs * self.steps_per_epoch).max(1.0);
        // How far between the end of the warm-up and that of the run.
        let done = ((step - self.warmup) / (self.steps - self.warmup).max(1.0)).min(1.0);
        let fraction = match self.config {
            ScheduleConfig::Constant { .. } => 1.0,
            ScheduleConfig::Linear { final_fraction, .. } => between(1.0, final_fraction, 1.0 - done),
            ScheduleConfig::Cosine { final_fraction, .. } => between(1.0, final_fraction, cosine(done)),
            ScheduleConfig::CosineRestarts { period_epochs, growth, final_fraction, .. } => {
                let (mut into, mut period) = (step - self.warmup, length(period_epochs));
                while into >= period {
                    into -= period;
                    period *= growth;
                }
                between(1.0, final_fraction, cosine(into / period))
            }
            ScheduleConfig::Step { every_epochs, factor, .. } => {
                let falls = (step / length(every_epochs)).floor();
                factor.powf(falls)
            }
            ScheduleConfig::OneCycle { peak_at, first_fraction, final_fraction, .. } => {
                let (last, top) = ((self.steps - 1.0).max(1.0), peak_at * self.steps - 1.0);
                let step = step.min(last);
                match step <= top {
                    true => between(first_fraction, 1.0, cosine(step / top.max(1.0))),
                    false => between(
                        1.0,
                        final_fraction,
                        cosine((step - top) / (last - top).max(f64::MIN_POSITIVE)),
                    ),
                }
            }
            ScheduleConfig::WarmupStableDecay { decay_epochs, final_fraction, .. } => {
                let decay = length(decay_epochs);
                let left = (self.steps - step).max(0.0) / decay;
                between(1.0, final_fraction, left.min(1.0))
            }
        };
        self.peak * fraction
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RESTARTS: [f64; 10] = [
        1.0,
        0.775,
        0.3250000000000001,
        1.0,
        0.9397114317029974,
        0.775,
        0.55,
        0.3250000000000001,
        0.16028856829700258,
        1.0,
    ];
    const CYCLE: [f64; 10] = [
        0.040000000000000036,
        0.52,
        1.0,
        0.9504846320134737,
        0.8117456539497631,
        0.6112620219362893,
        0.38874197806371075,
        0.18825834605023697,
        0.049519367986526286,
        4e-06,
    ];

    const LATE_CYCLE: [f64; 3] = [0.040000000000000036, 0.9805566273349589, 4e-06];

    fn run(config: &ScheduleConfig, peak: f64, epochs: u32, steps_per_epoch: u64) -> Vec<f64> {
        let schedule = Schedule::new(config, peak, epochs, steps_per_epoch);
        (0..u64::from(epochs) * steps_per_epoch).map(|step| schedule.at(step)).collect()
    }

    #[track_caller]
    fn near(found: &[f64], expected: &[f64]) {
        assert_eq!(found.len(), expected.len());
        for (found, expected) in found.iter().zip(expected) {
            assert!((found - expected).abs() < 1e-9, "{found} is not {expected}");
        }
    }

    #[test]
    fn warms_up_to_the_peak_and_falls_along_a_cosine() {
        let config = ScheduleConfig::Cosine { warmup_epochs: 0.5, final_fraction: 0.1, per: Per::Step };
        let schedule = Schedule::new(&config, 2.0, 3, 8);
        assert_eq!([0, 1, 3].map(|step| schedule.at(step)), [0.5, 1.0, 2.0]);
        assert_eq!(schedule.at(4), 2.0);
        // Half-way down: 20 steps after the warm-up's 4.
        assert!((schedule.at(14) - 2.0 * 0.55).abs() < 1e-12);
        assert!((schedule.at(24) - 0.2).abs() < 1e-12);
        assert!((schedule.at(1000) - 0.2).abs() < 1e-12);
        let falling: Vec<f64> = (3..24).map(|step| schedule.at(step)).collect();
        assert!(falling.windows(2).all(|pair| pair[0] >= pair[1]));
    }

    #[test]
    fn constant_stays_after_its_warm_up() {
        let schedule =
            Schedule::new(&ScheduleConfig::Constant { warmup_epochs: 0.0, per: Per::Step }, 0.3, 1, 10);
        assert!((0..20).all(|step| schedule.at(step) == 0.3));
        let schedule =
            Schedule::new(&ScheduleConfig::Constant { warmup_epochs: 1.0, per: Per::Step }, 0.3, 1, 10);
        assert!(schedule.at(0) > 0.0 && schedule.at(9) == 0.3);
    }

    #[test]
    fn lines_and_steps() {
        let linear = ScheduleConfig::Linear { warmup_epochs: 0.5, final_fraction: 0.5, per: Per::Step };
        near(
            &run(&linear, 1.0, 2, 4),
            &[0.5, 1.0, 1.0, 11.0 / 12.0, 10.0 / 12.0, 0.75, 8.0 / 12.0, 7.0 / 12.0],
        );
        let step =
            ScheduleConfig::Step { warmup_epochs: 0.0, every_epochs: 1.0, factor: 0.1, per: Per::Step };
        near(&run(&step, 1.0, 3, 2), &[1.0, 1.0, 0.1, 0.1, 0.01, 0.01]);
        let wsd = ScheduleConfig::WarmupStableDecay {
            warmup_epochs: 1.0,
            decay_epochs: 1.0,
            final_fraction: 0.0,
            per: Per::Step,
        };
        near(&run(&wsd, 1.0, 3, 4), &[0.25, 0.5, 0.75, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.75, 0.5, 0.25]);
    }

    /// `torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(T_0=3, T_mult=2, eta_min=0.1)` at a peak of 1, and
    /// `OneCycleLR(max_lr=1, total_steps=10)`, of PyTorch 2.11.
    #[test]
    fn restarts_and_cycles_are_pytorchs() {
        let restarts = ScheduleConfig::CosineRestarts {
            warmup_epochs: 0.0,
            period_epochs: 3.0,
            growth: 2.0,
            final_fraction: 0.1,
            per: Per::Step,
        };
        near(&run(&restarts, 1.0, 10, 1), &RESTARTS);
        let cycle = ScheduleConfig::OneCycle {
            peak_at: 0.3,
            first_fraction: 1.0 / 25.0,
            final_fraction: 1.0 / 25.0e4,
            per: Per::Step,
        };
        near(&run(&cycle, 1.0, 10, 1), &CYCLE);
        // The peak nearly at the end (`total_steps=3, pct_start=0.7`).
        let late = ScheduleConfig::OneCycle {
            peak_at: 0.7,
            first_fraction: 1.0 / 25.0,
            final_fraction: 1.0 / 25.0e4,
            per: Per::Epoch,
        };
        let rates = run(&late, 1.0, 3, 2);
        near(&[rates[0], rates[2], rates[4]], &LATE_CYCLE);
    }
}
