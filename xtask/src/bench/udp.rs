//! Small UDP packets: how many a second arrive.
//!
//! One thread sends payloads of 64 bytes from one socket, another receives, both by system calls for up to 64 packets, so
//! that the two need as little as possible of the cores that the tunnel has to share with them. What is offered rises step
//! by step up to all that the sender can do: a tunnel that wastes its time on packets which it then drops shows its best
//! below that.

use std::io::{IoSlice, IoSliceMut};
use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use nix::errno::Errno;
use nix::sys::prctl::set_timerslack;
use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrIn, recvmmsg, send, sendmmsg, setsockopt, sockopt};
use serde::Serialize;

use super::bed::Bed;

/// Bytes of a packet's payload.
const PAYLOAD: usize = 64;
/// Packets in one system call.
const BATCH: usize = 64;
/// Thousands of packets a second that are offered; at last as many as the sender can.
const OFFERS: [u64; 8] = [50, 100, 200, 300, 450, 700, 1_000, u64::MAX / 1_000];
/// Time for each offer.
const STEP: Duration = Duration::from_millis(500);
/// Time between two offers: what is still on its way counts for neither.
const DRAIN: Duration = Duration::from_millis(150);
/// The receiver waits at most this long for a packet before it looks whether it is over.
const PATIENCE: Duration = Duration::from_millis(20);
/// Nothing is lost between the tunnel and the receiver.
const RECEIVE_BUFFER: usize = 32 << 20;

/// What became of one offer, in packets a second.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Offer {
    pub(crate) sent: f64,
    pub(crate) received: f64,
}

/// About how long it takes.
pub(crate) const SECONDS: usize = OFFERS.len() * (STEP.as_millis() + DRAIN.as_millis()) as usize / 1_000;

/// How the sender hands its packets to the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sending {
    /// Each by itself, as most programs do; here at least many by one system call.
    Single,
    /// Up to 64 as one super-packet for the kernel to segment (`UDP_SEGMENT`), as servers of HTTP/3 do.
    Segmented,
}

/// Sends from left to right, where the right end is at `address`.
pub(crate) fn flood(bed: &Bed, address: &str, sending: Sending) -> Result<Vec<Offer>> {
    // A socket stays in the network where it was made.
    let receiver = bed.right.inside(|| UdpSocket::bind((address, 0)))??;
    setsockopt(&receiver, sockopt::RcvBufForce, &RECEIVE_BUFFER).context("enlarge the receive buffer")?;
    receiver.set_read_timeout(Some(PATIENCE))?;
    let to = receiver.local_addr()?;
    let sender = bed.left.inside(|| {
        let socket = UdpSocket::bind(("0.0.0.0", 0))?;
        socket.connect(to).map(|()| socket)
    })??;
    if sending == Sending::Segmented {
        setsockopt(&sender, sockopt::UdpGsoSegment, &(PAYLOAD as i32)).context("send super-packets")?;
    }
    let (received, over) = (AtomicU64::new(0), AtomicBool::new(false));
    scope(|scope| {
        let receiving = scope.spawn(|| receive(&receiver, &received, &over));
        let sending = scope.spawn(|| {
            let offers =
                OFFERS.iter().map(|&thousands| offer(&sender, sending, thousands * 1_000, &received)).collect();
            over.store(true, Ordering::Relaxed);
            offers
        });
        let offers = sending.join().map_err(|_| anyhow!("the sender panicked"))?;
        receiving.join().map_err(|_| anyhow!("the receiver panicked"))??;
        offers
    })
}

/// Offers `rate` packets a second for a while.
fn offer(socket: &UdpSocket, sending: Sending, rate: u64, received: &AtomicU64) -> Result<Offer> {
    // Sleeps end when they should, so that packets come evenly and not in heaps.
    set_timerslack(1)?;
    let packets = [0; PAYLOAD * BATCH];
    let slices = [[IoSlice::new(&packets[..PAYLOAD])]; BATCH];
    let mut headers = MultiHeaders::<SockaddrIn>::preallocate(BATCH, None);
    let before = received.load(Ordering::Relaxed);
    let begun = Instant::now();
    let mut sent = 0;
    while begun.elapsed() < STEP {
        let due = (begun.elapsed().as_secs_f64() * rate as f64) as u64;
        let batch = due.saturating_sub(sent).min(BATCH as u64) as usize;
        if batch == 0 {
            sleep(Duration::from_micros(20));
            continue;
        }
        let result = match sending {
            Sending::Single => {
                sendmmsg(socket.as_raw_fd(), &mut headers, &slices[..batch], [None; BATCH], [], MsgFlags::empty())
                    .map(Iterator::count)
            }
            Sending::Segmented => {
                send(socket.as_raw_fd(), &packets[..batch * PAYLOAD], MsgFlags::empty()).map(|bytes| bytes / PAYLOAD)
            }
        };
        match result {
            Ok(count) => sent += count as u64,
            // It did not fit into the queue: lost like what is lost behind it.
            Err(Errno::ENOBUFS | Errno::EAGAIN) => sent += batch as u64,
            Err(error) => return Err(error).context("send"),
        }
    }
    let seconds = begun.elapsed().as_secs_f64();
    let received = received.load(Ordering::Relaxed) - before;
    sleep(DRAIN);
    Ok(Offer { sent: sent as f64 / seconds, received: received as f64 / seconds })
}

/// Counts what arrives until it is over.
fn receive(socket: &UdpSocket, received: &AtomicU64, over: &AtomicBool) -> Result<()> {
    let mut headers = MultiHeaders::<SockaddrIn>::preallocate(BATCH, None);
    let mut buffers = [[0; 2 * PAYLOAD]; BATCH];
    while !over.load(Ordering::Relaxed) {
        let mut slices = buffers.each_mut().map(|buffer| [IoSliceMut::new(buffer)]);
        match recvmmsg(socket.as_raw_fd(), &mut headers, &mut slices, MsgFlags::MSG_WAITFORONE, None) {
            Ok(results) => {
                let whole = results.filter(|result| result.bytes == PAYLOAD).count();
                received.fetch_add(whole as u64, Ordering::Relaxed);
            }
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(error) => return Err(error).context("receive"),
        }
    }
    Ok(())
}
