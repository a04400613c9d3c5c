//! Reads a cache: maps its shards and gathers rows from the mapped columns.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use rayon::prelude::*;

use super::codebook_file::Coding;
use super::contents::check_file;
use super::format::{BUILD_FOLDER, JOURNAL_FILE, MANIFEST_FILE, PLAN_FILE};
use super::read_ahead::Wanted;
use super::{
    CacheError, EncoderTable, FileEntry, Manifest, ShardEntry, ShardReader, TokenRow, ipc, journal,
    parquet_file, tail_file,
};
use crate::config::StorageForm;
use crate::ids::{SampleId, ShardIndex};
use crate::target::{FeatureBatch, TailModel, TargetBatch};
use crate::vectors::{are_finite, largest};

/// Rows between the one that is copied and the one that is fetched: half a microsecond of copying.
const AHEAD: usize = 8;

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
    manifest.check(&build.join(JOURNAL_FILE))?;
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

/// What gave the positions of the cache in `dir` their tail codes; `None` for rank 0, and where an older
/// version did not keep it.
///
/// # Errors
/// [`CacheError`]: missing, or not what the manifest says.
pub fn read_encoder(dir: &Path, manifest: &Manifest) -> Result<Option<EncoderTable>, CacheError> {
    let read = |entry: &FileEntry| tail_file::read_encoder(&dir.join(&entry.file), manifest.classes);
    manifest.tail.encoder.as_ref().map(read).transpose()
}

/// Places for shards, from the one of number `first` on.
#[derive(Clone, Debug)]
struct Opened {
    first: usize,
    slots: Arc<[OnceLock<ShardReader>]>,
}

impl Opened {
    /// With none open.
    fn none(shards: Range<usize>) -> Self {
        Self { first: shards.start, slots: shards.map(|_| OnceLock::new()).collect() }
    }

    fn slot(&self, index: ShardIndex) -> &OnceLock<ShardReader> {
        &self.slots[index.as_usize() - self.first]
    }
}

