//! One end of a tunnel for tests and for trying things out: runs the crate over a real TUN device and sets addresses
//! with `ip`. Settings are `key=value` words:
//!
//! `peer mode=listen bind=0.0.0.0:1194 address=10.8.0.1/24 pool=10.8.0.10-10.8.0.20 tun=tun0 ca=ca.pem cert=c.pem key=k.pem`
//! `peer mode=dial remote=192.0.2.1:1194[/tcp][,MORE] [peer=NAME] tun=tun0 ca=ca.pem cert=c.pem key=k.pem`
//!
//! Also: `tcp=0.0.0.0:1194` for a listener, `tls_crypt=FILE`, `tls_auth=FILE direction=0 auth=SHA256`, `tls_crypt_v2=FILE`, `tls_crypt_v2_server=FILE tls_crypt_v2_older=FILE max_age=SECONDS`,
//! `ciphers=A:B`, `tls_min=1.3`, `tls_max=1.2`, `mtu=1420` (else it follows the path), `ping=SECONDS/SECONDS`, `static=NAME/ADDRESS`, `derive=prf`,
//! `address6=fd00:8::1/64 pool6=A-B push=OPTION;OPTION static_push=OPTION;OPTION client_to_client=on` for a listener (with
//! an empty `address=` it is IPv6 only), `pull_filter=ACTION:PREFIX;... route_nopull=on` for a dialer, `peer_ids=off`,
//! `auth=SHA256`, `mssfix=BYTES[/mtu|/fixed]`, `max_packet_size=BYTES`,
//! `crl=FILE`, `fingerprint=HEX[,MORE]` instead of `ca=`, `peer_prefix=TEXT` or `peer_subject=TEXT` instead of `peer=`,
//! `reneg=SECONDS`, `hand_window=SECONDS`, `overlap=SECONDS`, `peers=16`, `dyn=off`, `epochs=off`, `offload=off`, `fit=on`,
//! `link=WORDS,OF,IP-LINK-SET` after what is set otherwise, as in `link=txqueuelen,500`.
//! `login=USER:PASSWORD`, `check=FILE` and more about passwords and commands: see `peer/auth.rs`.
//! Events, and what is logged at info and above, are printed one a line; when it is interrupted, the counters follow.

#[path = "peer/auth.rs"]
mod auth;

use std::collections::HashMap;
use std::error::Error;
use std::fmt;
use std::process::Command;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Level, Metadata, Subscriber};
use tunnel::{
    AuthDigest, BetweenPeers, ClientKey, Configured, ControlProtection, Device, DevicePath, Dial, Event, FilterAction,
    Ifconfig, Keepalive, KeyDerivation, KeyDirection, Listen, Mode, MssFix, NameCheck, PullFilter, PushSet,
    RouteGateway, ServerKey, ServerV2, SharedKey, StaticKey, StaticPeer, TlsAuth, TlsMaterial, TlsVersion,
    TunnelConfig, TunnelIdentity,
};

