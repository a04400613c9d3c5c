//! One code: whole numbers from 0 to a known largest, the frequent ones short.

use super::bits::{BitReader, BitWriter};
use super::huffman;

/// No Huffman code is longer.
pub const MAX_CODE_BITS: u32 = 12;

/// Code lengths that are no code.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SymbolCodeError {
    /// Another number of lengths than numbers up to the largest have buckets.
    #[error("expected {expected} code lengths, found {found}")]
    Count {
        /// Buckets.
        expected: usize,
        /// Lengths.
        found: usize,
    },
    /// Lengths that leave words unused or use some twice.
    #[error(
        "expected code lengths of 1 to {MAX_CODE_BITS} bits that make a complete prefix code, found others"
    )]
    Incomplete,
}

/// A code for numbers `0..=largest`.
///
/// Numbers fall into buckets that grow with them: those with the same leading bit and the same
/// `precision` bits after it, counted from `2^precision` so that the smallest numbers have a bucket
/// each. A bucket has a canonical Huffman code; the bits that tell its numbers apart follow as they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SymbolCode {
    precision: u32,
    lengths: Vec<u8>,
    /// By bucket: the code, its first bit lowest.
    codes: Vec<u16>,
    /// By the next [`MAX_CODE_BITS`] bits.
    table: Vec<Entry>,
}

/// What a word begins with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Entry {
    /// The smallest number of the bucket.
    base: u32,
    /// Bits of the code.
    code_bits: u8,
    /// Bits that follow.
    extra_bits: u8,
}

/// Bucket of a number, the bits that tell it apart in there, and how many.
fn bucket(number: u32, precision: u32) -> (usize, u32, u32) {
    let shifted = u64::from(number) + (1 << precision);
    let extra = shifted.ilog2() - precision;
    let leading = (shifted >> extra) - (1 << precision);
    let bucket = (u64::from(extra) << precision) + leading;
    (bucket as usize, (shifted & ((1 << extra) - 1)) as u32, extra)
}

/// The smallest number of a bucket, and how many bits tell its numbers apart.
fn bucket_base(bucket: usize, precision: u32) -> (u32, u32) {
    let extra = (bucket >> precision) as u32;
    let leading = (bucket & ((1 << precision) - 1)) as u64 + (1 << precision);
    (((leading << extra) - (1 << precision)) as u32, extra)
}

impl SymbolCode {
    /// Buckets that numbers up to `largest` fall into.
    pub fn buckets(largest: u32, precision: u32) -> usize {
        bucket(largest, precision).0 + 1
    }

    /// The code for numbers up to `largest` that is shortest for those of `sample`. All others have one
    /// too.
    ///
    /// # Panics
    /// When a number of the sample is above `largest`.
    pub fn fit(sample: impl Iterator<Item = u32>, largest: u32, precision: u32) -> Self {
        /// What was not seen counts a sixteenth.
        const UNSEEN: u64 = 1;
        const SEEN: u64 = 16;
        let mut counts = vec![UNSEEN; Self::buckets(largest, precision)];
        sample.for_each(|number| counts[bucket(number, precision).0] += SEEN);
        Self::of_lengths(huffman::lengths(&counts, MAX_CODE_BITS), precision)
    }

    /// The code of given `lengths`, a byte for each bucket.
    ///
    /// # Errors
    /// [`SymbolCodeError`].
    pub fn new(lengths: &[u8], largest: u32, precision: u32) -> Result<Self, SymbolCodeError> {
        let expected = Self::buckets(largest, precision);
        if lengths.len() != expected {
            return Err(SymbolCodeError::Count { expected, found: lengths.len() });
        }
        if !huffman::is_complete(lengths, MAX_CODE_BITS) {
            return Err(SymbolCodeError::Incomplete);
        }
        Ok(Self::of_lengths(lengths.to_vec(), precision))
    }

    /// `lengths` are complete.
    fn of_lengths(lengths: Vec<u8>, precision: u32) -> Self {
        let mut table = vec![Entry::default(); 1 << MAX_CODE_BITS];
        let mut codes = Vec::with_capacity(lengths.len());
        for (bucket, (code, length)) in huffman::codes(&lengths).into_iter().zip(&lengths).enumerate() {
            let bits = u32::from(*length);
            // Canonical codes are read from their highest bit on; bits come lowest first.
            let code = if bits == 0 { 0 } else { code.reverse_bits() >> (32 - bits) };
            let (base, extra) = bucket_base(bucket, precision);
            for word in (code as usize..table.len()).step_by(1 << bits) {
                table[word] = Entry { base, code_bits: *length, extra_bits: extra as u8 };
            }
            codes.push(code as u16);
        }
        Self { precision, lengths, codes, table }
    }

