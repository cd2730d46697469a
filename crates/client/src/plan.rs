//! From a profile to the settings of a tunnel.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use profile::{
    AuthRetry, Connection, Crl, NameCheck, Note, Problem, ProblemKind, Profile, ProfileErrors, Protocol, Source,
    Wrapping,
};
use rand::seq::SliceRandom;
use secrecy::{ExposeSecret, SecretString};
use tunnel::{
    AuthDigest, ClientKey, ControlProtection, DataSettings, Dial, Keepalive, KeyDirection, Mode, MssFix, Remote,
    StaticKey, TlsAuth, TlsMaterial, TlsVersion, Transport, TunnelConfig,
};

use crate::files::{self, Unreadable};
use crate::unused;

/// Silence after which stock clients connect anew when neither end says anything else.
const USUAL_RESTART: Duration = Duration::from_secs(120);

/// How long after a refusal the same password is shown again.
const AFTER_REFUSAL: Duration = Duration::from_secs(10);

/// What a profile comes to.
#[derive(Debug)]
pub struct Plan {
    pub(crate) profile: Profile,
    pub(crate) tunnel: TunnelConfig,
    /// Where files that the profile names are looked for.
    pub(crate) dir: PathBuf,
    /// What was passed over, with its lines.
    pub notes: Vec<Note>,
}

/// Why a profile cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// The profile's file cannot be read.
    #[error("cannot read {}", .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Lines that stand in the way.
    #[error(transparent)]
    Profile(#[from] ProfileErrors),
}

impl Plan {
    /// Reads a profile and the files that it names, which count from its own folder.
    ///
    /// # Errors
    /// Everything that stands in the way, with its lines.
    pub fn read(path: &Path) -> Result<Self, PlanError> {
        let unreadable = |source| PlanError::Unreadable { path: path.to_owned(), source };
        let text = files::read(path).map_err(unreadable)?;
        let dir = path.parent().filter(|dir| *dir != Path::new("")).unwrap_or(Path::new("."));
        Ok(Self::from_text(&text, dir)?)
    }

    /// The plan for a profile's text.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn from_text(text: &str, dir: &Path) -> Result<Self, ProfileErrors> {
        let profile = Profile::parse(text)?;
        let mut mapper = Mapper { profile: &profile, text, dir, problems: Vec::new(), notes: profile.notes.clone() };
        let tunnel = mapper.tunnel();
        let (mut problems, mut notes) = (mapper.problems, mapper.notes);
        notes.extend(unused::notes(text));
        notes.sort_by_key(|note| note.line.unwrap_or(usize::MAX));
        match tunnel {
            Some(tunnel) if problems.is_empty() => Ok(Self { profile, tunnel, dir: dir.to_owned(), notes }),
            _ => {
                problems.sort_by_key(|problem| problem.line.unwrap_or(usize::MAX));
                Err(ProfileErrors { problems, omitted: 0 })
            }
        }
    }
}

impl fmt::Display for Plan {
    /// What will be done, for people.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Mode::Dial(dial) = &self.tunnel.mode {
            for remote in &dial.remotes {
                writeln!(f, "server {remote}")?;
            }
        }
        writeln!(
            f,
            "control channel {}",
            match &self.tunnel.protection {
                ControlProtection::None => "without wrapping",
                ControlProtection::TlsAuth(_) => "under tls-auth",
                ControlProtection::TlsCrypt(_) => "under tls-crypt",
                ControlProtection::TlsCryptV2(_) | ControlProtection::TlsCryptV2Listener(_) => "under tls-crypt-v2",
            }
        )?;
        let ciphers: Vec<String> = self.tunnel.data_ciphers.iter().map(ToString::to_string).collect();
        writeln!(f, "data ciphers {}", ciphers.join(", "))?;
        writeln!(f, "user name and password: {}", if self.profile.user_pass.is_some() { "yes" } else { "no" })
    }
}

/// Collects what stands in the way, so that all of it is told at once.
struct Mapper<'a> {
    profile: &'a Profile,
    text: &'a str,
    dir: &'a Path,
    problems: Vec<Problem>,
    notes: Vec<Note>,
}

