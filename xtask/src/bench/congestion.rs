//! The same congestion control for every path.

use std::fs;

use anyhow::{Context, Result};

/// What the TCP of both hosts uses.
pub(crate) const CONTROL: &str = "cubic";
/// What a network namespace may choose as its default; one setting for the whole machine.
const ALLOWED: &str = "/proc/sys/net/ipv4/tcp_allowed_congestion_control";

/// Lets network namespaces choose [`CONTROL`]. This is the one thing that a run leaves behind, until the machine starts
/// again: taken back, it would fail another run that is under way.
///
/// # Errors
/// When the kernel has not got it, or the setting cannot be written.
pub(crate) fn allow() -> Result<()> {
    let allowed = fs::read_to_string(ALLOWED).with_context(|| format!("read {ALLOWED}"))?;
    let allowed = allowed.trim();
    if allowed.split(' ').all(|name| name != CONTROL) {
        let doing = || format!("allow {CONTROL} in {ALLOWED}: is the module tcp_{CONTROL} there?");
        fs::write(ALLOWED, format!("{allowed} {CONTROL}")).with_context(doing)?;
    }
    Ok(())
}
