//! Nextcloud as the agents define it. `IMAGE` names its first image, `PORT` where it answers, and `DATABASE` a database
//! elsewhere, as in `mariadb 192.0.2.1:3306`, whose name and user are `nc`.

use model::ServiceSpec;
use supervisor::apps::{
    Database, ExternalDatabase, ExternalKind, NextcloudSecrets, NextcloudSettings, Place, nextcloud,
};

use super::Error;

/// The password of the user of a database elsewhere: of signs that have a meaning in one file or another.
const PASSWORD: &str = "pa:ss\"wo#rd";

pub(crate) fn spec(name: &str) -> Result<ServiceSpec, Error> {
    let variable = |name: &str, usual: &str| std::env::var(name).unwrap_or_else(|_| usual.to_owned());
    let database = match std::env::var("DATABASE") {
        Err(_) => Database::Own { image: "postgres:15".into() },
        Ok(text) => {
            let (kind, address) = text.split_once(' ').ok_or("DATABASE=KIND ADDRESS")?;
            let (kind, image) = match kind {
                "mariadb" => (ExternalKind::Mariadb, "mariadb:10.11"),
                _ => (ExternalKind::Postgresql, "postgres:15"),
            };
            Database::External(ExternalDatabase {
                kind,
                address: address.into(),
                name: "nc".into(),
                user: "nc".into(),
                password: PASSWORD.to_owned().into(),
                image: image.into(),
            })
        }
    };
    let settings = NextcloudSettings {
        image: variable("IMAGE", "nextcloud:32.0.1-apache"),
        redis_image: "redis:7".into(),
        admin_user: "admin".into(),
        database,
        object_store: None,
        phone_region: None,
        mail: None,
        apps: Vec::new(),
        previews: true,
    };
    let secret = |text: &str| text.to_owned().into();
    let secrets = NextcloudSecrets {
        admin: secret("admin-secret"),
        redis: secret("redis-secret"),
        database: secret("database-secret"),
        database_admin: secret("database-admin-secret"),
    };
    let place = Place {
        service: name.parse()?,
        hostname: "cloud.example.com".parse()?,
        bind: format!("127.0.0.1:{}", variable("PORT", "8080")).parse()?,
        trusted_proxies: Vec::new(),
    };
    Ok(nextcloud(&settings, &secrets, &place))
}
