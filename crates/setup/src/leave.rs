//! A host leaves its cloud: what set-up and the agent have made on it is undone. Data stays, unless it is to be purged.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hostnet::{Netlink, docker_user, guard};
use model::Role;
use pki::HostIdentity;
use supervisor::{Belongings, DockerEngine, Storage};

use crate::error::LOOK_AT_DISK;
use crate::{Paths, SetupError, unit};

const ENGINE: &str = "/var/run/docker.sock";
/// For a container to stop: databases write what they have in memory.
const GRACE: Duration = Duration::from_secs(60);
/// The tunnel's link where the configuration names no other.
const LINK: &str = "cah0";
/// Where Docker keeps everything, unless it is told otherwise.
const ENGINES_DATA: &str = "/var/lib/docker";

/// What there is on a host that leaves.
#[derive(Debug, Default)]
pub struct Remains {
    /// What its agent has in the engine.
    pub engine: Belongings,
    /// Whether there is an engine.
    pub has_engine: bool,
}

/// A host that leaves.
#[derive(Debug)]
pub struct Leaving {
    paths: Paths,
    role: Role,
    /// Directories that a person has chosen: what else is in them is not known here.
    elsewhere: Vec<PathBuf>,
    engine: PathBuf,
    link: String,
}

impl Leaving {
    /// A host as its files show it.
    ///
    /// # Errors
    /// When nothing shows what it is, it could be either, or it is something else than `role`.
    pub fn new(paths: Paths, role: Option<Role>) -> Result<Self, SetupError> {
        let role = match role {
            Some(role) => checked(&paths, role)?,
            None => role_of(&paths)?,
        };
        let files = [paths.configuration(role), paths.set_aside(role)];
        let text = files.iter().find_map(|path| fs::read_to_string(path).ok());
        let table: toml::Table = text.and_then(|text| toml::from_str(&text).ok()).unwrap_or_default();
        let of = |section: &str, key: &str| table.get(section)?.get(key)?.as_str().map(str::to_owned);
        let dir = |key: &str| Some(PathBuf::from(table.get(key)?.as_str()?));
        let elsewhere = [dir("state_dir"), dir("identity_dir")].into_iter().flatten();
        Ok(Self {
            elsewhere: elsewhere.filter(|dir| !dir.starts_with(&paths.state)).collect(),
            engine: of("engine", "socket").unwrap_or_else(|| ENGINE.to_owned()).into(),
            link: of("tunnel", "device").unwrap_or_else(|| LINK.to_owned()),
            paths,
            role,
        })
    }

    /// What this host is.
    #[must_use]
    pub fn role(&self) -> Role {
        self.role
    }

    fn engine(&self) -> DockerEngine {
        DockerEngine::new(&self.engine, format!("{}-agent", self.role))
    }

    /// Looks at what there is.
    ///
    /// # Errors
    /// When there is an engine, and it does not answer.
    pub async fn look(&self) -> Result<Remains, SetupError> {
        if self.engine.exists() {
            return Ok(Remains { engine: self.belongings().await?, has_engine: true });
        }
        if Path::new(ENGINES_DATA).is_dir() {
            let text =
                format!("Docker does not run, and {ENGINES_DATA} may hold containers and volumes of this host's");
            return Err(SetupError::new(text, START_DOCKER));
        }
        Ok(Remains::default())
    }

    async fn belongings(&self) -> Result<Belongings, SetupError> {
        let engine = self.engine().belongings().await;
        engine.map_err(|error| SetupError::because("Docker does not answer", error, START_DOCKER))
    }

    /// What will be done, in words for people.
    #[must_use]
    pub fn plan(&self, remains: &Remains, purge: bool) -> Vec<String> {
        let names: Vec<&str> = remains.engine.containers.iter().map(|(_, name)| name.as_str()).collect();
        let mut plan = vec![format!("stop {}, now and for later starts of this host", unit::unit(self.role))];
        if !names.is_empty() {
            plan.push(format!("stop and remove the containers {}", names.join(", ")));
        }
        plan.push(format!("remove the link {}, its routes and the guard of the tunnel", self.link));
        if purge {
            if !remains.engine.volumes.is_empty() {
                plan.push(format!("DELETE the volumes {}: files, databases, blog", remains.engine.volumes.join(", ")));
            }
            let (etc, state) = (self.paths.etc.display(), self.paths.state.display());
            plan.push(format!("DELETE {state} and {etc}: identity, generated passwords, configuration"));
            plan.extend(self.elsewhere.iter().map(|dir| {
                format!("leave {}, which the configuration names, for you to look through and delete", dir.display())
            }));
            if self.paths.authority().exists() {
                plan.push("with them the certificate authority: home and every device must join anew".to_owned());
            }
            return plan;
        }
        let file = self.paths.configuration(self.role);
        if file.exists() {
            let aside = self.paths.free_name_aside(self.role);
            plan.push(format!("take {} out of force; it stays as {}", file.display(), aside.display()));
        }
        if self.role == Role::Home {
            plan.push(format!("remove this host's identity, {}", self.paths.identity().display()));
        }
        plan
    }

