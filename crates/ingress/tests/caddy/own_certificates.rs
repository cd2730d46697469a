//! Certificates that somebody else gets for Caddy.

use ingress::Certificates;
use rustls::pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use crate::NAME;
use crate::support::{Published, eventually};

/// Chain and key in one file, for the name's domain.
fn wildcard(published: &Published, file: &str) -> String {
    let made = rcgen::generate_simple_self_signed(vec!["*.example.test".to_owned()]).unwrap();
    let path = published.lab.path(file);
    std::fs::write(&path, format!("{}{}", made.cert.pem(), made.signing_key.serialize_pem())).unwrap();
    path.to_str().unwrap().to_owned()
}

fn is_of_acme(certificate: &CertificateDer<'_>) -> bool {
    let (_, certificate) = X509Certificate::from_der(certificate).unwrap();
    certificate.issuer().to_string().contains("Pebble")
}

#[tokio::test]
async fn a_certificate_from_a_file_takes_the_place_of_an_ordered_one_and_is_replaced_by_a_newer_one() {
    let Some(mut published) = Published::start().await else { return };
    let ordered = published.certificate(NAME).await.unwrap();
    assert!(is_of_acme(&ordered));
    let orders = published.orders();

    let (first, second) = (wildcard(&published, "1.pem"), wildcard(&published, "2.pem"));
    let load = async |published: &mut Published, file: &str| {
        let mut names = vec![NAME.parse().unwrap(), "www.example.test".parse().unwrap()];
        published
            .load(|state| {
                state.sites[0].also = vec!["www.example.test".parse().unwrap()];
                state.certificates =
                    Certificates { files: vec![file.to_owned()], not_ordered: std::mem::take(&mut names) };
            })
            .await;
    };
    load(&mut published, &first).await;
    let loaded = eventually("the certificate from the file", async || {
        published.certificate(NAME).await.filter(|certificate| !is_of_acme(certificate))
    })
    .await;
    assert_eq!(published.certificate("www.example.test").await, Some(loaded.clone()), "a name that never had another");
    load(&mut published, &second).await;
    eventually("the one from the newer file", async || {
        published.certificate(NAME).await.filter(|certificate| *certificate != loaded)
    })
    .await;
    assert_eq!(published.orders(), orders, "what is loaded is not ordered");

    // A file that is gone: what names it is refused, and what is served stays.
    published.state.certificates.files = vec![first.clone()];
    std::fs::remove_file(&first).unwrap();
    assert!(published.admin.load(&ingress::render(&published.state)).await.is_err());
    assert!(published.certificate(NAME).await.is_some_and(|certificate| !is_of_acme(&certificate)));

    published.load(|state| state.certificates = Certificates::default()).await;
    eventually("an ordered one again", async || published.certificate(NAME).await.filter(|one| is_of_acme(one))).await;
}
