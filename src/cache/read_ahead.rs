//! Reads what will soon be wanted of a mapped shard, in the order of the file.

use std::hint::black_box;
use std::ops::Range;

use arrow::array::{Array, ArrayData, RecordBatch};
use arrow::buffer::Buffer;

/// Bytes that the kernel maps at once at least; where its pages are larger, some are touched twice.
const PAGE: usize = 4096;

/// The memory of a record batch.
#[derive(Debug, Default)]
pub(super) struct Pages {
    rows: usize,
    buffers: Vec<Buffer>,
}

impl Pages {
    pub(super) fn new(batch: &RecordBatch) -> Self {
        let mut pages = Self { rows: batch.num_rows(), buffers: Vec::new() };
        batch.columns().iter().for_each(|column| pages.add(&column.to_data()));
        pages
    }

    fn add(&mut self, data: &ArrayData) {
        self.buffers.extend(data.buffers().iter().cloned());
        data.child_data().iter().for_each(|child| self.add(child));
    }

    /// Touches what holds `rows`, if all rows take as much as each other; nearly so, where they differ.
    pub(super) fn touch(&self, rows: Range<usize>) {
        for bytes in &self.buffers {
            let at = |row: usize| (bytes.len() as u128 * row as u128 / self.rows.max(1) as u128) as usize;
            let bytes = &bytes[at(rows.start)..at(rows.end.min(self.rows))];
            black_box(bytes.iter().step_by(PAGE).fold(0u8, |sum, byte| sum ^ byte));
        }
    }
}
