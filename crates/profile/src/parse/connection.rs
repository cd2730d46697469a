//! Options that may stand inside of `<connection>`.

use std::time::Duration;

use super::args::{choice, number, seconds};
use super::tls::WrappingDraft;
use crate::connection::{Bind, ConnectRetry, Connection, Mssfix, Protocol};
use crate::lines::Line;
use crate::problem::{Fault, ProblemKind, shown};

const DEFAULT_PORT: u16 = 1194;
const DEFAULT_MTU: u16 = 1500;
/// Longest host name of DNS.
const MAX_HOST: usize = 253;

/// Where to connect, as far as it is known.
#[derive(Clone)]
pub(super) struct Draft {
    pub(super) remotes: Vec<Remote>,
    pub(super) wrapping: WrappingDraft,
    protocol: Protocol,
    remote_port: u16,
    local: Option<String>,
    local_port: Option<u16>,
    /// Own port when the profile wants one and does not say which.
    bind_port: u16,
    bind: Option<bool>,
    float: bool,
    retry: ConnectRetry,
    connect_timeout: Duration,
    exit_notify: u8,
    tun_mtu: u16,
    tun_mtu_max: u16,
    /// `None` for what suits `tun_mtu`.
    mssfix: Option<Mssfix>,
    max_packet_size: u16,
}

/// A `remote` line.
#[derive(Clone)]
pub(super) struct Remote {
    host: String,
    port: Option<u16>,
    protocol: Option<Protocol>,
}

impl Default for Draft {
    fn default() -> Self {
        Self {
            remotes: Vec::new(),
            wrapping: WrappingDraft::default(),
            protocol: Protocol::Udp,
            remote_port: DEFAULT_PORT,
            local: None,
            local_port: None,
            bind_port: DEFAULT_PORT,
            bind: None,
            float: false,
            retry: ConnectRetry { first: Duration::from_secs(1), longest: Duration::from_secs(300), attempts: None },
            connect_timeout: Duration::from_secs(120),
            exit_notify: 0,
            tun_mtu: DEFAULT_MTU,
            tun_mtu_max: 1600,
            mssfix: None,
            max_packet_size: 1250,
        }
    }
}

impl Draft {
    /// What a block starts from: the settings so far, without places and keys.
    pub(super) fn for_block(&mut self) -> Self {
        let remotes = std::mem::take(&mut self.remotes);
        let wrapping = std::mem::take(&mut self.wrapping);
        let draft = self.clone();
        (self.remotes, self.wrapping) = (remotes, wrapping);
        draft
    }

    /// Whether the option is one of these.
    pub(super) fn apply(&mut self, line: &Line<'_>) -> Result<bool, Fault> {
        match line.name.as_str() {
            "remote" => self.remotes.push(remote(line)?),
            "proto" => self.protocol = protocol(line.one()?)?,
            "port" => {
                self.remote_port = line.number(1..=u16::MAX)?;
                self.bind_port = self.remote_port;
            }
            "rport" => self.remote_port = line.number(1..=u16::MAX)?,
            "lport" => self.local_port = Some(line.number(0..=u16::MAX)?),
            "local" => self.local = Some(host(line.one()?)?),
            "bind" => {
                if line.between(0..=1)?.first().is_some_and(|word| word != "ipv6only") {
                    return Err(Fault::malformed("it takes no argument but ipv6only"));
                }
                self.bind = Some(true);
            }
            "nobind" => self.bind = Some(!line.flag()?),
            "float" => self.float = line.flag()?,
            "connect-retry" => {
                let (first, longest) = line.one_or_two()?;
                self.retry.first = seconds(first)?;
                self.retry.longest = longest.map_or(Ok(self.retry.longest), seconds)?.max(self.retry.first);
            }
            "connect-retry-max" => {
                self.retry.attempts = Some(line.number(0..=u32::MAX)?).filter(|attempts| *attempts > 0);
            }
            "connect-timeout" | "server-poll-timeout" => self.connect_timeout = seconds(line.one()?)?,
            "explicit-exit-notify" => {
                self.exit_notify = line.between(0..=1)?.first().map_or(Ok(1), |word| number(word, 0..=u8::MAX))?;
            }
            "tun-mtu" => self.tun_mtu = number(line.one_or_two()?.0, 68..=u16::MAX)?,
            "tun-mtu-max" => self.tun_mtu_max = line.number(68..=u16::MAX)?,
            // Stock 2.6 passes over it inside of a block, but whoever wrote it there means it.
            "mssfix" => self.mssfix = mssfix(line)?,
            "max-packet-size" => {
                self.max_packet_size = line.number(154..=2048)?;
                self.mssfix = Some(Mssfix::Outer(self.max_packet_size));
            }
            _ => return self.wrapping.apply(line),
        }
        Ok(true)
    }

