//! The picture of a cache's size.

use indicatif::HumanBytes;
use kd_cache::ops::CacheReport;

use super::axis::Axis;
use super::chart::{self, Bar};
use super::heading::heading;
use super::table::{Cells, table};
use super::words::percent;
use crate::shared::Markup;

/// Where the bytes are.
pub fn size(markup: &mut Markup, report: &CacheReport) {
    heading(
        markup,
        "Size by column",
        "Bytes per position, from the columns' types and the files' sizes. Framing is what an Arrow \
         file has beside its rows; the tail model is there once for the whole cache.",
    );
    let columns = &report.size.columns;
    let bars: Vec<Bar> = columns
        .iter()
        .map(|column| Bar {
            label: column.column.clone(),
            value: column.bytes_per_position,
            whisker: None,
            title: format!("{}: {} ({})", column.column, HumanBytes(column.bytes), percent(column.share)),
        })
        .collect();
    let most = bars.iter().map(|bar| bar.value).fold(0.0, f64::max);
    chart::bars(markup, "Size by column", "", &Axis::linear("bytes per position", most), &bars);
    let row = |name: &str, bytes: u64, per_position: f64, share: f64| {
        vec![name.to_owned(), format!("{per_position:.2}"), HumanBytes(bytes).to_string(), percent(share)]
    };
    let mut rows: Vec<Vec<String>> = columns
        .iter()
        .map(|column| row(&column.column, column.bytes, column.bytes_per_position, column.share))
        .collect();
    rows.push(row("all", report.size.bytes, report.cache.bytes_per_position, 1.0));
    let heads = [
        ("column", Cells::Words),
        ("bytes per position", Cells::Numbers),
        ("in all", Cells::Numbers),
        ("share", Cells::Numbers),
    ];
    table(markup, &heads, &rows);
}
