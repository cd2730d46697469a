//! What streams through the whole product: long uploads over HTTP/2 and WebSockets, to an application at home that counts and sends back.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use lab::wait_until;

use crate::{Cloud, Memory, forget_peak};

/// Where it answers at home.
const PORT: u16 = 9000;
/// Its public name.
const NAME: &str = "sink.example.test";
/// After so many bytes of an upload the application reads nothing for a while: what comes meanwhile has to wait where it comes from.
const STALLS_AT: u64 = 256 << 20;
/// For so long. A part that took what comes at full speed would take hundreds of megabytes.
const STALLS_FOR: Duration = Duration::from_secs(3);
/// Seconds until a WebSocket is given up.
const SOCKETS_LIFE: &str = "600";
/// For it to be published.
const PUBLISHED: Duration = Duration::from_secs(60);

/// The application: an external service of home. `PUT` counts the bytes of its body, `/socket` is a WebSocket that gives back what it
/// gets, all else is well.
#[derive(Debug)]
pub struct Sink {
    received: Arc<AtomicU64>,
}

/// What an upload took.
#[derive(Debug)]
pub struct Upload {
    /// From the first byte to the answer.
    pub took: Duration,
    /// Each process on the way: its name, its memory before, and after.
    pub memory: Vec<(&'static str, Memory, Memory)>,
}

impl Sink {
    /// The service in home's configuration.
    #[must_use]
    pub fn config() -> String {
        format!(
            "[services.sink]\nkind = \"external\"\naddress = \"127.0.0.1:{PORT}\"\nport = 8100\nhealth_path = \"/\"\n"
        )
    }

    /// Starts it at home, for as long as this process runs, and waits until a visitor gets it at its public name.
    ///
    /// # Errors
    /// When it is not published.
    pub fn start(cloud: &Cloud) -> Result<Self> {
        let listener = cloud.lab.host("home")?.inside(|| TcpListener::bind(("127.0.0.1", PORT)))??;
        let sink = Self { received: Arc::default() };
        let received = Arc::clone(&sink.received);
        std::thread::spawn(move || serve(&listener, &received));
        let visitor = cloud.visitor()?;
        wait_until("the application at its public name", PUBLISHED, || {
            Ok(visitor.get(&format!("https://{NAME}/"))?.status == 200)
        })?;
        Ok(sink)
    }

