//! The way of packets between the device and the sockets, many at a time.
//!
//! Out: what the device gives as one frame is cut and sealed into a [`Batch`], which goes out in as few pieces as can be.
//! In: what arrives at once is opened where it lies, and packets of the same flow go to the device as one frame. On the
//! way of a packet there is no lock and no channel, and nothing is allocated for each: what is, is for many, as for each call
//! that sends them.

use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::time::Instant;

use ovpn::batch::{Batch, Packets, Single};
use ovpn::data::OVERHEAD;
use ovpn::drops::DropReason;
use ovpn::endpoint::{Endpoint, Received};
use ovpn::packet::{Header, Opcode};
use ovpn::underlay::Underlay;
use segments::{Coalescer, MAX_FRAME, MAX_HEADER, Split};

use crate::config::MAX_MTU;
use crate::datagrams::{self, Datagrams};
use crate::device::Watched;
use crate::driver::Error;
use crate::moderation::{Moderation, PAUSE};
use crate::path::{DevicePath, IoCount};
use crate::queue::{Frame, Queue, Turn};
use crate::sockets::Sockets;
use crate::streams::Intake;

/// Packets taken from one side before the other gets its turn.
const BATCH: usize = 64;
/// Rounds, each of a batch from either side and a large frame, before the thread looks at its timers and at what else is ready.
const ROUNDS: usize = 8;
/// Longest datagram that is accepted, bytes.
const DATAGRAM: usize = MAX_MTU as usize + OVERHEAD;
/// Most packets that a frame of the device is cut into, with payload of 36 bytes in each: the least that the kernel has for
/// a peer that does not ask for less on purpose (`TCP_MIN_SND_MSS` without timestamps).
const CUTS: usize = MAX_FRAME / 36;
/// Bytes of them, with their headers.
const CUT_BYTES: usize = MAX_FRAME + CUTS * MAX_HEADER;
/// Room for all packets of a frame and, before them, a few frames that are smaller.
const BATCH_BYTES: usize = CUT_BYTES + CUTS * (OVERHEAD + 2) + MAX_FRAME;
const BATCH_PACKETS: usize = CUTS + BATCH;
/// Room for what is received before the device gets it.
const ARENA: usize = 4 * datagrams::ROOM;

/// See the module's documentation.
pub(crate) struct Pump {
    device: Watched,
    /// Frames of the device.
    queue: Queue,
    /// What the sockets have not taken yet.
    batch: Batch,
    /// Datagrams as they came in.
    arena: Box<[u8]>,
    coalescer: Coalescer,
    /// What the endpoint has to say.
    message: Vec<u8>,
    moderation: Moderation,
}

impl Pump {
    pub(crate) fn new(device: Watched) -> Self {
        Self {
            coalescer: Coalescer::new(device.gathers()),
            device,
            queue: Queue::new(),
            batch: Batch::new(BATCH_BYTES, BATCH_PACKETS),
            arena: vec![0; ARENA].into(),
            message: Vec::new(),
            moderation: Moderation::new(),
        }
    }

    /// Waits until the device may have a frame.
    pub(crate) async fn readable(&self) -> io::Result<()> {
        self.device.readable().await
    }

    /// What a read or write of the device carries.
    pub(crate) fn device_path(&self) -> DevicePath {
        self.device.path()
    }

    /// Reads and writes of the device.
    pub(crate) fn device_counts(&self) -> (IoCount, IoCount) {
        self.device.counts()
    }

    /// Whether frames of the device wait for their turn.
    pub(crate) fn is_waiting(&self) -> bool {
        !self.queue.is_empty()
    }

    /// Where that is to go which the sockets do not take.
    pub(crate) fn blocked(&self) -> Option<Underlay> {
        self.batch.next_to()
    }

    /// Drops what is sealed; how many packets that was.
    pub(crate) fn drop_sealed(&mut self) -> usize {
        self.batch.clear()
    }

    /// Moves packets both ways in turns, within the budget. When there is more to do, everything else on the thread has
    /// had its turn before this returns.
    pub(crate) async fn turn<E: Endpoint>(&mut self, endpoint: &mut E, socket: &mut Sockets) -> Result<(), Error> {
        self.send_batch(endpoint, socket, false);
        let mut all_received = 0;
        for _ in 0..ROUNDS {
            let now = Instant::now();
            let received = self.receive(endpoint, socket, now)?;
            all_received += received;
            // What goes from peer to peer.
            self.send_batch(endpoint, socket, !self.queue.is_empty());
            // What the endpoint has sealed itself must not come after what it seals now.
            self.transmit(endpoint, socket, now);
            let sent = self.send(endpoint, socket, now)?;
            socket.flush();
            if received < BATCH && sent < BATCH && self.queue.is_empty() {
                if self.moderation.pays(Instant::now(), all_received) {
                    // Not as a timer, which would have the thread woken by packets, too. It is the tunnel's own.
                    std::thread::sleep(PAUSE);
                }
                return Ok(());
            }
        }
        self.send_batch(endpoint, socket, false);
        // Waiting for what is ready already does not do that.
        tokio::task::yield_now().await;
        Ok(())
    }

