//! Phones and laptops: the profiles that they get of this edge, and who they are.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use agent::InForce;
use agent::config::{Mode, TunnelSettings, chain};
use agent::devices::DevicePolicy;
use authority::{Authority, AuthorityError, Issued};
use control::Devices;
use futures_util::future::BoxFuture;
use model::{DeviceGrant, DeviceInfo, DeviceQuery, HostId, Hostname, Role, TunnelReport};
use pki::{CertificateInfo, HostIdentity, Serial, Validity};
use profile::{
    Cipher, DeviceIdentity, DeviceNetwork, DeviceProfile, DeviceProfileError, DeviceRemote, DeviceWrapping, TlsVersion,
};
use secrecy::ExposeSecret;
use tokio::sync::watch;

use crate::authority::{GONE, Keeper};
use crate::sightings::Sightings;

const NONE: &str = "this edge has no authority of its own: make profiles with `agentctl pki profile` where it is kept";
const FOREIGN: &str = "this edge has its identity from another authority than its own: make profiles with `agentctl pki profile` where \
                       that one is kept";
const DIALS: &str = "this edge dials home: a device connects only to an edge that listens";
const OTHER_KEY: &str = "the tunnel does not listen by the authority's tls-crypt-v2 key: no device with a profile of it would get in; put \
                         tls-crypt-v2.key of the authority into the identity's directory";

/// What every profile of this edge says, and the authority that makes it good.
#[derive(Debug, Clone)]
pub(crate) struct Gate {
    keeper: Keeper,
    identity: watch::Receiver<InForce>,
    edge: HostId,
    home: HostId,
    domain: Hostname,
    /// UDP and TCP.
    port: u16,
    tls_version_min: TlsVersion,
    policy: DevicePolicy,
}

/// Where devices get in, if this edge can let them; else why not.
pub(crate) fn gate(
    keeper: Option<Keeper>,
    identity: &watch::Receiver<InForce>,
    tunnel: &TunnelSettings,
    edge: &HostId,
    domain: &Hostname,
) -> Result<Gate, &'static str> {
    let keeper = keeper.ok_or(NONE)?;
    if !keeper.has_issued(&identity.borrow().identity) {
        return Err(FOREIGN);
    }
    let Mode::Listen(listen) = &tunnel.mode else { return Err(DIALS) };
    Ok(Gate {
        keeper,
        identity: identity.clone(),
        edge: edge.clone(),
        home: tunnel.peer.clone(),
        domain: domain.clone(),
        port: listen.port(),
        tls_version_min: match tunnel.tls_version_min {
            tunnel::TlsVersion::V1_2 => TlsVersion::V1_2,
            tunnel::TlsVersion::V1_3 => TlsVersion::V1_3,
        },
        policy: tunnel.devices.clone(),
    })
}

/// The devices of this edge, or why there can be none, for `agentctl`.
#[derive(Debug, Clone)]
pub(crate) struct Registry {
    pub(crate) gate: Result<Gate, &'static str>,
    pub(crate) tunnel: watch::Receiver<TunnelReport>,
    pub(crate) sightings: watch::Receiver<Sightings>,
}

impl Registry {
    fn ask<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Authority, &Gate) -> Result<T, String> + Send + 'static,
    ) -> BoxFuture<'static, Result<T, String>> {
        let gate = self.gate.clone();
        Box::pin(async move {
            let gate = gate?;
            let keeper = gate.keeper.clone();
            keeper.ask(move |authority| job(authority, &gate)).await.ok_or(GONE)?
        })
    }
}

impl Devices for Registry {
    fn add(&self, query: DeviceQuery) -> BoxFuture<'static, Result<DeviceGrant, String>> {
        self.ask(move |authority, gate| {
            let now = SystemTime::now();
            let name = &query.name;
            if *name == gate.edge || *name == gate.home {
                return Err(format!("{name} is the name of a host: choose another for the device"));
            }
            let issued = authority.issued().map_err(|error| told(&error))?;
            let taken =
                issued.iter().find(|one| one.holder.name == *name && one.revoked.is_none() && one.not_after > now);
            match taken.map(|taken| taken.holder.role) {
                None => gate.grant(authority, &query, now),
                Some(Role::Device) => Err(format!(
                    "there is a device {name} already: `agentctl device reissue {name}` gives it another profile, \
                     `agentctl device revoke {name}` ends it"
                )),
                Some(role) => Err(format!("{name} is the name of a host ({role}): choose another for the device")),
            }
        })
    }

    fn list(&self) -> BoxFuture<'static, Result<Vec<DeviceInfo>, String>> {
        let (tunnel, sightings) = (self.tunnel.clone(), self.sightings.clone());
        self.ask(move |authority, gate| {
            let issued = authority.issued().map_err(|error| told(&error))?;
            let (tunnel, sightings) = (tunnel.borrow(), sightings.borrow());
            Ok(latest(issued).into_iter().map(|one| shown(one, &tunnel, &sightings, &gate.policy)).collect())
        })
    }

    fn revoke(&self, name: HostId) -> BoxFuture<'static, Result<u32, String>> {
        self.ask(move |authority, _| {
            let serials = counted(authority, &name)?;
            authority.revoke(&serials, SystemTime::now()).map_err(|error| told(&error))?;
            Ok(number(serials.len()))
        })
    }

    fn reissue(&self, query: DeviceQuery) -> BoxFuture<'static, Result<DeviceGrant, String>> {
        self.ask(move |authority, gate| {
            let now = SystemTime::now();
            let before = counted(authority, &query.name)?;
            let grant = gate.grant(authority, &query, now)?;
            authority.revoke(&before, now).map_err(|error| told(&error))?;
            Ok(DeviceGrant { revoked: number(before.len()), ..grant })
        })
    }
}

