//! What stands above each section.

use crate::shared::Markup;

/// A section's heading, and what it shows.
pub fn heading(markup: &mut Markup, title: &str, about: &str) {
    markup.leaf("h2", &[], title);
    markup.leaf("p", &[("class", "soft")], about);
}
