//! A public host becomes an edge.

use std::fs;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use authority::Authority;
use control::Inspector;
use hostcheck::{MailServer, found};
use hostnet::Netlink;
use ipnet::Ipv4Net;
use model::{Finding, Grade, HostId, Hostname, JoinCodeInfo, Port, Protocol, Role, TunnelState};
use pki::{HostIdentity, Validity};
use secrecy::SecretString;

use crate::clock::clock;
use crate::configuration::{self, EdgeFile, Ingress, Service, Tunnel};
use crate::error::LOOK_AT_DISK;
use crate::names::{self, Addresses, Record};
use crate::{Mail, Paths, SetupError, host, memory, ports, unit};

/// What the hosts are called in their certificates: one of each.
const EDGE: &str = "edge";
const HOME: &str = "home";
/// Where the tunnel waits.
const TUNNEL_PORT: u16 = 1194;
/// The first of these that is in use nowhere on the host is used inside the tunnel.
const SUBNETS: [[u8; 4]; 4] = [[10, 86, 0, 0], [10, 187, 0, 0], [172, 27, 86, 0], [192, 168, 186, 0]];
const PREFIX: u8 = 24;
/// The link of the tunnel.
const LINK: &str = "cah0";
const LETS_ENCRYPT: &str = "https://acme-v02.api.letsencrypt.org/directory";
/// For images and their data, bytes: Caddy alone, and with Ghost and its database.
const ROOM: [u64; 2] = [2 << 30, 5 << 30];
/// MiB.
const MEMORY: [u64; 2] = [400, 900];

/// What a person says about an edge.
#[derive(Debug, Clone)]
pub struct EdgeAnswers {
    /// The domain under which services get their names.
    pub domain: Hostname,
    /// Where certificate authorities write.
    pub email: String,
    /// The public IPv4 address, where the host's own is translated.
    pub address: Option<Ipv4Addr>,
    /// Whether there is a blog at the domain itself.
    pub blog: bool,
    /// Whether to go on while the names do not lead here yet.
    pub dns_later: bool,
    /// Another ACME server than Let's Encrypt.
    pub acme_directory: Option<String>,
    /// The root of that server's own API, PEM.
    pub acme_api_root: Option<PathBuf>,
    /// The root of the certificates that it issues, PEM.
    pub acme_issuer_root: Option<PathBuf>,
    /// By which server the blog sends mail.
    pub mail: Option<Mail>,
}

/// What an edge that is set up already says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Existing {
    /// Its domain.
    pub domain: Hostname,
    /// Where certificate authorities write; none where it has no ingress.
    pub email: Option<String>,
    /// Whether it has a blog.
    pub blog: bool,
    /// The ACME server, where it is another one than Let's Encrypt.
    pub acme_directory: Option<String>,
    /// The root of that server's own API, PEM.
    pub acme_api_root: Option<PathBuf>,
}

impl Existing {
    /// Reads the edge's configuration, if there is one.
    ///
    /// # Errors
    /// When it cannot be read, or has no domain.
    pub fn read(paths: &Paths) -> Result<Option<Self>, SetupError> {
        let path = paths.configuration(Role::Edge);
        let name = path.display();
        let next = "`agentctl config check` names the line; or move the file away to set this host up anew";
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(SetupError::because(format!("{name} cannot be read"), error, "run it with sudo")),
        };
        let table: toml::Table = toml::from_str(&text)
            .map_err(|error| SetupError::because(format!("{name} is no configuration"), error, next))?;
        let domain = table.get("domain").and_then(|domain| domain.as_str()?.parse().ok());
        let domain = domain.ok_or_else(|| SetupError::new(format!("{name} has no domain"), next))?;
        let ingress = |key: &str| Some(table.get("ingress")?.get(key)?.as_str()?.to_owned());
        let services = table.get("services").and_then(toml::Value::as_table);
        let blog = services.is_some_and(|services| {
            services.values().any(|service| service.get("kind").and_then(toml::Value::as_str) == Some("ghost"))
        });
        let (email, acme_directory) = (ingress("email"), ingress("acme_directory"));
        Ok(Some(Self { domain, email, blog, acme_directory, acme_api_root: ingress("acme_api_root").map(Into::into) }))
    }
}

