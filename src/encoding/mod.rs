//! Targets as small whole numbers, and whole numbers as few bits.
//!
//! Two steps, each with its inverse:
//!
//! 1. [`Scale`] makes whole numbers of them, [`QuantisedBatch`]: [`Steps`] rounds logits and curves to
//!    multiples of a step, [`Draws`](crate::target::Draws) counts how often each class of a sampled target was drawn. What a cache
//!    promises of its accuracy is decided here, and only here; whatever follows is lossless.
//! 2. [`Codebook`] gives frequent numbers short codes and packs positions into rows of bits
//!    ([`Codebook::pack`]): class ids by how often they stand in heads, logits as falls from one rank to
//!    the next, curves by what a polynomial through their other nodes does not foretell.
//!
//! Vectors that are kept beside targets have a rounding of their own ([`FeatureNumbers`]), and no code.
//!
//! Every code is a canonical Huffman code of buckets followed by plain bits ([`SymbolCode`]), so that a
//! reader needs a few code lengths and no arithmetic beyond shifts, and any row is found and read alone.

mod bits;
mod codebook;
mod curve;
mod features;
mod huffman;
mod pack;
mod quantise;
mod scale;
mod symbol;

pub use bits::{BitReader, BitWriter};
pub use codebook::{Codebook, CodebookError, CodebookTables, Layout};
pub use features::{FeatureNumbers, read_f16, read_i8};
pub use pack::{ANCHOR_POSITIONS, Unreadable};
pub use quantise::{QuantisedBatch, Steps, StepsError};
pub use scale::Scale;
pub use symbol::{MAX_CODE_BITS, SymbolCode, SymbolCodeError};
