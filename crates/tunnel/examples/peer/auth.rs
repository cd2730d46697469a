//! Passwords, and commands for a running listener.
//!
//! `login=USER:PASSWORD` for a dialer. For a listener: `check=FILE` with lines of `USER:PASSWORD[:WORDS]`, where the words
//! say what else becomes of the right password: `later SECONDS` (come back after that time) or `pending SECONDS ACCEPTED`
//! (something else must happen within so many seconds, and it does after that many). `certificate=none` or `optional`,
//! `tokens=LIFETIME/RENEWAL`, `duplicates=on`. `exit=off` says goodbye over the data channel.
//!
//! `orders=PATH` is a socket for datagrams such as `restart PEER TEXT`, `halt PEER TEXT`, `info PEER TEXT`, `exit PEER`;
//! a text of `restart` may begin with `[P]`, `[N]` or `[PN]`. `reconnect 0` is for a dialer; `identify 0` has the
//! files of certificates and keys read again.

use std::collections::HashMap;
use std::error::Error;
use std::time::Duration;

use tokio::net::UnixDatagram;
use tokio::sync::mpsc;
use tunnel::{
    Advance, CertificateDemand, Command, Credentials, Decision, LoginRequest, Notice, TokenKey, Tokens, TunnelConfig,
};

type Settings = HashMap<String, String>;

pub(crate) fn set(config: &mut TunnelConfig, settings: &Settings) -> Result<(), Box<dyn Error>> {
    if let Some((username, password)) = settings.get("login").and_then(|login| login.split_once(':')) {
        config.login = Some(Credentials::new(username, password));
    }
    config.control_exit = settings.get("exit").is_none_or(|exit| exit != "off");
    config.admission.passwords = settings.contains_key("check");
    config.admission.duplicate_names = settings.contains_key("duplicates");
    config.admission.certificate = match settings.get("certificate").map(String::as_str) {
        Some("none") => CertificateDemand::None,
        Some("optional") => CertificateDemand::Optional,
        _ => CertificateDemand::Required,
    };
    if let Some((lifetime, renewal)) = settings.get("tokens").and_then(|times| times.split_once('/')) {
        let seconds = |text: &str| text.parse().map(Duration::from_secs);
        let key = TokenKey::from_bytes(rand::random());
        config.admission.tokens = Some(Tokens { key, lifetime: seconds(lifetime)?, renewal: seconds(renewal)? });
    }
    Ok(())
}

/// Decides about a login by the file, in its own time.
pub(crate) fn decide(settings: &Settings, request: LoginRequest, commands: mpsc::Sender<Command>) {
    println!("{request:?}");
    let file = settings.get("check").map(std::fs::read_to_string).and_then(Result::ok).unwrap_or_default();
    let shown = format!("{}:{}", request.credentials.username, request.credentials.password.expose());
    let line =
        file.lines().find_map(|line| line.strip_prefix(&shown).filter(|rest| rest.is_empty() || rest.starts_with(':')));
    let words: Vec<String> = line.unwrap_or_default().split([' ', ':']).map(str::to_owned).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).filter(|word| !word.is_empty()).collect();
    let seconds = |text: &str| Duration::from_secs(text.parse().unwrap_or_default());
    let (mut decisions, mut wait) = (Vec::new(), Duration::ZERO);
    match words.as_slice() {
        _ if line.is_none() => decisions.push(Decision::Refuse { reason: "wrong password".to_owned() }),
        ["later", backoff] => decisions.push(Decision::Later {
            reason: "not now".to_owned(),
            backoff: Some(seconds(backoff)),
            advance: Advance::No,
        }),
        ["pending", timeout, accepted] => {
            let info = "WEB_AUTH::https://example.com/second-factor".to_owned();
            decisions.push(Decision::Pending { timeout: seconds(timeout), info });
            decisions.push(Decision::Accept);
            wait = seconds(accepted);
        }
        _ => decisions.push(Decision::Accept),
    }
    tokio::spawn(async move {
        for (at, decision) in decisions.into_iter().enumerate() {
            if at > 0 {
                tokio::time::sleep(wait).await;
            }
            // A tunnel that has ended needs no decision.
            let _ = commands.send(Command::Decide { login: request.id, decision }).await;
        }
    });
}

/// Commands that come in over the socket.
pub(crate) fn orders(settings: &Settings) -> Result<mpsc::Receiver<Command>, Box<dyn Error>> {
    let (sender, receiver) = mpsc::channel(16);
    if let Some(path) = settings.get("orders") {
        let socket = UnixDatagram::bind(path)?;
        let settings = settings.clone();
        tokio::spawn(async move {
            let mut buf = [0; 512];
            while let Ok(length) = socket.recv(&mut buf).await {
                let text = String::from_utf8_lossy(buf.get(..length).unwrap_or_default()).into_owned();
                let Some(command) = order(&settings, &text) else {
                    println!("not understood: {text}");
                    continue;
                };
                if sender.send(command).await.is_err() {
                    return;
                }
            }
        });
    }
    Ok(receiver)
}

fn order(settings: &Settings, text: &str) -> Option<Command> {
    let mut words = text.splitn(3, ' ');
    let (name, peer, text) = (words.next()?, words.next()?.parse().ok()?, words.next().unwrap_or_default());
    let (flags, rest) = text.strip_prefix('[').and_then(|rest| rest.split_once(']')).unwrap_or(("", text));
    let notice = match name {
        "identify" => return crate::identity(settings).ok().map(|new| Command::Identify(Box::new(new))),
        "reconnect" => return Some(Command::Reconnect),
        "exit" => return Some(Command::Disconnect { peer }),
        "restart" => {
            Notice::Restart { text: rest.to_owned(), keep_login: flags.contains('P'), next_remote: flags.contains('N') }
        }
        "halt" => Notice::Halt { text: text.to_owned() },
        "info" => Notice::Info { text: text.to_owned() },
        _ => return None,
    };
    Some(Command::Notify { peer, notice })
}
