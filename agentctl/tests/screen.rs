//! What is drawn again and again, in a real terminal.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod fake;

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, ExitStatus};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use control::{Inspected, Snapshot, Timelines};
use fake::{FakeAgent, FakeDoctor};
use model::{Grade, HostStatus, Role, TunnelReport};
use nix::pty::{Winsize, openpty};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustix::termios::{LocalModes, tcgetattr, tcsetwinsize};
use tokio::sync::watch;

/// What should come does within this.
const DEADLINE: Duration = Duration::from_secs(20);

fn inspected(host: &str) -> Inspected {
    let local = HostStatus::new(host.parse().unwrap(), Role::Home);
    Inspected {
        state: watch::channel(Snapshot { local, peer: None }).1,
        timelines: watch::channel(Timelines::default()).1,
        tunnel: watch::channel(TunnelReport::default()).1,
        doctor: Arc::new(FakeDoctor(Grade::Good)),
        ingress: None,
    }
}

/// `agentctl` in a terminal of its own.
struct InTerminal {
    child: Child,
    master: File,
    /// Kept, so that the terminal's settings can be read when the child has ended.
    slave: OwnedFd,
    written: Receiver<Vec<u8>>,
    seen: String,
}

impl InTerminal {
    fn run(agent: &FakeAgent, words: &[&str]) -> Self {
        let size = Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
        let pty = openpty(&size, None).unwrap();
        let slave = || pty.slave.try_clone().unwrap();
        // The terminal must be the one that the kernel sends signals of.
        let child = Command::new("setsid")
            .args(["--ctty", env!("CARGO_BIN_EXE_agentctl")])
            .args(words)
            .arg("--socket")
            .arg(&agent.socket)
            .stdin(slave())
            .stdout(slave())
            .stderr(slave())
            .spawn()
            .unwrap();
        let master = File::from(pty.master);
        let (sender, written) = channel();
        let mut reader = master.try_clone().unwrap();
        std::thread::spawn(move || {
            let mut chunk = [0; 4096];
            while let Ok(length @ 1..) = reader.read(&mut chunk) {
                if sender.send(chunk[..length].to_vec()).is_err() {
                    return;
                }
            }
        });
        Self { child, master, slave: pty.slave, written, seen: String::new() }
    }

    /// Waits until this was written after what was waited for before.
    fn wait_for(&mut self, text: &str) {
        let deadline = Instant::now() + DEADLINE;
        loop {
            if let Some(at) = self.seen.find(text) {
                self.seen.drain(..at + text.len());
                return;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let chunk = self.written.recv_timeout(left);
            assert!(chunk.is_ok(), "no {text:?} in {:?}", self.seen);
            self.seen.push_str(&String::from_utf8_lossy(&chunk.unwrap()));
        }
    }

    fn press(&mut self, keys: &[u8]) {
        self.master.write_all(keys).unwrap();
    }

    /// Waits for its end, after which the terminal must be as it was.
    fn ended(mut self) -> ExitStatus {
        self.wait_for("\u{1b}[?25h\u{1b}[?1049l");
        let deadline = Instant::now() + DEADLINE;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < deadline, "it does not end");
            std::thread::sleep(Duration::from_millis(5));
        };
        let modes = tcgetattr(&self.slave).unwrap().local_modes;
        assert!(modes.contains(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG), "{modes:?}");
        status
    }
}

impl Drop for InTerminal {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

#[test]
fn status_is_drawn_again_and_follows_the_terminal_and_the_agent() {
    let mut agent = FakeAgent::serve(inspected("attic"));
    let mut watched = InTerminal::run(&agent, &["status", "--watch=1"]);
    watched.wait_for("Home attic");
    watched.wait_for("\u{1b}[H");
    tcsetwinsize(&watched.master, rustix::termios::Winsize { ws_row: 3, ws_col: 30, ws_xpixel: 0, ws_ypixel: 0 })
        .unwrap();
    watched.wait_for(" lines more");
    tcsetwinsize(&watched.master, rustix::termios::Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 })
        .unwrap();
    agent.stop();
    watched.wait_for("there is no ");
    agent.start_again(inspected("loft"));
    watched.wait_for("Home loft");
    watched.press(b"xyz");
    watched.press(b"q");
    assert_eq!(watched.ended().code(), Some(4), "the exit code is that of the last look");
}

#[test]
fn ctrl_c_and_sigterm_give_the_terminal_back() {
    let agent = FakeAgent::serve(inspected("attic"));
    let mut watched = InTerminal::run(&agent, &["status", "--watch"]);
    watched.wait_for("Home attic");
    watched.press(b"\x03");
    assert_eq!(watched.ended().code(), Some(4));

    let mut watched = InTerminal::run(&agent, &["status", "--watch"]);
    watched.wait_for("Home attic");
    kill(Pid::from_raw(watched.child.id().try_into().unwrap()), Signal::SIGTERM).unwrap();
    assert_eq!(watched.ended().code(), Some(4));
}

#[test]
fn top_draws_curves_and_ends_on_every_way_out() {
    let mut agent = FakeAgent::serve(inspected("attic"));
    let mut top = InTerminal::run(&agent, &["top"]);
    top.wait_for("attic at ");
    top.wait_for("round trip");
    // The second look has rates, which are none.
    top.wait_for("0 B/s   \u{2581}");
    agent.stop();
    top.wait_for("there is no ");
    agent.start_again(inspected("loft"));
    top.wait_for("loft at ");
    tcsetwinsize(&top.master, rustix::termios::Winsize { ws_row: 3, ws_col: 30, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
    top.wait_for(" lines more");
    top.press(b"q");
    assert_eq!(top.ended().code(), Some(0));

    let mut top = InTerminal::run(&agent, &["top"]);
    top.wait_for("loft at ");
    top.press(b"\x03");
    assert_eq!(top.ended().code(), Some(0));
}

#[test]
fn top_refuses_what_is_no_terminal() {
    let agent = FakeAgent::serve(inspected("attic"));
    let mut command = Command::new(env!("CARGO_BIN_EXE_agentctl"));
    let output = command.arg("top").arg("--socket").arg(&agent.socket).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(output.stdout.is_empty());
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(told.contains("needs a terminal") && told.contains("next: use agentctl status --watch"), "{told}");
}
