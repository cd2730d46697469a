//! The stand-in for Nextcloud behaves at install, in trouble and at upgrades as `docker/nextcloud/BEHAVIOURS.md` says.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::images::Wanted;
use lab::{Engine, EngineOptions, Http, Lab, Reply, capability, wait_until};

const LIMIT: Duration = Duration::from_secs(90);
const OLD: &str = "nextcloud:32.0.1-apache";
const PATCHED: &str = "nextcloud:32.0.2-apache";
const NEXT: &str = "nextcloud:33.0.0-apache";
const AFTER_NEXT: &str = "nextcloud:34.0.0-apache";
const BROKEN: &str = "nextcloud:34.0.9-apache";

/// An instance: one container at a time, and what it is started with.
struct Cloud<'a> {
    engine: &'a Engine,
    arguments: Vec<String>,
}

impl<'a> Cloud<'a> {
    fn new(lab: &Lab, engine: &'a Engine, settings: &[&str]) -> Result<Self> {
        engine.docker(&["network", "create", "cloud"])?;
        let secret = lab.dir().join("files/secret");
        fs::write(&secret, "secret")?;
        let mut arguments = vec!["--volume".to_owned(), format!("{}:/secret:ro", secret.display())];
        let usual = ["NEXTCLOUD_ADMIN_USER=admin", "NEXTCLOUD_ADMIN_PASSWORD_FILE=/secret"];
        arguments.extend(usual.iter().chain(settings).flat_map(|setting| ["--env".to_owned(), (*setting).to_owned()]));
        Ok(Self { engine, arguments })
    }

    /// Runs another container of the network.
    fn beside(&self, name: &str, arguments: &[&str]) -> Result<()> {
        let usual = ["run", "--detach", "--pull", "never", "--network", "cloud", "--name", name];
        self.engine.docker(&[&usual[..], arguments].concat()).map(drop)
    }

    /// Replaces the container by one of that image.
    fn start(&self, image: &str) -> Result<()> {
        self.engine.docker(&["rm", "--force", "cloud"])?;
        let mut arguments: Vec<&str> = self.arguments.iter().map(String::as_str).collect();
        arguments.extend(["--volume", "cloud:/var/www/html", "--publish", "127.0.0.1:8080:80", image]);
        self.beside("cloud", &arguments)
    }

    fn get(&self, path: &str) -> Result<Reply> {
        Http::new(self.engine.host()).limit(Duration::from_secs(30)).get(&format!("http://127.0.0.1:8080{path}"))
    }

    fn status(&self) -> Result<serde_json::Value> {
        let reply = self.get("/status.php")?;
        ensure!(reply.status == 200, "/status.php answers {}", reply.status);
        Ok(serde_json::from_slice(&reply.body)?)
    }

    fn wait_until_it_serves(&self, version: &str) -> Result<()> {
        let waited = wait_until(version, LIMIT, || {
            let status = self.status()?;
            ensure!(status["versionstring"] == version && status["needsDbUpgrade"] == false, "{status}");
            ensure!(self.get("/login")?.status == 200);
            Ok(true)
        });
        waited.with_context(|| self.log().unwrap_or_default()).map(drop)
    }

    /// The exit code of the container, once it has ended.
    fn ended(&self) -> Result<String> {
        Ok(self.engine.docker(&["wait", "cloud"])?.trim().to_owned())
    }

    fn log(&self) -> Result<String> {
        self.engine.host().exec(&["sh", "-c", "docker logs cloud 2>&1"])
    }

    fn occ(&self, words: &[&str]) -> Result<String> {
        let occ = ["exec", "--user", "www-data", "cloud", "php", "occ"];
        Ok(self.engine.docker(&[&occ[..], words].concat())?.trim().to_owned())
    }

    fn sql(&self, query: &str) -> Result<String> {
        let psql = ["exec", "postgres", "psql", "--username", "cloud", "--dbname", "cloud", "-Atc", query];
        Ok(self.engine.docker(&psql)?.trim().to_owned())
    }
}

fn with_postgres_and_redis() -> Result<(Lab, Engine)> {
    Lab::with_engine(&EngineOptions::default(), &[Wanted::NextcloudStandIn, Wanted::Postgres, Wanted::Redis])
}

