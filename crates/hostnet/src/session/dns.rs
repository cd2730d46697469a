//! Name resolution: systemd-resolved where it runs, else resolvconf where it is installed, else the file itself.

use std::fs;
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use super::settings::{Dns, DnsServer, DnsTransport, Dnssec};

/// First line of a file that we wrote, so that nobody else's is ever taken for ours.
const MARK: &str = "# Written for the tunnel";
/// Servers that the C library reads from the file.
const MAX_SERVERS: usize = 3;
/// There while systemd-resolved runs.
const RESOLVED: &str = "/run/systemd/resolve/io.systemd.Resolve";

/// resolvconf tells the programs that resolve names, which may restart for it; what takes longer hangs.
const DEADLINE: Duration = Duration::from_secs(30);

/// How the former state comes back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum DnsUndo {
    /// Let systemd-resolved forget what was set for the device.
    Resolved { device: String },
    /// Withdraw a record of resolvconf.
    Resolvconf { record: String },
    /// Put the file back.
    File(SavedFile),
}

/// A file as it was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SavedFile {
    path: PathBuf,
    /// Where it led, if it was a symbolic link.
    link: Option<PathBuf>,
    /// What was in it, if it was there and no link.
    content: Option<Vec<u8>>,
    mode: u32,
}

/// Who is in charge of name resolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Manager {
    Resolved,
    Resolvconf,
    File,
}

impl Manager {
    pub(super) fn find() -> Self {
        let installed = |program: &str| {
            std::env::var_os("PATH")
                .is_some_and(|paths| std::env::split_paths(&paths).any(|dir| dir.join(program).is_file()))
        };
        if Path::new(RESOLVED).exists() && installed("resolvectl") {
            Self::Resolved
        } else if installed("resolvconf") {
            Self::Resolvconf
        } else {
            Self::File
        }
    }

    /// How to undo what [`Self::set`] will do.
    pub(super) fn undo(self, device: &str, file: &Path) -> io::Result<DnsUndo> {
        Ok(match self {
            Self::Resolved => DnsUndo::Resolved { device: device.to_owned() },
            Self::Resolvconf => DnsUndo::Resolvconf { record: format!("{device}.openvpn") },
            Self::File => DnsUndo::File(SavedFile::save(file)?),
        })
    }

    /// Sets name resolution. Returns what could not be followed.
    pub(super) async fn set(self, device: &str, dns: &Dns, file: &Path) -> io::Result<Vec<String>> {
        match self {
            Self::Resolved => {
                let (commands, notes) = resolvectl(device, dns);
                for words in commands {
                    run("resolvectl", &words, "").await?;
                }
                Ok(notes)
            }
            Self::Resolvconf => {
                let (text, notes) = resolv_conf(device, dns, "");
                run("resolvconf", &["-a".to_owned(), format!("{device}.openvpn")], &text).await.map(|()| notes)
            }
            Self::File => {
                let old = fs::read_to_string(file).unwrap_or_default();
                let (text, notes) = resolv_conf(device, dns, &old);
                replace(file, text.as_bytes(), 0o644).map(|()| notes)
            }
        }
    }
}

impl Dns {
    /// Only names that cannot be read as anything else, and what is left out: they come from the server.
    pub(super) fn checked(&self) -> (Self, Vec<String>) {
        let mut notes = Vec::new();
        let mut keep = |name: &String| {
            let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
            let good = (1..=253).contains(&name.len()) && name.chars().all(fits) && !name.starts_with('-');
            if !good {
                notes.push(format!("{name:?} is no name in DNS"));
            }
            good
        };
        let mut dns = self.clone();
        dns.search.retain(&mut keep);
        for server in &mut dns.servers {
            server.resolve_domains.retain(&mut keep);
            server.sni = server.sni.take().filter(&mut keep);
        }
        dns.servers.retain(|server| !server.addresses.is_empty());
        (dns, notes)
    }
}

impl DnsUndo {
    /// Brings the former state back.
    pub(super) async fn execute(&self) -> io::Result<()> {
        match self {
            // The settings went with the link if that is gone.
            Self::Resolved { device } if !Path::new("/sys/class/net").join(device).exists() => Ok(()),
            Self::Resolved { device } => run("resolvectl", &["revert".to_owned(), device.clone()], "").await,
            Self::Resolvconf { record } => run("resolvconf", &["-d".to_owned(), record.clone()], "").await,
            Self::File(saved) => saved.restore(),
        }
    }
}

impl SavedFile {
    fn save(path: &Path) -> io::Result<Self> {
        let nothing = Self { path: path.to_owned(), link: None, content: None, mode: 0o644 };
        match fs::symlink_metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(nothing),
            Err(error) => Err(error),
            Ok(about) if about.is_symlink() => Ok(Self { link: Some(fs::read_link(path)?), ..nothing }),
            Ok(about) => {
                Ok(Self { content: Some(fs::read(path)?), mode: about.permissions().mode() & 0o7777, ..nothing })
            }
        }
    }

    /// Leaves a file alone that somebody else has written meanwhile.
    fn restore(&self) -> io::Result<()> {
        let now = match fs::read(&self.path) {
            Ok(now) => now,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error),
        };
        if !now.starts_with(MARK.as_bytes()) {
            return Ok(());
        }
        match (&self.link, &self.content) {
            (Some(target), _) => {
                let new = beside(&self.path);
                let _ = fs::remove_file(&new);
                symlink(target, &new)?;
                fs::rename(&new, &self.path)
            }
            (None, Some(content)) => replace(&self.path, content, self.mode),
            (None, None) => fs::remove_file(&self.path),
        }
    }
}

