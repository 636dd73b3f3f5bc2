//! What the demo promises, and whether the evidence holds it. Pure: the evidence in, one verdict for each promise out.

use serde::Serialize;

use super::{public::HOST, reading::Reading, tap::Seen};
use crate::{edges, human, shapes::Edge};

/// One promise and how it came out.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub(super) struct Promise {
    pub(super) promise: &'static str,
    pub(super) held: bool,
    /// What was seen, in words.
    pub(super) because: String,
}

/// All that was seen.
#[derive(Clone, Debug, Default)]
pub(super) struct Evidence {
    /// Answers that web got from api, each with the marker that api had fetched from db.
    pub(super) answers: u64,
    /// Of wiretaps between two meshed pods: "web -> api" and what was seen.
    pub(super) meshed: Vec<(String, Seen)>,
    /// Of the wiretap between web and billing, which is not meshed.
    pub(super) unmeshed: Seen,
    /// What cron, not meshed, got from reports (permissive) and from db (strict); what web, meshed, got from db (a policy
    /// names api only). `Ok` is an answer.
    pub(super) cron_to_reports: Outcome,
    pub(super) cron_to_db: Outcome,
    pub(super) web_to_db: Outcome,
    /// Pages that a visitor got over HTTPS, believing in the edge CA alone.
    pub(super) visits: u64,
    pub(super) edges: Vec<Edge>,
}

/// What came of calls that were made.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Outcome {
    pub(super) answered: u64,
    pub(super) refused: u64,
}

pub(super) fn judge(evidence: &Evidence) -> Vec<Promise> {
    vec![
        apps_just_talk(evidence),
        both_ends_prove_who_they_are(evidence),
        a_wiretap_reads_nothing(evidence),
        the_wiretap_works(evidence),
        plaintext_is_shown(evidence),
        strict_refuses_plaintext(evidence),
        identity_decides(evidence),
        the_public_is_served_over_https(evidence),
    ]
}

fn apps_just_talk(evidence: &Evidence) -> Promise {
    let answers = evidence.answers;
    Promise {
        promise: "Apps speak plain TCP and know nothing of the mesh",
        held: answers > 0,
        because: format!(
            "web asked api, which asked db: {} came back whole",
            human::count(answers, "answer")
        ),
    }
}

fn both_ends_prove_who_they_are(evidence: &Evidence) -> Promise {
    let proven = |client: &str, server: &str| {
        let id =
            |pod: &str| Some(format!("spiffe://cluster.local/ns/shop/sa/{}", pod.trim_end_matches("-0")));
        find(evidence, client, server, |edge| edge.secured).is_some_and(|edge| {
            edge.tls.as_ref().is_some_and(|tls| tls.version == TLS13)
                && edge.proof == "both"
                && edge.client.id == id(client.trim_start_matches("shop/"))
                && edge.server.id == id(server.trim_start_matches("shop/"))
        })
    };
    let edges = [("shop/web-0", "shop/api-0"), ("shop/api-0", "shop/db-0")];
    let missing: Vec<String> = edges
        .iter()
        .filter(|(client, server)| !proven(client, server))
        .map(|(client, server)| format!("{client} -> {server}"))
        .collect();
    Promise {
        promise: "Between meshed pods all is mutual TLS 1.3",
        held: missing.is_empty(),
        because: match &missing[..] {
            [] => "web -> api and api -> db: both ends verified the other's SPIFFE ID, and both report it"
                .into(),
            _ => format!("not proven by both ends: {}", missing.join(", ")),
        },
    }
}

fn a_wiretap_reads_nothing(evidence: &Evidence) -> Promise {
    let promise = "Who taps the wire between them reads nothing";
    for (edge, seen) in &evidence.meshed {
        let leaked = seen.sent.marker + seen.received.marker;
        let reading = Reading::of(&seen.sent.first, &seen.received.first);
        let why = match reading {
            _ if leaked > 0 => format!("{edge}: the apps' secret passed {leaked} times in the clear"),
            _ if seen.connections == 0 => format!("{edge}: nothing passed, so nothing is proven"),
            Reading::Open(what) => format!("{edge}: the wire shows {what}"),
            Reading::Tls13 { .. } => continue,
        };
        return Promise { promise, held: false, because: why };
    }
    let bytes = evidence.meshed.iter().map(|(_, seen)| seen.sent.bytes + seen.received.bytes).sum();
    let because = format!(
        "the apps' secret is in none of the {} that passed; only TLS 1.3 records are",
        human::bytes(bytes)
    );
    Promise { promise, held: !evidence.meshed.is_empty(), because }
}

