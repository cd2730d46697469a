//! Admission: what happens when a client's key exchange message has come in over a verified TLS session.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use super::{Candidate, Peer, PeerLogin, Phase, Server, Session, StaticPeer};
use crate::auth_token::Token;
use crate::data::{Cipher, Framing};
use crate::endpoint::{EndReason, Identity, Keepalive, PeerConnected, PeerId, SessionKey, TlsInput, TlsSession};
use crate::key_method2::{KeyMethod2, Randoms};
use crate::keys::{KeyBlock, KeyDerivation};
use crate::live::{Live, Terms};
use crate::negotiation::{self, PeerInfo};
use crate::packet::SessionId;
use crate::protection::SharedKey;
use crate::push;
use crate::underlay::Underlay;
use crate::wrap::Role;

/// How long a session that was replaced carries the peer's packets at most.
const TAKE_OVER: Duration = Duration::from_millis(250);
/// How long packets are still taken from a session that was replaced.
const STILL_TAKEN: Duration = Duration::from_secs(1);

/// A peer's addresses inside of the tunnel.
type Addresses = (Option<Ipv4Addr>, Option<Ipv6Addr>);

impl Server {
    /// Answers the client's message, and either prepares the session for its push or refuses it.
    pub(super) fn admit(&mut self, now: Instant, key: SessionKey, deadline: Instant, tls: TlsSession, message: &[u8]) {
        let theirs = match KeyMethod2::decode(message, true) {
            Ok(theirs) => theirs,
            Err(error) => return self.end(now, key, error.into()),
        };
        let Some(remote) = self.sessions.get(&key).map(|session| session.remote) else { return };
        let mut ours = Randoms::generate(&mut *self.rng);
        ours.pre_master = [0; 48];
        // Sent in every case: a client reads AUTH_FAILED only after it.
        let options = self.options_string(remote);
        let reply = KeyMethod2 { randoms: ours.clone(), options, credentials: None, peer_info: String::new() };
        self.send_message(key, reply.encode(false));
        let info = PeerInfo::parse(&theirs.peer_info);
        let wanted = info.has(negotiation::PROTO_REQUEST_PUSH);
        self.examine(now, key, Candidate { deadline, tls, info, theirs, ours, wanted });
    }

    fn options_string(&self, remote: Underlay) -> String {
        let tls_auth = self.config.protection.shared().and_then(SharedKey::tls_auth);
        negotiation::options_string(Role::Server, self.config.tun_mtu, remote, self.config.data.digest, tls_auth)
    }

    fn send_message(&mut self, key: SessionKey, message: Vec<u8>) {
        if let Some(session) = self.sessions.get_mut(&key) {
            let tls = session.channel.current();
            session.channel.expect_record(tls);
            self.tls.push_back((tls, TlsInput::Message(message)));
        }
    }

