//! What a service is: its containers in order, what shows that each of them and the whole works, what it keeps, and
//! how it is set up, saved and brought back. Pure data, made by the application's definition and a few options.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{ContainerSpec, Generation, ServiceName};

/// One service as it is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceSpec {
    /// Its name.
    pub name: ServiceName,
    /// Which generation of its images and volumes this is.
    pub generation: Generation,
    /// What is to run of it.
    pub run: Run,
    /// Its containers. Each comes after those that it needs; they are stopped in the opposite order.
    pub units: Vec<Unit>,
    /// What the whole must show to be healthy, beyond what its units show. For an external service this is all there
    /// is.
    pub checks: Vec<Check>,
    /// Commands that bring its own configuration in line, in order, once it is healthy: after each start of a container
    /// they run in and when one of them changed. Each may run any number of times.
    pub setup: Vec<Hook>,
    /// What it keeps.
    pub volumes: Vec<VolumeSpec>,
    /// How it is upgraded; none for what has no upgrade of its own.
    pub upgrade: Option<UpgradeSpec>,
    /// The program that administers it, if it has one: Nextcloud's `occ`.
    pub admin: Option<AdminCommand>,
}

impl ServiceSpec {
    /// The first generation of a service of these units, with nothing else.
    #[must_use]
    pub fn new(name: ServiceName, units: Vec<Unit>) -> Self {
        Self {
            name,
            generation: Generation(1),
            run: Run::All,
            units,
            checks: Vec::new(),
            setup: Vec::new(),
            volumes: Vec::new(),
            upgrade: None,
            admin: None,
        }
    }
}

/// A program in one of the service's containers that administers it, to be followed by a person's arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdminCommand {
    /// The container, by its name without our prefix.
    pub container: String,
    /// The user inside, by name or number.
    pub user: String,
    /// The program and its first arguments.
    pub command: Vec<String>,
}

/// What is to run of a service.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Run {
    /// All of it.
    #[default]
    All,
    /// Nothing: a person stopped it.
    Nothing,
    /// These containers only, while an upgrade or a restore is at work.
    Only(Vec<String>),
}

/// A container and its place in the service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unit {
    /// The container.
    pub container: ContainerSpec,
    /// Names of containers of the same service that must be ready before this one is started.
    pub needs: Vec<String>,
    /// What shows that it is ready; none: it is as soon as it runs.
    pub ready: Option<Check>,
    /// A container that was ready, or had its grace, and whose check fails for so long is started anew; none: never.
    pub restart_after: Option<Duration>,
}

/// Something to be asked again and again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// The container that answers, by its name without our prefix: its state explains what an answer can't. None for an
    /// external service.
    pub container: Option<String>,
    /// What is asked, and which answer is right.
    pub probe: Probe,
    /// The time between two checks.
    pub interval: Duration,
    /// How long an answer may take.
    pub timeout: Duration,
    /// So long after a start of the container, a wrong answer is no fault yet.
    pub grace: Duration,
}

/// A question with its right answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Probe {
    /// An HTTP request.
    Http(HttpProbe),
    /// A TCP connection is accepted.
    Tcp(SocketAddr),
    /// A command in the check's container ends with 0.
    Exec {
        /// The user inside, by name or number.
        user: String,
        /// Program and arguments.
        command: Vec<String>,
    },
}

/// A GET request and what its answer must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpProbe {
    /// Where.
    pub target: Target,
    /// Path and query, for example `/status.php`.
    pub path: String,
    /// The Host header.
    pub host: String,
    /// Whether to say `X-Forwarded-Proto: https`, for services that redirect plain requests.
    pub forwarded_https: bool,
    /// The status that is right.
    pub status: u16,
    /// What else must hold, in order; the first that doesn't gives the reason.
    pub expect: Vec<Expect>,
}

/// Where HTTP is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// At an address.
    Tcp(SocketAddr),
    /// At a unix socket.
    Unix(PathBuf),
}

/// A demand on an HTTP answer, with the words for people when it is not met.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expect {
    /// What must hold.
    pub that: Expectation,
    /// What it means when it does not, and what to do, for example `Nextcloud is in maintenance mode; ...`.
    pub otherwise: String,
}

/// What must hold of an HTTP answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expectation {
    /// A header has this value.
    Header {
        /// The name, in lower case.
        name: String,
        /// The value.
        value: String,
    },
    /// The body is JSON, and the value at this pointer (RFC 6901) is this one.
    Json {
        /// The pointer, for example `/installed`.
        pointer: String,
        /// The value as JSON text, for example `true`.
        equals: String,
    },
}

/// A command in one of the service's containers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hook {
    /// What it is for, in words for people, for example `installing the app mail`.
    pub what: String,
    /// The container, by its name without our prefix.
    pub container: String,
    /// The user inside, by name or number.
    pub user: String,
    /// Program and arguments. Secrets do not belong here: programs' arguments can be seen.
    pub command: Vec<String>,
    /// How long it may take.
    pub timeout: Duration,
    /// Exit codes besides 0 that mean that there was nothing to do.
    pub also_fine: Vec<i64>,
    /// Whether nobody may be let in before it has succeeded: until then the service is starting.
    pub before_publishing: bool,
}

/// A volume and what it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeSpec {
    /// The engine's name of it.
    pub name: String,
    /// What it holds.
    pub kind: VolumeKind,
}

/// What a volume holds, and so how it is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VolumeKind {
    /// Code, configuration, apps, a small database in a file: copied before an upgrade and brought back after a failed one.
    State,
    /// A database server's files: saved by a dump, never by copying.
    Database,
    /// What people put in. Never copied: it may be as large as the disk.
    Data,
    /// Dumps and other things that can be made again.
    Scratch,
}

/// How a service is upgraded and brought back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpgradeSpec {
    /// Which versions may follow which.
    pub path: UpgradePath,
    /// Containers whose image is the application's: the ones that change. All of them have the same image.
    pub units: Vec<String>,
    /// Its databases, each in a container that goes on running while the application is stopped.
    pub databases: Vec<DatabaseSpec>,
    /// Commands after the new version is up and healthy.
    pub after: Vec<Hook>,
    /// What the application itself must show to be up to date, beyond its health.
    pub up_to_date: Vec<Check>,
}

/// Which version of an application may follow which, by the numbers in its image's tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UpgradePath {
    /// Not to an older version, and not over a major version (Nextcloud).
    OneMajor,
    /// Not to an older version (Ghost).
    NeverDown,
    /// Any.
    Free,
}

/// A database: how its content is dumped to a file and brought back from one. The commands run in its container; in their
/// arguments the text `{dump}` stands for the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatabaseSpec {
    /// Its container, by its name without our prefix.
    pub container: String,
    /// The user inside.
    pub user: String,
    /// Where in the container the dumps lie: on a volume of [`VolumeKind::Scratch`].
    pub directory: PathBuf,
    /// Writes the dump, roles included, and fails when it is not whole.
    pub dump: Vec<String>,
    /// Fails when a file that the restore reads is missing or not whole. Changes nothing.
    pub verify: Vec<String>,
    /// Makes the database what the dump says, whatever it is now.
    pub restore: Vec<String>,
}
