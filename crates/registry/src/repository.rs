//! Which registry a reference means, and what the image is called there.

use std::net::Ipv4Addr;

use crate::server::Server;

/// The server of Docker's own registry, which references leave out or call `docker.io`.
const DOCKER_HUB: &str = "registry-1.docker.io";

/// An image's tags live in one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repository {
    /// The registry's name or address.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Whether it is asked without TLS: on loopback only.
    pub plain: bool,
    /// The image's name there, as in `library/nextcloud`.
    pub name: String,
}

impl Repository {
    /// That of a reference, with or without tag and digest; none when it makes no sense.
    #[must_use]
    pub fn of(reference: &str) -> Option<Self> {
        let reference = reference.split_once('@').map_or(reference, |(name, _)| name);
        let (registry, path) = match reference.split_once('/') {
            Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" => (first, rest),
            _ => ("docker.io", reference),
        };
        let name = path.split_once(':').map_or(path, |(name, _)| name);
        let plain_name = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-/".contains(&byte);
        if name.is_empty()
            || !name.bytes().all(plain_name)
            || name.split('/').any(|part| part.is_empty() || part == "..")
        {
            return None;
        }
        if matches!(registry, "docker.io" | "index.docker.io") {
            let name = if name.contains('/') { name.to_owned() } else { format!("library/{name}") };
            return Some(Self { host: DOCKER_HUB.to_owned(), port: 443, plain: false, name });
        }
        let (host, port) = match registry.split_once(':') {
            Some((host, port)) => (host, Some(port.parse().ok()?)),
            None => (registry, None),
        };
        let plain = is_loopback(host);
        let port = port.unwrap_or(if plain { 80 } else { 443 });
        (!host.is_empty()).then(|| Self { host: host.to_owned(), port, plain, name: name.to_owned() })
    }

    pub(crate) fn server(&self) -> Server {
        Server { host: self.host.clone(), port: self.port, plain: self.plain }
    }
}

/// Whether this is a name or address of this host only.
pub(crate) fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<Ipv4Addr>().is_ok_and(|address| address.is_loopback())
}
