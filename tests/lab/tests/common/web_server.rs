//! A web server for tests.

use std::fs;
use std::net::SocketAddrV4;
use std::time::Duration;

use anyhow::Result;
use lab::{Host, Process};

const START_LIMIT: Duration = Duration::from_secs(10);

/// Answers GET with what was PUT before, or else with the address the request came from.
const WEB_SERVER: &str = r#"
stored=$(dirname "$0")/stored
cr=$(printf '\r')
read -r method rest
while read -r name value && [ "$name" != "$cr" ]; do
    case $name in Content-Length:) length=${value%"$cr"} ;; esac
done
case $method in
PUT) head -c "$length" > "$stored"; printf 'HTTP/1.0 201 Created\r\n\r\n' ;;
GET) printf 'HTTP/1.0 200 OK\r\n\r\n'; cat "$stored" 2> /dev/null || printf %s "$SOCAT_PEERADDR" ;;
esac
"#;

/// A web server on a host's port 80.
pub(crate) fn web_server(host: &Host) -> Result<Process> {
    let script = host.dir().join("web-server");
    fs::write(&script, WEB_SERVER)?;
    let mut command = host.command("socat");
    command.arg("TCP4-LISTEN:80,fork,reuseaddr").arg(format!("EXEC:sh {}", script.display()));
    let mut server = host.spawn("web-server", command)?;
    let own = SocketAddrV4::new(host.address(), 80);
    server.wait_until("the web server", START_LIMIT, || host.connects(own, START_LIMIT))?;
    Ok(server)
}
