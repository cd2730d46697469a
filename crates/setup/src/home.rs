//! A host at home joins its edge.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use authority::code::JoinCode;
use enrol::{JoinError, Joined};
use hostcheck::found;
use hostnet::Netlink;
use model::{Finding, Grade, Hostname, Role};
use pki::{HostIdentity, PrivateKey};
use secrecy::ExposeSecret;
use tokio::net::lookup_host;
use tokio::time::timeout;

use crate::clock::clock;
use crate::configuration::{self, Control, HomeFile, Outside, Service, Tunnel};
use crate::error::LOOK_AT_DISK;
use crate::{Mail, Paths, SetupError, host, memory, unit};

/// The link of the tunnel.
const LINK: &str = "cah0";
/// The control channel's usual port.
const CONTROL_PORT: u16 = 7443;
/// A name that the wildcard record covers: the edge stays reachable when its address changes.
const EDGE_LABEL: &str = "edge";
/// For Nextcloud's images, its database and the first files, bytes; for external services nearly nothing.
const ROOM: [u64; 2] = [1 << 30, 8 << 30];
/// MiB.
const MEMORY: [u64; 2] = [200, 1500];
/// For a name server to answer.
const RESOLVING: Duration = Duration::from_secs(5);

/// What a person says about a home.
#[derive(Debug, Clone, Default)]
pub struct HomeAnswers {
    /// Where the edge is, when not where the code says: its name or address, and the port if it is another.
    pub edge: Option<(String, Option<u16>)>,
    /// Whether to go without Nextcloud.
    pub no_nextcloud: bool,
    /// The root of the public names' certificates, PEM, when it is not a public one.
    pub issuer_root: Option<PathBuf>,
    /// By which server Nextcloud sends mail.
    pub mail: Option<Mail>,
}

/// Reads `HOST` or `HOST:PORT`; an IPv6 address with a port stands in brackets.
///
/// # Errors
/// In words for people.
pub fn remote(text: &str) -> Result<(String, Option<u16>), String> {
    let wrong = || format!("{text:?} is neither HOST nor HOST:PORT, as in vps.example.com or 203.0.113.7:1194");
    let is_name = |host: &str| !host.is_empty() && host.chars().all(|c| c.is_ascii_alphanumeric() || ".-".contains(c));
    if text.parse::<std::net::Ipv6Addr>().is_ok() {
        return Ok((text.to_owned(), None));
    }
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Ok((address.ip().to_string(), Some(address.port()).filter(|&port| port != 0)));
    }
    let (host, port) = match text.split_once(':') {
        Some((host, port)) => (host, Some(port.parse().ok().filter(|&port| port != 0).ok_or_else(wrong)?)),
        None => (text, None),
    };
    if is_name(host) { Ok((host.to_owned(), port)) } else { Err(wrong()) }
}

/// A home to be.
#[derive(Debug)]
pub struct Home {
    paths: Paths,
    answers: HomeAnswers,
}

impl Home {
    /// A home by these answers.
    #[must_use]
    pub fn new(paths: Paths, answers: HomeAnswers) -> Self {
        Self { paths, answers }
    }

    /// Whether this host has joined, and needs no code to go on.
    #[must_use]
    pub fn has_joined(&self) -> bool {
        self.paths.configuration(Role::Home).exists() && HostIdentity::load(&self.paths.identity()).is_ok()
    }

    /// Looks at the host. Nothing is changed.
    pub async fn look(&self) -> Vec<Finding> {
        let nextcloud = usize::from(!self.answers.no_nextcloud);
        let mail = self.answers.mail.as_ref().filter(|_| nextcloud == 1).and_then(|mail| mail.server("nextcloud"));
        let (mut findings, mail) =
            tokio::join!(host::host(Role::Home, ROOM[nextcloud]), hostcheck::mail(mail.into_iter().collect()));
        let whom = if nextcloud == 1 { "Nextcloud with its database" } else { "a home" };
        findings.push(memory::memory(MEMORY[nextcloud], whom, "add swap or memory"));
        if self.paths.configuration(Role::Edge).exists() {
            let next = "home is another machine; or `sudo agentctl leave` takes this one out of its cloud";
            findings.push(found("host", Grade::Bad, "this host is the edge of a cloud", Some(next)));
        }
        findings.extend(mail);
        if self.has_joined() { host::judged_before(findings) } else { findings }
    }

