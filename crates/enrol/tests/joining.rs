//! Homes that join over a real socket, and everybody who tries to and may not.
#![expect(clippy::unwrap_used, reason = "a helper that fails is a failed test")]

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use authority::code::{JoinCode, Place, Secret};
use authority::{Authority, EnrolError};
use enrol::{Admit, Enrolment, Grant, JoinError, Pems, Refused, join};
use futures_util::future::BoxFuture;
use model::Role;
use pki::{CertificateRequest, PrivateKey, Validity};
use secrecy::ExposeSecret;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

const HOUR: Duration = Duration::from_secs(3_600);

struct Admitting(Arc<Mutex<Authority>>);

impl Admit for Admitting {
    fn admit(&self, secret: Secret, request: CertificateRequest) -> BoxFuture<'static, Result<Grant, Refused>> {
        let enrolled = self.0.lock().unwrap().enrol(&secret, &request, SystemTime::now());
        let granted = enrolled.map(|enrolled| Grant {
            home: enrolled.home,
            cert_pem: enrolled.cert_pem,
            ca_pem: enrolled.ca_pem,
            client_key: enrolled.client_key,
            edge: "vps".parse().unwrap(),
            domain: "example.test".parse().unwrap(),
            subnet: "10.86.0.0/24".parse().unwrap(),
            control_port: 7443,
        });
        let granted = granted.map_err(|error| match error {
            EnrolError::Refused(refusal) => Refused::Code(refusal),
            EnrolError::Authority(error) => Refused::Failed(error.to_string()),
        });
        Box::pin(async move { granted })
    }
}

/// An edge with an authority, which takes whoever connects.
struct Edge {
    authority: Arc<Mutex<Authority>>,
    at: SocketAddr,
}

impl Edge {
    async fn start(dir: &Path) -> Self {
        Self::start_as(dir, Role::Edge, Validity::LEAF).await
    }

    /// One whose certificate is of a role and life.
    async fn start_as(dir: &Path, role: Role, life: Duration) -> Self {
        let mut authority = Authority::create(&dir.join("authority"), "ours", SystemTime::now()).unwrap();
        let own = authority.issue(role, &"vps".parse().unwrap(), life, SystemTime::now()).unwrap();
        let ca_pem = authority.ca_pem().to_owned();
        let authority = Arc::new(Mutex::new(authority));
        let admit = Arc::new(Admitting(authority.clone()));
        let identity = Pems { ca: &ca_pem, cert: &own.cert_pem, key: own.key_pem.expose_secret() };
        let enrolment = Enrolment::new(&identity, admit).unwrap();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let at = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut socket, peer)) = listener.accept().await {
                // As the tunnel does: the beginning was read already.
                let mut read = vec![0; 2];
                let enrolment = enrolment.clone();
                tokio::spawn(async move {
                    if socket.read_exact(&mut read).await.is_ok() {
                        enrolment.take(socket, peer, read);
                    }
                });
            }
        });
        Self { authority, at }
    }

    fn code(&self) -> JoinCode {
        let place = Place { address: Some(Ipv4Addr::LOCALHOST), port: self.at.port() };
        self.authority.lock().unwrap().new_code(&"attic".parse().unwrap(), place, HOUR, SystemTime::now()).unwrap().code
    }

    fn issued(&self) -> usize {
        self.authority.lock().unwrap().issued().unwrap().len()
    }
}

/// From another address of the loopback network, so that limits do not hold.
async fn from(address: Ipv4Addr, to: SocketAddr) -> TcpStream {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind((address, 0).into()).unwrap();
    socket.connect(to).await.unwrap()
}

#[tokio::test]
async fn a_home_joins_and_a_code_lets_one_in() {
    let dir = tempfile::tempdir().unwrap();
    let edge = Edge::start(dir.path()).await;
    let (code, key) = (edge.code(), PrivateKey::generate().unwrap());
    let joined = join(edge.at, &code, &key).await.unwrap();
    assert_eq!((joined.home.as_str(), joined.edge.as_str()), ("attic", "vps"));
    assert_eq!((joined.domain.as_str(), joined.control_port), ("example.test", 7443));
    assert_eq!(joined.subnet.to_string(), "10.86.0.0/24");
    // What it got is an identity that loads, and the key is its own.
    let identity_dir = dir.path().join("identity");
    joined.identity.save(&identity_dir).unwrap();
    let loaded = pki::HostIdentity::load(&identity_dir).unwrap();
    assert!(loaded.is_v2());
    assert_eq!(loaded.identity.key_pem.expose_secret(), key.to_pem().expose_secret());

    // The same key may ask again; another may not.
    join(edge.at, &code, &key).await.unwrap();
    let refused = join(edge.at, &code, &PrivateKey::generate().unwrap()).await.unwrap_err();
    assert!(matches!(&refused, JoinError::Refused(_)), "{refused}");
    assert_eq!(refused.to_string(), "the code was used already");
    let wrong = JoinCode { secret: Secret::random(), ..code };
    assert_eq!(join(edge.at, &wrong, &key).await.unwrap_err().to_string(), "the code is wrong");
}

#[tokio::test]
async fn nothing_is_sent_to_another_edge() {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let (ours, theirs) = (Edge::start(dirs[0].path()).await, Edge::start(dirs[1].path()).await);
    let refused = join(theirs.at, &ours.code(), &PrivateKey::generate().unwrap()).await.unwrap_err();
    assert!(matches!(refused, JoinError::OtherEdge(_)), "{refused}");
}

#[tokio::test]
async fn a_device_or_a_home_is_no_edge() {
    for role in [Role::Device, Role::Home] {
        let dir = tempfile::tempdir().unwrap();
        let edge = Edge::start_as(dir.path(), role, Validity::LEAF).await;
        let refused = join(edge.at, &edge.code(), &PrivateKey::generate().unwrap()).await.unwrap_err();
        assert!(matches!(refused, JoinError::OtherEdge(_)), "{refused}");
        assert_eq!(edge.issued(), 1);
    }
}

