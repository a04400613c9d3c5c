//! `kd-cache report`: what a cache's targets are like, in numbers that a page can draw.

mod data;
mod size;
mod spread;
mod targets;

pub use data::{CacheReport, Provenance, ReportError, ReportSettings, report};
pub use size::{ColumnSize, SizeReport};
pub use spread::{Histogram, Spread};
pub use targets::{KeptMass, LabelRanks, TargetShape};
