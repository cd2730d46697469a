//! Asks registries of container images which tags an image has: the `tags/list` of the Docker Registry HTTP API v2, as
//! OCI's distribution specification has it, without an account.
//!
//! Registries on this host's loopback are asked without TLS, as engines do; all others must have a certificate that
//! browsers trust. The engine's mirrors and logins are the engine's: neither is used here.
#![forbid(unsafe_code)]

mod challenge;
mod repository;
mod server;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::header::{AUTHORIZATION, LINK, LOCATION, WWW_AUTHENTICATE};
use hyper::{HeaderMap, Response, StatusCode, Uri};
use rustls::{ClientConfig, RootCertStore};
use serde::Deserialize;
use tokio::time::timeout;

use self::challenge::Challenge;
pub use self::repository::Repository;
pub use self::server::ExchangeError;
use self::server::Server;

/// For everything together: a token and all pages.
const DEADLINE: Duration = Duration::from_secs(120);
/// Tags that are asked for at a time.
const PAGE: usize = 1000;
/// Some registries are a front of others. A token goes along: it is everybody's.
const REDIRECTS: usize = 3;
/// More is not an image that people choose a tag of.
const MAX_PAGES: usize = 60;

/// Why the tags of an image are not known.
#[derive(Debug, thiserror::Error)]
pub enum TagsError {
    /// The reference names no repository.
    #[error("{image} names no image of a registry")]
    Name {
        /// The reference.
        image: String,
    },
    /// A request got no answer.
    #[error("the registry {host} cannot be asked")]
    Exchange {
        /// The server.
        host: String,
        /// Why.
        #[source]
        source: ExchangeError,
    },
    /// It does not know the image, or tells only those who have an account.
    #[error("the registry {host} has no image {name} that everybody may fetch (HTTP {status})")]
    Refused {
        /// The server.
        host: String,
        /// The image's name there.
        name: String,
        /// 401, 403 or 404.
        status: u16,
    },
    /// Another answer than the tags.
    #[error("the registry {host} answers HTTP {status}")]
    Status {
        /// The server.
        host: String,
        /// The status. 429: it was asked too often.
        status: u16,
    },
    /// The answer makes no sense.
    #[error("the registry {host} answers what cannot be understood: {what}")]
    Answer {
        /// The server.
        host: String,
        /// What.
        what: String,
    },
    /// There is no end of them.
    #[error("the registry {host} has more than {} tags of it", PAGE * MAX_PAGES)]
    TooMany {
        /// The server.
        host: String,
    },
    /// It took too long.
    #[error("the registry {host} took longer than {} s", DEADLINE.as_secs())]
    Deadline {
        /// The server.
        host: String,
    },
}

impl TagsError {
    /// Whether another answer may come soon: not from a registry that refuses, or has too much.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Name { .. } | Self::Refused { .. } | Self::Answer { .. } | Self::TooMany { .. } => false,
            Self::Status { status, .. } => *status >= 500,
            _ => true,
        }
    }
}

/// Asks registries.
#[derive(Debug, Clone)]
pub struct Client {
    tls: Arc<ClientConfig>,
}

impl Client {
    /// A client that trusts what browsers trust.
    ///
    /// # Errors
    /// The TLS library refuses its own defaults.
    pub fn new() -> Result<Self, rustls::Error> {
        Self::trusting(RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() })
    }

    fn trusting(roots: RootCertStore) -> Result<Self, rustls::Error> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self { tls: Arc::new(config) })
    }

    /// The tags of the image that `image`, a reference as people give it to an engine, is of: each once, in order.
    ///
    /// # Errors
    /// They are not known.
    pub async fn tags(&self, image: &str) -> Result<Vec<String>, TagsError> {
        let repository = Repository::of(image).ok_or_else(|| TagsError::Name { image: image.to_owned() })?;
        self.tags_of(&repository).await
    }

    async fn tags_of(&self, repository: &Repository) -> Result<Vec<String>, TagsError> {
        let asked = timeout(DEADLINE, Asked { client: self, repository, token: None }.all());
        asked.await.map_err(|_| TagsError::Deadline { host: repository.host.clone() })?
    }
}

/// A repository that is being asked.
struct Asked<'a> {
    client: &'a Client,
    repository: &'a Repository,
    token: Option<String>,
}

