//! Many runs of one training config: every point of a sweep is an ordinary run of a process of its own.
//!
//! ```text
//! FOLDER/
//! ├── sweep.json            every point: keys, measures, bytes, seconds, state
//! ├── configs/NAME.toml     what the run was begun with
//! ├── runs/NAME/            the run, as kd-train leaves it
//! ├── logs/NAME.txt         what it said on standard error
//! └── lock                  held by the sweep at work
//! ```
//!
//! [`run`] plans all points, starts as many processes at a time as it is told or as the first shows room for, and reads what they
//! leave behind.
//! What a process is called and how it takes its arguments is the program's matter.

mod abreast;
mod error;
mod folder;
mod plan;
mod process;
mod rank;
mod report;
mod run;

pub use error::SweepError;
pub use folder::SweepFolder;
pub use process::{Begin, Order};
pub use rank::RankBy;
pub use report::{PointReport, PointState, SweepOutcome, SweepReport};
pub use run::{SweepOptions, run};
