//! Data packets of peers: whose they are, and whether they may say what they say.

use std::net::IpAddr;
use std::time::Instant;

use super::{BetweenPeers, Phase, Server, Session};
use crate::data;
use crate::drops::DropReason;
use crate::endpoint::{EndReason, Received, SessionKey};
use crate::inner;
use crate::live::Opened;
use crate::packet::{Header, Opcode};
use crate::underlay::Underlay;

impl Server {
    /// Takes a data packet: finds its session, opens it, and checks from where and to where its payload goes.
    pub(super) fn handle_data(
        &mut self,
        now: Instant,
        from: Underlay,
        header: Header,
        datagram: &mut [u8],
    ) -> Result<Received, DropReason> {
        let by_id = match header.opcode {
            Opcode::DataV2 => data::peer_id(datagram).filter(|&id| id != 0x00ff_ffff),
            _ => None,
        };
        let key = match by_id {
            Some(id) => self.session_of(id),
            None => self.by_remote.get(&from).copied(),
        };
        let key = key.ok_or(DropReason::UnknownPeer)?;
        let Some(Session { remote, phase: Phase::Connected { peer, .. }, .. }) = self.sessions.get(&key) else {
            return Err(DropReason::UnknownPeer);
        };
        let own: [Option<IpAddr>; 2] =
            [peer.connected.address.map(IpAddr::V4), peer.connected.address_ipv6.map(IpAddr::V6)];
        let takes_over = peer.takes_over.is_some();
        let opened = if *remote == from {
            self.open_data(now, key, datagram)?
        } else {
            self.open_foreign(now, key, from, datagram)?
        };
        if takes_over {
            self.take_over(key);
        }
        let range = match opened {
            Opened::Message => {
                self.note_path(key);
                return Ok(Received::Consumed);
            }
            Opened::Exit => {
                self.end(now, key, EndReason::PeerExit);
                return Ok(Received::Consumed);
            }
            Opened::Packet(range) => range,
        };
        let packet = datagram.get(range.clone()).unwrap_or_default();
        let (source, destination) = inner::addresses(packet).ok_or(DropReason::NotIp)?;
        if !own.contains(&Some(source)) {
            return Err(if inner::is_of_the_link(source) { DropReason::LinkLocal } else { DropReason::Source });
        }
        match (self.by_address.get(&destination), self.config.between_peers) {
            (None, _) | (Some(_), BetweenPeers::Host) => Ok(Received::Packet(range)),
            (Some(_), BetweenPeers::Drop) => Err(DropReason::PeerToPeer),
            (Some(_), BetweenPeers::Forward) => Ok(Received::Forward(range)),
        }
    }

    pub(super) fn open_data(
        &mut self,
        now: Instant,
        key: SessionKey,
        datagram: &mut [u8],
    ) -> Result<Opened, DropReason> {
        let Some(Session { phase: Phase::Connected { live, .. }, .. }) = self.sessions.get_mut(&key) else {
            return Err(DropReason::UnknownPeer);
        };
        let opened = live.open(now, datagram)?;
        if live.is_renewal_due(now) {
            self.next_timeout = Some(now);
        }
        Ok(opened)
    }
}