/// A join code that was made.
#[derive(Debug)]
pub struct Offer {
    /// The code.
    pub code: SecretString,
    /// What is kept of it.
    pub info: JoinCodeInfo,
    /// Whether it carries the edge's address. If not, home must be told it.
    pub carries_address: bool,
}

/// An edge to be.
#[derive(Debug)]
pub struct Edge {
    paths: Paths,
    answers: EdgeAnswers,
    to: Addresses,
    own: Addresses,
}

impl Edge {
    /// An edge by these answers.
    #[must_use]
    pub fn new(paths: Paths, answers: EdgeAnswers) -> Self {
        let own = Addresses::own();
        let to = Addresses { ipv4: answers.address.or(own.ipv4), ..own };
        Self { paths, answers, to, own }
    }

    /// Looks at the host and at the DNS. Nothing is changed.
    pub async fn look(&self) -> (Vec<Finding>, Vec<Record>) {
        let blog = usize::from(self.answers.blog);
        let apex = self.answers.blog;
        let (mut findings, (records, strays), clock, mail) = tokio::join!(
            host::host(Role::Edge, ROOM[blog]),
            names::records(&self.answers.domain, apex, &self.to),
            self.clock(),
            hostcheck::mail(self.mail_server())
        );
        let (whom, next) = match self.answers.blog {
            true => ("an edge with a blog", "add swap or memory, or go without the blog: --no-blog"),
            false => ("an edge", "add swap or memory"),
        };
        findings.push(memory::memory(MEMORY[blog], whom, next));
        findings.extend(self.before());
        if unit::is_active(Role::Edge).await {
            findings.push(found("ports", Grade::Good, "edge-agent runs, and has them", None));
        } else {
            findings.extend(ports::ports(&PORTS));
        }
        findings.push(clock);
        findings.push(names::public_address(&self.to, &self.own));
        findings.extend(mail);
        findings.extend(names::findings(&records, &strays, self.answers.dns_later));
        // Its own Caddy has the ports, also while the agent is down.
        let is_set_up = self.paths.configuration(Role::Edge).exists();
        (if is_set_up { host::judged_before(findings) } else { findings }, records)
    }

    /// What this host was before.
    fn before(&self) -> Option<Finding> {
        if self.paths.configuration(Role::Home).exists() {
            let next = "`sudo agentctl leave` takes it out of its cloud";
            return Some(found("host", Grade::Bad, "this host is the home of a cloud", Some(next)));
        }
        let (identity, authority) = (self.paths.identity(), self.paths.authority());
        (identity.exists() && !Authority::is_at(&authority)).then(|| {
            let text = format!("{} was made by hand, by an authority that is not on this host", identity.display());
            let next = "go on by hand, as docs/operations.md has it; or move it away: then every host joins anew";
            found("identity", Grade::Bad, text, Some(next))
        })
    }

    /// The clock, by that of the ACME server, which must be got to in any case.
    async fn clock(&self) -> Finding {
        let directory = self.answers.acme_directory.as_deref().unwrap_or(LETS_ENCRYPT);
        let root = self.answers.acme_api_root.as_ref().map(fs::read_to_string);
        let asked = match root.transpose() {
            Ok(root) => acme::time_of(directory, root.as_deref()).await,
            Err(error) => Err(format!("the file of acme_api_root cannot be read: {error}")),
        };
        match asked {
            Ok(theirs) => clock(theirs, SystemTime::now(), "the ACME server"),
            Err(why) => found(
                "certificates",
                Grade::Bad,
                format!("{directory}, where certificates come from, cannot be asked: {why}"),
                Some("is 443/tcp let out? is the clock right (`timedatectl`)? does `getent hosts` find its name?"),
            ),
        }
    }

    fn mail_server(&self) -> Vec<MailServer> {
        let blog = if self.answers.blog { self.answers.mail.as_ref() } else { None };
        blog.and_then(|mail| mail.server("ghost")).into_iter().collect()
    }

