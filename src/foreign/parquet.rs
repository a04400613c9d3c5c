//! Rows of Parquet files, some columns of them.

use std::fs::File;
use std::path::Path;

use ::parquet::arrow::ProjectionMask;
use ::parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};
use arrow::array::{Array, ArrayRef, AsArray, LargeListArray, RecordBatch};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, Field};

use super::ForeignError;

/// Rows that are decoded at once: a row may have megabytes.
const BATCH_ROWS: usize = 16;

/// Opens a file for the first of `sets` of columns that it has all of, and says which that is.
pub(super) fn open(path: &Path, sets: &[&[&str]]) -> Result<(usize, ParquetRecordBatchReader), ForeignError> {
    let wrong = |expected: &str, found: String| format_error(path, expected, found);
    let file = File::open(path).map_err(|source| ForeignError::Read { path: path.to_owned(), source })?;
    let builder = ParquetRecordBatchReaderBuilder::try_new(file)
        .map_err(|error| wrong("a Parquet file", error.to_string()))?;
    let schema = builder.schema();
    let place = |name: &str| schema.index_of(name).ok();
    let found = sets.iter().enumerate().find_map(|(set, names)| {
        names.iter().map(|name| place(name)).collect::<Option<Vec<_>>>().map(|columns| (set, columns))
    });
    let Some((set, columns)) = found else {
        let expected: Vec<String> = sets.iter().map(|names| names.join(", ")).collect();
        let columns: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
        return Err(wrong(&format!("the columns {}", expected.join("; or ")), columns.join(", ")));
    };
    let mask = ProjectionMask::roots(builder.parquet_schema(), columns);
    let reader = builder.with_projection(mask).with_batch_size(BATCH_ROWS).build();
    Ok((set, reader.map_err(|error| wrong("a Parquet file", error.to_string()))?))
}

pub(super) fn format_error(path: &Path, expected: &str, found: String) -> ForeignError {
    ForeignError::Format { path: path.to_owned(), expected: expected.to_owned(), found }
}

/// A column of lists of `item`.
pub(super) fn lists(
    path: &Path,
    batch: &RecordBatch,
    name: &str,
    item: DataType,
) -> Result<LargeListArray, ForeignError> {
    let column: ArrayRef = batch
        .column_by_name(name)
        .cloned()
        .ok_or_else(|| format_error(path, &format!("the column {name}"), "none".into()))?;
    let to = list_of(item);
    let options = CastOptions { safe: false, ..CastOptions::default() };
    let cast = cast_with_options(&column, &to, &options).map_err(|error| {
        format_error(path, &format!("{name} of {to}"), format!("{}: {error}", column.data_type()))
    })?;
    if cast.null_count() > 0 {
        return Err(format_error(path, &format!("{name} in every row"), "a row without".into()));
    }
    Ok(cast.as_list::<i64>().clone())
}

/// Lists of `item`.
pub(super) fn list_of(item: DataType) -> DataType {
    DataType::LargeList(Field::new("item", item, true).into())
}
