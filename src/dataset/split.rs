//! Parts documents or images in training and validation.

use crate::config::{Part, SplitConfig};
use crate::permutation::Permutation;

/// Sets the order of what is parted apart from that of samples in an epoch, under the same seed.
const STREAM: u64 = 0x73_706c_6974;

/// Whether each of `count` things is in the part that `split` names; `None` where none is.
///
/// What is kept for validation are the first of a seeded order, so that it depends on the seed, the share
/// and the count, and not on how things are written.
pub(super) fn part(count: u64, split: &SplitConfig) -> Option<Vec<bool>> {
    let held_out = ((count as f64 * split.validation).round() as u64).min(count);
    let remain = match split.part {
        Part::Validation => held_out,
        Part::Train => count - held_out,
    };
    if remain == 0 {
        return None;
    }
    let order = Permutation::new(count, split.seed, STREAM);
    let mut part = vec![split.part == Part::Train; count as usize];
    for position in 0..held_out {
        part[order.at(position) as usize] = split.part == Part::Validation;
    }
    Some(part)
}
