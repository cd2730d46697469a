//! Passwords, tokens, refusals, and the other words of the control channel.

use std::time::Duration;

use ovpn::auth_token::{TokenKey, Tokens};
use ovpn::client::ClientConfig;
use ovpn::endpoint::{EndReason, Endpoint, Event, RenewalLimits, Retry};
use ovpn::login::{Admission, Advance, Credentials, Decision, Login, LoginRequest};
use ovpn::server::{Notice, ServerConfig};

use crate::network::{Network, SERVER, client_config, identity, packet, server_config};

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

fn asking() -> ServerConfig {
    ServerConfig { admission: Admission { passwords: true, ..Admission::default() }, ..server_config() }
}

fn knowing(username: &str, password: &str) -> ClientConfig {
    ClientConfig { login: Login::new(Some(Credentials::new(username, password))), ..client_config() }
}

/// A network with one client, run until the server wants its login judged.
fn asked(server: ServerConfig, client: ClientConfig) -> (Network, usize, LoginRequest) {
    let mut net = Network::new(30, server);
    let at = net.add_client("a", client);
    net.run(seconds(1));
    let request = net.server.poll_login().expect("a request");
    (net, at, request)
}

fn decide(net: &mut Network, request: &LoginRequest, decision: Decision) {
    let now = net.now();
    net.server.decide(now, request.id, decision);
}

#[track_caller]
fn assert_carries(net: &mut Network, at: usize) {
    let address = net.address(at).expect("connected");
    let (there, back) = (packet(address, SERVER, 100), packet(SERVER, address, 100));
    assert_eq!(net.client_sends(at, &there).as_deref(), Some(there.as_slice()));
    assert_eq!(net.server_sends(&back).as_deref(), Some(back.as_slice()));
}

/// Nobody is in before the decision, and whoever asks for the push meanwhile gets none.
#[test]
fn a_password_is_judged_before_anything_is_given() {
    let (mut net, at, request) = asked(asking(), knowing("alice", "secret"));
    assert_eq!(request.credentials, Credentials::new("alice", "secret"));
    assert_eq!((request.certificate.clone(), request.is_renewal), (Some(identity("a")), false));
    assert!(!format!("{request:?}").contains("secret"), "a password in a log");
    net.run(seconds(20));
    assert!(!net.is_connected(at) && !net.has_ended(at) && net.server.peers().is_empty());
    decide(&mut net, &request, Decision::Accept);
    net.run(seconds(1));
    assert_carries(&mut net, at);
    // A decision that is made twice changes nothing.
    decide(&mut net, &request, Decision::Refuse { reason: String::new() });
    net.run(seconds(1));
    assert_carries(&mut net, at);
}

#[test]
fn a_wrong_password_ends_it_with_the_reason() {
    for (reason, seen) in [("wrong password", "wrong password"), ("", "wrong user name or password")] {
        let (mut net, at, request) = asked(asking(), knowing("alice", "guess"));
        decide(&mut net, &request, Decision::Refuse { reason: reason.to_owned() });
        net.run(seconds(1));
        let ended = net.last_reason(at).unwrap();
        assert_eq!(ended, EndReason::AuthFailed(seen.to_owned()));
        assert_eq!(ended.retry(), Retry::Never);
        // The server keeps the session for five seconds, to acknowledge and repeat its last words.
        assert!(net.server.poll_timeout().is_some());
        net.run(seconds(6));
        assert_eq!(net.server.counters().handshakes_failed, 1);
        assert!(net.server.poll_timeout().is_none_or(|at| at <= net.now()), "nothing is left");
        let failed = |event: &Event| matches!(event, Event::HandshakeFailed { reason: EndReason::LoginRefused(_), .. });
        assert!(net.server_events.iter().any(failed));
    }
}

#[test]
fn without_a_password_or_a_decision_nobody_gets_in() {
    let mut net = Network::new(31, asking());
    let at = net.add_client("a", client_config());
    net.run(seconds(1));
    assert_eq!(net.last_reason(at), Some(EndReason::AuthFailed("a user name and a password are needed".to_owned())));
    assert!(net.server.poll_login().is_none());

    let at = net.add_client("a", knowing("a\nb", "secret"));
    net.run(seconds(1));
    assert_eq!(net.last_reason(at), Some(EndReason::AuthFailed("this cannot be a user name".to_owned())));

    let (mut net, at, _) = asked(asking(), knowing("alice", "secret"));
    net.run(seconds(62));
    assert!(matches!(net.last_reason(at), Some(EndReason::RefusedForNow { .. } | EndReason::HandshakeTimeout)));
    let failed = |event: &Event| matches!(event, Event::HandshakeFailed { reason: EndReason::LoginUndecided, .. });
    assert!(net.server_events.iter().any(failed));
}

