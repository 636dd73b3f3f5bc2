//! A CA that does what the test says: it speaks the real contract over real mesh TLS, and answers honestly, wrongly or not.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use prost_types::value::Kind;
use rcgen::{CertificateSigningRequestParams, ExtendedKeyUsagePurpose, SanType};
use rustls_pki_types::CertificateDer;
use signet_api::istio::{
    IstioCertificateRequest, IstioCertificateResponse,
    istio_certificate_service_server::{IstioCertificateService, IstioCertificateServiceServer},
};
use signet_core::{
    drain::Drain,
    identity::{self, SpiffeId, TrustDomain},
    pod::SERVING,
    tls::{self, Generation},
    trust::Trust,
};
use signet_link::server::{self, Caller, Limits};
use tokio::net::TcpListener;
use tonic::{Request, Response, Status};

use crate::pki::{Authority, bare_leaf_params, leaf_params};

/// What it answers; to who asks for a serving certificate, always that. Who asks is known from the SVID, or else is whoever the token says: a token is a SPIFFE ID in words.
#[derive(Clone, Debug)]
pub enum Answers {
    /// A leaf for who asks.
    Honest {
        life: Duration,
    },
    /// A leaf for someone else.
    For(SpiffeId),
    /// A chain that has nothing to do with the CSR.
    Chain(Vec<CertificateDer<'static>>),
    Refuse(String),
    /// Takes the request and never answers.
    Never,
}

pub struct FakeCa {
    pub authority: Arc<Authority>,
    service: Service,
    drain: Drain,
}

#[derive(Clone)]
struct Service {
    authority: Arc<Authority>,
    answers: Arc<Mutex<Answers>>,
    asked: Arc<AtomicU64>,
}

impl FakeCa {
    /// Listens as `spiffe://cluster.local/ns/signet-system/sa/ca`, with a leaf of `authority`.
    pub async fn start(listen: SocketAddr, authority: Arc<Authority>) -> io::Result<Self> {
        let domain = TrustDomain::new("cluster.local").map_err(io::Error::other)?;
        let (trust, provider) = (Trust::new(domain.clone()), tls::mesh_provider(tls::default_provider()));
        trust.offer(authority.bundle(1));
        let own = authority.credential(&identity::ca(&domain));
        let own = Generation::new(1, own.chain, own.key, &provider, &trust).map_err(io::Error::other)?;
        let config = own.open_server(&provider, &trust).map_err(io::Error::other)?;
        let listener = TcpListener::bind(listen).await?;
        let answers = Answers::Honest { life: Duration::from_secs(3600) };
        let service = Service {
            authority: Arc::clone(&authority),
            answers: Arc::new(answers.into()),
            asked: Arc::default(),
        };
        let drain = Drain::new();
        let incoming =
            server::incoming(listener, move || Some(Arc::clone(&config)), Limits::default(), &drain);
        let serve = tonic::transport::Server::builder()
            .add_service(IstioCertificateServiceServer::new(service.clone()))
            .serve_with_incoming(incoming);
        let serve = Box::pin(serve); // 5 kB
        drain.spawn(async move { drop(serve.await) }); // it ends with the test
        Ok(Self { authority, service, drain })
    }

    pub fn answer(&self, answers: Answers) {
        *self.service.answers.lock().unwrap_or_else(PoisonError::into_inner) = answers;
    }

    /// Requests so far.
    pub fn asked(&self) -> u64 {
        self.service.asked.load(Ordering::Relaxed)
    }

