//! A listener and two dialers, and the hosts behind them.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use rcgen::{CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose};
use segments::VirtioHeader;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tunnel::{
    Cipher, DatagramPath, Device, DevicePath, Dial, Event, Handle, Ipv4Prefix, Ipv6Prefix, Listen, Mode, MssFix,
    Offload, Snapshot, StaticKey, StaticPeer, TlsMaterial, Transport, TunnelConfig, Underlay,
};

use crate::device::cut;
use crate::model::sum;
use crate::traffic::{FRAMES, LISTENER, MSS_FIX, MTU, Step};

const DEADLINE: Duration = Duration::from_secs(20);
const DIALERS: [u8; 2] = [2, 3];
/// Packets that may be on their way: what the sockets of devices and tunnels have room for, whatever the sizes.
const WINDOW: usize = 48;

/// What is tried.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setting {
    pub(crate) transport: Transport,
    pub(crate) cipher: Cipher,
    /// Of the sockets.
    pub(crate) sockets: Offload,
    /// Whether the device of the listener has offload.
    pub(crate) listener: bool,
    /// Whether the devices of the dialers have offload.
    pub(crate) dialers: bool,
}

pub(crate) struct Ends {
    setting: Setting,
    hosts: BTreeMap<u8, Host>,
}

/// A tunnel, and the far end of its device.
struct Host {
    handle: Handle,
    stop: CancellationToken,
    device: UnixDatagram,
    offload: bool,
    /// What came out, by flow.
    arrived: BTreeMap<Vec<u8>, Vec<Vec<u8>>>,
    /// What has to, by flow.
    expected: BTreeMap<Vec<u8>, Vec<Vec<u8>>>,
    /// How many of them are still to come.
    due: usize,
    /// Frames that were sent since all that was sent came out anywhere. A tunnel lets few wait, and drops more.
    sent: usize,
}

impl Ends {
    pub(crate) async fn connect(setting: Setting) -> Self {
        let authority = authority();
        let config = |mode, name: &str, usage| {
            let mut config =
                TunnelConfig::new(mode, issue(&authority, name, usage), Some(StaticKey::from_bytes([5; 256])));
            config.data_ciphers = vec![setting.cipher];
            config.offload = setting.sockets;
            config.tun_mtu = MTU;
            config.data.mss_fix = MssFix::Inner(MSS_FIX);
            config
        };
        let bind = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let peer = |&host: &u8| StaticPeer {
            name: format!("dialer-{host}"),
            address: Some(address(host)),
            address_ipv6: Some(address_ipv6(host)),
            ..StaticPeer::default()
        };
        let listen = Mode::Listen(Listen {
            tcp: Some(bind),
            network_ipv6: Some(Ipv6Prefix { address: address_ipv6(LISTENER), prefix_len: 64 }),
            peers: DIALERS.iter().map(peer).collect(),
            ..Listen::new(bind, Some(Ipv4Prefix { address: address(LISTENER), prefix_len: 24 }))
        });
        let listener = config(listen, "listener", ExtendedKeyUsagePurpose::ServerAuth);
        let mut listener = Host::start(listener, setting.listener);
        let at = listener.wait(|event| place(event, setting.transport)).await;
        let mut hosts = BTreeMap::new();
        for host in DIALERS {
            let dial = Mode::Dial(Dial { remotes: vec![at.to_string().parse().unwrap()], peer: None, beside: true });
            let dialer = config(dial, &format!("dialer-{host}"), ExtendedKeyUsagePurpose::ClientAuth);
            let mut dialer = Host::start(dialer, setting.dialers);
            dialer.wait(is_connected).await;
            listener.wait(is_connected).await;
            hosts.insert(host, dialer);
        }
        hosts.insert(LISTENER, listener);
        Self { setting, hosts }
    }

