//! The contracts between the parts of Signet, generated from `proto/`. Messages only: conversions live with the type they build.

pub mod codec;

/// The published contracts that we speak and do not own.
pub mod istio {
    include!(concat!(env!("OUT_DIR"), "/istio.v1.auth.rs"));
}
pub mod xds {
    include!(concat!(env!("OUT_DIR"), "/envoy.service.discovery.v3.rs"));
}
pub mod health {
    include!(concat!(env!("OUT_DIR"), "/grpc.health.v1.rs"));
}
/// Our resource types and reports.
pub mod v1 {
    include!(concat!(env!("OUT_DIR"), "/signet.v1.rs"));
}
/// Payloads of the native wire.
pub mod wire {
    include!(concat!(env!("OUT_DIR"), "/signet.wire.v1.rs"));
}
/// What edge tells gateways.
pub mod edge;

/// Type URLs of our resources on the delta xDS stream.
pub const ADDRESS: &str = "type.googleapis.com/signet.v1.Address";
pub const WORKLOAD_SETTINGS: &str = "type.googleapis.com/signet.v1.WorkloadSettings";
pub const TRUST_BUNDLE: &str = "type.googleapis.com/signet.v1.TrustBundle";
/// Type URLs of edge's resources, in the order in which a gateway wants them: a route after its backends.
pub const EDGE_TYPES: [&str; 6] =
    [EDGE_LISTENER, EDGE_CERTIFICATE, EDGE_BACKEND, EDGE_ROUTE, EDGE_HTTPS_HOST, EDGE_CHALLENGE];
pub const EDGE_LISTENER: &str = "type.googleapis.com/signet.edge.v1.Listener";
pub const EDGE_ROUTE: &str = "type.googleapis.com/signet.edge.v1.Route";
pub const EDGE_BACKEND: &str = "type.googleapis.com/signet.edge.v1.Backend";
pub const EDGE_HTTPS_HOST: &str = "type.googleapis.com/signet.edge.v1.HttpsHost";
pub const EDGE_CERTIFICATE: &str = "type.googleapis.com/signet.edge.v1.Certificate";
pub const EDGE_CHALLENGE: &str = "type.googleapis.com/signet.edge.v1.Challenge";

/// `DeltaDiscoveryResponse.system_version_info` of a response that is not all there is of its type: the next one comes after its ACK.
/// `proto/envoy/discovery.proto` has the rules.
pub const MORE: &str = "more";

/// The key in `IstioCertificateRequest.metadata` whose text asks for a serving certificate instead of an SVID: the DNS name.
pub const SERVING_FIELD: &str = "serving";
