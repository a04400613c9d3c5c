//! `plot.svg`: what ranks the runs over the first number that changes, drawn plainly.
//!
//! Nothing is told by colour alone: lines differ by dash and marker as well, and everything has a title that a
//! browser shows where the pointer rests.

use kd_cache::sweep::SweepReport;

use super::scale::Scale;
use super::series::{Line, Series, Spread, series};
use crate::shared::Markup;

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 320.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 24.0;
const TOP: f64 = 18.0;
const BOTTOM: f64 = 48.0;
/// Of a line in the legend, and of a bar with the space around it.
const ROW: f64 = 20.0;
const BAR: f64 = 26.0;
/// Left of the bars, for their names.
const NAMES: f64 = 300.0;
/// Between two words along the horizontal axis.
const BETWEEN_WORDS: f64 = 34.0;
/// Characters of a name that are written out.
const SHOWN: usize = 90;

const STYLE: &str = "
svg { background: #fff; font: 12px system-ui, sans-serif; }
text { fill: #444; }
.grid { stroke: #d5d9de; }
.line { fill: none; stroke-width: 1.8; }
.whisker { stroke-width: 1.2; }
.marker { fill: #fff; stroke-width: 1.6; }
.bar { fill: #3566a8; }
.c0 { stroke: #3566a8; } .c1 { stroke: #b3541e; } .c2 { stroke: #3a7d44; } .c3 { stroke: #7a4fa3; }
.c4 { stroke: #a3304f; } .c5 { stroke: #1f7a85; } .c6 { stroke: #7a6a1f; } .c7 { stroke: #55585c; }
.d1 { stroke-dasharray: 7 4; } .d2 { stroke-dasharray: 2 3; } .d3 { stroke-dasharray: 9 3 2 3; }
";
/// Colours, dashes and markers of lines, in turn.
const COLOURS: [&str; 8] = ["c0", "c1", "c2", "c3", "c4", "c5", "c6", "c7"];

/// The picture as a file of its own.
pub fn picture(report: &SweepReport) -> String {
    let measure = report.rank_by.clone().unwrap_or_else(|| "no run is done yet".into());
    match series(report) {
        Series::Lines { key, places, lines } => of_lines(&measure, &key, &places, &lines),
        Series::Bars(bars) => of_bars(&measure, &bars),
    }
}

/// An `<svg>` of this height, with what `inner` draws.
fn svg(about: &str, height: f64, inner: impl FnOnce(&mut Markup)) -> String {
    let (width, tall) = (number(WIDTH), number(height));
    let view = format!("0 0 {width} {tall}");
    let attributes = [
        ("xmlns", "http://www.w3.org/2000/svg"),
        ("viewBox", view.as_str()),
        ("width", width.as_str()),
        ("height", tall.as_str()),
        ("role", "img"),
        ("aria-label", about),
    ];
    let mut markup = Markup::default();
    markup.element("svg", &attributes, |markup| {
        markup.element("style", &[], |markup| markup.literal(STYLE));
        inner(markup);
    });
    markup.literal("\n");
    markup.finish()
}

fn of_lines(measure: &str, key: &str, places: &[f64], lines: &[Line]) -> String {
    let values = lines.iter().flat_map(|line| line.points.iter().flat_map(|(_, of)| [of.low, of.high]));
    let (x, y) = (Scale::over(places), Scale::around(values, false));
    // A line without a name is the only one.
    let named = lines.iter().filter(|line| !line.name.is_empty()).count() as f64;
    let about = format!("{measure} by {key}");
    svg(&about, HEIGHT + named * ROW, |markup| {
        let along = |value: f64| LEFT + 12.0 + x.place(value) * (WIDTH - LEFT - RIGHT - 24.0);
        let up = |value: f64| HEIGHT - BOTTOM - y.place(value) * (HEIGHT - TOP - BOTTOM);
        for (value, text) in &y.ticks {
            segment(markup, "grid", (LEFT, up(*value)), (WIDTH - RIGHT, up(*value)));
            word(markup, "end", (LEFT - 8.0, up(*value) + 4.0), text);
        }
        let middle = (TOP + HEIGHT - BOTTOM) / 2.0;
        let (place, turn) = (number(middle), format!("rotate(-90 14 {middle:.1})"));
        let attributes = [("x", "14"), ("y", &place), ("text-anchor", "middle"), ("transform", &turn)];
        markup.leaf("text", &attributes, measure);
        let mut last = f64::NEG_INFINITY;
        for (value, text) in &x.ticks {
            let place = along(*value);
            segment(markup, "grid", (place, HEIGHT - BOTTOM), (place, HEIGHT - BOTTOM + 4.0));
            if place - last >= BETWEEN_WORDS {
                word(markup, "middle", (place, HEIGHT - BOTTOM + 18.0), text);
                last = place;
            }
        }
        word(markup, "middle", ((LEFT + WIDTH - RIGHT) / 2.0, HEIGHT - 8.0), key);
        for (at, line) in lines.iter().enumerate() {
            let class = |what: &str| format!("{what} {} d{}", COLOURS[at % COLOURS.len()], at % 4);
            let points: Vec<String> =
                line.points.iter().map(|(x, of)| format!("{:.1},{:.1}", along(*x), up(of.mean))).collect();
            markup.leaf("polyline", &[("class", &class("line")), ("points", &points.join(" "))], "");
            for (place, of) in &line.points {
                let x = along(*place);
                if of.runs > 1 {
                    let whisker = format!("whisker {}", COLOURS[at % COLOURS.len()]);
                    segment(markup, &whisker, (x, up(of.low)), (x, up(of.high)));
                    for end in [of.low, of.high] {
                        segment(markup, &whisker, (x - 4.0, up(end)), (x + 4.0, up(end)));
                    }
                }
                let name = if line.name.is_empty() { String::new() } else { format!("{}; ", line.name) };
                marker(markup, at, (x, up(of.mean)), &format!("{name}{key} {place}: {}", told(of)));
            }
            if !line.name.is_empty() {
                let y = HEIGHT + at as f64 * ROW;
                segment(markup, &class("line"), (LEFT, y), (LEFT + 34.0, y));
                marker(markup, at, (LEFT + 17.0, y), &line.name);
                word(markup, "start", (LEFT + 44.0, y + 4.0), &shown(&line.name, SHOWN));
            }
        }
    })
}

fn of_bars(measure: &str, bars: &[(String, Spread)]) -> String {
    let scale = Scale::around(bars.iter().flat_map(|(_, of)| [of.low, of.high]), true);
    let bottom = TOP + bars.len() as f64 * BAR;
    svg(measure, bottom + BOTTOM, |markup| {
        let along = |value: f64| NAMES + scale.place(value) * (WIDTH - NAMES - RIGHT - 50.0);
        for (value, text) in &scale.ticks {
            segment(markup, "grid", (along(*value), TOP), (along(*value), bottom));
            word(markup, "middle", (along(*value), bottom + 18.0), text);
        }
        word(markup, "middle", ((NAMES + WIDTH - RIGHT) / 2.0, bottom + 38.0), measure);
        for (at, (name, of)) in bars.iter().enumerate() {
            let top = TOP + at as f64 * BAR + 4.0;
            let (from, to) = (along(of.mean.min(0.0)), along(of.mean.max(0.0)));
            let [x, y, width, height] = [from, top, to - from, BAR - 8.0].map(number);
            let attributes = [("class", "bar"), ("x", &x), ("y", &y), ("width", &width), ("height", &height)];
            markup.element("rect", &attributes, |inner| {
                inner.leaf("title", &[], &format!("{name}: {}", told(of)))
            });
            let middle = top + (BAR - 8.0) / 2.0;
            if of.runs > 1 {
                segment(markup, "whisker c7", (along(of.low), middle), (along(of.high), middle));
            }
            word(markup, "end", (NAMES - 8.0, middle + 4.0), &shown(name, 44));
            word(
                markup,
                "start",
                (along(of.mean.max(of.high)) + 6.0, middle + 4.0),
                &format!("{:.4}", of.mean),
            );
        }
    })
}

/// Scores in words.
fn told(of: &Spread) -> String {
    match of.runs {
        1 => format!("{:.4}", of.mean),
        runs => format!("{:.4}, the mean of {runs} seeds ({:.4} to {:.4})", of.mean, of.low, of.high),
    }
}

fn shown(name: &str, most: usize) -> String {
    match name.char_indices().nth(most) {
        Some((end, _)) => format!("{}…", &name[..end]),
        None => name.to_owned(),
    }
}

fn number(value: f64) -> String {
    format!("{value:.1}")
}

fn word(markup: &mut Markup, anchor: &str, (x, y): (f64, f64), text: &str) {
    let (x, y) = (number(x), number(y));
    markup.leaf("text", &[("x", &x), ("y", &y), ("text-anchor", anchor)], text);
}

fn segment(markup: &mut Markup, class: &str, from: (f64, f64), to: (f64, f64)) {
    let [x1, y1, x2, y2] = [from.0, from.1, to.0, to.1].map(number);
    markup.leaf("line", &[("class", class), ("x1", &x1), ("y1", &y1), ("x2", &x2), ("y2", &y2)], "");
}

/// Diamond, square, triangle or octagon.
fn marker(markup: &mut Markup, shape: usize, (x, y): (f64, f64), title: &str) {
    let outline: &[(f64, f64)] = match shape % 4 {
        0 => &[(0.0, -4.8), (4.8, 0.0), (0.0, 4.8), (-4.8, 0.0)],
        1 => &[(-3.4, -3.4), (3.4, -3.4), (3.4, 3.4), (-3.4, 3.4)],
        2 => &[(0.0, -4.4), (4.2, 3.4), (-4.2, 3.4)],
        _ => &[
            (4.0, 1.7),
            (1.7, 4.0),
            (-1.7, 4.0),
            (-4.0, 1.7),
            (-4.0, -1.7),
            (-1.7, -4.0),
            (1.7, -4.0),
            (4.0, -1.7),
        ],
    };
    let points: Vec<String> = outline.iter().map(|(dx, dy)| format!("{:.1},{:.1}", x + dx, y + dy)).collect();
    let class = format!("marker {}", COLOURS[shape % COLOURS.len()]);
    markup.element("polygon", &[("class", &class), ("points", &points.join(" "))], |inner| {
        inner.leaf("title", &[], title);
    });
}
