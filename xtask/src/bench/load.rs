//! Measures one path once: throughput, round trips, CPU time, memory.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::{Host, Process};
use serde::{Deserialize, Serialize};

use super::bed::Bed;
use super::tunnel::Tunnel;
use super::udp::{self, Offer, Sending};

/// Seconds at the start of a throughput that do not count.
const WARM_UP: u32 = 1;
/// Seconds between two pings under load: often enough for a 99th percentile, too seldom to be a load itself.
const PING_INTERVAL: f64 = 0.02;
const IDLE_PINGS: &str = "400";
const IDLE_INTERVAL: &str = "0.005";
const FOUR: u32 = 4;
/// What a command may take longer than its measurement.
const SLACK: Duration = Duration::from_secs(20);

/// What one round found out about a path.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Round {
    pub(crate) one: Ways,
    pub(crate) four: Ways,
    pub(crate) idle: RoundTrip,
    /// Small UDP packets, up.
    pub(crate) udp: Vec<Offer>,
    /// The same, handed over as super-packets.
    pub(crate) udp_segmented: Vec<Offer>,
    /// MiB, both ends together.
    pub(crate) peak_memory: Option<f64>,
}

/// `up` is from left to right, from who dialed to who listened.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Ways {
    pub(crate) up: Load,
    pub(crate) down: Load,
}

/// TCP at full speed.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Load {
    /// Gbit/s that the receiver got.
    pub(crate) rate: f64,
    /// CPU seconds that both ends used for 10^9 bytes.
    pub(crate) cpu: Option<f64>,
    pub(crate) round_trip: RoundTrip,
}

/// Milliseconds.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct RoundTrip {
    pub(crate) median: f64,
    pub(crate) p99: f64,
}

/// About how long one path takes.
pub(crate) fn seconds(each: u32) -> usize {
    4 * (each + WARM_UP) as usize + 6 + 2 * udp::SECONDS
}

/// Measures. `say` hears each result.
pub(crate) fn measure(bed: &Bed, mut tunnel: Tunnel, seconds: u32, say: &mut dyn FnMut(&str)) -> Result<Round> {
    let _server = serve(bed)?;
    if !bed.whole {
        bed.check_frames(|| tcp(&bed.left, &tunnel, 1, false, 1).map(drop))?;
    }
    let mut load = |flows: u32, down: bool| -> Result<Load> {
        let load = tcp(&bed.left, &tunnel, flows, down, seconds)?;
        tunnel.check()?;
        let cpu = load.cpu.map_or(String::new(), |cpu| format!(", {cpu:.2} CPU s/GB"));
        let what = match (flows, down) {
            (1, false) => "one flow up",
            (1, true) => "one flow down",
            (_, false) => "four flows up",
            (_, true) => "four flows down",
        };
        let trip = &load.round_trip;
        let (rate, median, p99) = (load.rate, trip.median, trip.p99);
        say(&format!("{what}: {rate:.2} Gbit/s{cpu}, ping {median:.2} ms (99 %: {p99:.2})"));
        Ok(load)
    };
    let one = Ways { up: load(1, false)?, down: load(1, true)? };
    let four = Ways { up: load(FOUR, false)?, down: load(FOUR, true)? };
    let pings = ["ping", "-n", "-i", IDLE_INTERVAL, "-c", IDLE_PINGS, &tunnel.address];
    let idle = RoundTrip::of(&bed.left.exec(&pings)?, 0.0)?;
    say(&format!("idle ping {:.3} ms; small UDP packets", idle.median));
    let udp = udp::flood(bed, &tunnel.address, Sending::Single)?;
    let udp_segmented = udp::flood(bed, &tunnel.address, Sending::Segmented)?;
    tunnel.check()?;
    let peak_memory = tunnel.peak_memory();
    let memory = peak_memory.map_or(String::new(), |memory| format!(", {memory:.0} MiB"));
    let (single, segmented) = (best(&udp) / 1e3, best(&udp_segmented) / 1e3);
    let packets = format!("{single:.0} thousand small packets a second ({segmented:.0} sent as super-packets)");
    say(&format!("{packets}{memory}"));
    Ok(Round { one, four, idle, udp, udp_segmented, peak_memory })
}

/// The most packets a second that arrived of any offer.
pub(crate) fn best(offers: &[Offer]) -> f64 {
    offers.iter().map(|offer| offer.received).fold(0.0, f64::max)
}

/// Starts what takes and gives the streams on the right.
pub(crate) fn serve(bed: &Bed) -> Result<Process> {
    let mut server = bed.right.command("iperf3");
    server.arg("-s");
    let mut server = bed.right.spawn("iperf3", server)?;
    server.wait_until("iperf3", Duration::from_secs(5), || {
        Ok(!bed.right.exec(&["ss", "-Hltn", "sport = :5201"])?.is_empty())
    })?;
    Ok(server)
}

