//! A registry of container images, behind a relay that can break off in the middle of an image.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::engine::Engine;
use crate::host::Host;
use crate::process::Process;

const START_LIMIT: Duration = Duration::from_secs(20);
/// Engines need no TLS for a registry on the loopback address.
const DIRECT: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 5000);
const RELAYED: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 5001);

/// Debian's registry on a host, for that host's own engine. Dropping it ends it.
#[derive(Debug)]
pub struct Registry {
    host: Host,
    relay: Arc<Mutex<Relay>>,
    process: Process,
}

/// What the relay lets through.
#[derive(Debug, Default)]
struct Relay {
    /// How many more bytes go from the registry to those who ask; `None` for all.
    left: Option<u64>,
    /// To be cut when that is used up.
    connections: Vec<TcpStream>,
    ended: bool,
}

impl Registry {
    /// Starts a registry on `host`, which must not have one yet.
    ///
    /// # Errors
    /// When it does not answer in time: is `docker-registry` installed? The error has the end of its log.
    pub fn start(host: &Host) -> Result<Self> {
        let (data, config) = (host.dir().join("registry"), host.dir().join("registry.yml"));
        let settings = format!(
            "version: 0.1\nlog: {{accesslog: {{disabled: false}}}}\nhttp: {{addr: '{DIRECT}'}}\n\
             storage: {{filesystem: {{rootdirectory: '{}'}}, delete: {{enabled: true}}}}\n",
            data.display()
        );
        fs::write(&config, settings).with_context(|| format!("write {}", config.display()))?;
        let mut command = host.command("docker-registry");
        command.arg("serve").arg(&config);
        let mut process = host.spawn("registry", command)?;
        process.wait_until("the registry", START_LIMIT, || host.connects(DIRECT, START_LIMIT))?;

        let listener = host.inside(|| TcpListener::bind(RELAYED))?.with_context(|| format!("listen on {RELAYED}"))?;
        let relay = Arc::new(Mutex::new(Relay::default()));
        let (state, of) = (Arc::clone(&relay), host.clone());
        thread::Builder::new().name("registry-relay".to_owned()).spawn(move || serve(&listener, &of, &state))?;
        Ok(Self { host: host.clone(), relay, process })
    }

    /// Puts `image`, which the host's engine holds, into the registry as `name` (`repository:tag`), and returns what it is
    /// called there: it is pulled through the relay. The engine then has it under no other name than before.
    ///
    /// # Errors
    /// When the engine has no such image, or cannot push it.
    pub fn push(&self, engine: &Engine, image: &str, name: &str) -> Result<String> {
        let direct = format!("{DIRECT}/{name}");
        engine.docker(&["tag", image, &direct])?;
        let pushed = engine.docker(&["push", &direct]);
        engine.docker(&["rmi", &direct])?;
        pushed?;
        Ok(format!("{RELAYED}/{name}"))
    }

    /// Lets another `bytes` bytes through to those who pull, then cuts all connections, and every new one at once, until
    /// [`Registry::mend`].
    pub fn break_after(&self, bytes: u64) {
        let mut relay = lock(&self.relay);
        relay.left = Some(bytes);
        if bytes == 0 {
            relay.cut();
        }
    }

    /// Whether what [`Registry::break_after`] allowed is used up.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        lock(&self.relay).left == Some(0)
    }

    /// Lets everything through again.
    pub fn mend(&self) {
        lock(&self.relay).left = None;
    }

    /// What it was asked and what it answered, line by line.
    ///
    /// # Errors
    /// When its log cannot be read.
    pub fn log(&self) -> Result<String> {
        self.process.log()
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let mut relay = lock(&self.relay);
        relay.ended = true;
        relay.cut();
        drop(relay);
        // Wakes the relay, which waits for a connection. When the host has gone, so has everybody who could connect.
        let _ = self.host.inside(|| TcpStream::connect(RELAYED));
    }
}

impl Relay {
    fn cut(&mut self) {
        for connection in self.connections.drain(..) {
            // It may have ended by itself.
            let _ = connection.shutdown(Shutdown::Both);
        }
    }

    /// How many of `wanted` bytes may go through.
    fn take(&mut self, wanted: usize) -> usize {
        let Some(left) = self.left else { return wanted };
        let granted = wanted.min(usize::try_from(left).unwrap_or(usize::MAX));
        self.left = Some(left - granted as u64);
        granted
    }
}

fn lock(relay: &Mutex<Relay>) -> MutexGuard<'_, Relay> {
    relay.lock().unwrap_or_else(PoisonError::into_inner)
}

fn serve(listener: &TcpListener, host: &Host, relay: &Arc<Mutex<Relay>>) {
    while let Ok((client, _)) = listener.accept() {
        let state = lock(relay);
        if state.ended {
            return;
        }
        if state.left == Some(0) {
            continue;
        }
        drop(state);
        // One that cannot be carried on is closed, which is all that a relay can say.
        let _ = connect(client, host, relay);
    }
}

fn connect(client: TcpStream, host: &Host, relay: &Arc<Mutex<Relay>>) -> Result<()> {
    let server = host.inside(|| TcpStream::connect(SocketAddr::V4(DIRECT)))??;
    let ends = [client.try_clone()?, server.try_clone()?];
    let (mut from_client, mut to_server) = (client.try_clone()?, server.try_clone()?);
    let state = Arc::clone(relay);
    lock(relay).connections.extend(ends);
    thread::Builder::new().name("registry-requests".to_owned()).spawn(move || {
        // Ends with either side.
        let _ = std::io::copy(&mut from_client, &mut to_server);
        let _ = to_server.shutdown(Shutdown::Both);
    })?;
    thread::Builder::new().name("registry-answers".to_owned()).spawn(move || answers(server, client, &state))?;
    Ok(())
}

fn answers(mut server: TcpStream, mut client: TcpStream, relay: &Mutex<Relay>) {
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(length @ 1..) = server.read(&mut buffer) {
        let granted = lock(relay).take(length);
        if client.write_all(&buffer[..granted]).is_err() {
            break;
        }
        if granted < length {
            lock(relay).cut();
        }
    }
    let _ = client.shutdown(Shutdown::Both);
}
