//! The words for what a teacher says of one position, and what they mean at any temperature.
//!
//! Notation, for one position: raw logits `z` over `V` classes, their largest `z_max`, the head
//! `H` (the `k` classes with the largest logits), `β = 1/T`.
//!
//! * **Head**: ids of `H` and `z_i − z_max` for each.
//! * **Tail curve**: `g(β) = log Σ_{i∉H} exp(β (z_i − z_max))` at a few nodes of `β`;
//!   `g(0) = log(V − k)` is known. Between the nodes it is the polynomial through all of them.
//! * **Tail shape**: where the tail's mass lies, `q_j ∝ exp(b_β(j) + β Σ_i D_ji c_i)` for `j ∉ H`,
//!   with log-weights `b` and a basis `D` kept once per cache (a [`TailModel`]) and a code `c` of
//!   `rank` small whole numbers for each position. With rank 0 it is the [`TailPrior`] `b` alone,
//!   which is the same for every position.
//!
//! The target at `T`: `Z = Σ_{i∈H} exp(β (z_i − z_max)) + exp(g(β))`,
//! `p_i = exp(β (z_i − z_max)) / Z` on the head, tail mass `m = exp(g(β)) / Z`, and
//! `p_j = m q_j` off the head. It sums to 1 at every `T`; head and tail mass are exact at the
//! nodes and within the interpolation error between them.

mod batch;
mod decode;
mod decode_batch;
mod draws;
mod features;
mod handling;
mod model;
mod nodes;
mod prior;
mod temperature;

pub use batch::{PADDING, TargetBatch};
pub use decode::{DecodedTarget, PositionTarget};
pub use decode_batch::{BatchDecoder, DecodedTargets};
pub use draws::{Draws, UnsoundDraws};
pub use features::FeatureBatch;
pub use handling::TailHandling;
pub use model::{MAX_RANK, TailModel, TailModelAt, TailShape};
pub use nodes::{DEFAULT_NODES, MAX_NODES, NodesError, NotCovered, TailNodes};
pub use prior::TailPrior;
pub use temperature::{Temperature, TemperatureError};
