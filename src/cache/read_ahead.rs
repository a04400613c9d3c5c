//! Asks for what will soon be wanted of a mapped shard.

use std::ops::Range;

use arrow::array::{Array, ArrayData, RecordBatch};
use arrow::datatypes::DataType;

use super::features::FeatureLayout;
use super::format::{DOCUMENTS, LABEL, SAMPLE_ID, TOKENS, VIEW};
use crate::mapped::Mapped;

/// What of a row is wanted beside its ids, label and tokens.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// Its targets.
    pub targets: bool,
    /// Features, by their places in the manifest.
    pub features: &'a [usize],
}

/// The columns of a record batch that lie in a map.
#[derive(Debug)]
pub(super) struct Pages {
    map: Mapped,
    columns: Vec<(Part, ArrayData)>,
}

/// What a column belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Sample,
    Targets,
    Feature(usize),
}

impl Part {
    fn of(column: &str, features: &[FeatureLayout]) -> Self {
        if [SAMPLE_ID, VIEW, LABEL, TOKENS, DOCUMENTS].contains(&column) {
            return Self::Sample;
        }
        let of = |feature: &FeatureLayout| column == feature.column() || column == feature.scale_column();
        features.iter().position(of).map_or(Self::Targets, Self::Feature)
    }
}

impl Pages {
    pub(super) fn new(map: Mapped, batch: &RecordBatch, features: &[FeatureLayout]) -> Self {
        let names = batch.schema();
        let part = |at: usize| Part::of(names.field(at).name(), features);
        let columns = batch.columns().iter().enumerate();
        Self { map, columns: columns.map(|(at, column)| (part(at), column.to_data())).collect() }
    }

    /// Asks for what holds `rows`.
    ///
    /// From then on the kernel reads nothing by itself: around each page that is touched it would read 32, and under
    /// a limit of memory these drive out the pages that were asked for.
    pub(super) fn will_need(&self, rows: &Range<usize>, wanted: Wanted<'_>) {
        self.map.no_neighbours();
        let parts = self.columns.iter().filter(|(part, _)| match part {
            Part::Sample => true,
            Part::Targets => wanted.targets,
            Part::Feature(feature) => wanted.features.contains(feature),
        });
        parts.for_each(|(_, column)| self.need(column, rows.start..rows.end.min(column.len())));
    }

    fn need(&self, column: &ArrayData, items: Range<usize>) {
        let part = |buffer: usize, items: &Range<usize>, of: usize| {
            let bytes = column.buffers()[buffer].as_slice();
            // Items of one size, which the buffer divides into.
            let at = |item: usize| (bytes.len() as u128 * item as u128 / of.max(1) as u128) as usize;
            self.map.will_need(&bytes[at(items.start.min(of))..at(items.end.min(of))]);
        };
        match column.data_type() {
            DataType::FixedSizeList(_, each) => {
                let each = *each as usize;
                self.need(&column.child_data()[0], items.start * each..items.end * each);
            }
            // Where an item begins, and its end, are read now: two pages.
            DataType::List(_) | DataType::Binary => {
                let offsets: &[i32] = column.buffers()[0].typed_data();
                let (Some(first), Some(end)) = (offsets.get(items.start), offsets.get(items.end)) else {
                    return;
                };
                let inner = *first as usize..*end as usize;
                part(0, &(items.start..items.end + 1), offsets.len());
                match column.child_data() {
                    [child] => self.need(child, inner),
                    _ => part(1, &inner, column.buffers()[1].len()),
                }
            }
            _ => part(0, &items, column.len()),
        }
    }
}
