//! What our ingress and our tunnel add to Caddy before the same application: three ways to it side by side, in turn. And a long
//! upload through the whole product.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Args;
use e2e::streams::Sink;
use e2e::{Binaries, Cloud, Dialer, More};
use lab::images::Wanted;
use lab::{Http, Process, capability, packages, topology, wait_until};

use super::machine::Machine;
use crate::cargo;
use crate::progress::Progress;

/// The public name of the application.
const NAME: &str = "box.example.test";
/// Where it is published in the tunnel.
const IN_TUNNEL: u16 = 8081;
/// Where another container of it is published on home's public address.
const OUTSIDE: u16 = 8082;
/// Ports of the plain Caddy on the edge: to the application by its public address, and through the tunnel.
const DIRECT: u16 = 8443;
const THROUGH: u16 = 8444;
/// What the application runs.
const APPLICATION: [&str; 5] = ["caddy", "respond", "--listen", ":8000", "well"];
/// Connections at once.
const CONNECTIONS: [u32; 2] = [1, 32];
/// For a part to answer.
const LIMIT: Duration = Duration::from_secs(90);
/// For the long upload.
const UPLOAD_LIMIT: Duration = Duration::from_secs(1800);

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Each way is measured this often, once a round, in an order that changes from round to round
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Seconds for each measurement
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..))]
    seconds: u32,
    /// GiB of the long upload; 0 for none
    #[arg(long, default_value_t = 10)]
    upload: u64,
}

/// A way from the visitor to the application.
struct Way {
    what: &'static str,
    url: String,
    /// By number of connections, a sample a round.
    samples: [Vec<Sample>; 2],
}

/// What `wrk` says.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Sample {
    /// Milliseconds.
    median: f64,
    /// Milliseconds.
    p99: f64,
    /// Answers a second.
    rate: f64,
}

/// Measures and prints.
pub(crate) fn run(options: &Options) -> Result<()> {
    let progress = Progress::start();
    super::need_root()?;
    let needed = packages::BUILD.iter().chain(packages::LAB).chain(packages::IMAGES).chain(packages::TESTS);
    packages::ensure(needed, &mut |line| eprintln!("{line}"))?;
    let obstacles = capability::obstacles();
    ensure!(obstacles.is_empty(), "this cannot be measured here: {}", obstacles.join("; "));
    let machine = Machine::look([])?;
    progress.step("building the agents");
    let target = cargo::workspace().join("target");
    let dir = target.display().to_string();
    let programs = ["-p", "edge-agent", "-p", "home-agent", "-p", "agentctl"];
    cargo::run_without_flags(&[&["build", "--release", "--target-dir", &dir], &programs[..]].concat())?;
    let binaries = Binaries::in_dir(&target.join("release"))?;

    let home = format!(
        "[services.box]\nkind = \"container\"\nimage = \"caddy:2\"\nport = {IN_TUNNEL}\ncontainer_port = 8000\n\
         command = {APPLICATION:?}\nhealth_path = \"/\"\n\n{}",
        Sink::config()
    );
    let more = More { without_nextcloud: true, home, home_images: vec![Wanted::Caddy], ..More::default() };
    // Home has a public address, so that there is a way to it without the tunnel.
    let cloud = Cloud::start_with(Dialer::Edge, &binaries, &more, &mut |what| progress.step(what))?;
    let _plain = plain(&cloud)?;
    let mut ways = [
        ("a plain Caddy, the application's public address", format!("https://{NAME}:{DIRECT}/")),
        ("a plain Caddy, through the tunnel", format!("https://{NAME}:{THROUGH}/")),
        ("our ingress, through the tunnel", format!("https://{NAME}/")),
    ]
    .map(|(what, url)| Way { what, url, samples: Default::default() });
    let visitor = Http::new(cloud.lab.host("visitor")?).limit(Duration::from_secs(10));
    for way in &ways {
        wait_until(way.what, LIMIT, || Ok(visitor.request(&["--insecure"], &way.url)?.text() == "well"))?;
    }
    for round in 0..options.rounds as usize {
        for at in 0..ways.len() {
            let at = (at + round) % ways.len();
            for (slot, connections) in CONNECTIONS.into_iter().enumerate() {
                let way = &mut ways[at];
                progress.step(&format!("round {}: {}, {connections} at once", round + 1, way.what));
                let sample = load(&cloud, &way.url, connections, options.seconds)?;
                way.samples[slot].push(sample);
            }
        }
    }
    println!("\n{machine}Both hosts, the routers and the visitor are on it. Medians of {} rounds.\n", options.rounds);
    print!("{}", table(&ways));
    if options.upload > 0 {
        progress.step(&format!("an upload of {} GiB", options.upload));
        let upload = Sink::start(&cloud)?.upload(&cloud, options.upload << 30, UPLOAD_LIMIT)?;
        let seconds = upload.took.as_secs_f64();
        let rate = (options.upload << 30) as f64 / 1e6 / seconds;
        println!(
            "\n{} GiB went up in {seconds:.0} s, {rate:.0} MB/s, 3 s of standing still among them\n",
            options.upload
        );
        println!("| MiB | before | at most meanwhile |\n|---|---:|---:|");
        for (name, before, after) in upload.memory {
            println!("| {name} | {:.1} | {:.1} |", before.resident, after.peak);
        }
    }
    cloud.stop()
}

