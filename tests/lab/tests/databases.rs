//! The images of databases keep to what the official ones promise.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};
use lab::images::Wanted;
use lab::{Engine, EngineOptions, Lab, capability, wait_until};

const LIMIT: Duration = Duration::from_secs(60);
const PASSWORD: &str = "it's \"a\" $word\\";

/// Runs `image` as a container of that name with `arguments` before the image's name and a secret at `/run/secrets/p`.
fn run(lab: &Lab, engine: &Engine, name: &str, image: &str, arguments: &[&str], command: &[&str]) -> Result<()> {
    let secret = lab.dir().join("files/secret");
    fs::write(&secret, PASSWORD)?;
    let mount = format!("{}:/run/secrets/p:ro", secret.display());
    let volume = format!("type=volume,source={name},target={}", data_of(name));
    let start = ["run", "--detach", "--pull", "never", "--name", name, "--volume", &mount, "--mount", &volume];
    engine.docker(&[&start[..], arguments, &[image], command].concat()).map(drop)
}

fn data_of(name: &str) -> &'static str {
    match name {
        "postgres" => "/var/lib/postgresql/data",
        "redis" => "/data",
        _ => "/var/lib/mysql",
    }
}

fn wait_for(engine: &Engine, name: &str, question: &[&str], answer: &str) -> Result<()> {
    let asked = [&["exec", name], question].concat();
    wait_until(&format!("{answer} from {name}"), LIMIT, || {
        let said = engine.docker(&asked)?;
        anyhow::ensure!(said.trim() == answer, "{said}");
        Ok(true)
    })
    .with_context(|| log_of(engine, name).unwrap_or_default())
    .map(drop)
}

/// All that it has printed.
fn log_of(engine: &Engine, name: &str) -> Result<String> {
    engine.host().exec(&["sh", "-c", &format!("docker logs {name} 2>&1")])
}

/// The user that the first process runs as.
fn user_of(engine: &Engine, name: &str) -> Result<String> {
    let status = engine.docker(&["exec", name, "cat", "/proc/1/status"])?;
    let line = status.lines().find_map(|line| line.strip_prefix("Uid:")).context("find the user")?;
    Ok(line.split_whitespace().next().unwrap_or_default().to_owned())
}

fn config_of(engine: &Engine, image: &str, field: &str) -> Result<String> {
    Ok(engine.docker(&["inspect", "--format", &format!("{{{{json .Config.{field}}}}}"), image])?.trim().to_owned())
}

#[test]
fn postgres_starts_as_the_official_image_does() -> Result<()> {
    if !capability::or_skip()? {
        return Ok(());
    }
    let (lab, engine) = Lab::with_engine(&EngineOptions::default(), &[Wanted::Postgres])?;
    assert_eq!(config_of(&engine, "postgres:15", "StopSignal")?, "\"SIGINT\"");
    let environment = ["POSTGRES_USER=app", "POSTGRES_DB=things", "POSTGRES_PASSWORD_FILE=/run/secrets/p"];
    let mut arguments = vec!["--env", "POSTGRES_INITDB_ARGS=--data-checksums '--encoding=UTF8'"];
    arguments.extend(environment.iter().flat_map(|setting| ["--env", setting]));
    run(&lab, &engine, "postgres", "postgres:15", &arguments, &[])?;

    // Over the network, as another container asks. The temporary server of the first start listens to no network.
    let ask = r#"PGPASSWORD="$(cat /run/secrets/p)" psql --host "$(hostname)" -U app -d things -Atc"#;
    let query = |sql: &str| format!("{ask} {sql:?}");
    wait_for(&engine, "postgres", &["sh", "-c", &query("SHOW data_checksums")], "on")?;
    assert_eq!(user_of(&engine, "postgres")?, "999");
    engine.docker(&["exec", "postgres", "pg_isready", "--username", "app"])?;
    let wrong = format!("PGPASSWORD=wrong {}", &ask[ask.find("psql").context("psql")?..]);
    assert!(engine.docker(&["exec", "postgres", "sh", "-c", &format!("{wrong} 'SELECT 1'")]).is_err());
    engine.docker(&["exec", "postgres", "sh", "-c", &query("CREATE TABLE kept (n int)")])?;

    // Stopped quickly and cleanly by its own signal; the next start keeps what is there.
    engine.docker(&["restart", "postgres"])?;
    wait_for(&engine, "postgres", &["sh", "-c", &query("SELECT count(*) FROM kept")], "0")?;
    let log = log_of(&engine, "postgres")?;
    assert!(log.contains("PostgreSQL init process complete; ready for start up."), "{log}");
    assert!(log.contains("Skipping initialization"), "{log}");
    assert!(log.contains("received fast shutdown request") && !log.contains("recovery"), "{log}");

    // No password: it says so and ends.
    let refused = engine.docker(&["run", "--rm", "--pull", "never", "postgres:15"]).expect_err("no password");
    assert!(format!("{refused:#}").contains("superuser password is not specified"), "{refused:#}");
    Ok(())
}

