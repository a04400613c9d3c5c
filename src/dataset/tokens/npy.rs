//! NumPy's array files: a header in text, then the numbers.
//!
//! Source: NEP 1, "A simple file format for NumPy arrays", versions 1.0 to 3.0 of the format.

use std::path::Path;

use bytes::{Buf, Bytes};

use super::TokensError;
use super::corpus::Number;

/// An array's numbers where they lie in the file.
pub(super) struct Array {
    pub(super) number: Number,
    /// One size or two.
    pub(super) shape: Vec<u64>,
    pub(super) payload: Bytes,
}

/// Reads the header of a mapped file.
pub(super) fn read(path: &Path, mut bytes: Bytes) -> Result<Array, TokensError> {
    let wrong = |expected: &str, found: String| TokensError::Format {
        path: path.to_owned(),
        expected: expected.to_owned(),
        found,
    };
    let no_header = || wrong("a NumPy array (.npy)", "no header of one".into());
    if !bytes.starts_with(b"\x93NUMPY") || bytes.len() < 12 {
        return Err(no_header());
    }
    let (before, len) = match bytes[6] {
        1 => (10, usize::from(u16::from_le_bytes([bytes[8], bytes[9]]))),
        2 | 3 => (12, u32::from_le_bytes([bytes[8], bytes[9], bytes[10], bytes[11]]) as usize),
        other => return Err(wrong("version 1 to 3 of .npy", format!("version {other}"))),
    };
    let text = bytes.get(before..).and_then(|rest| rest.get(..len)).ok_or_else(no_header)?;
    let text = String::from_utf8_lossy(text).into_owned();
    let value = |key: &str| text.split_once(&format!("'{key}':")).map(|(_, rest)| rest.trim_start());
    let descr = value("descr").and_then(|rest| rest.strip_prefix('\'')?.split('\'').next());
    let number = match descr.ok_or_else(no_header)? {
        "|u1" => Number::U8,
        "<u2" => Number::U16,
        "<i4" => Number::I32,
        "<u4" => Number::U32,
        "<i8" => Number::I64,
        "<u8" => Number::U64,
        other => {
            let expected = "little-endian whole numbers (|u1, <u2, <u4, <u8, <i4 or <i8)";
            return Err(wrong(expected, other.to_owned()));
        }
    };
    let shape = value("shape").and_then(|rest| rest.strip_prefix('(')?.split(')').next());
    let shape: Option<Vec<u64>> = shape
        .ok_or_else(no_header)?
        .split(',')
        .map(str::trim)
        .filter(|size| !size.is_empty())
        .map(|size| size.parse().ok())
        .collect();
    let shape = shape.ok_or_else(no_header)?;
    if !(1..=2).contains(&shape.len()) {
        return Err(wrong("one dimension, or two (a row is a document)", format!("{shape:?}")));
    }
    if shape.len() == 2 && value("fortran_order").is_some_and(|rest| rest.starts_with("True")) {
        return Err(wrong("rows one after another", "columns (fortran_order)".into()));
    }
    bytes.advance(before + len);
    let values = shape.iter().try_fold(1u64, |product, size| product.checked_mul(*size));
    let promised = values.and_then(|values| values.checked_mul(number.width() as u64));
    if promised != Some(bytes.len() as u64) {
        let expected = format!("as many bytes as {shape:?} of {number:?} take; write the file again");
        return Err(wrong(&expected, bytes.len().to_string()));
    }
    Ok(Array { number, shape, payload: bytes })
}
