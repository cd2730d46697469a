//! The databases that applications bring along: PostgreSQL, MySQL or MariaDB, and Redis.
//!
//! The check that shows a database ready does what the application will do: it logs in as the application's role to the
//! application's database. Where that fails it makes both, so that a first start that broke off is put right by itself.
//! The role owns its database and nothing else: an installer that may make roles makes one with a password of its own
//! and owns all tables with that.

use std::path::PathBuf;
use std::time::Duration;

use model::{Check, DatabaseSpec, Probe, Unit, VolumeKind, VolumeSpec};
use secrecy::{ExposeSecret, SecretString};

use super::{Place, script, secret_file, words};

/// Where dumps lie in a database's container.
pub(super) const DUMPS: &str = "/dumps";
/// Files of root's: every command below runs as root, who reads files of any mode.
const ROOT: &str = "0";
/// The user that the official images of Redis, MySQL and MariaDB run their servers as.
const SERVER_UID: u32 = 999;
/// A first start makes the database files; a start after a crash goes through the log.
const GRACE: Duration = Duration::from_secs(120);

/// A database as a part of a service.
pub(super) struct Part {
    pub(super) unit: Unit,
    pub(super) volumes: Vec<VolumeSpec>,
    /// How it is saved; none for a cache.
    pub(super) dump: Option<DatabaseSpec>,
}

/// PostgreSQL, known as `db` to the others, with a database and its role both called `name`.
pub(super) fn postgres(place: &Place, image: &str, name: &str, password: &SecretString, admin: &SecretString) -> Part {
    let mut container = place.container("db", image);
    let (files, files_mount) = place.volume("db", VolumeKind::Database, "/var/lib/postgresql/data");
    let (dumps, dumps_mount) = place.volume("dumps", VolumeKind::Scratch, DUMPS);
    container.env.insert("POSTGRES_PASSWORD_FILE".to_owned(), "/run/secrets/postgres_password".to_owned());
    // The password is of hexadecimal digits: nothing in it ends the text in quotes.
    let role = SecretString::from(format!(
        "SELECT 'CREATE ROLE {name} LOGIN' WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{name}') \\gexec\n\
         ALTER ROLE {name} LOGIN NOSUPERUSER NOCREATEROLE NOCREATEDB PASSWORD '{}';\n\
         SELECT 'CREATE DATABASE {name} OWNER {name} TEMPLATE template0 ENCODING ''UTF8''' \
         WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = '{name}') \\gexec\n",
        password.expose_secret()
    ));
    container.secrets =
        vec![secret_file("/run/secrets/postgres_password", admin, 0), secret_file("/run/secrets/role.sql", &role, 0)];
    container.mounts = vec![files_mount, dumps_mount];
    container.aliases = words(&["db"]);
    // Asks clients to finish instead of waiting for them.
    container.stop_signal = Some("SIGINT".to_owned());
    container.stop_grace = Duration::from_secs(60);
    // Over TCP, where the server of the first start does not listen before everything is made.
    let ready = script(
        "pg_isready --quiet --host 127.0.0.1 --username postgres
         psql --host 127.0.0.1 --username \"$1\" --dbname \"$1\" --no-psqlrc --quiet --tuples-only --command 'SELECT 1' >/dev/null 2>&1 ||
         psql --username postgres --dbname postgres --no-psqlrc --quiet --set ON_ERROR_STOP=1 --file /run/secrets/role.sql",
        &[name],
    );
    // All of it is read: what can't be is found before anything is dropped.
    let verify = "grep -q 'PostgreSQL database cluster dump complete' {dump}.roles
         pg_restore --file /dev/null {dump}\n";
    let dump = "pg_dumpall --username postgres --roles-only --file {dump}.roles
         pg_dump --username postgres --format custom --file {dump} \"$1\"\n";
    // Roles that are there already are reported as errors and get their passwords and rights back; ownership below fails where
    // one is missing. The database is made with its owner and what others may do in it.
    let restore = "psql --username postgres --dbname postgres --no-psqlrc --quiet --file {dump}.roles
         dropdb --username postgres --if-exists --force \"$1\"
         pg_restore --username postgres --dbname postgres --create --exit-on-error {dump}";
    Part {
        dump: Some(saved(&container.name, name, dump, verify, restore)),
        unit: unit(container, ready),
        volumes: vec![files, dumps],
    }
}

