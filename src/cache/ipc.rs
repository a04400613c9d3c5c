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
use crate::mapped::Mapped;

/// Before a message's metadata: a marker and the metadata's length.
const MESSAGE_PREFIX: usize = 8;
/// What buffers are aligned to at least.
const BUFFER_ALIGNMENT: usize = 8;
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
    read_mapped(path, schema).map(|(batch, _)| batch)
}

/// The same, and the map.
pub(super) fn read_mapped(path: &Path, schema: &SchemaRef) -> Result<(RecordBatch, Mapped), CacheError> {
    let map = Mapped::open(path).map_err(|source| CacheError::Read { path: path.to_owned(), source })?;
    let arrow = |source| CacheError::Arrow { path: path.to_owned(), source };
    let invalid = |problem: String| arrow(ArrowError::IpcError(problem));
    let buffer = Buffer::from(map.bytes());
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
    Ok((batch, map))
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
    for (node, expected) in nodes.iter().zip(&expected.nodes) {
        let length = usize::try_from(node.length()).ok();
        if length.is_none() || expected.is_some_and(|len| length != Some(len)) || node.null_count() != 0 {
            let len = expected.map_or("any number of".to_owned(), |len| len.to_string());
            let (found, nulls) = (node.length(), node.null_count());
            return Err(invalid(&format!("expected {len} values and no nulls, found {found} and {nulls}")));
        }
    }
    for (buffer, expected) in buffers.iter().zip(&expected.buffers) {
        let least = match expected.values {
            Count::Known(values) => Some(values),
            Count::OfNode(node) => usize::try_from(nodes.get(node).length()).ok(),
        };
        let least = least.and_then(|values| values.checked_mul(expected.width));
        let least = least.ok_or_else(|| invalid("more values than memory has room for"))?;
        let (offset, len) = (usize::try_from(buffer.offset()).ok(), usize::try_from(buffer.length()).ok());
        let end = offset.zip(len).and_then(|(offset, len)| offset.checked_add(len));
        let inside = end.is_some_and(|end| end <= body_len);
        if !inside || len.is_none_or(|len| len < least || len % expected.width != 0) {
            let (offset, len) = (buffer.offset(), buffer.length());
            let problem =
                format!("expected {least} bytes or more inside {body_len}, found {len} at {offset}");
            return Err(invalid(&problem));
        }
        // The format asks for it, and Arrow takes it for granted where lists begin.
        let address =
            (message.as_ptr() as usize).wrapping_add(metadata_len).wrapping_add(offset.unwrap_or(0));
        if address % BUFFER_ALIGNMENT != 0 {
            let problem =
                format!("expected a buffer at a multiple of 8 bytes, found one at {}", buffer.offset());
            return Err(invalid(&problem));
        }
    }
    Ok(())
}

/// What a record batch of given columns holds.
#[derive(Default)]
struct Expected {
    /// Values in each column and inner column; `None` in lists of any length.
    nodes: Vec<Option<usize>>,
    buffers: Vec<ExpectedBuffer>,
}

/// A buffer of at least so many values.
struct ExpectedBuffer {
    values: Count,
    /// Bytes of a value.
    width: usize,
}

enum Count {
    Known(usize),
    /// As many as a field node says.
    OfNode(usize),
}

impl Expected {
    /// Adds a column of `len` values; `None` when they cannot be counted.
    fn add(&mut self, field: &Field, len: usize) -> Option<()> {
        self.nodes.push(Some(len));
        self.buffer(Count::Known(0), 1);
        match field.data_type() {
            DataType::FixedSizeList(item, per_value) => {
                self.add(item, len.checked_mul(usize::try_from(*per_value).ok()?)?)?;
            }
            DataType::List(item) => {
                self.buffer(Count::Known(len.checked_add(1)?), size_of::<i32>());
                self.buffer(Count::Known(0), 1);
                self.buffer(Count::OfNode(self.nodes.len()), item.data_type().primitive_width()?);
                self.nodes.push(None);
            }
            DataType::Binary => {
                self.buffer(Count::Known(len.checked_add(1)?), size_of::<i32>());
                // Arrow compares the offsets with what is there.
                self.buffer(Count::Known(0), 1);
            }
            other => self.buffer(Count::Known(len), other.primitive_width()?),
        }
        Some(())
    }

    /// Adds a buffer; one of no values is the validity that columns without nulls may leave out.
    fn buffer(&mut self, values: Count, width: usize) {
        self.buffers.push(ExpectedBuffer { values, width });
    }
}

/// Bytes of each column's buffers.
pub(super) fn column_bytes(path: &Path, schema: &SchemaRef) -> Result<Vec<u64>, CacheError> {
    let batch = read_batch(path, schema)?;
    let bytes = batch.columns().iter().map(|column| column.to_data().get_slice_memory_size());
    let bytes = bytes.map(|bytes| Ok(bytes? as u64)).collect::<Result<Vec<u64>, ArrowError>>();
    bytes.map_err(|source| CacheError::Arrow { path: path.to_owned(), source })
}

pub(super) fn describe(fields: &arrow::datatypes::Fields) -> String {
    let words: Vec<String> = fields.iter().map(|f| format!("{}: {}", f.name(), f.data_type())).collect();
    words.join(", ")
}
