//! JSON as Python's `json.dumps` writes it.

use std::io::{self, Write};

use serde::Serialize;
use serde_json::Value;
use serde_json::ser::{Formatter, Serializer};

/// What `json.dumps` is told.
#[derive(Clone, Debug, Default)]
pub(super) struct Style {
    /// Spaces for each level, on lines of their own; `None`: all on one line.
    pub(super) indent: Option<usize>,
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
        match self.style.indent {
            Some(indent) => write!(writer, "\n{:1$}", "", indent * self.depth),
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

    fn write_string_fragment<W: ?Sized + Write>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        if !self.style.ascii {
            return writer.write_all(fragment.as_bytes());
        }
        for letter in fragment.chars() {
            if letter.is_ascii() {
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
        let lines = dumps(Style { indent: Some(4), ..Style::default() });
        let expected = "{\n    \"b\": [\n        1,\n        2.5,\n        null,\n        true\n    ],\n    \"a\": \
                        {\n        \"é<&'\\\"\": \"x\\n😀\"\n    },\n    \"e\": [],\n    \"o\": {}\n}";
        assert_eq!(lines, expected);
        assert!(Style { separators: Some(vec![]), ..Style::default() }.dumps(value.clone()).is_err());
    }
}
