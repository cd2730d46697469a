//! Many dialers in one process, to put a listener to work. Settings are `key=value` words:
//!
//! `crowd remote=192.0.2.1:1194 dir=DIRECTORY count=999 at_once=48`
//!
//! Dialer `N`, from 0, has the certificate `deviceN.pem` and the key `deviceN.key` in the directory, where `ca.pem` is too,
//! and a device in memory that carries nothing. At most `at_once` are in a handshake at a time. When all are connected it
//! prints `connected in` and the seconds since the first began; then it keeps them until it is interrupted. It needs some ten
//! file descriptors for each.

use std::collections::HashMap;
use std::error::Error;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tunnel::{Device, Dial, Event, Mode, TlsMaterial, TunnelConfig};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let settings: HashMap<&str, &str> = words.iter().filter_map(|word| word.split_once('=')).collect();
    let need = |key: &str| settings.get(key).copied().ok_or_else(|| format!("'{key}=' is missing"));
    let (dir, count) = (Path::new(need("dir")?), need("count")?.parse::<usize>()?);
    let in_handshake = Arc::new(Semaphore::new(need("at_once")?.parse()?));

    let stop = CancellationToken::new();
    let (news, mut connected) = mpsc::channel(1024);
    let begun = Instant::now();
    let start = async {
        for number in 0..count {
            let mode = Mode::Dial(Dial { remotes: vec![need("remote")?.parse()?], peer: None, beside: true });
            let config = TunnelConfig::new(mode, identity(dir, number)?, None);
            let turn = in_handshake.clone().acquire_owned().await?;
            let (device, far) = Device::pair()?;
            let mut handle = tunnel::start(config, device, stop.clone())?;
            let news = news.clone();
            tokio::spawn(async move {
                // The device is there as long as its far end.
                let (_far, mut turn) = (far, Some(turn));
                while let Some(event) = handle.events.recv().await {
                    match event {
                        Event::PeerConnected(_) if turn.take().is_some() => {
                            // Nobody asks any more when it is over.
                            let _ = news.send(()).await;
                        }
                        Event::HandshakeFailed { reason, .. } => println!("device{number}: handshake failed: {reason}"),
                        Event::PeerDisconnected { reason, .. } => println!("device{number}: disconnected: {reason}"),
                        _ => {}
                    }
                }
            });
        }
        Ok::<_, Box<dyn Error>>(())
    };
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let run = async {
        start.await?;
        for _ in 0..count {
            connected.recv().await;
        }
        println!("connected in {:.3}", begun.elapsed().as_secs_f64());
        std::future::pending().await
    };
    tokio::select! {
        ended = run => ended,
        _ = interrupt.recv() => Ok(()),
        _ = terminate.recv() => Ok(()),
    }
}

fn identity(dir: &Path, number: usize) -> Result<TlsMaterial, std::io::Error> {
    let read = |name: &str| fs::read_to_string(dir.join(name));
    let (cert_pem, key_pem) = (read(&format!("device{number}.pem"))?, read(&format!("device{number}.key"))?);
    Ok(TlsMaterial { ca_pem: read("ca.pem")?, cert_pem, key_pem: key_pem.into() })
}