    /// Gives an admitted client its place, address and keys.
    pub(super) fn prepare(
        &mut self,
        now: Instant,
        key: SessionKey,
        candidate: Candidate,
        token: Option<Token>,
    ) -> Result<(), EndReason> {
        let identity = candidate.identity();
        let Candidate { deadline, tls, info, theirs, ours, wanted } = candidate;
        let cipher = info.choose_cipher(&self.config.ciphers, &theirs.options, self.config.data.fallback);
        let cipher = cipher.ok_or(EndReason::NoSharedCipher)?;
        let session = self.sessions.get(&key).ok_or(EndReason::Local)?;
        let (remote, local) = (session.remote, session.channel.local());
        let client = session.channel.remote().unwrap_or(SessionId([0; 8]));
        let kept = self.make_way(now, &identity, remote);
        let (address, address_ipv6) = match kept.and_then(|older| self.addresses_of(older)) {
            Some(addresses) => addresses,
            None => self.assign_addresses(&identity)?,
        };
        let peer_id = match (self.free_peer_id(), kept) {
            // The last place is the older session's.
            (Err(EndReason::Full), Some(older)) => {
                self.end(now, older, EndReason::Replaced);
                self.free_peer_id()?
            }
            (assigned, _) => assigned?,
        };
        let (key_derivation, block) =
            if self.config.key_derivation == KeyDerivation::Ekm && info.has(negotiation::PROTO_TLS_KEY_EXPORT) {
                (KeyDerivation::Ekm, tls.exporter)
            } else {
                (KeyDerivation::Prf, KeyBlock::from_prf(&theirs.randoms, &ours, client, local))
            };
        let terms = Terms {
            role: Role::Server,
            peer: peer_id,
            identity: tls.identity.clone(),
            sends_peer_id: self.uses_peer_ids(&info).then_some(peer_id),
            cipher,
            framing: Framing::None,
            data: self.config.data,
            remote,
            epochs: self.uses_epochs(&info, cipher),
            derivation: key_derivation,
            options: self.options_string(remote),
            credentials: None,
            peer_info: String::new(),
            limits: self.config.renewal,
            path_mtu: self.config.path_mtu && info.path_mtu,
        };
        let keepalive = Keepalive { ping_restart: self.config.keepalive.ping_restart * 2, ..self.config.keepalive };
        let connected = PeerConnected {
            peer: peer_id,
            identity,
            remote,
            address,
            address_ipv6,
            cipher,
            key_derivation,
            tls_version: tls.version,
            software: info.software.clone(),
        };
        let cc_exit = self.config.control_exit && info.has(negotiation::PROTO_CC_EXIT);
        let dynamic = self.uses_dynamic_tls_crypt(&info);
        let username = theirs.credentials.map(|known| known.username);
        let mut options = self.push_options(&connected, &info);
        options.extend(self.token_option(token, username.as_deref()));
        let push = push::encode(&options);
        let live = Live::new(now, terms, &block, keepalive, &mut *self.rng).map_err(|_| EndReason::KeyExhausted)?;
        let live = Box::new(live);
        let login = PeerLogin { username, info, token, undecided: None };
        let peer = Box::new(Peer { connected, cc_exit, login, replaced: None, takes_over: None });
        let addresses = peer.addresses();
        let session = self.sessions.get_mut(&key).ok_or(EndReason::Local)?;
        if dynamic {
            session.channel.use_dynamic_tls_crypt(&tls.dynamic_tls_crypt);
        }
        session.phase = Phase::Settling { deadline, peer, live, push, wanted };
        for address in addresses {
            self.by_address.entry(address).or_insert(key);
        }
        self.by_peer[peer_id as usize] = Some(key);
        self.admitted += 1;
        self.by_remote.insert(remote, key);
        Ok(())
    }

    /// Ends older sessions of a peer that has authenticated, but for one that is connected from elsewhere: that goes on
    /// until the new one is connected, and is returned.
    fn make_way(&mut self, now: Instant, identity: &Identity, remote: Underlay) -> Option<SessionKey> {
        let mut kept = None;
        for older in self.older_sessions(identity, remote) {
            match self.sessions.get(&older) {
                Some(Session { phase: Phase::Connected { peer, .. }, remote: elsewhere, .. })
                    if *elsewhere != remote && peer.replaced.is_none() =>
                {
                    kept = Some(older);
                }
                _ => self.end(now, older, EndReason::Replaced),
            }
        }
        kept
    }

    fn peer_of(&self, key: SessionKey) -> Option<&Peer> {
        match &self.sessions.get(&key)?.phase {
            Phase::Connected { peer, .. } | Phase::Settling { peer, .. } => Some(peer),
            _ => None,
        }
    }

    fn addresses_of(&self, key: SessionKey) -> Option<Addresses> {
        self.peer_of(key).map(|peer| (peer.connected.address, peer.connected.address_ipv6))
    }

