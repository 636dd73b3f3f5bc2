//! Questions and orders, over a Unix socket that only our own user can open: `GET /v1/status`, `/v1/bundle`, `/metrics`;
//! `POST /v1/rotate`, `/v1/distrust`, `/v1/tokens`. An error is `{"error": "words"}`.

use std::{fs, io, os::unix::fs::PermissionsExt, path::Path, sync::Arc};

use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, State, rejection::JsonRejection},
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde::{Deserialize, Serialize};
use signet_core::{
    drain::Drain,
    files::PRIVATE,
    svid::hex,
    telemetry::{METRICS_CONTENT_TYPE, Metrics},
};
use tokio::{net::UnixListener, sync::Notify, task::spawn_blocking};
use tracing::{error, info};

use crate::{
    authority::{Authority, CaError},
    callers::grantable,
    refusal::Refusal,
    tokens::{CannotMint, Tokens},
};

pub mod status;
use status::Status;

/// What the socket gives access to.
pub(crate) struct Admin {
    pub authority: Arc<Authority>,
    pub tokens: Arc<Tokens>,
    pub metrics: Arc<Metrics>,
    /// Beats the keeper: an order was given.
    pub wake: Arc<Notify>,
    /// Another at each start.
    pub boot_id: String,
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

/// Serves on `socket` (0600) until `drain` stops. A socket that a dead CA left is replaced: we hold the directory's lock.
pub(crate) fn serve(socket: &Path, admin: Admin, drain: &Drain) -> io::Result<()> {
    match fs::remove_file(socket) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(socket)?; // in a directory that only we can enter, so there is no moment of 0755
    fs::set_permissions(socket, PermissionsExt::from_mode(PRIVATE))?;
    let routes = Router::new()
        .route("/v1/status", get(show_status))
        .route("/v1/bundle", get(show_bundle))
        .route("/metrics", get(show_metrics))
        .route("/v1/rotate", post(rotate))
        .route("/v1/distrust", post(distrust))
        .route("/v1/tokens", post(mint))
        .layer(DefaultBodyLimit::max(BODY_BYTES))
        .with_state(Arc::new(admin));
    let stop = drain.clone();
    drain.spawn(async move {
        let stopping = async move { stop.stopping().await };
        if let Err(error) = axum::serve(listener, routes).with_graceful_shutdown(stopping).await {
            error!(%error, "the admin socket has ended; restart the CA");
        }
    });
    Ok(())
}

impl Admin {
    /// Reads under the writer's lock, which is held while files are written: not on an async thread.
    async fn status(self: Arc<Self>) -> Result<Json<Status>, AdminError> {
        let status =
            blocking(move || Ok(Status { boot_id: self.boot_id.clone(), ..self.authority.status() }));
        status.await.map(Json)
    }
}

async fn show_status(State(admin): State<Arc<Admin>>) -> Result<Json<Status>, AdminError> {
    admin.status().await
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
    admin.status().await
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
    admin.status().await
}

async fn mint(
    State(admin): State<Arc<Admin>>,
    body: Result<Json<TokenRequest>, JsonRejection>,
) -> Result<Json<Token>, AdminError> {
    let Json(wanted) = body?;
    let authority = &admin.authority;
    let id = grantable(&wanted.identity, authority.domain())?;
    let random = authority.provider().secure_random;
    let token = admin.tokens.mint(id, wanted.life_seconds, authority.now(), random)?;
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
            Self::Ca(CaError::Order(_)) => StatusCode::CONFLICT,
            Self::Ca(_) | Self::Broke => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Mint(CannotMint::TooMany) => StatusCode::TOO_MANY_REQUESTS,
            Self::Name(_) | Self::Mint(_) | Self::Body(_) => StatusCode::BAD_REQUEST,
        };
        (status, Json(Words { error: self.to_string() })).into_response()
    }
}

/// The largest body is an ID of 2 KiB.
const BODY_BYTES: usize = 16 * 1024;
