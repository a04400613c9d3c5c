//! One shard, opened: its columns as they lie in the file.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::buffer::{Buffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{
    ArrowPrimitiveType, Float16Type, Float32Type, Int8Type, Int16Type, UInt8Type, UInt16Type, UInt32Type,
    UInt64Type,
};
use half::f16;

use super::codebook_file::Coding;
use super::columns::{ShardColumns, ShardLayout, head_name};
use super::feature_read::FeatureColumn;
use super::format::{
    DOCUMENTS, HEAD_COUNTS, HEAD_IDS, IdType, LABEL, SAMPLE_ID, TAIL_CODE, TAIL_CURVE, TARGETS, TOKENS, VIEW,
};
use super::ipc::read_mapped;
use super::read_ahead::{Pages, Wanted};
use super::{CacheError, ShardEntry, TokenRow, parquet_file};
use crate::config::{StorageForm, ValueEncoding};
use crate::encoding::{FeatureNumbers, Scale};
use crate::target::{TargetBatch, UnsoundDraws};

/// One shard. Of an Arrow file the columns lie in the map; a Parquet file has been decoded.
#[derive(Debug)]
pub struct ShardReader {
    path: PathBuf,
    columns: ShardColumns,
    coding: Arc<Coding>,
    sample_ids: ScalarBuffer<u64>,
    views: ScalarBuffer<u16>,
    labels: Option<ScalarBuffer<u32>>,
    tokens: Option<Tokens>,
    targets: Targets,
    features: Vec<FeatureColumn>,
    /// What of it lies in a map.
    mapped: Option<Pages>,
}

/// What samples are made of, where they are made of tokens.
#[derive(Debug)]
struct Tokens {
    /// Also where the positions of each row begin.
    starts: OffsetBuffer<i32>,
    tokens: IdColumn,
    document_starts: OffsetBuffer<i32>,
    documents: ScalarBuffer<u32>,
}

#[derive(Debug)]
enum Targets {
    Columns(Columns),
    /// A row of bits for each row.
    Packed(OffsetBuffer<i32>, Buffer),
}

#[derive(Debug)]
struct Columns {
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

/// The parts of a record batch, by name.
pub(super) struct Parts<'a> {
    path: &'a Path,
    batch: &'a RecordBatch,
}

impl<'a> Parts<'a> {
    fn damaged(&self, what: &str, expected: String, found: String) -> CacheError {
        CacheError::Damaged { path: self.path.to_owned(), what: what.to_owned(), expected, found }
    }

    /// The schema has been compared: what is missing is missing from the format.
    pub(super) fn missing(&self, name: &str) -> CacheError {
        self.damaged("columns", name.to_owned(), "none of that name and type".into())
    }

    pub(super) fn column(&self, name: &str) -> Result<&'a ArrayRef, CacheError> {
        self.batch.column_by_name(name).ok_or_else(|| self.missing(name))
    }

    fn primitive<T: ArrowPrimitiveType>(&self, name: &str) -> Result<ScalarBuffer<T::Native>, CacheError> {
        primitive::<T>(self.column(name)?).ok_or_else(|| self.missing(name))
    }

    /// A column of lists of any length: where they begin, and their items.
    fn list(&self, name: &str) -> Result<(OffsetBuffer<i32>, &'a ArrayRef), CacheError> {
        let list = self.column(name)?.as_list_opt::<i32>().ok_or_else(|| self.missing(name))?;
        let (offsets, items) = (list.offsets().clone(), list.values());
        // Rising they are: Arrow has checked that.
        let ends = (offsets[0], offsets[offsets.len() - 1]);
        if (ends.0, i64::from(ends.1)) != (0, items.len() as i64) {
            let expected = format!("offsets from 0 to the number of items, {}", items.len());
            return Err(self.damaged(name, expected, format!("from {} to {}", ends.0, ends.1)));
        }
        Ok((offsets, items))
    }

    /// The items of a column of lists, of which row `i` has `items_of(i)`.
    pub(super) fn part(
        &self,
        name: &str,
        layout: ShardLayout,
        items_of: &dyn Fn(usize) -> usize,
    ) -> Result<&'a ArrayRef, CacheError> {
        if layout == ShardLayout::Fixed {
            let list = self.column(name)?.as_fixed_size_list_opt();
            return list.map(|list| list.values()).ok_or_else(|| self.missing(name));
        }
        let (offsets, items) = self.list(name)?;
        for (row, pair) in offsets.windows(2).enumerate() {
            let found = (pair[1] - pair[0]) as usize;
            if found != items_of(row) {
                let expected = format!("{} items in row {row}", items_of(row));
                return Err(self.damaged(name, expected, found.to_string()));
            }
        }
        Ok(items)
    }
}

