//! Numbers as words.

/// Up to four digits that count.
pub fn trimmed(value: f64) -> String {
    if value == 0.0 {
        return "0".into();
    }
    let digits = (3 - value.abs().log10().floor() as i32).clamp(0, 12) as usize;
    let text = format!("{value:.digits$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_that_count() {
        for (value, word) in [
            (0.0, "0"),
            (0.25, "0.25"),
            (12.5, "12.5"),
            (1234567.0, "1234567"),
            (1.0 / 3.0, "0.3333"),
            (-2.0, "-2"),
        ] {
            assert_eq!(trimmed(value), word);
        }
    }
}
