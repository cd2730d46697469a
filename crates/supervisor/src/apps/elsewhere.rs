//! A database that the person runs: a container with its client beside the application dumps it before an upgrade, and
//! brings it back into the same database.
//!
//! Nothing is dropped before the dump was read to its end. In PostgreSQL that is what the application's user owns, with what others
//! have built on it since (a view); where tables belong to somebody else when it is dumped there is no upgrade. MariaDB knows no
//! owners: there it is all tables that the user sees in the database. Roles are the person's: none is dumped or made.

use std::time::Duration;

use model::VolumeKind;
use secrecy::{ExposeSecret, SecretString};

use super::database::{DUMPS, Part, saved, unit};
use super::{ExternalDatabase, ExternalKind, Place, script, secret_file, words};

/// It is asked seldom: it is somebody else's.
const ASKED: Duration = Duration::from_secs(60);
/// Where the client of either kind finds how to log in.
const PGPASS: &str = "/run/secrets/pgpass";
const CLIENT: &str = "/run/secrets/client.cnf";

/// Relations that are the user's own, or not, by `{whose}`; what belongs to an extension is the extension's.
const RELATIONS: &str = "FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_roles r ON r.oid = c.relowner
  WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S') AND r.rolname {whose} current_user
    AND n.nspname <> 'information_schema' AND n.nspname NOT LIKE 'pg\\_%'
    AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')";

/// The client's container of a database elsewhere.
pub(super) fn elsewhere(place: &Place, external: &ExternalDatabase) -> Part {
    let mut container = place.container("dbclient", &external.image);
    let (dumps, dumps_mount) = place.volume("dumps", VolumeKind::Scratch, DUMPS);
    container.mounts = vec![dumps_mount];
    // Images of servers declare where these would keep their files: without a name of ours each new container would leave
    // a volume behind.
    let declared: &[&str] = match external.kind {
        ExternalKind::Postgresql => &["/var/lib/postgresql", "/var/lib/postgresql/data"],
        ExternalKind::Mariadb => &["/var/lib/mysql"],
    };
    let mut volumes = vec![dumps];
    for target in declared {
        let (unused, mount) = place.volume("dbclient", VolumeKind::Scratch, target);
        container.mounts.push(mount);
        if !volumes.contains(&unused) {
            volumes.push(unused);
        }
    }
    container.entrypoint = words(&["sleep"]);
    container.command = words(&["infinity"]);
    // The first process of a container ignores what would end it.
    container.stop_signal = Some("SIGKILL".to_owned());
    let (host, port) = external.host_and_port();
    let (ready, dump, verify, restore) = match external.kind {
        ExternalKind::Postgresql => {
            for (key, value) in [
                ("PGHOST", host),
                ("PGPORT", &port.to_string()),
                ("PGUSER", &external.user),
                ("PGDATABASE", &external.name),
                ("PGPASSFILE", PGPASS),
                ("PGCONNECT_TIMEOUT", "10"),
            ] {
                container.env.insert(key.to_owned(), value.to_owned());
            }
            container.secrets = vec![secret_file(PGPASS, &pgpass(&external.password), 0)];
            postgresql()
        }
        ExternalKind::Mariadb => {
            container.secrets = vec![secret_file(CLIENT, &client_cnf(external, host, port), 0)];
            mariadb()
        }
    };
    let name = external.name.as_str();
    let dump = saved(&container.name, name, &dump, verify, &restore);
    let mut unit = unit(container, script(ready, &[name]));
    if let Some(check) = &mut unit.ready {
        check.interval = ASKED;
    }
    Part { unit, volumes, dump: Some(dump) }
}

type Commands = (&'static str, String, &'static str, String);

