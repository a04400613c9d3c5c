//! Numbers as words.

/// A share in percent.
pub fn percent(share: f64) -> String {
    format!("{:.2} %", share * 100.0)
}

/// Up to four digits that count.
pub fn trimmed(value: f64) -> String {
    if value == 0.0 {
        return "0".into();
    }
    let digits = (3 - value.abs().log10().floor() as i32).clamp(0, 12) as usize;
    let text = format!("{value:.digits$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

/// `exponent` as it stands above a ten.
pub fn superscript(exponent: i32) -> String {
    let digit = |c: char| match c {
        '-' => '⁻',
        '0' => '⁰',
        '1' => '¹',
        '2' => '²',
        '3' => '³',
        '4' => '⁴',
        '5' => '⁵',
        '6' => '⁶',
        '7' => '⁷',
        '8' => '⁸',
        _ => '⁹',
    };
    exponent.to_string().chars().map(digit).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_numbers() {
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
        assert_eq!((percent(0.12345), superscript(-10)), ("12.35 %".into(), "⁻¹⁰".into()));
    }
}
