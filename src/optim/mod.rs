//! How weights are changed: the optimizer, and its learning rate over the steps.

mod optimizer;
mod schedule;

pub use optimizer::build;
pub use schedule::Schedule;
