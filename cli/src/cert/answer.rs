//! What follows from edge's answer: for which hosts a certificate is, whether it is as it should be, and in which words. Pure.

use crate::{
    output::Mark,
    shapes::{AcmeAnswer, AcmeCertificate, AcmeIssuer},
};

/// The certificate that a client of `host` is to get: one that is asked for before one that is not any more and good until it ends, one
/// that names it before a wildcard, what is served before what is not.
pub(crate) fn of<'a>(answer: &'a AcmeAnswer, host: &str) -> Option<&'a AcmeCertificate> {
    let is_of_use = |certificate: &&AcmeCertificate| is_wanted(certificate) || certificate.served;
    let all = answer.certificates.iter().filter(|certificate| covers(certificate, host)).filter(is_of_use);
    all.min_by_key(|certificate| {
        let is_named = certificate.names.iter().any(|name| name == host);
        (!is_wanted(certificate), !is_named, !certificate.served)
    })
}

pub(crate) fn issuer<'a>(answer: &'a AcmeAnswer, name: &str) -> Option<&'a AcmeIssuer> {
    answer.issuers.iter().find(|issuer| issuer.name == name)
}

fn covers(certificate: &AcmeCertificate, host: &str) -> bool {
    let below = |name: &str| {
        let parent = host.split_once('.').map(|(_, parent)| parent);
        name.strip_prefix("*.").is_some_and(|suffix| parent == Some(suffix))
    };
    certificate.names.iter().any(|name| name == host || below(name))
}

/// An order is under way.
pub(crate) fn is_ordering(certificate: &AcmeCertificate) -> bool {
    !["held", "none", ""].contains(&certificate.stage.as_str())
}

fn is_wanted(certificate: &AcmeCertificate) -> bool {
    !certificate.namespace.is_empty()
}

/// Somebody has to look: one that is not served, that was not renewed in time, or that cannot be.
pub(crate) fn is_wrong(certificate: &AcmeCertificate) -> bool {
    let is_fine = certificate.served
        && !certificate.overdue
        && certificate.held_back.is_none()
        && certificate.failures.is_empty();
    is_wanted(certificate) && !is_fine
}

/// The first order is under way, or its turn comes by itself: there is nothing to fix yet.
pub(crate) fn is_first_order(certificate: &AcmeCertificate) -> bool {
    let never_had = !certificate.served && certificate.not_after.is_none();
    let nothing_failed =
        certificate.held_back.is_none() && certificate.trouble.is_none() && certificate.failures.is_empty();
    let is_due = certificate.next.as_ref().is_some_and(|next| next.at.is_some());
    never_had && nothing_failed && (is_ordering(certificate) || is_due)
}

/// In a word or three.
pub(crate) fn state(certificate: &AcmeCertificate) -> (Mark, String) {
    let fails = !certificate.failures.is_empty();
    let is_held_back = certificate.held_back.is_some();
    let (mark, state) = match certificate {
        one if !is_wanted(one) => (Mark::Aside, "no longer asked for"),
        AcmeCertificate { served: true, overdue: true, .. } => (Mark::Bad, "overdue"),
        AcmeCertificate { served: true, staging: true, .. } => (Mark::Bad, "staging"),
        AcmeCertificate { served: true, .. } if is_held_back => (Mark::Bad, "served, held back"),
        AcmeCertificate { served: true, .. } if fails => (Mark::Bad, "served, renewal fails"),
        AcmeCertificate { served: true, .. } => (Mark::Good, "served"),
        _ if is_held_back => (Mark::Bad, "held back"),
        _ if fails => (Mark::Bad, "failed"),
        AcmeCertificate { rehearsal: true, .. } => (Mark::Aside, "rehearsing"),
        one if is_ordering(one) => (Mark::Aside, "ordering"),
        _ => (Mark::Bad, "none"),
    };
    let stage = if is_ordering(certificate) { format!(": {}", certificate.stage) } else { String::new() };
    (mark, format!("{state}{stage}"))
}

/// What it waits for, in the words of who knows best.
pub(crate) fn waits_for(certificate: &AcmeCertificate) -> Option<String> {
    let failure = || certificate.failures.last().map(|failure| failure.text.clone());
    let next = || certificate.next.as_ref().map(|next| next.because.clone()).filter(|why| !why.is_empty());
    certificate.held_back.clone().or_else(|| certificate.trouble.clone()).or_else(failure).or_else(next)
}

/// "*.example.com, example.com and 7 more"
pub(crate) fn hosts(certificate: &AcmeCertificate) -> String {
    let shown = certificate.names.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", ");
    match certificate.names.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

/// Names in one cell.
const SHOWN: usize = 3;

/// Of a namespace `shop`, with these fields.
#[cfg(test)]
pub(crate) fn certificate(fields: &serde_json::Value) -> AcmeCertificate {
    let mut whole = serde_json::to_value(AcmeCertificate {
        names: vec!["app.example.com".into()],
        namespace: "shop".into(),
        issuer: "letsencrypt".into(),
        challenge: "http-01".into(),
        stage: "none".into(),
        ..AcmeCertificate::default()
    })
    .unwrap();
    for (key, value) in fields.as_object().unwrap() {
        whole[key] = value.clone();
    }
    serde_json::from_value(whole).unwrap()
}

