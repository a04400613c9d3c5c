//! Jinja's language as `apply_chat_template` of `transformers` has it.
//!
//! Blocks are trimmed; strings have Python's methods; JSON and numbers are written as Python writes them; `{% generation %}` is
//! without effect. Of the date templates are told what the config says: the same config would give other bytes tomorrow.

use std::fmt::Write;

use chrono::{NaiveDate, NaiveDateTime};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Environment, Error, ErrorKind, Value, escape_formatter};

use super::python_json::{Style, repr};

/// The function by which templates ask for the date.
pub(super) const TODAY: &str = "strftime_now";

/// What templates are rendered by, on a day that they may ask for or on none.
pub(super) fn engine(day: Option<NaiveDate>) -> Result<Environment<'static>, Error> {
    let mut engine = Environment::new();
    engine.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
    engine.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    engine.set_formatter(|out, state, value| match float(value) {
        Some(number) => out.write_str(&repr(number)).map_err(Error::from),
        None => escape_formatter(out, state, value),
    });
    engine
        .add_function("raise_exception", |problem: String| -> Result<String, Error> { Err(wrong(problem)) });
    if let Some(day) = day {
        engine.add_function(TODAY, move |format: String| strftime(day, &format));
    }
    engine.add_filter("tojson", to_json);
    engine.add_filter("indent", indent);
    engine.add_test("iterable", is_iterable);
    engine.add_test("sequence", is_sequence);
    Ok(engine)
}

/// A template's source as Jinja reads it: with line ends of one kind, and without `{% generation %}`, by which `transformers` finds
/// the tokens of answers.
pub(super) fn as_read(source: &str) -> String {
    let source = source.replace("\r\n", "\n").replace('\r', "\n");
    let mut text = String::with_capacity(source.len());
    let mut rest = source.as_str();
    while let Some((before, behind)) = rest.split_once("{%") {
        let Some((tag, after)) = behind.split_once("%}") else { break };
        let word = tag.trim_matches(|c: char| c.is_whitespace() || c == '-' || c == '+');
        // A block that does nothing but keep what is set in it.
        let tag = match word {
            "generation" => tag.replace(word, "with"),
            "endgeneration" => tag.replace(word, "endwith"),
            _ => tag.to_owned(),
        };
        text += &format!("{before}{{%{tag}%}}");
        rest = after;
    }
    text + rest
}

fn wrong(problem: String) -> Error {
    Error::new(ErrorKind::InvalidOperation, problem)
}

/// A number that is no whole one.
fn float(value: &Value) -> Option<f64> {
    let number = value.kind() == ValueKind::Number && !value.is_integer();
    f64::try_from(value.clone()).ok().filter(|_| number)
}

/// A day as Python's `strftime` writes it.
fn strftime(day: NaiveDate, format: &str) -> Result<String, Error> {
    let mut text = String::new();
    let written = write!(text, "{}", NaiveDateTime::from(day).format(format));
    written.map(|()| text).map_err(|_| wrong(format!("{TODAY}: {format:?} is no format of dates")))
}

/// The test `iterable`: of nothing there is nothing to go through, as in Python.
fn is_iterable(value: &Value) -> bool {
    !value.is_none() && value.try_iter().is_ok()
}

/// The test `sequence`: what has a length and elements, texts and dictionaries too.
fn is_sequence(value: &Value) -> bool {
    matches!(value.kind(), ValueKind::String | ValueKind::Seq | ValueKind::Map)
}

/// What stands before a line: a text, or as many spaces.
fn indention(width: Value) -> Result<String, Error> {
    match width.as_str() {
        Some(text) => Ok(text.to_owned()),
        None => Ok(" ".repeat(usize::try_from(width)?)),
    }
}

