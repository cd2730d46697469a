//! `agentctl bundle`: what somebody else needs to find out what is wrong, in one archive and without secrets.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write, stderr};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::process::Stdio;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, anyhow};
use control::{Inspector, InspectorError};
use flate2::Compression;
use flate2::write::GzEncoder;
use futures_util::StreamExt;
use model::{IngressReport, LogsQuery, Output, ServiceName};
use serde::Serialize;
use time::OffsetDateTime;
use tokio::io::AsyncReadExt;
use tokio::time::timeout;

use crate::ask::{ask_at, runtime, socket_or_default};
use crate::cli::BundleArgs;
use crate::config_command::write_settings;
use crate::exit::{Exit, Failure};
use crate::mask::Mask;
use crate::status::Report;

/// Of what one command or one container says, at most.
const MAX_BYTES: u64 = 2 << 20;
/// For one command, and for one container's lines.
const DEADLINE: Duration = Duration::from_secs(15);
/// What the host is, by whom it says so.
const FACTS: [(&str, &[&str]); 10] = [
    ("kernel.txt", &["uname", "-a"]),
    ("system.txt", &["cat", "/etc/os-release"]),
    ("memory.txt", &["cat", "/proc/meminfo", "/proc/loadavg", "/proc/uptime"]),
    ("disks.txt", &["df", "-hT"]),
    ("links.txt", &["ip", "-details", "address"]),
    ("routes.txt", &["ip", "route", "show", "table", "all"]),
    ("sockets.txt", &["ss", "-lntu"]),
    ("nftables.txt", &["nft", "list", "table", "inet", "cloudathome"]),
    ("docker.txt", &["docker", "info"]),
    ("containers.txt", &["docker", "ps", "--all", "--filter", "name=cloudathome-", "--no-trunc"]),
];
/// The agents' own logs.
const UNITS: [&str; 2] = ["cloudathome-edge", "cloudathome-home"];

/// Writes the archive, and says where it is.
pub(crate) fn run(args: &BundleArgs, out: &mut dyn Write) -> Result<Exit, Failure> {
    let file = args.out.clone().unwrap_or_else(usual_name);
    let hint = "name another file with --out";
    let target = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&file);
    let target = target
        .with_context(|| format!("{} cannot be made", file.display()))
        .map_err(|error| Failure::new(error, hint))?;
    let written = runtime()?.block_on(write(args, target));
    match written {
        Ok(missing) => {
            for what in &missing {
                drop(writeln!(stderr(), "not in it: {what}"));
            }
            writeln!(out, "{}", file.display())?;
            Ok(if missing.is_empty() { Exit::Ok } else { Exit::Unwell })
        }
        Err(error) => {
            // A part of one would be taken for the whole.
            fs::remove_file(&file).ok();
            Err(Failure::new(error.context(format!("{} could not be written", file.display())), hint))
        }
    }
}

fn usual_name() -> PathBuf {
    let now = OffsetDateTime::now_utc();
    let (date, time) = (now.date(), now.time());
    format!("cloudathome-{date}-{:02}{:02}{:02}.tar.gz", time.hour(), time.minute(), time.second()).into()
}

/// What goes into the archive; every text through the mask.
struct Archive {
    tar: tar::Builder<GzEncoder<File>>,
    now: u64,
    mask: Mask,
    missing: Vec<String>,
}

async fn write(args: &BundleArgs, target: File) -> anyhow::Result<Vec<String>> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let tar = tar::Builder::new(GzEncoder::new(target, Compression::default()));
    let mut archive = Archive { tar, now, mask: Mask::new(&[]), missing: Vec::new() };
    let socket = socket_or_default(args.socket.as_deref());
    // Nothing is written before it is known what must not be.
    let asked = match &socket {
        Ok(socket) => {
            ask_at(socket, async |inspector| inspector.secrets().await).await.map_err(|failure| failure.error)
        }
        Err(failure) => Err(anyhow!("{:#}", failure.error)),
    };
    match (asked, &socket) {
        (Ok(secrets), Ok(socket)) => {
            archive.mask = Mask::new(&secrets);
            of_agent(&mut archive, socket, args.lines).await?;
        }
        (Err(error), _) => archive.missing.push(format!("all that the agent knows: {error:#}")),
        (Ok(_), Err(_)) => {}
    }
    archive.text("versions.txt", &format!("agentctl {}\n", env!("CARGO_PKG_VERSION")))?;
    tell("the host");
    for (name, command) in FACTS {
        archive.command(&format!("host/{name}"), command).await?;
    }
    let lines = args.lines.to_string();
    for unit in UNITS {
        let command = ["journalctl", "--no-pager", "--output=short-iso", "--lines", &lines, "--unit", unit];
        archive.command(&format!("logs/{unit}.txt"), &command).await?;
    }
    if !archive.missing.is_empty() {
        archive.text("missing.txt", &(archive.missing.join("\n") + "\n"))?;
    }
    let file = archive.tar.into_inner()?.finish()?;
    file.sync_all()?;
    Ok(archive.missing)
}

