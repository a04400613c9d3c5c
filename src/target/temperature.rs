//! A softmax temperature and its inverse.

use serde::Serialize;

/// A temperature that is not a positive, finite number.
#[derive(Debug, thiserror::Error, PartialEq)]
#[error("temperature {0} is not a positive, finite number")]
pub struct TemperatureError(pub f64);

/// A softmax temperature `T > 0`: probabilities are `softmax(z / T)`.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd, Serialize)]
#[serde(transparent)]
pub struct Temperature(f64);

impl Temperature {
    /// The temperature at which the teacher itself predicts.
    pub const ONE: Self = Self(1.0);

    /// A checked temperature.
    ///
    /// # Errors
    /// When `value` is not positive and finite.
    pub fn new(value: f64) -> Result<Self, TemperatureError> {
        if value.is_finite() && value > 0.0 { Ok(Self(value)) } else { Err(TemperatureError(value)) }
    }

    /// `T`.
    pub fn get(self) -> f64 {
        self.0
    }

    /// `β = 1/T`.
    pub fn beta(self) -> f64 {
        self.0.recip()
    }
}