/// Who shows no certificate is known by the user name.
#[test]
fn a_user_name_stands_for_a_certificate_that_is_not_asked_for() {
    let (mut net, at, request) = asked(asking(), knowing("alice", "secret"));
    assert!(request.certificate.is_some());
    decide(&mut net, &request, Decision::Accept);
    let other = net.add_client("", knowing("bob", "secret"));
    net.run(seconds(1));
    let request = net.server.poll_login().unwrap();
    assert_eq!(request.certificate, None);
    decide(&mut net, &request, Decision::Accept);
    net.run(seconds(1));
    let names: Vec<String> = net.server.peers().into_iter().map(|peer| peer.connected.identity.common_name).collect();
    assert_eq!(names, ["a", "bob"]);
    [at, other].into_iter().for_each(|at| assert_carries(&mut net, at));

    // Without passwords there must be a certificate, whatever TLS let through.
    let mut net = Network::new(32, server_config());
    let at = net.add_client("", client_config());
    net.run(seconds(1));
    assert_eq!(net.last_reason(at), Some(EndReason::AuthFailed("a certificate is needed".to_owned())));
}

#[test]
fn temporary_refusals_say_when_and_where_to_try_again() {
    let later = Decision::Later { reason: "x".to_owned(), backoff: Some(seconds(7)), advance: Advance::No };
    let (mut net, at, request) = asked(asking(), knowing("alice", "secret"));
    decide(&mut net, &request, later.clone());
    net.run(seconds(1));
    let ended = net.last_reason(at).unwrap();
    let told = EndReason::RefusedForNow { text: "x".to_owned(), backoff: Some(seconds(7)), advance: Advance::No };
    assert_eq!(ended, told);
    assert_eq!(ended.retry(), Retry::Told { wait: seconds(7), advance: Advance::No });
    assert!(net.server_said(at).contains(&"AUTH_FAILED,TEMP[backoff 7,advance no]:x\0".to_owned()));

    // A client that does not announce that it understands.
    let mut net = Network::new(33, asking());
    net.edit_client = Some(Box::new(|message| {
        let text = String::from_utf8_lossy(&message);
        assert!(text.contains("IV_PROTO=3998"), "{text}");
        vec![replace(&message, b"IV_PROTO=3998", b"IV_PROTO=3742")]
    }));
    let at = net.add_client("a", knowing("alice", "secret"));
    net.run(seconds(1));
    let request = net.server.poll_login().unwrap();
    decide(&mut net, &request, later);
    net.run(seconds(1));
    assert!(net.server_said(at).contains(&"AUTH_FAILED\0".to_owned()), "{:?}", net.server_said(at));
}

fn replace(message: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let at = message.windows(from.len()).position(|part| part == from).unwrap();
    [&message[..at], to, &message[at + from.len()..]].concat()
}