    /// Sends what a step has, and lets come out what may not stay on its way.
    pub(crate) fn carry(&mut self, step: Step) {
        if self.hosts[&step.from].sent + step.frames.len() > FRAMES {
            self.receive(0);
            self.hosts.values_mut().for_each(|host| host.sent = 0);
        }
        let to = self.hosts.get_mut(&step.to).unwrap();
        to.due += step.arrives.len();
        for packet in step.arrives {
            to.expected.entry(flow(&packet)).or_default().push(packet);
        }
        let from = self.hosts.get_mut(&step.from).unwrap();
        from.sent += step.frames.len();
        if from.offload {
            for (header, frame) in &step.frames {
                from.device.send(&[&header.encode()[..], frame].concat()).unwrap();
            }
        } else {
            for packet in step.packets {
                from.device.send(&packet).unwrap();
            }
        }
        self.receive(WINDOW);
    }

    /// Takes what came out until no more than so many packets are still to come at each host.
    fn receive(&mut self, due: usize) {
        for (host, end) in &mut self.hosts {
            while end.due > due {
                if let Err(error) = end.receive() {
                    let (missing, setting) = (end.due, &self.setting);
                    panic!("host {host} still misses {missing} packets: {error}; {setting:?}; {:?}", end.state());
                }
            }
        }
    }

    /// Takes the rest, compares, and ends the tunnels.
    pub(crate) async fn finish(mut self) {
        self.receive(0);
        for (host, end) in std::mem::take(&mut self.hosts) {
            end.compare(host, &self.setting);
            end.stop.cancel();
            let Handle { task, snapshot, .. } = end.handle;
            timeout(DEADLINE, task).await.unwrap().unwrap().unwrap();
            let state = snapshot.borrow().clone();
            look_at(&state, &self.setting, end.offload);
            // What came after all was there is too much.
            end.device.set_nonblocking(true).unwrap();
            assert!(end.device.recv(&mut [0; 100]).is_err(), "more than was sent; {:?}", self.setting);
        }
    }
}

impl Host {
    fn start(config: TunnelConfig, offload: bool) -> Self {
        let (device, far) = if offload { Device::pair_with_offload() } else { Device::pair() }.unwrap();
        far.set_read_timeout(Some(DEADLINE)).unwrap();
        let stop = CancellationToken::new();
        Self {
            handle: tunnel::start(config, device, stop.clone()).unwrap(),
            stop,
            device: far,
            offload,
            arrived: BTreeMap::new(),
            expected: BTreeMap::new(),
            due: 0,
            sent: 0,
        }
    }

    /// The first event that `pick` takes.
    async fn wait<T>(&mut self, pick: impl Fn(Event) -> Option<T>) -> T {
        loop {
            if let Some(found) = pick(timeout(DEADLINE, self.handle.events.recv()).await.unwrap().unwrap()) {
                return found;
            }
        }
    }

    fn state(&self) -> Snapshot {
        self.handle.snapshot.borrow().clone()
    }

    /// Takes a frame, as a kernel does that cuts it at once.
    fn receive(&mut self) -> std::io::Result<()> {
        let mut buf = vec![0; VirtioHeader::LEN + segments::MAX_FRAME];
        let length = self.device.recv(&mut buf)?;
        let packets = if self.offload {
            let (header, frame) = buf[..length].split_first_chunk().unwrap();
            cut(&VirtioHeader::decode(header), frame)
        } else {
            vec![buf[..length].to_vec()]
        };
        self.due = self.due.saturating_sub(packets.len());
        for packet in packets {
            self.arrived.entry(flow(&packet)).or_default().push(packet);
        }
        Ok(())
    }

    fn compare(&self, host: u8, setting: &Setting) {
        let names = |flows: &BTreeMap<Vec<u8>, _>| flows.keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(&self.arrived), names(&self.expected), "host {host}, {setting:?}");
        for (flow, expected) in &self.expected {
            let arrived = &self.arrived[flow];
            for (index, (arrived, expected)) in arrived.iter().zip(expected).enumerate() {
                let differs = || format!("host {host}, {setting:?}, packet {index} of the flow {flow:?}");
                assert_eq!(without_freedom(arrived), without_freedom(expected), "{}", differs());
            }
            assert_eq!(arrived.len(), expected.len(), "host {host}, {setting:?}, {flow:?}");
        }
    }
}

