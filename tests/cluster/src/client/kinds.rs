//! Kinds of certificates.k8s.io/v1 that k8s-openapi does not have for the oldest cluster that we support.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{
    Api,
    api::ApiResource,
    core::{GroupVersionKind, Object},
};
use serde::{Deserialize, Serialize};

use super::Namespace;

/// What the kubelet asks for a pod with a `podCertificate` volume.
pub type PodCertificateRequest = Object<PodCertificateRequestSpec, PodCertificateRequestStatus>;

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodCertificateRequestSpec {
    pub signer_name: String,
    pub pod_name: String,
    #[serde(rename = "podUID")]
    pub pod_uid: String,
    pub service_account_name: String,
    pub node_name: String,
    pub max_expiration_seconds: i64,
    /// Base64 of a PKCS#10 request: it carries the public key and proves the private one, and says nothing else.
    #[serde(rename = "stubPKCS10Request")]
    pub stub_pkcs10_request: String,
    #[serde(default)]
    pub unverified_user_annotations: std::collections::BTreeMap<String, String>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodCertificateRequestStatus {
    /// `Issued`, `Denied` or `Failed`; one of them at most.
    #[serde(default)]
    pub conditions: Vec<Condition>,
    /// PEM, the leaf first. The times below are RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate_chain: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_before: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub begin_refresh_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_after: Option<String>,
}

pub fn pod_certificate_requests(namespace: &Namespace) -> Api<PodCertificateRequest> {
    let kind = GroupVersionKind::gvk("certificates.k8s.io", "v1", "PodCertificateRequest");
    let resource = ApiResource::from_gvk_with_plural(&kind, "podcertificaterequests");
    Api::namespaced_with(namespace.cluster.client.clone(), &namespace.name, &resource)
}
