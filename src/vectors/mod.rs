//! Many numbers at once, for whatever vector registers the machine has.
//!
//! Sums have sixteen lanes, which are added up in one order, so that results are the same to the bit whatever the width of
//! the registers. Multiplications and additions of `softmax` and `Exp2` are fused; a machine without fused arithmetic emulates
//! it, which is slow.

mod exp;
mod extremes;
mod few;
mod half;
mod mask;
pub(crate) mod softmax;

pub(crate) use exp::{Exp2, ROUND, exp_non_positive};
pub(crate) use extremes::{all_finite, are_finite, largest};
pub(crate) use few::each;
pub(crate) use half::widen;
pub(crate) use mask::lanes_of;

/// Lanes of a sum.
pub(crate) const LANES: usize = 16;
/// Vectors that go through a polynomial side by side, because each of its steps waits for the one before.
pub(crate) const ABREAST: usize = 4;
/// Values that are worked on together.
pub(crate) const TILE: usize = ABREAST * LANES;
/// Values that are summed in single precision; the sums of blocks are added up in double precision.
pub(crate) const BLOCK: usize = 16 * TILE;

/// Runs `work` with the vectors of the widest registers of this machine. What it calls must be inlined into it.
pub(crate) fn with_widest<Work: pulp::WithSimd>(work: Work) -> Work::Output {
    pulp::Arch::new().dispatch(work)
}

/// `values`, and zeros to whole tiles.
pub(crate) fn filled_up(values: impl Iterator<Item = f32>) -> Vec<f32> {
    let mut values: Vec<f32> = values.collect();
    values.resize(values.len().next_multiple_of(TILE), 0.0);
    values
}
