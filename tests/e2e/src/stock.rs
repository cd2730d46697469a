//! The original at the other end of the tunnel: Debian's `openvpn`.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use lab::{Host, Process};

/// What it logs when a client is connected and its link is set.
pub const CONNECTED: &str = "Initialization Sequence Completed";
/// For a stock peer to connect.
pub const CONNECT_LIMIT: Duration = Duration::from_secs(60);

/// Starts a client on `host` with the identity in `identity` (see `pki::HostIdentity::save`) that dials `remote`.
///
/// # Errors
/// When it cannot be started.
pub fn client(host: &Host, label: &str, identity: &Path, remote: &str, more: &[&str]) -> Result<Process> {
    let mut command = host.command("openvpn");
    command.args(["--client", "--nobind", "--proto", "udp", "--remote", remote, "1194", "--remote-cert-tls", "server"]);
    command.args(["--dev", "stock0", "--dev-type", "tun", "--verb", "4", "--connect-retry", "1"]);
    with_identity(&mut command, identity);
    command.args(more);
    host.spawn(label, command)
}

/// Starts a server on `host` that hands out addresses of `network` (`ADDRESS MASK`).
///
/// # Errors
/// When it cannot be started.
pub fn server(host: &Host, label: &str, identity: &Path, network: (&str, &str), more: &[&str]) -> Result<Process> {
    let mut command = host.command("openvpn");
    command.args(["--mode", "server", "--tls-server", "--server", network.0, network.1, "--topology", "subnet"]);
    command.args(["--port", "1194", "--proto", "udp", "--dh", "none", "--keepalive", "2", "10"]);
    command.args(["--remote-cert-tls", "client", "--dev", "stock0", "--dev-type", "tun", "--verb", "4"]);
    with_identity(&mut command, identity);
    command.args(more);
    host.spawn(label, command)
}

fn with_identity(command: &mut std::process::Command, dir: &Path) {
    for (flag, name) in [
        ("--ca", pki::file::CA_CERT),
        ("--cert", pki::file::HOST_CERT),
        ("--key", pki::file::HOST_KEY),
        ("--tls-crypt", pki::file::TLS_CRYPT),
    ] {
        command.arg(flag).arg(dir.join(name));
    }
}
