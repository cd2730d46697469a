use super::super::MailLogin;
use super::super::tests::{assert_sound, place};
use super::*;

fn secret(text: &str) -> SecretString {
    text.to_owned().into()
}

fn secrets() -> NextcloudSecrets {
    NextcloudSecrets {
        admin: secret("geheim-a"),
        redis: secret("geheim-b"),
        database: secret("geheim-c"),
        database_admin: secret("geheim-d"),
    }
}

fn settings() -> NextcloudSettings {
    NextcloudSettings {
        image: "nextcloud:34.0.4-apache".into(),
        redis_image: "redis:7".into(),
        admin_user: "admin".into(),
        database: Database::Own { image: "postgres:17".into() },
        object_store: None,
        phone_region: Some("DE".into()),
        mail: None,
        apps: vec!["mail".into(), "photos".into()],
        previews: true,
    }
}

fn spec(settings: &NextcloudSettings) -> ServiceSpec {
    let spec = nextcloud(settings, &secrets(), &place("nextcloud", "cloud.example.com"));
    assert_sound(&spec, "geheim");
    spec
}

fn unit<'a>(spec: &'a ServiceSpec, name: &str) -> &'a Unit {
    spec.units.iter().find(|unit| unit.container.name == name).unwrap()
}

#[test]
fn the_order_is_database_cache_application_cron() {
    let spec = spec(&settings());
    let names: Vec<&str> = spec.units.iter().map(|unit| unit.container.name.as_str()).collect();
    assert_eq!(names, ["nextcloud-db", "nextcloud-redis", "nextcloud", "nextcloud-cron"]);
    assert_eq!(unit(&spec, "nextcloud").needs, ["nextcloud-db", "nextcloud-redis"]);
    assert_eq!(unit(&spec, "nextcloud-cron").needs, ["nextcloud"]);
    assert!(unit(&spec, "nextcloud-cron").container.command[1].starts_with("/cron.sh &"));
    assert_eq!(unit(&spec, "nextcloud-cron").container.mounts, unit(&spec, "nextcloud").container.mounts);
}

#[test]
fn people_s_files_are_on_a_volume_that_is_never_copied() {
    let spec = spec(&settings());
    let kind = |name: &str| spec.volumes.iter().find(|volume| volume.name == name).unwrap().kind;
    assert_eq!(kind("cloudathome-nextcloud"), VolumeKind::State);
    assert_eq!(kind("cloudathome-nextcloud-data"), VolumeKind::Data);
    assert_eq!(kind("cloudathome-nextcloud-db"), VolumeKind::Database);
    assert_eq!(kind("cloudathome-nextcloud-dumps"), VolumeKind::Scratch);
}

#[test]
fn the_name_is_told_for_install_and_for_run_time() {
    let spec = spec(&settings());
    let env = &unit(&spec, "nextcloud").container.env;
    assert_eq!(env["NEXTCLOUD_TRUSTED_DOMAINS"], "cloud.example.com");
    assert_eq!(env["OVERWRITEHOST"], "cloud.example.com");
    assert_eq!(env["OVERWRITECLIURL"], "https://cloud.example.com");
    assert_eq!(env["OVERWRITEPROTOCOL"], "https");
    assert_eq!(env["TRUSTED_PROXIES"], "10.86.0.1");
    assert_eq!((env["APACHE_BODY_LIMIT"].as_str(), env["PHP_UPLOAD_LIMIT"].as_str()), ("0", "16G"));
    assert_eq!((env["POSTGRES_HOST"].as_str(), env["POSTGRES_DB"].as_str()), ("db", "nextcloud"));
    let cron = &unit(&spec, "nextcloud-cron").container.env;
    assert!(cron.contains_key("REDIS_HOST_PASSWORD_FILE") && !cron.contains_key("NEXTCLOUD_ADMIN_USER"));
}

#[test]
fn every_file_that_the_environment_names_is_there_for_php() {
    let full = NextcloudSettings {
        mail: Some(Mail {
            host: "smtp.example.com".into(),
            port: 465,
            security: MailSecurity::Tls,
            login: Some(MailLogin { user: "me".into(), password: secret("geheim-e") }),
            from: "cloud@example.com".into(),
        }),
        object_store: Some(ObjectStore {
            bucket: "files".into(),
            host: Some("s3.example.com".into()),
            port: None,
            region: None,
            tls: true,
            path_style: true,
            key: secret("geheim-f"),
            secret: secret("geheim-g"),
        }),
        ..settings()
    };
    let spec = spec(&full);
    for name in ["nextcloud", "nextcloud-cron"] {
        let container = &unit(&spec, name).container;
        for (_, path) in container.env.iter().filter(|(variable, _)| variable.ends_with("_FILE")) {
            let file = container.secrets.iter().find(|file| file.path.to_str() == Some(path)).unwrap();
            assert_eq!(file.uid, 33);
        }
        assert_eq!(
            (container.env["MAIL_FROM_ADDRESS"].as_str(), container.env["SMTP_SECURE"].as_str()),
            ("cloud", "ssl")
        );
    }
}

#[test]
fn both_the_status_and_the_page_that_needs_redis_are_asked() {
    let spec = spec(&settings());
    let paths: Vec<&str> = spec
        .checks
        .iter()
        .map(|check| match &check.probe {
            Probe::Http(probe) => probe.path.as_str(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(paths, ["/status.php", "/login"]);
}

#[test]
fn apps_and_settings_are_set_up() {
    let spec = spec(&settings());
    let what: Vec<&str> = spec.setup.iter().map(|hook| hook.what.as_str()).collect();
    assert_eq!(what, ["bringing Nextcloud's settings in line", "installing the app mail", "installing the app photos"]);
    assert_eq!(spec.setup[0].command[3..], ["sh", "cloud.example.com", "true", "DE"]);
    assert!(spec.setup.iter().all(|hook| hook.user == "www-data"));
}

#[test]
fn a_database_is_saved_where_it_is() {
    let own = spec(&settings()).upgrade.unwrap();
    assert_eq!(own.units, ["nextcloud", "nextcloud-cron"]);
    assert_eq!(own.databases[0].container, "nextcloud-db");
    let external = NextcloudSettings {
        database: Database::External(ExternalDatabase {
            kind: ExternalKind::Mariadb,
            address: "db.lan:3307".into(),
            name: "nc".into(),
            user: "nc".into(),
            password: secret("geheim-h"),
            image: "mariadb:11.4".into(),
        }),
        ..settings()
    };
    let spec = spec(&external);
    let names: Vec<&str> = spec.units.iter().map(|unit| unit.container.name.as_str()).collect();
    assert_eq!(names, ["nextcloud-redis", "nextcloud-dbclient", "nextcloud", "nextcloud-cron"]);
    assert_eq!(unit(&spec, "nextcloud").needs, ["nextcloud-redis"]);
    assert_eq!(spec.upgrade.as_ref().unwrap().databases[0].container, "nextcloud-dbclient");
    let env = &unit(&spec, "nextcloud").container.env;
    assert_eq!((env["MYSQL_HOST"].as_str(), env["MYSQL_DATABASE"].as_str()), ("db.lan:3307", "nc"));
    assert!(!env.contains_key("POSTGRES_HOST"));
}