    /// Gives the address back.
    pub async fn stop(self) {
        self.drain.run(Duration::ZERO).await;
    }
}

#[tonic::async_trait]
impl IstioCertificateService for Service {
    async fn create_certificate(
        &self,
        request: Request<IstioCertificateRequest>,
    ) -> Result<Response<IstioCertificateResponse>, Status> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let asks = caller(&request)?;
        let csr = CertificateSigningRequestParams::from_pem(&request.get_ref().csr)
            .map_err(|e| Status::invalid_argument(e.to_string()))?;
        let serving = request.get_ref().metadata.as_ref().and_then(|metadata| metadata.fields.get(SERVING));
        if let Some(Kind::StringValue(name)) = serving.and_then(|name| name.kind.clone()) {
            let mut params = bare_leaf_params(Duration::from_secs(3600));
            let name = name.try_into().map_err(|_| Status::invalid_argument("no DNS name"))?;
            params.subject_alt_names = vec![SanType::DnsName(name)];
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
            return Ok(self.response(&self.authority.chain(&params, &csr.public_key)));
        }
        let leaf =
            |id: &SpiffeId, life| self.authority.chain(&leaf_params(&id.to_string(), life), &csr.public_key);
        let answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let chain = match answers {
            Answers::Honest { life } => leaf(&asks, life),
            Answers::For(other) => leaf(&other, Duration::from_secs(3600)),
            Answers::Chain(chain) => chain,
            Answers::Refuse(why) => return Err(Status::permission_denied(why)),
            Answers::Never => std::future::pending().await,
        };
        Ok(self.response(&chain))
    }
}

impl Service {
    fn response(&self, chain: &[CertificateDer<'_>]) -> Response<IstioCertificateResponse> {
        let mut cert_chain: Vec<String> = chain.iter().map(|der| pem(der)).collect();
        cert_chain.push(self.authority.bundle(1).to_pem());
        Response::new(IstioCertificateResponse { cert_chain })
    }
}

fn caller(request: &Request<IstioCertificateRequest>) -> Result<SpiffeId, Status> {
    if let Some(peer) = request.extensions().get::<Caller>().and_then(|caller| caller.peer.clone()) {
        return Ok(peer.id().clone());
    }
    let token = request.metadata().get("authorization").and_then(|value| value.to_str().ok());
    let token = token.and_then(|value| value.strip_prefix("Bearer ")).unwrap_or_default();
    identity::parse(token).map_err(|e| Status::unauthenticated(e.to_string()))
}

fn pem(der: &[u8]) -> String {
    use base64::prelude::{BASE64_STANDARD, Engine as _};
    let text = BASE64_STANDARD.encode(der);
    let lines: Vec<&str> =
        text.as_bytes().chunks(64).filter_map(|line| std::str::from_utf8(line).ok()).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use signet_core::telemetry::Metrics;
    use signet_link::{
        Target,
        svid::{Svid, SvidConfig, Token},
    };

    use super::*;
    use crate::{
        eventually::{SOON, eventually},
        network::Network,
    };

    #[tokio::test]
    async fn an_honest_answer_becomes_a_leaf_and_one_for_somebody_else_does_not() {
        let network = Network::claim();
        let authority = Arc::new(Authority::new());
        let ca =
            FakeCa::start(SocketAddr::new(network.control(), 15012), Arc::clone(&authority)).await.unwrap();
        let domain = TrustDomain::new("cluster.local").unwrap();
        let (api, db) =
            (identity::of(&domain, "shop", "api").unwrap(), identity::of(&domain, "shop", "db").unwrap());
        let token_file = std::env::temp_dir().join(format!("signet-fake-ca-{}", std::process::id()));
        std::fs::write(&token_file, api.to_string()).unwrap();
        let trust = Trust::new(domain.clone());
        trust.offer(authority.bundle(1));
        let drain = Drain::new();
        let config = SvidConfig {
            id: api.clone(),
            ca: Target {
                address: SocketAddr::new(network.control(), 15012).into(),
                id: identity::ca(&domain),
            },
            token: Token::Once(token_file.clone()),
            source: Some(network.address(0, 2)),
        };
        ca.answer(Answers::For(db));
        let provider = tls::mesh_provider(tls::default_provider());
        let svid = Svid::start(config, provider, trust, &drain, &mut Metrics::new());
        eventually("a second try", SOON, async || (ca.asked() >= 2).then_some(())).await;
        assert!(svid.current().is_none(), "a leaf for somebody else was taken");
        ca.answer(Answers::Honest { life: Duration::from_secs(60) });
        let leaf = eventually("the leaf", SOON, async || svid.current()).await;
        assert_eq!(leaf.leaf.id, api);
        drain.run(Duration::ZERO).await;
        std::fs::remove_file(token_file).unwrap();
    }
}
