//! Bits in a row of bytes, the lowest bit of each byte first.

/// Bits that one [`BitReader::peek`] shows at least.
pub(super) const PEEKED_BITS: u32 = 57;

/// Appends bits to bytes.
#[derive(Debug)]
pub struct BitWriter<'a> {
    out: &'a mut Vec<u8>,
    pending: u64,
    filled: u32,
    /// Bits written so far, those pending included.
    written: u64,
}

impl<'a> BitWriter<'a> {
    /// Writes behind what `out` holds.
    pub fn new(out: &'a mut Vec<u8>) -> Self {
        Self { out, pending: 0, filled: 0, written: 0 }
    }

    /// Appends the lowest `count` bits of `bits`.
    ///
    /// # Panics
    /// In debug builds when `count` exceeds 32 or `bits` has higher ones.
    pub fn write(&mut self, bits: u32, count: u32) {
        debug_assert!(count <= 32 && u64::from(bits) >> count == 0);
        self.pending |= u64::from(bits) << self.filled;
        self.filled += count;
        self.written += u64::from(count);
        while self.filled >= 8 {
            self.out.push(self.pending as u8);
            self.pending >>= 8;
            self.filled -= 8;
        }
    }

    /// Bits written so far.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Fills the last byte with zeros.
    pub fn finish(mut self) {
        if self.filled > 0 {
            self.out.push(self.pending as u8);
            self.filled = 0;
        }
    }
}

/// Reads bits from bytes. Beyond the end there are zeros, so that reading needs no check; whoever reads
/// compares [`Self::position`] with what there was.
#[derive(Clone, Debug)]
pub struct BitReader<'a> {
    bytes: &'a [u8],
    position: u64,
}

impl<'a> BitReader<'a> {
    /// Reads from bit `position` on.
    pub fn new(bytes: &'a [u8], position: u64) -> Self {
        Self { bytes, position }
    }

    /// The next bits, at least 57 of them, the first one lowest.
    #[inline]
    pub fn peek(&self) -> u64 {
        let at = usize::try_from(self.position / 8).unwrap_or(usize::MAX);
        let word = match self.bytes.get(at..).and_then(|rest| rest.first_chunk::<8>()) {
            Some(bytes) => u64::from_le_bytes(*bytes),
            None => self.peek_at_end(at),
        };
        word >> (self.position % 8)
    }

    #[cold]
    fn peek_at_end(&self, at: usize) -> u64 {
        let rest = self.bytes.get(at..).unwrap_or_default();
        rest.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte))
    }

    /// Goes on by `count` bits.
    #[inline]
    pub fn advance(&mut self, count: u32) {
        self.position += u64::from(count);
    }

    /// The bit that is read next.
    pub fn position(&self) -> u64 {
        self.position
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_written_is_read(values in proptest::collection::vec((any::<u32>(), 0u32..=32), 0..200)) {
            let values: Vec<(u32, u32)> =
                values.into_iter().map(|(v, n)| ((u64::from(v) & ((1u64 << n) - 1)) as u32, n)).collect();
            let mut bytes = vec![0xaa];
            let mut writer = BitWriter::new(&mut bytes);
            values.iter().for_each(|(v, n)| writer.write(*v, *n));
            let written = writer.written();
            writer.finish();
            prop_assert_eq!(bytes.len() as u64, 1 + written.div_ceil(8));
            let mut reader = BitReader::new(&bytes, 8);
            for (v, n) in values {
                prop_assert_eq!(reader.peek() & ((1u64 << n) - 1), u64::from(v));
                reader.advance(n);
            }
            prop_assert_eq!(reader.position(), 8 + written);
        }
    }

    #[test]
    fn beyond_the_end_there_are_zeros() {
        let reader = BitReader::new(&[0xff], 4);
        assert_eq!(reader.peek(), 0xf);
        assert_eq!(BitReader::new(&[0xff], 1 << 40).peek(), 0);
    }
}