fn the_wiretap_works(evidence: &Evidence) -> Promise {
    let found = evidence.unmeshed.sent.marker + evidence.unmeshed.received.marker;
    Promise {
        promise: "... and the tap is a real one",
        held: found > 0,
        because: format!("the same tap on web -> billing, which has no proxy, read the secret {found} times"),
    }
}

fn plaintext_is_shown(evidence: &Evidence) -> Promise {
    let plain = |client, server| {
        let edge = find(evidence, client, server, edges::is_plaintext)?;
        edge.reason.clone().filter(|reason| !reason.is_empty())
    };
    let out = plain("shop/web-0", "legacy/billing-0");
    let inward = plain("legacy/cron-0", "office/reports-0");
    let held =
        out.as_deref() == Some(NOT_LABELLED) && inward.is_some() && evidence.cron_to_reports.answered > 0;
    Promise {
        promise: "Plaintext still works where it is allowed, and is shown",
        held,
        because: match (out, inward) {
            (Some(out), Some(inward)) => {
                format!("web -> billing: {out}; cron -> reports (permissive): {inward}")
            }
            (None, _) => "web -> billing is not reported as plaintext".into(),
            (_, None) => "cron -> reports is not reported as plaintext".into(),
        },
    }
}

fn strict_refuses_plaintext(evidence: &Evidence) -> Promise {
    let edge = find(evidence, "legacy/cron-0", "shop/db-0", |edge| edge.refused);
    refusal(
        "A strict pod takes no plaintext",
        "cron (not meshed) -> db",
        evidence.cron_to_db,
        edge,
        "plaintext_refused",
    )
}

fn identity_decides(evidence: &Evidence) -> Promise {
    let edge = find(evidence, "shop/web-0", "shop/db-0", |edge| {
        edge.refused && edge.reason.as_deref() == Some("policy_denied")
    });
    refusal(
        "A certificate alone opens no door",
        "web -> db (policy: only api)",
        evidence.web_to_db,
        edge,
        "policy_denied",
    )
}

fn the_public_is_served_over_https(evidence: &Evidence) -> Promise {
    let is_hop = |edge: &&Edge| edge.secured && edge.client.id.as_deref() == Some(GATEWAY);
    let mut hops = evidence.edges.iter().filter(is_hop);
    let hop = hops.find(|edge| edge.server.pod.as_deref() == Some("blog-0"));
    let because = match (evidence.visits, hop) {
        (0, _) => format!("nobody who believes in the edge CA got a page of {HOST}"),
        (_, None) => "the gateway's way to blog is not proven to be mutual TLS".into(),
        (visits, Some(_)) => format!(
            "who believes in the edge CA alone got {} of {HOST}; gateway -> blog is mutual TLS",
            human::count(visits, "page")
        ),
    };
    Promise {
        promise: "An ordinary Ingress is served over HTTPS",
        held: evidence.visits > 0 && hop.is_some(),
        because,
    }
}

fn refusal(promise: &'static str, who: &str, calls: Outcome, edge: Option<&Edge>, word: &str) -> Promise {
    let reason = edge.and_then(|edge| edge.reason.as_deref());
    let held = calls.answered == 0 && calls.refused > 0 && reason == Some(word);
    let because = match reason {
        _ if calls.answered > 0 => format!("{who}: {} answered", human::count(calls.answered, "call")),
        Some(reason) => format!("{who}: {} refused, {reason}", human::count(calls.refused, "call")),
        None => format!("{who}: {} refused, and nobody reports why", human::count(calls.refused, "call")),
    };
    Promise { promise, held, because }
}

fn find<'a>(
    evidence: &'a Evidence,
    client: &str,
    server: &str,
    fits: impl Fn(&Edge) -> bool,
) -> Option<&'a Edge> {
    let is = |edge: &&Edge| edges::name(&edge.client) == client && edges::name(&edge.server) == server;
    evidence.edges.iter().filter(is).find(|edge| fits(edge))
}

const TLS13: &str = "TLSv1.3";
/// The controller's word for a pod in a namespace without our label.
const NOT_LABELLED: &str = "namespace_not_labelled";

