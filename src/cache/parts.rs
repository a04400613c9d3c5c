//! The parts of a shard's record batch, by the names that the format gives them.

use std::path::Path;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::buffer::{OffsetBuffer, ScalarBuffer};
use arrow::datatypes::ArrowPrimitiveType;

use super::CacheError;
use super::columns::ShardLayout;

/// The parts of a record batch, by name.
pub(super) struct Parts<'a> {
    pub(super) path: &'a Path,
    pub(super) batch: &'a RecordBatch,
}

impl<'a> Parts<'a> {
    pub(super) fn damaged(&self, what: &str, expected: String, found: String) -> CacheError {
        CacheError::Damaged { path: self.path.to_owned(), what: what.to_owned(), expected, found }
    }

    /// The schema has been compared: what is missing is missing from the format.
    pub(super) fn missing(&self, name: &str) -> CacheError {
        self.damaged("columns", name.to_owned(), "none of that name and type".into())
    }

    pub(super) fn column(&self, name: &str) -> Result<&'a ArrayRef, CacheError> {
        self.batch.column_by_name(name).ok_or_else(|| self.missing(name))
    }

    pub(super) fn primitive<T: ArrowPrimitiveType>(
        &self,
        name: &str,
    ) -> Result<ScalarBuffer<T::Native>, CacheError> {
        primitive::<T>(self.column(name)?).ok_or_else(|| self.missing(name))
    }

    /// A column of lists of any length: where they begin, and their items.
    pub(super) fn list(&self, name: &str) -> Result<(OffsetBuffer<i32>, &'a ArrayRef), CacheError> {
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

    /// The items of a column of lists, as many as `items` says.
    pub(super) fn part(
        &self,
        name: &str,
        layout: ShardLayout,
        items: Items<'_>,
    ) -> Result<&'a ArrayRef, CacheError> {
        if layout == ShardLayout::Fixed {
            let list = self.column(name)?.as_fixed_size_list_opt();
            return list.map(|list| list.values()).ok_or_else(|| self.missing(name));
        }
        let (offsets, values) = self.list(name)?;
        let Some(after) = items.first_unlike(&offsets) else { return Ok(values) };
        let row = after - 1;
        let expected = format!("{} items in row {row}", items.before(after) - items.before(row));
        Err(self.damaged(name, expected, (offsets[after] - offsets[row]).to_string()))
    }
}

/// How many items the rows of a column of lists have.
#[derive(Clone, Copy)]
pub(super) enum Items<'a> {
    /// Each row as many.
    Each(usize),
    /// Each position as many, those of row `i` being `starts[i]..starts[i + 1]`.
    OfPositions(&'a [i32], usize),
    /// One for each class of the positions' heads, which begin where the second says; without the first, a row is a
    /// position.
    OfHeads(Option<&'a [i32]>, &'a [usize]),
}

impl<'a> Items<'a> {
    /// As many for each position.
    pub(super) fn of_positions(starts: Option<&'a [i32]>, each: usize) -> Self {
        // A number of items beyond what offsets can say differs from all of them.
        let each = each.min(u32::MAX as usize);
        starts.map_or(Self::Each(each), |starts| Self::OfPositions(starts, each))
    }

    /// Items of all rows before `row`.
    fn before(self, row: usize) -> i64 {
        match self {
            Self::Each(each) => (row as i64).wrapping_mul(each as i64),
            Self::OfPositions(starts, each) => i64::from(starts[row]).wrapping_mul(each as i64),
            Self::OfHeads(starts, heads) => heads[starts.map_or(row, |starts| starts[row] as usize)] as i64,
        }
    }

    /// The first of `offsets`, which begin with 0, that is not as it should be.
    fn first_unlike(self, offsets: &[i32]) -> Option<usize> {
        // All rows are looked at whenever a shard is opened: by loops that compilers vectorise.
        match self {
            Self::OfPositions(starts, each) => {
                let starts = &starts[..offsets.len()];
                unlike(offsets, |row| i64::from(starts[row]).wrapping_mul(each as i64))
            }
            Self::Each(_) | Self::OfHeads(..) => unlike(offsets, |row| self.before(row)),
        }
    }
}

/// The first place where `offsets` differ from what `wanted` says.
fn unlike(offsets: &[i32], wanted: impl Fn(usize) -> i64) -> Option<usize> {
    const TOGETHER: usize = 1024;
    let differs = |at: usize| i64::from(offsets[at]) != wanted(at);
    let blocks = (0..offsets.len()).step_by(TOGETHER).map(|first| first..offsets.len().min(first + TOGETHER));
    let mut unlike = blocks.filter(|block| block.clone().fold(false, |any, at| any | differs(at)));
    unlike.next()?.find(|at| differs(*at))
}

/// The numbers of an array, if they are of that type.
pub(super) fn primitive<T: ArrowPrimitiveType>(array: &dyn Array) -> Option<ScalarBuffer<T::Native>> {
    array.as_primitive_opt::<T>().map(|array| array.values().clone())
}