impl Gate {
    /// Nothing is issued unless the profile can be written.
    fn grant(&self, authority: &mut Authority, query: &DeviceQuery, now: SystemTime) -> Result<DeviceGrant, String> {
        let in_force = self.identity.borrow().identity.clone();
        if !listens_by(&in_force, authority) {
            return Err(OTHER_KEY.to_owned());
        }
        let key = authority.client_key(now).map_err(|error| told(&error))?;
        let draft = DeviceProfile {
            remotes: self.remotes(&query.remotes).map_err(|error| chain(&error))?,
            server_name: self.edge.to_string(),
            data_ciphers: Cipher::DEFAULT.to_vec(),
            tls_version_min: self.tls_version_min,
            ca_pem: authority.ca_pem().to_owned(),
            identity: None,
            ask_password: true,
            wrapping: DeviceWrapping::TlsCryptV2(key),
            network: DeviceNetwork { full: query.full, dns: query.dns.clone() },
        };
        draft.to_text().map_err(|error| chain(&error))?;
        let issued = authority.issue(Role::Device, &query.name, Validity::DEVICE, now).map_err(|error| told(&error))?;
        let info = CertificateInfo::from_pem(&issued.cert_pem).map_err(|error| chain(&error))?;
        let identity = Some(DeviceIdentity { cert_pem: issued.cert_pem, key_pem: issued.key_pem });
        let profile = DeviceProfile { identity, ask_password: false, ..draft };
        let profile = profile.to_text().map_err(|error| chain(&error))?;
        Ok(DeviceGrant {
            profile,
            not_after: seconds(info.not_after),
            revoked: 0,
            reach: self.policy.words(&query.name),
        })
    }

    /// All places for UDP come before those for TCP.
    fn remotes(&self, written: &[String]) -> Result<Vec<DeviceRemote>, DeviceProfileError> {
        // Any name under the domain leads here by the wildcard record; this one says what it is.
        let usual = [format!("edge.{}", self.domain)];
        let written = if written.is_empty() { &usual[..] } else { written };
        let read = written.iter().map(|text| DeviceRemote::parse_for(text, self.port));
        let mut remotes: Vec<DeviceRemote> = read.collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect();
        remotes.sort_by_key(|remote| remote.tcp);
        Ok(remotes)
    }
}

/// Whether the tunnel can unwrap the keys that this authority wraps.
fn listens_by(identity: &HostIdentity, authority: &Authority) -> bool {
    identity.tls_crypt.expose_secret().trim() == authority.server_key().expose_secret().trim()
}

/// The certificates of a device that are not revoked.
fn counted(authority: &Authority, name: &HostId) -> Result<Vec<Serial>, String> {
    let issued = authority.issued().map_err(|error| told(&error))?;
    let of_device: Vec<Issued> =
        issued.into_iter().filter(|one| one.holder.role == Role::Device && one.holder.name == *name).collect();
    if of_device.is_empty() {
        return Err(format!(
            "there is no device {name}: `agentctl device list` has all, `agentctl device add {name}` makes one"
        ));
    }
    Ok(of_device.into_iter().filter(|one| one.revoked.is_none()).map(|one| one.serial).collect())
}

/// Of each device the certificate that was issued last; one that is revoked only where all are.
fn latest(issued: Vec<Issued>) -> Vec<Issued> {
    let mut latest = BTreeMap::new();
    // They come in the order of their beginning.
    for one in issued.into_iter().filter(|one| one.holder.role == Role::Device) {
        match latest.get(&one.holder.name) {
            Some(Issued { revoked: None, .. }) if one.revoked.is_some() => {}
            _ => drop(latest.insert(one.holder.name.clone(), one)),
        }
    }
    latest.into_values().collect()
}

fn shown(one: Issued, tunnel: &TunnelReport, sightings: &Sightings, policy: &DevicePolicy) -> DeviceInfo {
    let name = one.holder.name;
    let peer = tunnel.peers.iter().find(|peer| peer.name == name.as_str());
    let seen = sightings.of(&name);
    DeviceInfo {
        not_before: seconds(one.not_before),
        not_after: seconds(one.not_after),
        revoked: one.revoked.map(seconds),
        connected_since: peer.map(|peer| peer.since),
        address: peer.and_then(|peer| peer.address),
        last_seen: seen.map(|seen| seen.at),
        remote: seen.map(|seen| seen.remote),
        received_bytes: seen.map(|seen| seen.received_bytes).unwrap_or_default(),
        sent_bytes: seen.map(|seen| seen.sent_bytes).unwrap_or_default(),
        reach: policy.words(&name),
        name,
    }
}

