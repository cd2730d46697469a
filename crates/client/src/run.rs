//! A connection from its beginning to its end.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hostnet::session::{Done, Places, Session, SessionError};
use profile::{AuthRetry, UserPass};
use secrecy::ExposeSecret;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tunnel::{
    Configured, Credentials, Device, DeviceError, EndReason, Event, Handle, Offload, Snapshot, Traffic, TunnelConfig,
};

use crate::login::{Before, LoginError, read_login};
use crate::network;
use crate::plan::Plan;

/// The kernel puts a number in its place.
const ANY_DEVICE: &str = "tun%d";

/// What the person who connects decides.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Name of the device; before that of the profile.
    pub device: Option<String>,
    /// A file with user name and password, before what the profile says.
    pub login: Option<PathBuf>,
    /// Which of the kernel's offloads packets go by.
    pub offload: Offload,
    /// Where things are on the host.
    pub places: Places,
}

/// Why there is no connection, or no longer.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// No user name or password.
    #[error(transparent)]
    Login(#[from] LoginError),
    /// No device.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The host could not be set up.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// The tunnel ended.
    #[error(transparent)]
    Tunnel(#[from] tunnel::Error),
    /// The tunnel's task is gone.
    #[error("the tunnel broke down")]
    Broken,
    /// The profile allows no more attempts.
    #[error("gave up: {0}")]
    GaveUp(String),
}

/// Connects and reconnects as the profile says until `stop` is cancelled or the profile ends it, and tells `say` what
/// happens, a line at a time. Whatever it ends with, the host is then as it was. Needs a tokio runtime and the rights to
/// make network devices and routes.
///
/// # Errors
/// When there can be no connection.
pub async fn run(
    plan: Plan,
    options: Options,
    stop: CancellationToken,
    say: &mut dyn FnMut(&str),
) -> Result<(), RunError> {
    for note in &plan.notes {
        say(&format!("passed over: {note}"));
    }
    let name = options.device.as_deref().or(plan.profile.device.as_deref()).unwrap_or(ANY_DEVICE);
    let mut again = false;
    loop {
        let mut config = plan.tunnel.clone();
        config.offload = options.offload;
        if let Some(from) = &plan.profile.user_pass {
            let before = Before::save();
            config.login = tokio::select! {
                answer = login(&plan, from, options.login.as_deref(), again) => Some(answer?),
                () = stop.cancelled() => {
                    before.restore();
                    return Ok(());
                }
            };
        }
        match connect(&plan, config, name, &options.places, &stop, say).await {
            Err(RunError::Tunnel(tunnel::Error::Refused(reason))) if may_ask_again(&plan) => {
                say(&format!("the server refused us: {reason}"));
                again = true;
            }
            ended => return ended,
        }
    }
}

fn may_ask_again(plan: &Plan) -> bool {
    plan.profile.user_pass.is_some() && plan.profile.auth_retry == AuthRetry::Interact
}

/// Asks off the runtime, which goes on meanwhile.
async fn login(plan: &Plan, from: &UserPass, file: Option<&Path>, again: bool) -> Result<Credentials, RunError> {
    // What stands somewhere was refused already.
    let from = if again { UserPass::Ask } else { from.clone() };
    let file = file.filter(|_| !again).map(Path::to_owned);
    let (challenge, dir) = (plan.profile.static_challenge.clone(), plan.dir.clone());
    let asked = tokio::task::spawn_blocking(move || read_login(&from, challenge.as_ref(), file.as_deref(), &dir)).await;
    let (user, password) = asked.map_err(|_| RunError::Broken)??;
    Ok(Credentials::new(user, password.expose_secret()))
}

/// One connection, over as many sessions as it takes, until it is over for good.
async fn connect(
    plan: &Plan,
    config: TunnelConfig,
    name: &str,
    places: &Places,
    stop: &CancellationToken,
    say: &mut dyn FnMut(&str),
) -> Result<(), RunError> {
    let (device, name) = Device::open_transient(name, config.offload)?;
    let (session, left) = Session::open(places.clone(), &name).await?;
    for change in &left.changes {
        say(&format!("left by a process that did not come to its end: {change}"));
    }
    for note in &left.notes {
        say(&format!("left by a process that did not come to its end, and cannot be undone: {note}"));
    }
    let stop = stop.child_token();
    let tunnel = tunnel::start(config, device, stop.clone())?;
    let (usual_mtu, failures, unresolved, use_of) = (0, 0, None, Use::default());
    let mut connection = Connection { plan, device: name, usual_mtu, session, say, failures, unresolved, use_of };
    let ended = connection.drive(tunnel, &stop).await;
    let undone = connection.session.undo().await;
    connection.tell("undone", &undone);
    ended
}

struct Connection<'a> {
    plan: &'a Plan,
    device: String,
    /// Its MTU as the server or the profile has it, for as long as the path is not known.
    usual_mtu: u16,
    session: Session,
    say: &'a mut dyn FnMut(&str),
    /// Attempts that failed since the last that did not.
    failures: u64,
    /// Since when names do not resolve.
    unresolved: Option<Instant>,
    use_of: Use,
}

