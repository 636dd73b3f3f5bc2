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
    /// Whether this replica orders certificates: no other knows why one is not ordered.
    #[serde(default)]
    pub leads: bool,
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
    /// "<namespace>/<name>" of its Secret; `None`: of an ACME authority or the edge CA, or there is none.
    pub secret: Option<String>,
    /// The certificate of `/v1/acme` that is served, or that it waits for.
    #[serde(default)]
    pub acme: Option<String>,
    /// The one that is served is of an authority's staging environment.
    #[serde(default)]
    pub staging: bool,
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
    /// As in [`HostList`].
    #[serde(default)]
    pub leads: bool,
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
    /// As in [`HostList`].
    #[serde(default)]
    pub leads: bool,
}

#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct IngressFinding {
    /// "<namespace>/<name>"
    pub ingress: String,
    #[serde(flatten)]
    pub finding: FindingAnswer,
}

/// `GET /v1/acme`: certificates of ACME authorities, and everything that is known of why one is not there.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AcmeAnswer {
    pub issuers: Vec<AcmeIssuer>,
    /// By their names.
    pub certificates: Vec<AcmeCertificate>,
    /// Records that cannot be read.
    pub broken: Vec<AcmeBroken>,
    /// This replica orders; of the others `preflight`, `heldBack`, and what is done next, are not known.
    pub leads: bool,
    /// Its name; empty in a directory.
    pub replica: String,
    /// Who orders, as last seen; empty: nobody, or a directory.
    #[serde(default)]
    pub leader: String,
}

#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AcmeIssuer {
    /// "letsencrypt", "Issuer shop/le" or "ClusterIssuer le".
    pub name: String,
    /// Its directory's URL; empty where `fault` says why.
    pub directory: String,
    /// What it certifies no browser believes.
    pub staging: bool,
    pub email: Option<String>,
    /// URL of our account there.
    pub account: Option<String>,
    /// Why nothing can be ordered of it.
    pub fault: Option<String>,
    /// What is written there and not honoured here.
    #[serde(default)]
    pub notes: Vec<String>,
}

#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AcmeCertificate {
    /// Of its names, and of the Secret that holds it.
    pub id: String,
    pub names: Vec<String>,
    /// Whose it is; empty: nobody wants it any more.
    pub namespace: String,
    /// "<namespace>/<name>" of those who ask for it, the oldest first.
    pub ingresses: Vec<String>,
    pub issuer: String,
    /// "http-01", "tls-alpn-01" or "dns-01".
    pub challenge: String,
    /// "<namespace>/<name>" of the Secret with the DNS credentials.
    pub dns_provider: Option<String>,
    /// "asking", "reading", "presenting", "presented", "telling", "validating", "ready", "finalizing", "issuing"; else "held" or
    /// "none": no order is under way.
    pub stage: String,
    /// The order under way is a rehearsal.
    #[serde(default)]
    pub rehearsal: bool,
    /// The staging twin believed the names, or was gone on without.
    pub rehearsed: bool,
    /// It is valid now, and gateways present it unless a Secret of the user's comes first.
    pub served: bool,
    pub staging: bool,
    pub not_before: Option<String>,
    pub not_after: Option<String>,
    /// When the next one is ordered, limits aside.
    pub renew_at: Option<String>,
    /// So little of its life is left that somebody should look.
    pub overdue: bool,
    /// `None`: this replica does not order.
    pub next: Option<AcmeNext>,
    pub held_back: Option<String>,
    /// Orders that failed since the last certificate, the oldest first.
    pub failures: Vec<AcmeFailure>,
    /// Calls that fail now.
    pub trouble: Option<String>,
    /// Of its CA.
    pub retry_after: Option<String>,
    /// `None`: this replica does not order, or has not looked yet.
    pub preflight: Option<AcmePreflight>,
    /// Who was asked for the challenges when they were last in place.
    pub seen: Vec<AcmeSight>,
}

#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AcmeNext {
    /// `None`: when something changes.
    pub at: Option<String>,
    pub step: String,
    pub because: String,
}

#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AcmeFailure {
    pub at: String,
    /// One line, with all that the CA said.
    pub text: String,
    /// It was a rehearsal, at the staging twin.
    #[serde(default)]
    pub rehearsal: bool,
    pub problem: AcmeProblem,
    /// Of the CA that it failed at, where it still counts.
    pub retry_after: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AcmeProblem {
    /// Without its URN; `None`: our own words.
    pub r#type: Option<String>,
    pub detail: String,
    pub names: Vec<AcmeNameProblem>,
}

#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AcmeNameProblem {
    pub name: String,
    pub r#type: Option<String>,
    pub detail: String,
}

#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AcmePreflight {
    /// Why no order is made.
    pub holds: Vec<String>,
    pub warnings: Vec<String>,
    pub at: String,
}

#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AcmeSight {
    /// A gateway's pod, or a name server.
    pub by: String,
    pub at: String,
    pub saw: bool,
    /// Why not; empty where it did.
    pub why: String,
}

#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AcmeBroken {
    pub id: String,
    pub why: String,
}

/// `POST /v1/acme/renew`.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AcmeRenew {
    pub host: String,
}

/// Its answer: 202. Refusals are 404 (nobody asks for a certificate for it) and 409, with words.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AcmeRenewing {
    pub id: String,
}
