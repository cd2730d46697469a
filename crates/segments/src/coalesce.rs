//! Packets of the same flow as one frame for the device.

use std::ops::Range;

use crate::coalesce::gathering::Gathering;
use crate::coalesce::kind::{Joinable, Kind};

mod gathering;
mod kind;
mod run;

pub use run::Run;

/// Most packets of a run. Linux gathers no more of UDP (`UDP_GRO_CNT_MAX`).
pub const MAX_PACKETS: usize = 64;
/// Runs that are gathered at once.
const RUNS: usize = 8;

/// What the device takes as one frame (`TUNSETOFFLOAD`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offload {
    /// Segments of TCP, over IPv4 and IPv6.
    pub tcp: bool,
    /// Datagrams of UDP, over IPv4 and IPv6.
    pub udp: bool,
}

/// Gathers packets of the same flow, where they lie, to frames for the device.
///
/// Packets are joined only if the frame, cut again as the device does, gives the same packets byte by byte, but for the
/// identification of IPv4 where DF is set: it counts up from the first packet's then, and means nothing (RFC 6864, 4.1).
/// (A checksum that was written as the other of its two zeros comes out as the usual one.) So addresses, ports, TOS with ECN, TTL, DF, flow label, acknowledgement, window and options of TCP are equal, the
/// sequence has no gap, and all packets are equally long but the last, which may be shorter. PSH ends a run, and packets
/// with other flags than ACK and PSH, options of IPv4, extension headers, fragments, without payload or with a wrong
/// checksum join none: they go as they are, after what came before them in their flow.
///
/// All packets lie in one arena. What a call gave to the sink is free again, what is still gathered must stay until
/// [`flush`](Self::flush).
#[derive(Debug)]
pub struct Coalescer {
    offload: Offload,
    /// At most [`RUNS`], the oldest first, each of another flow.
    runs: Vec<Gathering>,
}

impl Coalescer {
    /// One that has gathered nothing, and joins what `offload` says. It allocates nothing later.
    #[must_use]
    pub fn new(offload: Offload) -> Self {
        Self { offload, runs: Vec::with_capacity(RUNS) }
    }

    /// What it joins.
    #[must_use]
    pub fn offload(&self) -> Offload {
        self.offload
    }

    /// Takes the IP packet at `range` of `arena`. The sink gets what is complete: in the order of each flow, but not of
    /// all packets. A range outside of the arena is no packet.
    ///
    /// # Panics
    /// If the arena is shorter than it was when a packet came that is still gathered.
    pub fn push(&mut self, arena: &mut [u8], range: Range<usize>, sink: &mut impl FnMut(Run<'_>)) {
        let Some(packet) = arena.get(range.clone()) else { return };
        match Kind::of(packet, range.start, self.offload) {
            Kind::Joins(packet) => self.join(&packet, arena, sink),
            Kind::OfFlow(flow) => {
                self.close_where(|run| run.flow == flow, arena, sink);
                sink(Run::single(arena, range));
            }
            Kind::Between(addresses) => {
                self.close_where(|run| run.flow.addresses == addresses, arena, sink);
                sink(Run::single(arena, range));
            }
            Kind::Other => sink(Run::single(arena, range)),
        }
    }

    /// Gives the sink all that is gathered, the oldest first.
    ///
    /// # Panics
    /// As [`push`](Self::push).
    pub fn flush(&mut self, arena: &mut [u8], sink: &mut impl FnMut(Run<'_>)) {
        self.close_where(|_| true, arena, sink);
    }

    fn join(&mut self, packet: &Joinable, arena: &mut [u8], sink: &mut impl FnMut(Run<'_>)) {
        let mut position = self.runs.iter().position(|run| run.flow == packet.flow);
        if let Some(at) = position
            && !self.runs[at].try_join(arena, packet)
        {
            self.close(at, arena, sink);
            position = None;
        }
        let at = position.unwrap_or_else(|| {
            if self.runs.len() == RUNS {
                self.close(0, arena, sink);
            }
            self.runs.push(Gathering::new(packet));
            self.runs.len() - 1
        });
        if self.runs[at].is_complete() {
            self.close(at, arena, sink);
        }
    }

    fn close_where(
        &mut self,
        is_wanted: impl Fn(&Gathering) -> bool,
        arena: &mut [u8],
        sink: &mut impl FnMut(Run<'_>),
    ) {
        while let Some(position) = self.runs.iter().position(&is_wanted) {
            self.close(position, arena, sink);
        }
    }

    fn close(&mut self, position: usize, arena: &mut [u8], sink: &mut impl FnMut(Run<'_>)) {
        sink(self.runs.remove(position).finish(arena));
    }
}