fn postgresql() -> Commands {
    let ready = "psql --no-psqlrc --quiet --tuples-only --command 'SELECT 1' >/dev/null";
    // The list has what the user owns, by the last word of each line: nothing else is brought back. The schema `public` is
    // there already, whoever made it.
    let dump = format!(
        r#"others=$(psql --no-psqlrc --quiet --tuples-only --no-align --set ON_ERROR_STOP=1 <<'SQL'
SELECT string_agg(DISTINCT r.rolname, ', ') {};
SQL
)
if [ -n "$others" ]; then
  echo "it has tables of $others, which $PGUSER could not bring back" >&2
  exit 1
fi
pg_dump --format custom --file {{dump}}
pg_restore --list {{dump}} | while IFS= read -r line; do
  case $line in
    *' SCHEMA - public '*) ;;
    [0-9]*" $PGUSER") printf '%s\n' "$line" ;;
  esac
done >{{dump}}.list
"#,
        RELATIONS.replace("{whose}", "<>")
    );
    // All of it is read: what can't be is found before anything is dropped.
    let verify = "test -s {dump}.list
pg_restore --use-list {dump}.list --file /dev/null {dump}
";
    // One transaction: the database is what it was until all is there. Without the last line of the input nothing is
    // committed, and without the last line of the output nothing was. A newer client sets what an older server does not know.
    let restore = format!(
        r#"{{
  cat <<'SQL'
BEGIN;
DO $drop$
DECLARE found record;
BEGIN
  FOR found IN SELECT n.nspname, c.relname, c.relkind {} ORDER BY c.relkind = 'S'
  LOOP
    EXECUTE format('DROP %s IF EXISTS %I.%I CASCADE', CASE found.relkind WHEN 'v' THEN 'VIEW'
      WHEN 'm' THEN 'MATERIALIZED VIEW' WHEN 'f' THEN 'FOREIGN TABLE' WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END,
      found.nspname, found.relname);
  END LOOP;
END $drop$;
SQL
  {{
    pg_restore --use-list {{dump}}.list --clean --if-exists --file - {{dump}} &&
      printf '%s\n' 'COMMIT;' '\echo restored'
  }} | sed '1,40{{/^SET transaction_timeout = /d;}}'
}} | psql --no-psqlrc --quiet --tuples-only --no-align --set ON_ERROR_STOP=1 | tail -n 1 | grep -qx restored"#,
        RELATIONS.replace("{whose}", "=")
    );
    (ready, dump, verify, restore)
}

/// The database's own language knows no transactions here: what is broken off is begun anew, with dropping.
fn mariadb() -> Commands {
    let ready = "$(command -v mariadb || command -v mysql) --defaults-extra-file=/run/secrets/client.cnf \
                   --execute 'SELECT 1' \"$1\" >/dev/null";
    // MySQL's own program asks for rights, and writes settings, that belong to its administrator unless told otherwise.
    let dump = r#"program=$(command -v mariadb-dump || command -v mysqldump)
more=
case $("$program" --version) in *MariaDB*) ;; *) more='--set-gtid-purged=OFF --column-statistics=0' ;; esac
"$program" --defaults-extra-file=/run/secrets/client.cnf --single-transaction --triggers --no-tablespaces $more "$1" >{dump}
"#;
    let verify = "tail -n 1 {dump} | grep -q '^-- Dump completed'\n";
    let restore = r#"client() {
  $(command -v mariadb || command -v mysql) --defaults-extra-file=/run/secrets/client.cnf "$@"
}
client --skip-column-names --raw "$1" >{dump}.drop <<'SQL'
SELECT CONCAT('DROP ', IF(TABLE_TYPE = 'VIEW', 'VIEW', 'TABLE'), ' IF EXISTS `', REPLACE(TABLE_NAME, '`', '``'), '`;')
FROM information_schema.TABLES WHERE TABLE_SCHEMA = DATABASE();
SQL
{ echo 'SET FOREIGN_KEY_CHECKS = 0;'; cat {dump}.drop; } | client "$1"
client "$1" <{dump}"#;
    (ready, dump.to_owned(), verify, restore.to_owned())
}

/// For any server, since there is one only.
fn pgpass(password: &SecretString) -> SecretString {
    format!("*:*:*:*:{}\n", password.expose_secret().replace('\\', "\\\\").replace(':', "\\:")).into()
}

