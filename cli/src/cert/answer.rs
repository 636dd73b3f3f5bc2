//! What edge says about certificates of ACME CAs, and what follows from it: whether one is as it should be, and for which hosts it is.

use serde::{Deserialize, Serialize};

use crate::output::Mark;

/// `GET /v1/acme`. Times are RFC 3339.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct AcmeAnswer {
    pub(crate) issuers: Vec<IssuerAnswer>,
    pub(crate) certificates: Vec<AcmeCertificate>,
    /// Records that cannot be read; their names get no certificate.
    pub(crate) broken: Vec<Broken>,
    /// This replica orders.
    pub(crate) leads: bool,
    pub(crate) replica: String,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct IssuerAnswer {
    pub(crate) name: String,
    pub(crate) directory: String,
    /// No browser believes what it issues.
    pub(crate) staging: bool,
    pub(crate) email: Option<String>,
    /// URL of our account there; `None`: none yet.
    pub(crate) account: Option<String>,
    /// Why it cannot be asked.
    pub(crate) fault: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct AcmeCertificate {
    pub(crate) id: String,
    pub(crate) names: Vec<String>,
    pub(crate) namespace: String,
    /// "<namespace>/<name>"
    pub(crate) ingresses: Vec<String>,
    pub(crate) issuer: String,
    /// "http-01", "tls-alpn-01", "dns-01"
    pub(crate) challenge: String,
    /// "<namespace>/<name>" of the Secret with the zone's credentials.
    pub(crate) dns_provider: Option<String>,
    /// How far an order is (docs/acme.md), or a word of one that is none.
    pub(crate) stage: String,
    /// The CA's staging environment believed the names.
    pub(crate) rehearsed: bool,
    pub(crate) served: bool,
    pub(crate) staging: bool,
    /// Of what is held.
    pub(crate) not_before: Option<String>,
    pub(crate) not_after: Option<String>,
    pub(crate) renew_at: Option<String>,
    /// Less than a third of its life is left (half, below ten days).
    pub(crate) overdue: bool,
    pub(crate) next: Option<Next>,
    pub(crate) held_back: Option<String>,
    /// Orders that failed since the last certificate, the newest last.
    pub(crate) failures: Vec<Failure>,
    /// Calls that fail now.
    pub(crate) trouble: Option<String>,
    /// The CA's own word; nothing passes it.
    pub(crate) retry_after: Option<String>,
    pub(crate) preflight: Option<Preflight>,
    /// Who was asked for the challenge before the CA was told.
    pub(crate) seen: Vec<Seen>,
}

/// `at`: `None`: never by itself.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Next {
    pub(crate) at: Option<String>,
    pub(crate) step: String,
    pub(crate) because: String,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Failure {
    pub(crate) at: String,
    pub(crate) text: String,
    pub(crate) problem: Option<Problem>,
    pub(crate) retry_after: Option<String>,
}

/// A CA's problem document (RFC 8555 6.7).
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Problem {
    /// Without `urn:ietf:params:acme:error:`; `None`: not the CA's words.
    pub(crate) r#type: Option<String>,
    pub(crate) detail: String,
    pub(crate) names: Vec<OfName>,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct OfName {
    pub(crate) name: String,
    pub(crate) r#type: Option<String>,
    pub(crate) detail: String,
}

/// What DNS says against an order.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Preflight {
    pub(crate) holds: Vec<String>,
    pub(crate) warnings: Vec<String>,
    pub(crate) at: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Seen {
    /// A gateway's pod, or a zone's server.
    pub(crate) by: String,
    pub(crate) at: Option<String>,
    pub(crate) saw: bool,
    pub(crate) why: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Broken {
    pub(crate) id: String,
    pub(crate) why: String,
}

impl AcmeAnswer {
    /// The certificate that a client of `host` is to get: one that names it before a wildcard, what is served before what is not.
    pub(crate) fn of(&self, host: &str) -> Option<&AcmeCertificate> {
        let all = self.certificates.iter().filter(|certificate| certificate.covers(host));
        all.min_by_key(|certificate| {
            let is_named = certificate.names.iter().any(|name| name == host);
            (!is_named, !certificate.served)
        })
    }

    pub(crate) fn issuer(&self, name: &str) -> Option<&IssuerAnswer> {
        self.issuers.iter().find(|issuer| issuer.name == name)
    }
}

impl AcmeCertificate {
    pub(crate) fn covers(&self, host: &str) -> bool {
        let below = |name: &str| {
            let parent = host.split_once('.').map(|(_, parent)| parent);
            name.strip_prefix("*.").is_some_and(|suffix| parent == Some(suffix))
        };
        self.names.iter().any(|name| name == host || below(name))
    }

    /// An order is under way.
    pub(crate) fn is_ordering(&self) -> bool {
        STAGES.contains(&self.stage.as_str())
    }

    /// Somebody has to look: one that is not served, that was not renewed in time, or that cannot be.
    pub(crate) fn is_wrong(&self) -> bool {
        !self.served || self.overdue || self.held_back.is_some() || !self.failures.is_empty()
    }

    /// In a word or three.
    pub(crate) fn state(&self) -> (Mark, String) {
        let (mark, state) = match self {
            Self { served: true, overdue: true, .. } => (Mark::Bad, "overdue"),
            Self { served: true, staging: true, .. } => (Mark::Bad, "staging"),
            Self { held_back: Some(_), served: true, .. } => (Mark::Bad, "served, held back"),
            Self { held_back: Some(_), .. } => (Mark::Bad, "held back"),
            Self { served: true, .. } if !self.failures.is_empty() => (Mark::Bad, "served, renewal fails"),
            Self { served: true, .. } => (Mark::Good, "served"),
            _ if !self.failures.is_empty() => (Mark::Bad, "failed"),
            _ if self.is_ordering() => (Mark::Aside, "ordering"),
            _ => (Mark::Bad, "none"),
        };
        let stage = if self.is_ordering() { format!(": {}", self.stage) } else { String::new() };
        (mark, format!("{state}{stage}"))
    }

    /// What it waits for, in the words of who knows best.
    pub(crate) fn waits_for(&self) -> Option<String> {
        let failure = || self.failures.last().map(|failure| failure.text.clone());
        let next = || self.next.as_ref().map(|next| next.because.clone()).filter(|why| !why.is_empty());
        self.held_back.clone().or_else(|| self.trouble.clone()).or_else(failure).or_else(next)
    }

    /// "*.example.com, example.com and 7 more"
    pub(crate) fn hosts(&self) -> String {
        let shown = self.names.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", ");
        match self.names.len().saturating_sub(SHOWN) {
            0 => shown,
            more => format!("{shown} and {more} more"),
        }
    }
}

/// Of an order (docs/acme.md).
const STAGES: [&str; 9] = [
    "asking",
    "reading",
    "presenting",
    "presented",
    "telling",
    "validating",
    "ready",
    "finalizing",
    "issuing",
];
/// Names in one cell.
const SHOWN: usize = 3;

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate(names: &[&str]) -> AcmeCertificate {
        let names = names.iter().map(|&name| name.to_owned()).collect();
        AcmeCertificate { names, served: true, ..AcmeCertificate::default() }
    }

    #[test]
    fn a_host_has_the_certificate_that_names_it_before_that_of_a_wildcard_of_one_label() {
        let wildcard = certificate(&["*.example.com"]);
        let exact = AcmeCertificate { served: false, ..certificate(&["www.example.com", "a.example.com"]) };
        let answer = AcmeAnswer { certificates: vec![wildcard, exact], ..AcmeAnswer::default() };
        let found = |host| answer.of(host).map(|certificate| certificate.names[0].as_str());
        for (host, want) in [
            ("a.example.com", Some("www.example.com")),
            ("b.example.com", Some("*.example.com")),
            ("*.example.com", Some("*.example.com")),
            ("x.b.example.com", None),
            ("example.com", None),
        ] {
            assert_eq!(found(host), want, "{host}");
        }
    }

    #[test]
    fn what_somebody_has_to_look_at_is_marked_and_named() {
        let fine = certificate(&["a.example.com"]);
        let failures = vec![Failure::default()];
        for (case, certificate, want, wrong) in [
            ("served", fine.clone(), (Mark::Good, "served"), false),
            (
                "renewing",
                AcmeCertificate { stage: "validating".into(), ..fine.clone() },
                (Mark::Good, "served: validating"),
                false,
            ),
            ("staging", AcmeCertificate { staging: true, ..fine.clone() }, (Mark::Bad, "staging"), false),
            ("overdue", AcmeCertificate { overdue: true, ..fine.clone() }, (Mark::Bad, "overdue"), true),
            (
                "failing",
                AcmeCertificate { failures: failures.clone(), ..fine.clone() },
                (Mark::Bad, "served, renewal fails"),
                true,
            ),
            (
                "first",
                AcmeCertificate { served: false, stage: "asking".into(), ..fine.clone() },
                (Mark::Aside, "ordering: asking"),
                true,
            ),
            ("failed", AcmeCertificate { served: false, failures, ..fine.clone() }, (Mark::Bad, "failed"), true),
            (
                "held",
                AcmeCertificate { served: false, held_back: Some("x".into()), ..fine },
                (Mark::Bad, "held back"),
                true,
            ),
        ] {
            assert_eq!(certificate.state(), (want.0, want.1.to_owned()), "{case}");
            assert_eq!(certificate.is_wrong(), wrong, "{case}");
        }
    }

    #[test]
    fn an_answer_of_another_version_is_read_as_far_as_it_is_known() {
        let answer: AcmeAnswer = serde_json::from_str(
            r#"{"certificates": [{"names": ["a"], "future": 1, "next": {"at": null, "step": "wait", "because": "nothing"}}]}"#,
        )
        .unwrap();
        assert_eq!(answer.certificates[0].waits_for().as_deref(), Some("nothing"));
    }
}
