//! The rows of a shard as the bytes of its file.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryArray, FixedSizeListArray, Float16Array, Float32Array, Int8Array, Int16Array, ListArray,
    RecordBatch, UInt8Array, UInt16Array, UInt32Array, UInt64Array,
};
use arrow::buffer::{Buffer, OffsetBuffer};
use arrow::error::ArrowError;
use half::f16;
use rayon::prelude::*;

use super::codebook_file::Coding;
use super::columns::{ShardColumns, ShardLayout};
use super::format::{IdType, item_field};
use super::ipc::encode_batch;
use super::parquet_file;
use crate::config::{StorageForm, ValueEncoding};
use crate::encoding::{FeatureNumbers, QuantisedBatch, Scale};
use crate::ids::SampleId;
use crate::target::TargetBatch;

/// The rows of one shard, in rising order of sample ids, and of views of each.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ShardRows {
    /// Samples.
    pub sample_ids: Vec<SampleId>,
    /// Their views, as many as rows; empty where each sample has one.
    pub views: Vec<u16>,
    /// Their labels, as many as rows; empty in an unlabelled dataset.
    pub labels: Vec<u32>,
    /// Where samples are tokens: what each is made of, as many as samples; empty otherwise.
    pub tokens: Vec<TokenRow>,
    /// The targets of all positions, row after row: one for each token, or one for each sample.
    pub targets: TargetBatch,
    /// Where features are kept: the vectors of all positions, a feature each, in the order of the manifest.
    pub features: Vec<FeatureNumbers>,
}

/// A sample that is made of tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenRow {
    /// The tokens: `[positions]`.
    pub tokens: Vec<u32>,
    /// Where documents begin among them, rising; the first is 0.
    pub documents: Vec<u32>,
}

impl ShardRows {
    /// The rows at `order`, in that order.
    ///
    /// # Panics
    /// When there are no such rows.
    pub fn of(&self, order: &[usize]) -> Self {
        fn picked<T: Clone>(values: &[T], order: &[usize]) -> Vec<T> {
            if values.is_empty() {
                Vec::new()
            } else {
                order.iter().map(|row| values[*row].clone()).collect()
            }
        }
        let ends = self.positions().into_iter().scan(0, |end, positions| {
            *end += positions;
            Some(*end)
        });
        let starts: Vec<usize> = std::iter::once(0).chain(ends).collect();
        let positions: Vec<usize> = order.iter().flat_map(|row| starts[*row]..starts[row + 1]).collect();
        Self {
            sample_ids: picked(&self.sample_ids, order),
            views: picked(&self.views, order),
            labels: picked(&self.labels, order),
            tokens: picked(&self.tokens, order),
            targets: self.targets.of(&positions),
            features: self.features.iter().map(|one| one.of(&positions, self.targets.rows)).collect(),
        }
    }
}

impl TokenRow {
    /// The number of each token's document in the row, from 0: `[positions]`.
    pub fn numbers(&self) -> Vec<u32> {
        let mut starts = self.documents.iter().copied().skip(1).peekable();
        let mut number = 0;
        let of = |at: u32| {
            while starts.next_if(|begun| *begun <= at).is_some() {
                number += 1;
            }
            number
        };
        (0..self.tokens.len() as u32).map(of).collect()
    }

    /// Each token's place in its document, as far as that lies in this row: `[positions]`.
    pub fn places(&self) -> Vec<u32> {
        let start = |number: u32| self.documents.get(number as usize).copied().unwrap_or(0);
        self.numbers().into_iter().zip(0..).map(|(number, at)| at - start(number)).collect()
    }

    /// The token that follows each, `None` at the end of a document and of the row: `[positions]`.
    pub fn next_tokens(&self) -> Vec<Option<u32>> {
        let numbers = self.numbers();
        let next = |at: usize| (numbers.get(at + 1)? == &numbers[at]).then(|| self.tokens[at + 1]);
        (0..self.tokens.len()).map(next).collect()
    }
}

impl ShardRows {
    /// Positions of each row.
    fn positions(&self) -> Vec<usize> {
        match self.tokens.is_empty() {
            true => vec![1; self.sample_ids.len()],
            false => self.tokens.iter().map(|row| row.tokens.len()).collect(),
        }
    }
}

/// Groups of a shard's rows that are packed side by side.
const GROUPS: usize = 64;

/// A shard's bytes.
pub(super) fn encode_shard(
    rows: &ShardRows,
    columns: &ShardColumns,
    coding: &Coding,
    level: i32,
) -> Result<Vec<u8>, ArrowError> {
    let batch = record_batch(rows, columns, coding)?;
    debug_assert!(batch.columns().iter().all(|array| array.null_count() == 0));
    match columns.form {
        StorageForm::Arrow => encode_batch(&batch),
        StorageForm::Parquet => parquet_file::encode(&batch, level),
    }
}