/// Replaces a file whole; where it is mounted in its place, as in containers, in place.
fn replace(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let new = beside(path);
    let written = (|| {
        let mut file = fs::File::create(&new)?;
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&new, path)
    })();
    match written {
        Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
            let _ = fs::remove_file(&new);
            fs::write(path, content)
        }
        other => other,
    }
}

/// A name that no other connection uses at the same time.
fn beside(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".tunnel-new-{}", std::process::id()));
    path.with_file_name(name)
}

/// Arguments of `resolvectl`, and what cannot be followed.
fn resolvectl(device: &str, dns: &Dns) -> (Vec<Vec<String>>, Vec<String>) {
    let mut notes = Vec::new();
    let words = |command: &str, rest: Vec<String>| {
        [command.to_owned(), device.to_owned()].into_iter().chain(rest).collect::<Vec<_>>()
    };
    let mut commands = Vec::new();
    let mut domains = dns.search.clone();
    if let Some(server) = usable(dns, &mut notes, |server| server.transport != DnsTransport::Https) {
        let name = server.sni.as_ref().map_or(String::new(), |sni| format!("#{sni}"));
        let address = |&(address, port): &(IpAddr, Option<u16>)| match (address, port) {
            (address, None) => format!("{address}{name}"),
            (IpAddr::V4(address), Some(port)) => format!("{address}:{port}{name}"),
            (IpAddr::V6(address), Some(port)) => format!("[{address}]:{port}{name}"),
        };
        commands.push(words("dns", server.addresses.iter().map(address).collect()));
        if server.resolve_domains.is_empty() {
            domains.push("~.".to_owned());
        }
        domains.extend(server.resolve_domains.iter().map(|domain| format!("~{domain}")));
        if server.transport == DnsTransport::Tls {
            commands.push(words("dnsovertls", vec!["yes".to_owned()]));
        }
        if let Some(dnssec) = server.dnssec {
            let word = match dnssec {
                Dnssec::Yes => "yes",
                Dnssec::Optional => "allow-downgrade",
                Dnssec::No => "no",
            };
            commands.push(words("dnssec", vec![word.to_owned()]));
        }
    }
    if !domains.is_empty() {
        commands.push(words("domain", domains));
    }
    (commands, notes)
}

/// The text of a `resolv.conf`, with the options of the `old` one, and what cannot be followed.
fn resolv_conf(device: &str, dns: &Dns, old: &str) -> (String, Vec<String>) {
    let mut notes = Vec::new();
    let mut text = format!("{MARK} {device}; the former file comes back when it ends.\n");
    let plain = |server: &DnsServer| {
        let usual_port = server.addresses.iter().all(|(_, port)| port.is_none_or(|port| port == 53));
        server.transport == DnsTransport::Plain && usual_port && server.dnssec.is_none_or(|dnssec| dnssec == Dnssec::No)
    };
    let server = usable(dns, &mut notes, plain);
    let mut search = dns.search.clone();
    if let Some(server) = server
        && !server.resolve_domains.is_empty()
    {
        notes.push(
            "the DNS server is asked for all names, not only for its domains: that takes systemd-resolved".to_owned(),
        );
        if search.is_empty() {
            search.clone_from(&server.resolve_domains);
        }
    }
    if !search.is_empty() {
        text += &format!("search {}\n", search.join(" "));
    }
    let addresses = server.map(|server| server.addresses.as_slice()).unwrap_or_default();
    for (address, _) in addresses.iter().take(MAX_SERVERS) {
        text += &format!("nameserver {address}\n");
    }
    if addresses.len() > MAX_SERVERS {
        notes.push(format!("only the first {MAX_SERVERS} DNS servers are used"));
    }
    let keep = |line: &&str| line.starts_with("options") || (addresses.is_empty() && line.starts_with("nameserver"));
    for line in old.lines().filter(keep) {
        text += &format!("{line}\n");
    }
    (text, notes)
}

/// The first server that can be asked as it wants to be.
fn usable<'a>(dns: &'a Dns, notes: &mut Vec<String>, possible: impl Fn(&DnsServer) -> bool) -> Option<&'a DnsServer> {
    let found = dns.servers.iter().find(|server| possible(server));
    if found.is_none() && !dns.servers.is_empty() {
        notes.push(
            "no DNS server of the tunnel is used: none can be asked here in the way that it demands \
             (a port of its own, TLS, HTTPS or DNSSEC)"
                .to_owned(),
        );
    }
    found
}

async fn run(program: &str, words: &[String], input: &str) -> io::Result<()> {
    run_within(DEADLINE, program, words, input).await
}

async fn run_within(deadline: Duration, program: &str, words: &[String], input: &str) -> io::Result<()> {
    let mut command = Command::new(program);
    command.args(words).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn()?;
    let ended = tokio::time::timeout(deadline, async {
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(input.as_bytes()).await?;
        }
        child.wait_with_output().await
    });
    let reason = match ended.await {
        Ok(output) => {
            let output = output?;
            if output.status.success() {
                return Ok(());
            }
            String::from_utf8_lossy(&output.stderr).trim().to_owned()
        }
        Err(_) => format!("ended by force: it was not done within {} s", deadline.as_secs()),
    };
    Err(io::Error::other(format!("{program} {}: {reason}", words.join(" "))))
}

#[cfg(test)]
mod tests;
