//! Foreign text made safe to print: names, tags and messages come from files and servers, and may hold anything.

use std::fmt::Write as _;

/// What a colour says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tint {
    /// Something failed: red.
    Failure,
    /// Something is going to change, or is unusual: yellow.
    Notice,
}

/// `text` in one line and without anything that a terminal would obey: control characters and those that change the
/// direction of writing are spelled out.
pub fn visible(text: &str) -> String {
    let mut visible = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() || is_directional(c) {
            // Writing to a string can't fail.
            let _ = write!(visible, "{}", c.escape_default());
        } else {
            visible.push(c);
        }
    }
    visible
}

/// `text` cut to at most `max` characters, with a mark that something is missing.
pub fn shortened(text: &str, max: usize) -> String {
    if text.chars().count() <= max {
        return text.to_owned();
    }
    let mut short: String = text.chars().take(max.saturating_sub(1)).collect();
    short.push('…');
    short
}

const fn is_directional(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_spelled_out() {
        assert_eq!(
            visible("a\x1b[31mb\nc\u{202e}d"),
            "a\\u{1b}[31mb\\nc\\u{202e}d"
        );
        assert_eq!(visible("web-ä (1)"), "web-ä (1)");
    }

    #[test]
    fn shortened_text_has_at_most_so_many_characters() {
        assert_eq!(shortened("äbcd", 4), "äbcd");
        assert_eq!(shortened("äbcde", 4), "äbc…");
    }
}
