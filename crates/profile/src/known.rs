//! Options of OpenVPN 2.x and 3 that we do not act on, by class.

use std::collections::HashMap;
use std::sync::LazyLock;

/// What becomes of an option that is not acted on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// A note.
    Ignored,
    /// A problem that the profile itself can allow to pass over.
    Unsupported,
    /// A problem.
    Refused,
}

/// The class of `name` and the reason, `None` for an option nobody knows.
pub(crate) fn class(name: &str) -> Option<(Class, &'static str)> {
    static INDEX: LazyLock<HashMap<&str, (Class, &str)>> = LazyLock::new(|| rows().collect());
    INDEX.get(name).copied()
}

fn rows() -> impl Iterator<Item = (&'static str, (Class, &'static str))> {
    [(Class::Ignored, IGNORED), (Class::Unsupported, UNSUPPORTED), (Class::Refused, REFUSED)].into_iter().flat_map(
        |(class, table)| {
            let row = move |(names, reason): &(&'static str, &'static str)| {
                let reason = *reason;
                names.split_ascii_whitespace().map(move |name| (name, (class, reason)))
            };
            table.iter().flat_map(row)
        },
    )
}

const PROCESS: &str = "how the process runs and logs is not the profile's business";
const WINDOWS: &str = "it is about Windows";
const TUNING: &str = "sockets and the device are tuned by ourselves";
const SCRIPTS: &str = "no scripts are run";

const IGNORED: &[(&str, &str)] = &[
    (
        "user group daemon syslog log log-append status status-version suppress-timestamps machine-readable-output \
         errors-to-stderr writepid nice mlock mute echo parameter remap-usr1 setcon chroot service pause-exit memstats \
         mute-replay-warnings",
        PROCESS,
    ),
    (
        "management management-log-cache management-signal management-forget-disconnect management-up-down \
         management-client-user management-client-group",
        "there is no management interface",
    ),
    (
        "windows-driver ip-win32 route-method tap-sleep dhcp-release dhcp-renew dhcp-pre-release register-dns \
         block-outside-dns show-net-up allow-nonadmin dev-node win-sys",
        WINDOWS,
    ),
    (
        "sndbuf rcvbuf socket-flags txqueuelen fast-io mtu-disc mtu-test passtos tcp-nodelay disable-dco shaper \
         persist-local-ip persist-remote-ip link-mtu udp-mtu tun-mtu-extra",
        TUNING,
    ),
    ("persist-key", "keys stay in memory in any case"),
    ("script-security up-delay up-restart down-pre setenv-safe", SCRIPTS),
    ("comp-noadapt allow-compression", "nothing is ever compressed"),
    ("compat-mode", "old peers are met by what the profile says about ciphers and TLS"),
    ("disable-occ no-iv key-method keysize ecdh-curve prng use-prediction-resistance", "it has no meaning any more"),
    ("ifconfig-nowarn tun-ipv6 max-routes allow-pull-fqdn", "it changes nothing here"),
    ("allow-recursive-routing", "packets to the server never enter the tunnel"),
    ("ping-timer-rem", "the other end is always known"),
    (
        "http-proxy-option http-proxy-retry http-proxy-timeout http-proxy-override socks-proxy-retry",
        "no connection through a proxy is made",
    ),
    ("replay-persist", "it serves shared keys only"),
    ("preresolve ip-remote-hint", "names are resolved anew for each attempt"),
    ("x509-track", SCRIPTS),
    ("tls-exit single-session", "a connection has one session and is renewed in place"),
];

const STORE: &str = "keys outside of files are not used; put certificate and key into the profile";
const ADDRESS: &str = "the server assigns addresses and keys; remove it";
const BY_HAND: &str = "it asks openvpn for something else than a connection; remove it";