/// The gateway's identity, in the demo's trust domain.
const GATEWAY: &str = "spiffe://cluster.local/ns/signet-gateway/sa/gateway";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{demo::tap::Record, shapes::End};
    use serde_json::json;

    fn end(name: &str) -> End {
        let (namespace, pod) = name.split_once('/').unwrap();
        let id = (namespace == "shop")
            .then(|| format!("spiffe://cluster.local/ns/shop/sa/{}", &pod[..pod.len() - 2]));
        End { namespace: Some(namespace.into()), pod: Some(pod.into()), id, ..End::default() }
    }

    fn edge(client: &str, server: &str, reason: Option<&str>, refused: bool) -> Edge {
        let tls = json!({"version": "TLSv1.3", "keyExchange": "X25519MLKEM768", "cipher": "TLS13_AES_128_GCM_SHA256"});
        let secured = reason.is_none();
        Edge {
            client: end(client),
            server: end(server),
            secured,
            tls: secured.then(|| serde_json::from_value(tls).unwrap()),
            reason: reason.map(Into::into),
            refused,
            proof: "both".into(),
            ..Edge::default()
        }
    }

    /// It reports nothing itself.
    fn of_the_gateway(mut edge: Edge) -> Edge {
        (edge.client.id, edge.proof) = (Some(GATEWAY.into()), "server".into());
        edge
    }

    fn record(first: &[u8], marker: u64) -> Record {
        Record { bytes: first.len() as u64, marker, first: first.to_vec() }
    }

    fn whole() -> Evidence {
        let client: Vec<u8> =
            [&[22, 3, 1, 0, 44, 1, 0, 0, 0, 3, 3][..], &[7; 32], &[0, 0, 0, 0, 0, 0]].concat();
        let server =
            [&[22, 3, 3, 0, 50, 2, 0, 0, 0, 3, 3][..], &[7; 32], &[0, 0x13, 1, 0, 0, 6, 0, 43, 0, 2, 3, 4]];
        let seen = Seen { connections: 1, sent: record(&client, 0), received: record(&server.concat(), 0) };
        Evidence {
            answers: 3,
            meshed: vec![("web -> api".into(), seen.clone()), ("api -> db".into(), seen)],
            unmeshed: Seen { connections: 1, sent: record(b"ask m", 1), received: record(b"m", 1) },
            cron_to_reports: Outcome { answered: 1, refused: 0 },
            cron_to_db: Outcome { answered: 0, refused: 1 },
            web_to_db: Outcome { answered: 0, refused: 1 },
            visits: 1,
            edges: vec![
                edge("shop/web-0", "shop/api-0", None, false),
                edge("shop/api-0", "shop/db-0", None, false),
                edge("shop/web-0", "legacy/billing-0", Some("namespace_not_labelled"), false),
                edge("legacy/cron-0", "office/reports-0", Some("namespace_not_labelled"), false),
                edge("legacy/cron-0", "shop/db-0", Some("plaintext_refused"), true),
                edge("shop/web-0", "shop/db-0", Some("policy_denied"), true),
                of_the_gateway(edge("signet-gateway/gateway-0", "public/blog-0", None, false)),
            ],
        }
    }

    #[test]
    fn whole_evidence_holds_every_promise() {
        for promise in judge(&whole()) {
            assert!(promise.held, "{}: {}", promise.promise, promise.because);
        }
    }

    #[test]
    fn each_piece_of_evidence_that_turns_breaks_its_promise_and_no_other() {
        type Turn = fn(&mut Evidence);
        let turns: [(&str, Turn, usize); 15] = [
            ("no answer", |e| e.answers = 0, 0),
            ("one end's word only", |e| e.edges[0].proof = "client".into(), 1),
            ("another identity", |e| e.edges[1].server.id = e.edges[0].client.id.clone(), 1),
            ("TLS 1.2", |e| e.edges[0].tls.as_mut().unwrap().version = "TLSv1.2".into(), 1),
            ("the secret on the wire", |e| e.meshed[1].1.received.marker = 1, 2),
            ("an idle wire", |e| e.meshed[0].1 = Seen::default(), 2),
            ("plaintext on the wire", |e| e.meshed[0].1.sent = record(b"ask x", 0), 2),
            ("no tap at all", |e| e.meshed.clear(), 2),
            ("a blind tap", |e| (e.unmeshed.sent.marker, e.unmeshed.received.marker) = (0, 0), 3),
            ("plaintext without its reason", |e| e.edges[2].reason = None, 4),
            ("strict answered", |e| e.cron_to_db.answered = 1, 5),
            ("refused for another reason", |e| e.edges[4].reason = Some("over_limit".into()), 5),
            ("policy ignored", |e| e.web_to_db.answered = 1, 6),
            ("no visitor was served", |e| e.visits = 0, 7),
            ("the gateway reached its pod in plaintext", |e| e.edges[6].secured = false, 7),
        ];
        for (case, turn, broken) in turns {
            let mut evidence = whole();
            turn(&mut evidence);
            let held: Vec<bool> = judge(&evidence).iter().map(|promise| promise.held).collect();
            let want: Vec<bool> = (0..held.len()).map(|n| n != broken).collect();
            assert_eq!(held, want, "{case}");
        }
    }
}
