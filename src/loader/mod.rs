//! Streams batches for training: samples in a seeded order, joined with their cached targets by
//! sample id, prepared ahead by a thread of its own.
//!
//! Memory on the host only; `train` moves it to a device.

mod order;
mod ranks;
mod responses;
mod samples;
mod stream;

pub use order::Order;
pub use ranks::{Ranks, RanksError, Share};
pub use responses::Responses;
pub use samples::{Batch, Counts, Inputs, LoaderError, NO_LABEL, Samples, TokenInputs};
pub use stream::{Ahead, Batches, Turn, Turns, share, stream};