/// What stock servers, and others, may say.
#[test]
fn refusals_in_all_their_forms() {
    for (said, expected, retry) in [
        ("AUTH_FAILED", EndReason::AuthFailed("wrong user name or password".to_owned()), Retry::Never),
        ("AUTH_FAILED,no more", EndReason::AuthFailed("no more".to_owned()), Retry::Never),
        (
            "AUTH_FAILED,TEMP",
            EndReason::RefusedForNow { text: String::new(), backoff: None, advance: Advance::Address },
            Retry::Told { wait: seconds(1), advance: Advance::Address },
        ),
        (
            "AUTH_FAILED,TEMP[backoff 99999,advance remote]:busy",
            EndReason::RefusedForNow {
                text: "busy".to_owned(),
                backoff: Some(seconds(99_999)),
                advance: Advance::Remote,
            },
            Retry::Told { wait: seconds(3600), advance: Advance::Remote },
        ),
        (
            "AUTH_FAILED,TEMP[backoff -3,advance x,?]:",
            EndReason::RefusedForNow { text: String::new(), backoff: None, advance: Advance::Address },
            Retry::Told { wait: seconds(1), advance: Advance::Address },
        ),
        ("HALT,go away\u{7}", EndReason::ServerHalt("go away?".to_owned()), Retry::Never),
        ("HALT", EndReason::ServerHalt(String::new()), Retry::Never),
        ("RESTART", EndReason::ServerRestart { text: String::new(), next_remote: false }, Retry::Usual),
        ("RESTART,[P]x", EndReason::ServerRestart { text: "x".to_owned(), next_remote: false }, Retry::Usual),
        (
            "RESTART,[PN]moved",
            EndReason::ServerRestart { text: "moved".to_owned(), next_remote: true },
            Retry::Told { wait: seconds(0), advance: Advance::Remote },
        ),
        ("EXIT", EndReason::PeerExit, Retry::Usual),
    ] {
        let mut net = Network::new(34, server_config());
        let at = net.add_client("a", client_config());
        net.run(seconds(1));
        net.say_to_client(at, &format!("{said}\0"));
        let ended = net.last_reason(at).unwrap();
        assert_eq!((ended.clone(), ended.retry()), (expected, retry), "{said}");
    }
    let mut net = Network::new(34, server_config());
    let at = net.add_client("a", client_config());
    net.run(seconds(1));
    net.say_to_client(at, "AUTH_FAILED,CRV1:R,E:state:dXNlcg==:Your PIN?\0");
    let Some(EndReason::AuthFailed(text)) = net.last_reason(at) else { panic!() };
    assert!(text.contains("'Your PIN?'") && text.contains("CRV1"), "{text}");
}

#[test]
fn information_is_passed_on_and_changes_nothing() {
    let mut net = Network::new(35, server_config());
    let at = net.add_client("a", client_config());
    net.run(seconds(1));
    net.say_to_client(at, "INFO,hello\0INFO_PRE,WEB_AUTH::https://example.com/?a=1,2\0ACC,6,1\0NONSENSE\0no end");
    assert!(net.events[at].contains(&Event::Info("hello".to_owned())));
    assert!(net.events[at].contains(&Event::Info("WEB_AUTH::https://example.com/?a=1,2".to_owned())));
    assert_carries(&mut net, at);
    let (now, peer) = (net.now(), net.server.peers()[0].connected.peer);
    assert!(net.server.notify(now, peer, &Notice::Info { text: "from\nus".to_owned() }));
    net.run(seconds(1));
    assert!(net.events[at].contains(&Event::Info("from?us".to_owned())));
    assert_carries(&mut net, at);
    assert!(!net.server.notify(now, 99, &Notice::Halt { text: String::new() }));
}

#[test]
fn our_server_restarts_and_halts_its_clients() {
    let text = || "x".to_owned();
    for (notice, expected) in [
        (
            Notice::Restart { text: text(), keep_login: true, next_remote: true },
            EndReason::ServerRestart { text: text(), next_remote: true },
        ),
        (
            Notice::Restart { text: String::new(), keep_login: false, next_remote: false },
            EndReason::ServerRestart { text: String::new(), next_remote: false },
        ),
        (Notice::Halt { text: text() }, EndReason::ServerHalt(text())),
    ] {
        let mut net = Network::new(36, server_config());
        let at = net.add_client("a", client_config());
        net.run(seconds(1));
        let (now, peer) = (net.now(), net.server.peers()[0].connected.peer);
        assert!(net.server.notify(now, peer, &notice));
        net.run(seconds(1));
        assert_eq!(net.last_reason(at), Some(expected));
        assert!(net.server.peers().is_empty());
    }
}

#[test]
fn a_login_may_wait_for_a_second_factor() {
    let (mut net, at, request) = asked(asking(), knowing("alice", "secret"));
    let info = "WEB_AUTH::https://example.com/".to_owned();
    decide(&mut net, &request, Decision::Pending { timeout: seconds(40), info });
    net.run(seconds(30));
    assert!(net.events[at].contains(&Event::LoginPending { timeout: seconds(40) }));
    assert!(net.events[at].contains(&Event::Info("WEB_AUTH::https://example.com/".to_owned())));
    assert!(!net.has_ended(at) && !net.is_connected(at));
    decide(&mut net, &request, Decision::Accept);
    net.run(seconds(1));
    assert_carries(&mut net, at);

    // Longer than the hand window, where keys live long enough; and the end of that time.
    for (asked_for, given) in [(100, 100), (4000, 300)] {
        let renewal = RenewalLimits { after: seconds(600), ..RenewalLimits::default() };
        let server = ServerConfig { renewal, ..asking() };
        let (mut net, at, request) = asked(server, ClientConfig { renewal, ..knowing("alice", "secret") });
        decide(&mut net, &request, Decision::Pending { timeout: seconds(asked_for), info: String::new() });
        net.run(seconds(1));
        assert!(net.events[at].contains(&Event::LoginPending { timeout: seconds(given) }));
        net.run(seconds(given - 5));
        assert!(!net.has_ended(at));
        net.run(seconds(10));
        assert!(net.has_ended(at));
    }
}

