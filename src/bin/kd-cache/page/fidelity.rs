//! The picture of what `kd-cache fidelity` measured.

use indicatif::HumanCount;
use kd_cache::ops::CacheReport;
use kd_cache::target::TailHandling;

use super::axis::Axis;
use super::chart::{self, Line};
use super::heading::heading;
use super::table::{Cells, table};
use super::words::percent;
use crate::shared::Markup;
use crate::shared::trimmed;

/// How far targets are from the teacher.
pub fn fidelity(markup: &mut Markup, report: &CacheReport) {
    heading(
        markup,
        "Fidelity",
        "Root mean square of the distance between cached target and the teacher's full softmax, by \
         temperature and by what is assumed of the tail; lower is better.",
    );
    let Some(fidelity) = &report.fidelity else {
        markup.element("p", &[], |markup| {
            markup.text("Not measured here, because it takes the teacher and the data. Run ");
            markup.leaf("code", &[], "kd-cache fidelity DIR --config FILE --format json > fidelity.json");
            markup.text(", then this report again with ");
            markup.leaf("code", &[], "--fidelity fidelity.json");
            markup.text(".");
        });
        return;
    };
    let of_tail = |tail: TailHandling| fidelity.rows.iter().filter(move |row| row.tail == tail);
    let mut temperatures: Vec<f64> = fidelity.rows.iter().map(|row| row.temperature).collect();
    temperatures.sort_unstable_by(f64::total_cmp);
    temperatures.dedup();
    let lines: Vec<Line> = TailHandling::ALL
        .into_iter()
        .map(|tail| {
            let mut points: Vec<(f64, f64)> = of_tail(tail).map(|row| (row.temperature, row.rms)).collect();
            points.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
            Line { name: tail.to_string(), points }
        })
        .collect();
    let y = Axis::decades("rms", fidelity.rows.iter().map(|row| row.rms));
    let axes = (&Axis::log_of("temperature T", &temperatures), &y);
    chart::lines(markup, "Fidelity by temperature and tail handling", axes, None, &lines);
    let heads = [
        ("T", Cells::Numbers),
        ("tail", Cells::Words),
        ("rms", Cells::Numbers),
        ("KL in nats", Cells::Numbers),
        ("kept mass", Cells::Numbers),
        ("top-1 agreement", Cells::Numbers),
        ("drift", Cells::Numbers),
    ];
    let rows: Vec<Vec<String>> = fidelity
        .rows
        .iter()
        .map(|row| {
            vec![
                trimmed(row.temperature),
                row.tail.to_string(),
                format!("{:.5}", row.rms),
                row.kl.map_or_else(|| "∞".to_owned(), |kl| format!("{kl:.5}")),
                percent(row.kept_mass),
                percent(row.top1_agreement),
                format!("{:.5}", row.drift),
            ]
        })
        .collect();
    table(markup, &heads, &rows);
    let text = format!("Measured on {} positions by kd-cache fidelity.", HumanCount(fidelity.positions));
    markup.leaf("p", &[("class", "soft")], &text);
}
