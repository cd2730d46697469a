//! Streams of known bytes through the tunnel, both ways at once, compared as they arrive.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// Where the far end takes streams.
pub(crate) const PORT: u16 = 7000;
const CHUNK: usize = 8 * 1024;
/// A stream over which nothing came for this long is made anew.
const PATIENCE: Duration = Duration::from_secs(6);
const CONNECT: Duration = Duration::from_secs(2);
const POLL: Duration = Duration::from_millis(500);

/// What was carried.
#[derive(Debug, Default)]
pub(crate) struct Totals {
    /// Bytes from clients that were what they should be.
    pub(crate) up: AtomicU64,
    /// Bytes to clients that were what they should be.
    pub(crate) down: AtomicU64,
    /// Bytes that were not.
    pub(crate) corrupt: AtomicU64,
    /// Streams that were begun.
    pub(crate) streams: AtomicU64,
    pub(crate) stop: AtomicBool,
}

impl Totals {
    fn is_over(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

/// Takes streams until it is told to stop. To be called in the namespace of the far end.
pub(crate) fn serve(rate: u64, totals: &Arc<Totals>) -> io::Result<()> {
    let listener = TcpListener::bind(("0.0.0.0", PORT))?;
    listener.set_nonblocking(true)?;
    let totals = Arc::clone(totals);
    std::thread::spawn(move || {
        while !totals.is_over() {
            match listener.accept() {
                Ok((stream, _)) => {
                    let totals = Arc::clone(&totals);
                    std::thread::spawn(move || drop(answer(&stream, rate, &totals)));
                }
                Err(_) => std::thread::sleep(Duration::from_millis(50)),
            }
        }
    });
    Ok(())
}

fn answer(stream: &TcpStream, rate: u64, totals: &Arc<Totals>) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut seed = [0; 8];
    (&*stream).read_exact(&mut seed)?;
    let seed = u64::from_be_bytes(seed);
    exchange(stream, !seed, seed, rate, totals, |totals| &totals.up)
}

/// Keeps a stream going to one of `targets` until it is told to stop. To be called in the namespace of the client.
pub(crate) fn keep_going(targets: &[SocketAddr], rate: u64, totals: &Arc<Totals>) {
    let mut targets = targets.iter().cycle();
    while let Some(target) = targets.next().filter(|_| !totals.is_over()) {
        let begun = Instant::now();
        let run = || -> io::Result<()> {
            let mut stream = TcpStream::connect_timeout(target, CONNECT)?;
            let seed: u64 = rand::random();
            stream.write_all(&seed.to_be_bytes())?;
            totals.streams.fetch_add(1, Ordering::Relaxed);
            exchange(&stream, seed, !seed, rate, totals, |totals| &totals.down)
        };
        // Whatever it was, the next one may do better.
        if run().is_err() {
            std::thread::sleep(Duration::from_millis(500).saturating_sub(begun.elapsed()));
        }
    }
}

/// Sends what `ours` makes and expects what `theirs` makes.
fn exchange(
    stream: &TcpStream,
    ours: u64,
    theirs: u64,
    rate: u64,
    totals: &Arc<Totals>,
    count: fn(&Totals) -> &AtomicU64,
) -> io::Result<()> {
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.set_read_timeout(Some(POLL))?;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let _ = write(stream, ours, rate, totals);
            let _ = stream.shutdown(Shutdown::Both);
        });
        let result = read(stream, theirs, totals, count(totals));
        let _ = stream.shutdown(Shutdown::Both);
        result
    })
}

fn write(mut stream: &TcpStream, seed: u64, rate: u64, totals: &Totals) -> io::Result<()> {
    let mut pattern = StdRng::seed_from_u64(seed);
    let mut chunk = vec![0; CHUNK];
    let tick = Duration::from_secs_f64(CHUNK as f64 / rate as f64);
    while !totals.is_over() {
        pattern.fill_bytes(&mut chunk);
        stream.write_all(&chunk)?;
        std::thread::sleep(tick);
    }
    Ok(())
}

fn read(mut stream: &TcpStream, seed: u64, totals: &Totals, right: &AtomicU64) -> io::Result<()> {
    let mut pattern = StdRng::seed_from_u64(seed);
    // The generator gives the same bytes only in chunks of the same size.
    let (mut chunk, mut expected, mut filled) = (vec![0; CHUNK], vec![0; CHUNK], 0);
    let mut heard = Instant::now();
    while !totals.is_over() && heard.elapsed() < PATIENCE {
        match stream.read(&mut chunk[filled..]) {
            Ok(0) => return Ok(()),
            Ok(count) => {
                if filled == 0 {
                    pattern.fill_bytes(&mut expected);
                }
                let range = filled..filled + count;
                let wrong = chunk[range.clone()].iter().zip(&expected[range]).filter(|(got, want)| got != want).count();
                right.fetch_add((count - wrong) as u64, Ordering::Relaxed);
                totals.corrupt.fetch_add(wrong as u64, Ordering::Relaxed);
                filled = (filled + count) % CHUNK;
                heard = Instant::now();
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