    /// Has a session that was just connected take the place of an older one of the peer. What the peer has sent over that
    /// one until it learns of this is still taken.
    pub(super) fn succeed(&mut self, now: Instant, key: SessionKey) {
        let Some(Session { phase: Phase::Connected { peer, .. }, remote, .. }) = self.sessions.get(&key) else {
            return;
        };
        let (identity, remote) = (peer.connected.identity.clone(), *remote);
        for older in self.older_sessions(&identity, remote) {
            if older != key
                && let Some(Session { phase: Phase::Connected { peer, .. }, .. }) = self.sessions.get_mut(&older)
            {
                peer.replaced.get_or_insert(now + STILL_TAKEN);
            }
        }
        let Some(Session { phase: Phase::Connected { peer, .. }, .. }) = self.sessions.get_mut(&key) else { return };
        if peer.addresses().any(|address| self.by_address.get(&address) != Some(&key)) {
            peer.takes_over = Some(now + TAKE_OVER);
        }
    }

    /// Has packets to the peer go over this session.
    pub(super) fn take_over(&mut self, key: SessionKey) {
        if let Some(Session { phase: Phase::Connected { peer, .. }, .. }) = self.sessions.get_mut(&key) {
            peer.takes_over = None;
            self.by_address.extend(peer.addresses().map(|address| (address, key)));
        }
    }

    /// The newest session with this address.
    pub(super) fn holder_of(&self, address: IpAddr) -> Option<SessionKey> {
        let holds = |key| self.peer_of(key).is_some_and(|peer| peer.addresses().any(|own| own == address));
        self.sessions.keys().rev().copied().find(|&key| holds(key))
    }

    /// Sessions that must give way to an authenticated newcomer: of the same identity, from the same address, or with
    /// the address that is listed for it.
    fn older_sessions(&self, identity: &Identity, remote: Underlay) -> Vec<SessionKey> {
        let listed = self.listed(identity);
        let listed: Vec<IpAddr> = listed.into_iter().flat_map(StaticPeer::addresses).collect();
        let same = |peer: &Peer| {
            let connected = &peer.connected;
            let is_same = connected.identity == *identity && !self.config.admission.duplicate_names;
            is_same || connected.remote == remote || peer.addresses().any(|address| listed.contains(&address))
        };
        let found = self.sessions.iter().filter(|(_, session)| match &session.phase {
            Phase::Settling { peer, .. } | Phase::Connected { peer, .. } => same(peer),
            Phase::Handshake { .. } | Phase::KeyExchange { .. } | Phase::Deciding(_) | Phase::Ended { .. } => false,
        });
        found.map(|(&key, _)| key).collect()
    }

    /// The addresses of a listed peer, and for the rest some of the pools.
    fn assign_addresses(&mut self, identity: &Identity) -> Result<Addresses, EndReason> {
        let listed = self.config.peers.iter().find(|peer| identity.is_named(&peer.name));
        let (mut ipv4, mut ipv6) = (None, None);
        if let Some(listed) = listed {
            ipv4 = listed.address.filter(|_| self.config.network.is_some());
            ipv6 = listed.address_ipv6.filter(|_| self.config.network_ipv6.is_some());
        }
        let name = match identity.common_name.as_str() {
            "" => identity.san_uris.first().map_or("", String::as_str),
            name => name,
        };
        let own = [
            self.config.network.map(|network| IpAddr::V4(network.address)),
            self.config.network_ipv6.map(|network| IpAddr::V6(network.address)),
        ];
        let is_taken = |address: IpAddr| {
            let is_listed = || self.config.peers.iter().any(|peer| peer.addresses().any(|own| own == address));
            self.by_address.contains_key(&address) || own.contains(&Some(address)) || is_listed()
        };
        if let (None, Some(pool)) = (ipv4, &mut self.pool) {
            ipv4 = Some(pool.assign(name, |address| is_taken(address.into())).ok_or(EndReason::Full)?);
        }
        if let (None, Some(pool)) = (ipv6, &mut self.pool_ipv6) {
            ipv6 = Some(pool.assign(name, |address| is_taken(address.into())).ok_or(EndReason::Full)?);
        }
        if ipv4.is_none() && ipv6.is_none() { Err(EndReason::NotListed) } else { Ok((ipv4, ipv6)) }
    }

