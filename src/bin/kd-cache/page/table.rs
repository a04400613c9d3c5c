//! Small tables beside the pictures.

use crate::shared::Markup;

/// Columns that hold words stand left, numbers right.
#[derive(Clone, Copy, PartialEq)]
pub enum Cells {
    /// Words.
    Words,
    /// Numbers.
    Numbers,
}

/// A table: a head for each column, and rows of as many cells.
pub fn table(markup: &mut Markup, columns: &[(&str, Cells)], rows: &[Vec<String>]) {
    markup.element("div", &[("class", "wide")], |markup| {
        markup.element("table", &[], |markup| {
            markup.element("thead", &[], |markup| {
                row(markup, "th", columns, columns.iter().map(|(name, _)| *name));
            });
            markup.element("tbody", &[], |markup| {
                for cells in rows {
                    row(markup, "td", columns, cells.iter().map(String::as_str));
                }
            });
        });
    });
}

fn row<'a>(
    markup: &mut Markup,
    tag: &'static str,
    columns: &[(&str, Cells)],
    cells: impl Iterator<Item = &'a str>,
) {
    markup.element("tr", &[], |markup| {
        for ((_, kind), cell) in columns.iter().zip(cells) {
            let class = if *kind == Cells::Numbers { "number" } else { "word" };
            markup.leaf(tag, &[("class", class)], cell);
        }
    });
}

/// Names and what they stand for, one a row.
pub fn facts(markup: &mut Markup, facts: &[(&str, String)]) {
    markup.element("dl", &[], |markup| {
        for (name, value) in facts {
            markup.leaf("dt", &[], name);
            markup.leaf("dd", &[], value);
        }
    });
}
