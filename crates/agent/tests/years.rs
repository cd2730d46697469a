//! An edge with an authority and a home through the whole life of that authority, day by day, with a clock that is told.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use agent::Renewal;
use authority::code::Place;
use authority::{Authority, Enrolled};
use control::Successor;
use model::Role;
use pki::{CertificateRequest, HostIdentity, Identity, PrivateKey, Revoked, Serial, Validity, certificate_der, file};

const DAY: Duration = Duration::from_secs(86_400);
const YEAR: u32 = 365;

fn begin() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

/// A host, as its agent keeps its identity.
struct Host {
    dir: PathBuf,
    role: Role,
    renewal: Renewal,
    /// How often its certificate was another one.
    renewed: usize,
}

impl Host {
    fn new(dir: PathBuf, role: Role, identity: &HostIdentity) -> Self {
        identity.save(&dir).unwrap();
        Self { renewal: Renewal::new(dir.clone()), dir, role, renewed: 0 }
    }

    fn identity(&self) -> HostIdentity {
        HostIdentity::load(&self.dir).unwrap()
    }

    /// What the host's agent does of a day, in touch with the authority.
    fn look(&mut self, authority: &mut Authority, now: SystemTime) {
        assert!(self.renewal.take_lists(authority.list_pem(), now), "{:?}", self.renewal.trouble());
        let identity = self.identity();
        let Some(asked) = self.renewal.begin(&identity, now) else { return };
        let request = CertificateRequest::from_pem(&asked.request).unwrap();
        let answer = if self.role == Role::Home {
            let serial = Serial::of(&identity.identity.cert_pem, authority.ca_pem()).unwrap();
            let renewed = authority.renew(&serial, &request, now).unwrap();
            Successor { cert_pem: renewed.cert_pem, client_key: Some(renewed.client_key) }
        } else {
            let name = identity.info().unwrap().role.name;
            let cert_pem = authority.certify(&request, self.role, &name, Validity::LEAF, now).unwrap();
            Successor { cert_pem, client_key: None }
        };
        self.renewed += usize::from(self.renewal.finish(&asked, Ok(answer), now));
    }

    /// What it shows, and what it knows of who is revoked, is good.
    fn check(&self, now: SystemTime) {
        let identity = self.identity();
        identity.check().unwrap().check_valid_at(now).unwrap();
        assert!(identity.authority_ends().unwrap() > now);
        let revoked = self.revoked(&identity);
        assert!(revoked.ends().unwrap() > now);
        assert!(!revoked.contains(&certificate_der(&identity.identity.cert_pem).unwrap()));
    }

    fn revoked(&self, identity: &HostIdentity) -> Revoked {
        let lists = fs::read_to_string(self.dir.join(file::REVOKED)).unwrap();
        Revoked::from_pem(&lists, &identity.ca_pem).unwrap()
    }
}

/// The authority and the two hosts that it serves.
struct World {
    dir: PathBuf,
    authority: Option<Authority>,
    edge: Host,
    home: Host,
}

impl World {
    /// An edge that was set up, and a home that joined.
    fn new(root: &Path) -> Self {
        let dir = root.join("authority");
        let mut authority = Authority::create(&dir, "ours", begin()).unwrap();
        let identity = authority.issue(Role::Edge, &"vps".parse().unwrap(), Validity::LEAF, begin()).unwrap();
        let (ca_pem, tls_crypt) = (authority.ca_pem().to_owned(), authority.server_key().clone());
        let edge = Host::new(root.join("edge"), Role::Edge, &HostIdentity { ca_pem, identity, tls_crypt });

        let place = Place { address: None, port: 1194 };
        let code = authority.new_code(&"attic".parse().unwrap(), place, DAY, begin()).unwrap();
        let key = PrivateKey::generate().unwrap();
        let request = CertificateRequest::from_pem(&key.request().unwrap()).unwrap();
        let enrolled = authority.enrol(&code.code.secret, &request, begin()).unwrap();
        let Enrolled { cert_pem, ca_pem, client_key, .. } = enrolled;
        let identity = Identity { cert_pem, key_pem: key.to_pem() };
        let home = Host::new(root.join("home"), Role::Home, &HostIdentity { ca_pem, identity, tls_crypt: client_key });
        Self { dir, authority: Some(authority), edge, home }
    }