#[test]
fn mariadb_starts_as_the_official_image_does() -> Result<()> {
    if !capability::or_skip()? {
        return Ok(());
    }
    let (lab, engine) = Lab::with_engine(&EngineOptions::default(), &[Wanted::Mariadb])?;
    for (prefix, image) in [("MARIADB", "mariadb:10.11"), ("MYSQL", "mysql:8")] {
        let name = prefix.to_lowercase();
        let settings =
            ["ROOT_PASSWORD_FILE=/run/secrets/p", "PASSWORD_FILE=/run/secrets/p", "DATABASE=my_app", "USER=app"];
        let settings = settings.map(|setting| format!("{prefix}_{setting}"));
        let arguments: Vec<&str> = settings.iter().flat_map(|setting| ["--env", setting]).collect();
        run(&lab, &engine, &name, image, &arguments, &[])?;

        let ask = |user: &str| format!(r#"MYSQL_PWD="$(cat /run/secrets/p)" mysql -h "$(hostname)" -u {user} -Ne"#);
        let query = |user: &str, sql: &str| format!("{} {sql:?}", ask(user));
        wait_for(&engine, &name, &["sh", "-c", &query("app", "SELECT DATABASE() IS NULL")], "1")?;
        assert_eq!(user_of(&engine, &name)?, "999");
        engine.docker(&["exec", &name, "sh", "-c", &query("app", "CREATE TABLE my_app.kept (n int)")])?;
        engine.docker(&["exec", &name, "sh", "-c", &query("root", "CREATE DATABASE other")])?;
        assert!(engine.docker(&["exec", &name, "sh", "-c", &query("app", "CREATE TABLE other.t (n int)")]).is_err());

        for host in ["127.0.0.1", "localhost"] {
            let ask = |password: &str| format!("MYSQL_PWD={password} mysql -h {host} -u root -Ne 'SELECT 1'");
            engine.docker(&["exec", &name, "sh", "-c", &ask("\"$(cat /run/secrets/p)\"")])?;
            assert!(engine.docker(&["exec", &name, "sh", "-c", &ask("''")]).is_err(), "{host}: without a password");
        }

        engine.docker(&["restart", &name])?;
        wait_for(&engine, &name, &["sh", "-c", &query("app", "SELECT COUNT(*) FROM my_app.kept")], "0")?;
        engine.docker(&["exec", &name, "sh", "-c", "command -v mariadb-dump mysqldump mariadb-admin"])?;
        let log = log_of(&engine, &name)?;
        assert!(log.contains("MariaDB init process done. Ready for start up."), "{log}");
        assert!(log.contains("Normal shutdown") && !log.contains("crash recovery"), "{log}");
        engine.docker(&["rm", "--force", &name])?;

        let refused = engine.docker(&["run", "--rm", "--pull", "never", image]).expect_err("no password");
        assert!(format!("{refused:#}").contains("password option is not specified"), "{refused:#}");
    }
    Ok(())
}

#[test]
fn redis_starts_as_the_official_image_does() -> Result<()> {
    if !capability::or_skip()? {
        return Ok(());
    }
    let (lab, engine) = Lab::with_engine(&EngineOptions::default(), &[Wanted::Redis])?;
    let settings = lab.dir().join("files/redis.conf");
    fs::write(&settings, "requirepass secret\nsave 60 1\n")?;
    let mount = format!("{}:/etc/redis.conf:ro", settings.display());
    run(
        &lab,
        &engine,
        "redis",
        "redis:7",
        &["--volume", &mount],
        &["redis-server", "/etc/redis.conf", "--appendonly", "yes"],
    )?;
    let ask = |words: &str| format!("redis-cli -h \"$(hostname)\" {words}");
    wait_for(&engine, "redis", &["sh", "-c", &ask("-a secret --no-auth-warning set kept 1")], "OK")?;
    assert_eq!(user_of(&engine, "redis")?, "999");
    wait_for(&engine, "redis", &["sh", "-c", &ask("ping")], "NOAUTH Authentication required.")?;
    engine.docker(&["restart", "redis"])?;
    wait_for(&engine, "redis", &["sh", "-c", &ask("-a secret --no-auth-warning get kept")], "1")?;
    engine.docker(&["rm", "--force", "redis"])?;

    // Other containers may ask although there is no password.
    run(&lab, &engine, "redis", "redis:7", &[], &[])?;
    wait_for(&engine, "redis", &["sh", "-c", &ask("ping")], "PONG")?;
    Ok(())
}