/// The application once more where everybody reaches it, and before both a Caddy as people would write it down.
fn plain(cloud: &Cloud) -> Result<Process> {
    let publish = format!("{}:{OUTSIDE}:8000", topology::HOME_PUBLIC);
    let run = ["run", "--detach", "--pull", "never", "--name", "direct", "--publish", &publish, "caddy:2"];
    cloud.home_engine.docker(&[&run[..], &APPLICATION].concat())?;
    let status = cloud.home.status()?;
    let in_tunnel =
        status["local"]["tunnel"]["address"].as_str().context("home has no address in the tunnel")?.to_owned();
    let site =
        |port: u16, upstream: &str| format!("{NAME}:{port} {{\n\ttls internal\n\treverse_proxy {upstream}\n}}\n");
    let text = format!(
        "{{\n\tadmin off\n\tauto_https disable_redirects\n\tskip_install_trust\n}}\n{}{}",
        site(DIRECT, &format!("{}:{OUTSIDE}", topology::HOME_PUBLIC)),
        site(THROUGH, &format!("{in_tunnel}:{IN_TUNNEL}")),
    );
    let vps = cloud.lab.host("vps")?;
    let file = vps.dir().join("Caddyfile");
    fs::write(&file, text).with_context(|| format!("write {}", file.display()))?;
    let image = lab::images::one(Wanted::Caddy, &mut |_| ())?;
    let program = image.extract("usr/bin/caddy", &cargo::workspace().join("target/caddy"))?;
    let mut caddy = vps.command(&program.to_string_lossy());
    caddy.arg("run").arg("--adapter").arg("caddyfile").arg("--config").arg(&file).env("HOME", vps.dir());
    vps.spawn("plain-caddy", caddy)
}

fn load(cloud: &Cloud, url: &str, connections: u32, seconds: u32) -> Result<Sample> {
    let (connections, duration) = (connections.to_string(), format!("{seconds}s"));
    let wrk = ["wrk", "--latency", "--threads", "1", "--connections", &connections, "--duration", &duration, url];
    let report = cloud.lab.host("visitor")?.exec_within(Duration::from_secs(u64::from(seconds) + 30), &wrk)?;
    sample(&report).with_context(|| format!("read what wrk says: {report}"))
}

fn sample(report: &str) -> Result<Sample> {
    ensure!(!report.contains("Non-2xx") && !report.contains("Socket errors"), "not every request was answered well");
    let after = |word: &str| {
        let line = report.lines().find_map(|line| line.trim().strip_prefix(word));
        line.map(|rest| rest.trim_start_matches(':').trim()).with_context(|| format!("there is no {word}"))
    };
    let rate = after("Requests/sec")?.parse().context("read the rate")?;
    Ok(Sample { median: milliseconds(after("50%")?)?, p99: milliseconds(after("99%")?)?, rate })
}

fn milliseconds(text: &str) -> Result<f64> {
    let units = [("us", 0.001), ("ms", 1.0), ("s", 1000.0)];
    let (number, unit) = units
        .into_iter()
        .find_map(|(unit, factor)| Some((text.strip_suffix(unit)?, factor)))
        .with_context(|| format!("{text} has no unit"))?;
    Ok(number.parse::<f64>().with_context(|| format!("{text} is no time"))? * unit)
}

/// Ratios are to the first way.
fn table(ways: &[Way]) -> String {
    let mut text = String::new();
    for (slot, connections) in CONNECTIONS.into_iter().enumerate() {
        text.push_str(&format!("| {connections} at once | median, ms | 99 %, ms | answers a second | median, ratio |\n|---|---:|---:|---:|---:|\n"));
        let of = |way: &Way, value: fn(&Sample) -> f64| middle(way.samples[slot].iter().map(value).collect());
        let first = of(&ways[0], |sample| sample.median);
        for way in ways {
            let (median, p99, rate) = (of(way, |s| s.median), of(way, |s| s.p99), of(way, |s| s.rate));
            let ratio = median / first;
            text.push_str(&format!("| {} | {median:.2} | {p99:.2} | {rate:.0} | {ratio:.2} |\n", way.what));
        }
        text.push('\n');
    }
    text
}

fn middle(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let upper = values.len() / 2;
    match values.get(upper) {
        Some(value) if values.len() % 2 == 1 => *value,
        Some(value) => (values[upper - 1] + value) / 2.0,
        None => f64::NAN,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_of_wrk_is_read() {
        let report = "Running 4s test @ https://box.example.test/\n  1 threads and 1 connections\n  Thread Stats   Avg\n  \
                      Latency Distribution\n     50%  412.00us\n     75%  500.00us\n     90%  600.00us\n     99%    1.50ms\n  \
                      8000 requests in 4.00s, 1.00MB read\nRequests/sec:   2000.50\nTransfer/sec:    250KB\n";
        let read = sample(report).unwrap();
        assert!(
            (read.median - 0.412).abs() < 1e-9 && (read.p99 - 1.5).abs() < 1e-9 && (read.rate - 2000.5).abs() < 1e-9
        );
        assert!(sample(&format!("{report}  Non-2xx or 3xx responses: 3\n")).is_err());
        assert!((milliseconds("1.2s").unwrap() - 1200.0).abs() < 1e-9);
        assert!(milliseconds("12").is_err());
    }

    #[test]
    fn the_middle_is_between_two() {
        assert!((middle(vec![3.0, 1.0, 2.0]) - 2.0).abs() < f64::EPSILON);
        assert!((middle(vec![4.0, 1.0, 2.0, 3.0]) - 2.5).abs() < f64::EPSILON);
    }
}
