//! Values to places along an axis.

use super::words::superscript;
use crate::shared::trimmed;

/// One axis of a picture.
#[derive(Clone, Debug, PartialEq)]
pub struct Axis {
    /// What it shows.
    pub name: String,
    /// Values that are written beside it, rising, with their words.
    pub ticks: Vec<(f64, String)>,
    from: f64,
    to: f64,
    is_log: bool,
}

impl Axis {
    /// From 0 to a round number at or above `largest`, in percent.
    pub fn percent(name: &str, largest: f64) -> Self {
        let to = round_up(largest);
        let word = |value: f64| format!("{} %", trimmed(value * 100.0));
        let ticks = (0..=4).map(|at| f64::from(at) / 4.0 * to).map(|value| (value, word(value))).collect();
        Self { name: name.into(), ticks, from: 0.0, to, is_log: false }
    }

    /// From 0 to a round number at or above `largest`.
    pub fn linear(name: &str, largest: f64) -> Self {
        let to = round_up(largest);
        let ticks = (0..=4).map(|at| f64::from(at) / 4.0 * to).map(|value| (value, trimmed(value))).collect();
        Self { name: name.into(), ticks, from: 0.0, to, is_log: false }
    }

    /// Exactly from 0 to `to`, with round numbers written beside it.
    pub fn until(name: &str, to: f64) -> Self {
        let step = round_up(to / 6.0);
        let ticks = (0..=6).map(|at| f64::from(at) * step).filter(|value| *value <= to);
        let ticks = ticks.map(|value| (value, trimmed(value))).collect();
        Self { name: name.into(), ticks, from: 0.0, to, is_log: false }
    }

    /// Over `values`, which are above 0 and rise, by their logarithms; each is a tick.
    pub fn log_of(name: &str, values: &[f64]) -> Self {
        let ticks = values.iter().map(|value| (*value, trimmed(*value))).collect();
        let (from, to) = (values.first().copied().unwrap_or(1.0), values.last().copied().unwrap_or(1.0));
        Self { name: name.into(), ticks, from, to, is_log: true }
    }

    /// The powers of ten around those of `values` that are above 0.
    pub fn decades(name: &str, values: impl Iterator<Item = f64> + Clone) -> Self {
        let exponents = values.filter(|value| *value > 0.0).map(f64::log10);
        let least = exponents.clone().fold(f64::INFINITY, f64::min);
        let most = exponents.fold(f64::NEG_INFINITY, f64::max);
        // None at all: any axis will do.
        let (least, most) = if least <= most { (least.floor(), most.ceil()) } else { (-1.0, 0.0) };
        let (least, most) = (least as i32, (most as i32).max(least as i32 + 1));
        // Ten words at most, however far the values are apart.
        let step = ((most - least) / 10 + 1) as usize;
        let ticks = (least..=most).step_by(step).map(|e| (10f64.powi(e), format!("10{}", superscript(e))));
        Self {
            name: name.into(),
            ticks: ticks.collect(),
            from: 10f64.powi(least),
            to: 10f64.powi(most),
            is_log: true,
        }
    }

    /// Where `value` lies, from 0 (the axis's beginning) to 1 (its end); what lies outside is at
    /// the nearest end.
    pub fn place(&self, value: f64) -> f64 {
        let along = |v: f64| if self.is_log { v.ln() } else { v };
        let (from, to) = (along(self.from), along(self.to));
        let place = (along(value) - from) / (to - from);
        // An axis of one value has no length; the logarithm of 0 is below every axis.
        if place.is_nan() { 0.5 } else { place.clamp(0.0, 1.0) }
    }
}

/// 1, 2 or 5 times a power of ten, at or above `value`; 1 for what is not above 0.
fn round_up(value: f64) -> f64 {
    if !(value > 0.0 && value.is_finite()) {
        return 1.0;
    }
    let power = 10f64.powf(value.log10().floor());
    // A hair of slack: the power is rounded.
    [1.0, 2.0, 5.0, 10.0]
        .map(|step| step * power)
        .into_iter()
        .find(|up| *up >= value * (1.0 - 1e-9))
        .unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_end_at_round_numbers() {
        for (value, up) in [(0.0, 1.0), (1.0, 1.0), (1.01, 2.0), (0.034, 0.05), (3.0, 5.0), (70.0, 100.0)] {
            assert!((round_up(value) - up).abs() < 1e-12, "{value}: {}", round_up(value));
        }
        assert_eq!(round_up(f64::NAN), 1.0);
    }

    #[test]
    fn places_are_on_the_axis_whatever_the_value() {
        let axis = Axis::log_of("T", &[1.0, 4.0, 16.0]);
        assert!((axis.place(4.0) - 0.5).abs() < 1e-12);
        assert_eq!((axis.place(0.5), axis.place(99.0)), (0.0, 1.0));
        assert_eq!(Axis::log_of("T", &[2.0]).place(2.0), 0.5);
        let axis = Axis::decades("rms", [0.004, 0.3, 0.0].into_iter());
        assert_eq!(
            axis.ticks.iter().map(|(_, word)| word.as_str()).collect::<Vec<_>>(),
            ["10⁻³", "10⁻²", "10⁻¹", "10⁰"]
        );
        assert_eq!(axis.place(0.0), 0.0);
        assert_eq!(Axis::decades("rms", [0.1, 0.1].into_iter()).ticks.len(), 2);
        assert_eq!(Axis::decades("rms", std::iter::empty()).ticks.len(), 2);
    }
}
