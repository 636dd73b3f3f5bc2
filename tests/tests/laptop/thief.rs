//! Somebody who has the edge CA's key, and what they serve with it.

use std::{fs, net::SocketAddr, sync::Arc};

use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, Issuer, KeyPair};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use signet_core::{drain::Drain, tls};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};
use tokio_rustls::TlsAcceptor;

use crate::laptop::Laptop;

pub(crate) const PAGE: &str = "all your cookies";

/// Serves [`PAGE`] for `host` with a certificate that the stolen key signed, until the drain is dropped.
pub(crate) async fn serve(laptop: &Laptop, host: &str) -> (SocketAddr, Drain) {
    let stolen = fs::read(laptop.user.home.join("state/edge/ca/edge-ca.pem")).expect("the thief's loot");
    let root = CertificateDer::from_pem_slice(&stolen).expect("a root");
    let key = PrivateKeyDer::from_pem_slice(&stolen).expect("a key");
    let issuer = Issuer::from_ca_cert_der(&root, KeyPair::try_from(&key).expect("a key")).expect("an issuer");
    let (mut params, key) =
        (CertificateParams::new([host.to_owned()]).expect("a host"), KeyPair::generate().expect("a key"));
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let now = signet_core::clock::now();
    // Chromium takes a year at most, and what does not end is no forgery that it would look at.
    (params.not_before, params.not_after) = (now - time::Duration::hours(1), now + time::Duration::days(30));
    let leaf = params.signed_by(&key, &issuer).expect("a signature").der().clone();
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(tls::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![leaf], PrivateKeyDer::Pkcs8(key.serialize_der().into()))
        .expect("a pair");
    let listener = TcpListener::bind((laptop.network.address(9, 9), 0)).await.expect("an address");
    let place = listener.local_addr().expect("an address");
    let (acceptor, drain, serving) = (TlsAcceptor::from(Arc::new(config)), Drain::new(), Drain::new());
    let each = serving.clone();
    drain.spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            each.spawn(async move {
                let Ok(mut tls) = acceptor.accept(tcp).await else { return };
                let _ = tls.read(&mut [0; 4096]).await; // a request, whichever
                let answer = format!(
                    "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{PAGE}",
                    PAGE.len()
                );
                let _ = tls.write_all(answer.as_bytes()).await;
                let _ = tls.shutdown().await;
            });
        }
    });
    (place, drain)
}

/// Whether OpenSSL believes it, and what it says.
pub(crate) async fn openssl(laptop: &Laptop, host: &str, place: SocketAddr) -> (bool, String) {
    let mut openssl = laptop.user.command("openssl");
    openssl.args(["s_client", "-connect", &place.to_string(), "-servername", host, "-verify_hostname", host]);
    openssl.args(["-verify_return_error", "-no-CAfile", "-no-CApath", "-CAfile"]);
    openssl.arg(laptop.user.home.join("state/edge/ca/root.pem"));
    let output = openssl.output().await.expect("openssl runs");
    let said =
        [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    (output.status.success(), said)
}