    /// What stays when it has left, in words for people.
    #[must_use]
    pub fn stays(&self, remains: &Remains) -> Vec<String> {
        let mut stays = Vec::new();
        if !remains.engine.volumes.is_empty() {
            stays.push(format!("the services' data: Docker's volumes {}", remains.engine.volumes.join(", ")));
        }
        stays.push(format!("state and generated passwords: {}", self.paths.state.display()));
        stays.extend(self.elsewhere.iter().map(|dir| format!("{}, which the configuration names", dir.display())));
        if self.paths.authority().exists() {
            stays.push("this edge's authority and identity, which `agentctl init` takes up again".to_owned());
        }
        stays
    }

    /// Takes the host out; `say` hears of each step when it is done.
    ///
    /// # Errors
    /// Naming the step. A second call goes on from there.
    pub async fn leave(&self, remains: &Remains, say: &mut dyn FnMut(&str)) -> Result<(), SetupError> {
        self.stop(remains.has_engine, say).await?;
        let file = self.paths.configuration(self.role);
        if let Some(aside) = self.paths.put_aside(self.role).map_err(|error| failed(&file, error))? {
            say(&format!("{} is {} now", file.display(), aside.display()));
        }
        let identity = self.paths.identity();
        if self.role == Role::Home && identity.exists() {
            gone(&identity)?;
            say(&format!("{} removed", identity.display()));
        }
        Ok(())
    }

    /// Takes the host out and deletes all that it had.
    ///
    /// # Errors
    /// Naming the step. A second call goes on from there.
    pub async fn purge(&self, remains: &Remains, say: &mut dyn FnMut(&str)) -> Result<(), SetupError> {
        let volumes = self.stop(remains.has_engine, say).await?.volumes;
        let engine = self.engine();
        for volume in &volumes {
            let next = "`docker ps -a` shows who uses it: remove that, then run this again";
            let removed = engine.remove_volume(volume).await;
            removed.map_err(|error| SetupError::because(format!("volume {volume} stays"), error, next))?;
            say(&format!("volume {volume} deleted"));
        }
        for dir in [&self.paths.state, &self.paths.etc] {
            gone(dir)?;
            say(&format!("{} deleted", dir.display()));
        }
        Ok(())
    }

    /// What both have in common: nothing runs any more, and the kernel knows nothing of it. Gives back what there was in the engine
    /// when nobody could change it any more.
    async fn stop(&self, has_engine: bool, say: &mut dyn FnMut(&str)) -> Result<Belongings, SetupError> {
        if unit::is_installed(self.role) && unit::has_systemd() {
            unit::stop(self.role).await?;
            say(&format!("{} stopped", unit::unit(self.role)));
        }
        let mut ours = Belongings::default();
        if has_engine {
            ours = self.belongings().await?;
            let next = "`docker ps -a` and `docker network ls` show what is left; then run this again";
            let removed = self.engine().remove_containers(&ours, GRACE).await;
            removed.map_err(|error| SetupError::because("not all containers could be removed", error, next))?;
            say(&format!("{} containers removed", ours.containers.len()));
        }
        let next = "`ip link` and `nft list tables` show what is left; then run this again";
        let network = async {
            Netlink::open()?.forget(&self.link).await?;
            guard::remove().await?;
            if self.role == Role::Edge {
                docker_user::remove().await?;
            }
            Ok::<_, Box<dyn std::error::Error + Send + Sync>>(())
        };
        network.await.map_err(|error| SetupError::because("the tunnel's network could not be removed", error, next))?;
        say(&format!("the link {}, its routes and the guard removed", self.link));
        Ok(ours)
    }
}

const START_DOCKER: &str =
    "start it (`systemctl start docker`), then run this again: containers and volumes are there only with it";

