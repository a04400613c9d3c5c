//! What `kd-cache` does, each a function from settings to a report that can be written as JSON.

mod apart;
mod batch_size;
mod build;
mod convert;
mod export;
mod fidelity;
mod import;
mod inherit;
mod inspect;
mod keep;
mod list;
mod other_tokenizer;
mod pipeline;
mod plan;
mod prepass;
mod progress;
mod reading;
mod report;
mod samples;
mod show;
mod source;
mod steady;
mod verify;

pub use build::{BuildError, BuildOutcome, BuildReport, BuildUntil, build};
pub use convert::{ConvertError, ConvertReport, ConvertSettings, convert};
pub use export::{
    ExportError, ExportForm, ExportReport, ExportRow, ExportSettings, ExportTarget, ExportTo, export,
};
pub use fidelity::{FidelityError, FidelityReport, FidelityRow, fidelity};
pub use import::{ImportError, ImportReport, ImportSettings, import};
pub use inherit::InheritError;
pub use inspect::{InspectReport, inspect};
pub use list::{ListError, SampleLine, list_samples};
pub use plan::{PlanError, PlanReport, PlanSettings, PlanSize, PlanTime, TeacherRate, plan};
pub use progress::{Progress, Silent};
pub use report::{
    CacheReport, ColumnSize, Histogram, KeptMass, LabelRanks, Provenance, ReportError, ReportSettings,
    SizeReport, Spread, TargetShape, report,
};
pub use show::{ShowError, ShowReport, show};
pub use source::SourceError;
pub use verify::{Damage, VerifyReport, verify};