    /// Looks at the edge of a code, which stays unused.
    ///
    /// # Errors
    /// When nobody says where the edge is, or it has no address.
    pub async fn look_there(&self, code: &JoinCode) -> Result<Vec<Finding>, SetupError> {
        let (edge, time) = self.find(code).await?;
        let there = found("edge", Grade::Good, format!("{edge} is the edge that made this code"), None);
        Ok(vec![there, clock(time, SystemTime::now(), "the edge")])
    }

    /// What will be done, in words for people.
    #[must_use]
    pub fn plan(&self) -> Vec<String> {
        let mut plan = vec![
            format!(
                "make a key, which stays on this host, and have the edge certify it ({})",
                self.paths.identity().display()
            ),
            match self.paths.configuration(Role::Home) {
                file if file.exists() => {
                    let aside = self.paths.free_name_aside(Role::Home);
                    format!("write {}; the one that is there becomes {}", file.display(), aside.display())
                }
                file => format!("write {}", file.display()),
            },
            format!("start {} now and with this host", unit::unit(Role::Home)),
        ];
        if !self.answers.no_nextcloud {
            plan.push("run Nextcloud with PostgreSQL, Redis and cron in Docker".to_owned());
        }
        plan
    }

    /// Joins by a code; `say` hears of each step when it is done.
    ///
    /// # Errors
    /// Naming the step. A second call with the same code goes on from there.
    pub async fn join(&self, code: &JoinCode, say: &mut dyn FnMut(&str)) -> Result<Hostname, SetupError> {
        let (edge, _) = self.find(code).await?;
        let key = self.key()?;
        let joined = enrol::join(edge, code, &key).await.map_err(told)?;
        say(&format!("the edge has certified this host as {}", joined.home));
        free(&joined).await?;
        let failed = |error: &dyn std::error::Error| {
            SetupError::new(format!("this host's identity cannot be kept: {error}"), LOOK_AT_DISK)
        };
        joined.identity.save(&self.paths.identity()).map_err(|error| failed(&error))?;
        let file = self.paths.configuration(Role::Home);
        let aside = configuration::put(&self.paths, Role::Home, &self.file(&joined, code, edge)).await?;
        if let Some(aside) = aside {
            say(&format!("the configuration that was there is {} now", aside.display()));
        }
        say(&format!("{} written", file.display()));
        // The identity has it.
        fs::remove_file(self.paths.join_key()).ok();
        Ok(joined.domain)
    }

    /// Starts the agent now and with the host.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn start(&self, say: &mut dyn FnMut(&str)) -> Result<(), SetupError> {
        unit::start(Role::Home).await?;
        say(&format!("{} runs", unit::unit(Role::Home)));
        Ok(())
    }

    /// Where the edge is, as a person or the code says.
    fn place(&self, code: &JoinCode) -> Result<(String, u16), SetupError> {
        let port = code.place.port;
        match (&self.answers.edge, code.place.address) {
            (Some((host, other)), _) => Ok((host.clone(), other.unwrap_or(port))),
            (None, Some(address)) => Ok((address.to_string(), port)),
            (None, None) => {
                Err(SetupError::new("this code does not say where the edge is", "say it, as in --edge vps.example.com"))
            }
        }
    }

    /// The first of the edge's addresses at which it answers, and its time.
    async fn find(&self, code: &JoinCode) -> Result<(SocketAddr, SystemTime), SetupError> {
        let (host, port) = self.place(code)?;
        let next = "correct --edge, or look at this host's name servers (/etc/resolv.conf)";
        let looked = timeout(RESOLVING, lookup_host((host.as_str(), port))).await;
        let looked = looked.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()));
        let addresses = looked.map_err(|error| SetupError::because(format!("{host} has no address"), error, next))?;
        let mut last = SetupError::new(format!("{host} has no address"), next);
        for address in addresses {
            match enrol::look(address, code).await {
                Ok(time) => return Ok((address, time)),
                Err(error) => last = told(error),
            }
        }
        Err(last)
    }

    /// The key that joins: the one of an earlier try, which may have used the code up.
    fn key(&self) -> Result<PrivateKey, SetupError> {
        let path = self.paths.join_key();
        let earlier = fs::read_to_string(&path).ok().and_then(|pem| PrivateKey::from_pem(&pem).ok());
        if let Some(key) = earlier {
            return Ok(key);
        }
        let what = || format!("{} cannot be written", path.display());
        let key =
            PrivateKey::generate().map_err(|error| SetupError::because("no key can be made", error, LOOK_AT_DISK))?;
        state::private_dir(&self.paths.state)
            .and_then(|()| state::write_private(&path, key.to_pem().expose_secret().as_bytes()))
            .map_err(|error| SetupError::because(what(), error, LOOK_AT_DISK))?;
        Ok(key)
    }

    fn file(&self, joined: &Joined, code: &JoinCode, edge: SocketAddr) -> HomeFile {
        let (host, port) = self.place(code).unwrap_or_else(|_| (edge.ip().to_string(), edge.port()));
        let host = if host.contains(':') { format!("[{host}]") } else { host };
        let name = format!("{EDGE_LABEL}.{}", joined.domain);
        let mut hosts = vec![host];
        if !hosts.contains(&name) {
            hosts.push(name);
        }
        let remotes = hosts.iter().flat_map(|host| [format!("{host}:{port}"), format!("{host}:{port}/tcp")]).collect();
        let answers = self.answers.clone();
        HomeFile {
            domain: joined.domain.to_string(),
            tunnel: Tunnel { mode: "dial", peer: joined.edge.to_string(), remotes, subnet: joined.subnet },
            control: (joined.control_port != CONTROL_PORT).then_some(Control { port: joined.control_port }),
            outside: answers.issuer_root.map(|issuer_root| Outside { issuer_root }),
            services: if answers.no_nextcloud { Default::default() } else { Service::only("nextcloud", answers.mail) },
        }
    }
}