/// What a person says that this host is, if nothing on it says otherwise.
fn checked(paths: &Paths, role: Role) -> Result<Role, SetupError> {
    let is_other = |other: &Role| *other != role && paths.configuration(*other).exists();
    let by_file = [Role::Edge, Role::Home].into_iter().find(is_other);
    let identity = HostIdentity::load(&paths.identity()).ok().and_then(|identity| identity.info().ok());
    let by_identity = identity.map(|info| info.role.role).filter(|is| *is != role);
    match by_file.or(by_identity) {
        None => Ok(role),
        Some(is) => Err(SetupError::new(format!("this host is no {role}: its files say {is}"), format!("--role {is}"))),
    }
}

/// What this host is, by its configuration, or else by the agent that is installed.
fn role_of(paths: &Paths) -> Result<Role, SetupError> {
    let both = [Role::Edge, Role::Home];
    let next = "say what it is: --role edge or --role home";
    let shows: [&dyn Fn(&Role) -> bool; 3] =
        [&|role| paths.configuration(*role).exists(), &|role| paths.set_aside(*role).exists(), &|role| {
            unit::is_installed(*role)
        }];
    for show in shows {
        match both.iter().filter(|role| show(role)).collect::<Vec<_>>()[..] {
            [] => {}
            [role] => return Ok(*role),
            _ => return Err(SetupError::new("this host could be an edge and a home", next)),
        }
    }
    let text = format!("nothing in {} shows that this host is in a cloud", paths.etc.display());
    Err(SetupError::new(text, next))
}

fn gone(dir: &Path) -> Result<(), SetupError> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(dir, error)),
        _ => Ok(()),
    }
}

fn failed(path: &Path, error: io::Error) -> SetupError {
    SetupError::because(format!("{} stays", path.display()), error, LOOK_AT_DISK)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_host_is_shows_in_its_files() {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path();
        let paths = Paths { etc: base.join("etc"), state: base.join("state"), run: base.join("run") };
        fs::create_dir(&paths.etc).unwrap();
        let role =
            || Leaving::new(paths.clone(), None).map(|leaving| leaving.role()).map_err(|error| error.to_string());
        let leave = Leaving::new(paths.clone(), Some(Role::Home)).unwrap();
        assert_eq!((leave.role(), leave.link.as_str()), (Role::Home, LINK));
        let written = "state_dir = \"/srv/state\"\nidentity_dir = \"/srv/identity\"\n[tunnel]\ndevice = \"tun7\"\n";
        fs::write(paths.set_aside(Role::Home), written).unwrap();
        assert_eq!(role(), Ok(Role::Home));
        let home = Leaving::new(paths.clone(), None).unwrap();
        assert_eq!(home.link, "tun7");
        // What else lies there is not ours to delete.
        let purge = home.plan(&Remains::default(), true).join("\n");
        assert!(purge.contains("leave /srv/state, which") && purge.contains("leave /srv/identity, which"), "{purge}");
        // What is in force counts more than what was.
        fs::write(paths.configuration(Role::Edge), "broken [").unwrap();
        assert_eq!(role(), Ok(Role::Edge));
        // Nor is a person believed who mistakes one host for the other.
        let mistaken = Leaving::new(paths.clone(), Some(Role::Home)).unwrap_err();
        assert!(mistaken.to_string().contains("this host is no home") && mistaken.next() == "--role edge");
        fs::write(paths.configuration(Role::Home), "").unwrap();
        assert!(role().unwrap_err().contains("an edge and a home"));
    }

    #[test]
    fn the_plan_says_what_is_deleted_and_what_stays() {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path();
        let paths = Paths { etc: base.join("etc"), state: base.join("state"), run: base.join("run") };
        fs::create_dir_all(paths.authority()).unwrap();
        let edge = Leaving::new(paths, Some(Role::Edge)).unwrap();
        let engine = Belongings {
            containers: vec![("1".into(), "cloudathome-ghost".into())],
            networks: vec![],
            volumes: vec!["cloudathome-ghost-content".into()],
        };
        let remains = Remains { engine, has_engine: true };
        let leave = edge.plan(&remains, false).join("\n");
        assert!(leave.contains("cloudathome-ghost") && !leave.contains("DELETE"), "{leave}");
        let stays = edge.stays(&remains).join("\n");
        assert!(stays.contains("cloudathome-ghost-content") && stays.contains("authority"), "{stays}");
        let purge = edge.plan(&remains, true).join("\n");
        for part in ["DELETE the volumes cloudathome-ghost-content", "every device must join anew"] {
            assert!(purge.contains(part), "{purge}");
        }
    }
}