async fn of_agent(archive: &mut Archive, socket: &Path, lines: u32) -> anyhow::Result<()> {
    tell("what the agent knows");
    let report = archive.ask("status.json", socket, Report::of).await?;
    archive.ask("tunnel.json", socket, async |inspector| inspector.tunnel().await).await?;
    archive.ask("doctor.json", socket, async |inspector| inspector.doctor().await).await?;
    archive.ask("events.json", socket, all_events).await?;
    archive.ask("ingress.json", socket, ingress).await?;
    if let Some(config) = archive.ask("configuration.json", socket, async |inspector| inspector.config().await).await? {
        let mut text = Vec::new();
        write_settings(&config, &mut text)?;
        archive.text("configuration.txt", &String::from_utf8_lossy(&text))?;
    }
    let Some(report) = report else { return Ok(()) };
    let mut services: Vec<&ServiceName> = report.local.containers.iter().map(|container| &container.service).collect();
    services.sort();
    services.dedup();
    for service in services {
        tell(&format!("the logs of {service}"));
        let name = format!("logs/{service}.txt");
        match ask_at(socket, async |inspector| logs(inspector, service, lines).await).await {
            Ok(text) => archive.foreign(&name, &text)?,
            Err(failure) => archive.missing.push(format!("{name}: {:#}", failure.error)),
        }
    }
    Ok(())
}

/// What is published, where this host has an ingress.
async fn ingress(inspector: &mut Inspector) -> Result<Option<IngressReport>, InspectorError> {
    match inspector.ingress().await {
        Err(InspectorError::Refused(_)) => Ok(None),
        answer => answer.map(Some),
    }
}

async fn all_events(inspector: &mut Inspector) -> Result<Vec<model::Event>, InspectorError> {
    let mut all = Vec::new();
    let mut batches = pin!(inspector.events(false).await?);
    while let Some(batch) = batches.next().await {
        all.extend(batch?);
    }
    Ok(all)
}

/// The last lines of a service's containers. What cannot be had stands in it as a line.
async fn logs(inspector: &mut Inspector, service: &ServiceName, lines: u32) -> Result<String, InspectorError> {
    let query = LogsQuery { service: service.clone(), container: None, follow: false, tail: lines };
    let mut text = String::new();
    let read = async {
        let mut output = inspector.operations().logs(query).await.map_err(|error| error.to_string())?;
        while let Some(part) = output.next().await {
            if let Output::Stdout { container, bytes } | Output::Stderr { container, bytes } =
                part.map_err(|error| error.to_string())?
            {
                for line in String::from_utf8_lossy(&bytes).lines() {
                    text.push_str(&format!("{container} | {line}\n"));
                }
            }
            if text.len() as u64 > MAX_BYTES {
                return Err("more is left out".to_owned());
            }
        }
        Ok(())
    };
    if let Err(error) = timeout(DEADLINE, read).await.unwrap_or_else(|_| Err("the engine took too long".to_owned())) {
        text.push_str(&format!("({error})\n"));
    }
    Ok(text)
}

impl Archive {
    async fn ask<T: Serialize>(
        &mut self,
        name: &str,
        socket: &Path,
        question: impl AsyncFnOnce(&mut Inspector) -> Result<T, InspectorError>,
    ) -> anyhow::Result<Option<T>> {
        match ask_at(socket, question).await {
            Ok(answer) => {
                let text = serde_json::to_string_pretty(&answer)? + "\n";
                let text = self.mask.known(&text);
                self.put(name, &text)?;
                Ok(Some(answer))
            }
            Err(failure) => {
                self.missing.push(format!("{name}: {:#}", failure.error));
                Ok(None)
            }
        }
    }

    /// What a program of the host says. One that is not there is not missed by anybody who knows the host.
    async fn command(&mut self, name: &str, command: &[&str]) -> anyhow::Result<()> {
        match said(command).await {
            Ok(text) => self.foreign(name, &text)?,
            Err(error) => self.text(name, &format!("{}: {error}\n", command.join(" ")))?,
        }
        Ok(())
    }

    fn text(&mut self, name: &str, text: &str) -> io::Result<()> {
        let text = self.mask.known(text);
        self.put(name, &text)
    }

    fn foreign(&mut self, name: &str, text: &str) -> io::Result<()> {
        let text = self.mask.foreign(text);
        self.put(name, &text)
    }

    fn put(&mut self, name: &str, text: &str) -> io::Result<()> {
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o600);
        header.set_mtime(self.now);
        self.tar.append_data(&mut header, Path::new("cloudathome").join(name), text.as_bytes())
    }
}

/// What a command writes to either output, as much as is taken, within the deadline.
async fn said(command: &[&str]) -> io::Result<String> {
    let [program, arguments @ ..] = command else { return Ok(String::new()) };
    let mut child = tokio::process::Command::new(program)
        .args(arguments)
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let (mut text, mut errors) = (Vec::new(), Vec::new());
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let read = async {
        let out = async {
            if let Some(pipe) = stdout {
                pipe.take(MAX_BYTES).read_to_end(&mut text).await.ok();
            }
        };
        let err = async {
            if let Some(pipe) = stderr {
                pipe.take(MAX_BYTES).read_to_end(&mut errors).await.ok();
            }
        };
        tokio::join!(out, err);
    };
    let in_time = timeout(DEADLINE, read).await.is_ok();
    text.extend(errors);
    let mut text = String::from_utf8_lossy(&text).into_owned();
    if !in_time {
        text.push_str("(it took too long)\n");
    }
    Ok(text)
}

fn tell(what: &str) {
    // Where nobody can be told, the work goes on.
    drop(writeln!(stderr(), "{what}"));
}
