//! Vectors of a teacher as they are kept: half precision, or bytes with a scale for each vector.
//!
//! With a scale, a vector `x` is kept as
//!
//! ```text
//! s = max |x_i| / 127      computed in double precision and rounded to single
//! q_i = round(x_i / s)     in double precision, halves away from 0, within −127 … 127; 0 where s is 0
//! ```
//!
//! and read as `q_i s`, computed in double precision and rounded to single. It is off by at most `s / 2`, but for the
//! rounding of `s` and of the product.

use std::ops::Range;

use half::f16;

use crate::config::FeatureValues;

/// The largest whole number; the smallest is its negative.
const LARGEST: f64 = 127.0;
/// The largest magnitude that a scale is made for: read again, it is finite whatever was rounded.
const MOST: f32 = 1e38;

/// Vectors of one width as they are kept, one after the other.
#[derive(Clone, Debug, PartialEq)]
pub enum FeatureNumbers {
    /// Half precision: `[rows, width]`.
    F16(Vec<f16>),
    /// Whole numbers and scales.
    I8 {
        /// `[rows, width]`, from −127 to 127.
        whole: Vec<i8>,
        /// `[rows]`.
        scales: Vec<f32>,
    },
}

impl FeatureNumbers {
    /// None yet.
    pub fn new(values: FeatureValues) -> Self {
        match values {
            FeatureValues::F16 => Self::F16(Vec::new()),
            FeatureValues::I8 => Self::I8 { whole: Vec::new(), scales: Vec::new() },
        }
    }

    /// The vectors at `rows`, in that order, of `all` that there are.
    ///
    /// # Panics
    /// When one is not below `all`.
    pub fn of(&self, rows: &[usize], all: usize) -> Self {
        fn picked<T: Copy>(values: &[T], rows: &[usize], all: usize) -> Vec<T> {
            let width = values.len() / all.max(1);
            rows.iter().flat_map(|row| &values[row * width..(row + 1) * width]).copied().collect()
        }
        match self {
            Self::F16(values) => Self::F16(picked(values, rows, all)),
            Self::I8 { whole, scales } => {
                Self::I8 { whole: picked(whole, rows, all), scales: picked(scales, rows, all) }
            }
        }
    }

    /// Adds a vector, rounded; `Err`: the first number that cannot be kept, and its place. Half precision keeps
    /// magnitudes up to 65,504, bytes with a scale up to 10³⁸.
    ///
    /// # Errors
    /// See above; what is in here is as before.
    pub fn push(&mut self, vector: &[f32]) -> Result<(), (usize, f32)> {
        let most = match self {
            Self::F16(_) => f16::MAX.to_f32(),
            Self::I8 { .. } => MOST,
        };
        // NaN is not below anything.
        let kept = |value: &f32| value.abs() <= most;
        if let Some(at) = vector.iter().position(|value| !kept(value)) {
            return Err((at, vector[at]));
        }
        match self {
            Self::F16(values) => values.extend(vector.iter().map(|value| f16::from_f32(*value))),
            Self::I8 { whole, scales } => {
                let largest = vector.iter().fold(0f32, |largest, value| largest.max(value.abs()));
                let scale = (f64::from(largest) / LARGEST) as f32;
                scales.push(scale);
                let steps =
                    |value: &f32| (f64::from(*value) / f64::from(scale)).round().clamp(-LARGEST, LARGEST);
                // Between −127 and 127: the conversion is exact.
                whole.extend(vector.iter().map(|value| if scale > 0.0 { steps(value) as i8 } else { 0 }));
            }
        }
        Ok(())
    }

    /// Adds those of `other`, which are kept alike; others are left out.
    pub fn extend(&mut self, other: &Self) {
        match (self, other) {
            (Self::F16(values), Self::F16(more)) => values.extend_from_slice(more),
            (Self::I8 { whole, scales }, Self::I8 { whole: more, scales: further }) => {
                whole.extend_from_slice(more);
                scales.extend_from_slice(further);
            }
            _ => {}
        }
    }
}

/// Adds vectors of half precision to `out`.
pub fn read_f16(values: &[f16], out: &mut Vec<f32>) {
    out.extend(values.iter().map(|value| value.to_f32()));
}

/// Adds the vectors in `rows` of whole numbers to `out`.
///
/// # Panics
/// When there are fewer rows.
pub fn read_i8(whole: &[i8], scales: &[f32], width: usize, rows: Range<usize>, out: &mut Vec<f32>) {
    for row in rows {
        let scale = f64::from(scales[row]);
        let numbers = &whole[row * width..(row + 1) * width];
        out.extend(numbers.iter().map(|number| (f64::from(*number) * scale) as f32));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(vector: &[f32], values: FeatureValues) -> Vec<f32> {
        let mut numbers = FeatureNumbers::new(values);
        numbers.push(vector).unwrap();
        let mut out = Vec::new();
        match &numbers {
            FeatureNumbers::F16(values) => read_f16(values, &mut out),
            FeatureNumbers::I8 { whole, scales } => read_i8(whole, scales, vector.len(), 0..1, &mut out),
        }
        out
    }

    #[test]
    fn bytes_are_off_by_half_a_scale_at_most() {
        let vector: Vec<f32> = (0..200).map(|at| ((at * 7919) % 1009) as f32 / 37.0 - 11.0).collect();
        let largest = vector.iter().fold(0f32, |a, b| a.max(b.abs()));
        let scale = f64::from(largest) / 127.0;
        let read = kept(&vector, FeatureValues::I8);
        let off = |(a, b): (&f32, &f32)| (f64::from(*a) - f64::from(*b)).abs();
        let most = vector.iter().zip(&read).map(off).fold(0.0, f64::max);
        assert!(most <= scale * 0.500001, "{most} of {scale}");
        assert!(most > scale * 0.4, "{most} of {scale}: nothing was rounded");
        // The largest is kept as 127.
        let at = vector.iter().position(|value| value.abs() == largest).unwrap();
        assert!((read[at] - vector[at]).abs() <= largest * f32::EPSILON);
    }

    #[test]
    fn half_precision_rounds_the_eleventh_bit() {
        let vector = [0.0f32, 1.0, -3.2071, 1000.3, 6e-8];
        for (value, read) in vector.iter().zip(kept(&vector, FeatureValues::F16)) {
            assert!((value - read).abs() <= value.abs() * 2f32.powi(-11) + 3e-8, "{read} for {value}");
        }
    }

    #[test]
    fn vectors_without_a_scale_are_zeros() {
        assert_eq!(kept(&[0.0, -0.0], FeatureValues::I8), [0.0, 0.0]);
        // So small that its scale is none.
        assert_eq!(kept(&[1e-44], FeatureValues::I8), [0.0]);
        let read = kept(&[1e38, -5e37], FeatureValues::I8);
        assert!(read.iter().all(|value| value.is_finite()), "{read:?}");
    }

    #[test]
    fn what_cannot_be_kept_is_named() {
        let mut halves = FeatureNumbers::new(FeatureValues::F16);
        assert_eq!(halves.push(&[1.0, 70000.0]), Err((1, 70000.0)));
        assert_eq!(halves, FeatureNumbers::new(FeatureValues::F16));
        let mut bytes = FeatureNumbers::new(FeatureValues::I8);
        assert_eq!(bytes.push(&[1.0, 70000.0]), Ok(()));
        assert!(bytes.push(&[f32::INFINITY]).is_err());
        assert!(matches!(bytes.push(&[1.0, f32::NAN]), Err((1, nan)) if nan.is_nan()));
    }
}