/// `names`: what it says of single names.
#[cfg(test)]
pub(crate) fn failure(at: &str, text: &str, names: &serde_json::Value) -> serde_json::Value {
    serde_json::json!({"at": at, "text": text, "retryAfter": null,
        "problem": {"type": "unauthorized", "detail": "invalid authorizations", "names": names}})
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_host_has_the_certificate_that_names_it_before_that_of_a_wildcard_of_one_label() {
        let wildcard = certificate(&json!({"names": ["*.example.com"], "served": true}));
        let exact = certificate(&json!({"names": ["www.example.com", "a.example.com"]}));
        let answer = AcmeAnswer { certificates: vec![wildcard, exact], ..AcmeAnswer::default() };
        let found = |host| of(&answer, host).map(|certificate| certificate.names[0].as_str());
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
    fn what_nobody_asks_for_any_more_never_hides_the_one_that_is_asked_for() {
        let old = certificate(&json!({"id": "old", "namespace": "", "served": true}));
        let failing = certificate(&json!({"id": "new", "names": ["app.example.com", "www.example.com"]}));
        let wildcard = certificate(&json!({"id": "wildcard", "names": ["*.example.com"], "served": true}));
        let found = |certificates: &[&AcmeCertificate]| {
            let certificates = certificates.iter().copied().cloned().collect();
            let answer = AcmeAnswer { certificates, ..AcmeAnswer::default() };
            of(&answer, "app.example.com").map(|certificate| certificate.id.clone())
        };
        assert_eq!(found(&[&old, &failing, &wildcard]).as_deref(), Some("new"));
        assert_eq!(found(&[&old, &wildcard]).as_deref(), Some("wildcard"));
        assert_eq!(found(&[&old]).as_deref(), Some("old"));
        assert_eq!(found(&[&AcmeCertificate { served: false, ..old }]), None);
    }

    #[test]
    fn a_first_order_is_nothing_to_fix_until_something_stands_in_its_way() {
        let next =
            |at: serde_json::Value| json!({"at": at, "step": "ask for an order", "because": "it is new"});
        for (fields, first) in [
            (json!({"stage": "validating"}), true),
            (json!({"next": next(json!("1970-01-12T13:46:40Z"))}), true),
            (json!({"next": next(json!(null))}), false),
            (json!({}), false),
            (json!({"stage": "validating", "heldBack": "CAA"}), false),
            (json!({"stage": "validating", "trouble": "no route"}), false),
            (json!({"stage": "asking", "failures": [failure("1", "no", &json!([]))]}), false),
            (json!({"stage": "asking", "served": true}), false),
            (json!({"stage": "asking", "notAfter": "1970-01-12T13:46:40Z"}), false), // it has ended
        ] {
            assert_eq!(is_first_order(&certificate(&fields)), first, "{fields}");
        }
    }

    #[test]
    fn what_somebody_has_to_look_at_is_marked_and_named() {
        let failed = json!([failure("1", "no", &json!([]))]);
        for (fields, mark, word, wrong) in [
            (json!({"served": true}), Mark::Good, "served", false),
            (json!({"served": true, "stage": "validating"}), Mark::Good, "served: validating", false),
            (json!({"served": true, "stage": "held"}), Mark::Good, "served", false),
            (json!({"served": true, "staging": true}), Mark::Bad, "staging", false),
            (json!({"served": true, "overdue": true}), Mark::Bad, "overdue", true),
            (json!({"served": true, "failures": failed}), Mark::Bad, "served, renewal fails", true),
            (json!({"stage": "asking"}), Mark::Aside, "ordering: asking", true),
            (json!({"stage": "telling", "rehearsal": true}), Mark::Aside, "rehearsing: telling", true),
            (json!({"failures": failed}), Mark::Bad, "failed", true),
            (json!({"heldBack": "CAA"}), Mark::Bad, "held back", true),
            (json!({}), Mark::Bad, "none", true),
            (json!({"namespace": ""}), Mark::Aside, "no longer asked for", false),
        ] {
            let certificate = certificate(&fields);
            assert_eq!(state(&certificate), (mark, word.to_owned()), "{fields}");
            assert_eq!(is_wrong(&certificate), wrong, "{fields}");
        }
    }

    #[test]
    fn what_it_waits_for_is_said_by_who_knows_best() {
        let next = json!({"at": null, "step": "wait", "because": "nothing"});
        let words = |mut fields: serde_json::Value| {
            fields["next"] = next.clone();
            waits_for(&certificate(&fields))
        };
        assert_eq!(words(json!({})).as_deref(), Some("nothing"));
        assert_eq!(words(json!({"trouble": "no route"})).as_deref(), Some("no route"));
        assert_eq!(words(json!({"trouble": "no route", "heldBack": "CAA"})).as_deref(), Some("CAA"));
    }
}