/// MySQL or MariaDB, known as `db` to the others, with a database and its user both called `name`.
pub(super) fn mysql(place: &Place, image: &str, name: &str, password: &SecretString, admin: &SecretString) -> Part {
    let mut container = place.container("db", image);
    let (files, files_mount) = place.volume("db", VolumeKind::Database, "/var/lib/mysql");
    let (dumps, dumps_mount) = place.volume("dumps", VolumeKind::Scratch, DUMPS);
    container.env.insert("MYSQL_ROOT_PASSWORD_FILE".to_owned(), "/run/secrets/mysql_root_password".to_owned());
    let login = |user: &str, password: &SecretString, more: &str| {
        SecretString::from(format!("[client]\nuser={user}\npassword=\"{}\"\n{more}", password.expose_secret()))
    };
    let role = SecretString::from(format!(
        "CREATE DATABASE IF NOT EXISTS `{name}` CHARACTER SET utf8mb4;\n\
         CREATE USER IF NOT EXISTS '{name}'@'%' IDENTIFIED BY '{password}';\n\
         ALTER USER '{name}'@'%' IDENTIFIED BY '{password}';\n\
         GRANT ALL ON `{name}`.* TO '{name}'@'%';\n",
        password = password.expose_secret()
    ));
    container.secrets = vec![
        secret_file("/run/secrets/mysql_root_password", admin, SERVER_UID),
        secret_file("/run/secrets/root.cnf", &login("root", admin, ""), 0),
        secret_file("/run/secrets/app.cnf", &login(name, password, "protocol=tcp\nhost=127.0.0.1\n"), 0),
        secret_file("/run/secrets/role.sql", &role, 0),
    ];
    container.mounts = vec![files_mount, dumps_mount];
    container.aliases = words(&["db"]);
    container.stop_grace = Duration::from_secs(60);
    // MariaDB's images have lost the names that MySQL's programs have.
    let client = "client() { login=$1; shift; \
                  $(command -v mariadb || command -v mysql) --defaults-extra-file=/run/secrets/$login.cnf \"$@\"; }\n";
    // Over TCP, where the server of the first start does not listen before everything is made. Who is refused was answered.
    let ready = script(
        &format!(
            "{client}$(command -v mariadb-admin || command -v mysqladmin) \
               --defaults-extra-file=/run/secrets/app.cnf ping >/dev/null
             client app --execute 'SELECT 1' \"$1\" >/dev/null 2>&1 || client root </run/secrets/role.sql"
        ),
        &[name],
    );
    let verify = "tail -n 1 {dump} | grep -q '^-- Dump completed'\n";
    let dump = "$(command -v mariadb-dump || command -v mysqldump) --defaults-extra-file=/run/secrets/root.cnf \
           --single-transaction --routines --triggers --events \"$1\" >{dump}\n";
    // The one role is what its secret says: no dump need hold it.
    let restore = format!(
        "{client}client root --execute \"DROP DATABASE IF EXISTS \\`$1\\`\"
         client root </run/secrets/role.sql
         client root \"$1\" <{{dump}}"
    );
    Part {
        dump: Some(saved(&container.name, name, dump, verify, &restore)),
        unit: unit(container, ready),
        volumes: vec![files, dumps],
    }
}

