//! Reads a cache: maps its shards and gathers rows from the mapped columns.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use arrow::array::{Array, AsArray};
use arrow::buffer::ScalarBuffer;
use arrow::datatypes::{
    ArrowPrimitiveType, Float16Type, Float32Type, Int8Type, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use half::f16;

use super::format::{
    BUILD_FOLDER, HEAD_IDS, HEAD_VALUES, IdType, JOURNAL_FILE, LABEL, MANIFEST_FILE, PLAN_FILE, SAMPLE_ID,
    ShardColumns, TAIL_CODE, TAIL_CURVE, VIEW,
};
use super::ipc::read_batch;
use super::{CacheError, Manifest, journal, tail_file};
use crate::config::ValueEncoding;
use crate::ids::{SampleId, ShardIndex};
use crate::target::{TailModel, TargetBatch};

/// The manifest of the cache in `dir`; of an unfinished one its plan and the committed shards.
///
/// # Errors
/// [`CacheError::NotACache`], and what [`Manifest::load`] returns.
pub fn read_manifest(dir: &Path) -> Result<Manifest, CacheError> {
    let path = dir.join(MANIFEST_FILE);
    if path.exists() {
        return Manifest::load(&path);
    }
    let build = dir.join(BUILD_FOLDER);
    let plan = build.join(PLAN_FILE);
    if !plan.exists() {
        return Err(CacheError::NotACache { path: dir.to_owned() });
    }
    let mut manifest = Manifest::load(&plan)?;
    manifest.shards = journal::read(&build.join(JOURNAL_FILE))?;
    Ok(manifest)
}

/// The tail model of the cache in `dir`, or `None` when its head holds every class.
///
/// # Errors
/// [`CacheError`]: missing, or not what the manifest says.
pub fn read_tail_model(dir: &Path, manifest: &Manifest) -> Result<Option<TailModel>, CacheError> {
    let tail = &manifest.tail;
    let read = |file: &str| tail_file::read(&dir.join(file), &tail.nodes, manifest.classes, tail.rank);
    tail.model.as_ref().map(|model| read(&model.file)).transpose()
}

/// An open cache. Shards are mapped when they are first touched.
#[derive(Debug)]
pub struct CacheReader {
    dir: PathBuf,
    manifest: Manifest,
    tail_model: Option<TailModel>,
    /// The first row of each shard, and the number of rows.
    starts: Vec<u64>,
    shards: Vec<OnceLock<ShardReader>>,
}

impl CacheReader {
    /// Opens the complete cache in `dir`.
    ///
    /// # Errors
    /// [`CacheError::NotACache`], [`CacheError::Incomplete`], and whatever is wrong with
    /// manifest and tail model. Shards are checked against the manifest when first touched;
    /// digests are checked by `kd-cache verify` only.
    pub fn open(dir: &Path) -> Result<Self, CacheError> {
        let reader = Self::open_partial(dir)?;
        if !reader.manifest.complete {
            return Err(CacheError::Incomplete {
                path: dir.to_owned(),
                committed: reader.manifest.shards.len(),
                expected: reader.manifest.expected_shards(),
            });
        }
        Ok(reader)
    }

    /// Opens the cache in `dir`, finished or not: the rows are those of the committed shards.
    ///
    /// # Errors
    /// As [`Self::open`], but for incompleteness.
    pub fn open_partial(dir: &Path) -> Result<Self, CacheError> {
        let manifest = read_manifest(dir)?;
        let tail_model = read_tail_model(dir, &manifest)?;
        let mut starts = vec![0u64];
        for shard in &manifest.shards {
            starts.push(starts[starts.len() - 1].saturating_add(shard.rows));
        }
        let shards = manifest.shards.iter().map(|_| OnceLock::new()).collect();
        Ok(Self { dir: dir.to_owned(), manifest, tail_model, starts, shards })
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// What the cache says of itself.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Where the tail's mass lies, or `None` when the head holds every class.
    pub fn tail_model(&self) -> Option<&TailModel> {
        self.tail_model.as_ref()
    }

    /// Number of rows.
    pub fn rows(&self) -> u64 {
        self.starts[self.starts.len() - 1]
    }

    /// The shard at `index`, mapped.
    ///
    /// # Errors
    /// [`CacheError`]: missing, or not what the manifest says.
    ///
    /// # Panics
    /// When there is no such shard.
    pub fn shard(&self, index: ShardIndex) -> Result<&ShardReader, CacheError> {
        let slot = &self.shards[index.as_usize()];
        if let Some(shard) = slot.get() {
            return Ok(shard);
        }
        let entry = &self.manifest.shards[index.as_usize()];
        let shard = ShardReader::open(&self.dir.join(&entry.file), &self.manifest.columns(), entry.rows)?;
        // Two threads may both have opened it; either serves.
        Ok(slot.get_or_init(|| shard))
    }

    /// The sample in `row`.
    ///
    /// # Errors
    /// Those of [`Self::shard`].
    ///
    /// # Panics
    /// When `row` is not below [`Self::rows`].
    pub fn sample_id(&self, row: u64) -> Result<SampleId, CacheError> {
        let (shard, at) = self.locate(row);
        Ok(SampleId(self.shard(shard)?.sample_ids[at]))
    }

    /// The label of the sample in `row`, or `None` in an unlabelled dataset.
    ///
    /// # Errors
    /// Those of [`Self::shard`].
    ///
    /// # Panics
    /// When `row` is not below [`Self::rows`].
    pub fn label(&self, row: u64) -> Result<Option<u32>, CacheError> {
        let (shard, at) = self.locate(row);
        Ok(self.shard(shard)?.labels().map(|labels| labels[at]))
    }

    /// The row of a sample's first view, if the cache has it.
    ///
    /// # Errors
    /// Those of [`Self::shard`].
    pub fn row_of(&self, id: SampleId) -> Result<Option<u64>, CacheError> {
        let after = self.manifest.shards.partition_point(|shard| shard.first_sample <= id.0);
        let Some(index) = after.checked_sub(1) else { return Ok(None) };
        let ids = &self.shard(ShardIndex(index as u32))?.sample_ids;
        let at = ids.partition_point(|found| *found < id.0);
        let hit = ids.get(at).is_some_and(|found| *found == id.0);
        Ok(hit.then(|| self.starts[index] + at as u64))
    }

    /// Copies the targets of `rows`, in that order, into `out`, which is made to fit.
    ///
    /// Class ids come out below the number of classes, logits and curves finite: whatever a
    /// stranger's shard holds, nothing downstream reads beyond its bounds or learns from NaN.
    ///
    /// # Errors
    /// Those of [`Self::shard`], and [`CacheError::Damaged`] naming shard and row.
    ///
    /// # Panics
    /// When a row is not below [`Self::rows`].
    pub fn gather(&self, rows: &[u64], out: &mut TargetBatch) -> Result<(), CacheError> {
        let columns = self.manifest.columns();
        // A shard that has been opened vouches for the manifest's k, which is then safe to allocate.
        if let Some(row) = rows.first() {
            self.shard(self.locate(*row).0)?;
        }
        out.resize(rows.len(), columns.k, columns.nodes, columns.rank);
        for (to, row) in rows.iter().enumerate() {
            let (shard, at) = self.locate(*row);
            self.shard(shard)?.copy_rows(at, out, to..to + 1);
        }
        self.check_usable(rows, out)
    }

    /// Refuses what no reader can use. One pass without branches over what has just been copied;
    /// everything else is for `kd-cache verify`.
    fn check_usable(&self, rows: &[u64], targets: &TargetBatch) -> Result<(), CacheError> {
        let classes = self.manifest.classes;
        let ids_fit = |ids: &[u32]| ids.iter().fold(true, |fit, id| fit & ((*id as usize) < classes));
        let finite = |values: &[f32]| values.iter().fold(true, |all, value| all & value.is_finite());
        if ids_fit(&targets.ids) && finite(&targets.values) && finite(&targets.curve) {
            return Ok(());
        }
        let usable = |at: usize| {
            let (ids, values, curve) = targets.row(at);
            ids_fit(ids) && finite(values) && finite(curve)
        };
        let at = (0..rows.len()).find(|at| !usable(*at)).unwrap_or(0);
        let (shard, row) = self.locate(rows[at]);
        let (ids, values, curve) = targets.row(at);
        Err(CacheError::Damaged {
            path: self.dir.join(&self.manifest.shards[shard.as_usize()].file),
            what: format!("row {row}"),
            expected: format!("class ids below {classes} and finite values"),
            found: format!("ids {ids:?}, logits {values:?}, tail curve {curve:?}"),
        })
    }

    /// Shard and row in it.
    fn locate(&self, row: u64) -> (ShardIndex, usize) {
        assert!(row < self.rows(), "row {row} of {}", self.rows());
        let shard = self.starts.partition_point(|start| *start <= row) - 1;
        (ShardIndex(shard as u32), (row - self.starts[shard]) as usize)
    }
}

/// One mapped shard: its columns as they lie in the file.
#[derive(Debug)]
pub struct ShardReader {
    sample_ids: ScalarBuffer<u64>,
    views: ScalarBuffer<u16>,
    labels: Option<ScalarBuffer<u32>>,
    head_ids: IdColumn,
    head_values: ValueColumn,
    tail_curve: Option<ValueColumn>,
    tail_code: Option<ScalarBuffer<i8>>,
}

impl ShardReader {
    /// Maps the shard at `path`, which should have `columns` and `rows`.
    ///
    /// # Errors
    /// [`CacheError`]: missing, no sound Arrow IPC, other columns or rows.
    pub fn open(path: &Path, columns: &ShardColumns, rows: u64) -> Result<Self, CacheError> {
        let batch = read_batch(path, &columns.schema())?;
        if batch.num_rows() as u64 != rows {
            return Err(CacheError::Damaged {
                path: path.to_owned(),
                what: "rows".into(),
                expected: rows.to_string(),
                found: batch.num_rows().to_string(),
            });
        }
        let missing = |name: &str| CacheError::Damaged {
            path: path.to_owned(),
            what: "columns".into(),
            expected: name.to_owned(),
            found: "none of that name and type".into(),
        };
        // The schema has been compared: what is missing below is missing from the format.
        let column = |name: &'static str| batch.column_by_name(name).ok_or_else(|| missing(name));
        let list = |name: &'static str| {
            column(name)?.as_fixed_size_list_opt().map(|list| list.values()).ok_or_else(|| missing(name))
        };
        let values =
            |name: &'static str| ValueColumn::new(list(name)?, columns.values).ok_or_else(|| missing(name));
        Ok(Self {
            sample_ids: primitive::<UInt64Type>(column(SAMPLE_ID)?).ok_or_else(|| missing(SAMPLE_ID))?,
            views: primitive::<UInt16Type>(column(VIEW)?).ok_or_else(|| missing(VIEW))?,
            labels: match columns.labelled {
                true => Some(primitive::<UInt32Type>(column(LABEL)?).ok_or_else(|| missing(LABEL))?),
                false => None,
            },
            head_ids: IdColumn::new(list(HEAD_IDS)?, columns.ids).ok_or_else(|| missing(HEAD_IDS))?,
            head_values: values(HEAD_VALUES)?,
            tail_curve: if columns.nodes > 0 { Some(values(TAIL_CURVE)?) } else { None },
            tail_code: match columns.rank {
                0 => None,
                _ => Some(primitive::<Int8Type>(list(TAIL_CODE)?).ok_or_else(|| missing(TAIL_CODE))?),
            },
        })
    }

    /// Every row's target.
    pub fn targets(&self, columns: &ShardColumns) -> TargetBatch {
        let rows = self.sample_ids.len();
        let mut out = TargetBatch::default();
        out.resize(rows, columns.k, columns.nodes, columns.rank);
        self.copy_rows(0, &mut out, 0..rows);
        out
    }

    /// Copies rows from `at` on into the rows `to` of `out`.
    fn copy_rows(&self, at: usize, out: &mut TargetBatch, to: Range<usize>) {
        let (k, nodes, rank) = (out.k, out.nodes, out.rank);
        self.head_ids.copy(at * k, &mut out.ids[to.start * k..to.end * k]);
        self.head_values.copy(at * k, &mut out.values[to.start * k..to.end * k]);
        if let Some(curve) = &self.tail_curve {
            curve.copy(at * nodes, &mut out.curve[to.start * nodes..to.end * nodes]);
        }
        if let Some(codes) = &self.tail_code {
            let out = &mut out.codes[to.start * rank..to.end * rank];
            out.copy_from_slice(&codes[at * rank..at * rank + out.len()]);
        }
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

    fn copy(&self, start: usize, out: &mut [u32]) {
        let range = start..start + out.len();
        match self {
            Self::U8(ids) => out.iter_mut().zip(&ids[range]).for_each(|(out, id)| *out = u32::from(*id)),
            Self::U16(ids) => out.iter_mut().zip(&ids[range]).for_each(|(out, id)| *out = u32::from(*id)),
            Self::U32(ids) => out.copy_from_slice(&ids[range]),
        }
    }
}

/// Logits or curves of whichever precision.
#[derive(Debug)]
enum ValueColumn {
    F16(ScalarBuffer<f16>),
    F32(ScalarBuffer<f32>),
}

impl ValueColumn {
    fn new(array: &dyn Array, values: ValueEncoding) -> Option<Self> {
        Some(match values {
            ValueEncoding::F16 => Self::F16(primitive::<Float16Type>(array)?),
            ValueEncoding::F32 => Self::F32(primitive::<Float32Type>(array)?),
        })
    }

    fn copy(&self, start: usize, out: &mut [f32]) {
        let range = start..start + out.len();
        match self {
            Self::F16(values) => out.iter_mut().zip(&values[range]).for_each(|(out, v)| *out = v.to_f32()),
            Self::F32(values) => out.copy_from_slice(&values[range]),
        }
    }
}

fn primitive<T: ArrowPrimitiveType>(array: &dyn Array) -> Option<ScalarBuffer<T::Native>> {
    array.as_primitive_opt::<T>().map(|array| array.values().clone())
}