    pub(super) fn listed(&self, identity: &Identity) -> Option<&StaticPeer> {
        self.config.peers.iter().find(|peer| identity.is_named(&peer.name))
    }

    /// The lowest free number.
    fn free_peer_id(&mut self) -> Result<PeerId, EndReason> {
        let id = match self.by_peer.iter().position(Option::is_none) {
            Some(free) => free,
            None if self.by_peer.len() < self.config.max_peers => {
                self.by_peer.push(None);
                self.by_peer.len() - 1
            }
            None => return Err(EndReason::Full),
        };
        PeerId::try_from(id).map_err(|_| EndReason::Full)
    }

    fn uses_peer_ids(&self, info: &PeerInfo) -> bool {
        self.config.peer_ids && info.has(negotiation::PROTO_DATA_V2)
    }

    /// Only a client that understands the flag can be told of it.
    fn uses_dynamic_tls_crypt(&self, info: &PeerInfo) -> bool {
        self.config.dynamic_tls_crypt && info.has(negotiation::PROTO_CC_EXIT | negotiation::PROTO_DYNAMIC_TLS_CRYPT)
    }

    fn uses_epochs(&self, info: &PeerInfo, cipher: Cipher) -> bool {
        let needed = negotiation::PROTO_CC_EXIT | negotiation::PROTO_TLS_KEY_EXPORT | negotiation::PROTO_EPOCHS;
        let can = self.config.key_derivation == KeyDerivation::Ekm && cipher.is_aead();
        self.config.epochs && can && self.uses_peer_ids(info) && info.has(needed)
    }

    /// Everything the client is told; only what it announced to understand.
    fn push_options(&self, peer: &PeerConnected, info: &PeerInfo) -> Vec<String> {
        let mut options = vec![
            "topology subnet".to_owned(),
            format!("ping {}", self.config.keepalive.ping.as_secs()),
            format!("ping-restart {}", self.config.keepalive.ping_restart.as_secs()),
        ];
        if let Some((network, address)) = self.config.network.zip(peer.address) {
            options.push(format!("route-gateway {}", network.address));
            options.push(format!("ifconfig {address} {}", network.netmask()));
        }
        if let Some((network, address)) = self.config.network_ipv6.zip(peer.address_ipv6) {
            options.push(format!("ifconfig-ipv6 {address}/{} {}", network.prefix_len, network.address));
        }
        if self.uses_peer_ids(info) {
            options.push(format!("peer-id {}", peer.peer));
        }
        if info.ciphers.is_some() {
            options.push(format!("cipher {}", peer.cipher));
        }
        let ekm = peer.key_derivation == KeyDerivation::Ekm;
        if info.has(negotiation::PROTO_CC_EXIT) {
            let flags = [
                ("cc-exit", self.config.control_exit),
                ("tls-ekm", ekm),
                ("dyn-tls-crypt", self.uses_dynamic_tls_crypt(info)),
                ("aead-epoch", self.uses_epochs(info, peer.cipher)),
            ];
            let flags: Vec<&str> = flags.into_iter().filter_map(|(flag, used)| used.then_some(flag)).collect();
            if !flags.is_empty() {
                options.push(format!("protocol-flags {}", flags.join(" ")));
            }
        } else if ekm {
            options.push("key-derivation tls-ekm".to_owned());
        }
        if info.mtu.is_some_and(|largest| largest >= self.config.tun_mtu) {
            options.push(format!("tun-mtu {}", self.config.tun_mtu));
        }
        if self.config.path_mtu && info.path_mtu {
            options.push(push::PATH_MTU.to_owned());
        }
        let knows_dns = info.has(negotiation::PROTO_DNS);
        options.extend(self.config.push.render(knows_dns));
        options.extend(self.listed(&peer.identity).map(|listed| listed.push.render(knows_dns)).unwrap_or_default());
        options
    }
}

impl StaticPeer {
    fn addresses(&self) -> impl Iterator<Item = IpAddr> + use<> {
        self.address.map(IpAddr::V4).into_iter().chain(self.address_ipv6.map(IpAddr::V6))
    }
}