    /// One connection per remote; the error names the option it is about.
    pub(super) fn finish(self) -> Result<Vec<Connection>, (&'static str, Fault)> {
        if self.remotes.is_empty() {
            let reason = "nothing says where to connect; add 'remote HOST PORT'".into();
            return Err(("remote", Fault { kind: ProblemKind::Missing, reason }));
        }
        let wrapping = self.wrapping.finish()?;
        let bind = match (self.bind, self.local, self.local_port) {
            (Some(false), ..) | (None, None, None) => Bind::Any,
            (_, local, port) => Bind::To { local, port: port.unwrap_or(self.bind_port) },
        };
        let mssfix = self.mssfix.unwrap_or(match self.tun_mtu {
            DEFAULT_MTU => Mssfix::Outer(1492),
            other => Mssfix::Inner(other),
        });
        let connection = |remote: Remote| Connection {
            host: remote.host,
            port: remote.port.unwrap_or(self.remote_port),
            protocol: remote.protocol.unwrap_or(self.protocol),
            bind: bind.clone(),
            float: self.float,
            retry: self.retry,
            connect_timeout: self.connect_timeout,
            exit_notify: self.exit_notify,
            tun_mtu: self.tun_mtu,
            tun_mtu_max: self.tun_mtu_max.max(self.tun_mtu),
            mssfix,
            max_packet_size: self.max_packet_size,
            wrapping: wrapping.clone(),
        };
        Ok(self.remotes.into_iter().map(connection).collect())
    }
}

fn remote(line: &Line<'_>) -> Result<Remote, Fault> {
    let words = line.between(1..=3)?;
    let word = |at: usize| words.get(at).map(String::as_str);
    Ok(Remote {
        host: host(word(0).unwrap_or_default())?,
        port: word(1).map(|port| number(port, 1..=u16::MAX)).transpose()?,
        protocol: word(2).map(protocol).transpose()?,
    })
}

fn protocol(word: &str) -> Result<Protocol, Fault> {
    if matches!(word, "tcp-server" | "tcp4-server" | "tcp6-server") {
        return Err(Fault::refused("a client does not listen; write tcp"));
    }
    choice(
        word,
        &[
            ("udp", Protocol::Udp),
            ("udp4", Protocol::Udp4),
            ("udp6", Protocol::Udp6),
            ("tcp", Protocol::Tcp),
            ("tcp4", Protocol::Tcp4),
            ("tcp6", Protocol::Tcp6),
            ("tcp-client", Protocol::Tcp),
            ("tcp4-client", Protocol::Tcp4),
            ("tcp6-client", Protocol::Tcp6),
        ],
    )
}

/// A name or an address; anything that could not be either is turned away before it reaches a resolver.
pub(super) fn host(word: &str) -> Result<String, Fault> {
    let fits = |c: char| c.is_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '%');
    if word.is_empty() || word.len() > MAX_HOST || !word.chars().all(fits) {
        return Err(Fault::malformed(format!("'{}' is no host name and no address", shown(word))));
    }
    Ok(word.to_owned())
}

fn mssfix(line: &Line<'_>) -> Result<Option<Mssfix>, Fault> {
    let [size, rest @ ..] = line.between(0..=2)? else { return Ok(None) };
    let size = number(size, 0..=u16::MAX)?;
    Ok(Some(match rest {
        _ if size == 0 => Mssfix::Off,
        [] => Mssfix::Payload(size),
        [kind, ..] => choice(kind, &[("mtu", Mssfix::Outer(size)), ("fixed", Mssfix::Inner(size))])?,
    }))
}