    /// A day on which home is in touch with the edge, or not.
    fn day(&mut self, now: SystemTime, in_touch: bool) {
        let authority = self.authority.as_mut().unwrap();
        if authority.list_is_due(now) {
            authority.sign_list(now).unwrap();
        }
        self.edge.look(authority, now);
        self.edge.check(now);
        if in_touch {
            self.home.look(authority, now);
        }
        // Before the first day in touch it has no list.
        if self.home.dir.join(file::REVOKED).exists() {
            self.home.check(now);
        }
    }

    /// Both agents are started anew, and a device is revoked.
    fn eventful_day(&mut self, now: SystemTime, in_touch: bool) {
        drop(self.authority.take());
        for host in [&mut self.edge, &mut self.home] {
            host.renewal = Renewal::new(host.dir.clone());
        }
        let (mut authority, lost) = (Authority::open(&self.dir).unwrap(), "phone".parse().unwrap());
        let phone = authority.issue(Role::Device, &lost, Validity::LEAF, now).unwrap();
        authority.revoke_all(Role::Device, &lost, now).unwrap();
        self.authority = Some(authority);
        self.day(now, in_touch);
        let phone = certificate_der(&phone.cert_pem).unwrap();
        assert!(self.edge.revoked(&self.edge.identity()).contains(&phone));
        assert_eq!(self.home.revoked(&self.home.identity()).contains(&phone), in_touch);
    }
}

#[test]
fn every_end_is_walked_past_and_nothing_stops() {
    let root = tempfile::tempdir().unwrap();
    let mut world = World::new(root.path());
    let lifetime = u32::try_from(Validity::CA.as_secs() / DAY.as_secs()).unwrap();
    // Home is away for nine months, and comes back just in time for what it has.
    let away = 4 * YEAR..4 * YEAR + 270;
    let (mut list, mut lists, mut warned) = (String::new(), 0, None);
    for day in 0..lifetime {
        let (now, in_touch) = (begin() + DAY * day, !away.contains(&day));
        if day % YEAR == 200 {
            world.eventful_day(now, in_touch);
        } else {
            world.day(now, in_touch);
        }
        let signed = world.authority.as_ref().unwrap().list_pem();
        lists += usize::from(list != signed);
        signed.clone_into(&mut list);
        if world.home.renewal.trouble().is_some() {
            warned.get_or_insert(day);
        }
    }
    // Each for 550 days, and lists for 30.
    assert!((12..16).contains(&world.edge.renewed), "{}", world.edge.renewed);
    assert!((12..16).contains(&world.home.renewed), "{}", world.home.renewed);
    assert!((200..300).contains(&lists), "{lists}");
    // Only the authority itself does not renew, and that is told months ahead.
    let ahead = lifetime - warned.unwrap();
    assert!((90..=275).contains(&ahead), "{ahead}");
    let trouble = world.edge.renewal.trouble().unwrap();
    assert!(trouble.contains("the authority itself ends"), "{trouble}");
}

/// A home that was away for longer than its certificate lasts gets none, and its list still counts: it joins again.
#[test]
fn who_was_away_for_too_long_joins_again() {
    let root = tempfile::tempdir().unwrap();
    let mut world = World::new(root.path());
    for day in 0..500 {
        world.day(begin() + DAY * day, true);
    }
    let late = begin() + DAY * 900;
    let identity = world.home.identity();
    assert!(identity.info().unwrap().check_valid_at(late).is_err());
    assert!(world.home.revoked(&identity).ends().unwrap() > late, "the list outlasts the certificate");
    let authority = world.authority.as_mut().unwrap();
    let serial = Serial::of(&identity.identity.cert_pem, authority.ca_pem()).unwrap();
    let request = CertificateRequest::from_pem(&PrivateKey::generate().unwrap().request().unwrap()).unwrap();
    let refused = authority.renew(&serial, &request, late).unwrap_err().to_string();
    assert!(refused.contains("join again with a new code"), "{refused}");
    // The edge itself gets one all the same.
    world.edge.look(authority, late);
    world.edge.check(late);
}
