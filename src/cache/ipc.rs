//! Arrow IPC files of one record batch: written the same way every time, read without trusting a
//! byte.

use std::path::Path;

use arrow::array::{Array, RecordBatch};
use arrow::buffer::Buffer;
use arrow::datatypes::{DataType, Field, SchemaRef};
use arrow::error::ArrowError;
use arrow::ipc::convert::try_fb_to_schema;
use arrow::ipc::reader::{FileDecoder, read_footer_length};
use arrow::ipc::writer::{FileWriter, IpcWriteOptions};
use arrow::ipc::{Endianness, MetadataVersion, root_as_footer, root_as_message};

use super::CacheError;
use crate::mapped::map_file;

/// Before a message's metadata: a marker and the metadata's length.
const MESSAGE_PREFIX: usize = 8;
/// The marker.
const CONTINUATION: [u8; 4] = [0xff; 4];

/// A record batch as an Arrow IPC file.
pub(super) fn encode_batch(batch: &RecordBatch) -> Result<Vec<u8>, ArrowError> {
    // Alignment to cache lines lets a reader use the mapped bytes as they lie.
    let options = IpcWriteOptions::try_new(64, false, arrow::ipc::MetadataVersion::V5)?;
    let mut writer = FileWriter::try_new_with_options(Vec::new(), &batch.schema(), options)?;
    writer.write(batch)?;
    writer.into_inner()
}

/// The only record batch of an Arrow IPC file, its buffers lying in the map.
pub(super) fn read_batch(path: &Path, schema: &SchemaRef) -> Result<RecordBatch, CacheError> {
    let bytes = map_file(path).map_err(|source| CacheError::Read { path: path.to_owned(), source })?;
    let arrow = |source| CacheError::Arrow { path: path.to_owned(), source };
    let invalid = |problem: String| arrow(ArrowError::IpcError(problem));
    let buffer = Buffer::from(bytes);
    // Magic, padding, footer length, magic: what is shorter has no footer.
    let tail = buffer.len().checked_sub(10).ok_or_else(|| invalid(format!("only {} bytes", buffer.len())))?;
    let footer_end: [u8; 10] = buffer[tail..].try_into().map_err(|_| invalid("no footer".into()))?;
    let footer_len = read_footer_length(footer_end).map_err(arrow)?;
    let footer_start =
        tail.checked_sub(footer_len).ok_or_else(|| invalid(format!("a footer of {footer_len} bytes")))?;
    let footer = root_as_footer(&buffer[footer_start..tail]).map_err(|error| invalid(error.to_string()))?;
    let found = footer.schema().ok_or_else(|| invalid("no schema".into()))?;
    if found.endianness() != Endianness::Little {
        return Err(invalid("big-endian, where little-endian is expected".into()));
    }
    let found = try_fb_to_schema(found).map_err(arrow)?;
    if found.fields() != schema.fields() {
        return Err(CacheError::Damaged {
            path: path.to_owned(),
            what: "columns".into(),
            expected: describe(schema.fields()),
            found: describe(found.fields()),
        });
    }
    let blocks = footer.recordBatches().ok_or_else(|| invalid("no record batch".into()))?;
    if blocks.len() != 1 || footer.dictionaries().is_some_and(|d| !d.is_empty()) {
        return Err(invalid(format!("{} record batches where one is expected", blocks.len())));
    }
    let block = blocks.get(0);
    let place = || {
        let start = usize::try_from(block.offset()).ok()?;
        let len = usize::try_from(block.metaDataLength())
            .ok()?
            .checked_add(usize::try_from(block.bodyLength()).ok()?)?;
        start.checked_add(len).filter(|end| *end <= footer_start).map(|_| (start, len))
    };
    let (start, len) = place().ok_or_else(|| invalid("a record batch outside the file".into()))?;
    let metadata_len = len - usize::try_from(block.bodyLength()).unwrap_or(len);
    check_message(&buffer[start..start + len], metadata_len, schema).map_err(arrow)?;
    let decoder = FileDecoder::new(schema.clone(), footer.version());
    let batch = decoder
        .read_record_batch(block, &buffer.slice_with_length(start, len))
        .map_err(arrow)?
        .ok_or_else(|| invalid("an empty record batch".into()))?;
    if batch.columns().iter().any(|column| column.null_count() > 0) {
        return Err(invalid("nulls".into()));
    }
    Ok(batch)
}

