//! Lets through what Docker would keep from being forwarded: it sets iptables' FORWARD to drop.
//!
//! What is permitted is said in one place, the [`crate::guard`], which drops everything else that comes out of the tunnel; here nothing is
//! denied. The rules are in a chain of ours, to which `DOCKER-USER` leads: Docker asks that chain first and leaves it alone.

use std::io;
use std::net::Ipv4Addr;
use std::process::Output;
use std::time::Duration;

use crate::program;

const CHAIN: &str = "CLOUDATHOME";
/// How `iptables` ends when there is no such chain or rule; it has other codes for what it may not do.
const NOT_THERE: i32 = 1;
const DEADLINE: Duration = Duration::from_secs(10);

/// Why Docker's rules could not be told.
#[derive(Debug, thiserror::Error)]
pub enum DockerUserError {
    /// The program did not run.
    #[error("cannot run {program}")]
    Run {
        /// Which one.
        program: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It did not come back.
    #[error("{program} gave no answer within {} s", DEADLINE.as_secs())]
    Timeout {
        /// Which one.
        program: &'static str,
    },
    /// It refused.
    #[error("{program} refused: {reason}")]
    Refused {
        /// Which one.
        program: &'static str,
        /// Its own words.
        reason: String,
    },
}

/// Has what the guard of the tunnel over `device` permits others than `opposite` forwarded. Nothing happens where Docker keeps nothing.
///
/// # Errors
/// When `iptables`, by which Docker sets its rules, refuses or hangs.
pub async fn ensure(device: &str, opposite: Ipv4Addr) -> Result<(), DockerUserError> {
    if !succeeds(&["-n", "-L", "DOCKER-USER"]).await? {
        return Ok(());
    }
    // One transaction, which makes the chain or fills it anew.
    let rules = format!(
        "*filter\n:{CHAIN} - [0:0]\n\
         -A {CHAIN} -o {device} -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n\
         -A {CHAIN} -s {opposite}/32 -i {device} -j RETURN\n\
         -A {CHAIN} -i {device} -j ACCEPT\nCOMMIT\n"
    );
    run("iptables-restore", &["-w", "5", "--noflush"], &rules).await?;
    if !succeeds(&["-C", "DOCKER-USER", "-j", CHAIN]).await? {
        run("iptables", &["-w", "5", "-I", "DOCKER-USER", "-j", CHAIN], "").await?;
    }
    Ok(())
}

/// Takes our rules away; nothing happens where there are none.
///
/// # Errors
/// As [`ensure`].
pub async fn remove() -> Result<(), DockerUserError> {
    if !succeeds(&["-n", "-L", CHAIN]).await? {
        return Ok(());
    }
    while succeeds(&["-D", "DOCKER-USER", "-j", CHAIN]).await? {}
    run("iptables", &["-w", "5", "-F", CHAIN], "").await?;
    run("iptables", &["-w", "5", "-X", CHAIN], "").await
}

/// Whether there is what `iptables` is asked about. Where there is no such program, Docker has set nothing by it.
async fn succeeds(arguments: &[&str]) -> Result<bool, DockerUserError> {
    match output("iptables", &[&["-w", "5"], arguments].concat(), "").await {
        Ok(output) if output.status.code() == Some(NOT_THERE) => Ok(false),
        Ok(output) => accepted("iptables", &output).map(|()| true),
        Err(DockerUserError::Run { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

async fn run(program: &'static str, arguments: &[&str], input: &str) -> Result<(), DockerUserError> {
    accepted(program, &output(program, arguments, input).await?)
}

fn accepted(program: &'static str, output: &Output) -> Result<(), DockerUserError> {
    if output.status.success() {
        return Ok(());
    }
    Err(DockerUserError::Refused { program, reason: String::from_utf8_lossy(&output.stderr).trim().to_owned() })
}

async fn output(program: &'static str, arguments: &[&str], input: &str) -> Result<Output, DockerUserError> {
    let ran = program::run(program, arguments, input, DEADLINE).await;
    ran.map_err(|source| DockerUserError::Run { program, source })?.ok_or(DockerUserError::Timeout { program })
}