const UNSUPPORTED: &[(&str, &str)] = &[
    (
        "http-proxy http-proxy-user-pass socks-proxy",
        "no connection through a proxy is made; connect directly and remove it",
    ),
    ("fragment", "the other end would have to cut packets too; remove it on both ends and set mssfix instead"),
    ("secret", "keys shared by both ends without TLS are not spoken; the server must offer certificates"),
    ("pkcs12", "take it apart with 'openssl pkcs12' into ca, cert and key"),
    (
        "pkcs11-id pkcs11-id-management pkcs11-pin-cache pkcs11-cert-private pkcs11-private-mode \
         pkcs11-protected-authentication pkcs11-id-type pkcs11-sign-mode pkcs11-slot pkcs11-slot-type cryptoapicert \
         management-external-key management-external-cert",
        STORE,
    ),
    ("askpass", "encrypted keys are not opened; decrypt the key with 'openssl pkey'"),
    ("capath", "name one file of authorities with 'ca'"),
    ("cd", "file names count from the profile's own folder; remove it"),
    ("config", "a profile includes no other; put its lines here"),
    ("verify-hash", "pin the server's own certificate with peer-fingerprint"),
    ("ns-cert-type", "such marks are out of use; write 'remote-cert-tls server'"),
    ("tls-remote", "write 'verify-x509-name NAME name'"),
    ("remote-cert-ku remote-cert-eku", "write 'remote-cert-tls server'"),
    ("x509-username-field compat-names no-name-remapping", "write verify-x509-name for what the server is called"),
    ("ncp-disable", "the cipher is always negotiated; remove it"),
    ("no-replay", "replayed packets are always dropped; remove it"),
    ("ifconfig ifconfig-ipv6 peer-id auth-token auth-token-user key-derivation protocol-flags", ADDRESS),
    ("ifconfig-noexec", "the device always gets its address; remove it"),
    ("client-nat", "addresses are not translated; remove it"),
    ("proto-force", "leave only the wanted remotes"),
    ("lladdr", "there is no Ethernet in the tunnel"),
    ("mark bind-dev", "the way to the server is chosen by the host's routes; remove it"),
    ("gremlin", "packets are not damaged on purpose; remove it"),
    (
        "management-hold management-query-passwords management-query-proxy management-query-remote management-client \
         management-client-pf management-client-auth",
        "there is no management interface to ask; remove it",
    ),
    (
        "help version genkey mktun rmtun test-crypto show-ciphers show-digests show-engines show-tls show-curves \
         show-groups show-gateway show-net show-adapters show-valid-subnets show-pkcs11-ids show-pkcs11-objects \
         show-pkcs11-slots",
        BY_HAND,
    ),
    ("force-tls-key-material-export keying-material-exporter", "key material is not handed out; remove it"),
];

const PROGRAM: &str = "a profile must not run programs; remove it";
const LIBRARY: &str = "a profile must not load libraries; remove it";
const SERVER: &str = "it is for servers; remove it";

const REFUSED: &[(&str, &str)] = &[
    (
        "up down ipchange route-up route-pre-down tls-verify auth-user-pass-verify client-connect client-disconnect \
         client-crresponse learn-address tls-crypt-v2-verify tls-export-cert iproute dns-updown",
        PROGRAM,
    ),
    ("plugin engine providers pkcs11-providers", LIBRARY),
    (
        "server server-ipv6 server-bridge mode tls-server push push-reset push-remove push-continuation ifconfig-pool \
         ifconfig-pool-linear ifconfig-pool-persist ifconfig-ipv6-pool ifconfig-push ifconfig-push-constraint \
         ifconfig-ipv6-push iroute iroute-ipv6 client-to-client duplicate-cn client-config-dir ccd-exclusive tmp-dir \
         max-clients max-routes-per-client connect-freq connect-freq-initial tcp-queue-limit bcast-buffers hash-size \
         verify-client-cert client-cert-not-required username-as-common-name auth-gen-token auth-gen-token-secret \
         opt-verify auth-user-pass-optional dh port-share vlan-tagging vlan-accept vlan-pvid override-username \
         disable stale-routes-check tls-crypt-v2-max-age multihome",
        SERVER,
    ),
];

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::rows;

    #[test]
    fn an_option_is_in_one_class_only() {
        let mut seen = HashSet::new();
        for (name, _) in rows() {
            assert!(seen.insert(name), "{name} is listed twice");
        }
    }
}