type Settings = HashMap<String, String>;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let settings: Settings = std::env::args()
        .skip(1)
        .filter_map(|word| word.split_once('=').map(|(key, value)| (key.to_owned(), value.to_owned())))
        .collect();
    tracing::subscriber::set_global_default(Log)?;
    let config = config(&settings)?;
    let tun = settings.get("tun").map_or("tun0", String::as_str).to_owned();
    let device = Device::open_persistent(&tun, config.offload)?;
    if let Mode::Listen(listen) = &config.mode {
        up(&tun, config.tun_mtu)?;
        if let Some(prefix) = listen.network {
            ip(&["address", "replace", &prefix.to_string(), "dev", &tun])?;
        }
        if let Some(prefix) = listen.network_ipv6 {
            ip(&["address", "replace", &prefix.to_string(), "dev", &tun, "nodad"])?;
        }
    }
    let stop = CancellationToken::new();
    let usual = config.tun_mtu;
    let mut handle = tunnel::start(config, device, stop.clone())?;
    let mut orders = auth::orders(&settings)?;
    let (mut usual, mut current) = (usual, usual);
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    loop {
        tokio::select! {
            Some(event) = handle.events.recv() => {
                println!("{event:?}");
                if let Event::Configured(configured) = &event {
                    apply(&tun, configured)?;
                    (usual, current) = (configured.mtu, configured.mtu);
                }
                if matches!(event, Event::Configured(_) | Event::Listening { .. }) {
                    let path = handle.snapshot.borrow().data_path.device;
                    queue(&tun, path, settings.get("link"))?;
                }
            }
            Ok(()) = handle.snapshot.changed() => {
                let mtu = handle.snapshot.borrow_and_update().mtu.unwrap_or(usual);
                if mtu != current {
                    current = mtu;
                    println!("MTU {mtu}");
                    up(&tun, mtu)?;
                }
            }
            Some(request) = handle.logins.recv() => auth::decide(&settings, request, handle.commands.clone()),
            Some(command) = orders.recv() => handle.commands.send(command).await?,
            _ = interrupt.recv() => stop.cancel(),
            _ = terminate.recv() => stop.cancel(),
            result = &mut handle.task => {
                while let Ok(event) = handle.events.try_recv() {
                    println!("{event:?}");
                }
                let snapshot = handle.snapshot.borrow();
                println!("Traffic {:?}", snapshot.traffic);
                println!("handshakes_completed={} handshakes_failed={}", snapshot.handshakes_completed, snapshot.handshakes_failed);
                println!("renewals_completed={} renewals_failed={}", snapshot.renewals_completed, snapshot.renewals_failed);
                println!("Path {}", snapshot.data_path);
                println!("{:?}", snapshot.io);
                for (reason, count) in snapshot.drops.iter().filter(|&(_, count)| count > 0) {
                    println!("dropped {reason}={count}");
                }
                return Ok(result??);
            }
        }
    }
}

/// What the files that are set hold now.
pub(crate) fn identity(settings: &Settings) -> Result<TunnelIdentity, Box<dyn Error>> {
    let TunnelConfig { tls, crl, protection, .. } = config(settings)?;
    Ok(TunnelIdentity { tls, crl, protection })
}

