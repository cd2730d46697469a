//! What a server pushes, applied to the host for as long as a connection lives, and undone.
//!
//! [`Session::apply`] plans the steps from what is wanted and what the host has, writes down how to undo them, and takes
//! them. The device belongs to the process that has it open and goes with it, and with it everything that leads into the
//! tunnel. What is left is undone by [`Session::undo`], or after a crash by the next [`Session::open`]: routes past the
//! tunnel, the default route that was taken away, name resolution.

mod dns;
mod journal;
mod kernel;
mod plan;
mod settings;

use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use self::dns::Manager;
use self::journal::{Journal, Undo};
use self::plan::{Facts, Plan, RouteSpec, Step};
pub use self::settings::{Address, Dns, DnsServer, DnsTransport, Dnssec, Redirect, Route, Settings, Via};
use crate::netlink::{Netlink, NetlinkError};

/// Where things are on the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Places {
    /// Directory of the journals, which must outlive the process and a restart of the machine.
    pub journals: PathBuf,
    /// The file by which programs find DNS servers.
    pub resolv_conf: PathBuf,
}

impl Default for Places {
    /// `/var/lib/cloudathome/connections` and `/etc/resolv.conf`.
    fn default() -> Self {
        Self { journals: "/var/lib/cloudathome/connections".into(), resolv_conf: "/etc/resolv.conf".into() }
    }
}

/// Why a connection's settings could not be applied or undone.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The kernel refused.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// The journal cannot be used, so nothing is changed that could not be undone.
    #[error("cannot use the journal in {}", .dir.display())]
    Journal {
        /// Its directory.
        dir: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Another process has a connection over the device.
    #[error("another process has a connection over {0}; end it, or choose another device")]
    Busy(String),
}

/// What was done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Done {
    /// The changes, for people.
    pub changes: Vec<String>,
    /// What could not be followed, or need not be.
    pub notes: Vec<String>,
}

/// The part of a host's state that one connection owns.
#[derive(Debug)]
pub struct Session {
    netlink: Netlink,
    places: Places,
    device: String,
    journal: Journal,
    applied: Option<Applied>,
    undo: Vec<Undo>,
}

#[derive(Debug)]
struct Applied {
    settings: Settings,
    /// From before anything was changed.
    facts: Facts,
}

impl Session {
    /// Takes charge of the connection over `device`, and undoes what processes that did not come to their end have left
    /// in this network namespace, whatever their devices were. Needs a tokio runtime.
    ///
    /// # Errors
    /// When another process has a connection over the device, leftovers cannot be undone, or the journal cannot be used.
    pub async fn open(places: Places, device: &str) -> Result<(Self, Done), SessionError> {
        let netlink = Netlink::open()?;
        let fault = |source| SessionError::Journal { dir: places.journals.clone(), source };
        let mut done = Done::default();
        for other in Journal::devices(&places.journals).map_err(fault)? {
            // One that is locked has an owner who lives.
            if let Some(journal) = Journal::open(&places.journals, &other).map_err(fault)?
                && journal.is_of_here()
            {
                let undo = journal.read().map_err(fault)?;
                let left = roll_back(&netlink, undo, &mut done).await;
                journal.keep(&left).map_err(fault)?;
            }
        }
        let journal = Journal::open(&places.journals, device).map_err(fault)?;
        let journal = journal.ok_or_else(|| SessionError::Busy(device.to_owned()))?;
        // What could not be undone just now.
        let undo = journal.read().map_err(fault)?;
        let device = device.to_owned();
        Ok((Self { netlink, places, device, journal, applied: None, undo }, done))
    }

    /// What is applied now.
    #[must_use]
    pub fn applied(&self) -> Option<&Settings> {
        self.applied.as_ref().map(|applied| &applied.settings)
    }

    /// Gives the host what is wanted. What was applied before is undone first if it differs. Routes and name resolution
    /// that the host refuses are noted, not fatal.
    ///
    /// # Errors
    /// When the device cannot be set up, the host's state cannot be read, or the journal cannot be written; then nothing
    /// is left applied.
    pub async fn apply(&mut self, wanted: &Settings) -> Result<Done, SessionError> {
        if self.applied().is_some_and(|applied| applied == wanted) {
            return Ok(Done::default());
        }
        let mut done = self.undo().await;
        let result = self.make(wanted, &mut done).await;
        if result.is_err() {
            let undone = self.undo().await;
            done.changes.extend(undone.changes);
        }
        result.map(|()| done)
    }

