//! The edge's own authority: one thread owns it, and others send it what to do.

use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use agent::{InForce, Lists};
use anyhow::Context;
use authority::code::{Place, Secret};
use authority::{Authority, CodeInfo, CodeState, EnrolError};
use control::JoinCodes;
use enrol::{Admit, Enrolment, Grant, Pems, Refused};
use futures_util::future::BoxFuture;
use ipnet::Ipv4Net;
use model::{HostId, Hostname, JoinCodeInfo, JoinCodeState};
use pki::{CertificateRequest, HostIdentity};
use secrecy::{ExposeSecret, SecretString};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};
use tunnel::Stranger;

/// Its directory, in the state directory.
const DIR: &str = "authority";
/// What may wait to be done.
const JOBS: usize = 64;
/// Connections that may wait to be looked at.
pub(crate) const STRANGERS: usize = 64;

type Job = Box<dyn FnOnce(&mut Authority) + Send>;

/// Sends the authority what to do.
#[derive(Debug, Clone)]
pub(crate) struct Keeper {
    jobs: mpsc::Sender<Job>,
    ca_pem: Arc<str>,
    lists: watch::Receiver<Lists>,
}

impl Keeper {
    /// Takes up the authority in the state directory, if there is one.
    ///
    /// # Errors
    /// When it cannot be used, or another process has it.
    pub(crate) fn open(state_dir: &Path) -> anyhow::Result<Option<Self>> {
        let dir = state_dir.join(DIR);
        if !Authority::is_at(&dir) {
            return Ok(None);
        }
        let mut authority = Authority::open(&dir)?;
        let ca_pem = authority.ca_pem().into();
        let (told, lists) = watch::channel(Some(Arc::from(authority.list_pem())));
        let (jobs, mut todo) = mpsc::channel::<Job>(JOBS);
        let work = move || {
            while let Some(job) = todo.blocking_recv() {
                job(&mut authority);
                told.send_if_modified(|told| {
                    let changed = told.as_deref() != Some(authority.list_pem());
                    *told = Some(authority.list_pem().into());
                    changed
                });
            }
        };
        std::thread::Builder::new().name("authority".to_owned()).spawn(work).context("start the authority's thread")?;
        Ok(Some(Self { jobs, ca_pem, lists }))
    }

    /// Its certificate.
    pub(crate) fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// Its list of revoked certificates, as soon as it is signed.
    pub(crate) fn lists(&self) -> watch::Receiver<Lists> {
        self.lists.clone()
    }

    /// Has it do something, and hears what came of it. None: it is gone.
    pub(crate) async fn ask<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Authority) -> T + Send + 'static,
    ) -> Option<T> {
        let (answer, answered) = oneshot::channel();
        // Who asked may have left.
        let job = Box::new(move |authority: &mut Authority| drop(answer.send(job(authority))));
        self.jobs.send(job).await.ok()?;
        answered.await.ok()
    }
}

pub(crate) const GONE: &str = "the authority is gone: restart edge-agent";

/// What every home that joins is told, and the authority that lets it in.
#[derive(Debug, Clone)]
pub(crate) struct Joining {
    pub(crate) keeper: Keeper,
    pub(crate) edge: HostId,
    /// The one home that this edge takes.
    pub(crate) home: HostId,
    pub(crate) domain: Hostname,
    pub(crate) subnet: Ipv4Net,
    pub(crate) control_port: u16,
    /// The TCP port on which homes join.
    pub(crate) port: u16,
}

impl Admit for Joining {
    fn admit(&self, secret: Secret, request: CertificateRequest) -> BoxFuture<'static, Result<Grant, Refused>> {
        let joining = self.clone();
        Box::pin(async move {
            let redeem = move |authority: &mut Authority| authority.enrol(&secret, &request, SystemTime::now());
            let enrolled = joining.keeper.ask(redeem).await.ok_or_else(|| Refused::Failed(GONE.to_owned()))?;
            let enrolled = enrolled.map_err(|error| match error {
                EnrolError::Refused(refusal) => Refused::Code(refusal),
                EnrolError::Authority(error) => Refused::Failed(agent::config::chain(&error)),
            })?;
            Ok(Grant {
                home: enrolled.home,
                cert_pem: enrolled.cert_pem,
                ca_pem: enrolled.ca_pem,
                client_key: enrolled.client_key,
                edge: joining.edge,
                domain: joining.domain,
                subnet: joining.subnet,
                control_port: joining.control_port,
            })
        })
    }
}