    /// What is left to be done, in words for people.
    #[must_use]
    pub fn plan(&self) -> Vec<String> {
        let (file, authority) = (self.paths.configuration(Role::Edge), self.paths.authority());
        let mut plan = Vec::new();
        if !Authority::is_at(&authority) {
            plan.push(format!("make a certificate authority of your own in {}", authority.display()));
        }
        if !file.exists() {
            plan.push(format!("write {}", file.display()));
        }
        plan.push(format!("start {} now and with this host; it runs Caddy in Docker", unit::unit(Role::Edge)));
        if self.answers.blog {
            plan.push(format!("run Ghost and its database in Docker, at https://{}", self.answers.domain));
        }
        plan.push("make a join code, if home is not connected".to_owned());
        plan
    }

    /// Sets it up, or what is left to be done of it; `say` hears of each step when it is done.
    ///
    /// # Errors
    /// Naming the step. A second call goes on from there.
    pub async fn set_up(&self, say: &mut dyn FnMut(&str)) -> Result<(), SetupError> {
        let failed = |error: &dyn std::fmt::Display| SetupError::new(error.to_string(), LOOK_AT_DISK);
        state::private_dir(&self.paths.state).map_err(|error| failed(&error))?;
        // The agent takes the authority up: what runs has it.
        if !unit::is_active(Role::Edge).await {
            self.identity(say)
                .map_err(|error| SetupError::because("this host could not be made an edge", error, LOOK_AT_DISK))?;
        }
        let file = self.paths.configuration(Role::Edge);
        if file.exists() {
            say(&format!("{} is there already and stays as it is", file.display()));
        } else {
            configuration::put(&self.paths, Role::Edge, &self.file(subnet().await?)).await?;
            say(&format!("{} written", file.display()));
        }
        unit::start(Role::Edge).await?;
        say(&format!("{} runs", unit::unit(Role::Edge)));
        Ok(())
    }

    /// Authority and identity. When this returns nobody has the authority open.
    fn identity(&self, say: &mut dyn FnMut(&str)) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let (dir, now) = (self.paths.authority(), SystemTime::now());
        let mut authority = if Authority::is_at(&dir) {
            Authority::open(&dir)?
        } else {
            let authority = Authority::create(&dir, &format!("CloudAtHome {}", self.answers.domain), now)?;
            say(&format!("certificate authority made in {}", dir.display()));
            authority
        };
        let place = self.paths.identity();
        if place.exists() {
            let there = HostIdentity::load(&place)?;
            if there.ca_pem.contains(authority.ca_pem().trim()) && there.info()?.role.role == Role::Edge {
                return Ok(());
            }
            let told = format!("{} is of another authority than the one of this host: move it away", place.display());
            return Err(told.into());
        }
        let name: HostId = EDGE.parse()?;
        let identity = authority.issue(Role::Edge, &name, Validity::LEAF, now)?;
        let tls_crypt = authority.server_key().clone();
        HostIdentity { ca_pem: authority.ca_pem().to_owned(), identity, tls_crypt }.save(&place)?;
        say("this host's own identity made");
        Ok(())
    }

    fn file(&self, subnet: Ipv4Net) -> EdgeFile {
        let answers = self.answers.clone();
        EdgeFile {
            domain: answers.domain.to_string(),
            tunnel: Tunnel { mode: "listen", peer: HOME.to_owned(), remotes: vec![], subnet },
            ingress: Ingress {
                email: answers.email,
                acme_directory: answers.acme_directory,
                acme_api_root: answers.acme_api_root,
                acme_issuer_root: answers.acme_issuer_root,
            },
            services: if answers.blog { Service::only("ghost", answers.mail) } else { Default::default() },
        }
    }

    /// Makes a join code, unless home is connected already.
    ///
    /// # Errors
    /// When the agent makes none.
    pub async fn offer(&self, life: Duration) -> Result<Option<Offer>, SetupError> {
        let socket = self.paths.socket(Role::Edge);
        let asked = async {
            let mut agent = Inspector::connect(&socket).await?;
            let (local, _) = agent.status().await?;
            if local.tunnel.state == TunnelState::Connected {
                return Ok(None);
            }
            agent.new_code(self.to.ipv4, life).await.map(Some)
        };
        let made = asked.await.map_err(|error: control::InspectorError| {
            SetupError::because("the edge runs, and makes no join code", error, "try `sudo agentctl code new`")
        })?;
        Ok(made.map(|(code, info)| Offer { code, info, carries_address: self.to.ipv4.is_some() }))
    }
}

