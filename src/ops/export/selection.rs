//! Which rows are exported, a few at a time.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

use super::{CELLS, ExportError, Failure};
use crate::cache::{CacheError, CacheReader, Manifest, ShardReader};
use crate::target::TailModel;

/// The rows asked for.
pub(super) struct Selection<'a> {
    reader: &'a CacheReader,
    samples: Option<Range<u64>>,
    rows: u64,
    /// Set when they are not wanted any more.
    stop: &'a AtomicBool,
}

/// A few rows of one shard.
pub(super) struct Block<'a> {
    /// Of this shard.
    pub(super) reader: &'a CacheReader,
    pub(super) shard: &'a ShardReader,
    /// Where the rows are in the shard.
    pub(super) at: &'a [usize],
    /// Where they are in the cache.
    pub(super) rows: &'a [u64],
}

impl<'a> Selection<'a> {
    /// Counts the rows whose sample is one of `samples`, or all of them.
    pub(super) fn new(
        reader: &'a CacheReader,
        samples: Option<Range<u64>>,
        stop: &'a AtomicBool,
    ) -> Result<Self, ExportError> {
        let mut selection = Self { reader, samples, rows: reader.rows(), stop };
        if let Some(asked) = selection.samples.clone() {
            selection.rows = 0;
            let (mut first, mut last) = (u64::MAX, 0);
            for (reader, index, _) in reader.each_shard() {
                for id in reader.shard(index)?.sample_ids() {
                    (first, last) = (first.min(*id), last.max(*id));
                    selection.rows += u64::from(asked.contains(id));
                }
            }
            if selection.rows == 0 {
                return Err(ExportError::Samples { asked, first, last });
            }
        }
        Ok(selection)
    }

    /// How many there are.
    pub(super) fn rows(&self) -> u64 {
        self.rows
    }

    /// Their positions.
    pub(super) fn positions(&self) -> Result<u64, CacheError> {
        let mut positions = 0;
        for (reader, index, rows) in self.reader.each_shard() {
            for (row, id) in rows.zip(reader.shard(index)?.sample_ids()) {
                if self.samples.as_ref().is_none_or(|samples| samples.contains(id)) {
                    positions += reader.positions_of(row)? as u64;
                }
            }
        }
        Ok(positions)
    }

    pub(super) fn tail_model(&self) -> Option<&'a TailModel> {
        self.reader.tail_model()
    }

    pub(super) fn manifest(&self) -> &'a Manifest {
        self.reader.manifest()
    }

    /// Hands `each` all rows in order, as many at a time as [`CELLS`] lets, unless they are not wanted any more.
    pub(super) fn for_each(
        &self,
        mut each: impl FnMut(Block<'_>) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let columns = self.manifest().columns();
        let features: usize = columns.features.iter().map(|feature| feature.width).sum();
        let per_row = (columns.k + columns.nodes + columns.rank + features)
            .saturating_mul(self.manifest().longest_row());
        let at_a_time = (CELLS / per_row.max(1)).max(1);
        for (reader, index, rows) in self.reader.each_shard() {
            let (start, shard) = (rows.start, reader.shard(index)?);
            let ids = shard.sample_ids().iter().enumerate();
            let wanted = |id: &u64| self.samples.as_ref().is_none_or(|samples| samples.contains(id));
            let at: Vec<usize> = ids.filter(|(_, id)| wanted(id)).map(|(at, _)| at).collect();
            for at in at.chunks(at_a_time) {
                if self.stop.load(Ordering::Relaxed) {
                    return Err(Failure::Stopped);
                }
                let rows: Vec<u64> = at.iter().map(|at| start + *at as u64).collect();
                each(Block { reader: &reader, shard, at, rows: &rows })?;
            }
        }
        Ok(())
    }
}
