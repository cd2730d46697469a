//! Where things lie on a host.

use std::fs;
use std::io;
use std::path::PathBuf;

use model::Role;

/// The directories of a host.
#[derive(Debug, Clone)]
pub struct Paths {
    /// Configuration: `/etc/cloudathome`.
    pub etc: PathBuf,
    /// State: `/var/lib/cloudathome`.
    pub state: PathBuf,
    /// Sockets: `/run/cloudathome`.
    pub run: PathBuf,
}

impl Default for Paths {
    fn default() -> Self {
        Self { etc: "/etc/cloudathome".into(), state: "/var/lib/cloudathome".into(), run: "/run/cloudathome".into() }
    }
}

impl Paths {
    /// The configuration of an agent.
    #[must_use]
    pub fn configuration(&self, role: Role) -> PathBuf {
        self.etc.join(format!("{role}.toml"))
    }

    /// Where an agent is asked.
    #[must_use]
    pub fn socket(&self, role: Role) -> PathBuf {
        self.run.join(format!("{role}.sock"))
    }

    /// Who the host is.
    #[must_use]
    pub fn identity(&self) -> PathBuf {
        self.state.join("identity")
    }

    /// The edge's authority.
    #[must_use]
    pub fn authority(&self) -> PathBuf {
        self.state.join("authority")
    }

    /// The first name that a configuration gets when it is out of force.
    pub(crate) fn set_aside(&self, role: Role) -> PathBuf {
        self.configuration(role).with_extension("toml.left")
    }

    /// The name that the configuration would get now, for earlier ones stay.
    pub(crate) fn free_name_aside(&self, role: Role) -> PathBuf {
        let first = self.set_aside(role);
        let more = (2..).map(|n| self.configuration(role).with_extension(format!("toml.left.{n}")));
        std::iter::once(first.clone()).chain(more.take(1_000)).find(|path| !path.exists()).unwrap_or(first)
    }

    /// Takes the configuration out of force, and gives back what it is called now; none if there was none.
    pub(crate) fn put_aside(&self, role: Role) -> io::Result<Option<PathBuf>> {
        let (file, aside) = (self.configuration(role), self.free_name_aside(role));
        match fs::rename(file, &aside) {
            Ok(()) => Ok(Some(aside)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Home's key while it joins.
    pub(crate) fn join_key(&self) -> PathBuf {
        self.state.join("join.key")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_put_aside_replaces_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths { etc: dir.path().to_owned(), ..Paths::default() };
        assert_eq!(paths.put_aside(Role::Home).unwrap(), None);
        for name in ["home.toml.left", "home.toml.left.2", "home.toml.left.3"] {
            fs::write(paths.configuration(Role::Home), name).unwrap();
            let aside = paths.put_aside(Role::Home).unwrap().unwrap();
            assert_eq!((aside.clone(), fs::read_to_string(aside).unwrap()), (dir.path().join(name), name.to_owned()));
        }
    }
}
