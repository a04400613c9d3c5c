//! Positions as bits, and back.
//!
//! A row of a cache holds one position or many (a language model's tokens). Its bytes begin with the
//! place of every 64th position, so that any position is reached by reading 63 others at most; then come
//! the positions, bit after bit without a gap.

use std::ops::Range;

use super::bits::{BitReader, BitWriter};
use super::codebook::{Table, context};
use super::curve::unzigzag;
use super::{Codebook, QuantisedBatch, Scale};
use crate::target::{MAX_NODES, TargetBatch, UnsoundDraws};

/// Positions from one that is found directly to the next.
pub const ANCHOR_POSITIONS: usize = 64;
/// Bytes of an anchor.
const ANCHOR_BYTES: usize = 4;

/// Bits that are no positions.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("position {position}: expected {expected}, found {found}")]
pub struct Unreadable {
    /// In its row.
    pub position: usize,
    /// What was expected.
    pub expected: String,
    /// What was found.
    pub found: String,
}

/// Anchors of a row of so many positions.
fn anchors(positions: usize) -> usize {
    positions.saturating_sub(1) / ANCHOR_POSITIONS
}

impl Codebook {
    /// Appends the bytes of a row that holds the positions `rows` of `batch`.
    ///
    /// # Panics
    /// When `batch` is not of this codebook's layout.
    pub fn pack(&self, batch: &QuantisedBatch, rows: Range<usize>, out: &mut Vec<u8>) {
        let start = out.len();
        out.resize(start + anchors(rows.len()) * ANCHOR_BYTES, 0);
        let mut places = Vec::with_capacity(anchors(rows.len()));
        let mut writer = BitWriter::new(out);
        for (position, row) in rows.enumerate() {
            if position > 0 && position % ANCHOR_POSITIONS == 0 {
                // A row of 512 MiB has more positions than any model a context.
                places.push(u32::try_from(writer.written()).unwrap_or(u32::MAX));
            }
            self.each_number(batch, row, |table, code, number| {
                let code = match table {
                    Table::Ids => &self.ids[code],
                    Table::Falls => &self.falls[code],
                    Table::Curve => &self.curve[code],
                    Table::TailCodes => &self.tail_codes[code],
                    // Asked for only where there is one.
                    Table::Counts => match &self.counts {
                        Some(code) => code,
                        None => return,
                    },
                };
                code.write(number, &mut writer);
            });
        }
        writer.finish();
        for (at, place) in places.into_iter().enumerate() {
            out[start + at * ANCHOR_BYTES..][..ANCHOR_BYTES].copy_from_slice(&place.to_le_bytes());
        }
    }

    /// Reads the positions `wanted` of a row of `positions` into `out`, from its row `at` on.
    ///
    /// Whatever the bytes, class ids come out below the number of classes and values finite.
    ///
    /// # Errors
    /// [`Unreadable`]: bits that end early, or that say what no writer writes.
    ///
    /// # Panics
    /// When `wanted` is not within `positions`, or `out` not of this codebook's layout.
    pub fn unpack(
        &self,
        bytes: &[u8],
        positions: usize,
        wanted: Range<usize>,
        scale: &Scale,
        out: &mut TargetBatch,
        at: usize,
    ) -> Result<(), Unreadable> {
        assert!(wanted.end <= positions, "position {} of {positions}", wanted.end);
        let anchor = wanted.start / ANCHOR_POSITIONS;
        let header = anchors(positions) * ANCHOR_BYTES;
        let truncated = |position: usize| Unreadable {
            position,
            expected: "as many bits as its code lengths ask for".into(),
            found: format!("a row of {} bytes, which is shorter", bytes.len()),
        };
        let bits = bytes.get(header..).ok_or_else(|| truncated(0))?;
        let place_of = |anchor: usize| match anchor.checked_sub(1) {
            None => Ok(0),
            Some(at) => {
                let place = bytes[at * ANCHOR_BYTES..].first_chunk::<ANCHOR_BYTES>();
                Ok(u64::from(u32::from_le_bytes(*place.ok_or_else(|| truncated(0))?)))
            }
        };
        let to_the_end = wanted.end == positions;
        let mut reader = BitReader::new(bits, place_of(anchor)?);
        for position in anchor * ANCHOR_POSITIONS..wanted.start {
            self.skip(&mut reader, position)?;
        }
        for (to, position) in wanted.enumerate() {
            // A row must not be one thing read from its beginning, and another read from an anchor.
            let place = place_of(position / ANCHOR_POSITIONS)?;
            if position.is_multiple_of(ANCHOR_POSITIONS) && place != reader.position() {
                let found = format!("bit {}, where the position before it ends", reader.position());
                return Err(Unreadable { position, expected: format!("bit {place} (its anchor)"), found });
            }
            self.read(&mut reader, position, scale, out, at + to)?;
            if reader.position() > bits.len() as u64 * 8 {
                return Err(truncated(position));
            }
        }
        // Nothing may be hidden behind the last position, not even in what fills its last byte.
        if to_the_end && (reader.position().div_ceil(8) < bits.len() as u64 || reader.peek() != 0) {
            return Err(Unreadable {
                position: positions.saturating_sub(1),
                expected: format!("nothing behind its last bit, {}", reader.position()),
                found: format!("more in {} bytes", bits.len()),
            });
        }
        Ok(())
    }

