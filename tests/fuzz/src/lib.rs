//! Fuzz targets for the parsers that touch bytes of others. Each takes any bytes, and panics only when something is
//! wrong with the parser: it panicked itself, or what it read is not what it writes.
//!
//! The tests replay the committed corpus (`corpus/TARGET/`); the driver beside this crate searches for more,
//! see its `main.rs`.
#![forbid(unsafe_code)]

use std::time::Duration;

use model::{DesiredConfig, Event, HostStatus, ServiceAnnouncement};
use ovpn::auth_token::{TokenKey, Tokens};
use ovpn::data::{Cipher, DataChannel, OVERHEAD};
use ovpn::key_method2::KeyMethod2;
use ovpn::keys::KeyBlock;
use ovpn::login::Credentials;
use ovpn::negotiation::PeerInfo;
use ovpn::packet::{ControlBody, Header, Opcode, SessionId};
use ovpn::protection::{AuthDigest, KeyDirection, SharedKey, TlsAuth};
use ovpn::push::PushReply;
use ovpn::static_key::StaticKey;
use ovpn::tls_crypt_v2::{ClientKey, ServerKey};
use ovpn::wrap::{Role, WrapKeys};
use prost::Message;
use proto::v1;

mod frames;
mod sessions;

/// A target by its name.
pub type Target = (&'static str, fn(&[u8]));

/// Every target.
pub const TARGETS: &[Target] = &[
    ("auth_token", auth_token),
    ("client_session", sessions::client),
    ("coalesce", frames::coalesce),
    ("control_message", control_message),
    ("control_packet", control_packet),
    ("data_packet", data_packet),
    ("epoch_packet", epoch_packet),
    ("key_method", key_method),
    ("mss", mss),
    ("peer_info", peer_info),
    ("profile", profile),
    ("push_reply", push_reply),
    ("server_session", sessions::server),
    ("split", frames::split),
    ("static_key", static_key),
    ("tls_auth_packet", tls_auth_packet),
    ("wrapped_key", wrapped_key),
    ("wrapped_packet", wrapped_packet),
];

/// What a client shows as a token, and the file of the server's key.
fn auth_token(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let shown = Credentials::new("user", text.as_ref().to_owned());
    let key = TokenKey::from_bytes([7; 32]);
    let tokens = Tokens { key, lifetime: Duration::from_secs(60), renewal: Duration::from_secs(10) };
    assert!(tokens.check(&shown, 1_700_000_000).is_none(), "a token that nobody signed");
    let _ = TokenKey::parse(&text);
}

/// The header and body of a control packet, as it stands after unwrapping.
fn control_packet(bytes: &[u8]) {
    let Some((&first, body)) = bytes.split_first() else { return };
    let Some(header) = Header::decode(first) else { return };
    assert_eq!(header.encode(), first, "a header that changes");
    if let Some(decoded) = ControlBody::decode(header.opcode, body) {
        let mut again = Vec::new();
        decoded.encode(&mut again);
        assert_eq!(again, body, "a body that changes");
    }
}

/// A datagram that claims to be wrapped, under both roles and without wrapping.
fn wrapped_packet(bytes: &[u8]) {
    let key = StaticKey::from_bytes([7; 256]);
    for keys in [WrapKeys::new(Role::Server, Some(&key)), WrapKeys::new(Role::Client, Some(&key))] {
        assert!(keys.open(&mut bytes.to_vec()).is_err(), "a packet that nobody wrapped");
    }
    drop(WrapKeys::new(Role::Server, None).open(&mut bytes.to_vec()));
}

/// A datagram that claims to come under tls-auth, with every digest and direction; and the same bytes wrapped and opened.
fn tls_auth_packet(bytes: &[u8]) {
    let header = Header { opcode: Opcode::Control, key_id: 0 };
    for digest in [AuthDigest::Sha1, AuthDigest::Sha256, AuthDigest::Sha512] {
        for (ours, theirs) in [(None, None), (Some(KeyDirection::Zero), Some(KeyDirection::One))] {
            let keys = |role, direction| {
                let key = StaticKey::from_bytes(std::array::from_fn(|at| at as u8));
                WrapKeys::shared(role, &SharedKey::TlsAuth(TlsAuth { key, direction, digest }))
            };
            let (server, client) = (keys(Role::Server, ours), keys(Role::Client, theirs));
            assert!(server.open(&mut bytes.to_vec()).is_err(), "a packet that nobody wrapped");
            let mut packet = Vec::new();
            let sealed = client.seal(header, SessionId([1; 8]), (1, 2), bytes, &mut packet);
            let opened = server.open(&mut packet);
            assert!(sealed.is_ok() && opened.is_ok_and(|opened| opened.body == bytes), "a packet that changes");
        }
    }
}

/// A client's key as tls-crypt-v2 appends it, and the files that such keys come in.
fn wrapped_key(bytes: &[u8]) {
    let server = ServerKey::from_bytes([7; 128]);
    assert!(server.unwrap(bytes).is_err(), "a key that nobody wrapped");
    let text = String::from_utf8_lossy(bytes);
    if let Ok(key) = ServerKey::parse(&text) {
        assert!(ServerKey::parse(&key.to_text()).is_ok(), "a server key that changes");
    }
    if let Ok(key) = ClientKey::parse(&text) {
        let again = ClientKey::parse(&key.to_text());
        assert!(again.is_ok_and(|again| again.wrapped() == key.wrapped()), "a client key that changes");
    }
}

/// A data packet, under every cipher.
fn data_packet(bytes: &[u8]) {
    let block = KeyBlock::from_exporter([7; 256]);
    for cipher in Cipher::ALL.iter().chain(Cipher::CBC) {
        let digest = AuthDigest::default();
        let Ok(mut channel) = DataChannel::new(Role::Server, 0, Some(1), *cipher, digest, &block) else { continue };
        assert!(channel.open(&mut bytes.to_vec()).is_err(), "a packet that nobody sealed");
    }
}

/// A data packet of the epoch format, under every cipher that has it; and the same bytes sealed and opened.
fn epoch_packet(bytes: &[u8]) {
    if bytes.is_empty() {
        return;
    }
    let block = KeyBlock::from_exporter([7; 256]);
    for cipher in Cipher::ALL {
        let end = |role| DataChannel::with_epochs(role, 0, 1, *cipher, &block).ok();
        let (Some(mut server), Some(mut client)) = (end(Role::Server), end(Role::Client)) else { continue };
        assert!(server.open(&mut bytes.to_vec()).is_err(), "a packet that nobody sealed");
        let mut packet = vec![0; bytes.len() + OVERHEAD];
        let Ok(length) = client.seal(bytes, &mut packet) else { continue };
        let opened = server.open(&mut packet[..length]);
        let opened = opened.ok().and_then(|inner| packet.get(inner));
        assert_eq!(opened, Some(bytes), "a packet that changes");
    }
}

/// A key exchange message of either side.
fn key_method(bytes: &[u8]) {
    for from_client in [true, false] {
        // Text that is not UTF-8 grows when it is read, perhaps beyond what may be written.
        let readable = |message: &KeyMethod2| !(message.options.clone() + &message.peer_info).contains('\u{fffd}');
        if let Some(message) = KeyMethod2::decode(bytes, from_client).ok().filter(readable) {
            let again = KeyMethod2::decode(&message.encode(from_client), from_client);
            assert!(again.is_ok_and(|again| again == message), "a message that changes");
        }
    }
}

/// An inner packet whose largest TCP segment is to be limited; the limit stands before it.
fn mss(bytes: &[u8]) {
    let Some((&limit, inner)) = bytes.split_first_chunk::<2>() else { return };
    let limit = u16::from_be_bytes(limit);
    let mut clamped = inner.to_vec();
    ovpn::mss::clamp(&mut clamped, limit);
    assert_eq!(clamped.len(), inner.len());
    let mut again = clamped.clone();
    ovpn::mss::clamp(&mut again, limit);
    assert_eq!(again, clamped, "a packet that changes twice");
}

/// A client's words about itself.
fn peer_info(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let info = PeerInfo::parse(&text);
    let _ = info.choose_cipher(Cipher::ALL, &text, None);
    assert!(!info.software.contains(char::is_control), "control characters for the log");
}

/// A server's push, in as many messages as there are NULs.
fn push_reply(bytes: &[u8]) {
    let mut reply = PushReply::default();
    for message in bytes.split(|&byte| byte == 0) {
        let _ = reply.handle_message(&String::from_utf8_lossy(message));
    }
    let _ = reply.configured(ovpn::underlay::Underlay::udp(([192, 0, 2, 1], 1194).into()), 1500, 1600);
    assert!(reply.ignored.iter().all(|option| !option.contains(char::is_control)), "control characters for the log");
}

/// A static key file.
fn static_key(bytes: &[u8]) {
    if let Ok(key) = StaticKey::parse(&String::from_utf8_lossy(bytes)) {
        let again = StaticKey::parse(&key.to_text());
        assert!(again.is_ok_and(|again| again.as_bytes() == key.as_bytes()), "a key that changes");
    }
}

/// A profile as people have them.
fn profile(bytes: &[u8]) {
    let _ = profile::Profile::parse(&String::from_utf8_lossy(bytes));
}

/// A message of the control channel, of either side.
fn control_message(bytes: &[u8]) {
    use v1::{edge_message, home_message};
    match v1::HomeMessage::decode(bytes).ok().and_then(|message| message.message) {
        Some(home_message::Message::Report(report)) => {
            for service in report.services {
                let _ = ServiceAnnouncement::try_from(service);
            }
            if let Some(Ok(status)) = report.status.map(HostStatus::try_from) {
                let again = HostStatus::try_from(v1::HostStatus::from(status.clone()));
                assert!(again.is_ok_and(|again| again == status), "a status that changes");
            }
        }
        Some(home_message::Message::Events(events)) => {
            for event in proto::events(events).map(|(_, events)| events).unwrap_or_default() {
                let again = Event::try_from(v1::Event::from(event.clone()));
                assert!(again.is_ok_and(|again| again == event), "an event that changes");
            }
        }
        // The session reads these as they are.
        Some(
            home_message::Message::Hello(_) | home_message::Message::ConfigResult(_) | home_message::Message::Clock(_),
        )
        | None => {}
    }
    if let Ok(v1::EdgeMessage { message: Some(edge_message::Message::Desired(desired)) }) =
        v1::EdgeMessage::decode(bytes)
        && let Ok(desired) = DesiredConfig::try_from(desired)
    {
        let again = DesiredConfig::try_from(v1::DesiredConfig::from(desired.clone()));
        assert!(again.is_ok_and(|again| again == desired), "a configuration that changes");
    }
}
