//! What edge's pages say, as JSON: shared with who asks (`cli`), and described for users in docs/cli.md. Fields are added, never
//! changed in meaning. Times are RFC 3339; `None` is null.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::source::ManifestError;

/// `GET /v1/status`.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    pub version: String,
    /// Ingresses of our class, and hosts.
    pub ingresses: usize,
    pub hosts: usize,
    /// Errors in manifests, and in annotations of Namespaces.
    pub errors: Vec<ManifestError>,
    /// Kinds of which we hear nothing new now ("pods", "claims"), each with the error. What is known of them stays in use.
    pub faults: BTreeMap<String, String>,
    /// This replica; `None` in a directory.
    pub replica: Option<Replica>,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Replica {
    pub name: String,
    /// It holds the Lease: status, Events and claims are written by it.
    pub leads: bool,
    /// Who does, as last seen; empty: nobody.
    pub leader: String,
}

/// `GET /v1/hosts`.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HostList {
    pub hosts: Vec<HostAnswer>,
}

/// A host that some Ingress asks for.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HostAnswer {
    /// "app.example.com", "*.example.com", or "*": every host that no other rule has.
    pub host: String,
    /// Its second name, "app.example.com.localhost", where hosts have one.
    #[serde(default)]
    pub alias: Option<String>,
    /// The namespace that it belongs to.
    pub owner: String,
    /// By which rule: "pin", "claim", "kept", "wildcard", "age".
    pub by: String,
    /// A sentence of that.
    pub why: String,
    /// "<namespace>/<name>" of the Ingresses that are served, the oldest first.
    pub ingresses: Vec<String>,
    pub rules: Vec<RuleAnswer>,
    /// What plaintext requests get: "redirect" (308), "waiting" (503 until there is a certificate), "served".
    pub plaintext: String,
    /// `None`: none is asked for.
    pub certificate: Option<CertificateAnswer>,
    /// Ingresses that ask for it and do not get it.
    pub refused: Vec<Refusal>,
}

#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RuleAnswer {
    /// "<namespace>/<name>"
    pub ingress: String,
    /// "exact", "prefix", "regex", or "default": what no path takes.
    pub kind: String,
    pub path: String,
    /// "shop/web:80"; `None`: it is answered without one.
    pub backend: Option<String>,
    /// The status that is answered instead.
    pub answers: Option<u16>,
    pub endpoints: Vec<WayAnswer>,
}

#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct WayAnswer {
    /// "10.0.0.1:8080"
    pub address: String,
    /// "<namespace>/<name>"; empty: no Pod has the address.
    pub pod: String,
    /// "mesh", "tls" (the app's own, not verified), "plain", "refused".
    pub transport: String,
    /// The SPIFFE ID that it must prove, in "mesh"; else why, a word of docs/reasons or a sentence.
    pub detail: String,
}

#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CertificateAnswer {
    /// One is served.
    pub served: bool,
    /// "<namespace>/<name>" of its Secret; `None`: of the edge CA, or there is none.
    pub secret: Option<String>,
    pub names: Vec<String>,
    pub issuer: Option<String>,
    pub not_after: Option<String>,
    /// Of the one that is served.
    pub left_seconds: Option<i64>,
    /// Why there is none, or why it is not the newest.
    pub why: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Refusal {
    /// "<namespace>/<name>"
    pub ingress: String,
    pub why: String,
}

/// `GET /v1/edge-ca`.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EdgeCaAnswer {
    pub id: String,
    /// Its root.
    pub pem: String,
    /// It certifies names below these.
    pub suffixes: Vec<String>,
    pub not_after: String,
}

/// `GET /v1/ingress/<namespace>/<name>`.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct IngressAnswer {
    pub namespace: String,
    pub name: String,
    /// Nothing of it is served.
    pub refused: bool,
    /// Addresses in its status.
    pub addresses: Vec<String>,
    /// Its hosts; of those that it does not get, only the owner and why.
    pub hosts: Vec<HostAnswer>,
    pub findings: Vec<FindingAnswer>,
}

#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FindingAnswer {
    /// A heading of docs/ingress.md, and the reason of the Event.
    pub word: String,
    pub message: String,
}

/// `GET /v1/findings`: of every Ingress of our class, by its name.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FindingList {
    pub findings: Vec<IngressFinding>,
    /// The edge CA that some of them want.
    #[serde(default)]
    pub edge_ca: Option<EdgeCaAnswer>,
}

#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct IngressFinding {
    /// "<namespace>/<name>"
    pub ingress: String,
    #[serde(flatten)]
    pub finding: FindingAnswer,
}
