use std::path::Path;

use super::*;

fn checked(text: &str, role: Role) -> Result<Vec<Service>, Invalid> {
    let written: BTreeMap<String, ServiceSection> = toml::from_str(text).unwrap();
    check(written, role, Some("me@example.com"))
}

/// The only service that `text` makes at home.
fn one(text: &str) -> Service {
    checked(text, Role::Home).unwrap().remove(0)
}

/// What is said against `text`, with the key.
fn wrong(text: &str) -> String {
    let invalid = checked(text, Role::Home).unwrap_err();
    format!("{}: {}", invalid.key, invalid.reason)
}

fn file(dir: &Path, content: &str) -> String {
    let path = dir.join("secret");
    fs::write(&path, content).unwrap();
    path.display().to_string()
}

#[test]
fn a_kind_is_enough_for_nextcloud_and_ghost() {
    let nextcloud = one("[nextcloud]\nkind = \"nextcloud\"\n");
    assert_eq!((nextcloud.hostname.as_str(), nextcloud.port), ("cloud", 8080));
    let Kind::Nextcloud(settings) = nextcloud.kind else { panic!() };
    assert!(matches!(settings.database, Database::Own { .. }) && settings.previews);

    let ghost = checked("[blog]\nkind = \"ghost\"\n", Role::Edge).unwrap().remove(0);
    assert_eq!((ghost.hostname.as_str(), ghost.also.as_slice(), ghost.port), ("@", &["www".to_owned()][..], 2368));
    let Kind::Ghost(settings) = ghost.kind else { panic!() };
    assert_eq!(settings.owner_email, "me@example.com");
    let named = one("[blog]\nkind = \"ghost\"\nhostname = \"blog\"\n");
    assert!(named.also.is_empty());
}

#[test]
fn a_key_of_another_kind_is_refused_with_the_right_ones() {
    let text = wrong("[blog]\nkind = \"ghost\"\nadmin_user = \"me\"\n");
    assert!(
        text.starts_with("services.blog.admin_user: is no key of kind = \"ghost\"") && text.contains("title"),
        "{text}"
    );
    let text = wrong("[x]\nkind = \"external\"\naddress = \"192.168.1.5:80\"\nimage = \"x\"\n");
    assert!(text.contains("services.x.image") && text.contains("health_path"), "{text}");
}

#[test]
fn databases_elsewhere_need_everything_and_own_ones_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let password = file(dir.path(), "geheim\n");
    let external = |more: &str| format!("[n]\nkind = \"nextcloud\"\n[n.database]\naddress = \"db.lan\"\n{more}");
    let all = format!("kind = \"mariadb\"\nname = \"nc\"\nuser = \"me\"\npassword_file = {password:?}\n");
    let Kind::Nextcloud(settings) = one(&external(&all)).kind else { panic!() };
    let Database::External(database) = settings.database else { panic!() };
    assert_eq!(database.kind, ExternalKind::Mariadb);
    assert_eq!(secrecy::ExposeSecret::expose_secret(&database.password), "geheim");
    assert!(wrong(&external("")).contains("services.n.database.name: is missing"));
    assert!(
        wrong("[n]\nkind = \"nextcloud\"\n[n.database]\nuser = \"me\"\n").contains("belongs to a database elsewhere")
    );
    assert!(wrong("[n]\nkind = \"nextcloud\"\n[n.database]\nkind = \"oracle\"\n").contains("oracle"));
    assert!(
        wrong("[n]\nkind = \"ghost\"\n[n.database]\nkind = \"sqlite\"\nimage = \"x\"\n").contains("SQLite is a file")
    );
}

#[test]
fn files_with_secrets_are_read_and_missing_or_empty_ones_named() {
    let dir = tempfile::tempdir().unwrap();
    let empty = file(dir.path(), "\n");
    let mail = |path: &str| {
        format!(
            "[n]\nkind = \"nextcloud\"\n[n.mail]\nhost = \"smtp\"\nfrom = \"a@b.c\"\nuser = \"u\"\npassword_file = {path:?}\n"
        )
    };
    assert!(wrong(&mail(&empty)).contains("is empty"));
    assert!(wrong(&mail("/nonexistent/secret")).contains("services.n.mail.password_file: /nonexistent/secret"));
    assert!(wrong(&mail("secret")).contains("absolute"));
    let security = "[n]\nkind = \"nextcloud\"\n[n.mail]\nhost = \"smtp\"\nfrom = \"a@b.c\"\nsecurity = \"ssl\"\n";
    assert!(wrong(security).contains("\"starttls\""));
}

#[test]
fn a_container_says_what_it_needs() {
    let dir = tempfile::tempdir().unwrap();
    let secret = file(dir.path(), "geheim");
    let text = format!(
        "[vault]\nkind = \"container\"\nimage = \"vaultwarden/server:1.34.1\"\ncontainer_port = 80\nport = 8081\n\
         memory = \"512M\"\ncpus = 1.5\nhealth_path = \"/alive\"\nvolumes = {{ data = \"/data\" }}\n\
         env = {{ SIGNUPS_ALLOWED = \"false\" }}\nsecrets = {{ ADMIN_TOKEN = {secret:?} }}\n"
    );
    let service = one(&text);
    assert_eq!(service.hostname, "vault");
    let Kind::Container(settings) = service.kind else { panic!() };
    assert_eq!((settings.limits.memory, settings.limits.cpu_milli), (Some(512 << 20), Some(1500)));
    assert_eq!(settings.env["SIGNUPS_ALLOWED"], "false");
    assert_eq!(settings.health, Health::Http { path: "/alive".into(), status: 200 });
    let changed = |from: &str, to: &str| {
        assert!(text.contains(from), "{from}");
        wrong(&text.replacen(from, to, 1))
    };
    assert!(changed("port = 8081\n", "").contains("services.vault.port: is missing"));
    assert!(changed("container_port = 80\n", "").contains("services.vault.container_port"));
    assert!(changed("512M", "512").contains("512M or 2G"));
    assert!(changed("512M", "1M").contains("6M or more"));
    assert!(changed("1.5", "0").contains("services.vault.cpus"));
    assert!(changed("\"/data\"", "\"data\"").contains("services.vault.volumes.data"));
    assert!(changed("SIGNUPS_ALLOWED", "\"A-B\"").contains("variable"));
    assert!(changed("/alive", "alive").contains("begins with '/'"));
}

