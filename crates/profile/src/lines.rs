//! From text to lines of words and blocks.

use crate::problem::{Fault, Problem, ProblemKind};

/// Longest profile, bytes; OpenVPN 3 has the same limit.
pub(crate) const MAX_PROFILE: usize = 256 * 1024;
/// Longest line outside of blocks, bytes: OpenVPN 3 takes this, 2.x half of it.
const MAX_LINE: usize = 512;
/// Most words in a line, as in 2.x.
const MAX_WORDS: usize = 16;

/// An option with its arguments, or a block.
pub(crate) struct Line<'a> {
    /// From 1.
    pub(crate) number: usize,
    /// The option's name, without leading `--`; of a block the tag.
    pub(crate) name: String,
    pub(crate) words: Vec<String>,
    pub(crate) block: Option<Block<'a>>,
}

/// What stands between `<tag>` and `</tag>`.
#[derive(Clone, Copy)]
pub(crate) struct Block<'a> {
    pub(crate) body: &'a str,
    /// Number of its first line.
    pub(crate) first_line: usize,
}

/// Cuts `text`, whose first line has the number `first_line`. What cannot be cut goes to `problems`; the rest of the text
/// is still read.
pub(crate) fn cut<'a>(text: &'a str, first_line: usize, problems: &mut Vec<Problem>) -> Vec<Line<'a>> {
    let mut lines = Vec::new();
    let mut rest = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut next = first_line;
    while !rest.is_empty() {
        let number = next;
        let line = take_line(&mut rest);
        next += 1;
        let mut words = match words(line) {
            Ok(words) => words,
            Err(reason) => {
                problems.push(Fault::malformed(reason).at(Some(number), ""));
                continue;
            }
        };
        if words.is_empty() {
            continue;
        }
        let mut name = words.remove(0);
        if let Some(bare) = name.strip_prefix("--").filter(|bare| !bare.is_empty()) {
            name = bare.to_owned();
        }
        let tag = name.strip_prefix('<').and_then(|tag| tag.strip_suffix('>')).filter(|_| words.is_empty());
        let Some(tag) = tag.map(str::to_owned) else {
            lines.push(Line { number, name, words, block: None });
            continue;
        };
        let first_line = next;
        match take_block(&mut rest, &mut next, &tag) {
            Some(body) => lines.push(Line { number, name: tag, words, block: Some(Block { body, first_line }) }),
            None => problems.push(Problem {
                line: Some(number),
                option: printable_name(&tag),
                kind: ProblemKind::Malformed,
                reason: "the block is not closed; put its closing tag on a line of its own".into(),
            }),
        }
    }
    lines
}

/// The name as it may be shown. A line of a key that lost its tags must not get into a message.
pub(crate) fn printable_name(name: &str) -> String {
    const LONGEST: usize = 40;
    // Of real options 14 ("authentication"); a line of a static key has 32 lower-case hexadecimal digits.
    const LONGEST_PART: usize = 14;
    let is_part =
        |part: &str| part.len() <= LONGEST_PART && part.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    if name.len() <= LONGEST && name.split(['-', '_']).all(is_part) { name.to_owned() } else { String::new() }
}

fn take_line<'a>(rest: &mut &'a str) -> &'a str {
    let (line, after) = rest.split_once('\n').unwrap_or((rest, ""));
    *rest = after;
    line
}

/// The text up to the closing tag, or `None` and everything consumed.
fn take_block<'a>(rest: &mut &'a str, next: &mut usize, tag: &str) -> Option<&'a str> {
    let whole = *rest;
    let closing = format!("</{tag}>");
    while !rest.is_empty() {
        let body_len = whole.len() - rest.len();
        let line = take_line(rest);
        *next += 1;
        if line.trim_start().starts_with(&closing) {
            return whole.get(..body_len);
        }
    }
    None
}

/// Where we are in a line.
#[derive(Clone, Copy)]
enum State {
    Between,
    Bare,
    Single,
    Double,
}

