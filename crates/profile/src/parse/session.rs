//! Data channel, timers, passwords and the rest of what has no file of its own.

use std::time::Duration;

use super::Reader;
use super::args::{choice, number, seconds};
use crate::lines::Line;
use crate::network::DnsSettings;
use crate::problem::{Fault, shown};
use crate::settings::{
    AuthRetry, Challenge, Cipher, DataChannel, Digest, Framing, Inactive, Ping, Profile, Rekey, ReplayWindow,
    TlsSettings, Topology, UserPass,
};

/// Longest name of a network device.
const MAX_DEVICE: usize = 15;

/// A profile that says nothing. It has no connections yet.
pub(super) fn defaults() -> Profile {
    Profile {
        connections: Vec::new(),
        remote_random: false,
        remote_random_hostname: false,
        resolve_retry: None,
        device: None,
        persist_tun: false,
        topology: Topology::default(),
        tls: TlsSettings::default(),
        data: DataChannel::default(),
        rekey: Rekey::default(),
        ping: Ping::default(),
        user_pass: None,
        auth_nocache: false,
        auth_retry: AuthRetry::default(),
        static_challenge: None,
        push_peer_info: false,
        peer_info: Vec::new(),
        routes4: Vec::new(),
        routes6: Vec::new(),
        route_gateway4: None,
        route_gateway6: None,
        route_metric: None,
        route_delay: Duration::ZERO,
        route_noexec: false,
        route_nopull: false,
        redirect_gateway: None,
        block_ipv6: false,
        dhcp_options: Vec::new(),
        dns: DnsSettings::default(),
        pull_filters: Vec::new(),
        verb: None,
        notes: Vec::new(),
    }
}