fn record_batch(
    rows: &ShardRows,
    columns: &ShardColumns,
    coding: &Coding,
) -> Result<RecordBatch, ArrowError> {
    let mut arrays: Vec<ArrayRef> = vec![
        Arc::new(UInt64Array::from_iter_values(rows.sample_ids.iter().map(|id| id.0))),
        Arc::new(match rows.views.is_empty() {
            true => UInt16Array::from_value(0, rows.sample_ids.len()),
            false => UInt16Array::from_iter_values(rows.views.iter().copied()),
        }),
    ];
    if columns.labelled {
        arrays.push(Arc::new(UInt32Array::from_iter_values(rows.labels.iter().copied())));
    }
    if let Some(tokens) = columns.tokens {
        let all = || rows.tokens.iter().flat_map(|row| &row.tokens).copied();
        arrays.push(list(encode_ids(all(), tokens), rows.tokens.iter().map(|row| row.tokens.len()))?);
        let starts =
            UInt32Array::from_iter_values(rows.tokens.iter().flat_map(|row| &row.documents).copied());
        arrays.push(list(Arc::new(starts), rows.tokens.iter().map(|row| row.documents.len()))?);
    }
    let positions = rows.positions();
    let quantised = coding.scale.as_ref().map(|scale| scale.quantise(&rows.targets));
    match columns.layout() {
        ShardLayout::Packed => arrays.push(packed(quantised.as_ref(), coding, &positions)?),
        ShardLayout::Fixed => arrays.extend(parts(rows, columns, None, None, |values, per_position| {
            let item = item_field(values.data_type().clone());
            let len = i32::try_from(per_position).unwrap_or(i32::MAX);
            Ok(Arc::new(FixedSizeListArray::try_new(item, len, values, None)?))
        })?),
        ShardLayout::Lists => {
            let targets = &rows.targets;
            if columns.variable {
                let counts = Arc::new(UInt16Array::from_iter_values(targets.counts.iter().copied()));
                arrays.push(list(counts, positions.iter().copied())?);
            }
            let heads: Vec<usize> =
                by_row(&positions).map(|positions| positions.map(|at| targets.count(at)).sum()).collect();
            let mut head_columns = 2;
            arrays.extend(parts(
                rows,
                columns,
                coding.scale.as_ref(),
                quantised.as_ref(),
                |values, per_position| {
                    // Ids and logits come first; of these a position may have fewer.
                    let is_head = head_columns > 0;
                    head_columns -= i32::from(is_head);
                    match is_head {
                        true => list(values, heads.iter().copied()),
                        false => list(values, positions.iter().map(|positions| positions * per_position)),
                    }
                },
            )?);
        }
    }
    arrays.extend(feature_columns(rows, columns, &positions)?);
    RecordBatch::try_new(columns.schema(), arrays)
}

/// Vectors of the teacher, and their scales.
fn feature_columns(
    rows: &ShardRows,
    columns: &ShardColumns,
    positions: &[usize],
) -> Result<Vec<ArrayRef>, ArrowError> {
    let mut arrays = Vec::new();
    for (at, layout) in columns.features.iter().enumerate() {
        let width = layout.width;
        // Of rows that are all empty nobody was asked.
        let none = FeatureNumbers::new(layout.values);
        let numbers = rows.features.get(at).unwrap_or(&none);
        let vectors = |values: ArrayRef| -> Result<ArrayRef, ArrowError> {
            if columns.tokens.is_some() {
                return list(values, positions.iter().map(|positions| positions.saturating_mul(width)));
            }
            let item = item_field(values.data_type().clone());
            let len = i32::try_from(width).unwrap_or(i32::MAX);
            Ok(Arc::new(FixedSizeListArray::try_new(item, len, values, None)?))
        };
        match numbers {
            FeatureNumbers::F16(values) => {
                arrays.push(vectors(Arc::new(Float16Array::from_iter_values(values.iter().copied())))?);
            }
            FeatureNumbers::I8 { whole, scales } => {
                arrays.push(vectors(Arc::new(Int8Array::from_iter_values(whole.iter().copied())))?);
                let scales: ArrayRef = Arc::new(Float32Array::from_iter_values(scales.iter().copied()));
                arrays.push(match columns.tokens {
                    Some(_) => list(scales, positions.iter().copied())?,
                    None => scales,
                });
            }
        }
    }
    Ok(arrays)
}

/// The positions of each row among those of the shard.
fn by_row(positions: &[usize]) -> impl Iterator<Item = Range<usize>> {
    positions.iter().scan(0, |start, count| {
        let range = *start..*start + count;
        *start = range.end;
        Some(range)
    })
}

