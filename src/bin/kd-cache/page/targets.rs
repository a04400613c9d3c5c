//! Pictures of the targets themselves: mass, entropy, probabilities, labels.

use indicatif::HumanCount;
use kd_cache::ops::{CacheReport, Spread};

use super::axis::Axis;
use super::chart::{self, Band, Bar, Line};
use super::heading::heading;
use super::table::{Cells, table};
use super::words::percent;
use crate::shared::Markup;
use crate::shared::trimmed;

const NUMBER: Cells = Cells::Numbers;

/// How much of the target the head holds.
pub fn kept_mass(markup: &mut Markup, report: &CacheReport) {
    let rows = &report.kept_mass;
    let about = if report.cache.draws.is_some() {
        "Sampled targets: what was drawn holds all of the mass, right on average over many positions and at this \
         temperature only."
    } else if report.cache.k < report.cache.classes {
        "How much of each target the kept classes hold by themselves. The rest is in the tail: its mass is \
         kept exactly, where it lies by the tail model. Where the head holds little, top-k without a tail is far \
         off."
    } else {
        "The head holds every class, and so all of the mass at every temperature."
    };
    heading(markup, "Mass kept by the head", about);
    let temperatures: Vec<f64> = rows.iter().map(|row| row.temperature).collect();
    let line = |name: &str, of: fn(&Spread) -> f64| Line {
        name: name.into(),
        points: rows.iter().map(|row| (row.temperature, of(&row.kept))).collect(),
    };
    let band = Band {
        name: "5 to 95 %".into(),
        points: rows.iter().map(|row| (row.temperature, row.kept.p5, row.kept.p95)).collect(),
    };
    let axes = (&Axis::log_of("temperature T", &temperatures), &Axis::percent("mass of the head", 1.0));
    let drawn = [line("mean", |kept| kept.mean), line("median", |kept| kept.p50)];
    chart::lines(markup, "Mass of the head by temperature", axes, Some(&band), &drawn);
    let cells = rows.iter().map(|row| {
        let mut cells = vec![trimmed(row.temperature)];
        cells.extend(spread(&row.kept, percent));
        cells
    });
    table(markup, &spread_columns("T"), &cells.collect::<Vec<_>>());
}

/// How undecided the targets are.
pub fn entropy(markup: &mut Markup, report: &CacheReport) {
    let largest = (report.cache.classes as f64).ln();
    heading(
        markup,
        "Entropy of the target",
        &format!(
            "In nats, of the whole target: 0 is certainty, {} an even choice among all {} classes.",
            trimmed(largest),
            HumanCount(report.cache.classes as u64)
        ),
    );
    for shape in &report.shapes {
        let counts = &shape.entropy_histogram;
        let share = |count: u64| count as f64 / report.positions as f64;
        let width = (counts.to - counts.from) / counts.counts.len() as f64;
        let values: Vec<(f64, String)> = counts
            .counts
            .iter()
            .enumerate()
            .map(|(at, count)| {
                let from = counts.from + width * at as f64;
                let title = format!(
                    "{from:.3} to {:.3} nats: {} ({})",
                    from + width,
                    percent(share(*count)),
                    HumanCount(*count)
                );
                (share(*count), title)
            })
            .collect();
        let about = format!("Entropy at T = {}", trimmed(shape.temperature));
        markup.leaf("h3", &[], &about);
        let most = values.iter().map(|(share, _)| *share).fold(0.0, f64::max);
        let x = Axis::until("entropy in nats", counts.to);
        chart::histogram(markup, &about, &x, &Axis::percent("positions", most), &values);
    }
    let cells = report.shapes.iter().map(|shape| {
        let mut cells = vec![trimmed(shape.temperature)];
        cells.extend(spread(&shape.entropy, |value| format!("{value:.4}")));
        cells
    });
    table(markup, &spread_columns("T"), &cells.collect::<Vec<_>>());
}