/// What was tried was in use.
fn look_at(state: &Snapshot, setting: &Setting, offload: bool) {
    let device = if offload { DevicePath::VirtioUso } else { DevicePath::Plain };
    assert_eq!(state.data_path.device, device);
    for count in [state.io.device_read, state.io.device_write] {
        let (calls, packets) = (count.calls, count.packets);
        assert!(if offload { packets > calls * 2 } else { packets == calls }, "{packets} in {calls}; {setting:?}");
    }
    if setting.transport == Transport::Udp {
        let is_auto = setting.sockets == Offload::Auto;
        let datagrams = if is_auto { DatagramPath::Segmented } else { DatagramPath::Single };
        assert_eq!((state.data_path.udp_send, state.data_path.udp_receive), (datagrams, datagrams));
        let (calls, packets) = (state.io.udp_send.calls, state.io.udp_send.packets);
        assert!(if is_auto { packets > calls } else { packets == calls }, "{packets} in {calls}; {setting:?}");
    }
}

/// Packets with the same one must not overtake each other.
fn flow(packet: &[u8]) -> Vec<u8> {
    let is_ipv4 = packet[0] >> 4 == 4;
    let (addresses, protocol) = if is_ipv4 { (12..20, packet[9]) } else { (8..40, packet[6]) };
    let transport = if is_ipv4 { usize::from(packet[0] & 15) * 4 } else { 40 };
    let is_fragment = is_ipv4 && u16::from_be_bytes([packet[6], packet[7]]) & 0x3fff != 0;
    let has_ports = matches!(protocol, 6 | 17) && !is_fragment;
    let ports = packet.get(transport..transport + 4).filter(|_| has_ports).unwrap_or_default();
    [&packet[addresses], &[protocol], ports].concat()
}

/// The packet without what may be one or the other: the identification of one of IPv4 that must not be fragmented means
/// nothing (RFC 6864, 4.1), and zero as a checksum of TCP has two forms, of which Linux writes either.
fn without_freedom(packet: &[u8]) -> Vec<u8> {
    let mut packet = packet.to_vec();
    let is_ipv4 = packet[0] >> 4 == 4;
    if is_ipv4 && packet[6] & 0x40 != 0 {
        let header = usize::from(packet[0] & 15) * 4;
        assert_eq!(sum(&packet[..header]), 0xffff, "{packet:02x?}");
        packet[4..6].fill(0);
        packet[10..12].fill(0);
    }
    let (transport, protocol) = if is_ipv4 { (usize::from(packet[0] & 15) * 4, packet[9]) } else { (40, packet[6]) };
    if let Some(checksum) = packet.get_mut(transport + 16..transport + 18).filter(|_| protocol == 6)
        && *checksum == [0xff; 2]
    {
        checksum.fill(0);
    }
    packet
}

fn place(event: Event, transport: Transport) -> Option<Underlay> {
    match event {
        Event::Listening { address } if address.transport == transport => Some(address),
        _ => None,
    }
}

fn is_connected(event: Event) -> Option<()> {
    matches!(event, Event::PeerConnected(_)).then_some(())
}

/// Where the model's packets of a host come from.
fn address(host: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 0, host)
}

fn address_ipv6(host: u8) -> Ipv6Addr {
    let mut bytes = [7; 16];
    (bytes[0], bytes[15]) = (0xfd, host);
    bytes.into()
}

fn authority() -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

fn issue(authority: &CertifiedIssuer<'_, KeyPair>, name: &str, usage: ExtendedKeyUsagePurpose) -> TlsMaterial {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![usage];
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, authority).unwrap();
    TlsMaterial { ca_pem: authority.pem(), cert_pem: certificate.pem(), key_pem: key.serialize_pem().into() }
}