const SETTINGS: [&str; 9] = [
    "POSTGRES_HOST=postgres",
    "POSTGRES_DB=cloud",
    "POSTGRES_USER=cloud",
    "POSTGRES_PASSWORD_FILE=/secret",
    "REDIS_HOST=redis",
    "REDIS_HOST_PASSWORD_FILE=/secret",
    "SMTP_HOST=mail.example.test",
    "MAIL_FROM_ADDRESS=cloud",
    "MAIL_DOMAIN=example.test",
];

fn start_services(cloud: &Cloud<'_>) -> Result<()> {
    let environment = ["--env", "POSTGRES_USER=cloud", "--env", "POSTGRES_PASSWORD=secret"];
    cloud.beside("postgres", &[&environment[..], &["postgres:15"]].concat())?;
    cloud.beside("redis", &["redis:7", "--requirepass", "secret"])
}

#[test]
fn nextcloud_with_postgres_and_redis_needs_both() -> Result<()> {
    if !capability::or_skip()? {
        return Ok(());
    }
    let (lab, engine) = with_postgres_and_redis()?;
    let cloud = Cloud::new(&lab, &engine, &SETTINGS)?;
    start_services(&cloud)?;
    cloud.start(OLD)?;
    cloud.wait_until_it_serves("32.0.1")?;

    // The role could make roles, so it made one, which owns everything.
    assert_eq!(cloud.occ(&["config:system:get", "dbuser"])?, "oc_admin");
    assert_eq!(cloud.sql("SELECT DISTINCT tableowner FROM pg_tables WHERE tablename LIKE 'oc\\_%'")?, "oc_admin");
    assert_eq!(cloud.occ(&["config:system:get", "mail_smtphost"])?, "mail.example.test");

    // One app can be had.
    assert_eq!(cloud.occ(&["app:install", "mail"])?, "mail 5.32.0 installed\nmail enabled");
    let list: serde_json::Value = serde_json::from_str(&cloud.occ(&["app:list", "--output=json"])?)?;
    assert_eq!(list["enabled"]["mail"], "5.32.0");
    assert!(cloud.occ(&["app:install", "mail"]).is_err(), "it is there");
    let asked = "docker exec --user www-data cloud php occ app:install talk; echo $?";
    let refused = engine.host().exec(&["sh", "-c", asked])?;
    assert!(refused.contains("Could not download app talk") && refused.trim().ends_with('1'), "{refused}");

    // Background jobs, in a container of their own.
    let volume = ["--volume", "cloud:/var/www/html", "--entrypoint", "/cron.sh"];
    cloud.beside("cron", &[&volume[..], &[OLD]].concat())?;
    engine.docker(&["exec", "--user", "www-data", "cron", "php", "/var/www/html/cron.php"])?;
    assert!(cloud.occ(&["config:app:get", "core", "lastcron"])?.parse::<u64>()? > 0);
    assert_eq!(cloud.occ(&["background:cron"])?, "Set mode for background jobs to 'cron'");
    assert_eq!(cloud.occ(&["config:app:get", "core", "backgroundjobs_mode"])?, "cron");

    engine.docker(&["stop", "redis"])?;
    wait_until("/login to miss Redis", LIMIT, || Ok(cloud.get("/login")?.status == 500))?;
    assert_eq!(cloud.get("/status.php")?.status, 200);
    engine.docker(&["start", "redis"])?;
    wait_until("/login", LIMIT, || Ok(cloud.get("/login")?.status == 200))?;
    engine.docker(&["stop", "postgres"])?;
    wait_until("/status.php to miss the database", LIMIT, || Ok(cloud.get("/status.php")?.status == 500))?;
    engine.docker(&["start", "postgres"])?;
    wait_until("/status.php", LIMIT, || Ok(cloud.get("/status.php")?.status == 200))?;
    Ok(())
}

