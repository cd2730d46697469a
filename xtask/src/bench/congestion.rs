//! The same congestion control for every path.

use std::fs;

use anyhow::{Context, Result};

/// What the TCP of both hosts uses.
pub(crate) const CONTROL: &str = "cubic";
/// What a network namespace may choose as its default; one setting for the whole machine.
const ALLOWED: &str = "/proc/sys/net/ipv4/tcp_allowed_congestion_control";
/// What shells expect of a program that Ctrl-C ended.
const INTERRUPTED: i32 = 130;

/// While it lives, a network namespace may choose [`CONTROL`]. Dropping it, or Ctrl-C, puts back what was.
pub(crate) struct Allowed {
    before: String,
}

impl Allowed {
    /// # Errors
    /// When the kernel has not got it, or the setting cannot be written.
    pub(crate) fn set() -> Result<Self> {
        let before = fs::read_to_string(ALLOWED).with_context(|| format!("read {ALLOWED}"))?;
        let before = before.trim().to_owned();
        if !before.split(' ').any(|name| name == CONTROL) {
            let doing = || format!("allow {CONTROL} in {ALLOWED}: is the module tcp_{CONTROL} there?");
            fs::write(ALLOWED, format!("{before} {CONTROL}")).with_context(doing)?;
        }
        let at_interrupt = before.clone();
        ctrlc::set_handler(move || {
            restore(&at_interrupt);
            eprintln!("\nstopped; the hosts are taken down");
            std::process::exit(INTERRUPTED);
        })
        .context("listen for Ctrl-C")?;
        Ok(Self { before })
    }
}

impl Drop for Allowed {
    fn drop(&mut self) {
        restore(&self.before);
    }
}

fn restore(allowed: &str) {
    if let Err(error) = fs::write(ALLOWED, allowed) {
        eprintln!("cannot put `{allowed}` back into {ALLOWED}: {error}");
    }
}