impl Mapper<'_> {
    fn tunnel(&mut self) -> Option<TunnelConfig> {
        let profile = self.profile;
        let first = profile.connections.first()?;
        let protection = self.protection();
        let tls = self.tls_material();
        let crl = self.crl();
        let ciphers = self.ciphers();
        self.connections_agree();
        let digest = if ciphers.iter().all(|cipher| cipher.is_aead()) { self.spoken_digest() } else { self.digest() };
        let fallback = self.fallback().filter(|cipher| cipher.is_aead() || digest.is_some());
        // A server may ask for routes that lead everything into the tunnel, packets to its other remotes too.
        let mode = Mode::Dial(Dial { remotes: self.remotes(), peer: self.peer(), beside: false });
        let mut config = TunnelConfig::new(mode, tls?, protection?);
        config.crl = crl;
        config.tls_version_min = version(profile.tls.version_min);
        config.tls_version_max = profile.tls.version_max.map(version);
        config.remote_cert_tls = profile.tls.remote_cert_tls;
        config.peer_fingerprints = profile.tls.peer_fingerprints.iter().copied().map(tunnel::Fingerprint).collect();
        config.data_ciphers = ciphers;
        config.tun_mtu = self.mtu(first);
        config.keepalive = Keepalive {
            ping: profile.ping.interval.unwrap_or_default(),
            ping_restart: profile.ping.exit.or(profile.ping.restart).unwrap_or(USUAL_RESTART),
        };
        let rekey = &profile.rekey;
        config.renewal.after = rekey.after.unwrap_or_default();
        if let (Some(least), Some(most)) = (rekey.after_min, rekey.after) {
            config.renewal.after = least + most.saturating_sub(least).mul_f64(rand::random::<f64>());
        }
        config.renewal.bytes = rekey.bytes;
        config.renewal.packets = rekey.packets;
        config.renewal.hand_window = rekey.hand_window.max(Duration::from_secs(1));
        config.renewal.overlap = rekey.transition_window.max(Duration::from_secs(1));
        config.pull = tunnel::PullRules { filters: profile.pull_filters.clone(), route_nopull: profile.route_nopull };
        // Who has chosen a size has reasons.
        config.path_mtu = first.tun_mtu == 1500 && first.mssfix == profile::Mssfix::Outer(1492);
        config.data = DataSettings { digest: digest.unwrap_or_default(), fallback, mss_fix: self.mss_fix(first) };
        config.max_packet_size = first.max_packet_size;
        // With the same password, as the person wants it.
        config.after_refusal = (self.profile.auth_retry == AuthRetry::NoInteract).then_some(AFTER_REFUSAL);
        Some(config)
    }

    fn problem(&mut self, kind: ProblemKind, option: &str, reason: impl Into<std::borrow::Cow<'static, str>>) {
        let line = unused::line_of(self.text, option);
        self.problems.push(Problem { line, option: option.to_owned(), kind, reason: reason.into() });
    }

    fn note(&mut self, option: &str, reason: impl Into<std::borrow::Cow<'static, str>>) {
        let line = unused::line_of(self.text, option);
        self.notes.push(Note { line, option: option.to_owned(), reason: reason.into() });
    }

    fn unreadable(&mut self, option: &str, Unreadable { path, error }: Unreadable) {
        self.problem(ProblemKind::Missing, option, format!("cannot read {}: {error}", path.display()));
    }

    fn read(&mut self, option: &str, source: &Source<String>) -> Option<String> {
        files::text(source, self.dir).map_err(|why| self.unreadable(option, why)).ok()
    }

    fn read_secret(&mut self, option: &str, source: &Source<SecretString>) -> Option<SecretString> {
        files::secret(source, self.dir).map_err(|why| self.unreadable(option, why)).ok()
    }

    fn remotes(&mut self) -> Vec<Remote> {
        let mut remotes = Vec::new();
        let mut one_family = false;
        for connection in &self.profile.connections {
            let transport = match connection.protocol {
                Protocol::Udp | Protocol::Udp4 | Protocol::Udp6 => Transport::Udp,
                Protocol::Tcp | Protocol::Tcp4 | Protocol::Tcp6 => Transport::Tcp,
            };
            one_family |= !matches!(connection.protocol, Protocol::Udp | Protocol::Tcp);
            remotes.push(Remote { host: connection.host.clone(), port: connection.port, transport });
        }
        if one_family {
            self.note("proto", "IPv4 and IPv6 addresses of the name are both tried");
        }
        if self.profile.remote_random {
            remotes.shuffle(&mut rand::rng());
        }
        remotes
    }

    /// One tunnel has one way of protecting its control channel.
    fn connections_agree(&mut self) {
        let mut protections = self.profile.connections.iter().map(|connection| same(&connection.wrapping));
        let first = protections.next();
        if protections.any(|other| Some(other) != first) {
            let reason =
                "all connections must have the same tls-auth, tls-crypt or tls-crypt-v2 key; make a profile of each";
            self.problem(ProblemKind::Unsupported, "connection", reason);
        }
    }

    fn protection(&mut self) -> Option<ControlProtection> {
        let wrapping = self.profile.connections.first().map(|connection| &connection.wrapping)?;
        Some(match wrapping {
            Wrapping::None => ControlProtection::None,
            Wrapping::TlsAuth { key, direction } => {
                let key = self.static_key("tls-auth", key)?;
                let direction = match direction {
                    profile::KeyDirection::Bidirectional => None,
                    profile::KeyDirection::Normal => Some(KeyDirection::Zero),
                    profile::KeyDirection::Inverse => Some(KeyDirection::One),
                };
                ControlProtection::TlsAuth(TlsAuth { key, direction, digest: self.digest()? })
            }
            Wrapping::TlsCrypt(key) => ControlProtection::TlsCrypt(self.static_key("tls-crypt", key)?),
            Wrapping::TlsCryptV2(key) => {
                let text = self.read_secret("tls-crypt-v2", key)?;
                match ClientKey::parse(text.expose_secret()) {
                    Ok(key) => ControlProtection::TlsCryptV2(key),
                    Err(error) => {
                        self.problem(ProblemKind::Malformed, "tls-crypt-v2", error.to_string());
                        return None;
                    }
                }
            }
        })
    }

    fn static_key(&mut self, option: &str, source: &Source<SecretString>) -> Option<StaticKey> {
        let text = self.read_secret(option, source)?;
        let key = StaticKey::parse(text.expose_secret());
        key.map_err(|error| self.problem(ProblemKind::Malformed, option, error.to_string())).ok()
    }

    fn digest(&mut self) -> Option<AuthDigest> {
        let digest = self.spoken_digest();
        if digest.is_none() {
            let reason = "packets are signed with SHA1, SHA256 or SHA512 only; choose one of them on the server";
            self.problem(ProblemKind::Unsupported, "auth", reason);
        }
        digest
    }

    fn spoken_digest(&self) -> Option<AuthDigest> {
        match self.profile.data.auth {
            profile::Digest::Sha1 => Some(AuthDigest::Sha1),
            profile::Digest::Sha256 => Some(AuthDigest::Sha256),
            profile::Digest::Sha512 => Some(AuthDigest::Sha512),
            profile::Digest::None | profile::Digest::Sha224 | profile::Digest::Sha384 => None,
        }
    }

    fn tls_material(&mut self) -> Option<TlsMaterial> {
        let tls = &self.profile.tls;
        let ca_pem = tls.ca.as_ref().map_or(Some(String::new()), |ca| self.read("ca", ca));
        let mut cert_pem = tls.cert.as_ref().map_or(Some(String::new()), |cert| self.read("cert", cert));
        if let (Some(cert), Some(extra)) = (&mut cert_pem, &tls.extra_certs) {
            cert.push('\n');
            cert.push_str(&self.read("extra-certs", extra)?);
        }
        let key = tls.key.as_ref();
        let key_pem = key.map_or(Some(SecretString::default()), |key| self.read_secret("key", key))?;
        if key_pem.expose_secret().contains("ENCRYPTED") {
            let reason = "the key is encrypted; decrypt it with 'openssl pkey' into a file that only you can read";
            self.problem(ProblemKind::Unsupported, "key", reason);
        }
        Some(TlsMaterial { ca_pem: ca_pem?, cert_pem: cert_pem?, key_pem })
    }

    fn peer(&mut self) -> Option<tunnel::NameCheck> {
        Some(match self.profile.tls.name_check.clone()? {
            NameCheck::CommonName(name) => tunnel::NameCheck::Name(name),
            NameCheck::CommonNamePrefix(prefix) => tunnel::NameCheck::Prefix(prefix),
            NameCheck::Subject(subject) => tunnel::NameCheck::Subject(subject),
        })
    }

    fn crl(&mut self) -> Option<PathBuf> {
        match self.profile.tls.crl.as_ref()? {
            Crl::List(Source::File(name)) => return Some(self.dir.join(name)),
            Crl::List(Source::Inline(_)) => {
                let reason = "the list must be a file, so that a newer one can take its place; write it into one";
                self.problem(ProblemKind::Unsupported, "crl-verify", reason);
            }
            Crl::Directory(_) => {
                self.problem(ProblemKind::Unsupported, "crl-verify", "name a file with a list instead of a directory");
            }
        }
        None
    }

    fn ciphers(&mut self) -> Vec<tunnel::Cipher> {
        let (mut known, mut unknown) = (Vec::new(), Vec::new());
        for cipher in &self.profile.data.ciphers {
            match cipher.name().parse() {
                Ok(cipher) => known.push(cipher),
                Err(_) => unknown.push(cipher.name()),
            }
        }
        if known.is_empty() {
            let reason = format!("of these ciphers none is spoken: {}", unknown.join(", "));
            self.problem(ProblemKind::Unsupported, "data-ciphers", reason);
        } else if !unknown.is_empty() {
            self.note("data-ciphers", format!("not offered: {}", unknown.join(", ")));
        }
        known
    }

    fn fallback(&mut self) -> Option<tunnel::Cipher> {
        self.profile.data.fallback.and_then(|cipher| cipher.name().parse().ok())
    }

    fn mss_fix(&mut self, first: &Connection) -> MssFix {
        let fix = match first.mssfix {
            profile::Mssfix::Off => MssFix::Off,
            profile::Mssfix::Outer(bytes) => MssFix::Datagram(bytes.max(MssFix::LEAST)),
            profile::Mssfix::Payload(bytes) => MssFix::Payload(bytes.max(MssFix::LEAST)),
            profile::Mssfix::Inner(bytes) => MssFix::Inner(bytes.max(MssFix::LEAST)),
        };
        if let profile::Mssfix::Outer(bytes) | profile::Mssfix::Payload(bytes) | profile::Mssfix::Inner(bytes) =
            first.mssfix
            && bytes < MssFix::LEAST
        {
            self.note("mssfix", format!("{} bytes are the least", MssFix::LEAST));
        }
        fix
    }

    fn mtu(&mut self, first: &Connection) -> u16 {
        let largest = tunnel::MAX_MTU;
        if first.tun_mtu > largest {
            self.note("tun-mtu", format!("{largest} is the largest possible"));
        }
        if first.tun_mtu_max > largest {
            self.note("tun-mtu-max", format!("{largest} is the largest possible"));
        }
        first.tun_mtu.clamp(576, largest)
    }
}

fn version(version: profile::TlsVersion) -> TlsVersion {
    match version {
        profile::TlsVersion::V1_2 => TlsVersion::V1_2,
        profile::TlsVersion::V1_3 => TlsVersion::V1_3,
    }
}

/// What two connections must have in common.
fn same(wrapping: &Wrapping) -> (u8, Option<profile::KeyDirection>, Option<String>) {
    let text = |source: &Source<SecretString>| {
        Some(match source {
            Source::Inline(text) => text.expose_secret().to_owned(),
            Source::File(name) => name.clone(),
        })
    };
    match wrapping {
        Wrapping::None => (0, None, None),
        Wrapping::TlsAuth { key, direction } => (1, Some(*direction), text(key)),
        Wrapping::TlsCrypt(key) => (2, None, text(key)),
        Wrapping::TlsCryptV2(key) => (3, None, text(key)),
    }
}
