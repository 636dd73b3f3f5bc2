//! What the running parts answer, in their own types; docs/cli.md passes the shapes on to users of `-o json`.

use serde::{Deserialize, Serialize};

pub(crate) use signet_ca::{
    Phase,
    admin::status::{Intermediate, RootState, Status as CaStatus},
};
pub(crate) use signet_controller::{
    answers::{
        EdgeList, EndpointAnswer, Endpoints, PodExplanation, ProxyStatus, ServiceExplanation,
        Status as ControllerStatus, WorkloadStatus,
    },
    edge::answers::{
        AcmeAnswer, AcmeCertificate, AcmeFailure, AcmeIssuer, AcmePreflight, AcmeRenew, AcmeRenewing,
        CertificateAnswer, EdgeCaAnswer, FindingList, HostAnswer, HostList, IngressAnswer, IngressFinding,
        RuleAnswer, Status as EdgeStatus, WayAnswer,
    },
    edges::{Edge, End},
};

/// A proxy's GET /identity. We do not link the proxy.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ProxyIdentity {
    pub(crate) spiffe_id: String,
    /// None: it has no certificate. Then the fields below are missing too.
    pub(crate) serial: Option<String>,
    /// RFC 3339.
    pub(crate) not_before: Option<String>,
    pub(crate) not_after: Option<String>,
    pub(crate) left_seconds: Option<i64>,
    /// Certificates that this process has had.
    pub(crate) generation: Option<u64>,
    pub(crate) key: Option<String>,
    /// PEM, leaf first.
    pub(crate) chain: Option<String>,
    pub(crate) bundle_sequence: Option<u64>,
    /// Ids.
    pub(crate) roots: Vec<String>,
    #[serde(default)]
    pub(crate) distrusted: Option<Vec<String>>,
    /// Why it trusts nobody.
    pub(crate) trust_fault: Option<String>,
}