fn client_cnf(external: &ExternalDatabase, host: &str, port: u16) -> SecretString {
    let quoted = |text: &str| {
        let text = text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        format!("\"{text}\"")
    };
    // As Nextcloud does it: with TLS where the server has it, whoever it is.
    format!(
        "[client]\nhost={}\nport={port}\nprotocol=tcp\nuser={}\npassword={}\nloose-ssl-verify-server-cert=OFF\n",
        quoted(host),
        quoted(&external.user),
        quoted(external.password.expose_secret()),
    )
    .into()
}

#[cfg(test)]
mod tests {
    use model::Probe;

    use super::super::tests::place;
    use super::*;

    fn part(kind: ExternalKind) -> Part {
        let external = ExternalDatabase {
            kind,
            address: "db.lan:7777".into(),
            name: "nc".into(),
            user: "me".into(),
            password: "ge:he\\im\"".to_owned().into(),
            image: "client:1".into(),
        };
        elsewhere(&place("cloud", "cloud.example.com"), &external)
    }

    #[test]
    fn the_password_is_in_a_file_of_roots_and_nowhere_else() {
        for (kind, file) in [
            (ExternalKind::Postgresql, "*:*:*:*:ge\\:he\\\\im\"\n"),
            (ExternalKind::Mariadb, "password=\"ge:he\\\\im\\\"\"\n"),
        ] {
            let part = part(kind);
            let container = &part.unit.container;
            let [secret] = &container.secrets[..] else { panic!("{:?}", container.secrets) };
            assert!(secret.content.contains(file) && secret.uid == 0, "{}", secret.content);
            let dump = part.dump.unwrap();
            let Probe::Exec { command, .. } = part.unit.ready.unwrap().probe else { panic!() };
            let words = [dump.dump, dump.verify, dump.restore, command].concat().join(" ");
            assert!(!format!("{words} {:?} {container:?}", container.env).contains("ge:he"));
        }
    }

    #[test]
    fn nothing_is_dropped_before_the_dump_was_verified() {
        for (kind, verify, drop) in [
            (ExternalKind::Postgresql, "--file /dev/null", "DROP %s"),
            (ExternalKind::Mariadb, "Dump completed", "'DROP '"),
        ] {
            let dump = part(kind).dump.unwrap();
            let restore = dump.restore.join(" ");
            assert!(restore.find(verify).unwrap() < restore.find(drop).unwrap());
            assert!(dump.dump.join(" ").contains(verify) && dump.verify.join(" ").contains(verify));
        }
    }

    #[test]
    fn what_images_declare_is_on_a_volume_with_a_name() {
        let part = part(ExternalKind::Postgresql);
        let names: Vec<&str> = part.volumes.iter().map(|volume| volume.name.as_str()).collect();
        assert_eq!(names, ["cloudathome-cloud-dumps", "cloudathome-cloud-dbclient"]);
        assert_eq!(part.unit.container.mounts.len(), 3);
    }

    #[test]
    fn addresses_have_the_usual_port_unless_they_name_one() {
        let of = |kind, address: &str| {
            let external = ExternalDatabase {
                kind,
                address: address.into(),
                name: String::new(),
                user: String::new(),
                password: String::new().into(),
                image: String::new(),
            };
            let (host, port) = external.host_and_port();
            (host.to_owned(), port)
        };
        assert_eq!(of(ExternalKind::Postgresql, "db.lan"), ("db.lan".into(), 5432));
        assert_eq!(of(ExternalKind::Mariadb, "192.0.2.1"), ("192.0.2.1".into(), 3306));
        assert_eq!(of(ExternalKind::Mariadb, "db.lan:3307"), ("db.lan".into(), 3307));
        assert_eq!(of(ExternalKind::Postgresql, "[2001:db8::1]:5433"), ("2001:db8::1".into(), 5433));
        assert_eq!(of(ExternalKind::Postgresql, "[2001:db8::1]"), ("2001:db8::1".into(), 5432));
    }
}