/// Serves those who want to join, until stopped.
pub(crate) async fn serve(
    mut enrolment: Enrolment,
    mut in_force: watch::Receiver<InForce>,
    mut strangers: mpsc::Receiver<Stranger>,
    stop: CancellationToken,
) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            Ok(()) = in_force.changed() => {
                let identity = in_force.borrow_and_update().identity.clone();
                if let Err(error) = enrolment.identify(&pems(&identity)) {
                    warn!(error = agent::config::chain(&error), "who joins is shown the identity from before");
                }
            }
            Some(stranger) = strangers.recv() => match TcpStream::from_std(stranger.socket) {
                Ok(socket) => enrolment.take(socket, stranger.peer, stranger.read),
                Err(error) => debug!(peer = %stranger.peer, %error, "a connection could not be taken over"),
            },
            // The tunnel is gone, and says so itself.
            else => return stop.cancelled().await,
        }
    }
}

fn pems(identity: &HostIdentity) -> Pems<'_> {
    Pems { ca: &identity.ca_pem, cert: &identity.identity.cert_pem, key: identity.identity.key_pem.expose_secret() }
}

/// Makes join codes for `agentctl`, or says why there are none.
#[derive(Debug, Clone)]
pub(crate) struct Codes(pub(crate) Result<Joining, &'static str>);

impl Codes {
    async fn ask<T: Send + 'static, E: std::error::Error + Send + 'static>(
        joining: Result<Joining, &'static str>,
        job: impl FnOnce(&mut Authority, &Joining) -> Result<T, E> + Send + 'static,
    ) -> Result<T, String> {
        let joining = joining?;
        let keeper = joining.keeper.clone();
        let done = keeper.ask(move |authority| job(authority, &joining)).await.ok_or(GONE)?;
        done.map_err(|error| agent::config::chain(&error))
    }
}

impl JoinCodes for Codes {
    fn new_code(
        &self,
        address: Option<Ipv4Addr>,
        life: Duration,
    ) -> BoxFuture<'static, Result<(SecretString, JoinCodeInfo), String>> {
        let made = Self::ask(self.0.clone(), move |authority, joining| {
            let place = Place { address, port: joining.port };
            authority.new_code(&joining.home, place, life, SystemTime::now())
        });
        Box::pin(async move { made.await.map(|made| (made.code.to_text(), shown(made.info))) })
    }

    fn list(&self) -> BoxFuture<'static, Result<Vec<JoinCodeInfo>, String>> {
        let codes = Self::ask(self.0.clone(), |authority, _| {
            Ok::<_, std::convert::Infallible>(authority.codes(SystemTime::now()))
        });
        Box::pin(async move { codes.await.map(|codes| codes.into_iter().map(shown).collect()) })
    }

    fn revoke(&self, id: String) -> BoxFuture<'static, Result<JoinCodeInfo, String>> {
        let revoked = Self::ask(self.0.clone(), move |authority, _| authority.revoke_code(&id, SystemTime::now()));
        Box::pin(async move { revoked.await.map(shown) })
    }
}

fn shown(info: CodeInfo) -> JoinCodeInfo {
    let seconds = |at: SystemTime| at.duration_since(UNIX_EPOCH).map(|since| since.as_secs()).unwrap_or_default();
    JoinCodeInfo {
        id: info.id,
        home: info.home,
        created: seconds(info.created),
        expires: seconds(info.expires),
        state: match info.state {
            CodeState::Open => JoinCodeState::Open,
            CodeState::Used(_) => JoinCodeState::Used,
            CodeState::Revoked(_) => JoinCodeState::Revoked,
            CodeState::Expired => JoinCodeState::Expired,
        },
    }
}

/// Joining as a service of this edge, if it has an authority and listens; else why not.
pub(crate) fn joining(
    keeper: Option<Keeper>,
    tunnel: &agent::config::TunnelSettings,
    edge: HostId,
    domain: Hostname,
    control_port: u16,
) -> Result<Joining, &'static str> {
    let keeper =
        keeper.ok_or("this edge has no authority of its own: `agentctl init` makes one, or use `agentctl pki`")?;
    let agent::config::Mode::Listen(listen) = &tunnel.mode else {
        return Err("this edge dials home: a home joins only an edge that listens");
    };
    let (home, subnet, port) = (tunnel.peer.clone(), tunnel.subnet, listen.port());
    Ok(Joining { keeper, edge, home, domain, subnet, control_port, port })
}

/// What lets homes in.
pub(crate) fn enrolment(joining: &Joining, identity: &HostIdentity) -> anyhow::Result<Enrolment> {
    Enrolment::new(&pems(identity), Arc::new(joining.clone())).context("joining cannot be offered")
}
