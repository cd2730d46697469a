//! The terminal of the person, for a command in a container.

use std::io::{self, IsTerminal, Read, stdin, stdout};

use model::{ExecInput, TerminalSize};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

/// Input that waits to be sent.
const QUEUE: usize = 16;
/// As much as is read at once.
const CHUNK: usize = 16 * 1024;

/// The terminal's size, where input and output both are one.
pub(crate) fn size() -> Option<TerminalSize> {
    let both = stdin().is_terminal() && stdout().is_terminal();
    let size = both.then(|| tcgetwinsize(stdout()).ok()).flatten()?;
    Some(TerminalSize { columns: size.ws_col, rows: size.ws_row })
}

/// A terminal that hands every key on as it is, until this is dropped.
pub(crate) struct Terminal {
    before: Termios,
}

impl Terminal {
    /// Takes the terminal of standard input.
    pub(crate) fn raw() -> io::Result<Self> {
        let before = tcgetattr(stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(stdin(), OptionalActions::Now, &raw)?;
        Ok(Self { before })
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // Nobody could do more about it.
        tcsetattr(stdin(), OptionalActions::Now, &self.before).ok();
    }
}

/// Standard input, and the terminal's sizes when it `has_terminal`. Needs a tokio runtime.
pub(crate) fn input(has_terminal: bool) -> mpsc::Receiver<ExecInput> {
    let (sender, receiver) = mpsc::channel(QUEUE);
    if has_terminal && let Ok(mut changes) = signal(SignalKind::window_change()) {
        let sender = sender.clone();
        tokio::spawn(async move {
            while changes.recv().await.is_some() {
                let Some(size) = size() else { continue };
                if sender.send(ExecInput::Size(size)).await.is_err() {
                    return;
                }
            }
        });
    }
    // A thread of its own, which nobody waits for: a read of a terminal cannot be ended.
    std::thread::spawn(move || {
        let mut chunk = vec![0; CHUNK];
        loop {
            let part = match stdin().lock().read(&mut chunk) {
                Ok(0) | Err(_) => ExecInput::Eof,
                Ok(length) => ExecInput::Stdin(chunk[..length].to_vec()),
            };
            let ended = part == ExecInput::Eof;
            if sender.blocking_send(part).is_err() || ended {
                return;
            }
        }
    });
    receiver
}
