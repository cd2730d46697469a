//! Why the authority could not do something.

use std::io;
use std::path::PathBuf;

use pki::{CaError, CertificateError, DirectoryError, LoadError, RevocationError};
use state::StateError;

/// Why the authority could not do something.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// There is an authority, or something else, where one was to be made.
    #[error("{} is there already: an authority is never replaced, because every identity it issued would be lost with it", .0.display())]
    Exists(PathBuf),
    /// There is none.
    #[error("there is no authority in {}: `agentctl init` makes one", .0.display())]
    Missing(PathBuf),
    /// Another process has it.
    #[error("the authority in {} is in use by another process: go through the running edge-agent, or stop it", .0.display())]
    InUse(PathBuf),
    /// A file cannot be read or written.
    #[error("cannot {what} {}", .path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// With what.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// A certificate or key cannot be made.
    #[error("the authority cannot issue this")]
    Ca(#[from] CaError),
    /// The CA cannot be read.
    #[error("the authority cannot be read")]
    Load(#[from] LoadError),
    /// The CA cannot be written.
    #[error("the authority cannot be written")]
    Directory(#[from] DirectoryError),
    /// Its state cannot be read or written.
    #[error("the authority's state cannot be used")]
    State(#[from] StateError),
    /// A certificate that was issued cannot be read.
    #[error("the certificate {} cannot be used", .path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: CertificateError,
    },
    /// The list of revoked certificates cannot be read.
    #[error("{} cannot be used; without the list, who was revoked is not", .path.display())]
    List {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: RevocationError,
    },
    /// The tls-crypt-v2 server key cannot be used.
    #[error("{} is no tls-crypt-v2 server key: put it back, or no peer with a key wrapped by it gets in", .path.display())]
    ServerKey {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: ovpn::tls_crypt_v2::KeyError,
    },
    /// A key cannot be wrapped.
    #[error("a tls-crypt-v2 client key cannot be made")]
    Wrap(#[source] ovpn::tls_crypt_v2::KeyError),
}

pub(crate) fn io_error(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> AuthorityError {
    let path = path.into();
    move |source| AuthorityError::Io { what, path, source }
}
