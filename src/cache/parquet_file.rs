//! Shards as Parquet: one row group, zstd, no dictionaries.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use arrow::array::{Array, RecordBatch, RecordBatchReader};
use arrow::compute::concat_batches;
use arrow::datatypes::{Field, SchemaRef};
use arrow::error::ArrowError;
use bytes::Bytes;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::schema::types::ColumnPath;

use super::CacheError;
use super::features::FEATURE_PREFIX;
use super::format::{HEAD_VALUES, ITEM, TAIL_CODE};
use super::ipc::describe;
use crate::mapped::map_file;

/// Rows decoded at a time.
const BATCH_ROWS: usize = 4096;

/// A record batch as a Parquet file.
pub(super) fn encode(batch: &RecordBatch, level: i32) -> Result<Vec<u8>, ArrowError> {
    let level = ZstdLevel::try_new(level).map_err(ArrowError::from)?;
    let mut properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(level))
        // Numbers below 65,536 fill half of Parquet's four bytes, and hardly ever the other half.
        .set_dictionary_enabled(false)
        .set_statistics_enabled(EnabledStatistics::None)
        // A page a column: zstd then learns from all of it, and a shard is decoded whole anyway.
        .set_data_page_size_limit(1 << 26)
        .set_data_page_row_count_limit(usize::MAX)
        .set_max_row_group_row_count(Some(usize::MAX))
        .set_created_by("kd-cache".into());
    let schema = batch.schema();
    let of_bytes = |field: &&Arc<Field>| field.name().starts_with(FEATURE_PREFIX);
    let features = schema.fields().iter().filter(of_bytes).map(|field| field.name().as_str());
    for name in [HEAD_VALUES, TAIL_CODE].into_iter().chain(features) {
        if batch.column_by_name(name).is_some_and(|column| !is_float(column.as_ref())) {
            // There are about 256 of them: as places in a dictionary they take a byte each, which zstd makes
            // shorter still. Every tool reads it; a stream for each byte DuckDB reads of floats only.
            let path = ColumnPath::new(vec![name.into(), "list".into(), ITEM.into()]);
            properties = properties.set_column_dictionary_enabled(path, true);
        }
    }
    let mut bytes = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut bytes, batch.schema(), Some(properties.build()))?;
    writer.write(batch)?;
    writer.close()?;
    Ok(bytes)
}

fn is_float(column: &dyn Array) -> bool {
    use arrow::datatypes::DataType;
    match column.data_type() {
        DataType::List(item) | DataType::FixedSizeList(item, _) => item.data_type().is_floating(),
        other => other.is_floating(),
    }
}

/// What `decode` makes of the file's bytes.
fn decoded<T>(path: &Path, decode: impl FnOnce(Bytes) -> Result<T, ArrowError>) -> Result<T, CacheError> {
    let bytes = map_file(path).map_err(|source| CacheError::Read { path: path.to_owned(), source })?;
    // The decoder is not held to never panic on what a stranger sent; nothing of it outlives this call but what it made.
    catch_unwind(AssertUnwindSafe(|| decode(bytes)))
        .unwrap_or_else(|_| Err(ArrowError::ParquetError("the decoder gave up on its contents".into())))
        .map_err(|source| CacheError::Arrow { path: path.to_owned(), source })
}

/// Compressed bytes of each column.
pub(super) fn column_bytes(path: &Path) -> Result<Vec<u64>, CacheError> {
    let reader = decoded(path, |bytes| Ok(ParquetRecordBatchReaderBuilder::try_new(bytes)?))?;
    let metadata = reader.metadata();
    // Every column of ours has one leaf.
    let mut columns = vec![0u64; metadata.file_metadata().schema_descr().num_columns()];
    for group in metadata.row_groups() {
        for (sum, column) in columns.iter_mut().zip(group.columns()) {
            *sum = sum.saturating_add(u64::try_from(column.compressed_size()).unwrap_or(0));
        }
    }
    Ok(columns)
}

/// All rows of a Parquet file, decoded.
pub(super) fn read(path: &Path, schema: &SchemaRef) -> Result<RecordBatch, CacheError> {
    let batch = decoded(path, |bytes| {
        let reader = ParquetRecordBatchReaderBuilder::try_new(bytes)?.with_batch_size(BATCH_ROWS).build()?;
        let found = RecordBatchReader::schema(&reader);
        let batches = reader.collect::<Result<Vec<_>, _>>()?;
        concat_batches(&found, &batches)
    })?;
    if batch.schema().fields() != schema.fields() {
        return Err(CacheError::Damaged {
            path: path.to_owned(),
            what: "columns".into(),
            expected: describe(schema.fields()),
            found: describe(batch.schema().fields()),
        });
    }
    // Without whatever metadata the file has.
    RecordBatch::try_new(Arc::clone(schema), batch.columns().to_vec())
        .map_err(|source| CacheError::Arrow { path: path.to_owned(), source })
}
