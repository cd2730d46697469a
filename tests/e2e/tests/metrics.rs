//! A Prometheus at home, set up as shipped, reads both agents: its own through loopback, the edge's through the tunnel.

use std::collections::BTreeSet;
use std::fs;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::{Agent, Binaries};
use lab::{Host, Http, Lab, Topology, capability, wait_until};
use serde_json::Value;

/// For agents to connect and for Prometheus to have read them.
const LIMIT: Duration = Duration::from_secs(30);
const METRICS: u16 = 9586;
const CONTROL: u16 = 7443;
const EDGE: Ipv4Addr = Ipv4Addr::new(10, 86, 0, 1);
const HOME: Ipv4Addr = Ipv4Addr::new(10, 86, 0, 2);

fn agentctl(binaries: &Binaries, words: &[&str]) -> Result<()> {
    let output = Command::new(binaries.path("agentctl")).args(words).output()?;
    ensure!(output.status.success(), "agentctl {}: {}", words.join(" "), String::from_utf8_lossy(&output.stderr));
    Ok(())
}

fn text(path: PathBuf) -> String {
    path.to_string_lossy().into_owned()
}

fn shipped(name: &str) -> Result<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../monitoring").join(name);
    fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
}

#[test]
fn a_prometheus_at_home_reads_both_agents_and_a_device_none() -> Result<()> {
    if !capability::or_skip()? {
        return Ok(());
    }
    let lab = Lab::new(Topology::HomeBehindNat)?;
    let (vps, home) = (lab.host("vps")?, lab.host("home")?);
    let binaries = Binaries::beside_this_one()?;
    let authority = text(vps.dir().join("authority"));
    agentctl(&binaries, &["pki", "init", "--dir", &authority])?;
    for (host, role, name) in [(vps, "edge", "vps"), (home, "home", "attic")] {
        let out = text(host.dir().join("identity"));
        agentctl(&binaries, &["pki", "issue", "--ca", &authority, "--role", role, "--name", name, "--out", &out])?;
    }
    let config = |host: &Host, more: &str| {
        let (identity, state) = (host.dir().join("identity"), host.dir().join("state"));
        format!("identity_dir = {identity:?}\nstate_dir = {state:?}\n{more}")
    };
    let edge =
        "domain = \"example.test\"\n\n[tunnel]\nmode = \"listen\"\npeer = \"attic\"\n\n[metrics]\ntunnel = true\n";
    let dial = "\n[tunnel]\nmode = \"dial\"\npeer = \"vps\"\nremotes = [\"vps.example.test:1194\"]\n";
    let edge = Agent::start(vps, &binaries, "edge-agent", &config(vps, edge))?;
    let agent = Agent::start(home, &binaries, "home-agent", &config(home, dial))?;
    for agent in [&edge, &agent] {
        wait_until("the control channel", LIMIT, || {
            Ok(agent.metric("cloudathome_control_round_trip_seconds")?.is_some_and(|seconds| seconds > 0.0))
        })?;
        agent.host.exec(&["sh", "-c", "curl -fsS http://127.0.0.1:9586/metrics | promtool check metrics"])?;
    }
    scraped(home).context("Prometheus")?;
    let connects = |from: &Host, to, port| from.connects(SocketAddrV4::new(to, port), Duration::from_secs(2));
    ensure!(!connects(vps, HOME, METRICS)?, "home's metrics answer the edge unasked");

    let visitor = lab.host("visitor")?;
    let profile = text(visitor.dir().join("phone.ovpn"));
    let words = ["--name", "phone", "--server", "vps", "--remote", "vps.example.test", "--out", &profile];
    agentctl(&binaries, &[&["pki", "profile", "--ca", &authority][..], &words].concat())?;
    let mut command = visitor.command(&text(binaries.path("agentctl")));
    command.args(["connect", "--device", "own0", "--journals", &text(visitor.dir().join("journals")), &profile]);
    let mut device = visitor.spawn("connect", command)?;
    device.wait_until("the device in the tunnel", LIMIT, || {
        Ok(visitor.exec(&["ping", "-c", "1", "-W", "1", &EDGE.to_string()]).is_ok())
    })?;
    ensure!(!connects(visitor, EDGE, CONTROL)?, "a device holds places of the edge's control channel");
    ensure!(!connects(visitor, EDGE, METRICS)?, "a device reads the edge's metrics");
    ensure!(!connects(visitor, vps.address(), METRICS)?, "a stranger reads the edge's metrics");
    ensure!(connects(home, EDGE, METRICS)?, "home no longer reads the edge's metrics");
    Ok(())
}

