//! The front door: `IstioCertificateService/CreateCertificate` over TLS, where the client's certificate is optional, since
//! the first one comes with a token. A request's life is the order of [`FrontDoor::decide`].

use std::sync::Arc;

use prost_types::value::Kind;
use rustls::crypto::WebPkiSupportedAlgorithms;
use signet_api::{
    SERVING_FIELD,
    istio::{
        IstioCertificateRequest, IstioCertificateResponse,
        istio_certificate_service_server::{IstioCertificateService, IstioCertificateServiceServer},
    },
};
use signet_core::{drain::Drain, tls::Peer};
use signet_link::server::{self, Caller};
use tokio::net::TcpListener;
use tonic::{Request, Response, Status, transport::Server};
use tracing::error;

use crate::{
    authority::{Authority, Granted},
    callers::Callers,
    csr,
    keeper::OwnCertificate,
    ledger::{About, Ledger},
    limits::{self, Admission, Judged},
    refusal::Refusal,
    serving::ServingName,
};

/// Decides over requests for certificates.
pub(crate) struct FrontDoor {
    authority: Arc<Authority>,
    callers: Callers,
    ledger: Arc<Ledger>,
    algorithms: WebPkiSupportedAlgorithms,
}

/// A request, apart from its transport.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked<'a> {
    /// The `authorization` header.
    pub authorization: Option<&'a str>,
    /// The SVID of the connection.
    pub peer: Option<&'a Peer>,
    /// PKCS#10, PEM.
    pub csr: &'a [u8],
    /// Wished life in seconds; 0: ours.
    pub life: i64,
    /// A DNS name to serve with, instead of an SVID; what is no text is "".
    pub serving: Option<&'a str>,
}

impl FrontDoor {
    pub(crate) fn new(authority: Arc<Authority>, callers: Callers, ledger: Arc<Ledger>) -> Self {
        let algorithms = authority.provider().signature_verification_algorithms;
        Self { authority, callers, ledger, algorithms }
    }

    /// Who is it -> does it hold the key -> sign -> write it down -> hand it out. A refusal is written too.
    pub(crate) async fn decide(&self, mut about: About, asked: Asked<'_>) -> Result<Granted, Refusal> {
        let decision = self.grant(&mut about, asked).await;
        if let Err(refusal) = &decision {
            self.ledger.refused(&about, refusal).await;
        }
        decision
    }

    async fn grant(&self, about: &mut About, asked: Asked<'_>) -> Result<Granted, Refusal> {
        let now = self.authority.now();
        let source = about.source.map(|source| source.ip());
        let (id, via, pod) = self.callers.authenticate(asked.authorization, asked.peer, source, now).await?;
        (about.id, about.via, about.pod) = (Some(id.clone()), Some(via), pod);
        about.serving = match asked.serving {
            None => None,
            Some(name) => Some(ServingName::granted(name, &id).ok_or_else(|| Refusal::Serving {
                id: id.clone(),
                name: name.chars().take(SHOWN).collect(),
            })?),
        };
        let request = csr::parse(asked.csr)?.verify(&self.algorithms)?;
        about.key_hash = Some(request.key.hash());
        about.ignored = match about.serving {
            None => request.asks.ignored(&id.to_string()),
            Some(name) => request.asks.ignored(name.as_str()), // no URI: every SAN is a wish beside it
        };
        let life = match asked.life {
            0 => None,
            life if life > 0 => Some(life),
            life => return Err(Refusal::Life(life)),
        };
        let granted = match about.serving {
            None => self.authority.issue(&id, &request.key, life)?,
            Some(name) => self.authority.issue_serving(name, &request.key, life)?,
        };
        self.ledger.issued(about, &granted).await?;
        Ok(granted)
    }
}

#[tonic::async_trait]
impl IstioCertificateService for FrontDoor {
    async fn create_certificate(
        &self,
        request: Request<IstioCertificateRequest>,
    ) -> Result<Response<IstioCertificateResponse>, Status> {
        if let Some(judged) = request.extensions().get::<Judged>() {
            judged.set();
        }
        let caller = request.extensions().get::<Caller>();
        let peer = caller.and_then(|caller| caller.peer.as_deref());
        let about = About { source: caller.map(|caller| caller.address), ..About::default() };
        let header = request.metadata().get("authorization");
        let message = request.get_ref();
        let asked = Asked {
            authorization: header.map(|header| header.to_str().unwrap_or_default()), // no text: no token of ours
            peer,
            csr: message.csr.as_bytes(),
            life: message.validity_duration,
            serving: serving(message),
        };
        match self.decide(about, asked).await {
            Ok(granted) => Ok(Response::new(IstioCertificateResponse { cert_chain: granted.chain })),
            Err(refusal) => Err(refusal.status()),
        }
    }
}

/// `metadata.fields["serving"]` (api/proto/istio/ca.proto).
fn serving(message: &IstioCertificateRequest) -> Option<&str> {
    let value = message.metadata.as_ref()?.fields.get(SERVING_FIELD)?;
    match &value.kind {
        Some(Kind::StringValue(name)) => Some(name),
        _ => Some(""), // something is asked for, and it is no name of ours
    }
}

/// Serves `door` on `listener` until `drain` stops, with the CA's own certificate of the moment.
pub(crate) fn serve(listener: TcpListener, door: Arc<FrontDoor>, own: Arc<OwnCertificate>, drain: &Drain) {
    let ledger = Arc::clone(&door.ledger);
    let limits = server::Limits::default();
    let connections = server::incoming(listener, move || own.server(), limits, drain);
    let service =
        IstioCertificateServiceServer::from_arc(door).max_decoding_message_size(limits::MESSAGE_BYTES);
    let serving = Server::builder()
        .initial_stream_window_size(limits::STREAM_WINDOW)
        .initial_connection_window_size(limits::CONNECTION_WINDOW)
        .max_concurrent_streams(limits::STREAMS)
        .http2_max_header_list_size(limits::HEADER_BYTES)
        .http2_max_pending_accept_reset_streams(Some(limits::PENDING_RESETS))
        .http2_max_local_error_reset_streams(Some(limits::PENDING_RESETS))
        .http2_keepalive_interval(Some(limits::KEEP_ALIVE))
        .http2_keepalive_timeout(Some(limits::KEEP_ALIVE))
        .max_connection_age(limits::CONNECTION_AGE)
        .layer(Admission::new(ledger))
        .add_service(service);
    let stop = drain.clone();
    drain.spawn(async move {
        let stopping = async move { stop.stopping().await };
        // Boxed: 6 kB, once per process.
        if let Err(error) = Box::pin(serving.serve_with_incoming_shutdown(connections, stopping)).await {
            error!(%error, "the certificate service has ended; restart the CA");
        }
    });
}

/// Characters of a refused name in the log.
const SHOWN: usize = 256;
