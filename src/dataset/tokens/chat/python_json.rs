//! JSON and numbers as Python writes them.

use std::io::{self, Write};

use serde::Serialize;
use serde_json::Value;
use serde_json::ser::{Formatter, Serializer};

/// What `json.dumps` is told.
#[derive(Clone, Debug, Default)]
pub(super) struct Style {
    /// What stands before items for each level, on lines of their own; `None`: all on one line.
    pub(super) indent: Option<String>,
    /// What stands between items, and behind keys.
    pub(super) separators: Option<Vec<String>>,
    /// Whether letters beyond ASCII are escaped.
    pub(super) ascii: bool,
    /// Whether keys are sorted.
    pub(super) sorted: bool,
}

impl Style {
    /// `value` as text.
    ///
    /// # Errors
    /// What is wrong with the style, or the writer's words.
    pub(super) fn dumps(&self, mut value: Value) -> Result<String, String> {
        let (item, key) = match self.separators.as_deref() {
            Some([item, key]) => (item.as_str(), key.as_str()),
            Some(_) => return Err("expected two separators".into()),
            None => (if self.indent.is_some() { "," } else { ", " }, ": "),
        };
        if self.sorted {
            value.sort_all_objects();
        }
        let mut bytes = Vec::new();
        let style = Python { style: self, item, key, depth: 0, empty: false };
        let written = value.serialize(&mut Serializer::with_formatter(&mut bytes, style));
        written.map_err(|error| error.to_string())?;
        String::from_utf8(bytes).map_err(|error| error.to_string())
    }
}

/// A number as Python's `repr` has it: the fewest digits that give it back, with an exponent below 1e-4 and from 1e16 on.
pub(super) fn repr(value: f64) -> String {
    // As `5e-6`; what is infinite or no number has no exponent.
    let scientific = format!("{value:e}");
    match scientific
        .split_once('e')
        .and_then(|(digits, exponent)| Some((digits, exponent.parse::<i32>().ok()?)))
    {
        Some((digits, exponent)) if !(-4..16).contains(&exponent) => {
            let sign = if exponent < 0 { '-' } else { '+' };
            format!("{digits}e{sign}{:02}", exponent.abs())
        }
        _ if value.is_nan() => "nan".into(),
        _ => format!("{value:?}"),
    }
}

/// The style, as far as the writer has come.
struct Python<'a> {
    style: &'a Style,
    /// What stands between items, and behind keys.
    item: &'a str,
    key: &'a str,
    depth: usize,
    /// Whether nothing was written yet of the innermost list or object.
    empty: bool,
}

impl Python<'_> {
    fn open(&mut self) {
        self.depth += 1;
        self.empty = true;
    }

    fn line<W: ?Sized + Write>(&self, writer: &mut W) -> io::Result<()> {
        match &self.style.indent {
            Some(indent) => write!(writer, "\n{}", indent.repeat(self.depth)),
            None => Ok(()),
        }
    }

    fn next<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        self.empty = false;
        if !first {
            writer.write_all(self.item.as_bytes())?;
        }
        self.line(writer)
    }

    fn close<W: ?Sized + Write>(&mut self, writer: &mut W, end: &[u8]) -> io::Result<()> {
        self.depth -= 1;
        if !std::mem::take(&mut self.empty) {
            self.line(writer)?;
        }
        writer.write_all(end)
    }
}

impl Formatter for Python<'_> {
    fn begin_array<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.open();
        writer.write_all(b"[")
    }

    fn begin_array_value<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        self.next(writer, first)
    }

    fn end_array<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.close(writer, b"]")
    }

    fn begin_object<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.open();
        writer.write_all(b"{")
    }

    fn begin_object_key<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        self.next(writer, first)
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(self.key.as_bytes())
    }

    fn end_object<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.close(writer, b"}")
    }

    fn write_f64<W: ?Sized + Write>(&mut self, writer: &mut W, value: f64) -> io::Result<()> {
        writer.write_all(repr(value).as_bytes())
    }

    fn write_string_fragment<W: ?Sized + Write>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        if !self.style.ascii {
            return writer.write_all(fragment.as_bytes());
        }
        for letter in fragment.chars() {
            if (' '..='~').contains(&letter) {
                write!(writer, "{letter}")?;
                continue;
            }
            for unit in letter.encode_utf16(&mut [0; 2]) {
                write!(writer, "\\u{unit:04x}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Against Python 3.13's `json.dumps(value, ensure_ascii=False, …)`.
    #[test]
    fn json_is_as_python_writes_it() {
        let value = json!({ "b": [1, 2.5, null, true], "a": { "é<&'\"": "x\n\u{1f600}" }, "e": [], "o": {} });
        let dumps = |style: Style| style.dumps(value.clone()).unwrap();
        let plain = dumps(Style::default());
        assert_eq!(plain, r#"{"b": [1, 2.5, null, true], "a": {"é<&'\"": "x\n😀"}, "e": [], "o": {}}"#);
        let ascii = dumps(Style { ascii: true, sorted: true, ..Style::default() });
        assert_eq!(
            ascii,
            r#"{"a": {"\u00e9<&'\"": "x\n\ud83d\ude00"}, "b": [1, 2.5, null, true], "e": [], "o": {}}"#
        );
        let tight = dumps(Style { separators: Some(vec![",".into(), ":".into()]), ..Style::default() });
        assert_eq!(tight, r#"{"b":[1,2.5,null,true],"a":{"é<&'\"":"x\n😀"},"e":[],"o":{}}"#);
        let lines = dumps(Style { indent: Some("    ".into()), ..Style::default() });
        let expected = "{\n    \"b\": [\n        1,\n        2.5,\n        null,\n        true\n    ],\n    \"a\": \
                        {\n        \"é<&'\\\"\": \"x\\n😀\"\n    },\n    \"e\": [],\n    \"o\": {}\n}";
        assert_eq!(lines, expected);
        assert_eq!(
            Style { ascii: true, ..Style::default() }.dumps(json!("\u{7f}~ ")).unwrap(),
            "\"\\u007f~ \""
        );
        assert!(Style { separators: Some(vec![]), ..Style::default() }.dumps(value.clone()).is_err());
    }

    /// Against Python's `repr`.
    #[test]
    fn numbers_are_as_python_writes_them() {
        for (value, expected) in [
            (0.0, "0.0"),
            (-0.0, "-0.0"),
            (1.0, "1.0"),
            (0.0001, "0.0001"),
            (0.00001, "1e-05"),
            (1.25e-7, "1.25e-07"),
            (-3e-300, "-3e-300"),
            (123_456.789, "123456.789"),
            (9_999_999_999_999_998.0, "9999999999999998.0"),
            (1e16, "1e+16"),
            (1.5e22, "1.5e+22"),
            (1e100, "1e+100"),
            (f64::INFINITY, "inf"),
            (f64::NAN, "nan"),
        ] {
            assert_eq!(repr(value), expected);
        }
    }
}