#[tokio::test]
async fn a_wrong_clock_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let edge = Edge::start_as(dir.path(), Role::Edge, Duration::ZERO).await;
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    let refused = join(edge.at, &edge.code(), &PrivateKey::generate().unwrap()).await.unwrap_err();
    assert!(matches!(refused, JoinError::Clock), "{refused}");
}

#[tokio::test]
async fn nobody_there_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let edge = Edge::start(dir.path()).await;
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap().local_addr().unwrap();
    let refused = join(free, &edge.code(), &PrivateKey::generate().unwrap()).await.unwrap_err();
    assert!(matches!(refused, JoinError::Connect(..)), "{refused}");
    // Who hangs up.
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let at = listener.local_addr().unwrap();
    tokio::spawn(async move { listener.accept().await.map(drop) });
    let refused = join(at, &edge.code(), &PrivateKey::generate().unwrap()).await.unwrap_err();
    assert!(matches!(refused, JoinError::HungUp(..)), "{refused}");
}

/// What hostile clients do, each from an address of its own; afterwards a home joins all the same.
#[tokio::test]
async fn hostile_clients_get_nothing_and_stop_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let edge = Edge::start(dir.path()).await;
    let code = edge.code();

    // What is no TLS, after two bytes that look like it.
    let mut garbage = from(Ipv4Addr::new(127, 0, 1, 1), edge.at).await;
    garbage.write_all(&[22, 3]).await.unwrap();
    garbage.write_all(&[0xff; 4096]).await.ok();
    let mut answer = Vec::new();
    // An alert at most, or a reset.
    timeout(HOUR, garbage.read_to_end(&mut answer)).await.unwrap().ok();
    assert!(answer.len() < 16, "{answer:?}");

    // Somebody who says nothing more is closed, and meanwhile holds up nobody.
    let began = Instant::now();
    let mut slow = from(Ipv4Addr::new(127, 0, 1, 2), edge.at).await;
    slow.write_all(&[22, 3]).await.unwrap();

    // Speakers of TLS, with requests that are none.
    let long = format!("POST /enrol HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\n{}", "a".repeat(60_000));
    let lying = format!("{{\"secret\":\"{}\",\"request\":\"x\",\"version\":\"1\"}}", "0".repeat(20));
    let post = |body: &str| format!("POST /enrol HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    for (at, (sent, status)) in [
        ("GET /enrol HTTP/1.1\r\nhost: x\r\n\r\n".to_owned(), "405"),
        ("GET / HTTP/1.1\r\nhost: x\r\n\r\n".to_owned(), "404"),
        ("\0\0\0\0\r\n\r\n".to_owned(), "400"),
        (format!("POST /enrol HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(30_000)), "431"),
        (long, "413"),
        (post(""), "400"),
        (post("{}"), "400"),
        (post("[1"), "400"),
        (post(&lying), "400"),
        (post(&lying.replace("\"x\"", "\"x\",\"more\":1")), "400"),
    ]
    .into_iter()
    .enumerate()
    {
        let socket = from(Ipv4Addr::new(127, 0, 2, at as u8 + 1), edge.at).await;
        let answer = timeout(Duration::from_secs(20), exchange(socket, &sent)).await.unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{at}: {answer}");
    }

    // A thousand attempts from one address: few are heard.
    let wrong = JoinCode { secret: Secret::random(), ..code.clone() };
    let key = PrivateKey::generate().unwrap();
    let (mut refused, mut unheard) = (0, 0);
    for _ in 0..1_000 {
        match join(edge.at, &wrong, &key).await.unwrap_err() {
            JoinError::Refused(reason) if reason == "the code is wrong" => refused += 1,
            JoinError::HungUp(..) => unheard += 1,
            other => panic!("{other}"),
        }
    }
    assert!((20..100).contains(&refused) && unheard > 900, "{refused} {unheard}");
    assert_eq!(edge.issued(), 1);

    let mut rest = Vec::new();
    timeout(Duration::from_secs(20), slow.read_to_end(&mut rest)).await.unwrap().ok();
    assert!(began.elapsed() >= Duration::from_secs(9), "{:?}", began.elapsed());

    // The right code, from an address that behaved.
    let relay = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let by = relay.local_addr().unwrap();
    let to = edge.at;
    tokio::spawn(async move {
        let (mut near, _) = relay.accept().await.unwrap();
        let mut far = from(Ipv4Addr::new(127, 0, 3, 1), to).await;
        tokio::io::copy_bidirectional(&mut near, &mut far).await.ok();
    });
    join(by, &code, &key).await.unwrap();
}

/// Speaks TLS with whoever it is, sends something and reads all that comes.
async fn exchange(socket: TcpStream, sent: &str) -> String {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody(provider)))
        .with_no_client_auth();
    let name = rustls_pki_types::ServerName::try_from("edge.cloudathome.internal").unwrap();
    let mut stream = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, socket).await.unwrap();
    stream.write_all(sent.as_bytes()).await.ok();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.ok();
    String::from_utf8_lossy(&answer).into_owned()
}

#[derive(Debug)]
struct Anybody(Arc<rustls::crypto::CryptoProvider>);

impl rustls::client::danger::ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &rustls_pki_types::CertificateDer<'_>,
        _: &[rustls_pki_types::CertificateDer<'_>],
        _: &rustls_pki_types::ServerName<'_>,
        _: &[u8],
        _: rustls_pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &rustls_pki_types::CertificateDer<'_>,
        dss: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &rustls_pki_types::CertificateDer<'_>,
        dss: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