/// Streams from left to right, or back, and pings meanwhile.
pub(crate) fn tcp(left: &Host, tunnel: &Tunnel, flows: u32, down: bool, seconds: u32) -> Result<Load> {
    let all = seconds + WARM_UP;
    let limit = Duration::from_secs(all.into()) + SLACK;
    let (flows, time, warm_up) = (flows.to_string(), seconds.to_string(), WARM_UP.to_string());
    let mut iperf = vec!["iperf3", "--json", "-c", &tunnel.address, "-t", &time, "-O", &warm_up, "-P", &flows];
    iperf.extend(down.then_some("-R"));
    let (interval, until) = (PING_INTERVAL.to_string(), all.to_string());
    let ping = ["ping", "-n", "-i", &interval, "-w", &until, &tunnel.address];

    let before = tunnel.cpu_seconds();
    let (report, pings) = std::thread::scope(|scope| {
        // Under load some may be lost, which is no failure.
        let pings = scope.spawn(|| left.output(limit, &ping));
        (left.output(limit, &iperf), pings.join())
    });
    let used = tunnel.cpu_seconds().zip(before).map(|(after, before)| after - before);
    let pings = pings.map_err(|_| anyhow::anyhow!("the thread that pings panicked"))??;
    let (rate, bytes) = read_iperf(&report?.stdout)?;
    let warm_up = f64::from(WARM_UP) / f64::from(all);
    Ok(Load {
        rate,
        cpu: used.map(|used| used / (bytes as f64 / 1e9)),
        round_trip: RoundTrip::of(&String::from_utf8_lossy(&pings.stdout), warm_up)?,
    })
}

#[derive(Deserialize)]
struct Report {
    error: Option<String>,
    #[serde(default)]
    intervals: Vec<Interval>,
    end: End,
}

#[derive(Deserialize)]
struct Interval {
    sum: Sum,
}

#[derive(Deserialize)]
struct End {
    sum_received: Option<Sum>,
}

#[derive(Deserialize)]
struct Sum {
    bytes: u64,
    bits_per_second: f64,
}

/// Gbit/s after the warm-up, and all bytes with it.
fn read_iperf(report: &[u8]) -> Result<(f64, u64)> {
    let report: Report = serde_json::from_slice(report).context("read iperf3's report")?;
    if let Some(error) = report.error {
        anyhow::bail!("iperf3: {error}");
    }
    let received = report.end.sum_received.context("iperf3 says nothing about what was received")?;
    let bytes = report.intervals.iter().map(|interval| interval.sum.bytes).sum();
    ensure!(bytes > 0, "not a byte passed");
    Ok((received.bits_per_second / 1e9, bytes))
}

impl RoundTrip {
    /// By what `ping` printed, without the first `part` of the replies.
    fn of(text: &str, part: f64) -> Result<Self> {
        let all: Vec<f64> = text.lines().filter_map(reply).collect();
        let mut times = all[(all.len() as f64 * part) as usize..].to_vec();
        times.sort_by(f64::total_cmp);
        let at = |hundredths: usize| times.get((times.len() * hundredths / 100).min(times.len().saturating_sub(1)));
        match (at(50), at(99)) {
            (Some(&median), Some(&p99)) => Ok(Self { median, p99 }),
            _ => anyhow::bail!("no ping was answered"),
        }
    }
}

/// The milliseconds in a line of `ping`'s about a reply.
fn reply(line: &str) -> Option<f64> {
    line.split(' ').find_map(|word| word.strip_prefix("time="))?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_pings() {
        let line =
            |number: u32, time: f64| format!("64 bytes from 10.9.0.1: icmp_seq={number} ttl=64 time={time} ms\n");
        let text: String = (1..=200).map(|number| line(number, f64::from(number) / 10.0)).collect();
        let trip = RoundTrip::of(&format!("PING 10.9.0.1\n{text}\n200 packets transmitted"), 0.5).unwrap();
        assert_eq!((trip.median, trip.p99), (15.1, 20.0));
        assert!(RoundTrip::of("no reply", 0.5).is_err());
    }

    #[test]
    fn reads_what_iperf_reports() {
        let text = r#"{"intervals":[{"sum":{"bytes":100,"bits_per_second":800.0,"omitted":true}},
            {"sum":{"bytes":200,"bits_per_second":1600.0}}],
            "end":{"sum_received":{"bytes":190,"bits_per_second":2e9}}}"#;
        assert_eq!(read_iperf(text.as_bytes()).unwrap(), (2.0, 300));
        let failed = r#"{"intervals":[],"end":{},"error":"unable to connect"}"#;
        assert!(read_iperf(failed.as_bytes()).unwrap_err().to_string().contains("unable to connect"));
    }
}
