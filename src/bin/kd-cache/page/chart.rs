//! Pictures of numbers as SVG, drawn plainly: bars with whiskers, and lines with a band.
//!
//! Nothing is told by colour alone: lines differ by dash and marker, and everything has a title
//! that a browser shows where the pointer rests.

use super::axis::Axis;
use crate::shared::Markup;

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 230.0;
const LEFT: f64 = 58.0;
const RIGHT: f64 = 22.0;
const TOP: f64 = 30.0;
const BOTTOM: f64 = 42.0;
/// Between two words along the horizontal axis.
const BETWEEN_WORDS: f64 = 30.0;
/// Between two entries of a legend.
const LEGEND: f64 = 130.0;

/// One bar.
pub struct Bar {
    /// Below it.
    pub label: String,
    /// Its height.
    pub value: f64,
    /// A range around it.
    pub whisker: Option<(f64, f64)>,
    /// Shown where the pointer rests.
    pub title: String,
}

/// One line.
pub struct Line {
    /// In the legend.
    pub name: String,
    /// Its points, from left to right.
    pub points: Vec<(f64, f64)>,
}

/// The area between two lines.
pub struct Band {
    /// In the legend.
    pub name: String,
    /// Place, lower and upper end, from left to right.
    pub points: Vec<(f64, f64, f64)>,
}

/// Bars beside each other; `x` names what they are.
pub fn bars(markup: &mut Markup, about: &str, x: &str, y: &Axis, bars: &[Bar]) {
    picture(markup, about, |markup| {
        vertical(markup, y);
        let slot = (WIDTH - LEFT - RIGHT) / bars.len().max(1) as f64;
        let mut last = f64::NEG_INFINITY;
        for (at, bar) in bars.iter().enumerate() {
            let centre = LEFT + slot * (at as f64 + 0.5);
            // A few bars would be slabs.
            let width = (slot * 0.72).min(64.0);
            markup.element("g", &[], |markup| {
                markup.leaf("title", &[], &bar.title);
                rect(markup, "bar", centre - width / 2.0, up(y, bar.value), width, up(y, 0.0));
                if let Some((low, high)) = bar.whisker {
                    let (low, high) = (up(y, low), up(y, high));
                    segment(markup, "whisker", (centre, low), (centre, high));
                    for end in [low, high] {
                        segment(markup, "whisker", (centre - 4.0, end), (centre + 4.0, end));
                    }
                }
            });
            if centre - last >= BETWEEN_WORDS {
                word(markup, "middle", (centre, HEIGHT - BOTTOM + 16.0), &bar.label);
                last = centre;
            }
        }
        word(markup, "middle", ((LEFT + WIDTH - RIGHT) / 2.0, HEIGHT - 6.0), x);
    });
}

/// Bars without gaps, over a horizontal axis of numbers; each has its own words.
pub fn histogram(markup: &mut Markup, about: &str, x: &Axis, y: &Axis, values: &[(f64, String)]) {
    picture(markup, about, |markup| {
        vertical(markup, y);
        horizontal(markup, x);
        let width = (WIDTH - LEFT - RIGHT) / values.len().max(1) as f64;
        for (at, (value, title)) in values.iter().enumerate() {
            markup.element("g", &[], |markup| {
                markup.leaf("title", &[], title);
                let left = LEFT + width * at as f64;
                rect(markup, "bar", left + 0.5, up(y, *value), width - 1.0, up(y, 0.0));
            });
        }
    });
}

/// Lines, each with a dash and a marker of its own, and a band behind them.
pub fn lines(markup: &mut Markup, about: &str, (x, y): (&Axis, &Axis), band: Option<&Band>, lines: &[Line]) {
    picture(markup, about, |markup| {
        vertical(markup, y);
        horizontal(markup, x);
        if let Some(band) = band {
            let lower = band.points.iter().map(|(at, low, _)| (*at, *low));
            let upper = band.points.iter().rev().map(|(at, _, high)| (*at, *high));
            let outline: Vec<String> = lower
                .chain(upper)
                .map(|(at, value)| format!("{:.1},{:.1}", along(x, at), up(y, value)))
                .collect();
            markup.leaf("polygon", &[("class", "band"), ("points", &outline.join(" "))], "");
            rect(markup, "band", LEFT + lines.len() as f64 * LEGEND, 8.0, 26.0, 18.0);
            let beside = (LEFT + lines.len() as f64 * LEGEND + 32.0, 17.0);
            word(markup, "start", beside, &band.name);
        }
        for (at, line) in lines.iter().enumerate() {
            // The dashes stand in the style sheet.
            let class = ["line dash0", "line dash1", "line dash2", "line dash3"][at % 4];
            let points: Vec<(f64, f64)> =
                line.points.iter().map(|(at, value)| (along(x, *at), up(y, *value))).collect();
            let path: Vec<String> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
            markup.leaf("polyline", &[("class", class), ("points", &path.join(" "))], "");
            for (place, (_, value)) in points.iter().zip(&line.points) {
                marker(markup, at, *place, &format!("{}: {value:.4}", line.name));
            }
            let left = LEFT + at as f64 * LEGEND;
            segment(markup, class, (left, 13.0), (left + 26.0, 13.0));
            marker(markup, at, (left + 13.0, 13.0), &line.name);
            word(markup, "start", (left + 32.0, 17.0), &line.name);
        }
    });
}

