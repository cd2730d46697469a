//! What any host of the cloud must have.

use std::path::{Path, PathBuf};
use std::time::Duration;

use hostcheck::{Rooms, found};
use model::{Finding, Grade, Role};
use supervisor::DockerEngine;
use tokio::time::timeout;

use crate::unit;

const ENGINE: &str = "/var/run/docker.sock";
/// For the engine to answer.
const DEADLINE: Duration = Duration::from_secs(5);
/// What the agents are built for.
const ARCHITECTURES: [&str; 2] = ["x86_64", "aarch64"];

/// Whether nothing of what was found keeps a host from being set up.
#[must_use]
pub fn is_ready(findings: &[Finding]) -> bool {
    findings.iter().all(|finding| finding.grade != Grade::Bad)
}

/// Of a host that is set up already: what it was judged by then is full of it now.
pub(crate) fn judged_before(mut findings: Vec<Finding>) -> Vec<Finding> {
    for finding in &mut findings {
        if ["disk", "memory", "ports", "address"].contains(&finding.check.as_str()) {
            finding.grade = finding.grade.min(Grade::Doubtful);
        }
    }
    findings
}

/// Looks at the host of an agent, for whose images and data so many bytes are needed.
pub(crate) async fn host(role: Role, room: u64) -> Vec<Finding> {
    let mut findings =
        vec![package(role), architecture(std::env::consts::ARCH, machine().as_deref()), hostcheck::tun()];
    let (engine, data) = engine(role).await;
    findings.push(engine);
    findings.extend(disks(data, room).await);
    findings
}

fn package(role: Role) -> Finding {
    let (unit, program) = (unit::unit(role), unit::program(role));
    let next = |text: String| Some(text);
    let (grade, text, next) = if !Path::new(&program).exists() {
        (
            Grade::Bad,
            format!("{program} is missing"),
            next(format!("install its package: `apt install ./{unit}_*.deb`")),
        )
    } else if !unit::has_systemd() {
        let next = next("set it up on a host that systemd runs, or by hand as docs/operations.md has it".to_owned());
        (Grade::Bad, "systemd does not run this host, and nobody would start the agent".to_owned(), next)
    } else {
        (Grade::Good, format!("{unit} is installed"), None)
    };
    found("package", grade, text, next.as_deref())
}

/// The kernel's word for what this host is.
fn machine() -> Option<String> {
    Some(nix::sys::utsname::uname().ok()?.machine().to_string_lossy().into_owned())
}

fn architecture(program: &str, machine: Option<&str>) -> Finding {
    let what = "architecture";
    match machine {
        Some(machine) if machine != program => found(
            what,
            Grade::Bad,
            format!("this agentctl is for {program}, this host is {machine}: it runs emulated, and the agent would"),
            Some("install the package of this host's own architecture: `dpkg --print-architecture` tells which"),
        ),
        _ if !ARCHITECTURES.contains(&program) => {
            let next = "x86_64 and aarch64 are supported; a Raspberry Pi needs a 64-bit system";
            found(what, Grade::Bad, format!("this host is {program}, for which images are not built"), Some(next))
        }
        _ => found(what, Grade::Good, program, None),
    }
}

/// The engine, and where it keeps its data.
async fn engine(role: Role) -> (Finding, Option<PathBuf>) {
    let socket = Path::new(ENGINE);
    if !socket.exists() {
        let text = format!("Docker is not installed, or does not run: there is no {ENGINE}");
        return (
            found("engine", Grade::Bad, text, Some("`apt install docker.io`, or docker-ce by Docker's own guide")),
            None,
        );
    }
    let engine = DockerEngine::new(socket, format!("{role}-agent"));
    let asked = match timeout(DEADLINE, engine.info()).await {
        Ok(Ok(info)) => Ok(info),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("Docker does not answer within {} s", DEADLINE.as_secs())),
    };
    let mut finding = hostcheck::engine(&asked, socket);
    let data = asked.ok().map(|info| info.data_root);
    // An engine that may keep services running is one thing, to begin with one another.
    if data.as_ref().is_some_and(|data| data.starts_with("/var/snap")) {
        finding.grade = Grade::Bad;
    }
    (finding, data)
}

/// The disk of the engine's data, and that of the agent's state where it is another.
async fn disks(data: Option<PathBuf>, room: u64) -> Vec<Finding> {
    let rooms = Rooms::default();
    match data {
        Some(data) => vec![rooms.fits(data, room).await],
        None => vec![rooms.fits(PathBuf::from("/var/lib"), room).await],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_hosts_that_images_are_built_for_are_ready() {
        assert_eq!(architecture("x86_64", Some("x86_64")).grade, Grade::Good);
        assert_eq!(architecture("aarch64", None).grade, Grade::Good);
        let emulated = architecture("x86_64", Some("aarch64"));
        assert!(emulated.grade == Grade::Bad && emulated.next.is_some_and(|next| next.contains("dpkg")), "emulated");
        assert_eq!(architecture("arm", Some("arm")).grade, Grade::Bad);
    }

    #[test]
    fn what_is_set_up_is_not_judged_like_a_fresh_host() {
        let of = |check: &str| found(check, Grade::Bad, "", None);
        let findings = judged_before(vec![of("disk"), of("ports"), of("engine")]);
        let grades: Vec<Grade> = findings.iter().map(|finding| finding.grade).collect();
        assert_eq!(grades, [Grade::Doubtful, Grade::Doubtful, Grade::Bad]);
    }

    #[test]
    fn a_host_without_the_package_is_told_to_install_it() {
        let finding = package(Role::Device);
        assert!(finding.grade == Grade::Bad && !is_ready(&[finding]), "there is no agent of devices");
    }
}
