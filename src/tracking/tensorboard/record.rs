//! Records of TFRecord files, with their checksums.
//!
//! ```text
//! length    u64, little-endian
//! checksum  u32 of the length's eight bytes
//! data      `length` bytes
//! checksum  u32 of the data
//! ```
//!
//! A checksum is the CRC-32C (Castagnoli; RFC 3720, B.4), masked as TensorFlow's `lib/hash/crc32c.h` has it, so that
//! the checksum of a string that holds checksums is no trouble.

/// CRC-32C's polynomial, its bits reversed.
const POLYNOMIAL: u32 = 0x82f6_3b78;
const TABLE: [u32; 256] = table();
const MASK: u32 = 0xa282_ead8;
/// Bytes before the data, and after them.
const BEFORE: usize = 12;
const AFTER: usize = 4;

const fn table() -> [u32; 256] {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ POLYNOMIAL } else { crc >> 1 };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
}

fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc: u32, byte| (crc >> 8) ^ TABLE[((crc ^ u32::from(*byte)) & 0xff) as usize])
}

fn masked(bytes: &[u8]) -> u32 {
    crc32c(bytes).rotate_right(15).wrapping_add(MASK)
}

/// The record of `data`.
pub(super) fn record(data: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(BEFORE + data.len() + AFTER);
    let length = (data.len() as u64).to_le_bytes();
    out.extend(length);
    out.extend(masked(&length).to_le_bytes());
    out.extend(data);
    out.extend(masked(data).to_le_bytes());
    out
}

/// The data of the first record of `bytes`, and how long the record is; `None` where it is torn or damaged.
pub(super) fn first(bytes: &[u8]) -> Option<(&[u8], usize)> {
    let (length, rest) = bytes.split_first_chunk::<8>()?;
    let (checksum, rest) = rest.split_first_chunk::<4>()?;
    if u32::from_le_bytes(*checksum) != masked(length) {
        return None;
    }
    let (data, rest) = rest.split_at_checked(usize::try_from(u64::from_le_bytes(*length)).ok()?)?;
    let checksum = rest.first_chunk::<4>()?;
    (u32::from_le_bytes(*checksum) == masked(data)).then_some((data, BEFORE + data.len() + AFTER))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 3720, B.4, and the check value of the catalogues.
    #[test]
    fn checksums_are_those_of_the_standard() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
        assert_eq!(crc32c(&(0..32).collect::<Vec<u8>>()), 0x46dd_794e);
        assert_eq!(crc32c(b""), 0);
    }

    #[test]
    fn a_record_is_read_back_unless_a_bit_of_it_is_another() {
        let whole = record(b"event");
        assert_eq!(first(&whole), Some((b"event".as_slice(), whole.len())));
        for end in 0..whole.len() {
            assert_eq!(first(&whole[..end]), None);
        }
        for at in 0..whole.len() * 8 {
            let mut damaged = whole.clone();
            damaged[at / 8] ^= 1 << (at % 8);
            assert_eq!(first(&damaged), None, "bit {at}");
        }
    }
}