/// The lifetime and the pace of tokens, seconds.
fn with_tokens(lifetime: u64, renewal: u64) -> ServerConfig {
    let key = TokenKey::from_bytes([4; 32]);
    let tokens = Tokens { key, lifetime: seconds(lifetime), renewal: seconds(renewal) };
    let mut server = asking();
    server.admission.tokens = Some(tokens);
    server.renewal.after = seconds(renewal);
    server
}

#[test]
fn a_token_stands_for_the_password_until_it_is_over() {
    let (mut net, at, request) = asked(with_tokens(100, 20), knowing("alice", "secret"));
    decide(&mut net, &request, Decision::Accept);
    net.run(seconds(1));
    let first = net.login(at);
    let token = |login: &Login| login.credentials().unwrap().clone();
    assert!(Tokens::is_token(&token(&first).password));
    let Some(Event::Configured(configured)) = net.events[at].iter().find(|event| matches!(event, Event::Configured(_)))
    else {
        panic!()
    };
    assert!(!format!("{configured:?}").contains("SESS_ID"), "a token among the ignored options");

    // Renewals show the token, and get another; nobody is asked.
    net.run(seconds(45));
    assert!(net.server.counters().renewals_completed >= 2);
    assert!(net.server.poll_login().is_none());
    assert_carries(&mut net, at);
    let later = net.login(at);
    assert_ne!(later, first);

    // So does the next session.
    net.client_shuts_down(at);
    net.run(seconds(1));
    let again = net.add_client("a", ClientConfig { login: later.clone(), ..client_config() });
    net.run(seconds(1));
    assert_carries(&mut net, again);
    assert!(net.server.poll_login().is_none());

    // When it is over, the session ends with the renewal, and the next one shows the password.
    net.run(seconds(80));
    assert_eq!(net.last_reason(again), Some(EndReason::TokenRefused("the token is over".to_owned())));
    let login = net.login(again);
    assert_eq!(token(&login), Credentials::new("alice", "secret"));
    let last = net.add_client("a", ClientConfig { login, ..client_config() });
    net.run(seconds(1));
    let request = net.server.poll_login().unwrap();
    decide(&mut net, &request, Decision::Accept);
    net.run(seconds(1));
    assert_carries(&mut net, last);

    // A token of yesterday is refused at the door as well.
    let stale = net.add_client("a", ClientConfig { login: later, ..client_config() });
    net.run(seconds(1));
    assert_eq!(net.last_reason(stale), Some(EndReason::TokenRefused("the token is over".to_owned())));
}

/// `RESTART` with P keeps the token, without it does not.
#[test]
fn a_restart_may_take_the_token_away() {
    for (said, kept) in [("RESTART,[P]x\0", true), ("RESTART,x\0", false)] {
        let (mut net, at, request) = asked(with_tokens(0, 0), knowing("alice", "secret"));
        decide(&mut net, &request, Decision::Accept);
        net.run(seconds(1));
        net.say_to_client(at, said);
        assert_eq!(Tokens::is_token(&net.login(at).credentials().unwrap().password), kept);
    }
}

#[test]
fn passwords_are_judged_again_at_each_renewal() {
    let mut server = asking();
    server.renewal.after = seconds(20);
    for (decision, ends) in [
        (Some(Decision::Accept), None),
        (Some(Decision::Refuse { reason: "gone".to_owned() }), Some(EndReason::AuthFailed("gone".to_owned()))),
        (
            None,
            Some(EndReason::RefusedForNow {
                text: "nobody could decide in time".to_owned(),
                backoff: None,
                advance: Advance::Address,
            }),
        ),
    ] {
        let (mut net, at, request) = asked(server.clone(), knowing("alice", "secret"));
        decide(&mut net, &request, Decision::Accept);
        net.run(seconds(21));
        let request = net.server.poll_login().expect("a request");
        assert!(request.is_renewal && request.credentials == Credentials::new("alice", "secret"));
        assert_carries(&mut net, at);
        match decision {
            Some(decision) => decide(&mut net, &request, decision),
            None => net.run(seconds(61)),
        }
        net.run(seconds(2));
        assert_eq!(net.last_reason(at), ends);
        assert_eq!(net.server.peers().len(), usize::from(ends.is_none()));
    }
}