/// Whether the tunnel's addresses are free here.
async fn free(joined: &Joined) -> Result<(), SetupError> {
    let failed =
        |error| SetupError::because("the kernel does not tell which addresses are in use", error, "run it with sudo");
    let collision = Netlink::open().map_err(failed)?.collision(joined.subnet, LINK).await.map_err(failed)?;
    match collision {
        None => Ok(()),
        Some(collision) => Err(SetupError::new(
            format!("the tunnel's network {} cannot be used here: {collision}", joined.subnet),
            "on the edge: another tunnel.subnet in /etc/cloudathome/edge.toml, `sudo systemctl restart cloudathome-edge`; \
             then join again with the same code",
        )),
    }
}

/// What to do when joining fails.
fn told(error: JoinError) -> SetupError {
    let next = match &error {
        JoinError::Connect(..) => {
            "on the edge: `sudo agentctl status`, and is 1194/tcp let in by its provider's firewall?"
        }
        JoinError::OtherEdge(_) => {
            "is the address right? the edge may have been set up anew since: then ask for a new code there"
        }
        JoinError::Clock => "`timedatectl set-ntp true`, on both hosts",
        JoinError::HungUp(..) | JoinError::Deadline(_) => "wait a minute, then try again with the same code",
        JoinError::Refused(_) => "make a new one on the edge: `sudo agentctl code new`",
        JoinError::Failed(..) => "on the edge: `journalctl -u cloudathome-edge`",
        JoinError::Answer(_) => "install the packages of the same release on both hosts",
        JoinError::Own(_) => LOOK_AT_DISK,
    };
    SetupError::because("this host has not joined", error, next)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_edge_is_named_in_many_ways() {
        let read = |text: &str| remote(text).ok();
        let of = |host: &str, port| Some((host.to_owned(), port));
        assert_eq!(read("vps.example.com"), of("vps.example.com", None));
        assert_eq!(read("vps.example.com:443"), of("vps.example.com", Some(443)));
        assert_eq!(read("203.0.113.7:1195"), of("203.0.113.7", Some(1195)));
        assert_eq!(read("2001:db8::7"), of("2001:db8::7", None));
        assert_eq!(read("[2001:db8::7]:1195"), of("2001:db8::7", Some(1195)));
        for wrong in ["", ":1194", "a b", "host:", "host:0", "host:70000", "https://host", "host/tcp", "\u{1b}[0m"] {
            assert_eq!(read(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn a_key_is_made_once() {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().to_owned();
        let paths = Paths { etc: base.join("etc"), state: base.join("state"), run: base.join("run") };
        let home = Home::new(paths, HomeAnswers::default());
        let first = home.key().unwrap().to_pem();
        assert_eq!(home.key().unwrap().to_pem().expose_secret(), first.expose_secret());
        let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(home.paths.join_key()).unwrap().permissions());
        assert_eq!(mode & 0o777, 0o600);
        assert!(!home.has_joined());
    }
}