/// The words of a line, by the rules of 2.x: a comment begins where a word could; quotes count at the beginning of a word
/// only; a backslash escapes a blank, a double quote or a backslash, except between single quotes.
fn words(line: &str) -> Result<Vec<String>, &'static str> {
    if line.len() > MAX_LINE {
        return Err("the line has more than 512 bytes; put long content into a block");
    }
    if line.chars().any(|c| c == '\0' || c == '\u{fffd}') && !is_comment(line) {
        return Err("the line is not text; save the profile as UTF-8");
    }
    let mut words = Vec::new();
    let mut word = String::new();
    let mut state = State::Between;
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        let escaped = match (c, state) {
            ('\\', State::Between | State::Bare | State::Double) => match chars.next() {
                Some(next) if next == '\\' || next == '"' || is_blank(next) => Some(next),
                _ => return Err("a backslash stands before what needs none; write two for one"),
            },
            _ => None,
        };
        state = match (state, escaped) {
            (State::Between, None) if matches!(c, '#' | ';') => break,
            (State::Between, None) if is_blank(c) => State::Between,
            (State::Between, None) if c == '"' => State::Double,
            (State::Between, None) if c == '\'' => State::Single,
            (State::Bare, None) if is_blank(c) => end_word(&mut word, &mut words),
            (State::Double, None) if c == '"' => end_word(&mut word, &mut words),
            (State::Single, None) if c == '\'' => end_word(&mut word, &mut words),
            (state, escaped) => {
                word.push(escaped.unwrap_or(c));
                if matches!(state, State::Between) { State::Bare } else { state }
            }
        };
    }
    match state {
        State::Between => {}
        State::Bare => words.push(word),
        State::Single | State::Double => return Err("a quote is not closed"),
    }
    if words.len() > MAX_WORDS { Err("the line has more than 16 words") } else { Ok(words) }
}

fn end_word(word: &mut String, words: &mut Vec<String>) -> State {
    words.push(std::mem::take(word));
    State::Between
}

fn is_blank(c: char) -> bool {
    c.is_ascii_whitespace() || c == '\u{b}'
}

fn is_comment(line: &str) -> bool {
    line.trim_start().starts_with(['#', ';'])
}

#[cfg(test)]
mod tests {
    use super::{cut, words};

    fn split(line: &str) -> Vec<String> {
        words(line).unwrap()
    }

    #[test]
    fn words_are_cut_as_by_openvpn() {
        assert_eq!(split("  remote\thost 1194 \r"), ["remote", "host", "1194"]);
        assert_eq!(split("a # comment"), ["a"]);
        assert_eq!(split("a ;comment"), ["a"]);
        assert_eq!(split("a b#c d;e"), ["a", "b#c", "d;e"]);
        assert_eq!(split(r#"a "two words" 'it\ is "raw"' """#), ["a", "two words", r#"it\ is "raw""#, ""]);
        assert_eq!(split(r#"a "say \"x\" \\ y" b\ c \\d"#), ["a", r#"say "x" \ y"#, "b c", r"\d"]);
        assert_eq!(split(r#"a b"c"d"#), ["a", r#"b"c"d"#], "quotes inside of a word are literal");
        assert_eq!(split(r#""a"b"#), ["a", "b"], "a closing quote ends the word");
        assert_eq!(split(r#"\" \ x"#), ["\"", " x"]);
        assert!(split("# \u{fffd} in a comment").is_empty());
    }

    #[test]
    fn lines_that_cannot_be_cut_say_why() {
        for line in ["a \"b", "a 'b", "a b\\", "key c:\\keys", "a \u{fffd}", "a \0", &"x".repeat(513), &"x ".repeat(17)]
        {
            assert!(words(line).is_err(), "{line:?}");
        }
    }

    #[test]
    fn blocks_are_taken_whole_and_lines_keep_their_numbers() {
        let text = "\u{feff}--client\r\n<ca>\r\n# <key>\r\nbody\r\n  </ca>\r\ndev tun\r\n<key>\r\nleft open";
        let mut problems = Vec::new();
        let lines = cut(text, 1, &mut problems);
        let seen: Vec<_> = lines.iter().map(|line| (line.number, line.name.as_str())).collect();
        assert_eq!(seen, [(1, "client"), (2, "ca"), (6, "dev")]);
        let block = lines[1].block.unwrap();
        assert_eq!((block.body, block.first_line), ("# <key>\r\nbody\r\n", 3));
        assert_eq!(problems.len(), 1);
        assert_eq!(problems[0].line, Some(7));
    }
}