#[test]
fn two_sessions_of_a_name_live_side_by_side_only_when_allowed() {
    for allowed in [false, true] {
        let mut server = server_config();
        server.admission.duplicate_names = allowed;
        let mut net = Network::new(37, server);
        let first = net.add_client("a", client_config());
        net.run(seconds(1));
        let second = net.add_client("a", client_config());
        net.run(seconds(1));
        assert_eq!(net.server.peers().len(), if allowed { 2 } else { 1 });
        assert_carries(&mut net, second);
        if allowed {
            assert_ne!(net.address(first), net.address(second));
            assert_carries(&mut net, first);
        }
    }
}

/// A client's message whose strings are these bytes.
fn message(method: u8, strings: &[u8]) -> Vec<u8> {
    [&[0, 0, 0, 0, method][..], &[7; 112], strings].concat()
}

fn string(text: &[u8]) -> Vec<u8> {
    [&(text.len() as u16 + 1).to_be_bytes()[..], text, &[0]].concat()
}

#[test]
fn odd_key_exchange_messages() {
    let options = string(b"V4,cipher AES-256-GCM");
    let long_name = string(&[b'u'; 127]);
    for (odd, taken) in [
        // Without peer info; empty strings in both ways; a user name of the largest length.
        (message(2, &[&options[..], &[0, 0], &[0, 0]].concat()), true),
        (message(2, &[&options[..], &[0, 0], &[0, 0], &[0, 0]].concat()), true),
        (message(2, &[&options[..], &[0, 1, 0], &[0, 1, 0], &[0, 1, 0]].concat()), true),
        (message(2, &[&options[..], &long_name, &string(b"p")].concat()), true),
        // Method 1, no method, long options, truncated anywhere, unterminated.
        (message(1, &[&options[..], &[0, 0], &[0, 0]].concat()), false),
        (message(0, &[&options[..], &[0, 0], &[0, 0]].concat()), false),
        (message(2, &[&string(&[b'o'; 600])[..], &[0, 0], &[0, 0]].concat()), false),
        (message(2, &[&options[..], &[0, 0]].concat()), false),
        (message(2, &options[..5]), false),
        (message(2, &[&options[..], &[0, 3, b'a', b'b', b'c'], &[0, 0]].concat()), false),
        (message(2, &[&options[..], &[0, 9, 0], &[0, 0]].concat()), false),
        (Vec::from(&b"\0\0\0"[..]), false),
    ] {
        let mut net = Network::new(38, server_config());
        let sent = odd.clone();
        net.edit_client = Some(Box::new(move |message| {
            vec![if message.starts_with(&[0, 0, 0, 0, 2]) { sent.clone() } else { message }]
        }));
        net.add_client("a", client_config());
        net.run(seconds(4));
        assert_eq!(net.server.counters().handshakes_completed, u64::from(taken), "{odd:?}");
        let failed = |event: &Event| matches!(event, Event::HandshakeFailed { reason: EndReason::KeyExchange(_), .. });
        assert_eq!(net.server_events.iter().any(failed), !taken, "{odd:?}");
        // Whatever came, the next client is served.
        net.edit_client = None;
        let next = net.add_client("b", client_config());
        net.run(seconds(7));
        assert_carries(&mut net, next);
    }
}

/// Without `EXIT` on the control channel, goodbyes go over the data channel, and take effect as quickly.
#[test]
fn goodbyes_over_the_data_channel() {
    for who in [true, false] {
        let (mut server, mut client) = (server_config(), client_config());
        if who {
            server.control_exit = false;
        } else {
            client.control_exit = false;
        }
        let mut net = Network::new(39, server);
        let clients = ["a", "b"].map(|name| net.add_client(name, client.clone()));
        net.run(seconds(2));
        clients.iter().for_each(|&at| assert_carries(&mut net, at));
        net.client_shuts_down(clients[0]);
        net.run(Duration::from_millis(100));
        assert_eq!(net.server.peers().len(), 1);
        net.server_shuts_down();
        net.run(Duration::from_millis(100));
        assert_eq!(net.last_reason(clients[1]), Some(EndReason::PeerExit));
        assert!(clients.iter().all(|&at| !net.server_said(at).contains(&"EXIT\0".to_owned())));
    }
}