/// An open cache. Shards are opened when they are first touched, and stay open: mapped, or of a Parquet cache in memory.
#[derive(Clone, Debug)]
pub struct CacheReader {
    dir: PathBuf,
    manifest: Arc<Manifest>,
    tail_model: Arc<Option<TailModel>>,
    coding: Arc<Coding>,
    /// The first row of each shard, and the number of rows.
    starts: Arc<[u64]>,
    /// Shards for each row, in units of 2⁻⁶⁴, were all as long as the first.
    shards_per_row: u64,
    shards: Opened,
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
        let coding = Arc::new(Coding::read(dir, &manifest)?);
        let mut starts = vec![0u64];
        for shard in &manifest.shards {
            starts.push(starts[starts.len() - 1].saturating_add(shard.rows));
        }
        let shards_per_row = manifest.shards.first().map_or(0, |shard| per_row(shard.rows));
        Ok(Self {
            dir: dir.to_owned(),
            shards: Opened::none(0..manifest.shards.len()),
            manifest: Arc::new(manifest),
            tail_model: Arc::new(tail_model),
            coding,
            starts: starts.into(),
            shards_per_row,
        })
    }

    /// The same cache, to read the rows of one shard, and no others. Of a Parquet cache that shard is in memory for as long
    /// as this is there, so that who goes shard by shard never holds more.
    pub fn of_shard(&self, index: ShardIndex) -> Self {
        let mut reader = self.clone();
        // What is mapped takes nothing while it is open.
        if self.manifest.storage.form == StorageForm::Parquet {
            reader.shards = Opened::none(index.as_usize()..index.as_usize() + 1);
        }
        reader
    }

    /// All shards in order, each with its [`Self::of_shard`] and its rows.
    pub fn each_shard(&self) -> impl Iterator<Item = (Self, ShardIndex, Range<u64>)> {
        self.starts.windows(2).enumerate().map(|(index, ends)| {
            let index = ShardIndex(index as u32);
            (self.of_shard(index), index, ends[0]..ends[1])
        })
    }

    /// `rows`, which rise, by the shards that they lie in, each with its [`Self::of_shard`].
    ///
    /// # Panics
    /// When a row is not below [`Self::rows`].
    pub fn by_shard<'a>(&'a self, rows: &'a [u64]) -> impl Iterator<Item = (Self, &'a [u64])> {
        let of = |row: u64| self.locate(row).0;
        rows.chunk_by(move |one, next| of(*one) == of(*next))
            .map(move |rows| (self.of_shard(of(rows[0])), rows))
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
        self.tail_model.as_ref().as_ref()
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
    #[inline]
    pub fn shard(&self, index: ShardIndex) -> Result<&ShardReader, CacheError> {
        match self.shards.slot(index).get() {
            Some(shard) => Ok(shard),
            None => self.open_shard(index),
        }
    }

    /// Reads all of a shard's file and compares it with its digest, which opening does not: for who makes something of it that has
    /// digests of its own.
    ///
    /// # Errors
    /// [`CacheError::Damaged`], [`CacheError::Read`].
    pub fn check_shard(&self, index: ShardIndex) -> Result<(), CacheError> {
        let ShardEntry { file, bytes, digest, .. } = &self.manifest.shards[index.as_usize()];
        check_file(&self.dir, file, *bytes, digest)
    }

    /// The same of the files beside the shards.
    ///
    /// # Errors
    /// [`CacheError::Damaged`], [`CacheError::Read`].
    pub fn check_beside(&self) -> Result<(), CacheError> {
        let each = |entry: &FileEntry| check_file(&self.dir, &entry.file, entry.bytes, &entry.digest);
        self.manifest.files_beside().try_for_each(each)
    }

    #[cold]
    fn open_shard(&self, index: ShardIndex) -> Result<&ShardReader, CacheError> {
        let slot = self.shards.slot(index);
        let entry = &self.manifest.shards[index.as_usize()];
        let shard = ShardReader::open(&self.dir, entry, &self.manifest.columns(), &self.coding)?;
        // Two threads may both have opened it; either serves.
        Ok(slot.get_or_init(|| shard))
    }

    /// Opens those of the shards which hold `rows` that are not open yet, side by side: the first batches of a shuffled pass come
    /// from as many shards as they have rows, and opening one takes time in proportion to its rows.
    ///
    /// # Errors
    /// Those of [`Self::shard`].
    ///
    /// # Panics
    /// When a row is not below [`Self::rows`].
    pub fn open_shards_of(&self, rows: &[u64]) -> Result<(), CacheError> {
        let shards = rows.iter().map(|row| self.locate(*row).0);
        let mut closed: Vec<_> = shards.filter(|shard| self.shards.slot(*shard).get().is_none()).collect();
        closed.sort_unstable();
        closed.dedup();
        closed.into_par_iter().try_for_each(|shard| self.shard(shard).map(drop))
    }

    /// What each column takes in all shards, by its name, in the order of the schema.
    ///
    /// # Units
    /// Bytes: of the columns' buffers, in Parquet compressed.
    ///
    /// # Errors
    /// [`CacheError`]: a shard that is missing or unsound.
    pub fn column_bytes(&self) -> Result<Vec<(String, u64)>, CacheError> {
        let columns = self.manifest.columns();
        if let Some(widths) = columns.column_bytes() {
            let rows = self.rows();
            return Ok(widths.into_iter().map(|(name, width)| (name, width.saturating_mul(rows))).collect());
        }
        let schema = columns.schema();
        let mut all: Vec<(String, u64)> = schema.fields().iter().map(|f| (f.name().clone(), 0)).collect();
        for entry in &self.manifest.shards {
            let path = self.dir.join(&entry.file);
            let bytes = match columns.form {
                StorageForm::Arrow => ipc::column_bytes(&path, &schema)?,
                StorageForm::Parquet => parquet_file::column_bytes(&path)?,
            };
            all.iter_mut().zip(bytes).for_each(|((_, sum), bytes)| *sum = sum.saturating_add(bytes));
        }
        Ok(all)
    }

    /// The shard that has a sample's views, if any has.
    pub fn shard_of_sample(&self, id: SampleId) -> Option<ShardIndex> {
        let after = self.manifest.shards.partition_point(|shard| shard.first_sample <= id.0);
        after.checked_sub(1).map(|index| ShardIndex(index as u32))
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
        Ok(SampleId(self.shard(shard)?.sample_ids()[at]))
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

    /// The row of a sample's view, if the cache has it.
    ///
    /// # Errors
    /// Those of [`Self::shard`].
    pub fn row_of(&self, id: SampleId, view: u16) -> Result<Option<u64>, CacheError> {
        let Some(index) = self.shard_of_sample(id) else { return Ok(None) };
        let shard = self.shard(index)?;
        let (ids, views) = (shard.sample_ids(), shard.views());
        // The views of a sample follow one another.
        let at = ids.partition_point(|found| *found < id.0) + usize::from(view);
        let hit = ids.get(at).is_some_and(|found| *found == id.0) && views[at] == view;
        Ok(hit.then(|| self.starts[index.as_usize()] + at as u64))
    }

    /// Positions of `row`: one, or one for each of its tokens.
    ///
    /// # Errors
    /// Those of [`Self::shard`].
    ///
    /// # Panics
    /// When `row` is not below [`Self::rows`].
    pub fn positions_of(&self, row: u64) -> Result<usize, CacheError> {
        let (shard, at) = self.locate(row);
        Ok(self.shard(shard)?.positions(at..at + 1).len())
    }

    /// The tokens of `row`, a position each, and where documents begin among them; `None` where samples
    /// are not made of tokens.
    ///
    /// # Errors
    /// Those of [`Self::shard`], and [`CacheError::Damaged`]: a token that is not below the vocabulary, or
    /// documents that begin nowhere.
    ///
    /// # Panics
    /// When `row` is not below [`Self::rows`].
    pub fn tokens(&self, row: u64) -> Result<Option<TokenRow>, CacheError> {
        let Some(identity) = &self.manifest.dataset.tokens else { return Ok(None) };
        let (shard, at) = self.locate(row);
        self.shard(shard)?.tokens(at, identity.vocabulary)
    }

    /// Copies the targets of all positions of `rows`, in that order, into `out`, which is made to fit.
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
        let Some(first) = rows.first() else {
            let columns = self.manifest.columns();
            out.resize(0, columns.k, columns.nodes, columns.rank);
            return Ok(());
        };
        // Where a row is one position, which all are is known without looking at any.
        let positions = match self.manifest.dataset.tokens {
            None => rows.len(),
            Some(_) => rows.iter().map(|row| self.positions_of(*row)).sum::<Result<_, _>>()?,
        };
        // A shard that has been opened vouches for the manifest's k: the column of ids, or of bits, is as long as it asks for.
        // (Where heads differ in size only the manifest bounds it, by 65,535.)
        let first = self.shard(self.locate(*first).0)?;
        first.make_room(positions, out);
        let mut halves = first.halves(out);
        let mut located = Vec::with_capacity(rows.len());
        for row in rows {
            let (shard, at) = self.locate(*row);
            located.push((self.shard(shard)?, at));
        }
        // Rows at random lie where nothing has been fetched from: some of them are on their way while one is copied.
        let (mut to, mut ahead) = (0, located.iter());
        ahead.by_ref().take(AHEAD).for_each(|(shard, at)| shard.fetch(*at, out));
        for (shard, at) in &located {
            ahead.next().into_iter().for_each(|(shard, at)| shard.fetch(*at, out));
            to += shard.copy_row(*at, out, &mut halves, to)?;
        }
        halves.widen_into(out);
        out.pad();
        self.check_usable(rows, out)
    }

    /// Asks the kernel to read what is `wanted` of `rows` from the disk, as far as they are mapped, without waiting for it; from then on it
    /// reads no more of a shard than is touched or asked for. Rows that cannot be read are left for those who want them.
    pub fn will_need(&self, rows: Range<u64>, wanted: Wanted<'_>) {
        let (mut at, end) = (rows.start, rows.end.min(self.rows()));
        while at < end {
            let (index, first) = self.locate(at);
            let rows = (end - at).min(self.starts[index.as_usize() + 1] - at);
            if let Ok(shard) = self.shard(index) {
                shard.will_need(&(first..first + rows as usize), wanted);
            }
            at += rows;
        }
    }

    /// Copies a feature's vectors of all positions of `rows`, in that order, into `out`: `[positions, width]`, finite
    /// whatever a stranger's shard holds. `feature` is its place in the manifest.
    ///
    /// # Errors
    /// Those of [`Self::shard`], and [`CacheError::Damaged`] naming shard and row.
    ///
    /// # Panics
    /// When a row is not below [`Self::rows`].
    pub fn gather_feature(
        &self,
        feature: usize,
        rows: &[u64],
        out: &mut FeatureBatch,
    ) -> Result<(), CacheError> {
        out.width = self.manifest.features.get(feature).map_or(0, |feature| feature.width);
        out.values.clear();
        for row in rows {
            let (shard, at) = self.locate(*row);
            let start = out.values.len();
            let shard = self.shard(shard)?;
            shard.read_feature(feature, at, &mut out.values);
            if let Some(value) = out.values[start..].iter().find(|value| !value.is_finite()) {
                return Err(shard.damaged(at, "finite features".into(), value.to_string()));
            }
        }
        Ok(())
    }

    /// Refuses what no reader can use. One pass without branches over what has just been copied;
    /// everything else is for `kd-cache verify`.
    fn check_usable(&self, rows: &[u64], targets: &TargetBatch) -> Result<(), CacheError> {
        let classes = self.manifest.classes;
        let ids_fit = |ids: &[u32]| largest(ids).is_none_or(|id| (id as usize) < classes);
        if ids_fit(&targets.ids) && are_finite(&targets.values) && are_finite(&targets.curve) {
            return Ok(());
        }
        let mut position = 0;
        for row in rows {
            for at in position..position + self.positions_of(*row)? {
                let (ids, values, curve) = targets.row(at);
                if !(ids_fit(ids) && are_finite(values) && are_finite(curve)) {
                    let expected = format!("class ids below {classes} and finite values");
                    let found = format!("ids {ids:?}, logits {values:?}, tail curve {curve:?}");
                    let (shard, at) = self.locate(*row);
                    return Err(self.shard(shard)?.damaged(at, expected, found));
                }
            }
            position += self.positions_of(*row)?;
        }
        Ok(())
    }

    /// Shard and row in it.
    #[inline]
    fn locate(&self, row: u64) -> (ShardIndex, usize) {
        assert!(row < self.rows(), "row {row} of {}", self.rows());
        // Nearly all shards have as many rows as the first.
        let guess = shard_of(row, self.shards_per_row);
        let shard = match self.starts.get(guess..guess.saturating_add(2)) {
            Some([start, end]) if (*start..*end).contains(&row) => guess,
            _ => self.starts.partition_point(|start| *start <= row) - 1,
        };
        (ShardIndex(shard as u32), (row - self.starts[shard]) as usize)
    }
}

/// Shards for each row, of so many rows a shard, in units of 2⁻⁶⁴.
fn per_row(rows: u64) -> u64 {
    u64::MAX / rows.max(1)
}

/// The shard that holds `row` where all are as long as [`per_row`] was told: a product, as a division takes longer. Half a row is added,
/// because that quotient was rounded down: right as long as `row` times the rows of a shard is below 2⁶³.
#[inline]
fn shard_of(row: u64, per_row: u64) -> usize {
    let each = u128::from(per_row);
    ((u128::from(row) * each + each / 2) >> 64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_product_is_the_quotient() {
        for rows in [1, 2, 3, 7, 512, 1000, 65_536, 999_983, 1 << 20] {
            for shard in [0, 1, 2, 3, 100, 12_345, 1 << 20] {
                for row in [shard * rows, shard * rows + rows / 2, (shard + 1) * rows - 1] {
                    assert_eq!(shard_of(row, per_row(rows)), (row / rows) as usize, "{row} of {rows}");
                }
            }
        }
        // Whatever a stranger's manifest says, it is a number, and held against where shards begin.
        assert!(shard_of(u64::MAX, per_row(0)) > 1 << 31);
    }
}