    /// Sends it so many bytes over HTTP/2 from the visitor, without telling how many there will be. It stands still for a while
    /// among them.
    ///
    /// # Errors
    /// When they do not arrive within `limit`, or a process on the way is not there before and after.
    pub fn upload(&self, cloud: &Cloud, size: u64, limit: Duration) -> Result<Upload> {
        let pids = [
            ("edge-agent", cloud.edge.process.pid()),
            ("home-agent", cloud.home.process.pid()),
            ("Caddy", cloud.caddy_pid()?),
        ];
        let mut before = Vec::new();
        for (_, pid) in pids {
            forget_peak(pid)?;
            before.push(Memory::of(pid)?);
        }
        self.received.store(0, Ordering::Relaxed);
        let root = cloud.pebble.issuing_root().display();
        let command = format!(
            "head -c {size} /dev/zero | curl -q -sS --http2 --cacert {root} --upload-file - \
             --write-out ' %{{http_code}} %{{http_version}}' https://{NAME}/"
        );
        let begun = Instant::now();
        let answer = cloud.lab.host("visitor")?.exec_within(limit, &["sh", "-c", &command])?;
        let took = begun.elapsed();
        ensure!(answer == format!("{size} bytes 200 2"), "it answers {answer:?}");
        let after = |((name, pid), before)| Ok((name, before, Memory::of(pid)?));
        Ok(Upload { took, memory: pids.into_iter().zip(before).map(after).collect::<Result<_>>()? })
    }
}

/// A connection of a visitor that has become a WebSocket; the application sends back what it gets.
#[derive(Debug)]
pub struct WebSocket {
    tls: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

impl WebSocket {
    /// Opens one.
    ///
    /// # Errors
    /// When it is refused.
    pub fn open(cloud: &Cloud) -> Result<Self> {
        // It ends by itself should nothing come back.
        let mut command = cloud.lab.host("visitor")?.command("timeout");
        command.arg(SOCKETS_LIFE);
        command.args([
            "openssl",
            "s_client",
            "-quiet",
            "-verify_return_error",
            "-servername",
            NAME,
            "-verify_hostname",
            NAME,
        ]);
        command
            .args(["-alpn", "http/1.1", "-connect", &format!("{NAME}:443"), "-CAfile"])
            .arg(cloud.pebble.issuing_root());
        let mut tls = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
        let to = tls.stdin.take().context("no input")?;
        let from = BufReader::new(tls.stdout.take().context("no output")?);
        let mut socket = Self { tls, to, from };
        let asks = format!(
            "GET /socket HTTP/1.1\r\nHost: {NAME}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        socket.to.write_all(asks.as_bytes())?;
        let head = head(&mut socket.from)?;
        ensure!(head.starts_with("HTTP/1.1 101 "), "the WebSocket is answered with {head:?}");
        Ok(socket)
    }

    /// Sends a frame with a short text and waits for it to come back.
    ///
    /// # Errors
    /// When it does not.
    pub fn says(&mut self, text: &str) -> Result<()> {
        let mask = [7, 21, 3, 99];
        let masked = text.bytes().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask);
        let mut frame = vec![0x81, 0x80 | u8::try_from(text.len())?];
        frame.extend(mask);
        frame.extend(masked);
        self.to.write_all(&frame)?;
        let mut back = vec![0; frame.len()];
        self.from.read_exact(&mut back).with_context(|| format!("the WebSocket, {text}"))?;
        ensure!(back == frame, "the WebSocket gave back {back:?}");
        Ok(())
    }
}

impl Drop for WebSocket {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.tls.kill();
        let _ = self.tls.wait();
    }
}

/// A thread for each connection.
fn serve(listener: &TcpListener, received: &Arc<AtomicU64>) {
    for stream in listener.incoming().map_while(Result::ok) {
        let received = Arc::clone(received);
        std::thread::spawn(move || while matches!(answer(&stream, &received), Ok(true)) {});
    }
}

/// Answers a request; whether there may be another.
fn answer(mut stream: &TcpStream, received: &AtomicU64) -> Result<bool> {
    let mut reader = BufReader::with_capacity(1 << 18, stream);
    let head = head(&mut reader)?;
    let text = if head.starts_with("GET /socket ") {
        write!(stream, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")?;
        std::io::copy(&mut reader, &mut stream)?;
        return Ok(false);
    } else if head.starts_with("PUT ") {
        ensure!(head.contains("Transfer-Encoding: chunked"), "somebody on the way knew the length");
        while let length @ 1.. = chunk(&mut reader)? {
            let taken = std::io::copy(&mut reader.by_ref().take(length), &mut std::io::sink())?;
            ensure!(taken == length, "the body broke off");
            let so_far = received.fetch_add(taken, Ordering::Relaxed);
            if (so_far..so_far + taken).contains(&STALLS_AT) {
                std::thread::sleep(STALLS_FOR);
            }
            ensure!(reader.read_line(&mut String::new())? == 2, "a chunk does not end");
        }
        reader.read_line(&mut String::new())?;
        format!("{} bytes", received.load(Ordering::Relaxed))
    } else {
        "well".to_owned()
    };
    write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}", text.len())?;
    Ok(true)
}

fn chunk(reader: &mut impl BufRead) -> Result<u64> {
    let mut line = String::new();
    reader.read_line(&mut line)?;
    u64::from_str_radix(line.trim(), 16).with_context(|| format!("the length of a chunk is {line:?}"))
}

fn head(reader: &mut impl BufRead) -> Result<String> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head)? == 0 {
            return Err(anyhow!("the connection ended after {head:?}"));
        }
    }
    Ok(head)
}