/// What must be free on an edge.
const PORTS: [Port; 5] = [
    Port { number: 80, over: Protocol::Tcp },
    Port { number: 443, over: Protocol::Tcp },
    Port { number: 443, over: Protocol::Udp },
    Port { number: TUNNEL_PORT, over: Protocol::Tcp },
    Port { number: TUNNEL_PORT, over: Protocol::Udp },
];

/// Addresses for the tunnel that this host does not use otherwise.
async fn subnet() -> Result<Ipv4Net, SetupError> {
    let next = "run it with sudo";
    let failed = |error| SetupError::because("the kernel does not tell which addresses are in use", error, next);
    let kernel = Netlink::open().map_err(failed)?;
    for subnet in SUBNETS {
        let subnet = Ipv4Net::new_assert(subnet.into(), PREFIX);
        if kernel.collision(subnet, LINK).await.map_err(failed)?.is_none() {
            return Ok(subnet);
        }
    }
    let all: Vec<String> = SUBNETS.iter().map(|subnet| Ipv4Addr::from(*subnet).to_string()).collect();
    let text = format!("all of the networks that the tunnel could use are in use here: {}", all.join(", "));
    Err(SetupError::new(text, "give one of them up, or set the edge up by hand with another one"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(dir: &std::path::Path) -> Paths {
        Paths { etc: dir.join("etc"), state: dir.join("state"), run: dir.join("run") }
    }

    fn edge(dir: &std::path::Path) -> Edge {
        let answers = EdgeAnswers {
            domain: "example.com".parse().unwrap(),
            email: "me@example.com".into(),
            address: None,
            blog: true,
            dns_later: false,
            acme_directory: None,
            acme_api_root: None,
            acme_issuer_root: None,
            mail: None,
        };
        Edge::new(paths(dir), answers)
    }

    #[test]
    fn an_existing_edge_says_what_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let edge = edge(dir.path());
        assert_eq!(Existing::read(&edge.paths).unwrap(), None);
        fs::create_dir(&edge.paths.etc).unwrap();
        let write = |text: &str| fs::write(edge.paths.configuration(Role::Edge), text).unwrap();
        write(&toml::to_string(&edge.file("10.86.0.0/24".parse().unwrap())).unwrap());
        let existing = Existing::read(&edge.paths).unwrap().unwrap();
        assert_eq!(
            (existing.domain.as_str(), existing.email.as_deref(), existing.blog),
            ("example.com", Some("me@example.com"), true)
        );
        for wrong in ["", "domain = 1", "domain = ["] {
            write(wrong);
            assert!(Existing::read(&edge.paths).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_identity_is_made_once_and_another_authoritys_is_not_touched() {
        let dir = tempfile::tempdir().unwrap();
        let edge = edge(dir.path());
        fs::create_dir(&edge.paths.state).unwrap();
        let mut said = Vec::new();
        edge.identity(&mut |step| said.push(step.to_owned())).unwrap();
        assert_eq!(said.len(), 2, "{said:?}");
        let first = HostIdentity::load(&edge.paths.identity()).unwrap();
        assert!(first.is_v2() && first.info().unwrap().role.name.as_str() == EDGE);
        edge.identity(&mut |step| panic!("{step}")).unwrap();
        assert!(HostIdentity::load(&edge.paths.identity()).unwrap().is_same(&first));
        assert_eq!(edge.before(), None);

        fs::remove_dir_all(edge.paths.authority()).unwrap();
        assert_eq!(edge.before().unwrap().grade, Grade::Bad);
        let error = edge.identity(&mut |_| ()).unwrap_err().to_string();
        assert!(error.contains("another authority"), "{error}");
        assert!(HostIdentity::load(&edge.paths.identity()).unwrap().is_same(&first));
    }
}