impl ShardReader {
    /// Opens the shard `entry` of the cache in `dir`, which should have `columns`.
    ///
    /// # Errors
    /// [`CacheError`]: missing, not a sound file, other columns, rows or positions.
    pub fn open(
        dir: &Path,
        entry: &ShardEntry,
        columns: &ShardColumns,
        coding: &Arc<Coding>,
    ) -> Result<Self, CacheError> {
        let path = dir.join(&entry.file);
        let (batch, map) = match columns.form {
            StorageForm::Arrow => {
                read_mapped(&path, &columns.schema()).map(|(batch, map)| (batch, Some(map)))?
            }
            StorageForm::Parquet => (parquet_file::read(&path, &columns.schema())?, None),
        };
        let parts = Parts { path: &path, batch: &batch };
        if batch.num_rows() as u64 != entry.rows {
            return Err(parts.damaged("rows", entry.rows.to_string(), batch.num_rows().to_string()));
        }
        let tokens = columns.tokens.map(|kind| Tokens::new(&parts, kind)).transpose()?;
        let positions = tokens.as_ref().map_or(batch.num_rows(), |tokens| tokens.tokens.len());
        if positions as u64 != entry.positions() {
            return Err(parts.damaged("positions", entry.positions().to_string(), positions.to_string()));
        }
        let targets = match columns.layout() {
            ShardLayout::Packed => {
                let bits =
                    parts.column(TARGETS)?.as_binary_opt::<i32>().ok_or_else(|| parts.missing(TARGETS))?;
                Targets::Packed(bits.offsets().clone(), bits.values().clone())
            }
            _ => Targets::Columns(Columns::new(&parts, columns, coding.scale, tokens.as_ref())?),
        };
        let in_row = |row: usize| tokens.as_ref().map_or(1, |t| (t.starts[row + 1] - t.starts[row]) as usize);
        let in_row = tokens.as_ref().map(|_| &in_row as &dyn Fn(usize) -> usize);
        let feature = |layout| FeatureColumn::new(&parts, layout, in_row);
        let features = columns.features.iter().map(feature).collect::<Result<_, CacheError>>()?;
        Ok(Self {
            sample_ids: parts.primitive::<UInt64Type>(SAMPLE_ID)?,
            views: parts.primitive::<UInt16Type>(VIEW)?,
            labels: columns.labelled.then(|| parts.primitive::<UInt32Type>(LABEL)).transpose()?,
            tokens,
            targets,
            features,
            mapped: map.map(|map| Pages::new(map, &batch, &columns.features)),
            columns: columns.clone(),
            coding: Arc::clone(coding),
            path,
        })
    }

    /// Makes `out` fit `positions` positions of this shard.
    pub(super) fn make_room(&self, positions: usize, out: &mut TargetBatch) {
        let columns = &self.columns;
        out.resize(positions, columns.k, columns.nodes, columns.rank);
        if columns.variable {
            out.vary();
        }
    }

    /// The positions of `rows` among the shard's.
    pub(super) fn positions(&self, rows: Range<usize>) -> Range<usize> {
        match &self.tokens {
            None => rows,
            // Arrow has checked that offsets rise from 0.
            Some(tokens) => tokens.starts[rows.start] as usize..tokens.starts[rows.end] as usize,
        }
    }

    /// Asks for what is mapped of `rows`.
    pub(super) fn will_need(&self, rows: &Range<usize>, wanted: Wanted<'_>) {
        self.mapped.iter().for_each(|pages| pages.will_need(rows, wanted));
    }

    /// Copies the positions of `row` into `out` from its row `to` on; returns how many. What fills shorter
    /// heads is left to the caller.
    pub(super) fn copy_row(&self, row: usize, out: &mut TargetBatch, to: usize) -> Result<usize, CacheError> {
        let positions = self.positions(row..row + 1);
        let count = positions.len();
        let damaged = |expected: String, found: String| CacheError::Damaged {
            path: self.path.clone(),
            what: format!("row {row}"),
            expected,
            found,
        };
        match &self.targets {
            Targets::Columns(columns) => columns
                .copy(positions, out, to)
                .map_err(|UnsoundDraws { expected, found }| damaged(expected, found))?,
            Targets::Packed(offsets, bytes) => {
                let bytes = &bytes[offsets[row] as usize..offsets[row + 1] as usize];
                let coding = self.coding.codebook.as_ref().zip(self.coding.scale.as_ref());
                let (codebook, scale) =
                    coding.ok_or_else(|| damaged("a codebook in the manifest".into(), "none".into()))?;
                codebook.unpack(bytes, count, 0..count, scale, out, to).map_err(|unreadable| {
                    let at = format!("position {}: ", unreadable.position);
                    damaged(at + &unreadable.expected, unreadable.found)
                })?;
            }
        }
        Ok(count)
    }

