//! The columns of a shard's targets, as they lie in it.

use std::ops::Range;

use arrow::array::Array;
use arrow::buffer::ScalarBuffer;
use arrow::datatypes::{Float16Type, Float32Type, Int8Type, Int16Type, UInt8Type, UInt16Type, UInt32Type};
use half::f16;

use super::CacheError;
use super::columns::{ShardColumns, head_name};
use super::format::{HEAD_COUNTS, HEAD_IDS, IdType, TAIL_CODE, TAIL_CURVE};
use super::halves::Halves;
use super::parts::{Items, Parts, primitive};
use crate::config::ValueEncoding;
use crate::encoding::Scale;
use crate::mapped::fetch;
use crate::target::{TargetBatch, UnsoundDraws};
use crate::vectors::each;

/// Heads, curves and codes of all positions.
#[derive(Debug)]
pub(super) struct TargetColumns {
    ids: IdColumn,
    values: ValueColumn,
    curve: Option<ValueColumn>,
    codes: Option<ScalarBuffer<i8>>,
    heads: Option<Heads>,
}

/// Heads that differ in size.
#[derive(Debug)]
struct Heads {
    counts: ScalarBuffer<u16>,
    /// By position: where its head begins.
    starts: Vec<usize>,
}

impl TargetColumns {
    /// The columns that `columns` say; `starts`, of a dataset of tokens, are where the positions of each row begin.
    pub(super) fn new(
        parts: &Parts<'_>,
        columns: &ShardColumns,
        scale: Option<Scale>,
        starts: Option<&[i32]>,
    ) -> Result<Self, CacheError> {
        let layout = columns.layout();
        let heads = match columns.variable {
            false => None,
            true => {
                let counts = parts.part(HEAD_COUNTS, layout, Items::of_positions(starts, 1))?;
                let counts = primitive::<UInt16Type>(counts).ok_or_else(|| parts.missing(HEAD_COUNTS))?;
                Some(Heads::new(counts, columns.k).map_err(|found| {
                    let expected = format!("heads of 1 to {} classes", columns.k);
                    parts.damaged(HEAD_COUNTS, expected, format!("one of {found}"))
                })?)
            }
        };
        let in_heads = match &heads {
            None => Items::of_positions(starts, columns.k),
            Some(heads) => Items::OfHeads(starts, &heads.starts),
        };
        let ids = IdColumn::new(parts.part(HEAD_IDS, layout, in_heads)?, columns.ids);
        let name = head_name(columns.values);
        let values = ValueColumn::new(parts.part(name, layout, in_heads)?, columns.values, scale);
        let curve = || {
            let items = parts.part(TAIL_CURVE, layout, Items::of_positions(starts, columns.nodes))?;
            ValueColumn::new(items, columns.values, scale).ok_or_else(|| parts.missing(TAIL_CURVE))
        };
        let codes = || {
            let items = parts.part(TAIL_CODE, layout, Items::of_positions(starts, columns.rank))?;
            primitive::<Int8Type>(items).ok_or_else(|| parts.missing(TAIL_CODE))
        };
        let (curve, codes) = ((columns.nodes > 0).then(curve), (columns.rank > 0).then(codes));
        Ok(Self {
            ids: ids.ok_or_else(|| parts.missing(HEAD_IDS))?,
            values: values.ok_or_else(|| parts.missing(name))?,
            curve: curve.transpose()?,
            codes: codes.transpose()?,
            heads,
        })
    }

    /// Has what a batch of these sizes will have of a position fetched from memory.
    #[inline(always)]
    pub(super) fn fetch(&self, position: usize, sizes: &TargetBatch) {
        let of = |each: usize| position * each..(position + 1) * each;
        let head = match &self.heads {
            None => of(sizes.k),
            Some(heads) => heads.starts[position]..heads.starts[position + 1],
        };
        self.ids.fetch(head.clone());
        self.values.fetch(head);
        if let Some(curve) = &self.curve {
            curve.fetch(of(sizes.nodes));
        }
        if let Some(codes) = &self.codes {
            fetch(&codes[of(sizes.rank)]);
        }
    }

    /// Room for the numbers of `batch`, where they are of half precision.
    pub(super) fn halves(&self, batch: &TargetBatch) -> Halves {
        match self.values {
            ValueColumn::F16(_) => Halves::of(batch),
            _ => Halves::default(),
        }
    }

    /// Copies `positions` into the rows of `out` from `to` on, numbers of half precision into the same places of `halves`;
    /// `Err`: numbers of draws that are none.
    #[inline(always)]
    pub(super) fn copy(
        &self,
        positions: Range<usize>,
        out: &mut TargetBatch,
        halves: &mut Halves,
        to: usize,
    ) -> Result<(), UnsoundDraws> {
        let (k, nodes, rank) = (out.k, out.nodes, out.rank);
        let (at, count) = (positions.start, positions.len());
        if let Some(curve) = &self.curve {
            let to = to * nodes..(to + count) * nodes;
            curve.copy(at * nodes, to, &mut out.curve, &mut halves.curve)?;
        }
        if let Some(codes) = &self.codes {
            each(&codes[at * rank..][..count * rank], &mut out.codes[to * rank..][..count * rank], |code| {
                code
            });
        }
        let Some(heads) = &self.heads else {
            let to = to * k..(to + count) * k;
            self.ids.copy(at * k, &mut out.ids[to.clone()]);
            return self.values.copy(at * k, to, &mut out.values, &mut halves.values);
        };
        self.copy_heads(heads, positions, out, halves, to)
    }

