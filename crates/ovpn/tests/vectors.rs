//! Vectors captured from sessions of stock OpenVPN 2.6.14. `tests/vectors/` holds the files; each says how it was made.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use ovpn::auth_token::{Token, TokenKey};
use ovpn::data::{Cipher, DataChannel, OVERHEAD, Payload};
use ovpn::drops::DropReason;
use ovpn::key_method2::{KeyMethod2, Randoms};
use ovpn::keys::KeyBlock;
use ovpn::login::Credentials;
use ovpn::negotiation::PeerInfo;
use ovpn::packet::{ControlBody, Header, Opcode, SessionId};
use ovpn::protection::{AuthDigest, KeyDirection, SharedKey, TlsAuth};
use ovpn::push::PushReply;
use ovpn::static_key::StaticKey;
use ovpn::tls_crypt_v2::{ClientKey, Metadata, ServerKey};
use ovpn::wrap::{Role, WrapKeys};
use serde_json::Value;

fn load(name: &str) -> Value {
    let path = format!("{}/tests/vectors/{name}.json", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn hex(value: &Value) -> Vec<u8> {
    let text = value.as_str().unwrap();
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

fn array<const N: usize>(value: &Value) -> [u8; N] {
    hex(value).try_into().unwrap()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().unwrap()
}

fn stock_key() -> StaticKey {
    StaticKey::parse(load("static_key")["file_text"].as_str().unwrap()).unwrap()
}

#[test]
fn static_key_files() {
    let file = load("static_key");
    let raw = array::<256>(&file["raw_256_bytes"]);
    let key = stock_key();
    assert_eq!(key.as_bytes(), &raw);
    assert_eq!(StaticKey::parse(&key.to_text()).unwrap(), key);
    for variant in list(&file["variants_same_key"]) {
        assert_eq!(StaticKey::parse(variant.as_str().unwrap()).unwrap(), key);
    }
    for invalid in list(&file["invalid"]) {
        assert!(StaticKey::parse(invalid.as_str().unwrap()).is_err());
    }
    assert_eq!(format!("{key:?}"), "StaticKey(..)");
}

/// Checks a clear body against its parsed fields, both ways.
fn check_body(packet: &Value, opcode: Opcode, clear: &[u8]) {
    let body = ControlBody::decode(opcode, clear).unwrap();
    let parsed = &packet["parsed"];
    let acks: Vec<u64> = body.acks.as_slice().iter().map(|&id| u64::from(id)).collect();
    assert_eq!(acks, list(&parsed["acks"]).iter().map(|id| id.as_u64().unwrap()).collect::<Vec<_>>());
    assert_eq!(body.ack_session, parsed.get("ack_session_id").map(|id| SessionId(array(id))));
    assert_eq!(body.message_id.map(u64::from), parsed.get("message_packet_id").and_then(Value::as_u64));
    assert_eq!(body.payload, parsed.get("payload").map(hex).unwrap_or_default());
    let mut again = Vec::new();
    body.encode(&mut again);
    assert_eq!(again, clear);
}

#[test]
fn control_packets_without_wrapping() {
    let file = load("control_plain");
    let keys = WrapKeys::new(Role::Server, None);
    let mut seen = 0;
    for packet in list(&file["packets"]) {
        let mut wire = hex(&packet["wire"]);
        let Some(header) = Header::decode(wire[0]) else { continue };
        if header.key_id != 0 || matches!(header.opcode, Opcode::DataV1 | Opcode::DataV2) {
            continue;
        }
        assert_eq!(u64::from(header.opcode as u8), packet["opcode"].as_u64().unwrap());
        assert_eq!(header.encode(), wire[0]);
        let opened = keys.open(&mut wire).unwrap();
        assert_eq!(opened.sender, SessionId(array(&packet["sender_session_id"])));
        assert_eq!((opened.replay, opened.body), (None, hex(&packet["clear_body"]).as_slice()));
        check_body(packet, header.opcode, opened.body);
        seen += 1;
    }
    assert!(seen >= 10, "only {seen} packets of key id 0");
}

#[test]
fn control_packets_under_tls_crypt() {
    let file = load("tls_crypt");
    let key = stock_key();
    let (client, server) = (WrapKeys::new(Role::Client, Some(&key)), WrapKeys::new(Role::Server, Some(&key)));
    for packet in list(&file["packets"]) {
        let (sender, receiver) = if packet["from"] == "client" { (&client, &server) } else { (&server, &client) };
        check_wrapped(packet, sender, receiver);
    }
    for case in list(&file["negative"]) {
        // The third case is a server's packet come back to the server.
        assert!(server.open(&mut hex(&case["wire"])).is_err(), "{}", case["why"]);
    }
}

/// Packets of renewals, wrapped under what TLS exported, mixed with the static key where there is one.
#[test]
fn control_packets_under_dynamic_tls_crypt() {
    let static_key = stock_key();
    let with_key = load("key_derivation_ekm")["dynamic_tls_crypt"].clone();
    for (file, base) in [(load("dynamic_tls_crypt_no_static_key"), None), (with_key, Some(&static_key))] {
        let exported = StaticKey::from_bytes(array(&file["exported_256"]));
        let keys = |role| WrapKeys::new(role, base).dynamic(&exported);
        let (client, server) = (keys(Role::Client), keys(Role::Server));
        let packets = list(&file["renegotiation_packets_key_id_1"]);
        assert!(packets.len() >= 4);
        for packet in packets {
            let (sender, receiver) = if packet["from"] == "client" { (&client, &server) } else { (&server, &client) };
            check_wrapped(packet, sender, receiver);
        }
    }
}

/// A captured packet opens, and sealing its contents gives the same packet.
fn check_wrapped(packet: &Value, sender: &WrapKeys, receiver: &WrapKeys) {
    let wire = hex(&packet["wire"]);
    let header = Header::decode(wire[0]).unwrap();
    let clear = hex(&packet["clear_body"]);
    let word = |name: &str| packet[name].as_u64().unwrap() as u32;
    let replay = (word("replay_time"), word("replay_packet_id"));

    let mut copy = wire.clone();
    let opened = receiver.open(&mut copy).unwrap();
    assert_eq!((opened.replay, opened.body), (Some(replay), clear.as_slice()));
    check_body(packet, header.opcode, opened.body);

    let mut sealed = Vec::new();
    sender.seal(header, SessionId(array(&packet["sender_session_id"])), replay, &clear, &mut sealed).unwrap();
    assert_eq!(sealed, wire);
}

#[test]
fn control_packets_under_tls_auth() {
    let (zero, one) = (Some(KeyDirection::Zero), Some(KeyDirection::One));
    for (name, server_direction, client_direction) in [
        ("tls_auth_nodir", None, None),
        ("tls_auth_dir", zero, one),
        ("tls_auth_sha256", zero, one),
        ("tls_auth_sha512", zero, one),
    ] {
        let file = load(name);
        let digest: AuthDigest = file["digest"].as_str().unwrap().parse().unwrap();
        let keys = |role, direction| {
            WrapKeys::shared(role, &SharedKey::TlsAuth(TlsAuth { key: stock_key(), direction, digest }))
        };
        let (client, server) = (keys(Role::Client, client_direction), keys(Role::Server, server_direction));
        let packets = list(&file["packets"]);
        assert!(packets.len() >= 8);
        for packet in packets {
            let (sender, receiver) = if packet["from"] == "client" { (&client, &server) } else { (&server, &client) };
            check_wrapped(packet, sender, receiver);
            let wire = hex(&packet["wire"]);
            for at in 0..wire.len() {
                let mut forged = wire.clone();
                forged[at] ^= 1;
                assert!(receiver.open(&mut forged).is_err(), "byte {at}");
                assert!(receiver.open(&mut wire[..at].to_vec()).is_err(), "only {at} bytes");
            }
        }
    }
}

#[test]
fn keys_and_packets_of_tls_crypt_v2() {
    let file = load("tls_crypt_v2");
    let server_key = ServerKey::parse(file["server_key_file_text"].as_str().unwrap()).unwrap();
    assert_eq!(ServerKey::from_bytes(array(&file["server_key_raw_128"])), server_key);
    assert_eq!(server_key.to_text(), file["server_key_file_text"].as_str().unwrap());
    for vector in list(&file["clients"]) {
        let client_key = ClientKey::parse(vector["client_key_file_text"].as_str().unwrap()).unwrap();
        assert_eq!(client_key.to_text(), vector["client_key_file_text"].as_str().unwrap());
        assert_eq!(client_key.key().as_bytes().as_slice(), hex(&vector["Kc"]));
        assert_eq!(client_key.wrapped(), hex(&vector["WKc"]));
        let metadata = match vector["metadata_type"].as_u64() {
            Some(1) => Metadata::Timestamp(i64::from_be_bytes(array(&vector["metadata"]))),
            _ => Metadata::User(hex(&vector["metadata"])),
        };
        let unwrapped = server_key.unwrap(client_key.wrapped()).unwrap();
        assert_eq!((&unwrapped.key, &unwrapped.metadata), (client_key.key(), &metadata));
        assert_eq!(server_key.issue(client_key.key().clone(), &metadata).unwrap(), client_key);
        for at in 0..client_key.wrapped().len() {
            let mut forged = client_key.wrapped().to_vec();
            forged[at] ^= 1;
            assert!(server_key.unwrap(&forged).is_err(), "byte {at}");
            assert!(server_key.unwrap(&client_key.wrapped()[..at]).is_err(), "only {at} bytes");
        }
    }
    let mut seen = 0;
    for (session, client) in [("session", 0), ("session_no_early", 0), ("session_user_metadata", 1)] {
        let key = StaticKey::from_bytes(array(&file["clients"][client]["Kc"]));
        let (client, server) = (WrapKeys::new(Role::Client, Some(&key)), WrapKeys::new(Role::Server, Some(&key)));
        for packet in list(&file[session]) {
            let (sender, receiver) = if packet["from"] == "client" { (&client, &server) } else { (&server, &client) };
            let mut packet = packet.clone();
            if let Some(wkc) = packet["wkc"].as_str() {
                let wire = packet["wire"].as_str().unwrap();
                packet["wire"] = wire.strip_suffix(wkc).unwrap().into();
                seen += 1;
            }
            check_wrapped(&packet, sender, receiver);
        }
    }
    assert!(seen >= 5);
}

#[test]
fn key_exchange_messages() {
    let file = load("key_method_2");
    for session in list(&file["messages"]) {
        for (from_client, message, strings) in [
            (true, &session["client_message"], &session["client_strings_with_nul"]),
            (false, &session["server_message"], &session["server_strings_with_nul"]),
        ] {
            let wire = hex(message);
            let parsed = KeyMethod2::decode(&wire, from_client).unwrap();
            let expected = |at: usize| strings[at].as_str().unwrap_or_default().trim_end_matches('\0').to_owned();
            assert_eq!((parsed.options.clone(), parsed.peer_info.clone()), (expected(0), expected(3)));
            let shown = parsed.credentials.clone().unwrap_or_else(|| Credentials::new("", ""));
            assert_eq!(shown, Credentials::new(expected(1), expected(2)));
            assert_eq!(parsed.encode(from_client), wire);
            for end in 0..parsed.options.len() + 60 {
                assert!(KeyMethod2::decode(&wire[..end], from_client).is_err());
            }
        }
    }
    let lines: Vec<&str> =
        list(&file["peer_info_of_stock_clients"]["2.6.14"]).iter().map(|line| line.as_str().unwrap()).collect();
    let info = PeerInfo::parse(&lines.join("\n"));
    assert_eq!((info.protocol, info.mtu), (990, Some(1600)));
    assert_eq!(info.choose_cipher(&[Cipher::ChaCha20Poly1305], "", None), Some(Cipher::ChaCha20Poly1305));
}

#[test]
fn tokens_of_stock_servers() {
    let file = load("auth_token");
    let key = TokenKey::parse(file["secret_file_text"].as_str().unwrap()).unwrap();
    assert_eq!(key, TokenKey::from_bytes(array(&file["hmac_key"])));
    let (username, token) = (file["username"].as_str().unwrap(), file["token"].as_str().unwrap());
    let seconds = |value| u64::from_be_bytes(array(value));
    let expected = Token {
        login: array(&file["session_id_12"]),
        since: seconds(&file["initial_time_8"]),
        made: seconds(&file["renewal_time_8"]),
    };
    assert_eq!(Token::verify(&key, &Credentials::new(username, token)), Some(expected));
    assert_eq!(expected.sign(&key, username).expose(), token);
    assert_eq!(Token::verify(&key, &Credentials::new("mallory", token)), None);
}

#[test]
fn push_replies() {
    let file = load("key_method_2");
    for (name, reply) in file["push_replies"].as_object().unwrap() {
        let mut push = PushReply::default();
        // "cont" is two messages joined, and so is not told to be the last.
        let last = push.handle_message(&format!("PUSH_REPLY,{}", reply.as_str().unwrap()));
        assert_eq!(last, Ok(name != "cont"));
        assert!(
            push.configured(ovpn::underlay::Underlay::udp(([192, 0, 2, 1], 1194).into()), 1500, 1600).is_ok(),
            "{name}"
        );
        if name == "crypt" {
            assert!(push.tls_ekm && push.cc_exit);
            assert_eq!(push.cipher.as_deref(), Some("AES-256-GCM"));
        }
        if name == "cont" {
            assert!(push.routes.len() > 20);
        }
    }
    let mut push = PushReply::default();
    push.handle_message(&format!("PUSH_REPLY,{}", file["push_replies"]["crypt"].as_str().unwrap())).unwrap();
    let seconds = std::time::Duration::from_secs;
    assert_eq!((push.ping, push.ping_restart), (Some(seconds(10)), Some(seconds(60))));
}

#[test]
fn keys_by_the_prf() {
    for vector in list(&load("key_derivation_prf")["vectors"]) {
        let randoms = |side: &str, pre_master| Randoms {
            pre_master,
            random1: array(&vector[format!("{side}_random1")]),
            random2: array(&vector[format!("{side}_random2")]),
        };
        let block = KeyBlock::from_prf(
            &randoms("client", array(&vector["pre_master"])),
            &randoms("server", [0; 48]),
            SessionId(array(&vector["client_session_id"])),
            SessionId(array(&vector["server_session_id"])),
        );
        assert_eq!(block.as_bytes().as_slice(), hex(&vector["key2_256"]));
    }
}

#[test]
fn data_packets() {
    let mut seen = 0;
    let mut blocks = std::collections::HashSet::new();
    for vector in list(&load("data_channel")["vectors"]) {
        let cipher: Cipher = vector["cipher"].as_str().unwrap().parse().unwrap();
        let digest = vector["auth"].as_str().map_or(AuthDigest::Sha1, |name| name.parse().unwrap());
        let block = KeyBlock::from_exporter(array(&vector["key2_256"]));
        blocks.insert(vector["key2_256"].as_str().unwrap().to_owned());
        let wire = hex(&vector["wire"]);
        let plain = hex(&vector["plaintext"]);
        let header = Header::decode(wire[0]).unwrap();
        let peer_id = (header.opcode == Opcode::DataV2).then(|| u32::from_be_bytes([0, wire[1], wire[2], wire[3]]));
        let (sender, receiver) =
            if vector["from"] == "client" { (Role::Client, Role::Server) } else { (Role::Server, Role::Client) };

        let mut channel = DataChannel::new(receiver, 0, peer_id, cipher, digest, &block).unwrap();
        // The HMAC of CBC is not over the header, whose peer id is looked at before.
        let authenticated = if cipher.is_aead() { 0 } else { hex(&vector["header"]).len() };
        for at in authenticated..wire.len() {
            let mut forged = wire.clone();
            forged[at] ^= 0x10;
            // A changed opcode or packet id is malformed or does not authenticate; nothing else may happen.
            assert!(channel.open(&mut forged).is_err() || at == 0, "byte {at}");
        }
        let mut copy = wire.clone();
        let range = channel.open(&mut copy).unwrap();
        assert_eq!(copy[range], plain);
        assert_eq!(channel.open(&mut wire.clone()), Err(DropReason::Replay));

        // With CBC the IV is random: beside the code.
        if vector["packet_id"] == "00000001" {
            let mut channel = DataChannel::new(sender, 0, peer_id, cipher, digest, &block).unwrap();
            let mut out = vec![0; plain.len() + OVERHEAD];
            let length = channel.seal(&plain, &mut out).unwrap();
            assert_eq!(out[..length], wire);
            seen += 1;
        }
    }
    assert!(seen >= 8, "only {seen} vectors were sealed");

    // The blocks are those that the TLS exporter gave.
    for vector in list(&load("key_derivation_ekm")["vectors"]) {
        let block = array::<256>(&vector["key2_256"]);
        let slices = &vector["slices"];
        assert_eq!(block[..32], hex(&slices["aes256gcm_c2s_key"]));
        assert_eq!(block[64..72], hex(&slices["c2s_implicit_iv_8"]));
        assert_eq!(block[128..160], hex(&slices["aes256gcm_s2c_key"]));
        assert_eq!(block[192..200], hex(&slices["s2c_implicit_iv_8"]));
        if vector["tls"] == "TLS 1.3" {
            assert!(blocks.contains(vector["key2_256"].as_str().unwrap()));
        }
    }
}

#[test]
fn data_packets_of_epochs() {
    let file = load("data_channel_epoch");
    let vectors = list(&file["vectors"]);
    // The receivers that saw the packets of one session in their order.
    let mut receivers = std::collections::HashMap::new();
    for vector in vectors {
        let cipher: Cipher = vector["cipher"].as_str().unwrap().parse().unwrap();
        let block = KeyBlock::from_exporter(array(&vector["key2_256"]));
        let (wire, plain) = (hex(&vector["wire"]), hex(&vector["plaintext"]));
        let peer_id = u32::from_be_bytes([0, wire[1], wire[2], wire[3]]);
        let (sender, receiver) =
            if vector["from"] == "client" { (Role::Client, Role::Server) } else { (Role::Server, Role::Client) };
        let channel = |role| DataChannel::with_epochs(role, 0, peer_id, cipher, &block).unwrap();
        let id = format!("{} {}", vector["key2_256"], vector["from"]);
        let opener = receivers.entry(id).or_insert_with(|| channel(receiver));
        for at in 1..wire.len() {
            let mut forged = wire.clone();
            forged[at] ^= 0x10;
            assert!(opener.open(&mut forged).is_err(), "byte {at}");
        }
        let mut copy = wire.clone();
        let range = opener.open(&mut copy).unwrap();
        assert_eq!(copy[range], plain);
        assert_eq!(opener.open(&mut wire.clone()), Err(DropReason::Replay));

        // A sender gets to an epoch by receiving a packet of it.
        let mut sealer = channel(sender);
        if vector["epoch"] != 1 {
            let other = |other: &&Value| {
                other["key2_256"] == vector["key2_256"]
                    && other["epoch"] == vector["epoch"]
                    && other["from"] != vector["from"]
            };
            let other = vectors.iter().find(other).unwrap();
            sealer.open(&mut hex(&other["wire"])).unwrap();
        }
        let mut out = vec![0; plain.len() + OVERHEAD];
        let length = sealer.seal(&plain, &mut out).unwrap();
        assert_eq!(out[..length], wire);
    }
    assert_eq!(vectors.len(), 16);
}

#[test]
fn messages_of_the_data_channel() {
    let file = load("data_channel_messages");
    assert_eq!(Payload::ping(), hex(&file["ping"]));
    assert_eq!(Payload::exit().as_slice(), hex(&file["occ_exit"]));
    assert_eq!(Payload::classify(&hex(&file["ping"])), Payload::Ping);
    assert_eq!(Payload::classify(&hex(&file["occ_exit"])), Payload::Exit);
    assert_eq!(Payload::classify(&hex(&file["occ_request"])), Payload::Other);
    assert_eq!(Payload::classify(&hex(&file["occ_magic"])), Payload::Other);
    assert_eq!(Payload::classify(&[0x45, 0]), Payload::Packet);
}