    /// Sends what the endpoint has to say.
    pub(crate) fn transmit<E: Endpoint>(&mut self, endpoint: &mut E, socket: &mut Sockets, now: Instant) {
        while let Some(to) = endpoint.poll_transmit(now, &mut self.message) {
            self.send_batch(endpoint, socket, false);
            let opcode = self.message.first().copied().and_then(Header::decode).map(|header| header.opcode);
            let is_data = matches!(opcode, Some(Opcode::DataV1 | Opcode::DataV2));
            // Packets that were sealed before and still wait would come too late after it, and be taken for replays.
            let overtakes = is_data && self.batch.next_to() == Some(to);
            if overtakes || !socket.send(&self.message, to) {
                // The reliability layer sends its own again, and a ping has no meaning beside data.
                endpoint.count_drops(DropReason::Blocked, 1);
            }
        }
        while let Some(to) = endpoint.poll_probe(now, &mut self.message) {
            // Fewer packets wait than such a peer's replay window has, so that it may overtake them.
            if !socket.send_whole(&self.message, to) {
                endpoint.handle_too_long(now, to);
            }
        }
    }

    /// Sockets to device, one batch of each kind. Returns how many packets were there.
    pub(crate) fn receive<E: Endpoint>(
        &mut self,
        endpoint: &mut E,
        socket: &mut Sockets,
        now: Instant,
    ) -> Result<usize, Error> {
        let Self { device, coalescer, batch, .. } = self;
        let mut inlet = Inlet { device, coalescer, batch, endpoint, now };
        let mut most = 0;
        for udp in socket.udp().into_iter().flatten() {
            let count = receive_datagrams(udp, &mut self.arena, &mut inlet).map_err(Error::Receive)?;
            most = most.max(count);
        }
        let Some(streams) = socket.streams() else { return Ok(most) };
        let packets = streams.turn(&mut inlet).map_err(Error::Receive)?;
        while let Some(at) = socket.poll_closed() {
            endpoint.handle_closed(now, at);
        }
        Ok(most + packets)
    }

    /// Device to socket: what does not have to wait, and one frame that waited. Returns how many frames were there.
    fn send<E: Endpoint>(&mut self, endpoint: &mut E, socket: &mut Sockets, now: Instant) -> Result<usize, Error> {
        let frames = self.empty_device(endpoint, socket, now)?;
        if self.make_room(endpoint, socket)
            && let Some(frame) = self.queue.pop()
        {
            self.seal(endpoint, now, frame);
            self.send_batch(endpoint, socket, !self.queue.is_empty());
        }
        Ok(frames)
    }

    /// Reads what the device has, and sends what does not have to wait. Returns how many frames were there.
    fn empty_device<E: Endpoint>(
        &mut self,
        endpoint: &mut E,
        socket: &mut Sockets,
        now: Instant,
    ) -> Result<usize, Error> {
        let (mut frames, mut sealed) = (0, false);
        while frames < BATCH && self.make_room(endpoint, socket) {
            let Some(mut frame) = self.queue.room() else { break };
            if let Err(error) = self.device.try_recv(&mut frame) {
                self.queue.give_back(frame);
                if is_transient(&error) {
                    break;
                }
                return Err(Error::Device(error));
            }
            frames += 1;
            self.device.note_read(frame.packets());
            match self.queue.turn(&mut frame) {
                Turn::Now => {
                    self.seal(endpoint, now, frame);
                    sealed = true;
                }
                Turn::Later => self.queue.push(frame),
                Turn::Never => {
                    endpoint.count_drops(DropReason::Blocked, frame.packets());
                    self.queue.give_back(frame);
                }
            }
        }
        if sealed {
            self.send_batch(endpoint, socket, false);
        }
        Ok(frames)
    }

    /// Whether there is room for what a frame is cut into.
    fn make_room<E: Endpoint>(&mut self, endpoint: &mut E, socket: &mut Sockets) -> bool {
        if !self.batch.has_room(CUTS, CUT_BYTES) {
            self.batch.compact();
        }
        if !self.batch.has_room(CUTS, CUT_BYTES) {
            self.send_batch(endpoint, socket, false);
        }
        self.batch.has_room(CUTS, CUT_BYTES)
    }

    /// Cuts and seals a frame.
    fn seal<E: Endpoint>(&mut self, endpoint: &mut E, now: Instant, mut frame: Frame) {
        let packet = frame.buf.get_mut(frame.packet.clone()).unwrap_or_default();
        match Split::new(frame.header, packet) {
            Ok(split) if split.count() <= CUTS && split.largest() <= MAX_MTU.into() => {
                if let Err(reason) = endpoint.seal(now, &mut Cuts(split), &mut self.batch) {
                    tracing::trace!(%reason, "dropped a frame of the device");
                }
            }
            Ok(split) => endpoint.count_drops(DropReason::TooLarge, split.count()),
            Err(error) => {
                tracing::trace!(%error, "dropped a frame of the device");
                endpoint.count_drops(DropReason::Malformed, frame.packets());
            }
        }
        self.queue.give_back(frame);
    }

