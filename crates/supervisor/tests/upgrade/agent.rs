//! The agent's process, and what it tells.

use std::path::PathBuf;
use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use lab::{Engine, Process};

static STARTED: AtomicUsize = AtomicUsize::new(0);
const PATIENCE: Duration = Duration::from_secs(150);

/// An agent with one service on the host of an engine. It is killed when it is dropped; the containers stay.
pub(crate) struct Agent {
    process: Process,
    /// Lines of its log that were looked at already.
    seen: usize,
}

/// The program, or why it is not there.
fn program() -> PathBuf {
    let me = std::env::current_exe().unwrap();
    let program = me.parent().and_then(|deps| deps.parent()).unwrap().join("examples/agent");
    assert!(program.exists(), "the example is not built: cargo build -p supervisor --example agent");
    program
}

impl Agent {
    /// Ends it and, at once, all containers: an engine that ends would wait for each of them.
    pub(crate) fn ends_with_all(self, engine: &Engine) {
        drop(self);
        let running = engine.docker(&["ps", "--quiet"]).unwrap();
        let kill: Vec<&str> = ["kill"].into_iter().chain(running.split_whitespace()).collect();
        // One may have ended meanwhile.
        drop(engine.docker(&kill));
    }

    /// Starts it; `death` is the point at which it is to kill itself, counted from 1, if any.
    pub(crate) fn start(engine: &Engine, service: &str, death: Option<usize>) -> Self {
        Self::start_with(engine, service, death, &[])
    }

    /// The same with an environment.
    pub(crate) fn start_with(engine: &Engine, service: &str, death: Option<usize>, env: &[(&str, &str)]) -> Self {
        let host = engine.host();
        let mut command = host.command(program().to_str().unwrap());
        command.arg(host.engine_socket()).arg(host.dir().join(service)).arg(service).stdin(Stdio::piped());
        command.args(death.map(|death| death.to_string())).envs(env.iter().copied());
        // One log for each process.
        let label = format!("{service}-{}", STARTED.fetch_add(1, Ordering::SeqCst));
        Self { process: host.spawn(&label, command).unwrap(), seen: 0 }
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        self.process.log().unwrap().lines().map(str::to_owned).collect()
    }

    /// Waits for a line from here on that begins like that, and returns its rest.
    pub(crate) fn hears(&mut self, start: &str) -> String {
        let begin = Instant::now();
        loop {
            let alive = self.process.is_running();
            let lines = self.lines();
            if let Some(at) = lines.iter().skip(self.seen).position(|line| line.starts_with(start)) {
                let line = &lines[self.seen + at];
                self.seen += at + 1;
                return line.strip_prefix(start).unwrap_or_default().to_owned();
            }
            assert!(alive && begin.elapsed() < PATIENCE, "no '{start}' (alive: {alive}): {}", lines.join("\n"));
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Asks until the answer is right, and returns it.
    fn asks(&mut self, question: &str, answer: &str, right: impl Fn(&str) -> bool) -> String {
        let begin = Instant::now();
        loop {
            self.tell(question);
            let said = self.hears(answer);
            if right(&said) {
                return said;
            }
            assert!(begin.elapsed() < PATIENCE, "{said}: {}", self.lines().join("\n"));
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// Waits until the service is healthy and people may use it.
    pub(crate) fn is_healthy(&mut self) {
        self.asks("health", "now: ", |now| now == "healthy");
    }

    /// Waits until a service that was not there before is healthy, and tells for how long.
    pub(crate) fn installs(&mut self) {
        let begin = Instant::now();
        self.is_healthy();
        eprintln!("installed and healthy after {:.1} s", begin.elapsed().as_secs_f32());
    }

    /// Waits until nothing is at work, and says what was last.
    pub(crate) fn last(&mut self) -> String {
        self.asks("last", "last: ", |last| last != "not known yet")
    }

    /// Where it would go by itself, and what it did.
    pub(crate) fn outlook(&mut self) -> String {
        self.tell("outlook");
        self.hears("outlook: ")
    }

    pub(crate) fn tell(&mut self, line: &str) {
        self.process.tell(line).unwrap();
    }

    /// Has it upgrade or go back, and returns for how long nobody could use the service.
    pub(crate) fn keeps_people_out(&mut self, wish: &str, end: &str) -> Duration {
        self.tell(wish);
        let from = if wish == "rollback" { "Written(Halt)" } else { "Written(Quiesce)" };
        let to = if wish == "rollback" { "Written(Clear)" } else { "Written(Keep)" };
        let (mut begin, mut out) = (Instant::now(), None);
        let ended = loop {
            let lines = self.lines();
            let fresh = &lines[self.seen..];
            if !fresh.iter().any(|line| line.ends_with(from)) {
                begin = Instant::now();
            }
            if out.is_none() && fresh.iter().any(|line| line.ends_with(to)) {
                out = Some(begin.elapsed());
            }
            if let Some(ended) = fresh.iter().find_map(|line| line.strip_prefix("ended: ")) {
                break ended.to_owned();
            }
            assert!(self.process.is_running() && begin.elapsed() < PATIENCE, "{}", lines.join("\n"));
            std::thread::sleep(Duration::from_millis(50));
        };
        self.seen = self.lines().len();
        assert!(ended.starts_with(end), "{ended}");
        let out = out.unwrap();
        eprintln!("{ended}: nobody could use it for {:.1} s", out.as_secs_f32());
        out
    }

    /// Has it upgrade or go back and returns how that ended.
    pub(crate) fn carries_out(&mut self, wish: &str) -> String {
        self.tell(wish);
        self.hears("begun");
        self.hears("ended: ")
    }

    /// Waits until it has killed itself, or has got to a line that ends like that. Returns the point at which it did.
    pub(crate) fn dies_before(&mut self, end: &str) -> Option<String> {
        let begin = Instant::now();
        loop {
            let alive = self.process.is_running();
            let lines = self.lines();
            if let Some(at) = lines.iter().position(|line| line == "dies") {
                self.process.wait(PATIENCE).unwrap();
                return Some(lines[at - 1].clone());
            }
            if lines.iter().any(|line| line.ends_with(end)) {
                return None;
            }
            assert!(alive && begin.elapsed() < PATIENCE, "{}", lines.join("\n"));
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}