    /// [`Self::copy`] of heads that differ in size.
    fn copy_heads(
        &self,
        heads: &Heads,
        positions: Range<usize>,
        out: &mut TargetBatch,
        halves: &mut Halves,
        to: usize,
    ) -> Result<(), UnsoundDraws> {
        for (row, position) in positions.enumerate() {
            let count = usize::from(heads.counts[position]);
            let start = heads.starts[position];
            let place = (to + row) * out.k..(to + row) * out.k + count;
            self.ids.copy(start, &mut out.ids[place.clone()]);
            self.values.copy(start, place, &mut out.values, &mut halves.values)?;
            out.set_count(to + row, count);
        }
        Ok(())
    }
}

impl Heads {
    /// `Err`: a size that none may have.
    fn new(counts: ScalarBuffer<u16>, k: usize) -> Result<Self, u16> {
        let mut starts = Vec::with_capacity(counts.len() + 1);
        let mut start = 0;
        for count in counts.iter() {
            if *count == 0 || usize::from(*count) > k {
                return Err(*count);
            }
            starts.push(start);
            start += usize::from(*count);
        }
        starts.push(start);
        Ok(Self { counts, starts })
    }
}

/// Class ids of whichever width.
#[derive(Debug)]
pub(super) enum IdColumn {
    U8(ScalarBuffer<u8>),
    U16(ScalarBuffer<u16>),
    U32(ScalarBuffer<u32>),
}

impl IdColumn {
    pub(super) fn new(array: &dyn Array, ids: IdType) -> Option<Self> {
        Some(match ids {
            IdType::U8 => Self::U8(primitive::<UInt8Type>(array)?),
            IdType::U16 => Self::U16(primitive::<UInt16Type>(array)?),
            IdType::U32 => Self::U32(primitive::<UInt32Type>(array)?),
        })
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Self::U8(ids) => ids.len(),
            Self::U16(ids) => ids.len(),
            Self::U32(ids) => ids.len(),
        }
    }

    #[inline(always)]
    fn fetch(&self, range: Range<usize>) {
        match self {
            Self::U8(ids) => fetch(&ids[range]),
            Self::U16(ids) => fetch(&ids[range]),
            Self::U32(ids) => fetch(&ids[range]),
        }
    }

    #[inline(always)]
    pub(super) fn copy(&self, start: usize, out: &mut [u32]) {
        let range = start..start + out.len();
        match self {
            Self::U8(ids) => each(&ids[range], out, u32::from),
            Self::U16(ids) => each(&ids[range], out, u32::from),
            Self::U32(ids) => each(&ids[range], out, |id| id),
        }
    }
}

/// Logits or curves, whatever they are kept as.
#[derive(Debug)]
enum ValueColumn {
    F16(ScalarBuffer<f16>),
    F32(ScalarBuffer<f32>),
    /// Logits in steps, or numbers of draws.
    Whole(ScalarBuffer<u16>, Scale),
    /// Curves.
    Curve(ScalarBuffer<i16>, Scale),
}

impl ValueColumn {
    fn new(array: &dyn Array, values: ValueEncoding, scale: Option<Scale>) -> Option<Self> {
        Some(match values {
            ValueEncoding::F16 => Self::F16(primitive::<Float16Type>(array)?),
            ValueEncoding::F32 => Self::F32(primitive::<Float32Type>(array)?),
            ValueEncoding::Quantized | ValueEncoding::Counts => match primitive::<UInt16Type>(array) {
                Some(whole) => Self::Whole(whole, scale?),
                None => Self::Curve(primitive::<Int16Type>(array)?, scale?),
            },
        })
    }

    #[inline(always)]
    fn fetch(&self, range: Range<usize>) {
        match self {
            Self::F16(values) => fetch(&values[range]),
            Self::F32(values) => fetch(&values[range]),
            Self::Whole(values, _) => fetch(&values[range]),
            Self::Curve(values, _) => fetch(&values[range]),
        }
    }

    /// Copies the numbers from `start` on to `to` in `out`, or in `halves`; `to` is one head where they are numbers of draws.
    /// (A call of its own takes a tenth of reading a position.)
    #[inline(always)]
    fn copy(
        &self,
        start: usize,
        to: Range<usize>,
        out: &mut [f32],
        halves: &mut [f16],
    ) -> Result<(), UnsoundDraws> {
        let range = start..start + to.len();
        match self {
            Self::F16(values) => each(&values[range], &mut halves[to], |value| value),
            Self::F32(values) => each(&values[range], &mut out[to], |value| value),
            Self::Whole(counts, Scale::Draws(draws)) => {
                return draws.logits(counts[range].iter().copied(), &mut out[to]);
            }
            Self::Whole(below, scale) => return scale.logits(&below[range], &mut out[to]),
            Self::Curve(values, scale) => {
                each(&values[range], &mut out[to], |value| scale.curve_of(value));
            }
        }
        Ok(())
    }
}
