//! User name and password: from a file or from the person at the terminal.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;

use base64::prelude::{BASE64_STANDARD, Engine};
use nix::sys::termios::{LocalFlags, SetArg, Termios, tcgetattr, tcsetattr};
use profile::{Challenge, UserPass};
use secrecy::{ExposeSecret, SecretString};

use crate::files;

/// Why there is no user name or password.
#[derive(Debug, thiserror::Error)]
pub enum LoginError {
    /// The file cannot be read.
    #[error("cannot read user name and password from {path}")]
    File {
        /// The file.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// There is nobody to ask.
    #[error(
        "the server wants a user name and a password, and there is no terminal to ask on: write them into a file of two \
         lines that only you can read, and name it with --login"
    )]
    NoTerminal(#[source] io::Error),
    /// Nothing was typed.
    #[error("no user name was given")]
    Empty,
}

/// User name and password as the profile wants them: from `file`, which goes before the profile's own, from the
/// profile's file in `dir`, from the profile, or from the terminal; the answer to the profile's challenge is always asked
/// for.
///
/// # Errors
/// When the file cannot be read, or there is no terminal.
pub(crate) fn read_login(
    from: &UserPass,
    challenge: Option<&Challenge>,
    file: Option<&Path>,
    dir: &Path,
) -> Result<(String, SecretString), LoginError> {
    let (user, password) = match (file, from) {
        (Some(file), _) => from_file(file)?,
        (None, UserPass::File(name)) => from_file(&dir.join(name))?,
        (None, UserPass::Inline { user, password }) => (Some(user.clone()), password.clone()),
        (None, UserPass::Ask) => (None, None),
    };
    let mut terminal = Terminal::default();
    let user = match user {
        Some(user) => user,
        None => terminal.ask("user name: ", true)?.expose_secret().to_owned(),
    };
    if user.is_empty() {
        return Err(LoginError::Empty);
    }
    let password = match password {
        Some(password) => password,
        None => terminal.ask("password: ", false)?,
    };
    let Some(challenge) = challenge else { return Ok((user, password)) };
    let answer = terminal.ask(&format!("{}: ", printable(&challenge.text)), challenge.echo)?;
    let (password, answer) = (password.expose_secret(), answer.expose_secret());
    let both = if challenge.concat {
        format!("{password}{answer}")
    } else {
        format!("SCRV1:{}:{}", BASE64_STANDARD.encode(password), BASE64_STANDARD.encode(answer))
    };
    Ok((user, both.into()))
}

/// The first two lines; the second may be missing.
fn from_file(path: &Path) -> Result<(Option<String>, Option<SecretString>), LoginError> {
    let shown = || path.display().to_string();
    let text = files::read(path).map_err(|source| LoginError::File { path: shown(), source })?;
    let mut lines = text.lines();
    let user = lines.next().map(str::to_owned).filter(|user| !user.is_empty());
    Ok((user, lines.next().filter(|password| !password.is_empty()).map(Into::into)))
}

/// The terminal of this process, opened when it is first needed.
#[derive(Default)]
struct Terminal(Option<BufReader<File>>);

impl Terminal {
    fn ask(&mut self, prompt: &str, echo: bool) -> Result<SecretString, LoginError> {
        self.try_ask(prompt, echo).map_err(LoginError::NoTerminal)
    }

    fn try_ask(&mut self, prompt: &str, echo: bool) -> io::Result<SecretString> {
        if self.0.is_none() {
            self.0 = Some(BufReader::new(OpenOptions::new().read(true).write(true).open("/dev/tty")?));
        }
        let Some(tty) = &mut self.0 else { return Err(io::ErrorKind::NotFound.into()) };
        let hidden = if echo { None } else { Some(Hidden::new(tty.get_ref())?) };
        tty.get_mut().write_all(prompt.as_bytes())?;
        let mut line = String::new();
        let read = tty.read_line(&mut line);
        if hidden.is_some() {
            tty.get_mut().write_all(b"\n")?;
        }
        drop(hidden);
        read?;
        Ok(line.trim_end_matches(['\n', '\r']).into())
    }
}

/// How the terminal was, to bring it back when nobody waits for an answer any more.
pub(crate) struct Before(Option<(File, Termios)>);

impl Before {
    pub(crate) fn save() -> Self {
        let tty = OpenOptions::new().read(true).write(true).open("/dev/tty").ok();
        Self(tty.and_then(|tty| tcgetattr(&tty).ok().map(|before| (tty, before))))
    }

    pub(crate) fn restore(&self) {
        if let Some((tty, before)) = &self.0 {
            // There is nobody to tell.
            let _ = tcsetattr(tty, SetArg::TCSAFLUSH, before);
        }
    }
}

/// Does not show what is typed, until it is dropped.
struct Hidden {
    tty: File,
    before: Termios,
}

impl Hidden {
    fn new(tty: &File) -> io::Result<Self> {
        let tty = tty.try_clone()?;
        let before = tcgetattr(&tty)?;
        let mut quiet = before.clone();
        quiet.local_flags.remove(LocalFlags::ECHO);
        tcsetattr(&tty, SetArg::TCSAFLUSH, &quiet)?;
        Ok(Self { tty, before })
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        // There is nobody to tell.
        let _ = tcsetattr(&self.tty, SetArg::TCSAFLUSH, &self.before);
    }
}

fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_or_the_profile_needs_no_terminal() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("login"), "anna\r\ns3cret\r\n").unwrap();
        for from in [
            UserPass::File("login".to_owned()),
            UserPass::Inline { user: "anna".to_owned(), password: Some("s3cret".into()) },
        ] {
            let (user, password) = read_login(&from, None, None, dir.path()).unwrap();
            assert_eq!((user.as_str(), password.expose_secret()), ("anna", "s3cret"));
        }
        let missing = read_login(&UserPass::File("nothing".to_owned()), None, None, dir.path()).unwrap_err();
        assert!(missing.to_string().contains("nothing"), "{missing}");
    }
}
