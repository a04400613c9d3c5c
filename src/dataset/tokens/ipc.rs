//! Arrow IPC, the stream and the file around one.
//!
//! A file is a magic word, a stream and a footer that indexes it; read from front to back, the stream
//! is all there is to it. Source: "Serialization and Interprocess Communication (IPC)" in the Arrow
//! columnar format.

use std::io::Cursor;
use std::path::Path;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Schema};
use arrow::error::ArrowError;
use arrow::ipc::reader::StreamReader;
use arrow::ipc::{RecordBatch as Header, root_as_message};
use bytes::{Buf, Bytes};

use super::TokensError;
use crate::mapped::map_file;

/// What a file begins with, and with it the padding.
const FILE_MAGIC: &[u8] = b"ARROW1\0\0";
/// What a message begins with.
const CONTINUATION: [u8; 4] = [0xff; 4];

/// The batches of a file, of the one column that `find` picks by its place.
pub(super) fn open(
    path: &Path,
    find: impl Fn(&Schema) -> Result<usize, TokensError>,
) -> Result<impl Iterator<Item = Result<RecordBatch, ArrowError>>, TokensError> {
    let table = |problem: String| TokensError::Table { path: path.to_owned(), form: "Arrow", problem };
    let mut bytes = map_file(path).map_err(|source| TokensError::Read { path: path.to_owned(), source })?;
    if bytes.starts_with(FILE_MAGIC) {
        bytes.advance(FILE_MAGIC.len());
    }
    let open = |bytes: Bytes, columns| {
        StreamReader::try_new(Cursor::new(bytes), columns).map_err(|error| table(error.to_string()))
    };
    let schema = open(bytes.clone(), None)?.schema();
    let column = find(&schema)?;
    check_messages(&bytes, &widths(&schema, column)).map_err(table)?;
    open(bytes, Some(vec![column]))
}

/// The bytes of a number in each buffer up to those of `column`; 1 where there are no numbers in it, or
/// none that are read. Nothing where a column before has buffers that the schema does not count.
fn widths(schema: &Schema, column: usize) -> Vec<usize> {
    let mut widths = Vec::new();
    for field in &schema.fields()[..column] {
        match buffers(field.data_type()) {
            Some(count) => widths.resize(widths.len() + count, 1),
            None => return Vec::new(),
        }
    }
    let item = match schema.field(column).data_type() {
        DataType::List(item) => {
            widths.extend([1, size_of::<i32>()]);
            item
        }
        DataType::LargeList(item) => {
            widths.extend([1, size_of::<i64>()]);
            item
        }
        DataType::FixedSizeList(item, _) => {
            widths.push(1);
            item
        }
        _ => return Vec::new(),
    };
    widths.extend([1, item.data_type().primitive_width().unwrap_or(1)]);
    widths
}

/// How many buffers a column has in a record batch.
fn buffers(kind: &DataType) -> Option<usize> {
    Some(match kind {
        DataType::Null => 0,
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Binary | DataType::LargeBinary => 3,
        DataType::List(item) | DataType::LargeList(item) | DataType::Map(item, _) => {
            2 + buffers(item.data_type())?
        }
        DataType::FixedSizeList(item, _) => 1 + buffers(item.data_type())?,
        DataType::Struct(fields) => {
            fields.iter().try_fold(1, |sum, field| Some(sum + buffers(field.data_type())?))?
        }
        DataType::Boolean | DataType::FixedSizeBinary(_) | DataType::Dictionary(..) => 2,
        other => other.primitive_width().map(|_| 2)?,
    })
}

/// Checks that every buffer of every message lies inside it, and those with a width in `widths` hold a
/// whole number of numbers.
///
/// Arrow's own decoder takes offsets and lengths as they come and panics where they are wrong.
fn check_messages(stream: &[u8], widths: &[usize]) -> Result<(), String> {
    let mut rest = stream;
    while !rest.is_empty() {
        let (prefix, behind) = rest.split_at_checked(8).ok_or("the end of the file in a message")?;
        if prefix[..4] != CONTINUATION {
            return Err("expected a message of Arrow IPC (since version 0.15)".into());
        }
        let len = u32::from_le_bytes([prefix[4], prefix[5], prefix[6], prefix[7]]) as usize;
        if len == 0 {
            return Ok(());
        }
        let (metadata, behind) = behind.split_at_checked(len).ok_or("the end of the file in a message")?;
        let message = root_as_message(metadata).map_err(|error| error.to_string())?;
        let body = usize::try_from(message.bodyLength()).map_err(|_| "a body of negative length")?;
        let (body, behind) = behind.split_at_checked(body).ok_or("the end of the file in a message")?;
        if let Some(batch) = message.header_as_record_batch() {
            check_batch(batch, body.len(), widths)?;
        }
        if let Some(data) = message.header_as_dictionary_batch().and_then(|batch| batch.data()) {
            check_batch(data, body.len(), &[])?;
        }
        rest = behind;
    }
    Ok(())
}

fn check_batch(batch: Header, body: usize, widths: &[usize]) -> Result<(), String> {
    if batch.compression().is_some() {
        return Err("compressed buffers, which are not read here; write the file without compression".into());
    }
    for (i, buffer) in batch.buffers().into_iter().flatten().enumerate() {
        let (offset, len) = (usize::try_from(buffer.offset()), usize::try_from(buffer.length()));
        let end = offset.ok().zip(len.ok()).and_then(|(offset, len)| offset.checked_add(len));
        // A number that its buffer cuts off.
        let rest = widths.get(i).is_some_and(|width| buffer.length() % *width as i64 != 0);
        if rest || end.is_none_or(|end| end > body) {
            let (offset, len) = (buffer.offset(), buffer.length());
            return Err(format!("a buffer of {len} bytes at {offset} in a body of {body}"));
        }
    }
    // A list's values and a column's rows are counted in nodes: no more of them than bits.
    let most = body as u64 * 8 + 64;
    for len in batch.nodes().into_iter().flatten().map(|node| node.length()).chain([batch.length()]) {
        if u64::try_from(len).map_or(true, |len| len > most) {
            return Err(format!("{len} values in a body of {body} bytes"));
        }
    }
    Ok(())
}
