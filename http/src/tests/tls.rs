//! TLS to backends: whom they must prove to be, over real sockets.

use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};
use rustls::{RootCertStore, ServerConfig, pki_types::CertificateDer};
use signet_core::{drain::Drain, tls::default_provider};
use tokio::{io::AsyncReadExt as _, net::TcpListener};
use tokio_rustls::TlsAcceptor;

use crate::{
    model::*,
    upstream::{Connector as _, direct::Direct},
};

struct Authority {
    issuer: Issuer<'static, KeyPair>,
    root: CertificateDer<'static>,
}

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let root = params.self_signed(&key).unwrap().der().clone();
        Self { issuer: Issuer::new(params, key), root }
    }

    /// A server that says "hi" to whoever finishes the handshake.
    async fn serve(&self, drain: &Drain, names: &[SanType], alpn: &[&str]) -> std::net::SocketAddr {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.subject_alt_names = names.to_vec();
        let leaf = params.signed_by(&key, &self.issuer).unwrap().der().clone();
        let mut config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![leaf], key.serialize_der().try_into().unwrap())
            .unwrap();
        config.alpn_protocols = alpn.iter().map(|a| a.as_bytes().to_vec()).collect();
        let (acceptor, listener) =
            (TlsAcceptor::from(Arc::new(config)), TcpListener::bind("127.0.0.1:0").await.unwrap());
        let address = listener.local_addr().unwrap();
        drain.keep(async move {
            loop {
                let (tcp, _) = listener.accept().await.unwrap();
                if let Ok(mut tls) = acceptor.accept(tcp).await {
                    let _ = tokio::io::AsyncWriteExt::write_all(&mut tls, b"hi").await;
                    let _ = tokio::io::AsyncWriteExt::shutdown(&mut tls).await;
                }
            }
        });
        address
    }
}

async fn reaches(direct: &Direct, address: std::net::SocketAddr, verify: Verify, protocol: Protocol) -> bool {
    let sni = Some("db.test".parse().unwrap());
    let security = Security::Tls(Arc::new(BackendTls { sni, verify }));
    let Ok(mut stream) = direct.connect(&Endpoint { address, security }, protocol).await else {
        return false;
    };
    let mut said = [0; 2];
    stream.read_exact(&mut said).await.is_ok() && said == *b"hi"
}

#[tokio::test]
async fn a_backend_is_reached_only_if_it_is_whom_the_rule_names() {
    let (ours, other, drain) = (Authority::new(), Authority::new(), Drain::new());
    let dns = SanType::DnsName("db.test".try_into().unwrap());
    let uri = SanType::URI("spiffe://td/ns/a/sa/b".try_into().unwrap());
    let address = ours.serve(&drain, &[dns, uri], &["http/1.1"]).await;
    let mut well_known = RootCertStore::empty();
    well_known.add(other.root.clone()).unwrap();
    let direct = Direct::new(Arc::new(default_provider()), Arc::new(well_known));
    let these = |authority: &Authority| Roots::These(Arc::new([authority.root.clone()]));
    let against = |roots: Roots, name: San| Verify::Against { roots, names: Arc::new([name]) };
    let named = |name: &str| San::Dns(name.parse().unwrap());
    for (verify, reached) in [
        (Verify::Nothing, true),
        (against(these(&ours), named("db.test")), true),
        (against(these(&ours), San::Uri("spiffe://td/ns/a/sa/b".into())), true),
        (against(these(&ours), named("x.test")), false),
        (against(these(&ours), San::Uri("spiffe://td/ns/a/sa/bb".into())), false),
        (against(these(&ours), San::Uri("db.test".into())), false),
        (against(these(&other), named("db.test")), false),
        (against(Roots::WellKnown, named("db.test")), false),
        (Verify::Against { roots: these(&ours), names: Arc::new([]) }, false),
        (against(Roots::These(Arc::new([])), named("db.test")), false),
    ] {
        let shown = format!("{verify:?}");
        assert_eq!(reaches(&direct, address, verify, Protocol::Http1).await, reached, "{shown}");
    }
    assert!(!reaches(&direct, address, Verify::Nothing, Protocol::Http2).await, "it does not speak h2");
    let h2 = ours.serve(&drain, &[], &["h2"]).await;
    assert!(reaches(&direct, h2, Verify::Nothing, Protocol::Http2).await);
}

#[tokio::test]
async fn a_mesh_endpoint_is_not_dialled_without_the_mesh() {
    let direct = Direct::new(Arc::new(default_provider()), Arc::new(RootCertStore::empty()));
    let endpoint = Endpoint { address: ([127, 0, 0, 1], 9).into(), security: Security::Mesh(Arc::new([])) };
    assert!(direct.connect(&endpoint, Protocol::Http1).await.is_err());
}