impl Reader {
    /// Whether the option is one of these.
    pub(super) fn session_option(&mut self, line: &Line<'_>) -> Result<bool, Fault> {
        if self.data_option(line)? || self.timer(line)? {
            return Ok(true);
        }
        let profile = &mut self.profile;
        match line.name.as_str() {
            "dev" => profile.device = device(line.one()?)?,
            "dev-type" => only_tun(line.one()?)?,
            "persist-tun" => profile.persist_tun = line.flag()?,
            "topology" => {
                let kinds = [("subnet", Topology::Subnet), ("net30", Topology::Net30), ("p2p", Topology::PointToPoint)];
                profile.topology = choice(line.one()?, &kinds)?;
            }
            "remote-random" => profile.remote_random = line.flag()?,
            "remote-random-hostname" => profile.remote_random_hostname = line.flag()?,
            "resolv-retry" => {
                profile.resolve_retry = match line.one()? {
                    "infinite" => None,
                    word => Some(seconds(word)?),
                };
            }
            "auth-user-pass" => profile.user_pass = Some(user_pass(line)?),
            "auth-nocache" => profile.auth_nocache = line.flag()?,
            "auth-retry" => {
                let kinds = [
                    ("none", AuthRetry::None),
                    ("nointeract", AuthRetry::NoInteract),
                    ("interact", AuthRetry::Interact),
                ];
                profile.auth_retry = choice(line.one()?, &kinds)?;
            }
            "static-challenge" => profile.static_challenge = Some(challenge(line)?),
            "push-peer-info" => profile.push_peer_info = line.flag()?,
            "verb" => profile.verb = Some(line.number(0..=11)?),
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn data_option(&mut self, line: &Line<'_>) -> Result<bool, Fault> {
        match line.name.as_str() {
            "data-ciphers" | "ncp-ciphers" => self.data_ciphers(line)?,
            "data-ciphers-fallback" => {
                let name = line.one()?;
                let unsupported = || Fault::unsupported(format!("'{}' is no cipher that we have", shown(name)));
                self.profile.data.fallback = Some(Cipher::from_name(name).ok_or_else(unsupported)?);
            }
            "cipher" => {
                self.profile.data.cipher = Cipher::from_name(line.one()?);
                if self.profile.data.cipher.is_none() {
                    self.note(line, "we have no such cipher; the server will choose from data-ciphers");
                }
            }
            "auth" => self.profile.data.auth = digest(line.one()?)?,
            "replay-window" => {
                let (packets, time) = line.one_or_two()?;
                let window = &mut self.profile.data.replay_window;
                *window = ReplayWindow { packets: number(packets, 0..=65536)?, ..ReplayWindow::default() };
                if let Some(time) = time {
                    window.time = Duration::from_secs(number(time, 0..=600)?);
                }
            }
            "compress" => self.profile.data.framing = compress(line)?,
            "comp-lzo" => match line.between(0..=1)? {
                [word] if word == "no" => self.profile.data.framing = Framing::LzoNo,
                _ => return Err(compression()),
            },
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Ciphers that we do not have are left out, since the server then does not choose them.
    fn data_ciphers(&mut self, line: &Line<'_>) -> Result<(), Fault> {
        let mut ciphers = Vec::new();
        let mut dropped = Vec::new();
        for name in line.one()?.split(':') {
            let found = match name.strip_prefix('?').unwrap_or(name) {
                "DEFAULT" => Cipher::DEFAULT.to_vec(),
                bare => Cipher::from_name(bare).into_iter().collect(),
            };
            if found.is_empty() {
                dropped.push(shown(name));
            }
            for cipher in found {
                if !ciphers.contains(&cipher) {
                    ciphers.push(cipher);
                }
            }
        }
        if ciphers.is_empty() {
            return Err(Fault::unsupported("we have none of these ciphers; add AES-256-GCM"));
        }
        if !dropped.is_empty() {
            self.note(line, format!("not offered, because we have no such cipher: {}", dropped.join(", ")));
        }
        self.profile.data.ciphers = ciphers;
        Ok(())
    }

    fn timer(&mut self, line: &Line<'_>) -> Result<bool, Fault> {
        let Profile { rekey, ping, .. } = &mut self.profile;
        match line.name.as_str() {
            "reneg-sec" => {
                let (after, least) = line.one_or_two()?;
                rekey.after = Some(seconds(after)?).filter(|time| !time.is_zero());
                rekey.after_min = least.map(seconds).transpose()?;
            }
            "reneg-bytes" => rekey.bytes = Some(line.number(0..=u64::MAX)?).filter(|bytes| *bytes > 0),
            "reneg-pkts" => rekey.packets = Some(line.number(0..=u64::MAX)?).filter(|packets| *packets > 0),
            "hand-window" => rekey.hand_window = line.seconds()?,
            "tran-window" => rekey.transition_window = line.seconds()?,
            "tls-timeout" => rekey.tls_timeout = line.seconds()?,
            "ping" => ping.interval = line.seconds_or_never()?,
            // Each takes the place of the other.
            "ping-restart" => (ping.restart, ping.exit) = (line.seconds_or_never()?, None),
            "ping-exit" => (ping.restart, ping.exit) = (None, line.seconds_or_never()?),
            "keepalive" => {
                let [interval, restart] = line.between(2..=2)? else { return Ok(true) };
                (ping.interval, ping.restart, ping.exit) = (Some(seconds(interval)?), Some(seconds(restart)?), None);
            }
            "inactive" => {
                let (time, bytes) = line.one_or_two()?;
                let bytes = bytes.map_or(Ok(0), |word| number(word, 0..=u64::MAX))?;
                ping.inactive =
                    Some(Inactive { time: seconds(time)?, bytes }).filter(|inactive| !inactive.time.is_zero());
            }
            "session-timeout" => ping.session_timeout = line.seconds_or_never()?,
            _ => return Ok(false),
        }
        Ok(true)
    }
}

/// The device's name; `None` when any will do.
fn device(word: &str) -> Result<Option<String>, Fault> {
    only_tun(word)?;
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if word.len() > MAX_DEVICE || !word.chars().all(fits) {
        return Err(Fault::malformed(format!("'{}' cannot be the name of a device", shown(word))));
    }
    Ok((word != "tun").then(|| word.to_owned()))
}

/// A name of one's own choice needs `dev-type`; it is taken for tun here, since nothing else is spoken.
fn only_tun(word: &str) -> Result<(), Fault> {
    if word.starts_with("tap") || word == "null" {
        return Err(Fault::unsupported("only IP is carried, no Ethernet; the server must use 'dev tun'"));
    }
    Ok(())
}

fn user_pass(line: &Line<'_>) -> Result<UserPass, Fault> {
    let Some(block) = line.block else {
        return Ok(match line.between(0..=1)? {
            [] => UserPass::Ask,
            [file, ..] => UserPass::File(file.clone()),
        });
    };
    let mut lines = block.body.lines();
    let user = lines.next().unwrap_or_default();
    if user.is_empty() {
        return Err(Fault::malformed("the block's first line is the user name, its second the password"));
    }
    if block.body.contains('\u{fffd}') {
        return Err(Fault::malformed("name or password is not text; save the profile as UTF-8"));
    }
    let password = lines.next().filter(|password| !password.is_empty()).map(Into::into);
    Ok(UserPass::Inline { user: user.to_owned(), password })
}

fn challenge(line: &Line<'_>) -> Result<Challenge, Fault> {
    let [text, echo, rest @ ..] = line.between(2..=3)? else {
        return Err(Fault::malformed("it takes a text and 0 or 1"));
    };
    Ok(Challenge {
        text: text.clone(),
        echo: choice(echo, &[("0", false), ("1", true)])?,
        concat: rest.first().map_or(Ok(false), |word| choice(word, &[("scrv1", false), ("concat", true)]))?,
    })
}

fn digest(word: &str) -> Result<Digest, Fault> {
    match word.to_ascii_uppercase().as_str() {
        "NONE" => Ok(Digest::None),
        "SHA1" | "SHA-1" | "RSA-SHA1" => Ok(Digest::Sha1),
        "SHA224" | "SHA2-224" => Ok(Digest::Sha224),
        "SHA256" | "SHA2-256" | "RSA-SHA256" => Ok(Digest::Sha256),
        "SHA384" | "SHA2-384" => Ok(Digest::Sha384),
        "SHA512" | "SHA2-512" | "RSA-SHA512" => Ok(Digest::Sha512),
        _ => Err(Fault::unsupported(format!("'{}' is no digest that we have; use SHA256", shown(word)))),
    }
}

fn compression() -> Fault {
    Fault::unsupported("compression gives away what is carried and is never done; remove it here and on the server")
}

fn compress(line: &Line<'_>) -> Result<Framing, Fault> {
    match line.between(0..=1)? {
        [] => Ok(Framing::Stub),
        [kind, ..] if kind == "stub" => Ok(Framing::Stub),
        [kind, ..] if kind == "stub-v2" => Ok(Framing::StubV2),
        [kind, ..] if kind == "migrate" => Err(Fault::refused("it is for servers; remove it")),
        _ => Err(compression()),
    }
}
