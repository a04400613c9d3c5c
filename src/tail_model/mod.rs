//! Fits where the tail's mass lies, once per cache, on a sample of positions.
//!
//! What is fitted today is the prior (rank 0). A basis of rank `r > 0` joins here: it sees the
//! same logits in [`PriorFit::add`], and [`TailPrior`](crate::target::TailPrior) gains its rows.

mod prior;

pub use prior::PriorFit;