/// The frame of every picture.
fn picture(markup: &mut Markup, about: &str, inner: impl FnOnce(&mut Markup)) {
    let size = format!("0 0 {WIDTH} {HEIGHT}");
    markup.element("svg", &[("viewBox", &size), ("role", "img"), ("aria-label", about)], inner);
}

fn along(x: &Axis, value: f64) -> f64 {
    LEFT + x.place(value) * (WIDTH - LEFT - RIGHT)
}

fn up(y: &Axis, value: f64) -> f64 {
    HEIGHT - BOTTOM - y.place(value) * (HEIGHT - TOP - BOTTOM)
}

fn vertical(markup: &mut Markup, y: &Axis) {
    for (value, text) in &y.ticks {
        let height = up(y, *value);
        segment(markup, "grid", (LEFT, height), (WIDTH - RIGHT, height));
        word(markup, "end", (LEFT - 6.0, height + 4.0), text);
    }
    let middle = (TOP + HEIGHT - BOTTOM) / 2.0;
    let turn = format!("rotate(-90 11 {middle:.1})");
    let place = format!("{middle:.1}");
    let attributes = [("x", "11"), ("y", &place), ("text-anchor", "middle"), ("transform", &turn)];
    markup.leaf("text", &attributes, &y.name);
}

fn horizontal(markup: &mut Markup, x: &Axis) {
    let mut last = f64::NEG_INFINITY;
    for (value, text) in &x.ticks {
        let place = along(x, *value);
        segment(markup, "grid", (place, HEIGHT - BOTTOM), (place, HEIGHT - BOTTOM + 4.0));
        if place - last >= BETWEEN_WORDS {
            word(markup, "middle", (place, HEIGHT - BOTTOM + 16.0), text);
            last = place;
        }
    }
    word(markup, "middle", ((LEFT + WIDTH - RIGHT) / 2.0, HEIGHT - 6.0), &x.name);
}

fn word(markup: &mut Markup, anchor: &str, (x, y): (f64, f64), text: &str) {
    let (x, y) = (format!("{x:.1}"), format!("{y:.1}"));
    markup.leaf("text", &[("x", &x), ("y", &y), ("text-anchor", anchor)], text);
}

fn segment(markup: &mut Markup, class: &str, from: (f64, f64), to: (f64, f64)) {
    let [x1, y1, x2, y2] = [from.0, from.1, to.0, to.1].map(|v| format!("{v:.1}"));
    markup.leaf("line", &[("class", class), ("x1", &x1), ("y1", &y1), ("x2", &x2), ("y2", &y2)], "");
}

/// From `top` down to `bottom`.
fn rect(markup: &mut Markup, class: &str, left: f64, top: f64, width: f64, bottom: f64) {
    let [x, y, width, height] = [left, top, width, (bottom - top).max(0.0)].map(|v| format!("{v:.1}"));
    let attributes = [("class", class), ("x", &x), ("y", &y), ("width", &width), ("height", &height)];
    markup.leaf("rect", &attributes, "");
}

/// Circle, square, triangle or diamond.
fn marker(markup: &mut Markup, shape: usize, (x, y): (f64, f64), title: &str) {
    let outline: &[(f64, f64)] = match shape % 4 {
        0 => &[
            (3.5, 0.0),
            (2.5, 2.5),
            (0.0, 3.5),
            (-2.5, 2.5),
            (-3.5, 0.0),
            (-2.5, -2.5),
            (0.0, -3.5),
            (2.5, -2.5),
        ],
        1 => &[(-3.2, -3.2), (3.2, -3.2), (3.2, 3.2), (-3.2, 3.2)],
        2 => &[(0.0, -4.2), (4.0, 3.2), (-4.0, 3.2)],
        _ => &[(0.0, -4.6), (4.6, 0.0), (0.0, 4.6), (-4.6, 0.0)],
    };
    let points: Vec<String> = outline.iter().map(|(dx, dy)| format!("{:.1},{:.1}", x + dx, y + dy)).collect();
    markup.element("polygon", &[("class", "marker"), ("points", &points.join(" "))], |inner| {
        inner.leaf("title", &[], title);
    });
}