fn number(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

fn seconds(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs()
}

fn told(error: &AuthorityError) -> String {
    chain(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An edge that listens at port 1195, as vps, for attic.
    fn registry(state: &std::path::Path) -> Registry {
        let now = SystemTime::now();
        let mut authority = Authority::create(&state.join("authority"), "ours", now).unwrap();
        let identity = authority.issue(Role::Edge, &"vps".parse().unwrap(), Validity::LEAF, now).unwrap();
        let (ca_pem, tls_crypt) = (authority.ca_pem().to_owned(), authority.server_key().clone());
        authority.issue(Role::Home, &"cellar".parse().unwrap(), Validity::LEAF, now).unwrap();
        drop(authority);
        let gate = Gate {
            keeper: Keeper::open(state).unwrap().unwrap(),
            identity: watch::channel(InForce { identity: HostIdentity { ca_pem, identity, tls_crypt }, crl: None }).1,
            edge: "vps".parse().unwrap(),
            home: "attic".parse().unwrap(),
            domain: "example.test".parse().unwrap(),
            port: 1195,
            tls_version_min: TlsVersion::V1_2,
            policy: DevicePolicy::deny(Role::Edge),
        };
        let (tunnel, sightings) = (watch::channel(TunnelReport::default()).1, watch::channel(Sightings::default()).1);
        Registry { gate: Ok(gate), tunnel, sightings }
    }

    fn query(name: &str) -> DeviceQuery {
        DeviceQuery { name: name.parse().unwrap(), remotes: vec![], full: false, dns: vec![] }
    }

    #[tokio::test]
    async fn a_name_is_one_devices_until_that_is_revoked() {
        let state = tempfile::tempdir().unwrap();
        let registry = registry(state.path());
        let grant = registry.add(query("phone")).await.unwrap();
        let lines: Vec<&str> =
            grant.profile.expose_secret().lines().filter(|line| line.starts_with("remote ")).collect();
        assert_eq!(lines, ["remote edge.example.test 1195 udp", "remote edge.example.test 1195 tcp"]);
        let length = grant.profile.expose_secret().len();
        assert!(length <= 2_953, "{length} bytes are more than a QR code holds");
        let ten_years = SystemTime::now() + Validity::DEVICE;
        assert!(seconds(ten_years).abs_diff(grant.not_after) < 60);
        assert!(registry.add(query("phone")).await.unwrap_err().contains("reissue phone"));

        let again = registry.reissue(DeviceQuery { full: true, ..query("phone") }).await.unwrap();
        assert!(again.revoked == 1 && again.profile.expose_secret().contains("redirect-gateway"));
        let all = registry.list().await.unwrap();
        assert!(all.len() == 1 && all[0].revoked.is_none(), "{all:?}");
        assert_eq!(registry.revoke("phone".parse().unwrap()).await, Ok(1));
        assert_eq!(registry.revoke("phone".parse().unwrap()).await, Ok(0), "it was revoked already");
        assert!(registry.list().await.unwrap()[0].revoked.is_some());
        // It was lost, and is found again; or another takes its name.
        assert_eq!(registry.reissue(query("phone")).await.unwrap().revoked, 0);
        registry.revoke("phone".parse().unwrap()).await.unwrap();
        registry.add(query("phone")).await.unwrap();
        assert!(registry.list().await.unwrap()[0].revoked.is_none());
    }

    #[tokio::test]
    async fn what_cannot_be_changes_nothing_and_says_why() {
        let state = tempfile::tempdir().unwrap();
        let registry = registry(state.path());
        for host in ["vps", "attic", "cellar"] {
            assert!(registry.add(query(host)).await.unwrap_err().contains("name of a host"), "{host}");
        }
        for remote in ["", "a b", "-a", "a:0", "a/sctp"] {
            let query = DeviceQuery { remotes: vec![remote.to_owned()], ..query("phone") };
            assert!(registry.add(query).await.is_err(), "{remote}");
        }
        let nobody = || "phone".parse().unwrap();
        assert!(registry.revoke(nobody()).await.unwrap_err().contains("no device phone"));
        assert!(registry.revoke("vps".parse().unwrap()).await.unwrap_err().contains("no device vps"));
        assert!(registry.reissue(query("phone")).await.unwrap_err().contains("no device phone"));
        assert_eq!(registry.list().await.unwrap(), []);

        // Its profiles would not get past the tunnel's first packet.
        let mut gate = registry.gate.clone().unwrap();
        let identity =
            HostIdentity { tls_crypt: pki::generate_static_key(), ..gate.identity.borrow().identity.clone() };
        gate.identity = watch::channel(InForce { identity, crl: None }).1;
        let other = Registry { gate: Ok(gate), ..registry.clone() };
        assert_eq!(other.add(query("phone")).await.unwrap_err(), OTHER_KEY);
        let none = Registry { gate: Err(NONE), ..registry.clone() };
        assert_eq!(none.list().await.unwrap_err(), NONE);
        assert_eq!(registry.list().await.unwrap(), []);
    }
}