    /// Sends what was sealed, as far as the sockets take it; when a frame waits that is sealed next (`more`), but for what
    /// can go with it.
    fn send_batch<E: Endpoint>(&mut self, endpoint: &mut E, socket: &mut Sockets, more: bool) {
        endpoint.count_drops(DropReason::Blocked, socket.send_batch(&mut self.batch, more));
    }
}

/// Takes datagrams from a socket, one batch. Returns how many there were.
fn receive_datagrams<E: Endpoint>(
    udp: &mut Datagrams,
    arena: &mut [u8],
    inlet: &mut Inlet<'_, E>,
) -> io::Result<usize> {
    let (mut used, mut count) = (0, 0);
    while count < BATCH {
        let Some(room) = arena.get_mut(used..).filter(|room| room.len() >= datagrams::ROOM) else { break };
        let arrived = match udp.try_recv(room) {
            Ok(arrived) => arrived,
            Err(error) if is_transient(&error) => break,
            Err(error) => {
                inlet.finish(arena);
                return Err(error);
            }
        };
        let from = Underlay::udp(arrived.from);
        let end = used + arrived.length;
        loop {
            let next = end.min(used + arrived.segment);
            // A lost datagram is not news to the peer.
            let _ = inlet.deliver(from, arena, used..next);
            (used, count) = (next, count + 1);
            if used == end {
                break;
            }
        }
    }
    inlet.finish(arena);
    Ok(count)
}

/// Where what comes in goes on.
struct Inlet<'a, E> {
    device: &'a mut Watched,
    coalescer: &'a mut Coalescer,
    /// Where packets from peer to peer go.
    batch: &'a mut Batch,
    endpoint: &'a mut E,
    now: Instant,
}

impl<E: Endpoint> Inlet<'_, E> {
    /// Gives a packet from outside to the endpoint, and what is in it to the device, at last with [`Intake::finish`].
    fn deliver(&mut self, from: Underlay, buf: &mut [u8], range: Range<usize>) -> Result<(), DropReason> {
        let Some(packet) = buf.get_mut(range.clone()) else { return Ok(()) };
        if packet.len() > DATAGRAM {
            self.endpoint.count_drops(DropReason::TooLarge, 1);
            return Err(DropReason::TooLarge);
        }
        match self.endpoint.handle_datagram(self.now, from, packet) {
            Ok(Received::Packet(inner)) => {
                let Self { device, coalescer, .. } = self;
                let inner = range.start + inner.start..range.start + inner.end;
                let mut lost = 0;
                coalescer.push(buf, inner, &mut |run| lost += device.try_send(&run));
                self.endpoint.count_drops(DropReason::Blocked, lost);
                Ok(())
            }
            Ok(Received::Forward(inner)) => {
                if let Some(packet) = packet.get_mut(inner) {
                    self.forward(packet);
                }
                Ok(())
            }
            Ok(Received::Consumed) => Ok(()),
            Err(reason) => {
                tracing::trace!(%from, %reason, "dropped a packet");
                Err(reason)
            }
        }
    }

    /// Seals a packet for another peer.
    fn forward(&mut self, packet: &mut [u8]) {
        if !self.batch.has_room(1, packet.len()) {
            return self.endpoint.count_drops(DropReason::Blocked, 1);
        }
        if let Err(reason) = self.endpoint.seal(self.now, &mut Single::new(packet), self.batch) {
            tracing::trace!(%reason, "dropped a packet from one peer to another");
        }
    }
}

impl<E: Endpoint> Intake for Inlet<'_, E> {
    fn take(&mut self, from: SocketAddr, buf: &mut [u8], range: Range<usize>) -> bool {
        !self.deliver(Underlay::tcp(from), buf, range).is_err_and(ends_connection)
    }

    fn finish(&mut self, buf: &mut [u8]) {
        let Self { device, coalescer, .. } = self;
        let mut lost = 0;
        coalescer.flush(buf, &mut |run| lost += device.try_send(&run));
        if coalescer.offload() != device.gathers() {
            **coalescer = Coalescer::new(device.gathers());
        }
        self.endpoint.count_drops(DropReason::Blocked, lost);
    }
}

/// A frame of the device, in packets.
struct Cuts<'a>(Split<'a>);

impl Packets for Cuts<'_> {
    fn head(&self) -> &[u8] {
        self.0.head()
    }

    fn next(&mut self) -> Option<&mut [u8]> {
        self.0.next_packet()
    }

    fn left(&self) -> usize {
        self.0.left()
    }
}

/// Whether a packet that was dropped for `reason` shows that its stream is out of step, or not a peer's at all. Nothing
/// is lost or forged inside of a connection, so there is no going on from there.
fn ends_connection(reason: DropReason) -> bool {
    matches!(
        reason,
        DropReason::Malformed
            | DropReason::Wrap
            | DropReason::Replay
            | DropReason::Cookie
            | DropReason::Authentication
            | DropReason::TooLarge
    )
}

fn is_transient(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted | io::ErrorKind::ConnectionRefused)
}
