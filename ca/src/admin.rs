//! Questions and orders, over a Unix socket that only our own user can open: `GET /v1/status`, `/v1/bundle`, `/metrics`;
//! `POST /v1/rotate`, `/v1/distrust`, and in directory mode `/v1/tokens`. An error is `{"error": "words"}`.
//!
//! In a pod the questions, and no order, are answered on its loopback too, for port-forward; on the pod's network are only
//! `/metrics` and `/ready`.

use std::{fs, io, os::unix::fs::PermissionsExt, path::Path, sync::Arc};

use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, State, rejection::JsonRejection},
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::{get, post},
    serve::Listener,
};
use serde::{Deserialize, Serialize};
use signet_core::{
    drain::Drain,
    files::PRIVATE,
    svid::hex,
    telemetry::{METRICS_CONTENT_TYPE, Metrics},
};
use signet_lease::Lease;
use signet_link::pages::Pages;
use tokio::{
    net::{TcpListener, UnixListener},
    sync::Notify,
    task::spawn_blocking,
};
use tracing::{error, info};

use crate::{
    authority::{Authority, CaError},
    callers::grantable,
    cluster::trust::TrustMaps,
    keeper::OwnCertificate,
    refusal::Refusal,
    tokens::{CannotMint, Tokens},
};

pub mod status;
use status::{Replica, Status};

/// What the socket gives access to.
pub(crate) struct Admin {
    pub authority: Arc<Authority>,
    /// What the cluster adds to the status, and takes join tokens' place.
    pub place: Place,
    pub own: Arc<OwnCertificate>,
    pub metrics: Arc<Metrics>,
    /// Beats the keeper: an order was given.
    pub wake: Arc<Notify>,
    /// Another at each start.
    pub boot_id: String,
}

/// Where this CA runs.
pub(crate) enum Place {
    Directory(Arc<Tokens>),
    Cluster { lease: Arc<Lease>, maps: Arc<TrustMaps> },
}

/// Body of `POST /v1/tokens`.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TokenRequest {
    /// SPIFFE ID of a workload.
    pub identity: String,
    pub life_seconds: i64,
}

/// Its answer. The token is shown once.
#[derive(Clone, Deserialize, Serialize)]
pub struct Token {
    pub token: String,
}

/// Body of `POST /v1/distrust`.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct DistrustRequest {
    /// A root's id, as the status shows it.
    pub root: String,
}

/// Another word for each start of this process; 64 random bits.
pub(crate) fn boot_id(random: &dyn rustls::crypto::SecureRandom) -> Option<String> {
    let mut bytes = [0; 8];
    random.fill(&mut bytes).ok().map(|()| hex(&bytes))
}

/// Serves on `socket` (0600) until `drain` stops. A socket that a dead CA left is replaced: nobody else uses this directory.
pub(crate) fn serve(socket: &Path, admin: &Arc<Admin>, drain: &Drain) -> io::Result<()> {
    match fs::remove_file(socket) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(socket)?; // in a directory that only we can enter, so there is no moment of 0755
    fs::set_permissions(socket, PermissionsExt::from_mode(PRIVATE))?;
    let orders = Router::new().route("/v1/rotate", post(rotate)).route("/v1/distrust", post(distrust));
    let orders = match admin.place {
        Place::Directory(_) => orders.route("/v1/tokens", post(mint)),
        Place::Cluster { .. } => orders,
    };
    run(listener, questions().merge(orders).layer(DefaultBodyLimit::max(BODY_BYTES)), admin, drain);
    Ok(())
}

/// Serves what changes nothing, on the pod's loopback.
pub(crate) fn serve_questions(listener: TcpListener, admin: &Arc<Admin>, drain: &Drain) {
    run(listener, questions().route("/ready", get(show_ready)), admin, drain);
}

/// Serves readiness and metrics, on the pod's network.
pub(crate) fn serve_pages(listener: TcpListener, admin: &Arc<Admin>, drain: &Drain) {
    let pages = Router::new().route("/ready", get(show_ready)).route("/metrics", get(show_metrics));
    run(Pages::new(listener), pages, admin, drain);
}

fn questions() -> Router<Arc<Admin>> {
    Router::new()
        .route("/v1/status", get(show_status))
        .route("/v1/bundle", get(show_bundle))
        .route("/metrics", get(show_metrics))
}