    /// The size of the next head.
    fn read_count(&self, reader: &mut BitReader<'_>, position: usize) -> Result<usize, Unreadable> {
        let Some(code) = &self.counts else { return Ok(self.layout.k) };
        let count = code.read(reader) as usize + 1;
        if count <= self.layout.k {
            return Ok(count);
        }
        let expected = format!("a head of at most {} classes", self.layout.k);
        Err(Unreadable { position, expected, found: format!("one of {count}") })
    }

    fn skip(&self, reader: &mut BitReader<'_>, position: usize) -> Result<(), Unreadable> {
        let count = self.read_count(reader, position)?;
        for rank in 0..count {
            self.ids[context(rank)].read(reader);
        }
        for rank in 1..count {
            self.falls[context(rank)].read(reader);
        }
        for code in self.curve.iter().rev().chain(&self.tail_codes) {
            code.read(reader);
        }
        Ok(())
    }

    fn read(
        &self,
        reader: &mut BitReader<'_>,
        position: usize,
        scale: &Scale,
        out: &mut TargetBatch,
        row: usize,
    ) -> Result<(), Unreadable> {
        let count = self.read_count(reader, position)?;
        out.set_count(row, count);
        let (k, nodes, rank) = (out.k, out.nodes, out.rank);
        for (at, id) in out.ids[row * k..][..count].iter_mut().enumerate() {
            let place = self.ids[context(at)].read(reader);
            let class = self.order.get(place as usize).ok_or_else(|| Unreadable {
                position,
                expected: format!("one of the {} classes", self.order.len()),
                found: format!("the one at place {place} of them"),
            })?;
            *id = *class;
        }
        let mut below = 0u32;
        let mut next = |at: usize| {
            if at > 0 {
                below = below.saturating_add(self.falls[context(at)].read(reader)).min(u32::from(u16::MAX));
            }
            below as u16
        };
        let values = out.values[row * k..][..count].iter_mut().enumerate();
        if let Scale::Steps(steps) = scale {
            values.for_each(|(at, value)| *value = steps.value_of(next(at)));
        } else {
            // What one stands for depends on the others.
            let below: Vec<u16> = (0..count).map(next).collect();
            let unsound =
                |draws: UnsoundDraws| Unreadable { position, expected: draws.expected, found: draws.found };
            scale.logits(&below, &mut out.values[row * k..][..count]).map_err(unsound)?;
        }
        if let Some(predictor) = &self.predictor {
            let mut curve = [0i16; MAX_NODES];
            let curve = &mut curve[..nodes];
            for at in (0..nodes).rev() {
                let left = unzigzag(self.curve[at].read(reader));
                let foretold = i32::from(predictor.predict(at, self.at_zero[count], curve));
                let found = foretold.saturating_add(left);
                curve[at] = found.clamp(i32::from(i16::MIN), i32::from(i16::MAX)) as i16;
            }
            for (out, steps_of) in out.curve[row * nodes..][..nodes].iter_mut().zip(curve) {
                *out = scale.curve_of(*steps_of);
            }
        }
        for (code, value) in self.tail_codes.iter().zip(&mut out.codes[row * rank..][..rank]) {
            *value = unzigzag(code.read(reader)).clamp(i32::from(i8::MIN), i32::from(i8::MAX)) as i8;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::Steps;
    use super::super::codebook::{CodebookError, CodebookTables, Layout};
    use super::super::symbol::SymbolCodeError;
    use super::*;
    use crate::target::TailNodes;

    fn layout(variable: bool, rank: usize) -> Layout {
        Layout { classes: 500, k: 20, variable, nodes: Some(TailNodes::default()), rank }
    }

    /// Positions as a teacher might have them: a few classes often, curves that are smooth.
    fn batch(layout: &Layout, rows: usize, seed: u64) -> QuantisedBatch {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut draw = |below: u64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state % below
        };
        let mut batch =
            QuantisedBatch { rows, k: layout.k, nodes: 5, rank: layout.rank, ..Default::default() };
        for _ in 0..rows {
            let count = if layout.variable { 1 + draw(layout.k as u64) as usize } else { layout.k };
            if layout.variable {
                batch.counts.push(count as u16);
            }
            let mut ids: Vec<u32> = Vec::new();
            while ids.len() < layout.k {
                let spread = 1 + draw(layout.classes as u64);
                let id = draw(spread) as u32;
                if !ids.contains(&id) {
                    ids.push(id);
                }
            }
            let first = ids[0];
            ids[count..].fill(first);
            batch.ids.extend(ids);
            let mut below = 0;
            for at in 0..layout.k {
                below += if at == 0 || at >= count { 0 } else { draw(30) as u16 };
                batch.values.push(below);
            }
            let slope = -(draw(400) as f64);
            batch.curve.extend(
                TailNodes::default().as_slice().iter().map(|b| (60.0 + slope * b) as i16 + draw(3) as i16),
            );
            batch.codes.extend((0..layout.rank).map(|_| (draw(60) as i32 - 30) as i8));
        }
        batch
    }

    fn restored(scale: &Scale, quantised: &QuantisedBatch) -> TargetBatch {
        let mut out = TargetBatch::default();
        out.resize(quantised.rows, quantised.k, quantised.nodes, quantised.rank);
        out.counts.clone_from(&quantised.counts);
        out.ids.clone_from(&quantised.ids);
        let rows = 0..quantised.rows;
        out.values.resize(quantised.values.len(), 0.0);
        for row in rows {
            let head = row * quantised.k..row * quantised.k + quantised.count(row);
            scale.logits(&quantised.values[head.clone()], &mut out.values[head]).unwrap();
        }
        out.curve = quantised.curve.iter().map(|q| scale.curve_of(*q)).collect();
        out.codes.clone_from(&quantised.codes);
        out.pad();
        out
    }

    fn empty_like(batch: &TargetBatch, rows: usize) -> TargetBatch {
        let mut out = TargetBatch::default();
        out.resize(rows, batch.k, batch.nodes, batch.rank);
        if !batch.counts.is_empty() {
            out.vary();
        }
        out
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn any_position_is_read_alone(seed: u64, rows in 1usize..200, variable: bool, rank in 0usize..4) {
            let layout = layout(variable, rank);
            let steps = Scale::from(Steps::new(0.1, 0.25, 0.0625).unwrap());
            let sample = batch(&layout, 50, seed ^ 1);
            let book = Codebook::fit(layout.clone(), steps.curve_step(), &sample, None);
            let book = Codebook::new(layout.clone(), steps.curve_step(), &book.tables()).unwrap();
            let quantised = batch(&layout, rows, seed);
            let expected = restored(&steps, &quantised);
            let mut bytes = vec![1, 2, 3];
            book.pack(&quantised, 0..rows, &mut bytes);
            let bytes = &bytes[3..];
            let mut all = empty_like(&expected, rows);
            book.unpack(bytes, rows, 0..rows, &steps, &mut all, 0).unwrap();
            all.pad();
            prop_assert_eq!(&all, &expected);
            for row in [0, rows / 2, rows - 1] {
                let mut one = empty_like(&expected, 1);
                book.unpack(bytes, rows, row..row + 1, &steps, &mut one, 0).unwrap();
                prop_assert_eq!(one.row(0), expected.row(row));
                prop_assert_eq!(one.code(0), expected.code(row));
            }
            // Every byte is needed.
            let cut = &bytes[..bytes.len() - 1];
            prop_assert!(book.unpack(cut, rows, 0..rows, &steps, &mut all, 0).is_err());
            // None is there without need, and every bit of the last one means something.
            let mut other = bytes.to_vec();
            other.push(0);
            prop_assert!(book.unpack(&other, rows, 0..rows, &steps, &mut all, 0).is_err());
            other.pop();
            for bit in 0..8 {
                *other.last_mut().unwrap() ^= 1 << bit;
                let mut last = empty_like(&expected, 1);
                if book.unpack(&other, rows, rows - 1..rows, &steps, &mut last, 0).is_ok() {
                    prop_assert_ne!((last.row(0), last.code(0)), (expected.row(rows - 1), expected.code(rows - 1)));
                }
                *other.last_mut().unwrap() ^= 1 << bit;
            }
        }

        #[test]
        fn arbitrary_bytes_are_refused_or_sound(bytes: Vec<u8>, positions in 1usize..300, variable: bool) {
            let layout = layout(variable, 2);
            let steps = Scale::from(Steps::new(0.1, 0.25, 0.0625).unwrap());
            let book = Codebook::fit(layout.clone(), steps.curve_step(), &batch(&layout, 20, 3), None);
            let mut out = TargetBatch::default();
            out.resize(positions, 20, 5, 2);
            if variable {
                out.vary();
            }
            if book.unpack(&bytes, positions, 0..positions, &steps, &mut out, 0).is_ok() {
                prop_assert!(out.ids.iter().all(|id| *id < 500));
                prop_assert!(out.values.iter().chain(&out.curve).all(|v| v.is_finite()));
            }
        }
    }

    #[test]
    fn an_anchor_is_where_the_position_before_it_ends() {
        let layout = layout(true, 2);
        let steps = Scale::from(Steps::new(0.1, 0.25, 0.0625).unwrap());
        let quantised = batch(&layout, 130, 5);
        let book = Codebook::fit(layout, steps.curve_step(), &quantised, None);
        let mut out = empty_like(&restored(&steps, &quantised), 130);
        let mut bytes = Vec::new();
        book.pack(&quantised, 0..130, &mut bytes);
        for (byte, anchored) in [(0, 64), (4, 128)] {
            bytes[byte] ^= 1;
            let error = book.unpack(&bytes, 130, 0..130, &steps, &mut out, 0).unwrap_err();
            assert!(error.position == anchored && error.expected.ends_with("(its anchor)"), "{error}");
            bytes[byte] ^= 1;
        }
        book.unpack(&bytes, 130, 0..130, &steps, &mut out, 0).unwrap();
    }

    #[test]
    fn what_is_frequent_is_short() {
        let layout = layout(false, 0);
        let sample = batch(&layout, 400, 5);
        let book = Codebook::fit(layout.clone(), 0.0625, &sample, None);
        let mut bytes = Vec::new();
        book.pack(&sample, 0..400, &mut bytes);
        // 20 ids at log2 500 = 9 bits, 19 falls below 30 at 5 bits, and five points of a curve.
        let plain = (20.0 * 9.0 + 19.0 * 5.0 + 5.0 * 16.0) / 8.0;
        assert!((bytes.len() as f64) < 400.0 * plain * 0.9, "{} bytes, plain {plain} each", bytes.len());
    }

    #[test]
    fn popularity_orders_what_the_sample_does_not_tell_apart() {
        let layout = layout(false, 0);
        let popularity: Vec<f64> = (0..500).map(f64::from).collect();
        let book = Codebook::fit(layout.clone(), 0.1, &batch(&layout, 1, 5), Some(&popularity));
        let unseen = &book.tables().order[20..];
        assert!(unseen.windows(2).all(|pair| pair[0] > pair[1]));
    }

    #[test]
    fn tables_from_strangers_are_checked() {
        let layout = layout(true, 2);
        let good = Codebook::fit(layout.clone(), 0.1, &batch(&layout, 20, 3), None).tables();
        let refused = |change: &dyn Fn(&mut CodebookTables)| {
            let mut tables = good.clone();
            change(&mut tables);
            Codebook::new(layout.clone(), 0.1, &tables).unwrap_err()
        };
        assert_eq!(refused(&|t| t.order[1] = t.order[0]), CodebookError::Order { classes: 500 });
        assert_eq!(refused(&|t| t.order[1] = 500), CodebookError::Order { classes: 500 });
        assert_eq!(refused(&|t| t.order.truncate(499)), CodebookError::Order { classes: 500 });
        assert!(matches!(refused(&|t| t.falls.truncate(1)), CodebookError::Size { table: "falls", .. }));
        let code = refused(&|t| t.curve[0] = 13);
        assert_eq!(
            code,
            CodebookError::Code { table: "curve", code: 0, source: SymbolCodeError::Incomplete }
        );
    }
}
