//! A gRPC probe: grpc.health.v1.Health/Check over HTTP/2 without TLS, as the kubelet asks it.

use std::io;

use axum::http::HeaderValue;
use hyper_util::rt::TokioIo;
use signet_api::health::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tonic::{
    Code,
    transport::{Endpoint, Uri},
};

use super::{Outcome, Pod, authority, in_short};

pub(super) async fn ask(pod: &Pod, port: u16, service: &str, agent: HeaderValue) -> Outcome {
    let target = authority(&pod.host(None), port);
    // Dialled first, so that who is not there is told from who does not speak gRPC.
    let tcp = match pod.dial(None, port).await {
        Ok(tcp) => tcp,
        Err(why) => return Outcome::Failed(format!("error: failed to connect service {target:?}: {why}")),
    };
    let endpoint = Uri::builder().scheme("http").authority(&*target).path_and_query("/").build();
    let endpoint = endpoint.map_err(|e| e.to_string()).map(Endpoint::from);
    let endpoint = endpoint.and_then(|endpoint| endpoint.user_agent(agent).map_err(|e| e.to_string()));
    let endpoint = match endpoint {
        Ok(endpoint) => endpoint,
        Err(why) => return Outcome::Failed(format!("error: {target:?}: {}", in_short(&why))),
    };
    let mut once = Some(tcp);
    let connector = tower::service_fn(move |_: Uri| {
        let tcp = once.take().ok_or_else(|| io::Error::other("the app closed the connection"));
        async move { tcp.map(TokioIo::new) }
    });
    let channel = endpoint.connect_with_connector_lazy(connector);
    let mut health = HealthClient::new(channel).max_decoding_message_size(ANSWER_BYTES);
    match health.check(HealthCheckRequest { service: service.to_owned() }).await {
        Ok(answer) => match answer.into_inner().status() {
            ServingStatus::Serving => Outcome::Passed("service healthy".into()),
            other => Outcome::Failed(format!("service unhealthy (responded with {:?})", other.as_str_name())),
        },
        Err(status) if status.code() == Code::Unimplemented => Outcome::Failed(format!(
            "error: this server does not implement the grpc health protocol (grpc.health.v1.Health): {}",
            in_short(status.message())
        )),
        Err(status) => Outcome::Failed(format!(
            "error: health rpc probe failed: {:?}: {}",
            status.code(),
            in_short(status.message())
        )),
    }
}

/// One enum; unknown fields of a newer version fit.
const ANSWER_BYTES: usize = 4096;
