//! The runs of a sweep as a Markdown table, the best first.

use std::collections::BTreeSet;

use kd_cache::metrics::Metric;
use kd_cache::sweep::{PointReport, PointState, SweepReport};
use serde_json::Value;

/// `table.md`.
pub fn document(report: &SweepReport) -> String {
    let by = report.rank_by.as_deref().map_or_else(String::new, |by| {
        let way = if report.higher_is_better { "highest" } else { "lowest" };
        format!(", {way} {by} first")
    });
    let done = report.count(PointState::Trained);
    let head = format!(
        "# Sweep of {}\n\n{done} of {} runs done{by}.\n\n",
        escaped(&report.base),
        report.points.len()
    );
    head + &table(report)
}

/// The table alone.
pub fn table(report: &SweepReport) -> String {
    let measures = measures(report);
    let several_caches = {
        let mut caches: Vec<_> = report.points.iter().map(|point| &point.cache).collect();
        caches.dedup();
        caches.len() > 1
    };
    let mut head = vec!["#".to_owned()];
    head.extend(report.keys.iter().map(|key| escaped(key)));
    head.extend(measures.iter().map(|(name, _)| escaped(name)));
    head.extend(["parameters", "student bytes"].map(str::to_owned));
    head.extend(several_caches.then(|| "cache bytes".to_owned()));
    head.extend(["seconds", "state"].map(str::to_owned));
    let mut rows = vec![head];
    for point in report.ranked() {
        let number = |value: Option<u64>| value.map_or_else(String::new, |value| value.to_string());
        let mut row = vec![number(point.rank.map(u64::from))];
        row.extend(report.keys.iter().map(|key| point.keys.get(key).map_or_else(String::new, word)));
        row.extend(
            measures.iter().map(|(_, of)| of(point).map_or_else(String::new, |value| format!("{value:.4}"))),
        );
        row.extend([number(point.parameters), number(point.student_bytes)]);
        row.extend(several_caches.then(|| number(point.cache_bytes)));
        row.push(point.seconds.map_or_else(String::new, |seconds| format!("{seconds:.1}")));
        row.push(state(point.state).to_owned());
        rows.push(row);
    }
    aligned(&rows, 1 + report.keys.len())
}

type Measure = Box<dyn Fn(&PointReport) -> Option<f64>>;

/// What the runs have of measures, what ranks them first.
fn measures(report: &SweepReport) -> Vec<(String, Measure)> {
    let mut found: Vec<(String, Measure)> = Vec::new();
    let mut sets: Vec<&String> = report.points.iter().flat_map(|point| point.validation.keys()).collect();
    sets.sort();
    sets.dedup();
    for set in sets {
        let of_set = report.points.iter().filter_map(|point| point.validation.get(set));
        let of_commands: BTreeSet<String> = of_set.flat_map(|set| set.of_commands.keys().cloned()).collect();
        for name in Metric::ALL.into_iter().map(|metric| metric.as_str().to_owned()).chain(of_commands) {
            let (key, set) = (format!("{set}.{name}"), set.clone());
            let of: Measure = Box::new(move |point| point.validation.get(&set)?.get(&name));
            if report.points.iter().any(|point| of(point).is_some()) {
                found.push((key, of));
            }
        }
    }
    if report.points.iter().any(|point| point.train_loss.is_some()) {
        found.push(("train_loss".into(), Box::new(|point| point.train_loss)));
    }
    found.sort_by_key(|(name, _)| Some(name) != report.rank_by.as_ref());
    found
}

fn state(state: PointState) -> &'static str {
    match state {
        PointState::Pending => "pending",
        PointState::Running => "running",
        PointState::Interrupted => "interrupted",
        PointState::Failed => "failed",
        PointState::Trained => "trained",
    }
}

/// A key's value in a cell.
pub fn word(value: &Value) -> String {
    match value {
        Value::String(text) => escaped(text),
        Value::Object(table) => {
            let fields = table.iter().map(|(key, value)| format!("{} {}", escaped(key), word(value)));
            fields.collect::<Vec<_>>().join(", ")
        }
        Value::Array(items) => format!("[{}]", items.iter().map(word).collect::<Vec<_>>().join(", ")),
        other => other.to_string(),
    }
}

/// Text that stays in its cell.
fn escaped(text: &str) -> String {
    let mut out = String::new();
    for character in text.chars() {
        match character {
            '|' => out.push_str("\\|"),
            '\n' | '\r' => out.push(' '),
            character => out.push(character),
        }
    }
    out
}

/// Rows, the first one the head, with columns of one width; the first `words` stand left but for the rank.
fn aligned(rows: &[Vec<String>], words: usize) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |at: usize| rows.iter().map(|row| row[at].chars().count()).max().unwrap_or(0).max(3);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let is_word = |at: usize| (at > 0 && at < words) || at + 1 == columns;
    let line = |row: &Vec<String>| {
        let cells = row.iter().enumerate().map(|(at, cell)| match is_word(at) {
            true => format!("{cell:<width$}", width = widths[at]),
            false => format!("{cell:>width$}", width = widths[at]),
        });
        format!("| {} |\n", cells.collect::<Vec<_>>().join(" | "))
    };
    let mut text = String::new();
    for (at, row) in rows.iter().enumerate() {
        text.push_str(&line(row));
        if at == 0 {
            let rules = widths.iter().enumerate().map(|(at, width)| match is_word(at) {
                true => "-".repeat(*width),
                false => format!("{}:", "-".repeat(width - 1)),
            });
            text.push_str(&format!("| {} |\n", rules.collect::<Vec<_>>().join(" | ")));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_cell_holds_what_is_in_it() {
        assert_eq!(word(&json!("a|b\nc")), "a\\|b c");
        assert_eq!(word(&json!({ "kind": "mlp", "hidden": [8, 4] })), "kind mlp, hidden [8, 4]");
        assert_eq!(word(&json!(0.0005)), "0.0005");
        let rows =
            [vec!["#".to_owned(), "key".into(), "state".into()], vec!["1".into(), "ü|".into(), "x".into()]];
        assert_eq!(
            aligned(&rows, 2),
            "|   # | key | state |\n| --: | --- | ----- |\n|   1 | ü|  | x     |\n"
        );
    }
}
