//! Reports for people.

use std::collections::BTreeMap;
use std::path::Path;

use kd_cache::metrics::{Evaluation, Metric};
use kd_cache::train::TrainReport;

/// A run in a few lines.
pub fn run(report: &TrainReport, out: &Path) -> String {
    let mut text = format!(
        "{} epochs, {} steps over {} samples in {:.1} s on {}; {} parameters\n",
        report.epochs, report.steps, report.samples, report.seconds, report.device, report.parameters
    );
    if let Some(epoch) = report.best_epoch {
        text.push_str(&format!("kept: epoch {epoch} (by {}), in {}\n", report.selected_by, out.display()));
    }
    text.push_str(&evaluations(&report.validation));
    text
}

/// A line for each validation set.
pub fn evaluations(validation: &BTreeMap<String, Evaluation>) -> String {
    let mut text = String::new();
    for (name, set) in validation {
        let shown: Vec<String> = Metric::ALL
            .into_iter()
            .filter_map(|metric| Some(format!("{} {:.4}", metric.as_str(), metric.of(set)?)))
            .collect();
        text.push_str(&format!("{name}: {} samples, {}\n", set.samples, shown.join(", ")));
    }
    text
}
