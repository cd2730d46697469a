//! Nextcloud's way of upgrading, with PostgreSQL of its own and with databases elsewhere: its entry point refuses what can't
//! be, and a migration that failed is undone only by volume and database together.

use std::time::Duration;

use lab::images::Wanted;
use lab::{Engine, EngineOptions, Lab, wait_until};

use crate::agent::Agent;

/// A Nextcloud on an engine's host.
struct Cloud<'a> {
    engine: &'a Engine,
    name: &'static str,
    port: &'static str,
}

impl Cloud<'_> {
    fn curl(&self, arguments: &[&str], path: &str) -> String {
        let url = format!("http://127.0.0.1:{}{path}", self.port);
        let usual = ["curl", "--silent", "--show-error", "--fail", "--max-time", "30"];
        self.engine.host().exec(&[&usual[..], arguments, &[&url]].concat()).unwrap()
    }

    fn dav(&self, arguments: &[&str], file: &str) -> String {
        let login = ["--user", "admin:admin-secret"];
        self.curl(&[&login, arguments].concat(), &format!("/remote.php/dav/files/admin/{file}"))
    }

    fn version(&self) -> String {
        let status: serde_json::Value = serde_json::from_str(&self.curl(&[], "/status.php")).unwrap();
        status["versionstring"].as_str().unwrap_or_default().to_owned()
    }

    fn occ(&self, arguments: &[&str]) -> String {
        let container = format!("cloudathome-{}", self.name);
        let occ = ["exec", "--user", "www-data", &container, "php", "/var/www/html/occ"];
        self.engine.docker(&[&occ[..], arguments].concat()).unwrap().trim().to_owned()
    }
}

/// Asks a PostgreSQL server in a container.
fn psql(engine: &Engine, container: &str, database: &str, sql: &str) -> String {
    let psql = ["exec", container, "psql", "--username=postgres", "--dbname", database, "--no-align", "--tuples-only"];
    let said = engine.docker(&[&psql[..], &["--quiet", "--set=ON_ERROR_STOP=1", "--command", sql]].concat());
    said.unwrap().trim().to_owned()
}

/// What the installer does whose role may make roles: it makes one of its own, whose password only it knows. The former one may
/// use its tables, since what serves hears of a new configuration after a minute only.
const OWN_ROLE: &str = "CREATE ROLE oc_admin LOGIN CREATEDB PASSWORD 'of-its-own';
GRANT ALL ON DATABASE nextcloud TO oc_admin;
REVOKE CONNECT ON DATABASE nextcloud FROM PUBLIC;
GRANT ALL ON SCHEMA public TO oc_admin;
GRANT oc_admin TO nextcloud;
DO $$ DECLARE name text; BEGIN
  FOR name IN SELECT tablename FROM pg_tables WHERE tableowner = 'nextcloud' LOOP
    EXECUTE format('ALTER TABLE %I OWNER TO oc_admin', name);
  END LOOP;
END $$";
const OWNERS: &str = "SELECT string_agg(DISTINCT tableowner, ' ') FROM pg_tables WHERE schemaname = 'public'";

#[test]
fn a_failed_upgrade_is_undone_whole_and_wrong_ways_are_refused() {
    if !lab::capability::or_skip().unwrap() {
        return;
    }
    let wanted = [Wanted::NextcloudStandIn, Wanted::Postgres, Wanted::Redis];
    let (_lab, engine) = Lab::with_engine(&EngineOptions::default(), &wanted).unwrap();
    let mut agent = Agent::start(&engine, "nextcloud", None);
    agent.installs();
    let cloud = Cloud { engine: &engine, name: "nextcloud", port: "8080" };
    assert_eq!(cloud.version(), "32.0.1");
    cloud.dav(&["--upload-file", "/etc/hostname"], "first");

    agent.tell("upgrade 34.0.0-apache");
    assert!(agent.hears("refused: ").contains("leaves a major version out; go to 33.x first"));
    agent.tell("upgrade 31.0.0-apache");
    assert!(agent.hears("refused: ").contains("31.0.0 is older than 32.0.1"));
    // What the tag does not say the image does.
    engine.docker(&["tag", "nextcloud:34.0.0-apache", "nextcloud:newest"]).unwrap();
    let refused = agent.carries_out("upgrade newest");
    assert!(refused.contains("stays at") && refused.contains("from 32.0.1 to 34.0.0"), "{refused}");

    let db = |sql: &str| psql(&engine, "cloudathome-nextcloud-db", "nextcloud", sql);
    db(OWN_ROLE);
    cloud.occ(&["config:system:set", "dbuser", "--value=oc_admin"]);
    cloud.occ(&["config:system:set", "dbpassword", "--value=of-its-own"]);
    agent.keeps_people_out("upgrade 32.0.2-apache", "upgraded to nextcloud:32.0.2-apache");
    agent.keeps_people_out("upgrade 33.0.0-apache", "upgraded to nextcloud:33.0.0-apache");
    assert_eq!(cloud.version(), "33.0.0");
    cloud.dav(&["--upload-file", "/etc/hostname"], "second");

    // Its migration fails and leaves the maintenance mode on.
    let failed = agent.carries_out("upgrade 34.0.9-apache");
    assert!(failed.contains("went back to nextcloud:33.0.0-apache"), "{failed}");
    agent.is_healthy();
    assert_eq!(cloud.version(), "33.0.0");
    for file in ["first", "second"] {
        cloud.dav(&[], file);
    }

    // The way back brings the role that owns everything, with its password and what it may.
    db("REASSIGN OWNED BY oc_admin TO nextcloud; DROP OWNED BY oc_admin; DROP ROLE oc_admin");
    assert_eq!(db(OWNERS), "nextcloud");
    agent.keeps_people_out("rollback", "went back to nextcloud:32.0.2-apache");
    assert_eq!(cloud.version(), "32.0.2");
    cloud.dav(&[], "first");
    assert_eq!((db(OWNERS), cloud.occ(&["config:system:get", "dbuser"])), ("oc_admin".into(), "oc_admin".into()));
    let may = "SELECT has_database_privilege('oc_admin', 'nextcloud', 'CREATE'), pg_get_userbyid(datdba), \
               has_database_privilege('public', 'nextcloud', 'CONNECT') FROM pg_database WHERE datname = 'nextcloud'";
    assert_eq!(db(may), "t|nextcloud|f");
    let kept = engine.docker(&["exec", "cloudathome-nextcloud", "find", "/var/www/html/data/admin/files"]).unwrap();
    assert!(kept.contains("second"), "what people put in is never taken back: {kept}");
    agent.ends_with_all(&engine);
}