fn config(settings: &Settings) -> Result<TunnelConfig, Box<dyn Error>> {
    let need = |key: &str| settings.get(key).ok_or_else(|| format!("'{key}=' is missing"));
    let mode = match need("mode")?.as_str() {
        "listen" => {
            let pool = match settings.get("pool").and_then(|pool| pool.split_once('-')) {
                Some((first, last)) => Some(first.parse()?..=last.parse()?),
                None => None,
            };
            let pool_ipv6 = match settings.get("pool6").and_then(|pool| pool.split_once('-')) {
                Some((first, last)) => Some(first.parse()?..=last.parse()?),
                None => None,
            };
            let peers = match settings.get("static").and_then(|peer| peer.rsplit_once('/')) {
                Some((name, address)) => vec![StaticPeer {
                    name: name.to_owned(),
                    address: Some(address.parse()?),
                    push: push_set(settings.get("static_push")),
                    ..StaticPeer::default()
                }],
                None => Vec::new(),
            };
            let network = |key: &str| settings.get(key).filter(|text| !text.is_empty());
            Mode::Listen(Listen {
                tcp: settings.get("tcp").map(|address| address.parse()).transpose()?,
                network_ipv6: network("address6").map(|prefix| prefix.parse()).transpose()?,
                peers,
                pool,
                pool_ipv6,
                push: push_set(settings.get("push")),
                between_peers: if settings.contains_key("client_to_client") {
                    BetweenPeers::Forward
                } else {
                    BetweenPeers::Drop
                },
                max_peers: settings.get("peers").map_or(Ok(16), |count| count.parse())?,
                ..Listen::new(need("bind")?.parse()?, network("address").map(|prefix| prefix.parse()).transpose()?)
            })
        }
        _ => {
            let remotes = need("remote")?.split(',').map(str::parse).collect::<Result<_, _>>()?;
            Mode::Dial(Dial { remotes, peer: name_check(settings), beside: true })
        }
    };
    let read = |key: &str| -> Result<String, Box<dyn Error>> { Ok(std::fs::read_to_string(need(key)?)?) };
    let own = |key: &str| if settings.contains_key(key) { read(key) } else { Ok(String::new()) };
    let ca_pem = if settings.contains_key("fingerprint") { String::new() } else { read("ca")? };
    let tls = TlsMaterial { ca_pem, cert_pem: own("cert")?, key_pem: own("key")?.into() };
    let mut config = TunnelConfig::new(mode, tls, protection(settings)?);
    if let Some(names) = settings.get("ciphers") {
        config.data_ciphers = names.split(':').map(str::parse).collect::<Result<_, _>>()?;
    }
    if settings.get("tls_min").is_some_and(|version| version == "1.3") {
        config.tls_version_min = TlsVersion::V1_3;
    }
    if settings.get("tls_max").is_some_and(|version| version == "1.2") {
        config.tls_version_max = Some(TlsVersion::V1_2);
    }
    if let Some(fingerprints) = settings.get("fingerprint") {
        config.peer_fingerprints = fingerprints.split(',').map(str::parse).collect::<Result<_, _>>()?;
        config.remote_cert_tls = false;
    }
    config.crl = settings.get("crl").map(Into::into);
    if settings.get("derive").is_some_and(|way| way == "prf") {
        config.key_derivation = KeyDerivation::Prf;
    }
    if let Some(mtu) = settings.get("mtu") {
        config.tun_mtu = mtu.parse()?;
        config.path_mtu = false;
    }
    if let Some((ping, restart)) = settings.get("ping").and_then(|ping| ping.split_once('/')) {
        let seconds = |text: &str| text.parse().map(Duration::from_secs);
        config.keepalive = Keepalive { ping: seconds(ping)?, ping_restart: seconds(restart)? };
    }
    config.peer_ids = settings.get("peer_ids").is_none_or(|ids| ids != "off");
    config.pull.route_nopull = settings.contains_key("route_nopull");
    for filter in settings.get("pull_filter").map_or("", String::as_str).split_terminator(';') {
        let (action, prefix) = filter.split_once(':').ok_or("pull_filter=ACTION:PREFIX;...")?;
        let action = match action {
            "accept" => FilterAction::Accept,
            "ignore" => FilterAction::Ignore,
            _ => FilterAction::Reject,
        };
        config.pull.filters.push(PullFilter { action, prefix: prefix.to_owned() });
    }
    auth::set(&mut config, settings)?;
    if let Some(name) = settings.get("auth") {
        config.data.digest = name.parse()?;
    }
    if let Some(words) = settings.get("mssfix") {
        let words: Vec<&str> = words.split('/').collect();
        config.data.mss_fix = MssFix::parse(&words).ok_or("mssfix=BYTES[/mtu|/fixed]")?;
    }
    if let Some(bytes) = settings.get("max_packet_size") {
        config.max_packet_size = bytes.parse()?;
    }
    config.dynamic_tls_crypt = settings.get("dyn").is_none_or(|dynamic| dynamic != "off");
    if settings.contains_key("fit") {
        config.fit_routes();
    }
    if let Some(offload) = settings.get("offload") {
        config.offload = offload.parse()?;
    }
    config.epochs = settings.get("epochs").is_none_or(|epochs| epochs != "off");
    for (key, place) in [
        ("reneg", &mut config.renewal.after),
        ("hand_window", &mut config.renewal.hand_window),
        ("overlap", &mut config.renewal.overlap),
    ] {
        if let Some(seconds) = settings.get(key) {
            *place = Duration::from_secs(seconds.parse()?);
        }
    }
    Ok(config)
}

/// Options as they are pushed, with semicolons between them.
fn push_set(options: Option<&String>) -> PushSet {
    let options = options.map_or("", String::as_str).split_terminator(';').map(str::to_owned).collect();
    PushSet { options, ..PushSet::default() }
}

fn name_check(settings: &Settings) -> Option<NameCheck> {
    let name = settings.get("peer").cloned().map(NameCheck::Name);
    let prefix = settings.get("peer_prefix").cloned().map(NameCheck::Prefix);
    name.or(prefix).or_else(|| settings.get("peer_subject").cloned().map(NameCheck::Subject))
}

