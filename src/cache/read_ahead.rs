//! Asks for what will soon be wanted of a mapped shard.

use std::ops::Range;

use arrow::array::{Array, ArrayData, RecordBatch};
use arrow::buffer::Buffer;

use crate::mapped::Mapped;

/// The memory of a record batch that lies in a map.
#[derive(Debug)]
pub(super) struct Pages {
    map: Mapped,
    rows: usize,
    buffers: Vec<Buffer>,
}

impl Pages {
    pub(super) fn new(map: Mapped, batch: &RecordBatch) -> Self {
        let mut pages = Self { map, rows: batch.num_rows(), buffers: Vec::new() };
        batch.columns().iter().for_each(|column| pages.add(&column.to_data()));
        pages
    }

    fn add(&mut self, data: &ArrayData) {
        self.buffers.extend(data.buffers().iter().cloned());
        data.child_data().iter().for_each(|child| self.add(child));
    }

    /// Asks for what holds `rows`, if all rows take as much as each other; nearly so, where they differ.
    ///
    /// From then on the kernel reads nothing by itself: around each page that is touched it would read 32, and under
    /// a limit of memory these drive out the pages that were asked for (measured: sixty times the cache was read).
    pub(super) fn will_need(&self, rows: Range<usize>) {
        self.map.no_neighbours();
        for bytes in &self.buffers {
            let at = |row: usize| (bytes.len() as u128 * row as u128 / self.rows.max(1) as u128) as usize;
            self.map.will_need(&bytes[at(rows.start)..at(rows.end.min(self.rows))]);
        }
    }
}
