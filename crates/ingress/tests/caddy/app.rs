//! An application behind Caddy: plain HTTP/1.1 with kept-alive connections, a thread each.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

/// What it answers, by path: `/missing` 404; `/large` a long text; `/own` headers of its own; `/verify` whether
/// a cookie is good; `/ws` a WebSocket that returns
/// what it gets; anything else the request's head and the length of its body.
pub(crate) struct App {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    hang: AtomicBool,
    received: AtomicU64,
    answered: AtomicU64,
    connections: Mutex<Vec<TcpStream>>,
}

impl App {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared::default());
        let accepting = Arc::clone(&shared);
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if accepting.stop.load(Ordering::SeqCst) {
                    return;
                }
                accepting.connections.lock().unwrap().push(stream.try_clone().unwrap());
                let shared = Arc::clone(&accepting);
                // It ends when its connection does.
                std::thread::spawn(move || while matches!(shared.answer(&stream), Ok(true)) {});
            }
        });
        Self { address, shared, thread: Some(thread) }
    }

    /// From now on nothing is answered, and connections stay open.
    pub(crate) fn hang(&self, hang: bool) {
        self.shared.hang.store(hang, Ordering::SeqCst);
    }

    /// Requests that were answered.
    pub(crate) fn answered(&self) -> u64 {
        self.shared.answered.load(Ordering::SeqCst)
    }

    /// Bytes of bodies that have arrived.
    pub(crate) fn received(&self) -> u64 {
        self.shared.received.load(Ordering::SeqCst)
    }
}

impl Shared {
    /// Answers the next request; whether there may be another.
    fn answer(&self, mut stream: &TcpStream) -> std::io::Result<bool> {
        let mut head = String::new();
        // Nobody sends ahead of the answer, so nothing is lost in the buffer but a body, which is read from it.
        let mut reader = BufReader::new(stream);
        while !head.ends_with("\r\n\r\n") {
            if reader.read_line(&mut head)? == 0 {
                return Ok(false);
            }
        }
        while self.hang.load(Ordering::SeqCst) {
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        let path = head.split(' ').nth(1).unwrap_or_default();
        let mut body = 0;
        if head.contains("Transfer-Encoding: chunked") {
            loop {
                let mut line = String::new();
                reader.read_line(&mut line)?;
                let length = u64::from_str_radix(line.trim(), 16).unwrap_or(0);
                body += self.swallow(&mut reader, length)?;
                reader.read_line(&mut line)?;
                if length == 0 {
                    break;
                }
            }
        } else if let Some(length) = head.lines().find_map(|line| line.strip_prefix("Content-Length: ")) {
            body = self.swallow(&mut reader, length.parse().unwrap_or(0))?;
        }
        let (mut status, mut more, mut text) = ("200 OK", "", format!("{head}{body} bytes\n"));
        match path {
            "/missing" => status = "404 Not Found",
            "/ws" => {
                write!(
                    stream,
                    "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
                )?;
                std::io::copy(&mut reader, &mut stream)?;
                return Ok(false);
            }
            "/verify" if !head.contains("Cookie: session=good") => {
                (status, more) = ("302 Found", "Location: https://auth.example.test/\r\n");
            }
            "/verify" => more = "Remote-User: me\r\n",
            "/own" => {
                more =
                    "X-Frame-Options: DENY\r\nStrict-Transport-Security: max-age=1\r\nReferrer-Policy: no-referrer\r\n";
            }
            path if path.ends_with("/large") => {
                more = "ETag: \"abc\"\r\n";
                text = "all work and no play\n".repeat(1000);
            }
            _ => {}
        }
        let length = text.len();
        let head = format!("HTTP/1.1 {status}\r\nContent-Type: text/plain\r\n{more}Content-Length: {length}\r\n\r\n");
        stream.write_all(&[head.as_bytes(), text.as_bytes()].concat())?;
        self.answered.fetch_add(1, Ordering::SeqCst);
        Ok(true)
    }

    fn swallow(&self, reader: &mut impl Read, length: u64) -> std::io::Result<u64> {
        let mut left = length;
        let mut buffer = [0; 65536];
        while left > 0 {
            let most = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
            let got = reader.read(&mut buffer[..most])?;
            if got == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            left -= got as u64;
            self.received.fetch_add(got as u64, Ordering::SeqCst);
        }
        Ok(length)
    }
}

impl Drop for App {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.hang(false);
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        for connection in self.shared.connections.lock().unwrap().drain(..) {
            let _ = connection.shutdown(Shutdown::Both);
        }
    }
}
