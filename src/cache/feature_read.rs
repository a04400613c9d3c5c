//! The feature columns of a shard, opened.

use std::ops::Range;

use arrow::array::AsArray;
use arrow::buffer::ScalarBuffer;
use arrow::datatypes::{Float16Type, Float32Type, Int8Type};
use half::f16;

use super::CacheError;
use super::columns::ShardLayout;
use super::features::FeatureLayout;
use super::parts::{Items, Parts, primitive};
use crate::config::FeatureValues;
use crate::encoding::{FeatureNumbers, read_f16, read_i8};

/// The vectors of all positions of a shard, as they lie in it.
#[derive(Debug)]
pub(super) enum FeatureColumn {
    F16 { width: usize, values: ScalarBuffer<f16> },
    I8 { width: usize, whole: ScalarBuffer<i8>, scales: ScalarBuffer<f32> },
}

impl FeatureColumn {
    /// The columns of `layout`; `starts`, of a dataset of tokens, are where the positions of each row begin.
    pub(super) fn new(
        parts: &Parts<'_>,
        layout: &FeatureLayout,
        starts: Option<&[i32]>,
    ) -> Result<Self, CacheError> {
        let (name, width) = (layout.column(), layout.width);
        let form = if starts.is_some() { ShardLayout::Lists } else { ShardLayout::Fixed };
        let vectors = parts.part(&name, form, Items::of_positions(starts, width))?;
        match layout.values {
            FeatureValues::F16 => {
                let values = primitive::<Float16Type>(vectors).ok_or_else(|| parts.missing(&name))?;
                Ok(Self::F16 { width, values })
            }
            FeatureValues::I8 => {
                let whole = primitive::<Int8Type>(vectors).ok_or_else(|| parts.missing(&name))?;
                let name = layout.scale_column();
                let scales = match starts {
                    Some(_) => parts.part(&name, form, Items::of_positions(starts, 1))?,
                    None => parts.column(&name)?,
                };
                let scales = scales.as_primitive_opt::<Float32Type>().map(|scales| scales.values().clone());
                Ok(Self::I8 { width, whole, scales: scales.ok_or_else(|| parts.missing(&name))? })
            }
        }
    }

    /// The vectors of `positions` as they are kept.
    pub(super) fn numbers(&self, positions: Range<usize>) -> FeatureNumbers {
        let (start, end) = (positions.start, positions.end);
        match self {
            Self::F16 { width, values } => FeatureNumbers::F16(values[start * width..end * width].to_vec()),
            Self::I8 { width, whole, scales } => FeatureNumbers::I8 {
                whole: whole[start * width..end * width].to_vec(),
                scales: scales[positions].to_vec(),
            },
        }
    }

    /// Adds the vectors of `positions` to `out`.
    pub(super) fn read(&self, positions: Range<usize>, out: &mut Vec<f32>) {
        match self {
            Self::F16 { width, values } => {
                read_f16(&values[positions.start * width..positions.end * width], out);
            }
            Self::I8 { width, whole, scales } => read_i8(whole, scales, *width, positions, out),
        }
    }

    /// The first rule that one of `positions` breaks.
    pub(super) fn broken(&self, positions: Range<usize>) -> Option<String> {
        match self {
            Self::F16 { width, values } => {
                let values = &values[positions.start * width..positions.end * width];
                let value = values.iter().find(|value| !value.is_finite())?;
                Some(format!("expected finite numbers, found {value}"))
            }
            Self::I8 { width, whole, scales } => {
                let numbers = &whole[positions.start * width..positions.end * width];
                if numbers.contains(&i8::MIN) {
                    return Some("expected numbers from -127 to 127, found -128".into());
                }
                let sound = |scale: &&f32| scale.is_finite() && **scale >= 0.0;
                let scale = scales[positions].iter().find(|scale| !sound(scale))?;
                Some(format!("expected a finite scale of 0 or more, found {scale}"))
            }
        }
    }
}