/// `tls_crypt`, `tls_auth`, `tls_crypt_v2` (a dialer's) or `tls_crypt_v2_server`, the latter perhaps beside `tls_crypt`.
fn protection(settings: &Settings) -> Result<ControlProtection, Box<dyn Error>> {
    let read = |key: &str| settings.get(key).map(std::fs::read_to_string).transpose();
    let tls_crypt = read("tls_crypt")?.map(|text| StaticKey::parse(&text)).transpose()?;
    if let Some(text) = read("tls_crypt_v2_server")? {
        let max_age = settings.get("max_age").map(|seconds| seconds.parse().map(Duration::from_secs)).transpose()?;
        let (key, beside) = (ServerKey::parse(&text)?, tls_crypt.map(SharedKey::TlsCrypt));
        let older = read("tls_crypt_v2_older")?.map(|text| ServerKey::parse(&text)).transpose()?;
        return Ok(ControlProtection::TlsCryptV2Listener(ServerV2 {
            key,
            older: older.into_iter().collect(),
            max_age,
            allow_noncookie: false,
            beside,
        }));
    }
    if let Some(text) = read("tls_crypt_v2")? {
        return Ok(ControlProtection::TlsCryptV2(ClientKey::parse(&text)?));
    }
    let Some(text) = read("tls_auth")? else { return Ok(tls_crypt.into()) };
    let direction = match settings.get("direction").map(String::as_str) {
        Some("0") => Some(KeyDirection::Zero),
        Some("1") => Some(KeyDirection::One),
        _ => None,
    };
    let digest = settings.get("auth").map_or(Ok(AuthDigest::default()), |name| name.parse())?;
    Ok(ControlProtection::TlsAuth(TlsAuth { key: StaticKey::parse(&text)?, direction, digest }))
}

/// Sets what a listener pushed: addresses, and routes through the tunnel.
fn apply(tun: &str, configured: &Configured) -> Result<(), Box<dyn Error>> {
    up(tun, configured.mtu)?;
    match configured.ipv4 {
        Some(Ifconfig::Subnet(prefix)) => ip(&["address", "replace", &prefix.to_string(), "dev", tun])?,
        Some(Ifconfig::PointToPoint { local, remote }) => {
            ip(&["address", "replace", &local.to_string(), "peer", &remote.to_string(), "dev", tun])?;
        }
        None => {}
    }
    if let Some(ipv6) = configured.ipv6 {
        ip(&["address", "replace", &ipv6.prefix().to_string(), "dev", tun, "nodad"])?;
    }
    let routes = configured.routes.iter().filter(|route| route.gateway == RouteGateway::Vpn);
    let routes_ipv6 = configured.routes_ipv6.iter().filter(|route| route.gateway == RouteGateway::Vpn);
    let prefixes = routes.map(|route| route.prefix.to_string());
    for prefix in prefixes.chain(routes_ipv6.map(|route| route.prefix.to_string())) {
        ip(&["route", "replace", &prefix, "dev", tun])?;
    }
    Ok(())
}

fn up(tun: &str, mtu: u16) -> Result<(), Box<dyn Error>> {
    ip(&["link", "set", tun, "mtu", &mtu.to_string(), "up"])
}

/// Sets the link's queue, and what `link=` says.
fn queue(tun: &str, path: DevicePath, more: Option<&String>) -> Result<(), Box<dyn Error>> {
    ip(&["link", "set", tun, "txqueuelen", &path.tx_queue_len().to_string()])?;
    match more {
        Some(words) => ip(&[&["link", "set", tun], words.split(',').collect::<Vec<_>>().as_slice()].concat()),
        None => Ok(()),
    }
}

fn ip(words: &[&str]) -> Result<(), Box<dyn Error>> {
    let status = Command::new("ip").args(words).status()?;
    if status.success() { Ok(()) } else { Err(format!("ip {} failed", words.join(" ")).into()) }
}

/// Prints what is logged.
struct Log;

impl Subscriber for Log {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= Level::INFO
    }

    fn event(&self, event: &tracing::Event<'_>) {
        struct Line(String);
        impl Visit for Line {
            fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
                self.0.push_str(&format!(" {field}={value:?}"));
            }
        }
        let mut line = Line(format!("log {}", event.metadata().level()));
        event.record(&mut line);
        println!("{}", line.0);
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}
