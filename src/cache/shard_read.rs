//! One shard, opened: its columns as they lie in the file.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::AsArray;
use arrow::buffer::{Buffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{UInt16Type, UInt32Type, UInt64Type};

use super::codebook_file::Coding;
use super::columns::{ShardColumns, ShardLayout};
use super::feature_read::FeatureColumn;
use super::format::{DOCUMENTS, IdType, LABEL, SAMPLE_ID, TARGETS, TOKENS, VIEW};
use super::halves::Halves;
use super::ipc::read_mapped;
use super::parts::{Parts, primitive};
use super::read_ahead::{Pages, Wanted};
use super::target_columns::{IdColumn, TargetColumns};
use super::{CacheError, ShardEntry, TokenRow, parquet_file};
use crate::config::StorageForm;
use crate::encoding::FeatureNumbers;
use crate::mapped::fetch;
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
    Columns(TargetColumns),
    /// A row of bits for each row.
    Packed(OffsetBuffer<i32>, Buffer),
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
        let starts = tokens.as_ref().map(|tokens| &tokens.starts[..]);
        let targets = match columns.layout() {
            ShardLayout::Packed => {
                let bits =
                    parts.column(TARGETS)?.as_binary_opt::<i32>().ok_or_else(|| parts.missing(TARGETS))?;
                // No id is less than a bit, which vouches for the manifest's k before anybody makes room for so much.
                let least = if columns.variable { 1 } else { columns.k as u64 };
                let (least, found) =
                    ((positions as u64).saturating_mul(least), 8 * bits.values().len() as u64);
                if found < least {
                    let expected = format!("at least {least} bits, one for each id of {positions} heads");
                    return Err(parts.damaged(TARGETS, expected, format!("{found} bits")));
                }
                Targets::Packed(bits.offsets().clone(), bits.values().clone())
            }
            _ => Targets::Columns(TargetColumns::new(&parts, columns, coding.scale, starts)?),
        };
        let feature = |layout| FeatureColumn::new(&parts, layout, starts);
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

    /// Room for numbers of half precision, which `batch` has been made to fit for.
    pub(super) fn halves(&self, batch: &TargetBatch) -> Halves {
        match &self.targets {
            Targets::Columns(columns) => columns.halves(batch),
            Targets::Packed(..) => Halves::default(),
        }
    }

    /// The positions of `rows` among the shard's.
    #[inline(always)]
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

    /// Has what [`Self::copy_row`] will read first of `row` into a batch of these sizes fetched from memory.
    #[inline(always)]
    pub(super) fn fetch(&self, row: usize, sizes: &TargetBatch) {
        match &self.targets {
            Targets::Columns(columns) => {
                let positions = self.positions(row..row + 1);
                if !positions.is_empty() {
                    columns.fetch(positions.start, sizes);
                }
            }
            Targets::Packed(offsets, bytes) => {
                fetch(&bytes[offsets[row] as usize..offsets[row + 1] as usize]);
            }
        }
    }

    /// Copies the positions of `row` into `out` from its row `to` on, or into `halves`; returns how many.
    /// What fills shorter heads, and widening `halves`, are left to the caller. (Calls of their own, in here and in
    /// [`Self::fetch`], take a seventh of reading a row and more.)
    #[inline(always)]
    pub(super) fn copy_row(
        &self,
        row: usize,
        out: &mut TargetBatch,
        halves: &mut Halves,
        to: usize,
    ) -> Result<usize, CacheError> {
        let positions = self.positions(row..row + 1);
        let count = positions.len();
        match &self.targets {
            Targets::Columns(columns) => columns
                .copy(positions, out, halves, to)
                .map_err(|UnsoundDraws { expected, found }| self.damaged(row, expected, found))?,
            Targets::Packed(offsets, bytes) => {
                let bytes = &bytes[offsets[row] as usize..offsets[row + 1] as usize];
                self.unpack(row, bytes, count, out, to)?;
            }
        }
        Ok(count)
    }

    /// Writes the `count` positions of `row`, whose bits are in `bytes`, to `out` from its row `to` on.
    fn unpack(
        &self,
        row: usize,
        bytes: &[u8],
        count: usize,
        out: &mut TargetBatch,
        to: usize,
    ) -> Result<(), CacheError> {
        let coding = self.coding.codebook.as_ref().zip(self.coding.scale.as_ref());
        let (codebook, scale) =
            coding.ok_or_else(|| self.damaged(row, "a codebook in the manifest".into(), "none".into()))?;
        codebook.unpack(bytes, count, 0..count, scale, out, to).map_err(|unreadable| {
            let at = format!("position {}: ", unreadable.position);
            self.damaged(row, at + &unreadable.expected, unreadable.found)
        })
    }

    /// What is wrong with `row`.
    #[cold]
    pub(super) fn damaged(&self, row: usize, expected: String, found: String) -> CacheError {
        CacheError::Damaged { path: self.path.clone(), what: format!("row {row}"), expected, found }
    }

    /// The targets of a row's positions, written to `out`, which is made to fit.
    ///
    /// # Errors
    /// [`CacheError::Damaged`]: bits that are no positions.
    pub fn row_targets(&self, row: usize, out: &mut TargetBatch) -> Result<(), CacheError> {
        self.make_room(self.positions(row..row + 1).len(), out);
        let mut halves = self.halves(out);
        self.copy_row(row, out, &mut halves, 0)?;
        halves.widen_into(out);
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
        let expected = format!(
            "tokens below {vocabulary}, documents that begin at 0 and rise to less than {}",
            tokens.len()
        );
        Err(self.damaged(row, expected, format!("tokens up to {largest}, documents at {documents:?}")))
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
