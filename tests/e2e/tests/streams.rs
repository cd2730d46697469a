//! An upload larger than the memory it may take on its way, past an application that stands still for a while, and beside it a WebSocket.

use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::streams::{Sink, WebSocket};
use e2e::{Binaries, Cloud, Dialer, More};
use lab::capability;

/// Bytes of the upload: sixty times what any process on its way may grow by, and few enough for every run of the tests. What 10 GiB
/// take stands in docs/performance.md; `cargo xtask bench ingress` sends them.
const SIZE: u64 = 2 << 30;
/// How much a process' peak may be above what it had before, in MiB. Seen: 2 of edge-agent, less of home-agent, 7 of Caddy, whose
/// garbage collector lets the heap double; the 3 s that the application stands still alone are 200 MiB and more.
const GROWTH: f64 = 32.0;
/// For the upload on a loaded machine.
const LIMIT: Duration = Duration::from_secs(240);

#[test]
fn a_long_upload_takes_no_memory_and_a_websocket_lives_beside_it() -> Result<()> {
    if !capability::or_skip()? {
        return Ok(());
    }
    let more = More { without_nextcloud: true, home: Sink::config(), ..More::default() };
    let binaries = Binaries::beside_this_one()?;
    let cloud = Cloud::start_with(Dialer::Home, &binaries, &more, &mut |what| println!("{what}"))?;
    let checked = check(&cloud);
    if checked.is_err() {
        for agent in [&cloud.edge, &cloud.home] {
            println!("{}\n{}", agent.status_text()?, agent.process.log_tail(40));
        }
    }
    checked?;
    cloud.stop()
}

fn check(cloud: &Cloud) -> Result<()> {
    let sink = Sink::start(cloud)?;
    let mut socket = WebSocket::open(cloud)?;
    socket.says("before")?;
    let upload = sink.upload(cloud, SIZE, LIMIT)?;
    println!("{} MiB went up in {:.1} s", SIZE >> 20, upload.took.as_secs_f64());
    for (name, before, after) in upload.memory {
        println!("{name}: {:.1} MiB before, at most {:.1} meanwhile", before.resident, after.peak);
        let growth = after.peak - before.resident;
        ensure!(growth < GROWTH, "{name} grew by {growth:.0} MiB");
    }
    socket.says("after")
}