    /// The targets of a row's positions, written to `out`, which is made to fit.
    ///
    /// # Errors
    /// [`CacheError::Damaged`]: bits that are no positions.
    pub fn row_targets(&self, row: usize, out: &mut TargetBatch) -> Result<(), CacheError> {
        self.make_room(self.positions(row..row + 1).len(), out);
        self.copy_row(row, out, 0)?;
        out.pad();
        Ok(())
    }

    /// The tokens of a row, each below `vocabulary`; `None` where samples are not made of tokens.
    ///
    /// # Errors
    /// [`CacheError::Damaged`]: a token that is not, or documents that begin nowhere.
    pub fn tokens(&self, row: usize, vocabulary: usize) -> Result<Option<TokenRow>, CacheError> {
        let Some(columns) = &self.tokens else { return Ok(None) };
        let range = self.positions(row..row + 1);
        let mut tokens = vec![0; range.len()];
        columns.tokens.copy(range.start, &mut tokens);
        let starts = &columns.document_starts;
        let documents = columns.documents[starts[row] as usize..starts[row + 1] as usize].to_vec();
        let rising = documents.windows(2).all(|pair| pair[0] < pair[1]);
        let inside = documents.last().is_none_or(|last| (*last as usize) < tokens.len());
        let begun = documents.first() == (!tokens.is_empty()).then_some(&0);
        if tokens.iter().all(|token| (*token as usize) < vocabulary) && rising && inside && begun {
            return Ok(Some(TokenRow { tokens, documents }));
        }
        let largest = tokens.iter().max().copied().unwrap_or(0);
        Err(CacheError::Damaged {
            path: self.path.clone(),
            what: format!("row {row}"),
            expected: format!(
                "tokens below {vocabulary}, documents that begin at 0 and rise to less than {}",
                tokens.len()
            ),
            found: format!("tokens up to {largest}, documents at {documents:?}"),
        })
    }

    /// The vectors of a feature, by its place in the manifest, of the positions of `rows`, as they are kept; `None`
    /// where there is no such feature.
    pub fn feature(&self, feature: usize, rows: Range<usize>) -> Option<FeatureNumbers> {
        let positions = self.positions(rows);
        self.features.get(feature).map(|column| column.numbers(positions))
    }

    /// Adds the vectors of a feature of the positions of `row` to `out`.
    pub(super) fn read_feature(&self, feature: usize, row: usize, out: &mut Vec<f32>) {
        if let Some(column) = self.features.get(feature) {
            column.read(self.positions(row..row + 1), out);
        }
    }

    /// What is wrong with the features of `row`: name and rule.
    pub fn broken_feature(&self, row: usize) -> Option<(&str, String)> {
        let columns = self.columns.features.iter().zip(&self.features);
        let broken = |column: &FeatureColumn| column.broken(self.positions(row..row + 1));
        columns.into_iter().find_map(|(layout, column)| Some((layout.name.as_str(), broken(column)?)))
    }

    /// Sample ids: `[rows]`.
    pub fn sample_ids(&self) -> &[u64] {
        &self.sample_ids
    }

    /// Views: `[rows]`.
    pub fn views(&self) -> &[u16] {
        &self.views
    }

    /// Labels: `[rows]`, or `None` in an unlabelled dataset.
    pub fn labels(&self) -> Option<&[u32]> {
        self.labels.as_deref()
    }
}

impl Tokens {
    fn new(parts: &Parts<'_>, kind: IdType) -> Result<Self, CacheError> {
        let (starts, tokens) = parts.list(TOKENS)?;
        let (document_starts, documents) = parts.list(DOCUMENTS)?;
        Ok(Self {
            starts,
            tokens: IdColumn::new(tokens, kind).ok_or_else(|| parts.missing(TOKENS))?,
            document_starts,
            documents: primitive::<UInt32Type>(documents).ok_or_else(|| parts.missing(DOCUMENTS))?,
        })
    }
}

