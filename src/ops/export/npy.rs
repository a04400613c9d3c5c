//! NumPy's array files: a header in text, then the numbers.
//!
//! Source: NEP 1, "A simple file format for NumPy arrays", version 1.0 of the format.

use half::f16;

use crate::cache::format::IdType;
use crate::config::ValueEncoding;

/// Where the numbers begin is a multiple of this, so that they can be mapped.
const ALIGNMENT: usize = 64;

/// The type of an array's numbers, little-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Number {
    I8,
    U8,
    U16,
    U32,
    U64,
    F16,
    F32,
    F64,
}

impl Number {
    pub(super) fn of_ids(ids: IdType) -> Self {
        match ids {
            IdType::U8 => Self::U8,
            IdType::U16 => Self::U16,
            IdType::U32 => Self::U32,
        }
    }

    pub(super) fn of_values(values: ValueEncoding) -> Self {
        match values {
            ValueEncoding::F16 => Self::F16,
            // Steps come out as what they stand for.
            ValueEncoding::F32 | ValueEncoding::Quantized | ValueEncoding::Counts => Self::F32,
        }
    }

    /// Bytes of one number.
    pub(super) fn bytes(self) -> u64 {
        match self {
            Self::I8 | Self::U8 => 1,
            Self::U16 | Self::F16 => 2,
            Self::U32 | Self::F32 => 4,
            Self::U64 | Self::F64 => 8,
        }
    }

    /// NumPy's name: byte order (none for one byte), kind, bytes.
    fn descr(self) -> &'static str {
        match self {
            Self::I8 => "|i1",
            Self::U8 => "|u1",
            Self::U16 => "<u2",
            Self::U32 => "<u4",
            Self::U64 => "<u8",
            Self::F16 => "<f2",
            Self::F32 => "<f4",
            Self::F64 => "<f8",
        }
    }

    /// Appends class ids as this type, which holds every id below the number of classes.
    pub(super) fn push_ids(self, ids: &[u32], out: &mut Vec<u8>) {
        match self {
            Self::U8 => out.extend(ids.iter().map(|id| *id as u8)),
            Self::U16 => out.extend(ids.iter().flat_map(|id| (*id as u16).to_le_bytes())),
            _ => out.extend(ids.iter().flat_map(|id| id.to_le_bytes())),
        }
    }

    /// Appends logits or curves as this type, the one they were read from: nothing is rounded.
    pub(super) fn push_values(self, values: &[f32], out: &mut Vec<u8>) {
        match self {
            Self::F16 => out.extend(values.iter().flat_map(|value| f16::from_f32(*value).to_le_bytes())),
            _ => out.extend(values.iter().flat_map(|value| value.to_le_bytes())),
        }
    }
}

/// What stands before the numbers of an array of `shape`, row after row.
pub(super) fn header(number: Number, shape: &[u64]) -> Vec<u8> {
    let sizes: Vec<String> = shape.iter().map(u64::to_string).collect();
    // Python's way to write a tuple of one.
    let comma = if sizes.len() == 1 { "," } else { "" };
    let descr = number.descr();
    let mut text =
        format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({}{comma}), }}", sizes.join(", "));
    let before = b"\x93NUMPY\x01\x00".len() + size_of::<u16>();
    while !(before + text.len() + 1).is_multiple_of(ALIGNMENT) {
        text.push(' ');
    }
    text.push('\n');
    let mut header = b"\x93NUMPY\x01\x00".to_vec();
    // A type and three sizes at most: never near 65,535 characters.
    header.extend((text.len() as u16).to_le_bytes());
    header.extend(text.as_bytes());
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_what_numpy_writes() {
        // numpy.lib.format.write_array_header_1_0 of NumPy 2.4.
        let one = header(Number::U64, &[12]);
        let text = "{'descr': '<u8', 'fortran_order': False, 'shape': (12,), }";
        assert_eq!(one[..10], *b"\x93NUMPY\x01\x00\x76\x00");
        assert_eq!(one[10..], *format!("{text:<117}\n").as_bytes());
        let two = header(Number::U8, &[3, 4]);
        assert!(two[10..].starts_with(b"{'descr': '|u1', 'fortran_order': False, 'shape': (3, 4), }  "));
        for shape in [[1, 1], [u64::MAX, u64::MAX], [10_000_000_000, 7]] {
            assert_eq!(header(Number::F16, &shape).len() % ALIGNMENT, 0);
        }
    }

    #[test]
    fn numbers_are_little_endian_and_exact() {
        let mut out = Vec::new();
        Number::U16.push_ids(&[258, 1], &mut out);
        Number::U8.push_ids(&[255], &mut out);
        Number::F16.push_values(&[-1.5], &mut out);
        Number::F32.push_values(&[-1.5], &mut out);
        assert_eq!(out, [2, 1, 1, 0, 255, 0, 0xbe, 0, 0, 0xc0, 0xbf]);
    }
}