#[derive(Deserialize)]
struct Page {
    /// None where an image has no tags any more.
    tags: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct Token {
    token: Option<String>,
    access_token: Option<String>,
}

impl Asked<'_> {
    async fn all(mut self) -> Result<Vec<String>, TagsError> {
        let mut tags = BTreeSet::new();
        let mut path = format!("/v2/{}/tags/list?n={PAGE}", self.repository.name);
        for _ in 0..MAX_PAGES {
            let answer = self.get(&path).await?;
            let page: Page = serde_json::from_slice(answer.body()).map_err(|error| self.senseless(error))?;
            tags.extend(page.tags.into_iter().flatten().filter(|tag| is_tag(tag)));
            if tags.len() > PAGE * MAX_PAGES {
                break;
            }
            match next_page(answer.headers()) {
                Some(next) => path = next,
                None => return Ok(tags.into_iter().collect()),
            }
        }
        Err(TagsError::TooMany { host: self.repository.host.clone() })
    }

    /// Gets a path of the registry, with a token once it asks for one.
    async fn get(&mut self, path: &str) -> Result<Response<Bytes>, TagsError> {
        let server = self.repository.server();
        let mut answer = self.ask(&server, path, self.token.as_deref()).await?;
        if answer.status() == StatusCode::UNAUTHORIZED && self.token.is_none() {
            let asked_for = answer.headers().get_all(WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok());
            if let Some(challenge) = asked_for.filter_map(Challenge::parse).next() {
                let token = self.token(&challenge).await?;
                answer = self.ask(&server, path, Some(&token)).await?;
                self.token = Some(token);
            }
        }
        let host = self.repository.host.clone();
        match answer.status() {
            StatusCode::OK => Ok(answer),
            status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::NOT_FOUND) => {
                Err(TagsError::Refused { host, name: self.repository.name.clone(), status: status.as_u16() })
            }
            status => Err(TagsError::Status { host, status: status.as_u16() }),
        }
    }

    /// A token for everybody, from where the registry says that there are some.
    async fn token(&self, challenge: &Challenge) -> Result<String, TagsError> {
        let realm: Uri = challenge.realm.parse().map_err(|error| self.senseless(error))?;
        let server = self.elsewhere(&realm)?;
        let answer = self.ask(&server, &challenge.path(&realm, &self.repository.name), None).await?;
        if answer.status() != StatusCode::OK {
            return Err(TagsError::Status { host: server.host, status: answer.status().as_u16() });
        }
        let token: Token = serde_json::from_slice(answer.body()).map_err(|error| self.senseless(error))?;
        token.token.or(token.access_token).ok_or_else(|| self.senseless("no token"))
    }

    async fn ask(&self, server: &Server, path: &str, token: Option<&str>) -> Result<Response<Bytes>, TagsError> {
        let (mut server, mut path) = (server.clone(), path.to_owned());
        for _ in 0..=REDIRECTS {
            let header = token.map(|token| (AUTHORIZATION, format!("Bearer {token}")));
            let answer = server.get(&self.client.tls, &path, header).await;
            let answer = answer.map_err(|source| TagsError::Exchange { host: server.host.clone(), source })?;
            if !answer.status().is_redirection() {
                return Ok(answer);
            }
            let location = answer.headers().get(LOCATION).and_then(|value| value.to_str().ok()).unwrap_or_default();
            let target: Uri = location.parse().map_err(|error| self.senseless(error))?;
            if target.authority().is_some() {
                server = self.elsewhere(&target)?;
            }
            path = target.path_and_query().map(ToString::to_string).unwrap_or_default();
        }
        Err(self.senseless("it leads from one place to the next"))
    }

    /// A server that the registry names: in plain text only where it is asked so itself.
    fn elsewhere(&self, target: &Uri) -> Result<Server, TagsError> {
        let server = Server::of(target).filter(|server| !server.plain || self.repository.plain);
        server.ok_or_else(|| self.senseless(format_args!("it names {target}")))
    }

    fn senseless(&self, what: impl std::fmt::Display) -> TagsError {
        TagsError::Answer { host: self.repository.host.clone(), what: what.to_string() }
    }
}

/// Whether a registry may call a tag so: what it says goes into references.
fn is_tag(tag: &str) -> bool {
    let of = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
    (1..=128).contains(&tag.len()) && tag.bytes().all(of) && !tag.starts_with(['.', '-'])
}

/// Where the next page is, on the same server whatever the link names.
fn next_page(headers: &HeaderMap) -> Option<String> {
    let links = headers.get_all(LINK).iter().filter_map(|value| value.to_str().ok());
    let (target, _) = links
        .filter_map(|link| link.trim().strip_prefix('<')?.split_once('>'))
        .find(|(_, about)| about.split(';').any(|part| matches!(part.trim(), "rel=\"next\"" | "rel=next")))?;
    let path = target.parse::<Uri>().ok()?.path_and_query()?.to_string();
    path.starts_with("/v2/").then_some(path)
}

#[cfg(test)]
mod tests;