/// Checks a record batch message against the columns it should have.
///
/// Arrow's own decoder takes offsets and lengths as they come and panics where they leave the
/// message, so every one of them is checked here first.
fn check_message(message: &[u8], metadata_len: usize, schema: &SchemaRef) -> Result<(), ArrowError> {
    let invalid = |problem: &str| ArrowError::IpcError(format!("record batch: {problem}"));
    let metadata = message
        .get(..metadata_len)
        .filter(|metadata| metadata.len() > MESSAGE_PREFIX && metadata[..4] == CONTINUATION)
        .ok_or_else(|| invalid("no metadata"))?;
    let body_len = message.len() - metadata_len;
    let found = root_as_message(&metadata[MESSAGE_PREFIX..]).map_err(|error| invalid(&error.to_string()))?;
    let batch = found.header_as_record_batch().ok_or_else(|| invalid("another kind of message"))?;
    if found.version() != MetadataVersion::V5 || batch.compression().is_some() {
        return Err(invalid("expected metadata version 5 and no compression"));
    }
    if batch.variadicBufferCounts().is_some_and(|counts| !counts.is_empty()) {
        return Err(invalid("variadic buffers, of which no column has any"));
    }
    let rows = usize::try_from(batch.length()).map_err(|_| invalid("a negative number of rows"))?;
    let mut expected = Expected::default();
    for field in schema.fields() {
        expected.add(field, rows).ok_or_else(|| invalid("more values than memory has room for"))?;
    }
    let nodes = batch.nodes().ok_or_else(|| invalid("no field nodes"))?;
    let buffers = batch.buffers().ok_or_else(|| invalid("no buffers"))?;
    if (nodes.len(), buffers.len()) != (expected.nodes.len(), expected.buffers.len()) {
        return Err(invalid("field nodes or buffers of other columns"));
    }
    for (node, len) in nodes.iter().zip(&expected.nodes) {
        if usize::try_from(node.length()) != Ok(*len) || node.null_count() != 0 {
            let (found, nulls) = (node.length(), node.null_count());
            return Err(invalid(&format!("expected {len} values and no nulls, found {found} and {nulls}")));
        }
    }
    for (buffer, least) in buffers.iter().zip(&expected.buffers) {
        let (offset, len) = (usize::try_from(buffer.offset()), usize::try_from(buffer.length()));
        let end = offset.ok().zip(len.ok()).and_then(|(offset, len)| offset.checked_add(len));
        let inside = end.is_some_and(|end| end <= body_len);
        if !inside || usize::try_from(buffer.length()).map_or(true, |len| len < *least) {
            let (offset, len) = (buffer.offset(), buffer.length());
            let problem =
                format!("expected {least} bytes or more inside {body_len}, found {len} at {offset}");
            return Err(invalid(&problem));
        }
    }
    Ok(())
}

/// What a record batch of given columns holds.
#[derive(Default)]
struct Expected {
    /// Values in each column and inner column.
    nodes: Vec<usize>,
    /// Bytes at least in each buffer; 0 for the validity that columns without nulls may leave out.
    buffers: Vec<usize>,
}

impl Expected {
    /// Adds a column of `len` values; `None` when their bytes cannot be counted.
    fn add(&mut self, field: &Field, len: usize) -> Option<()> {
        self.nodes.push(len);
        self.buffers.push(0);
        if let DataType::FixedSizeList(item, per_value) = field.data_type() {
            return self.add(item, len.checked_mul(usize::try_from(*per_value).ok()?)?);
        }
        self.buffers.push(len.checked_mul(field.data_type().primitive_width()?)?);
        Some(())
    }
}

fn describe(fields: &arrow::datatypes::Fields) -> String {
    let words: Vec<String> = fields.iter().map(|f| format!("{}: {}", f.name(), f.data_type())).collect();
    words.join(", ")
}
