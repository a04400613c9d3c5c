//! The order in which one pass visits the samples.

use std::ops::Range;

use crate::config::ShuffleConfig;
use crate::permutation::Permutation;

/// Streams of the seed below this are other rooms' (the tail model's sample, fidelity's); from
/// [`FIRST_BUFFER_STREAM`] on they are the buffers'.
const FIRST_EPOCH_STREAM: u64 = 1 << 32;
const FIRST_BUFFER_STREAM: u64 = 1 << 63;

/// The order of one pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// As the dataset has them, in their first view.
    Sequential,
    /// Every sample once, in the random order of this seed and epoch, and in the view whose turn it is.
    Shuffled {
        /// The run's seed.
        seed: u64,
        /// Counts from 0.
        epoch: u32,
        /// How far samples that lie together are torn apart; `None`: all samples are mixed.
        within: Option<ShuffleConfig>,
    },
}

/// The samples' indices by their turn.
pub(super) enum Visits {
    Sequential,
    Shuffled(Permutation),
    Blocks(Blocks),
}

impl Visits {
    pub(super) fn new(order: Order, samples: u64) -> Self {
        match order {
            Order::Sequential => Self::Sequential,
            Order::Shuffled { seed, epoch, within: None } => {
                Self::Shuffled(Permutation::new(samples, seed, FIRST_EPOCH_STREAM + u64::from(epoch)))
            }
            Order::Shuffled { seed, epoch, within: Some(shuffle) } => {
                Self::Blocks(Blocks::new(samples, shuffle, seed, epoch))
            }
        }
    }

    /// Whether anything is worth reading before its turn.
    pub(super) fn reads_ahead(&self) -> bool {
        matches!(self, Self::Blocks(_))
    }

    /// The sample whose turn is `turn`.
    pub(super) fn at(&mut self, turn: u64) -> u64 {
        match self {
            Self::Sequential => turn,
            Self::Shuffled(order) => order.at(turn),
            Self::Blocks(blocks) => blocks.at(turn),
        }
    }

    /// What is worth reading before a turn that begins a buffer: the samples of the buffer after it, as ranges, and at
    /// the turn `first`, with which a pass goes on, also those of its own. Nothing at other turns.
    pub(super) fn soon(&self, turn: u64, first: u64) -> Vec<Range<u64>> {
        match self {
            Self::Blocks(blocks) => blocks.soon(turn, first),
            _ => Vec::new(),
        }
    }
}

/// Blocks of neighbours in random order, and all samples of so many blocks as a buffer takes in random order.
///
/// The blocks begin at a random place, so that which samples are neighbours of a block, and which ones are left over at
/// the end, differs from epoch to epoch. What is left over belongs to the last buffer.
pub(super) struct Blocks {
    samples: u64,
    shift: u64,
    block: u64,
    blocks: Permutation,
    /// Blocks of a buffer.
    together: u64,
    seed: u64,
    first_stream: u64,
    /// The buffer that was asked for last, and the order within.
    buffer: Option<(u64, Permutation)>,
}

impl Blocks {
    fn new(samples: u64, shuffle: ShuffleConfig, seed: u64, epoch: u32) -> Self {
        let block = shuffle.block.min(samples).max(1);
        let stream = FIRST_EPOCH_STREAM + u64::from(epoch);
        let shift = if samples == 0 { 0 } else { Permutation::new(samples, seed, stream).at(0) };
        Self {
            samples,
            shift,
            block,
            blocks: Permutation::new(samples / block, seed, stream),
            together: (shuffle.buffer() / block).max(1),
            seed,
            first_stream: FIRST_BUFFER_STREAM | u64::from(epoch) << 31,
            buffer: None,
        }
    }

    fn buffers(&self) -> u64 {
        self.blocks.len().div_ceil(self.together)
    }

    fn buffer_of(&self, turn: u64) -> u64 {
        (turn / (self.together * self.block)).min(self.buffers().saturating_sub(1))
    }

    /// The turns of a buffer.
    fn turns(&self, buffer: u64) -> Range<u64> {
        let each = self.together * self.block;
        let end = if buffer + 1 == self.buffers() { self.samples } else { (buffer + 1) * each };
        buffer * each..end
    }