fn run<L>(listener: L, routes: Router<Arc<Admin>>, admin: &Arc<Admin>, drain: &Drain)
where
    L: Listener,
    L::Addr: std::fmt::Debug,
{
    let routes = routes.with_state(Arc::clone(admin));
    let stop = drain.clone();
    drain.spawn(async move {
        let stopping = async move { stop.stopping().await };
        if let Err(error) = axum::serve(listener, routes).with_graceful_shutdown(stopping).await {
            error!(%error, "a page server has ended; restart the CA");
        }
    });
}

impl Admin {
    fn status(&self) -> Status {
        let replica = match &self.place {
            Place::Directory(_) => None,
            Place::Cluster { lease, maps } => Some(Replica {
                name: lease.us().to_owned(),
                leads: lease.is_held(),
                leader: lease.holder(),
                without_bundle: maps.skipped(),
            }),
        };
        Status { boot_id: self.boot_id.clone(), replica, ..self.authority.status() }
    }

    /// Why no certificate can be had here, if that is so.
    fn unready(&self) -> Option<&'static str> {
        if !self.authority.is_ready() {
            return Some("no valid intermediate, or the stored state could not be read for half a minute");
        }
        self.own.server().is_none().then_some("no certificate of its own")
    }
}

async fn show_ready(State(admin): State<Arc<Admin>>) -> Response {
    match admin.unready() {
        None => "ready\n".into_response(),
        Some(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {why}\n")).into_response(),
    }
}

async fn show_status(State(admin): State<Arc<Admin>>) -> Json<Status> {
    Json(admin.status())
}

async fn show_bundle(State(admin): State<Arc<Admin>>) -> Response {
    ([(CONTENT_TYPE, "application/x-pem-file")], admin.authority.bundle_pem()).into_response()
}

async fn show_metrics(State(admin): State<Arc<Admin>>) -> Response {
    ([(CONTENT_TYPE, METRICS_CONTENT_TYPE)], admin.metrics.render()).into_response()
}

async fn rotate(State(admin): State<Arc<Admin>>) -> Result<Json<Status>, AdminError> {
    let authority = Arc::clone(&admin.authority);
    blocking(move || authority.rotate()).await?;
    info!("rotation of the root begun by order");
    Ok(Json(admin.status()))
}

async fn distrust(
    State(admin): State<Arc<Admin>>,
    body: Result<Json<DistrustRequest>, JsonRejection>,
) -> Result<Json<Status>, AdminError> {
    let Json(order) = body?;
    let authority = Arc::clone(&admin.authority);
    let done = blocking(move || authority.distrust(&order.root)).await;
    admin.wake.notify_one(); // our own certificate may rest on that root; what failed is tried again
    done?;
    Ok(Json(admin.status()))
}

async fn mint(
    State(admin): State<Arc<Admin>>,
    body: Result<Json<TokenRequest>, JsonRejection>,
) -> Result<Json<Token>, AdminError> {
    let Json(wanted) = body?;
    let authority = &admin.authority;
    let id = grantable(&wanted.identity, authority.domain())?;
    let random = authority.provider().secure_random;
    let Place::Directory(tokens) = &admin.place else { return Err(AdminError::Broke) }; // not routed there
    let token = tokens.mint(id, wanted.life_seconds, authority.now(), random)?;
    Ok(Json(Token { token: token.to_string() }))
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, CaError> + Send + 'static,
) -> Result<T, AdminError> {
    Ok(spawn_blocking(work).await.map_err(|_| AdminError::Broke)??)
}

/// Why an order was not carried out.
#[derive(Debug, thiserror::Error)]
enum AdminError {
    #[error(transparent)]
    Ca(#[from] CaError),
    #[error(transparent)]
    Name(#[from] Refusal),
    #[error(transparent)]
    Mint(#[from] CannotMint),
    #[error("{}", .0.body_text())]
    Body(#[from] JsonRejection),
    #[error("the order broke off; see the CA's log")]
    Broke,
}

impl IntoResponse for AdminError {
    fn into_response(self) -> Response {
        #[derive(Serialize)]
        struct Words {
            error: String,
        }
        let status = match &self {
            Self::Ca(CaError::Order(_) | CaError::Refused(_)) => StatusCode::CONFLICT,
            Self::Ca(_) | Self::Broke => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Mint(CannotMint::TooMany) => StatusCode::TOO_MANY_REQUESTS,
            Self::Name(_) | Self::Mint(_) | Self::Body(_) => StatusCode::BAD_REQUEST,
        };
        (status, Json(Words { error: self.to_string() })).into_response()
    }
}

/// The largest body is an ID of 2 KiB.
const BODY_BYTES: usize = 16 * 1024;
