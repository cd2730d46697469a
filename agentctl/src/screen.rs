//! The whole terminal, drawn anew again and again, until the person has seen enough.

use std::io::{self, IsTerminal, Write, stdin, stdout};
use std::time::Duration;

use model::ExecInput;
use rustix::termios::tcgetwinsize;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use crate::terminal::{self, Terminal};

/// Ctrl-C, as it comes from a terminal that hands every key on.
const CTRL_C: u8 = 3;
/// Another screen beside the one that the person comes back to; no cursor.
const ENTER: &str = "\x1b[?1049h\x1b[?25l";
const LEAVE: &str = "\x1b[?25h\x1b[?1049l";

/// The terminal, ours until this is dropped.
pub(crate) struct Screen {
    /// Restored last.
    _raw: Terminal,
    input: mpsc::Receiver<ExecInput>,
    ended: [Signal; 3],
}

/// What ended a wait.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Woken {
    /// It is time to draw what is new.
    Time,
    /// The terminal has another size.
    Resized,
    /// The person has seen enough.
    Quit,
}

impl Screen {
    /// Whether there is one: standard input and output both are a terminal.
    pub(crate) fn is_there() -> bool {
        stdin().is_terminal() && stdout().is_terminal()
    }

    /// Takes the terminal. Needs a tokio runtime.
    pub(crate) fn open() -> io::Result<Self> {
        let ended = [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()];
        let [terminate, interrupt, hangup] = ended.map(signal);
        let screen =
            Self { _raw: Terminal::raw()?, input: terminal::input(true), ended: [terminate?, interrupt?, hangup?] };
        put(ENTER)?;
        Ok(screen)
    }

    /// Columns and rows.
    pub(crate) fn size() -> (usize, usize) {
        let size = tcgetwinsize(stdout()).ok().map(|size| (usize::from(size.ws_col), usize::from(size.ws_row)));
        size.filter(|&(columns, rows)| columns > 0 && rows > 0).unwrap_or((80, 24))
    }

    /// Shows a text from its top, as much as there is room for.
    pub(crate) fn draw(&self, text: &str) -> io::Result<()> {
        let (columns, rows) = Self::size();
        put(&picture(text, columns, rows))
    }

    /// Waits until `next`, or until something else happens.
    pub(crate) async fn wait(&mut self, next: Instant) -> Woken {
        let [terminate, interrupt, hangup] = &mut self.ended;
        loop {
            tokio::select! {
                () = sleep_until(next) => return Woken::Time,
                _ = terminate.recv() => return Woken::Quit,
                _ = interrupt.recv() => return Woken::Quit,
                _ = hangup.recv() => return Woken::Quit,
                input = self.input.recv() => match input {
                    Some(ExecInput::Size(_)) => return Woken::Resized,
                    Some(ExecInput::Stdin(keys)) if !keys.iter().any(|key| matches!(key, b'q' | b'Q' | &CTRL_C)) => {}
                    Some(ExecInput::Stdin(_) | ExecInput::Eof) | None => return Woken::Quit,
                },
            }
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // Nobody could do more about it.
        put(LEAVE).ok();
    }
}

fn put(text: &str) -> io::Result<()> {
    let mut out = stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// What puts the text on a screen of this size, without scrolling it. No line is emptied before it is written: that flickers.
fn picture(text: &str, columns: usize, rows: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let room = if lines.len() > rows { rows.saturating_sub(1) } else { rows };
    let mut picture = String::from("\x1b[H");
    for (at, line) in lines.iter().take(room).enumerate() {
        picture.push_str(if at > 0 { "\r\n" } else { "" });
        picture.push_str(&cut(line, columns));
        picture.push_str("\x1b[K");
    }
    if lines.len() > rows {
        let more = format!("... {} lines more", lines.len() - room);
        picture.push_str(&format!("{}{}\x1b[K", if room > 0 { "\r\n" } else { "" }, cut(&more, columns)));
    }
    picture.push_str("\x1b[J");
    picture
}

/// The beginning of a line that takes so many columns, with its colours, and without any at the end.
fn cut(line: &str, columns: usize) -> String {
    let (mut kept, mut width, mut colour) = (String::new(), 0, false);
    for c in line.chars() {
        // Colours are the only sequences there are, and end with an m.
        if colour || c == '\x1b' {
            colour = c != 'm';
        } else if width == columns {
            continue;
        } else {
            width += 1;
        }
        kept.push(c);
    }
    kept
}

/// The next of even steps that is still ahead.
pub(crate) fn next(last: Instant, period: Duration) -> Instant {
    (last + period).max(Instant::now())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_cut_and_keeps_its_colours() {
        assert_eq!(cut("\x1b[31mBAD\x1b[0m disk", 5), "\x1b[31mBAD\x1b[0m d");
        assert_eq!(cut("\x1b[31mBAD\x1b[0m", 2), "\x1b[31mBA\x1b[0m");
        assert_eq!(cut("ends in ä", 20), "ends in ä");
    }

    #[test]
    fn no_picture_is_higher_than_its_screen() {
        let text = "one\ntwo\nthree\nfour\n";
        let lines = |rows| picture(text, 80, rows).matches("\r\n").count() + 1;
        assert_eq!([1, 2, 3, 4, 9].map(lines), [1, 2, 3, 4, 4]);
        assert!(picture(text, 80, 3).contains("... 2 lines more"));
        assert!(picture(text, 80, 4).contains("four") && !picture(text, 80, 4).contains("more"));
    }
}
