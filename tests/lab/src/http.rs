//! HTTP as a visitor: the stock `curl`, run on a host.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::host::Host;

/// A client on a host. Names are resolved and certificates checked as on any machine.
#[derive(Debug, Clone)]
pub struct Http {
    host: Host,
    root: Option<PathBuf>,
    login: Option<String>,
    limit: Duration,
}

/// An answer.
#[derive(Debug, Clone)]
pub struct Reply {
    /// HTTP status code.
    pub status: u16,
    /// Header names, in small letters, and values, in order.
    pub headers: Vec<(String, String)>,
    /// The body; empty for a download to a file.
    pub body: Vec<u8>,
    /// From the first packet to the last byte.
    pub took: Duration,
}

impl Reply {
    /// The first header of that name (small letters).
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

impl Http {
    /// A client on `host` that trusts the machine's authorities and gives up after 30 seconds.
    pub fn new(host: &Host) -> Self {
        Self { host: host.clone(), root: None, login: None, limit: Duration::from_secs(30) }
    }

    /// Trusts the authorities in this PEM file and no other.
    #[must_use]
    pub fn trust(mut self, root: &Path) -> Self {
        self.root = Some(root.to_owned());
        self
    }

    /// Logs in by basic authentication.
    #[must_use]
    pub fn login(mut self, user: &str, password: &str) -> Self {
        self.login = Some(format!("{user}:{password}"));
        self
    }

    /// Gives up after `limit`, all transfers included.
    #[must_use]
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Asks for `url`.
    ///
    /// # Errors
    /// When there is no answer (no connection, untrusted certificate, limit). Any HTTP status is an answer.
    pub fn get(&self, url: &str) -> Result<Reply> {
        self.request(&[], url)
    }

    /// Sends the file at `from` to `url` by PUT.
    ///
    /// # Errors
    /// As [`Http::get`].
    pub fn upload(&self, from: &Path, url: &str) -> Result<Reply> {
        self.request(&["--upload-file", &from.to_string_lossy()], url)
    }

    /// Writes the body of `url` to the file `to`.
    ///
    /// # Errors
    /// As [`Http::get`].
    pub fn download(&self, url: &str, to: &Path) -> Result<Reply> {
        self.run(&[], url, Some(to))
    }

    /// Asks for `url` with further arguments for `curl`.
    ///
    /// # Errors
    /// As [`Http::get`].
    pub fn request(&self, arguments: &[&str], url: &str) -> Result<Reply> {
        self.run(arguments, url, None)
    }

    fn run(&self, arguments: &[&str], url: &str, to: Option<&Path>) -> Result<Reply> {
        // Only root can look in here; a password on the command line could be read by everyone on the machine.
        let scratch = tempfile::tempdir_in(self.host.dir()).context("make a directory for curl")?;
        let (config, headers, body) =
            (scratch.path().join("config"), scratch.path().join("headers"), scratch.path().join("body"));
        let out = to.unwrap_or(&body);
        let mut settings = format!(
            "silent\nshow-error\nmax-time = {}\ndump-header = {}\noutput = {}\nwrite-out = \"%{{http_code}} %{{time_total}}\"\n",
            self.limit.as_secs_f32(),
            quoted(&headers.to_string_lossy()),
            quoted(&out.to_string_lossy()),
        );
        if let Some(root) = &self.root {
            settings += &format!("cacert = {}\n", quoted(&root.to_string_lossy()));
        }
        if let Some(login) = &self.login {
            settings += &format!("user = {}\n", quoted(login));
        }
        fs::write(&config, settings).context("write curl's settings")?;

        let config = config.to_string_lossy();
        let argv: Vec<&str> =
            ["curl", "-q", "--config", &config].into_iter().chain(arguments.iter().copied()).collect();
        let argv: Vec<&str> = argv.into_iter().chain(["--", url]).collect();
        let output = self.host.output(self.limit + Duration::from_secs(5), &argv)?;
        if !output.status.success() {
            let stderr = String::from_utf8_lossy(&output.stderr);
            bail!("no answer from {url} for {}: {}", self.host.name(), stderr.trim());
        }
        let report = String::from_utf8_lossy(&output.stdout).into_owned();
        let (status, took) = report.split_once(' ').with_context(|| format!("read curl's report {report:?}"))?;
        Ok(Reply {
            status: status.parse().with_context(|| format!("read the status in {report:?}"))?,
            took: Duration::from_secs_f64(took.parse().with_context(|| format!("read the time in {report:?}"))?),
            headers: last_headers(&fs::read_to_string(&headers).context("read the headers of an answer")?),
            // curl makes no file for an answer without a body.
            body: if to.is_none() && body.exists() { fs::read(&body).context("read an answer")? } else { Vec::new() },
        })
    }
}

/// The SHA-256 of a file, as hexadecimal digits.
///
/// # Errors
/// When the file cannot be read.
pub fn sha256(path: &Path) -> Result<String> {
    let output = Command::new("sha256sum").arg("--").arg(path).output().context("run sha256sum")?;
    if !output.status.success() {
        bail!("hash {}: {}", path.display(), String::from_utf8_lossy(&output.stderr).trim());
    }
    let line = String::from_utf8_lossy(&output.stdout).into_owned();
    line.split_whitespace().next().map(str::to_owned).with_context(|| format!("read the hash in {line:?}"))
}

/// curl's settings take backslash escapes inside double quotes.
fn quoted(value: &str) -> String {
    format!("\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\""))
}

/// The headers of the last answer: there is one block for every redirect and interim answer.
fn last_headers(text: &str) -> Vec<(String, String)> {
    let text = text.replace("\r\n", "\n");
    let block = text.trim().rsplit("\n\n").next().unwrap_or_default();
    let fields = block.lines().filter_map(|line| line.split_once(':'));
    fields.map(|(name, value)| (name.trim().to_lowercase(), value.trim().to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_the_headers_of_the_last_answer() {
        let text = "HTTP/1.1 100 Continue\r\n\r\nHTTP/2 201\r\nServer: Caddy\r\nvia: a:b\r\n\r\n";
        let expected = [("server", "Caddy"), ("via", "a:b")].map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(last_headers(text), expected);
    }

    #[test]
    fn quotes_for_curl() {
        assert_eq!(quoted(r#"pass"word\"#), r#""pass\"word\\""#);
    }

    #[test]
    fn hashes_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("empty");
        fs::write(&path, "").unwrap();
        assert_eq!(sha256(&path).unwrap(), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    }
}