#[test]
fn nextcloud_is_upgraded_one_major_version_at_a_time_and_never_back() -> Result<()> {
    if !capability::or_skip()? {
        return Ok(());
    }
    let (lab, engine) = with_postgres_and_redis()?;
    let cloud = Cloud::new(&lab, &engine, &SETTINGS)?;
    start_services(&cloud)?;
    cloud.start(OLD)?;
    cloud.wait_until_it_serves("32.0.1")?;
    cloud.occ(&["app:install", "mail"])?;

    cloud.start(AFTER_NEXT)?;
    assert_eq!(cloud.ended()?, "1");
    assert!(cloud.log()?.contains("only possible to upgrade one major version at a time"), "{}", cloud.log()?);
    cloud.start(PATCHED)?;
    cloud.wait_until_it_serves("32.0.2")?;
    cloud.start(OLD)?;
    assert_eq!(cloud.ended()?, "1");
    assert!(cloud.log()?.contains("downgrading is not supported"), "{}", cloud.log()?);
    cloud.start(NEXT)?;
    cloud.wait_until_it_serves("33.0.0")?;
    assert_eq!(cloud.sql("SELECT count(*) FROM oc_migrations")?, "3");
    assert!(cloud.occ(&["app:update", "--all"])?.contains("mail updated"));

    // What fails leaves everything as it is: neither the next start nor the image from before helps.
    cloud.start(BROKEN)?;
    assert_eq!(cloud.ended()?, "5");
    assert!(cloud.log()?.contains("Maintenance mode is kept active"), "{}", cloud.log()?);
    engine.docker(&["start", "cloud"])?;
    wait_until("the web server", LIMIT, || Ok(cloud.get("/status.php")?.status == 200))?;
    let status = cloud.status()?;
    assert!(status["maintenance"] == true && status["needsDbUpgrade"] == true, "{status}");
    assert_eq!(cloud.get("/login")?.status, 503);
    cloud.start(NEXT)?;
    assert_eq!(cloud.ended()?, "1");
    Ok(())
}

#[test]
fn nextcloud_with_mariadb_has_port_80_closed_while_it_installs_and_folders_of_its_own() -> Result<()> {
    if !capability::or_skip()? {
        return Ok(());
    }
    let (lab, engine) = Lab::with_engine(&EngineOptions::default(), &[Wanted::NextcloudStandIn, Wanted::Mariadb])?;
    let mut cloud = Cloud::new(
        &lab,
        &engine,
        &[
            "MYSQL_HOST=mariadb",
            "MYSQL_DATABASE=cloud",
            "MYSQL_USER=cloud",
            "MYSQL_PASSWORD_FILE=/secret",
            "NEXTCLOUD_STAND_IN_SLOW_SECONDS=6",
        ],
    )?;
    for folder in ["config", "data", "custom_apps", "themes"] {
        cloud.arguments.extend(["--volume".to_owned(), format!("{folder}:/var/www/html/{folder}")]);
    }
    let settings = ["ROOT_PASSWORD=x", "DATABASE=cloud", "USER=cloud", "PASSWORD=secret"];
    let settings = settings.map(|setting| format!("MARIADB_{setting}"));
    let arguments: Vec<&str> =
        settings.iter().flat_map(|setting| ["--env", setting]).chain(["mariadb:10.11"]).collect();
    cloud.beside("mariadb", &arguments)?;
    let ping = ["exec", "mariadb", "mariadb-admin", "--host", "127.0.0.1", "-ucloud", "-psecret", "ping"];
    wait_until("MariaDB", LIMIT, || Ok(engine.docker(&ping).is_ok()))?;

    cloud.start(OLD)?;
    wait_until("the installation", LIMIT, || Ok(cloud.log()?.contains("Starting nextcloud installation")))?;
    assert!(cloud.get("/status.php").is_err(), "port 80 is closed");
    cloud.wait_until_it_serves("32.0.1")?;
    assert_eq!(cloud.occ(&["config:system:get", "dbuser"])?, "cloud");
    let listed = engine.docker(&["exec", "cloud", "sh", "-c", "stat -c %U /var/www/html/*/ && ls config data"])?;
    assert!(!listed.contains("root") && listed.contains("config.php") && listed.contains("admin"), "{listed}");

    // Maintenance mode holds on the web only when the compiled configuration is read anew.
    let login = Http::new(engine.host());
    cloud.occ(&["maintenance:mode", "--on"])?;
    wait_until("maintenance mode on the web", LIMIT, || Ok(login.get("http://127.0.0.1:8080/login")?.status == 503))?;
    // On before an upgrade, on after it.
    cloud.start(PATCHED)?;
    wait_until("the upgrade", LIMIT, || Ok(cloud.status()?["versionstring"] == "32.0.2"))?;
    let status = cloud.status()?;
    assert!(status["maintenance"] == true && status["needsDbUpgrade"] == false, "{status}");
    Ok(())
}
