//! A bad network for tests: a UDP relay that loses, delays, repeats and reorders datagrams, forgets or moves its
//! mappings as a NAT does, and records what went through.
//!
//! It is a thread of the test, with its sockets in a network namespace of choice. Like a NAT it has, towards the far
//! end, a socket for every client; the far end sees that socket's address.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::sched::{CloneFlags, setns};

mod worker;

/// What the relay does to datagrams, each way alike.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Faults {
    /// Chance that a datagram is lost, 0 to 1.
    pub loss: f64,
    /// Chance that a datagram arrives twice, 0 to 1.
    pub repeat: f64,
    /// Least and most time on the way, chosen anew for each datagram: a range reorders.
    pub delay: (Duration, Duration),
    /// Every mapping gets another source port when it is this old.
    pub moves: Option<Duration>,
    /// A mapping over which nothing went either way for this long is gone, without a word to either end.
    pub forgets: Option<Duration>,
    /// Everything is lost.
    pub blocked: bool,
}

impl Faults {
    /// 20 % loss each way and 20 ms on the way.
    pub const LOSS: Self = Self {
        loss: 0.2,
        delay: (Duration::from_millis(20), Duration::from_millis(20)),
        repeat: 0.0,
        moves: None,
        forgets: None,
        blocked: false,
    };
}

/// What the relay did so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Datagrams that were passed on, repetitions included.
    pub passed: u64,
    /// Datagrams that were lost, by chance or because the relay is blocked or full.
    pub lost: u64,
    /// Datagrams that were passed on twice.
    pub repeated: u64,
    /// Datagrams that arrived after one that was sent later.
    pub overtaken: u64,
    /// Mappings that were made: the first of each client, and those that took the place of one moved or forgotten.
    pub mappings: u64,
}

/// A datagram that came to the relay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recorded {
    /// Whether a client sent it; otherwise the far end did.
    pub from_client: bool,
    /// What it holds.
    pub bytes: Vec<u8>,
}

/// A running relay. Dropping it ends it.
pub struct Relay {
    address: SocketAddr,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    move_now: AtomicBool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    faults: Faults,
    counts: Counts,
    mappings: Vec<(SocketAddr, SocketAddr)>,
    recorded: Vec<Recorded>,
    /// How many datagrams to record.
    record: usize,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // The state is plain data: whoever panicked has not left it half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Relay {
    /// Starts a relay that takes datagrams at `listen` and passes them on to `to`, both seen from `namespace`
    /// (a name as `ip netns` has it; `None` for this process's own). Chance is drawn from `seed`.
    ///
    /// # Errors
    /// When there is no such namespace or the address cannot be bound.
    pub fn start(
        namespace: Option<&str>,
        listen: SocketAddr,
        to: SocketAddr,
        seed: u64,
        faults: Faults,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        shared.state().faults = faults;
        let (ready, started) = mpsc::channel();
        let (state, namespace) = (Arc::clone(&shared), namespace.map(str::to_owned));
        let thread = std::thread::Builder::new().name("relay".to_owned()).spawn(move || {
            let opened =
                namespace.as_deref().map_or(Ok(()), enter).and_then(|()| worker::Worker::open(listen, to, seed));
            match opened {
                Ok((worker, address)) => {
                    let _ = ready.send(Ok(address));
                    worker.run(&state);
                }
                Err(error) => drop(ready.send(Err(error))),
            }
        })?;
        let address = started.recv().map_err(io::Error::other)??;
        Ok(Self { address, shared, thread: Some(thread) })
    }

    /// Where clients send to.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Does this to the datagrams that come from now on; what is on its way stays as it is.
    pub fn set(&self, faults: Faults) {
        self.shared.state().faults = faults;
    }

    /// Gives every mapping another source port, once.
    pub fn move_now(&self) {
        self.shared.move_now.store(true, Ordering::Relaxed);
    }

    /// What happened so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.shared.state().counts
    }

    /// Each client's address, and the one that the far end sees in its place now; in the order of their first datagrams.
    #[must_use]
    pub fn mappings(&self) -> Vec<(SocketAddr, SocketAddr)> {
        self.shared.state().mappings.clone()
    }

    /// Records the next `count` datagrams, also those that are lost.
    pub fn record(&self, count: usize) {
        self.shared.state().record = count;
    }

    /// What was recorded.
    #[must_use]
    pub fn recorded(&self) -> Vec<Recorded> {
        self.shared.state().recorded.clone()
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Runs `work` on a thread in a network namespace. Sockets that it makes stay there wherever they are used.
///
/// # Errors
/// When there is no such namespace or it cannot be entered.
pub fn in_namespace<T: Send>(name: &str, work: impl FnOnce() -> T + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let done = scope.spawn(|| enter(name).map(|()| work())).join();
        done.map_err(|_| io::Error::other("the work in the namespace panicked"))?
    })
}

/// Moves this thread.
fn enter(namespace: &str) -> io::Result<()> {
    let file = File::open(format!("/run/netns/{namespace}"))?;
    Ok(setns(file, CloneFlags::CLONE_NEWNET)?)
}