/// How probable the head's classes are.
pub fn ranks(markup: &mut Markup, report: &CacheReport) {
    heading(
        markup,
        "Probability by rank in the head",
        "Bars are means over the positions, whiskers 5 to 95 %. A last rank that still holds much \
         asks for a larger k.",
    );
    for shape in &report.shapes {
        let named = |label: &str, value: f64, whisker| Bar {
            title: format!("{label}: {}", percent(value)),
            label: label.into(),
            value,
            whisker,
        };
        let mut bars: Vec<Bar> = (1..)
            .zip(&shape.ranks)
            .map(|(rank, p)| named(&rank.to_string(), p.mean, Some((p.p5, p.p95))))
            .collect();
        bars.extend(
            others(report)
                .into_iter()
                .zip([shape.further_ranks, shape.tail])
                .filter_map(|(label, value)| Some(named(&label?, value, None))),
        );
        let about = format!("Probability by rank at T = {}", trimmed(shape.temperature));
        markup.leaf("h3", &[], &about);
        let most = bars.iter().map(|bar| bar.whisker.map_or(bar.value, |(_, high)| high.max(bar.value)));
        let y = Axis::percent("probability", most.fold(0.0, f64::max).min(1.0));
        chart::bars(markup, &about, "rank in the head", &y, &bars);
    }
    let temperature = |what: &str, t: f64| format!("{what}, T = {}", trimmed(t));
    let heads: Vec<String> = report
        .shapes
        .iter()
        .flat_map(|shape| {
            [temperature("mean", shape.temperature), temperature("5 to 95 %", shape.temperature)]
        })
        .collect();
    let columns: Vec<(&str, Cells)> =
        std::iter::once("rank").chain(heads.iter().map(String::as_str)).map(|name| (name, NUMBER)).collect();
    let count = report.shapes.first().map_or(0, |shape| shape.ranks.len());
    let mut rows: Vec<Vec<String>> = (0..count)
        .map(|rank| {
            let cells = report
                .shapes
                .iter()
                .filter_map(|shape| shape.ranks.get(rank))
                .flat_map(|p| [percent(p.mean), format!("{} to {}", percent(p.p5), percent(p.p95))]);
            std::iter::once((rank + 1).to_string()).chain(cells).collect()
        })
        .collect();
    for (label, of) in others(report).into_iter().zip([0, 1]) {
        let Some(label) = label else { continue };
        let cells = report
            .shapes
            .iter()
            .flat_map(|shape| [percent([shape.further_ranks, shape.tail][of]), String::new()]);
        rows.push(std::iter::once(label).chain(cells).collect());
    }
    table(markup, &columns, &rows);
}

/// What follows the ranks that are told one by one: the head's further classes, and the others;
/// each where there are any.
fn others(report: &CacheReport) -> [Option<String>; 2] {
    let told = report.shapes.first().map_or(0, |shape| shape.ranks.len());
    let (k, classes) = (report.cache.k, report.cache.classes);
    let outside = if report.cache.draws.is_some() { "not drawn" } else { "tail" };
    [(k > told).then(|| format!("{}+", told + 1)), (classes > k).then(|| outside.into())]
}

/// Where labels stand.
pub fn labels(markup: &mut Markup, report: &CacheReport) {
    heading(
        markup,
        "Rank of the label in the head",
        "How often the label is the teacher's first class, its second, and so on. A label outside the \
         head gets its probability from the tail.",
    );
    let Some(labels) = &report.labels else {
        markup.leaf("p", &[], "This cache has no labels.");
        return;
    };
    let ranks = (1..).zip(&labels.ranks).map(|(rank, count)| (rank.to_string(), *count));
    let after = others(report).into_iter().zip([labels.further_ranks, labels.outside]);
    let counts: Vec<(String, u64)> =
        ranks.chain(after.filter_map(|(label, count)| Some((label?, count)))).collect();
    let share = |count: u64| count as f64 / report.positions as f64;
    let bars: Vec<Bar> = counts
        .iter()
        .map(|(label, count)| Bar {
            label: label.clone(),
            value: share(*count),
            whisker: None,
            title: format!("{label}: {} ({})", percent(share(*count)), HumanCount(*count)),
        })
        .collect();
    let most = bars.iter().map(|bar| bar.value).fold(0.0, f64::max);
    chart::bars(
        markup,
        "Rank of the label in the head",
        "rank in the head",
        &Axis::percent("labels", most),
        &bars,
    );
    let cells: Vec<Vec<String>> = counts
        .into_iter()
        .map(|(label, count)| vec![label, HumanCount(count).to_string(), percent(share(count))])
        .collect();
    table(markup, &[("rank", NUMBER), ("labels", NUMBER), ("share", NUMBER)], &cells);
}

fn spread(of: &Spread, word: fn(f64) -> String) -> [String; 4] {
    [of.mean, of.p5, of.p50, of.p95].map(word)
}

fn spread_columns(first: &str) -> [(&str, Cells); 5] {
    [first, "mean", "5 %", "median", "95 %"].map(|name| (name, NUMBER))
}
