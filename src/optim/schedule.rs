//! The learning rate at each step.

use crate::config::ScheduleConfig;

/// A schedule over a known number of steps.
#[derive(Clone, Debug)]
pub struct Schedule {
    config: ScheduleConfig,
    peak: f64,
    warmup: f64,
    steps: f64,
}

impl Schedule {
    /// The schedule of a run of `epochs` epochs of `steps_per_epoch` steps, with `peak` as its
    /// highest learning rate.
    pub fn new(config: &ScheduleConfig, peak: f64, epochs: u32, steps_per_epoch: u64) -> Self {
        let warmup = (config.warmup_epochs() * steps_per_epoch as f64).round();
        Self { config: config.clone(), peak, warmup, steps: f64::from(epochs) * steps_per_epoch as f64 }
    }

    /// The learning rate of `step`, counted from 0.
    ///
    /// Warm-up rises linearly and reaches the peak with its last step; the cosine (Loshchilov &
    /// Hutter, "SGDR", 2017, without restarts) falls from there to its final value, which the
    /// step after the last would have.
    pub fn at(&self, step: u64) -> f64 {
        let step = step as f64;
        if step < self.warmup {
            return self.peak * (step + 1.0) / self.warmup;
        }
        match self.config {
            ScheduleConfig::Constant { .. } => self.peak,
            ScheduleConfig::Cosine { final_fraction, .. } => {
                let done = ((step - self.warmup) / (self.steps - self.warmup).max(1.0)).min(1.0);
                let cosine = 0.5 * (1.0 + (std::f64::consts::PI * done).cos());
                self.peak * (final_fraction + (1.0 - final_fraction) * cosine)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warms_up_to_the_peak_and_falls_along_a_cosine() {
        let config = ScheduleConfig::Cosine { warmup_epochs: 0.5, final_fraction: 0.1 };
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
        let schedule = Schedule::new(&ScheduleConfig::Constant { warmup_epochs: 0.0 }, 0.3, 1, 10);
        assert!((0..20).all(|step| schedule.at(step) == 0.3));
        let schedule = Schedule::new(&ScheduleConfig::Constant { warmup_epochs: 1.0 }, 0.3, 1, 10);
        assert!(schedule.at(0) > 0.0 && schedule.at(9) == 0.3);
    }
}
