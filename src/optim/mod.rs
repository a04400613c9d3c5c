//! How weights are changed: the optimizer, and its learning rate over the steps.

mod average;
mod flat;
mod optimizer;
mod rates;
mod scaling;
mod schedule;

pub use average::Average;
pub use optimizer::{Memory, Optimizer};
pub use rates::OptimError;
pub use schedule::Schedule;