impl Columns {
    fn new(
        parts: &Parts<'_>,
        columns: &ShardColumns,
        scale: Option<Scale>,
        tokens: Option<&Tokens>,
    ) -> Result<Self, CacheError> {
        let layout = columns.layout();
        let positions = |row: usize| tokens.map_or(1, |t| (t.starts[row + 1] - t.starts[row]) as usize);
        let heads = match columns.variable {
            false => None,
            true => {
                let counts = parts.part(HEAD_COUNTS, layout, &positions)?;
                let counts = primitive::<UInt16Type>(counts).ok_or_else(|| parts.missing(HEAD_COUNTS))?;
                Some(Heads::new(counts, columns.k).map_err(|found| {
                    let expected = format!("heads of 1 to {} classes", columns.k);
                    parts.damaged(HEAD_COUNTS, expected, format!("one of {found}"))
                })?)
            }
        };
        let first = |row: usize| tokens.map_or(row, |t| t.starts[row] as usize);
        let in_heads = |row: usize| match &heads {
            None => positions(row).saturating_mul(columns.k),
            Some(heads) => heads.starts[first(row + 1)] - heads.starts[first(row)],
        };
        let ids = IdColumn::new(parts.part(HEAD_IDS, layout, &in_heads)?, columns.ids);
        let name = head_name(columns.values);
        let values = ValueColumn::new(parts.part(name, layout, &in_heads)?, columns.values, scale);
        let fixed = |per_position: usize| move |row: usize| positions(row).saturating_mul(per_position);
        let curve = || {
            let items = parts.part(TAIL_CURVE, layout, &fixed(columns.nodes))?;
            ValueColumn::new(items, columns.values, scale).ok_or_else(|| parts.missing(TAIL_CURVE))
        };
        let codes = || {
            let items = parts.part(TAIL_CODE, layout, &fixed(columns.rank))?;
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

    /// Copies `positions` into the rows of `out` from `to` on; `Err`: numbers of draws that are none.
    fn copy(&self, positions: Range<usize>, out: &mut TargetBatch, to: usize) -> Result<(), UnsoundDraws> {
        let (k, nodes, rank) = (out.k, out.nodes, out.rank);
        let (at, count) = (positions.start, positions.len());
        if let Some(curve) = &self.curve {
            curve.copy(at * nodes, &mut out.curve[to * nodes..][..count * nodes])?;
        }
        if let Some(codes) = &self.codes {
            out.codes[to * rank..][..count * rank].copy_from_slice(&codes[at * rank..][..count * rank]);
        }
        let Some(heads) = &self.heads else {
            self.ids.copy(at * k, &mut out.ids[to * k..][..count * k]);
            return self.values.copy(at * k, &mut out.values[to * k..][..count * k]);
        };
        for (row, position) in positions.enumerate() {
            let count = usize::from(heads.counts[position]);
            let start = heads.starts[position];
            self.ids.copy(start, &mut out.ids[(to + row) * k..][..count]);
            self.values.copy(start, &mut out.values[(to + row) * k..][..count])?;
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
enum IdColumn {
    U8(ScalarBuffer<u8>),
    U16(ScalarBuffer<u16>),
    U32(ScalarBuffer<u32>),
}

impl IdColumn {
    fn new(array: &dyn Array, ids: IdType) -> Option<Self> {
        Some(match ids {
            IdType::U8 => Self::U8(primitive::<UInt8Type>(array)?),
            IdType::U16 => Self::U16(primitive::<UInt16Type>(array)?),
            IdType::U32 => Self::U32(primitive::<UInt32Type>(array)?),
        })
    }

    fn len(&self) -> usize {
        match self {
            Self::U8(ids) => ids.len(),
            Self::U16(ids) => ids.len(),
            Self::U32(ids) => ids.len(),
        }
    }

    fn copy(&self, start: usize, out: &mut [u32]) {
        let range = start..start + out.len();
        match self {
            Self::U8(ids) => out.iter_mut().zip(&ids[range]).for_each(|(out, id)| *out = u32::from(*id)),
            Self::U16(ids) => out.iter_mut().zip(&ids[range]).for_each(|(out, id)| *out = u32::from(*id)),
            Self::U32(ids) => out.copy_from_slice(&ids[range]),
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

    /// `out` are the values of one head where they are numbers of draws.
    fn copy(&self, start: usize, out: &mut [f32]) -> Result<(), UnsoundDraws> {
        let range = start..start + out.len();
        match self {
            Self::F16(values) => out.iter_mut().zip(&values[range]).for_each(|(out, v)| *out = v.to_f32()),
            Self::F32(values) => out.copy_from_slice(&values[range]),
            Self::Whole(counts, Scale::Draws(draws)) => {
                return draws.logits(counts[range].iter().copied(), out);
            }
            Self::Whole(below, scale) => return scale.logits(&below[range], out),
            Self::Curve(values, scale) => {
                out.iter_mut().zip(&values[range]).for_each(|(out, v)| *out = scale.curve_of(*v));
            }
        }
        Ok(())
    }
}

pub(super) fn primitive<T: ArrowPrimitiveType>(array: &dyn Array) -> Option<ScalarBuffer<T::Native>> {
    array.as_primitive_opt::<T>().map(|array| array.values().clone())
}
