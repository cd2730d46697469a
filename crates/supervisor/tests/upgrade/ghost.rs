//! The real Ghost: what was written is there after an upgrade and after the way back.

use lab::images::Wanted;
use lab::{Engine, EngineOptions, Lab};

use crate::agent::Agent;

const SITE: &str = "http://127.0.0.1:2368";
const OWNER: &str =
    r#"{"setup":[{"name":"Ann","email":"ann@example.test","password":"a-long-passphrase-1","blogTitle":"Kept"}]}"#;
const LOGIN: &str = r#"{"username":"ann@example.test","password":"a-long-passphrase-1"}"#;

fn curl(engine: &Engine, path: &str, arguments: &[&str]) -> String {
    let url = format!("{SITE}{path}");
    let usual = ["curl", "--silent", "--show-error", "--fail", "--max-time", "60", "--cookie-jar", "/tmp/jar"];
    let session = ["--cookie", "/tmp/jar", "--header", "Origin: http://127.0.0.1:2368"];
    engine.host().exec(&[&usual[..], &session, arguments, &[&url]].concat()).unwrap()
}

fn send(engine: &Engine, path: &str, json: &str) {
    curl(engine, path, &["--header", "Content-Type: application/json", "--data", json]);
}

fn writes(engine: &Engine, title: &str) {
    send(engine, "/ghost/api/admin/session/", LOGIN);
    let post = format!(r#"{{"posts":[{{"title":"{title}","status":"published","html":"<p>It is {title}</p>"}}]}}"#);
    send(engine, "/ghost/api/admin/posts/?source=html", &post);
}

#[test]
fn a_post_is_there_after_an_upgrade_and_after_the_way_back() {
    if !lab::capability::or_skip().unwrap() {
        return;
    }
    let wanted = [Wanted::Ghost, Wanted::NewerGhost];
    let (_lab, engine) = Lab::with_engine(&EngineOptions::default(), &wanted).unwrap();
    let mut agent = Agent::start(&engine, "ghost", None);
    agent.installs();
    send(&engine, "/ghost/api/admin/authentication/setup/", OWNER);
    writes(&engine, "before");

    agent.keeps_people_out("upgrade 6.65.0", "upgraded to ghost:6.65.0");
    assert!(curl(&engine, "/before/", &[]).contains("It is before"));
    assert!(curl(&engine, "/", &[]).contains("Ghost 6.65"));
    writes(&engine, "after");
    assert!(curl(&engine, "/after/", &[]).contains("It is after"));

    // A migration can't be undone by an older image alone.
    agent.tell("upgrade 6.53.0");
    assert!(agent.hears("refused: ").contains("6.53.0 is older than 6.65.0"));
    agent.keeps_people_out("rollback", "went back to ghost:6.53.0");
    agent.is_healthy();
    assert!(curl(&engine, "/", &[]).contains("Ghost 6.53"));
    assert!(curl(&engine, "/before/", &[]).contains("It is before"));
    let gone = engine.host().exec(&["curl", "--silent", "--write-out", "%{http_code}", &format!("{SITE}/after/")]);
    assert!(gone.unwrap().ends_with("404"), "the database is the one that was saved");
    writes(&engine, "again");

    // Killed while the new release migrates.
    drop(agent);
    let mut mortal = Agent::start(&engine, "ghost", Some(12));
    mortal.is_healthy();
    mortal.tell("upgrade 6.65.0");
    let point = mortal.dies_before("Closed").unwrap();
    assert!(point.ends_with("Written(Settle)"), "{point}");
    let mut next = Agent::start(&engine, "ghost", None);
    assert!(next.last().starts_with("upgraded to ghost:6.65.0"));
    next.is_healthy();
    for title in ["before", "again"] {
        assert!(curl(&engine, &format!("/{title}/"), &[]).contains(&format!("It is {title}")));
    }
}
