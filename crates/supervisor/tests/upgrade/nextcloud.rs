//! Nextcloud's way of upgrading, with PostgreSQL: its entry point refuses what can't be, and a migration that failed is
//! undone only by volume and database together.

use lab::images::Wanted;
use lab::{Engine, EngineOptions, Lab};

use crate::agent::Agent;

fn dav(engine: &Engine, arguments: &[&str], file: &str) -> String {
    let url = format!("http://127.0.0.1:8080/remote.php/dav/files/admin/{file}");
    let usual = ["curl", "--silent", "--show-error", "--fail", "--max-time", "30", "--user", "admin:admin-secret"];
    engine.host().exec(&[&usual[..], arguments, &[&url]].concat()).unwrap()
}

fn version(engine: &Engine) -> String {
    let page = engine.host().exec(&["curl", "--silent", "--fail", "http://127.0.0.1:8080/status.php"]).unwrap();
    let status: serde_json::Value = serde_json::from_str(&page).unwrap();
    status["versionstring"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn a_failed_upgrade_is_undone_whole_and_wrong_ways_are_refused() {
    if !lab::capability::or_skip().unwrap() {
        return;
    }
    let wanted = [Wanted::NextcloudStandIn, Wanted::Postgres];
    let (_lab, engine) = Lab::with_engine(&EngineOptions::default(), &wanted).unwrap();
    let mut agent = Agent::start(&engine, "nextcloud", None);
    agent.is_healthy();
    assert_eq!(version(&engine), "32.0.1");
    dav(&engine, &["--upload-file", "/etc/hostname"], "first");

    agent.tell("upgrade 34.0.0-apache");
    assert!(agent.hears("refused: ").contains("leaves a major version out; go to 33.x first"));
    agent.tell("upgrade 31.0.0-apache");
    assert!(agent.hears("refused: ").contains("31.0.0 is older than 32.0.1"));
    // What the tag does not say the image does.
    engine.docker(&["tag", "nextcloud:34.0.0-apache", "nextcloud:newest"]).unwrap();
    let refused = agent.carries_out("upgrade newest");
    assert!(refused.contains("stays at") && refused.contains("from 32.0.1 to 34.0.0"), "{refused}");

    agent.keeps_people_out("upgrade 32.0.2-apache", "upgraded to nextcloud:32.0.2-apache");
    agent.keeps_people_out("upgrade 33.0.0-apache", "upgraded to nextcloud:33.0.0-apache");
    assert_eq!(version(&engine), "33.0.0");
    dav(&engine, &["--upload-file", "/etc/hostname"], "second");

    // Its migration fails and leaves the maintenance mode on.
    let failed = agent.carries_out("upgrade 34.0.9-apache");
    assert!(failed.contains("went back to nextcloud:33.0.0-apache"), "{failed}");
    agent.is_healthy();
    assert_eq!(version(&engine), "33.0.0");
    for file in ["first", "second"] {
        dav(&engine, &[], file);
    }

    agent.keeps_people_out("rollback", "went back to nextcloud:32.0.2-apache");
    assert_eq!(version(&engine), "32.0.2");
    dav(&engine, &[], "first");
    let kept = engine.docker(&["exec", "cloudathome-nextcloud", "find", "/var/www/html/data/admin/files"]).unwrap();
    assert!(kept.contains("second"), "what people put in is never taken back: {kept}");
}