    /// The length of each bucket's code.
    pub fn lengths(&self) -> &[u8] {
        &self.lengths
    }

    /// Appends a number.
    ///
    /// # Panics
    /// When it is above the largest of this code.
    pub fn write(&self, number: u32, to: &mut BitWriter<'_>) {
        let (bucket, rest, extra) = bucket(number, self.precision);
        to.write(u32::from(self.codes[bucket]), u32::from(self.lengths[bucket]));
        to.write(rest, extra);
    }

    /// The next number; it may be above the largest by what its bucket has room for.
    #[inline]
    pub fn read(&self, from: &mut BitReader<'_>) -> u32 {
        let word = from.peek();
        // The table has an entry for each word of so many bits.
        let entry = self.table[(word & ((1 << MAX_CODE_BITS) - 1)) as usize];
        let extra = (word >> entry.code_bits) & ((1u64 << entry.extra_bits) - 1);
        from.advance(u32::from(entry.code_bits) + u32::from(entry.extra_bits));
        entry.base.wrapping_add(extra as u32)
    }
}

// The longest code and the most bits that can follow it are shown by one peek.
const _: () = assert!(MAX_CODE_BITS + 32 <= super::bits::PEEKED_BITS);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn buckets_follow_each_other_without_a_gap() {
        for precision in 0..4 {
            let mut next = 0u64;
            for at in 0..SymbolCode::buckets(u32::MAX, precision) {
                let (base, extra) = bucket_base(at, precision);
                assert_eq!(u64::from(base), next, "precision {precision}, bucket {at}");
                next = u64::from(base) + (1 << extra);
                assert_eq!(bucket(base, precision), (at, 0, extra));
            }
            assert!(next > u64::from(u32::MAX));
        }
    }

    #[test]
    fn the_smallest_numbers_have_a_bucket_each() {
        assert_eq!((0..8).map(|n| bucket(n, 2).0).collect::<Vec<_>>(), [0, 1, 2, 3, 4, 4, 5, 5]);
    }

    proptest! {
        #[test]
        fn any_number_comes_back(
            sample in proptest::collection::vec(0u32..5000, 0..100),
            numbers in proptest::collection::vec(0u32..5000, 0..100),
            precision in 0u32..4,
        ) {
            let code = SymbolCode::fit(sample.into_iter(), 4999, precision);
            prop_assert_eq!(&SymbolCode::new(code.lengths(), 4999, precision), &Ok(code.clone()));
            let mut bytes = Vec::new();
            let mut writer = BitWriter::new(&mut bytes);
            numbers.iter().for_each(|n| code.write(*n, &mut writer));
            let written = writer.written();
            writer.finish();
            let mut reader = BitReader::new(&bytes, 0);
            for n in numbers {
                prop_assert_eq!(code.read(&mut reader), n);
            }
            prop_assert_eq!(reader.position(), written);
        }

        #[test]
        fn lengths_from_strangers_are_refused_or_safe(
            sample in proptest::collection::vec(0u32..5000, 0..100),
            changed in 0usize..22,
            length: u8,
            bytes: Vec<u8>,
        ) {
            let mut lengths = SymbolCode::fit(sample.into_iter(), 4999, 1).lengths().to_vec();
            let same = std::mem::replace(&mut lengths[changed], length) == length;
            let code = SymbolCode::new(&lengths, 4999, 1);
            prop_assert_eq!(code.is_ok(), same);
            if let Ok(code) = code {
                let mut reader = BitReader::new(&bytes, 0);
                (0..50).for_each(|_| { code.read(&mut reader); });
            }
        }
    }

    #[test]
    fn a_skewed_sample_costs_about_its_entropy() {
        let sample: Vec<u32> =
            (1..2000u32).flat_map(|n| std::iter::repeat_n(n - 1, (20_000 / (n * n)) as usize)).collect();
        let code = SymbolCode::fit(sample.iter().copied(), 1999, 2);
        let mut bytes = Vec::new();
        let mut writer = BitWriter::new(&mut bytes);
        sample.iter().for_each(|n| code.write(*n, &mut writer));
        let bits = writer.written() as f64 / sample.len() as f64;
        let mut counts = vec![0.0; 2000];
        sample.iter().for_each(|n| counts[*n as usize] += 1.0 / sample.len() as f64);
        let entropy: f64 = counts.iter().filter(|p| **p > 0.0).map(|p| -p * f64::log2(*p)).sum();
        assert!(bits >= entropy && bits < entropy + 0.1, "{bits} bits, entropy {entropy}");
    }
}