/// The filter `indent` of Jinja, by a number of spaces or a text: the first line only with `first`, empty ones only with `blank`.
fn indent(text: String, width: Option<Value>, first: Option<bool>, options: Kwargs) -> Result<String, Error> {
    let width = match width {
        Some(width) => Some(width),
        None => options.get("width")?,
    };
    let first = first.or(options.get("first")?).unwrap_or(false);
    let blank = options.get::<Option<bool>>("blank")?.unwrap_or(false);
    options.assert_all_used()?;
    let indention = width.map_or_else(|| Ok("    ".into()), indention)?;
    let mut indented = String::new();
    // What ends in a line end has an empty line behind it.
    for (at, line) in format!("{text}\n").lines().enumerate() {
        if at > 0 {
            indented.push('\n');
        }
        let is_moved = if at == 0 { first } else { blank || !line.is_empty() };
        if is_moved {
            indented += &indention;
        }
        indented += line;
    }
    Ok(indented)
}

/// The filter `tojson` of `transformers`: Python's `json.dumps`, which escapes nothing for HTML.
fn to_json(value: Value, ascii: Option<Value>, options: Kwargs) -> Result<String, Error> {
    if value.is_undefined() {
        return Err(wrong("tojson: expected a value, found what is undefined".into()));
    }
    let ascii = match ascii {
        Some(ascii) => Some(ascii),
        None => options.get("ensure_ascii")?,
    };
    let indent: Option<Value> = options.get("indent")?;
    let style = Style {
        indent: indent.filter(|indent| !indent.is_none()).map(indention).transpose()?,
        separators: options.get("separators")?,
        ascii: ascii.is_some_and(|ascii| ascii.is_true()),
        sorted: options.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
    };
    options.assert_all_used()?;
    let value = serde_json::to_value(&value).map_err(|error| wrong(format!("tojson: {error}")))?;
    style.dumps(value).map_err(|problem| wrong(format!("tojson: {problem}")))
}

#[cfg(test)]
mod tests {
    use minijinja::context;

    use super::*;

    fn render(source: &str) -> String {
        let engine = engine(NaiveDate::from_ymd_opt(2026, 3, 1)).unwrap();
        engine.render_str(&as_read(source), context! { x => 1e-5, n => (), text => "a\r\nb" }).unwrap()
    }

    /// Against `render_jinja_template` of transformers 5.24.
    #[test]
    fn templates_say_what_they_say_in_python() {
        for (source, expected) in [
            ("{{ x }} {{ 1e22 }} {{ 2.0 }} {{ 1.5e16 }} {{ 0.1 }} {{ 3 }}", "1e-05 1e+22 2.0 1.5e+16 0.1 3"),
            ("{{ x | tojson }} {{ [1e-7, 1e15] | tojson }}", "1e-05 [1e-07, 1000000000000000.0]"),
            ("a\r\n{{ 'b\r\nc' }}\r\n{{ text }}", "a\nb\nc\na\r\nb"),
            ("{{ '{\\n' | indent(4, first=true) }}|", "    {\n|"),
            ("{{ 'a\\n\\nb' | indent('--') }}|{{ 'a\\n\\nb' | indent(1, blank=true) }}", "a\n\n--b|a\n \n b"),
            ("{{ '' | indent(2, true) }}|{{ 'a\\nb' | indent }}", "  |a\n    b"),
            (
                "{{ n is iterable }} {{ [] is iterable }} {{ 'a' is sequence }} {{ {} is sequence }}",
                "False True True True",
            ),
            ("{{ n is sequence }} {{ 3 is sequence }} {{ 3 is iterable }}", "False False False"),
            ("{% set a = 1 %}{%- generation -%} {% set a = 2 %}{{ a }}{%+ endgeneration %} {{ a }}", "2 1"),
            ("{{ 'é' | tojson(true) }} {{ {'a': 1} | tojson(indent='> ') }}", "\"\\u00e9\" {\n> \"a\": 1\n}"),
            ("{{ strftime_now('%Y-%m-%d %H:%M:%S %B %-d') }}", "2026-03-01 00:00:00 March 1"),
        ] {
            assert_eq!(render(source), expected, "{source}");
        }
    }
}