#[test]
fn an_external_service_has_a_port_at_home_and_none_on_the_edge() {
    let text = "[hub]\nkind = \"external\"\naddress = \"192.168.1.5:8123\"\n";
    assert!(wrong(text).contains("services.hub.port: is missing"));
    let edge = checked(text, Role::Edge).unwrap().remove(0);
    assert_eq!(edge.foreign_address(), Some("192.168.1.5".parse().unwrap()));
    assert!(checked(&format!("{text}port = 1\n"), Role::Edge).is_err());
    assert_eq!(one(&format!("{text}port = 8123\n")).foreign_address(), None);
    assert!(wrong("[hub]\nkind = \"external\"\naddress = \"hub.lan\"\nport = 1\n").contains("ADDRESS:PORT"));
}

#[test]
fn services_do_not_get_into_each_others_way() {
    let two = |first: &str, second: &str| {
        let service = |name: &str, more: &str| format!("[{name}]\nkind = \"nextcloud\"\n{more}\n");
        checked(&(service("a", first) + &service("b", second)), Role::Home).map(|services| services.len())
    };
    assert_eq!(two("", "port = 8082\nhostname = \"b\"").unwrap(), 2);
    assert_eq!(two("", "hostname = \"b\"").unwrap_err().key, "services.b.port");
    assert_eq!(two("", "port = 8082").unwrap_err().key, "services.b.hostname");
    let text = "[a]\nkind = \"nextcloud\"\n[a-db]\nkind = \"nextcloud\"\nport = 1\nhostname = \"x\"\n";
    assert!(wrong(text).contains("services.a-db: begins as names of containers of services.a"));
    assert!(wrong("[caddy]\nkind = \"nextcloud\"\n").contains("name of the ingress"));
}

#[test]
fn images_are_named_as_an_engine_understands() {
    for image in [
        "nextcloud:34.0.4-apache",
        "registry.example.com:5000/team/ghost",
        "ghost@sha256:0a1b",
        "caddy:2@sha256:0a1b",
        "sha256:0a1b2c",
    ] {
        assert!(is_reference(image), "{image}");
    }
    for image in ["", "Nextcloud:34", "ghost:", "ghost:a b", "ghost@", "gh ost", ":1"] {
        assert!(!is_reference(image), "{image}");
    }
    assert!(wrong("[a]\nkind = \"nextcloud\"\nimage = \"Nextcloud:34\"\n").contains("in lower case"));
}

#[test]
fn upgrades_by_themselves_have_a_policy_and_a_window() {
    let of = |text: &str| one(&format!("[n]\nkind = \"nextcloud\"\n{text}")).upgrades;
    assert_eq!(of(""), Rule::default());
    let rule = of("[n.upgrades]\npolicy = \"patch\"\nwindow = \"Sun 04:00-05:30\"\n");
    assert_eq!((rule.policy, rule.window.to_string().as_str()), (Policy::Patch, "Sun 04:00-05:30"));
    assert_eq!(of("[n.upgrades]\npolicy = \"minor\"\n").window.to_string(), "03:00-05:00");

    let text = wrong("[n]\nkind = \"ghost\"\nupgrades = { policy = \"major\" }\n");
    assert!(text.starts_with("services.n.upgrades.policy: \"major\" is not known"), "{text}");
    let text = wrong("[n]\nkind = \"ghost\"\nupgrades = { window = \"at night\" }\n");
    assert!(text.starts_with("services.n.upgrades.window: ") && text.contains("03:00-05:00"), "{text}");
    let text = wrong("[n]\nkind = \"external\"\naddress = \"10.0.0.1:80\"\nupgrades = { policy = \"patch\" }\n");
    assert!(text.starts_with("services.n.upgrades: is no key of kind"), "{text}");
}

#[test]
fn an_image_may_be_pinned_by_its_digest() {
    let digest = "sha256:9a01cd2ffbb5b4be6b4a4e1b8ab2fdb3b1f6a4cb29bd1a2a5d2c9e1f0a3b4c5d";
    for image in
        [format!("ghost:6.53.0@{digest}"), format!("ghost@{digest}"), format!("r.example:5000/me/ghost:6@{digest}")]
    {
        let Kind::Ghost(settings) = one(&format!("[n]\nkind = \"ghost\"\nimage = {image:?}\n")).kind else { panic!() };
        assert_eq!(settings.image, image);
    }
}

#[test]
fn who_is_asked_about_visitors_must_be_there() {
    let asking = "[x]\nkind = \"container\"\nimage = \"x:1\"\nport = 8081\ncontainer_port = 80\n\
                  [x.ingress]\nforward_auth = { service = \"auth\", uri = \"/verify\" }\n";
    assert_eq!(wrong(asking), "services.x.ingress.forward_auth.service: there is no services.auth on this host");
    let auth = "[auth]\nkind = \"external\"\naddress = \"192.168.1.5:9091\"\nport = 9091\n";
    assert_eq!(checked(&format!("{asking}{auth}"), Role::Home).unwrap().len(), 2);
}
