//! The image of Ghost keeps to what the official one promises, with SQLite and with MariaDB, and can be upgraded.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::images::Wanted;
use lab::{Engine, EngineOptions, Lab, capability, wait_until};

/// The first start on a loaded machine.
const LIMIT: Duration = Duration::from_secs(180);
const SETUP: &str = "http://127.0.0.1:2368/ghost/api/admin/authentication/setup/";
const OWNER: &str =
    r#"{"setup":[{"name":"Ann","email":"ann@example.test","password":"a-long-passphrase-1","blogTitle":"Kept"}]}"#;

fn start(engine: &Engine, image: &str, arguments: &[&str]) -> Result<()> {
    let usual = ["run", "--detach", "--pull", "never", "--name", "ghost", "--publish", "127.0.0.1:2368:2368"];
    let volume = ["--volume", "ghost:/var/lib/ghost/content", "--env", "url=http://127.0.0.1:2368"];
    engine.docker(&[&usual[..], &volume, arguments, &[image]].concat()).map(drop)
}

/// What the page that needs the database answers, once it does.
fn setup_state(engine: &Engine) -> Result<String> {
    let mut answer = String::new();
    let waited = wait_until("Ghost", LIMIT, || {
        answer = engine.host().exec(&["curl", "--silent", "--show-error", "--fail", "--max-time", "10", SETUP])?;
        Ok(true)
    });
    waited.with_context(|| {
        engine.host().exec(&["sh", "-c", "docker logs --tail 30 ghost 2>&1"]).unwrap_or_else(|error| error.to_string())
    })?;
    Ok(answer)
}

fn set_up(engine: &Engine) -> Result<()> {
    let curl = ["curl", "--silent", "--show-error", "--fail", "--max-time", "60", "--data", OWNER];
    let answer = engine.host().exec(&[&curl[..], &["--header", "Content-Type: application/json", SETUP]].concat())?;
    ensure!(answer.contains("ann@example.test"), "{answer}");
    Ok(())
}

#[test]
fn ghost_on_sqlite_keeps_its_content_through_an_upgrade() -> Result<()> {
    if !capability::or_skip()? {
        return Ok(());
    }
    let (_lab, engine) = Lab::with_engine(&EngineOptions::default(), &[Wanted::Ghost, Wanted::NewerGhost])?;
    let sqlite = [
        "--env",
        "database__client=sqlite3",
        "--env",
        "database__connection__filename=/var/lib/ghost/content/data/ghost.db",
        "--env",
        "database__useNullAsDefault=true",
    ];
    start(&engine, "ghost:6.53.0", &sqlite)?;
    assert!(setup_state(&engine)?.contains(r#""status":false"#));
    set_up(&engine)?;
    let user =
        engine.docker(&["exec", "ghost", "stat", "-c", "%u", "/proc/1", "/var/lib/ghost/content/data/ghost.db"])?;
    assert_eq!(user, "1000\n1000\n");
    let theme = engine.docker(&["exec", "ghost", "readlink", "-f", "/var/lib/ghost/content/themes/source"])?;
    assert_eq!(theme.trim(), "/var/lib/ghost/versions/6.53.0/content/themes/source");
    engine.docker(&["exec", "--user", "0", "ghost", "touch", "/var/lib/ghost/content/images/foreign"])?;
    engine.docker(&["rm", "--force", "ghost"])?;

    start(&engine, "ghost:6.65.0", &sqlite)?;
    assert!(setup_state(&engine)?.contains(r#""status":true"#));
    let page = engine.host().exec(&["curl", "--silent", "--show-error", "--fail", "http://127.0.0.1:2368/"])?;
    assert!(page.contains("Kept") && page.contains("Ghost 6.65"), "{page}");
    // What came to the volume from elsewhere is given to the user who reads it.
    let owner = engine.docker(&["exec", "ghost", "stat", "-c", "%u", "/var/lib/ghost/content/images/foreign"])?;
    assert_eq!(owner.trim(), "1000");
    Ok(())
}

#[test]
fn ghost_on_mariadb_ends_without_its_database_and_starts_with_it() -> Result<()> {
    if !capability::or_skip()? {
        return Ok(());
    }
    let (_lab, engine) = Lab::with_engine(&EngineOptions::default(), &[Wanted::Mariadb, Wanted::NewerGhost])?;
    engine.docker(&["network", "create", "blog"])?;
    let arguments = ["--network", "blog", "--env", "database__connection__password=secret"];
    start(&engine, "ghost:6.65.0", &arguments)?;
    let code = engine.docker(&["wait", "ghost"])?;
    assert_eq!(code.trim(), "2", "no database");

    let database = ["run", "--detach", "--pull", "never", "--name", "mysql", "--network", "blog"];
    engine.docker(&[&database[..], &["--env", "MYSQL_ROOT_PASSWORD=secret", "mysql:8"]].concat())?;
    let ping = ["exec", "mysql", "mariadb-admin", "--host", "127.0.0.1", "--password=secret", "ping"];
    wait_until("MariaDB", LIMIT, || Ok(engine.docker(&ping).is_ok()))?;
    engine.docker(&["start", "ghost"])?;
    assert!(setup_state(&engine)?.contains(r#""status":false"#));
    set_up(&engine)?;
    assert!(setup_state(&engine)?.contains(r#""status":true"#));
    Ok(())
}