/// Redis, known as `redis` to the others, for what may be lost: nothing is written to disk.
pub(super) fn redis(place: &Place, image: &str, password: &SecretString) -> Part {
    let mut container = place.container("redis", image);
    // The image declares the volume: without a name of ours each new container would leave one behind.
    let (files, mount) = place.volume("redis", VolumeKind::Scratch, "/data");
    let config = SecretString::from(format!(
        "requirepass {}\nsave \"\"\nappendonly no\nprotected-mode no\n",
        password.expose_secret()
    ));
    container.command = words(&["redis-server", "/run/secrets/redis.conf"]);
    container.secrets = vec![secret_file("/run/secrets/redis.conf", &config, SERVER_UID)];
    container.mounts = vec![mount];
    container.aliases = words(&["redis"]);
    container.stop_grace = Duration::from_secs(10);
    let ready = script(
        "REDISCLI_AUTH=$(sed -n 's/^requirepass //p' /run/secrets/redis.conf)
         export REDISCLI_AUTH
         test \"$(redis-cli ping)\" = PONG",
        &[],
    );
    let mut unit = unit(container, ready);
    // It keeps nothing that a start anew could lose.
    unit.restart_after = Some(Duration::from_secs(60));
    Part { unit, volumes: vec![files], dump: None }
}

pub(super) fn unit(container: model::ContainerSpec, ready: Vec<String>) -> Unit {
    let check = Check {
        container: Some(container.name.clone()),
        probe: Probe::Exec { user: ROOT.to_owned(), command: ready },
        interval: Duration::from_secs(10),
        timeout: Duration::from_secs(10),
        grace: GRACE,
    };
    Unit { container, needs: Vec::new(), ready: Some(check), restart_after: None }
}

/// A dump counts once it is verified and on the disk, and replaces nothing before it is verified again.
pub(super) fn saved(container: &str, name: &str, dump: &str, verify: &str, restore: &str) -> DatabaseSpec {
    DatabaseSpec {
        container: container.to_owned(),
        user: ROOT.to_owned(),
        directory: PathBuf::from(DUMPS),
        dump: script(&format!("{dump}{verify}sync"), &[name]),
        verify: script(verify, &[name]),
        restore: script(&format!("{verify}{restore}"), &[name]),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::place;
    use super::*;

    fn parts() -> Vec<Part> {
        let place = place("cloud", "cloud.example.com");
        let (password, admin) = ("geheim".to_owned().into(), "geheimer".to_owned().into());
        vec![
            postgres(&place, "postgres:17", "nextcloud", &password, &admin),
            mysql(&place, "mysql:8", "ghost", &password, &admin),
            redis(&place, "redis:7", &password),
        ]
    }

    #[test]
    fn secrets_are_in_files_that_root_or_the_server_reads() {
        for part in parts() {
            let container = &part.unit.container;
            let ready = part.unit.ready.as_ref().unwrap();
            let dump = part.dump.as_ref().map(|dump| [dump.dump.clone(), dump.restore.clone()].concat());
            let words = format!("{:?} {ready:?} {dump:?} {container:?}", container.env);
            assert!(!words.contains("geheim"), "{words}");
            assert!(container.secrets.iter().any(|file| file.content.contains("geheim")));
            assert!(container.secrets.iter().all(|file| [0, SERVER_UID].contains(&file.uid)));
        }
    }

    #[test]
    fn what_a_server_writes_is_on_named_volumes() {
        let volumes: Vec<_> = parts().into_iter().flat_map(|part| part.volumes).collect();
        let names: Vec<&str> = volumes.iter().map(|volume| volume.name.as_str()).collect();
        assert_eq!(
            names,
            [
                "cloudathome-cloud-db",
                "cloudathome-cloud-dumps",
                "cloudathome-cloud-db",
                "cloudathome-cloud-dumps",
                "cloudathome-cloud-redis"
            ]
        );
        for part in parts() {
            assert_eq!(part.unit.container.mounts.len(), part.volumes.len());
        }
    }

    #[test]
    fn a_dump_is_checked_before_it_counts_and_before_it_replaces_anything() {
        for part in parts() {
            let Some(dump) = part.dump else { continue };
            let all = |command: &[String]| command.join(" ");
            for command in [&dump.dump, &dump.verify, &dump.restore] {
                let verify = ["--file /dev/null {dump}", "Dump completed"];
                assert!(verify.iter().any(|word| all(command).contains(word)), "{command:?}");
            }
            let restore = all(&dump.restore);
            let verified = restore.find("--file /dev/null {dump}").or(restore.find("Dump completed")).unwrap();
            assert!(verified < restore.to_lowercase().find("drop").unwrap());
        }
    }
}