    /// Sets the MTU and the queue of the tunnel's link anew, if something is applied; the rest stays as it is.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn set_link(&mut self, mtu: u32, tx_queue_len: u32) -> Result<Done, SessionError> {
        let Some(Applied { settings, .. }) = &mut self.applied else { return Ok(Done::default()) };
        if (settings.mtu, settings.tx_queue_len) == (mtu, tx_queue_len) {
            return Ok(Done::default());
        }
        let step = Step::Link { mtu, tx_queue_len };
        self.netlink.take(&self.device, &step).await?;
        (settings.mtu, settings.tx_queue_len) = (mtu, tx_queue_len);
        Ok(Done { changes: vec![step.to_string()], notes: Vec::new() })
    }

    async fn make(&mut self, wanted: &Settings, done: &mut Done) -> Result<(), SessionError> {
        let mut facts = self.netlink.facts(wanted.server).await?;
        facts.name_servers = name_servers(&self.places.resolv_conf);
        let Plan { steps, notes } = plan::plan(wanted, &facts);
        done.notes.extend(notes);
        // Written before the first step, behind what could not be undone before.
        self.undo.extend(steps.iter().filter_map(Step::undo));
        let (dns, foreign) = wanted.dns.checked();
        done.notes.extend(foreign);
        let manager = (dns != Dns::default()).then(Manager::find);
        if let Some(manager) = manager {
            let undo = manager.undo(&self.device, &self.places.resolv_conf).map_err(|source| self.fault(source))?;
            self.undo.push(Undo::Dns(undo));
        }
        self.applied = Some(Applied { settings: wanted.clone(), facts });
        self.journal.write(&self.undo).map_err(|source| self.fault(source))?;
        for step in &steps {
            match self.netlink.take(&self.device, step).await {
                Ok(()) => done.changes.push(step.to_string()),
                Err(error) if matches!(step, Step::Link { .. }) => return Err(error.into()),
                Err(error) => {
                    if !matches!(error, NetlinkError::Timeout { .. }) {
                        // Not done, so not ours to undo: what is there may be somebody else's.
                        self.forget(step);
                    }
                    done.notes.push(match step {
                        Step::Route(route) if kernel::is_there(&error) => already_there(route),
                        _ => told(&error),
                    });
                }
            }
        }
        self.journal.write(&self.undo).map_err(|source| self.fault(source))?;
        if let Some(manager) = manager {
            match manager.set(&self.device, &dns, &self.places.resolv_conf).await {
                Ok(notes) => {
                    done.changes.push("name resolution".to_owned());
                    done.notes.extend(notes);
                }
                Err(error) => done.notes.push(format!("name resolution cannot be set: {error}")),
            }
        }
        Ok(())
    }

    /// A step that was not done needs no undoing.
    fn forget(&mut self, step: &Step) {
        // The last: before it may be the same, from before, that is still to be undone.
        if let Some(undo) = step.undo()
            && let Some(at) = self.undo.iter().rposition(|other| *other == undo)
        {
            self.undo.remove(at);
        }
    }

    /// Keeps packets to a server out of the tunnel, if what is applied would lead them into it: to another one than
    /// before, or to the same after the host's own default route has changed.
    ///
    /// # Errors
    /// When the host's routes cannot be read, or the journal cannot be written.
    pub async fn keep_out(&mut self, server: IpAddr) -> Result<Done, SessionError> {
        let mut done = Done::default();
        let Some(Applied { settings, facts }) = &self.applied else { return Ok(done) };
        if !plan::swallows(settings, server) {
            return Ok(done);
        }
        let of = |facts: &Facts| match server {
            IpAddr::V4(_) => facts.default4.as_ref().map(|default| default.way.clone()),
            IpAddr::V6(_) => facts.default6.clone(),
        };
        let now = self.netlink.facts(server).await?;
        // Ours may stand in the place of the default route.
        let default = of(&now).filter(|way| way.device != self.device).or_else(|| of(facts));
        let known = facts.server.clone().filter(|_| settings.server == server && default == of(facts));
        let Some(way) = known.or(default) else { return Ok(done) };
        let route = plan::bypass(server, &way);
        let in_its_place = |undo: &Undo| match undo {
            Undo::Route(ours) if ours.destination == route.destination && ours.metric() == route.metric() => {
                Some(ours.clone())
            }
            _ => None,
        };
        let ours: Vec<RouteSpec> = self.undo.iter().filter_map(in_its_place).collect();
        if ours.is_empty() && now.routes.contains(&(route.destination, route.metric())) {
            // Somebody else's stays as it is.
            return Ok(done);
        }
        if !ours.contains(&route) {
            self.undo.push(Undo::Route(route.clone()));
            self.journal.write(&self.undo).map_err(|source| self.fault(source))?;
        }
        for old in ours.into_iter().filter(|old| *old != route) {
            match self.netlink.remove_route(&old).await {
                Ok(()) => self.undo.retain(|undo| *undo != Undo::Route(old.clone())),
                Err(error) => done.notes.push(told(&error)),
            }
        }
        match self.netlink.ensure_route(&route).await {
            Ok(true) => done.changes.push(route.to_string()),
            Ok(false) => {}
            Err(error) => done.notes.push(told(&error)),
        }
        Ok(done)
    }

    /// Brings the host back to what it was. What cannot be undone is noted, and the rest is undone all the same; it is
    /// tried again the next time, also by the next [`Session::open`].
    pub async fn undo(&mut self) -> Done {
        let mut done = Done::default();
        if let Some(Applied { settings, .. }) = self.applied.take() {
            for address in settings.addresses.iter().rev() {
                if let Err(error) = self.netlink.remove_address(&self.device, address).await {
                    done.notes.push(told(&error));
                }
            }
        }
        let undo = std::mem::take(&mut self.undo);
        self.undo = roll_back(&self.netlink, undo, &mut done).await;
        if let Err(error) = self.journal.keep(&self.undo) {
            done.notes.push(format!("the journal in {} cannot be changed: {error}", self.places.journals.display()));
        }
        done
    }

    fn fault(&self, source: io::Error) -> SessionError {
        SessionError::Journal { dir: self.places.journals.clone(), source }
    }
}