/// Ids, logits, curves and codes, each made a column of lists by `column` from all its values and how
/// many a position has.
fn parts(
    rows: &ShardRows,
    columns: &ShardColumns,
    scale: Option<&Scale>,
    quantised: Option<&QuantisedBatch>,
    mut column: impl FnMut(ArrayRef, usize) -> Result<ArrayRef, ArrowError>,
) -> Result<Vec<ArrayRef>, ArrowError> {
    let targets = &rows.targets;
    // What fills shorter heads is not written.
    let kept: Vec<usize> =
        (0..targets.rows).flat_map(|row| row * targets.k..row * targets.k + targets.count(row)).collect();
    let mut arrays =
        vec![column(encode_ids(kept.iter().map(|at| targets.ids[*at]), columns.ids), columns.k)?];
    let values: ArrayRef = match (scale, quantised) {
        (Some(Scale::Draws(draws)), _) => {
            let counts = (0..targets.rows).flat_map(|row| draws.counts(targets.row(row).1));
            Arc::new(UInt16Array::from_iter_values(counts))
        }
        (_, Some(quantised)) => {
            Arc::new(UInt16Array::from_iter_values(kept.iter().map(|at| quantised.values[*at])))
        }
        _ => encode_floats(kept.iter().map(|at| targets.values[*at]), columns.values),
    };
    arrays.push(column(values, columns.k)?);
    if columns.nodes > 0 {
        let curve: ArrayRef = match quantised {
            Some(quantised) => Arc::new(Int16Array::from_iter_values(quantised.curve.iter().copied())),
            None => encode_floats(targets.curve.iter().copied(), columns.values),
        };
        arrays.push(column(curve, columns.nodes)?);
    }
    if columns.rank > 0 {
        let codes = Arc::new(Int8Array::from_iter_values(targets.codes.iter().copied()));
        arrays.push(column(codes, columns.rank)?);
    }
    Ok(arrays)
}

/// Positions as bits, a row each.
fn packed(
    quantised: Option<&QuantisedBatch>,
    coding: &Coding,
    positions: &[usize],
) -> Result<ArrayRef, ArrowError> {
    let missing = || ArrowError::InvalidArgumentError("packed positions need steps and a codebook".into());
    let (quantised, codebook) = quantised.zip(coding.codebook.as_ref()).ok_or_else(missing)?;
    let rows: Vec<Range<usize>> = by_row(positions).collect();
    let groups = rows.par_chunks(rows.len().div_ceil(GROUPS).max(1)).map(|rows| {
        let (mut bytes, mut lengths) = (Vec::new(), Vec::with_capacity(rows.len()));
        for range in rows {
            let start = bytes.len();
            codebook.pack(quantised, range.clone(), &mut bytes);
            lengths.push(bytes.len() - start);
        }
        (bytes, lengths)
    });
    let (bytes, lengths): (Vec<Vec<u8>>, Vec<Vec<usize>>) = groups.unzip();
    let offsets = offsets(lengths.into_iter().flatten())?;
    Ok(Arc::new(BinaryArray::try_new(offsets, Buffer::from_vec(bytes.concat()), None)?))
}

/// A column of lists of given lengths.
fn list(values: ArrayRef, lengths: impl Iterator<Item = usize>) -> Result<ArrayRef, ArrowError> {
    let item = item_field(values.data_type().clone());
    Ok(Arc::new(ListArray::try_new(item, offsets(lengths)?, values, None)?))
}

/// Where lists of given lengths begin.
fn offsets(lengths: impl Iterator<Item = usize>) -> Result<OffsetBuffer<i32>, ArrowError> {
    let too_long = || {
        let problem = "a shard's column of 2^31 values or bytes, or more; lower storage.shard_samples";
        ArrowError::InvalidArgumentError(problem.into())
    };
    let mut end = 0usize;
    let mut offsets = vec![0i32];
    for length in lengths {
        end = end.checked_add(length).ok_or_else(too_long)?;
        offsets.push(i32::try_from(end).map_err(|_| too_long())?);
    }
    Ok(OffsetBuffer::new(offsets.into()))
}

/// Ids are below the number from which the integer type was chosen.
fn encode_ids(ids: impl Iterator<Item = u32>, kind: IdType) -> ArrayRef {
    match kind {
        IdType::U8 => Arc::new(UInt8Array::from_iter_values(ids.map(|id| id as u8))),
        IdType::U16 => Arc::new(UInt16Array::from_iter_values(ids.map(|id| id as u16))),
        IdType::U32 => Arc::new(UInt32Array::from_iter_values(ids)),
    }
}

fn encode_floats(values: impl Iterator<Item = f32>, encoding: ValueEncoding) -> ArrayRef {
    match encoding {
        // Beyond half precision's range a logit means "nothing"; it must stay finite.
        ValueEncoding::F16 => Arc::new(Float16Array::from_iter_values(
            values.map(|v| f16::from_f32(v.clamp(f16::MIN.to_f32(), f16::MAX.to_f32()))),
        )),
        _ => Arc::new(Float32Array::from_iter_values(values)),
    }
}

#[cfg(test)]
mod tests {
    use super::TokenRow;

    #[test]
    fn documents_of_a_row_are_told_apart() {
        let row = TokenRow { tokens: vec![9, 8, 7, 6, 5, 4], documents: vec![0, 2, 5] };
        assert_eq!(row.numbers(), [0, 0, 1, 1, 1, 2]);
        assert_eq!(row.places(), [0, 1, 0, 1, 2, 0]);
        assert_eq!(row.next_tokens(), [Some(8), None, Some(6), Some(5), None, None]);
        let one = TokenRow { tokens: vec![9; 3], documents: vec![0] };
        assert_eq!(one.places(), [0, 1, 2]);
        assert_eq!(TokenRow::default().next_tokens(), []);
    }
}