    fn at(&mut self, turn: u64) -> u64 {
        let buffer = self.buffer_of(turn);
        let turns = self.turns(buffer);
        if self.buffer.as_ref().is_none_or(|(of, _)| *of != buffer) {
            let order = Permutation::new(turns.end - turns.start, self.seed, self.first_stream + buffer);
            self.buffer = Some((buffer, order));
        }
        let within = self.buffer.as_ref().map_or(0, |(_, order)| order.at(turn - turns.start));
        let block = turns.start / self.block + within / self.block;
        let place = match block < self.blocks.len() {
            true => self.blocks.at(block) * self.block + within % self.block,
            // Left over behind the last block.
            false => turns.start + within,
        };
        (place + self.shift) % self.samples
    }

    fn soon(&self, turn: u64, first: u64) -> Vec<Range<u64>> {
        let buffer = self.buffer_of(turn);
        let mut ranges = Vec::new();
        if turn == first {
            ranges.extend(self.ranges(buffer));
        }
        if (turn == first || turn == self.turns(buffer).start) && buffer + 1 < self.buffers() {
            ranges.extend(self.ranges(buffer + 1));
        }
        ranges
    }

    /// The samples of a buffer.
    fn ranges(&self, buffer: u64) -> Vec<Range<u64>> {
        let turns = self.turns(buffer);
        let (first, last) = (turns.start / self.block, (turns.end / self.block).min(self.blocks.len()));
        let mut places: Vec<Range<u64>> = (first..last)
            .map(|block| self.blocks.at(block) * self.block)
            .map(|start| start..start + self.block)
            .collect();
        let whole = self.blocks.len() * self.block;
        if turns.end > whole {
            places.push(whole..turns.end);
        }
        // Turned round at the end.
        let turned = |place: Range<u64>| {
            let (start, end) = (place.start + self.shift, place.end + self.shift);
            let samples = self.samples;
            [start.min(samples)..end.min(samples), start.max(samples) - samples..end.max(samples) - samples]
        };
        let mut ranges: Vec<Range<u64>> =
            places.into_iter().flat_map(turned).filter(|range| !range.is_empty()).collect();
        ranges.sort_unstable_by_key(|range| range.start);
        ranges
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn visits(samples: u64, block: u64, buffer: u64, epoch: u32) -> (Visits, Vec<u64>) {
        let order =
            Order::Shuffled { seed: 3, epoch, within: Some(ShuffleConfig { block, buffer: Some(buffer) }) };
        let mut visits = Visits::new(order, samples);
        let all = (0..samples).map(|turn| visits.at(turn)).collect();
        (visits, all)
    }

    proptest! {
        #[test]
        fn every_sample_has_one_turn_and_is_read_before_it(
            samples in 1u64..400,
            block in 1u64..50,
            blocks in 1u64..8,
            epoch in 0u32..3,
            first in 0u64..400,
        ) {
            let (visits, all) = visits(samples, block, block * blocks, epoch);
            let mut sorted = all.clone();
            sorted.sort_unstable();
            prop_assert_eq!(sorted, (0..samples).collect::<Vec<_>>());
            // A pass that goes on at `first`.
            let first = first.min(samples - 1);
            let mut read = vec![false; samples as usize];
            for turn in first..samples {
                for sample in visits.soon(turn, first).into_iter().flatten() {
                    read[sample as usize] = true;
                }
                prop_assert!(read[all[turn as usize] as usize], "turn {turn}");
            }
        }
    }

    #[test]
    fn a_buffer_is_of_whole_blocks_and_mixed() {
        let (_, all) = visits(10_000, 100, 1000, 0);
        for buffer in all.chunks(1000) {
            let mut sorted = buffer.to_vec();
            sorted.sort_unstable();
            let breaks = sorted.windows(2).filter(|pair| pair[1] != pair[0] + 1).count();
            assert!(breaks <= 10, "ten blocks, and one that is turned round: {breaks}");
            assert!(buffer.windows(2).filter(|pair| pair[1] == pair[0] + 1).count() < 20);
        }
    }

    #[test]
    fn epochs_have_other_blocks_in_another_order() {
        let (first, again, second) =
            (visits(5000, 64, 640, 0).1, visits(5000, 64, 640, 0).1, visits(5000, 64, 640, 1).1);
        assert_eq!(first, again);
        let same = first.iter().zip(&second).filter(|(a, b)| a == b).count();
        assert!(same < 50, "{same}");
    }

    #[test]
    fn a_buffer_of_all_samples_mixes_them_all() {
        let (_, all) = visits(1000, 10, 1000, 0);
        let displaced =
            all.iter().enumerate().filter(|(turn, sample)| sample.abs_diff(*turn as u64) > 100).count();
        assert!(displaced > 700, "{displaced}");
    }
}
