//! The heads of a sample: which classes each position's tail is without.

use crate::target::TargetBatch;

/// Class ids, position after position; heads may differ in size.
#[derive(Clone, Debug, Default)]
pub(super) struct Heads {
    ids: Vec<u32>,
    /// Where each position's end.
    ends: Vec<usize>,
}

impl Heads {
    /// Adds those of `batch`.
    pub(super) fn add(&mut self, batch: &TargetBatch) {
        for row in 0..batch.rows {
            self.ids.extend_from_slice(batch.row(row).0);
            self.ends.push(self.ids.len());
        }
    }

    /// The head of one position.
    pub(super) fn of(&self, row: usize) -> &[u32] {
        let start = row.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.ids[start..self.ends[row]]
    }

    /// The heads of all positions, in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = &[u32]> {
        (0..self.ends.len()).map(|row| self.of(row))
    }
}
