//! Markup that is well formed and holds no markup of others, by construction.

/// Markup under construction.
///
/// Tags and attribute names are literals of ours; text and attribute values are escaped; whatever
/// is opened is closed. Nothing else can be written.
#[derive(Default)]
pub struct Markup(String);

/// Names with their values.
pub type Attributes<'a> = &'a [(&'static str, &'a str)];

impl Markup {
    /// An element with `inner` inside.
    pub fn element(&mut self, tag: &'static str, attributes: Attributes<'_>, inner: impl FnOnce(&mut Self)) {
        self.0.push('<');
        self.0.push_str(tag);
        for (name, value) in attributes {
            self.0.push(' ');
            self.0.push_str(name);
            self.0.push_str("=\"");
            self.text(value);
            self.0.push('"');
        }
        self.0.push('>');
        inner(self);
        self.0.push_str("</");
        self.0.push_str(tag);
        self.0.push('>');
    }

    /// An element with text inside.
    pub fn leaf(&mut self, tag: &'static str, attributes: Attributes<'_>, text: &str) {
        self.element(tag, attributes, |inner| inner.text(text));
    }

    /// Text, whoever wrote it.
    pub fn text(&mut self, text: &str) {
        for character in text.chars() {
            match character {
                '&' => self.0.push_str("&amp;"),
                '<' => self.0.push_str("&lt;"),
                '>' => self.0.push_str("&gt;"),
                '"' => self.0.push_str("&quot;"),
                '\'' => self.0.push_str("&#39;"),
                '\n' | '\t' => self.0.push(character),
                character if is_unseen(character) => self.0.push(char::REPLACEMENT_CHARACTER),
                character => self.0.push(character),
            }
        }
    }

    /// Markup of ours, as it stands.
    pub fn literal(&mut self, markup: &'static str) {
        self.0.push_str(markup);
    }

    /// The markup.
    pub fn finish(self) -> String {
        self.0
    }
}

/// Characters that HTML forbids, or that turn the direction of what follows so that a digest or a
/// file name reads as another.
fn is_unseen(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{61c}' | '\u{200e}' | '\u{200f}')
        || ('\u{202a}'..='\u{202e}').contains(&character)
        || ('\u{2066}'..='\u{2069}').contains(&character)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_values_are_escaped() {
        let mut markup = Markup::default();
        let evil = "</td><script>\"'&\u{0}\u{202e}";
        markup.element("p", &[("title", evil)], |inner| inner.text(evil));
        let safe = "&lt;/td&gt;&lt;script&gt;&quot;&#39;&amp;\u{fffd}\u{fffd}";
        assert_eq!(markup.finish(), format!("<p title=\"{safe}\">{safe}</p>"));
    }
}
