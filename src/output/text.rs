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

/// JSON that means the same, without anything that a terminal would obey: such characters stand in its texts alone,
/// where they may be spelled out.
pub fn visible_json(json: &str) -> String {
    let mut visible = String::with_capacity(json.len());
    for c in json.chars() {
        if ('\u{7f}'..='\u{9f}').contains(&c) || is_directional(c) {
            // Writing to a string can't fail.
            let _ = write!(visible, "\\u{:04x}", u32::from(c));
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
    fn json_without_control_characters_means_the_same() {
        let value = serde_json::json!({"a\u{9b}31m\u{202e}": "ä\u{7f}\n\u{1b}[2J"});
        let json = visible_json(&value.to_string());
        assert!(!json.chars().any(|c| c.is_control() || is_directional(c)));
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(&json).unwrap(),
            value
        );
    }

    #[test]
    fn shortened_text_has_at_most_so_many_characters() {
        assert_eq!(shortened("äbcd", 4), "äbcd");
        assert_eq!(shortened("äbcde", 4), "äbc…");
    }
}