impl Connection<'_> {
    fn say(&mut self, line: &str) {
        (self.say)(line);
    }

    fn tell(&mut self, what: &str, done: &Done) {
        for change in &done.changes {
            self.say(&format!("{what}: {change}"));
        }
        for note in &done.notes {
            self.say(&format!("not {what}: {note}"));
        }
    }

    async fn drive(&mut self, mut tunnel: Handle, stop: &CancellationToken) -> Result<(), RunError> {
        let mut result = Ok(());
        let mut clock = tokio::time::interval(Duration::from_secs(1));
        clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                Some(event) = tunnel.events.recv() => {
                    let snapshot = tunnel.snapshot.borrow().clone();
                    if let Err(error) = self.event(event, &snapshot).await {
                        result = Err(error);
                        break;
                    }
                }
                Ok(()) = tunnel.snapshot.changed() => {
                    let snapshot = tunnel.snapshot.borrow_and_update().clone();
                    if let Err(error) = self.follow(&snapshot).await {
                        result = Err(error);
                        break;
                    }
                }
                ended = &mut tunnel.task => {
                    while let Ok(event) = tunnel.events.try_recv() {
                        let snapshot = tunnel.snapshot.borrow().clone();
                        self.event(event, &snapshot).await?;
                    }
                    return ended.map_err(|_| RunError::Broken)?.map_err(Into::into);
                }
                _ = clock.tick() => {
                    let traffic = tunnel.snapshot.borrow().traffic;
                    if let Some(why) = self.use_of.over(self.plan, traffic) {
                        self.say(why);
                        break;
                    }
                }
            }
        }
        stop.cancel();
        let _ = tunnel.task.await;
        result
    }

    async fn event(&mut self, event: Event, snapshot: &Snapshot) -> Result<(), RunError> {
        match event {
            // It is told nothing of the kind.
            Event::Listening { .. } | Event::Identified(_) => {}
            Event::Connecting { remote } => {
                self.say(&format!("connecting to {remote}"));
                let done = self.session.keep_out(remote.canonical_address().ip()).await?;
                self.tell("set", &done);
            }
            Event::Unresolved { remote, reason } => {
                self.say(&format!("{remote} cannot be resolved: {reason}"));
                // The way to name servers may lead into the tunnel that is not there.
                self.release().await;
                let since = *self.unresolved.get_or_insert_with(Instant::now);
                if self.plan.profile.resolve_retry.is_some_and(|patience| since.elapsed() >= patience) {
                    return Err(RunError::GaveUp(format!("{remote} does not resolve")));
                }
                self.failed(&reason)?;
            }
            Event::Configured(configured) => self.configure(&configured, snapshot).await?,
            Event::PeerConnected(peer) => {
                (self.failures, self.unresolved) = (0, None);
                self.use_of = Use { connected: Some(Instant::now()), ..Use::default() };
                let who = &peer.identity.common_name;
                self.say(&format!("connected to {who} at {}, {}, {}", peer.remote, peer.tls_version, peer.cipher));
            }
            Event::PeerDisconnected { reason, .. } => {
                self.say(&format!("disconnected: {reason}"));
                self.use_of.connected = None;
                if !self.plan.profile.persist_tun {
                    self.release().await;
                }
                if self.plan.profile.ping.exit.is_some() && reason == EndReason::PingTimeout {
                    return Err(RunError::GaveUp(reason.to_string()));
                }
            }
            Event::HandshakeFailed { remote, reason } => {
                self.say(&format!("no connection to {remote}: {reason}"));
                self.failed(&reason.to_string())?;
            }
            Event::LoginPending { timeout } => {
                self.say(&format!("the server waits for another proof of who you are, up to {} s", timeout.as_secs()));
            }
            Event::Info(text) => self.say(&format!("the server says: {text}")),
        }
        Ok(())
    }

    async fn configure(&mut self, configured: &Configured, snapshot: &Snapshot) -> Result<(), RunError> {
        for option in &configured.ignored {
            self.say(&format!("passed over from the server: {option}"));
        }
        self.usual_mtu = configured.mtu;
        let settings = network::settings(&self.plan.profile, configured, &self.device, snapshot.data_path.device);
        let done = self.session.apply(&settings).await?;
        self.tell("set", &done);
        // The path may be known already.
        self.follow(snapshot).await
    }

    /// Lets the link be what the path to the server and the device ask for now.
    async fn follow(&mut self, snapshot: &Snapshot) -> Result<(), RunError> {
        let mtu = snapshot.mtu.unwrap_or(self.usual_mtu);
        let done = self.session.set_link(mtu.into(), snapshot.data_path.device.tx_queue_len()).await?;
        self.tell("set", &done);
        Ok(())
    }

    async fn release(&mut self) {
        if self.session.applied().is_some() {
            let done = self.session.undo().await;
            self.tell("undone", &done);
        }
    }

    fn failed(&mut self, why: &str) -> Result<(), RunError> {
        self.failures += 1;
        let connections = &self.plan.profile.connections;
        let attempts = connections.first().and_then(|connection| connection.retry.attempts);
        match attempts {
            Some(most) if self.failures >= u64::from(most) * connections.len() as u64 => {
                Err(RunError::GaveUp(why.to_owned()))
            }
            _ => Ok(()),
        }
    }
}

/// Whether a connection has been used.
#[derive(Default)]
struct Use {
    connected: Option<Instant>,
    /// When the count of bytes was last taken, and what it was.
    taken: Option<(Instant, u64)>,
}

impl Use {
    /// Why the profile ends the connection now, if it does.
    fn over(&mut self, plan: &Plan, traffic: Traffic) -> Option<&'static str> {
        let ping = &plan.profile.ping;
        let connected = self.connected?;
        if ping.session_timeout.is_some_and(|limit| connected.elapsed() >= limit) {
            return Some("the connection has lasted as long as the profile allows");
        }
        let inactive = ping.inactive?;
        let bytes = traffic.received_bytes + traffic.sent_bytes;
        let (since, before) = *self.taken.get_or_insert((Instant::now(), bytes));
        if bytes - before > inactive.bytes.saturating_sub(1) {
            self.taken = Some((Instant::now(), bytes));
        } else if since.elapsed() >= inactive.time {
            return Some("the connection was not used for as long as the profile allows");
        }
        None
    }
}
