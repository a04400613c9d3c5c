//! Values to places along an axis.

use crate::shared::trimmed;

/// Logarithmic where the largest value is so many times the smallest.
const LOG_FROM: f64 = 8.0;

/// One axis.
#[derive(Clone, Debug, PartialEq)]
pub struct Scale {
    /// Values that are written beside it, rising, with their words.
    pub ticks: Vec<(f64, String)>,
    from: f64,
    to: f64,
    is_log: bool,
}

impl Scale {
    /// From a round number below the lowest to one above the highest of `values`, and from 0 if `from_zero`.
    pub fn around(values: impl Iterator<Item = f64> + Clone, from_zero: bool) -> Self {
        let mut low = values.clone().fold(f64::INFINITY, f64::min);
        let mut high = values.fold(f64::NEG_INFINITY, f64::max);
        if low > high {
            (low, high) = (0.0, 1.0);
        }
        if from_zero {
            (low, high) = (low.min(0.0), high.max(0.0));
        }
        // One value alone has no length.
        let length = if high > low { high - low } else { high.abs().max(1.0) * 0.1 };
        let step = round_up(length / 4.0);
        let (first, last) = ((low / step + 1e-9).floor(), (high / step - 1e-9).ceil());
        let last = last.max(first + 1.0);
        let ticks = (0..=((last - first) as u32)).map(|at| (first + f64::from(at)) * step);
        let ticks: Vec<(f64, String)> = ticks.map(|value| (value, word(value, step))).collect();
        Self { ticks, from: first * step, to: last * step, is_log: false }
    }

    /// Over `values`, which rise; each is a tick.
    pub fn over(values: &[f64]) -> Self {
        let (from, to) = (values.first().copied().unwrap_or(0.0), values.last().copied().unwrap_or(1.0));
        let is_log = values.len() > 2 && from > 0.0 && to / from >= LOG_FROM;
        let ticks = values.iter().map(|value| (*value, trimmed(*value))).collect();
        Self { ticks, from, to, is_log }
    }

    /// Where `value` lies, from 0 (the axis's beginning) to 1 (its end).
    pub fn place(&self, value: f64) -> f64 {
        let along = |v: f64| if self.is_log { v.ln() } else { v };
        let place = (along(value) - along(self.from)) / (along(self.to) - along(self.from));
        // An axis of one value has no length.
        if place.is_finite() { place.clamp(0.0, 1.0) } else { 0.5 }
    }
}

/// A tick's number, to the digits in which it differs from the next.
fn word(value: f64, step: f64) -> String {
    let digits = (-step.log10().floor()).clamp(0.0, 12.0) as usize;
    let text = format!("{value:.digits$}");
    if text.trim_start_matches('-').chars().all(|c| c == '0' || c == '.') { "0".into() } else { text }
}

/// 1, 2 or 5 times a power of ten, at or above `value`, which is above 0.
fn round_up(value: f64) -> f64 {
    let power = 10f64.powf(value.log10().floor());
    let steps = [1.0, 2.0, 5.0, 10.0].map(|step| step * power);
    // A hair of slack: the power is rounded.
    steps.into_iter().find(|up| *up >= value * (1.0 - 1e-9)).unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_hold_every_value() {
        let scale = Scale::around([0.8812, 0.9034].into_iter(), false);
        let words: Vec<&str> = scale.ticks.iter().map(|(_, word)| word.as_str()).collect();
        assert_eq!(words, ["0.88", "0.89", "0.90", "0.91"]);
        assert!(scale.place(0.8812) > 0.0 && scale.place(0.9034) < 1.0);
        assert_eq!(Scale::around([3.0].into_iter(), true).ticks[0].1, "0");
        assert!(Scale::around([0.5, 0.5].into_iter(), false).ticks.len() > 1);
        assert!(Scale::around(std::iter::empty(), false).ticks.len() > 1);
    }

    #[test]
    fn powers_are_spread_evenly() {
        let scale = Scale::over(&[1.0, 4.0, 16.0]);
        assert!((scale.place(4.0) - 0.5).abs() < 1e-12);
        let scale = Scale::over(&[0.0, 1.0, 16.0]);
        assert!((scale.place(4.0) - 0.25).abs() < 1e-12);
        assert_eq!(Scale::over(&[2.0]).place(2.0), 0.5);
    }
}
