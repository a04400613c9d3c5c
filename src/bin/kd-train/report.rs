//! Reports for people.

use std::collections::BTreeMap;
use std::path::Path;

use kd_cache::metrics::Evaluation;
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
    if !report.checkpoints.is_empty() {
        let names: Vec<&str> = report.checkpoints.iter().map(|kept| kept.name.as_str()).collect();
        text.push_str(&format!("also kept: {}\n", names.join(", ")));
    }
    text.push_str(&evaluations(&report.validation));
    text
}

/// A line for each validation set.
pub fn evaluations(validation: &BTreeMap<String, Evaluation>) -> String {
    let mut text = String::new();
    for (name, set) in validation {
        let shown: Vec<String> = set.each().map(|(name, value)| format!("{name} {value:.4}")).collect();
        let shown = if shown.is_empty() {
            "nothing to measure it by: it has neither labels nor a cache".to_owned()
        } else {
            shown.join(", ")
        };
        text.push_str(&format!("{name}: {} samples, {shown}\n", set.samples));
    }
    text
}