fn scraped(home: &Host) -> Result<()> {
    let dir = home.dir();
    // As shipped, but sooner.
    let config = shipped("prometheus.yml")?.replace("_interval: 15s", "_interval: 1s");
    fs::write(dir.join("prometheus.yml"), config)?;
    fs::write(dir.join("cloudathome-alerts.yml"), shipped("alerts.yml")?)?;
    let mut command = home.command("prometheus");
    command.arg(format!("--config.file={}", dir.join("prometheus.yml").display()));
    command.arg(format!("--storage.tsdb.path={}", dir.join("prometheus").display()));
    command.arg("--web.listen-address=127.0.0.1:9090");
    let mut prometheus = home.spawn("prometheus", command)?;
    let client = Http::new(home).limit(Duration::from_secs(5));
    let ask = |arguments: &[&str], path: &str| -> Result<Value> {
        let reply = client.request(arguments, &format!("http://127.0.0.1:9090/api/v1/{path}"))?;
        let answer: Value = serde_json::from_slice(&reply.body).context("read Prometheus' answer")?;
        ensure!(answer["status"] == "success", "{arguments:?} is answered with {answer}");
        Ok(answer["data"].clone())
    };
    let query = |text: &str| -> Result<Vec<Value>> {
        let data = ask(&["-G", "--data-urlencode", &format!("query={text}")], "query")?;
        Ok(data["result"].as_array().context("no list of results")?.clone())
    };

    prometheus.wait_until("Prometheus to have read both", LIMIT, || Ok(query("up == 1")?.len() == 2))?;
    // Only OpenMetrics knows this type.
    let metadata = ask(&[], "metadata?metric=cloudathome_agent")?;
    ensure!(metadata["cloudathome_agent"][0]["type"] == "info", "Prometheus knows of it {metadata}");
    // What counts or is measured on any host without services.
    for series in [
        "cloudathome_agent_info{version!=\"\"} == 1",
        "cloudathome_tunnel_connected == 1",
        "cloudathome_tunnel_path_info{transport=\"udp\", family=\"ipv4\"} == 1",
        "cloudathome_tunnel_handshakes_total > 0",
        "cloudathome_tunnel_sent_packets_total > 0",
        "cloudathome_control_connected == 1",
        "cloudathome_control_round_trip_seconds > 0",
        "cloudathome_supervisor_passes_total > 0",
        "cloudathome_disk_free_bytes > 0",
        "cloudathome_identity_expiry_timestamp_seconds > time()",
    ] {
        let found = query(series)?;
        let hosts: BTreeSet<&str> = found.iter().filter_map(|found| found["metric"]["host"].as_str()).collect();
        ensure!(hosts == BTreeSet::from(["attic", "vps"]), "{series} gives {found:?}");
    }

    let dashboard: Value = serde_json::from_str(&shipped("dashboard.json")?)?;
    let panels = dashboard["panels"].as_array().context("the dashboard has no panels")?;
    let targets = panels.iter().filter_map(|panel| panel["targets"].as_array()).flatten();
    let mut answered = 0;
    for target in targets {
        let expression = target["expr"].as_str().context("a target without a query")?;
        let filled = expression.replace("$host", ".*").replace("$__rate_interval", "1m");
        answered += usize::from(!query(&filled)?.is_empty());
    }
    // No engine runs here: those of services and containers have nothing to show.
    ensure!(answered >= 20, "{answered} of the dashboard's queries have an answer");

    wait_until("the alerts to be evaluated", LIMIT, || {
        let groups = ask(&[], "rules")?;
        let rules = groups["groups"][0]["rules"].as_array().context("no rules")?.clone();
        let healthy = rules.iter().filter(|rule| rule["health"] == "ok").count();
        ensure!(healthy == rules.len() && !rules.is_empty(), "{healthy} of {} are well: {rules:?}", rules.len());
        Ok(true)
    })?;
    prometheus.terminate(LIMIT)?;
    Ok(())
}
