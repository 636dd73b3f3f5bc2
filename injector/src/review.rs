//! AdmissionReview (admission.k8s.io/v1), as much of it as a webhook for pods needs. Pure: bytes in, bytes out.

use base64::prelude::{BASE64_STANDARD, Engine as _};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tracing::debug;

use crate::{Outcome, Settings, inject};

/// What was decided, for metric and log.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Decision {
    Injected,
    /// Injected before; nothing was left to do.
    Unchanged,
    Skipped(&'static str),
    Refused(&'static str),
}

/// An answer, and what to count and to log.
#[derive(Debug)]
pub struct Reviewed {
    /// An AdmissionReview in JSON.
    pub answer: Vec<u8>,
    pub decision: Decision,
    /// "shop/web-7d4b9-*"
    pub pod: String,
    /// For the log; empty where the decision says it all.
    pub why: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Question {
    api_version: String,
    request: Request,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Request {
    uid: String,
    kind: Kind,
    operation: String,
    #[serde(default)]
    namespace: String,
    #[serde(default)]
    object: Value,
}

#[derive(Deserialize)]
struct Kind {
    #[serde(default)]
    group: String,
    version: String,
    kind: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Answer<'a> {
    api_version: &'a str,
    kind: &'a str,
    response: Response<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Response<'a> {
    uid: &'a str,
    allowed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<Status>,
    #[serde(skip_serializing_if = "Option::is_none")]
    patch_type: Option<&'static str>,
    /// Base64 of a JSON patch.
    #[serde(skip_serializing_if = "Option::is_none")]
    patch: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
}

#[derive(Serialize)]
struct Status {
    code: u16,
    reason: &'static str,
    message: String,
}

/// Answers one review. Errors: the body is none, in words for who sent it.
pub fn review(body: &[u8], settings: &Settings) -> Result<Reviewed, String> {
    let question: Question = serde_json::from_slice(body)
        .map_err(|error| format!("no AdmissionReview: {}", shorten(&error.to_string(), MESSAGE)))?;
    if question.api_version != VERSION {
        return Err(format!("only AdmissionReview of {VERSION} is spoken here"));
    }
    let request = question.request;
    let pod = name(&request);
    let mut response = Response {
        uid: &request.uid,
        allowed: true,
        status: None,
        patch_type: None,
        patch: None,
        warnings: Vec::new(),
    };
    let kind = (&*request.kind.group, &*request.kind.version, &*request.kind.kind);
    let outcome = if kind == ("", "v1", "Pod") && request.operation == "CREATE" {
        // Its labels are not in an AdmissionReview: see docs/design.md section 5 about Pod Security.
        inject(&request.object, None, settings)
    } else {
        debug!(?kind, operation = %shorten(&request.operation, 16), "asked about what is no new pod");
        Outcome::Patch { ops: Vec::new(), warnings: Vec::new() }
    };
    let (decision, why) = match outcome {
        Outcome::Patch { ops, warnings } => {
            response.warnings = warnings.iter().map(|warning| shorten(warning, WARNING)).collect();
            let why = response.warnings.join("; ");
            if ops.is_empty() {
                (Decision::Unchanged, why)
            } else {
                let patch = serde_json::to_vec(&ops).map_err(|error| error.to_string())?;
                response.patch = Some(BASE64_STANDARD.encode(patch));
                response.patch_type = Some("JSONPatch");
                (Decision::Injected, why)
            }
        }
        Outcome::Skip(skip) => {
            let why = skip.words();
            if skip != crate::Skip::OptedOut {
                response.warnings.push(shorten(&format!("signet: not injected: {why}"), WARNING));
            }
            (Decision::Skipped(skip.reason()), why)
        }
        Outcome::Refuse(refusal) => {
            let (reason, why) = (refusal.reason(), refusal.words());
            let message = shorten(&format!("signet: {why} ({reason}, docs/injection.md)"), MESSAGE);
            response.allowed = false;
            response.status = Some(Status { code: 403, reason: "Forbidden", message });
            (Decision::Refused(reason), why)
        }
    };
    let answer = Answer { api_version: VERSION, kind: "AdmissionReview", response };
    let answer = serde_json::to_vec(&answer).map_err(|error| error.to_string())?;
    Ok(Reviewed { answer, decision, pod, why: shorten(&why, MESSAGE) })
}

/// Of a pod that may have no name yet, and never its own namespace.
fn name(request: &Request) -> String {
    let meta =
        |field: &str| request.object.get("metadata").and_then(|meta| meta.get(field)).and_then(Value::as_str);
    let name = match (meta("name"), meta("generateName")) {
        (Some(name), _) if !name.is_empty() => name.to_owned(),
        (_, Some(prefix)) => format!("{prefix}*"),
        _ => "*".into(),
    };
    shorten(&format!("{}/{name}", request.namespace), MESSAGE)
}

/// What others wrote, for a header or a log line.
fn shorten(text: &str, limit: usize) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(limit).collect()
}

const VERSION: &str = "admission.k8s.io/v1";
/// Characters of a warning: the API server cuts at 256 when there are many.
const WARNING: usize = 256;
/// Characters of a refusal: the list of known annotations fits.
const MESSAGE: usize = 1000;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::inject::tests::settings;

    fn asked(pod: Value) -> Vec<u8> {
        let kind = json!({ "group": "", "version": "v1", "kind": "Pod" });
        serde_json::to_vec(&json!({
            "apiVersion": VERSION, "kind": "AdmissionReview",
            "request": { "uid": "u-1", "kind": kind, "operation": "CREATE", "namespace": "shop", "object": pod },
        }))
        .unwrap()
    }

    fn answered(pod: Value) -> (Value, Reviewed) {
        let reviewed = review(&asked(pod), &settings()).unwrap();
        (serde_json::from_slice(&reviewed.answer).unwrap(), reviewed)
    }

    #[test]
    fn a_pod_is_answered_with_a_patch_in_base64_and_its_own_uid() {
        let (answer, reviewed) = answered(json!({
            "metadata": { "generateName": "web-7d4b9-" }, "spec": { "containers": [{ "name": "web" }] },
        }));
        assert_eq!((reviewed.decision, &*reviewed.pod), (Decision::Injected, "shop/web-7d4b9-*"));
        assert_eq!(answer["apiVersion"], "admission.k8s.io/v1");
        assert_eq!(answer["response"]["uid"], "u-1");
        assert_eq!(answer["response"]["allowed"], true);
        assert_eq!(answer["response"]["patchType"], "JSONPatch");
        let patch = BASE64_STANDARD.decode(answer["response"]["patch"].as_str().unwrap()).unwrap();
        let patch: Value = serde_json::from_slice(&patch).unwrap();
        assert_eq!(patch[0]["op"], "add");
    }

    #[test]
    fn a_skipped_pod_is_allowed_with_a_warning_and_a_refused_one_is_told_its_reason() {
        let (answer, reviewed) = answered(json!({ "spec": { "hostNetwork": true, "containers": [] } }));
        assert_eq!(reviewed.decision, Decision::Skipped("host_network"));
        assert_eq!(answer["response"]["allowed"], true);
        assert!(answer["response"]["warnings"][0].as_str().unwrap().starts_with("signet: not injected: "));
        assert!(answer["response"].get("patch").is_none());

        let (answer, reviewed) = answered(json!({
            "metadata": { "annotations": { "signet.dev/mtls": "strict" } }, "spec": { "containers": [] },
        }));
        assert_eq!(reviewed.decision, Decision::Refused("unknown_setting"));
        assert_eq!(answer["response"]["allowed"], false);
        let message = answer["response"]["status"]["message"].as_str().unwrap();
        assert!(
            message.contains("belongs on a Namespace label") && message.contains("unknown_setting"),
            "{message}"
        );

        let opted_out = json!({ "metadata": { "labels": { "signet.dev/inject": "disabled" } }, "spec": { "containers": [] } });
        let (answer, reviewed) = answered(opted_out);
        assert_eq!(reviewed.decision, Decision::Skipped("pod_opted_out"));
        assert!(answer["response"].get("warnings").is_none(), "who opts out knows it");
    }

    #[test]
    fn what_is_no_review_of_ours_is_an_error_and_what_is_no_new_pod_is_let_through() {
        for body in ["", "{}", "[]", "{\"apiVersion\":\"admission.k8s.io/v1beta1\",\"request\":{}}"] {
            assert!(review(body.as_bytes(), &settings()).is_err(), "{body}");
        }
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        assert!(review(deep.as_bytes(), &settings()).is_err());
        let mut other: Value = serde_json::from_slice(&asked(json!({}))).unwrap();
        other["request"]["operation"] = "UPDATE".into();
        let reviewed = review(&serde_json::to_vec(&other).unwrap(), &settings()).unwrap();
        assert_eq!(reviewed.decision, Decision::Unchanged);
    }

    #[test]
    fn an_answer_holds_no_control_characters_of_a_stranger() {
        let (answer, reviewed) = answered(json!({
            "metadata": { "name": "a\u{1b}[2J", "annotations": { "signet.dev/\u{7}\n": "x" } }, "spec": { "containers": [] },
        }));
        let message = answer["response"]["status"]["message"].as_str().unwrap();
        assert!(!message.contains(char::is_control) && !reviewed.pod.contains(char::is_control), "{message}");
    }
}