impl Step {
    /// How it is undone; none for what is about the device, which goes with its owner.
    fn undo(&self) -> Option<Undo> {
        match self {
            Self::Link { .. } | Self::Address(_) => None,
            Self::RemoveDefault(message) => Some(Undo::Default(message.clone())),
            Self::Route(route) => Some(Undo::Route(route.clone())),
        }
    }
}

/// Undoes all, the last first. Returns what has to be tried again, in the order in which it was done.
async fn roll_back(netlink: &Netlink, undo: Vec<Undo>, done: &mut Done) -> Vec<Undo> {
    let mut left = Vec::new();
    for undo in undo.into_iter().rev() {
        let (what, error, lost) = match &undo {
            Undo::Route(route) => {
                let error = netlink.remove_route(route).await.err();
                (format!("removed {route}"), error.map(|error| told(&error)), false)
            }
            Undo::Default(message) => {
                let error = netlink.restore(message).await.err();
                let lost = error.as_ref().is_some_and(kernel::link_is_gone);
                ("brought the default route back".to_owned(), error.map(|error| told(&error)), lost)
            }
            Undo::Dns(dns) => {
                let error = dns.execute().await.err();
                // The program that was to do it is not installed any more.
                let lost = error.as_ref().is_some_and(|error| error.kind() == io::ErrorKind::NotFound);
                let told = error.map(|error| format!("name resolution cannot be brought back: {error}"));
                ("brought name resolution back".to_owned(), told, lost)
            }
        };
        match error {
            None => done.changes.push(what),
            Some(note) => {
                done.notes.push(note);
                if !lost {
                    left.push(undo);
                }
            }
        }
    }
    left.reverse();
    left
}

fn already_there(route: &RouteSpec) -> String {
    format!("{} is there already and stays as it is", route.destination)
}

/// An error with its causes on one line.
fn told(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    text
}

/// The DNS servers that programs use now.
fn name_servers(resolv_conf: &Path) -> Vec<IpAddr> {
    let text = std::fs::read_to_string(resolv_conf).unwrap_or_default();
    text.lines().filter_map(|line| line.strip_prefix("nameserver")?.trim().parse().ok()).collect()
}