/// Where a host's containers reach what listens on all of its addresses.
const HOST: &str = "172.17.0.1";
const PASSWORD: &str = "pa:ss\"wo#rd";

#[test]
fn databases_elsewhere_are_brought_back_and_nothing_else_there_is_touched() {
    if !lab::capability::or_skip().unwrap() {
        return;
    }
    let wanted = [Wanted::NextcloudStandIn, Wanted::Postgres, Wanted::Mariadb, Wanted::Redis];
    let (_lab, engine) = Lab::with_engine(&EngineOptions::default(), &wanted).unwrap();
    let run = |name: &str, env: &[&str], image: &str| {
        let env = env.iter().flat_map(|pair| ["--env", pair]);
        let run = ["run", "--detach", "--pull=never", "--network=host", "--name", name];
        engine.docker(&run.into_iter().chain(env).chain([image]).collect::<Vec<_>>()).unwrap();
    };
    run("elsewhere-pg", &["POSTGRES_PASSWORD=x"], "postgres:15");
    run("elsewhere-maria", &["MARIADB_ROOT_PASSWORD=x"], "mariadb:10.11");
    let ready = |command: &[&str]| {
        let command = [&["exec"], command].concat();
        wait_until("a database elsewhere", Duration::from_secs(90), || Ok(engine.docker(&command).is_ok())).unwrap();
    };
    let root = ["elsewhere-maria", "mariadb", "--protocol=tcp", "--host=127.0.0.1", "--user=root", "--password=x"];
    ready(&[&root[..], &["--execute=SELECT 1"]].concat());
    ready(&["elsewhere-pg", "pg_isready", "--host=127.0.0.1"]);
    let maria = |sql: &str| {
        let exec = [&["exec"][..], &root, &["--skip-column-names", "--execute", sql]].concat();
        engine.docker(&exec).unwrap().trim().to_owned()
    };
    let pg = |database: &str, sql: &str| psql(&engine, "elsewhere-pg", database, sql);
    pg("postgres", &format!("CREATE ROLE nc LOGIN PASSWORD '{PASSWORD}'"));
    pg("postgres", "CREATE DATABASE nc OWNER nc");
    maria(&format!("CREATE DATABASE nc; CREATE USER nc IDENTIFIED BY '{PASSWORD}'; GRANT ALL ON nc.* TO nc"));
    maria("CREATE DATABASE other; CREATE TABLE other.kept (n INT)");

    let of = |name: &'static str, port: &'static str, database: &str| {
        let env = [("IMAGE", "nextcloud:33.0.0-apache"), ("PORT", port), ("DATABASE", database)];
        (Agent::start_with(&engine, name, None, &env), Cloud { engine: &engine, name, port })
    };
    let mut both = [
        of("nextcloud-pg", "8081", &format!("postgresql {HOST}")),
        of("nextcloud-maria", "8082", &format!("mariadb {HOST}:3306")),
    ];
    for (agent, cloud) in &mut both {
        agent.is_healthy();
        cloud.dav(&["--upload-file", "/etc/hostname"], "first");
    }
    let columns = || {
        let all = "SELECT table_name, column_name FROM information_schema.columns WHERE table_schema IN ('public', 'nc') ORDER BY 1, 2";
        (pg("nc", all), maria(all))
    };
    let before = columns();

    // Tables of its own that the dump does not know go, those of others stay.
    for (agent, _) in &mut both {
        agent.tell("upgrade 34.0.0-apache");
    }
    for (agent, cloud) in &mut both {
        let upgraded = agent.hears("ended: ");
        assert!(upgraded.starts_with("upgraded to") && upgraded.contains("nextcloud:34.0.0-apache"), "{upgraded}");
        assert_eq!(cloud.version(), "34.0.0");
    }
    assert_ne!(columns(), before);
    pg(
        "nc",
        "CREATE TABLE foreign_one (n int); SET ROLE nc; CREATE TABLE own_one (n int GENERATED ALWAYS AS IDENTITY)",
    );
    maria("CREATE TABLE nc.own_one (n INT)");
    for (agent, _) in &mut both {
        agent.tell("rollback");
    }
    for (agent, cloud) in &mut both {
        let back = agent.hears("ended: ");
        assert!(back.starts_with("went back to") && back.contains("nextcloud:33.0.0-apache"), "{back}");
        agent.is_healthy();
        cloud.dav(&[], "first");
    }
    assert_eq!(maria("SELECT COUNT(*) FROM other.kept"), "0");

    // Where tables are another's there would be no way back for them.
    let refused = both[0].0.carries_out("upgrade 34.0.0-apache");
    assert!(refused.contains("stays at") && refused.contains("it has tables of postgres"), "{refused}");
    pg("nc", "DROP TABLE foreign_one");
    assert_eq!(columns(), before);
    let [(first, _), (second, _)] = both;
    drop(first);
    second.ends_with_all(&engine);
}
