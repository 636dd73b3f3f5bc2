//! Against an API server in memory: what is asked, what is believed.

use super::*;
use serde_json::{Value, json};
use signet_lease::double::{Double, Fault};
use std::net::Ipv4Addr;

pub(crate) const NOW: i64 = 1_800_000_000;
pub(crate) const POD: &str = "/api/v1/namespaces/shop/pods/api-1";
const REVIEWS: &str = "/apis/authentication.k8s.io/v1/tokenreviews";

pub(crate) fn token(claims: &Value) -> String {
    let part = |json: &Value| BASE64_URL_SAFE_NO_PAD.encode(json.to_string());
    format!("{}.{}.c2ln", part(&json!({ "alg": "RS256" })), part(claims))
}

pub(crate) fn good() -> String {
    token(&json!({ "aud": ["signet-ca"], "exp": NOW + 3600, "sub": "system:serviceaccount:other:liar" }))
}

/// The status of a review of account `name`, bound to pod api-1.
pub(crate) fn accepted(name: &str) -> Value {
    json!({
        "authenticated": true,
        "audiences": ["signet-ca"],
        "user": {
            "username": name,
            "extra": {
                "authentication.kubernetes.io/pod-name": ["api-1"],
                "authentication.kubernetes.io/pod-uid": ["uid-1"],
            },
        },
    })
}

pub(crate) fn world() -> (Double, Reviews) {
    let api = Double::default();
    api.answer_reviews(accepted("system:serviceaccount:shop:api"));
    api.put(
        POD,
        json!({ "metadata": { "uid": "uid-1" }, "spec": { "serviceAccountName": "api", "containers": [] } }),
    );
    let reviews = Reviews::new(api.client(), TrustDomain::new("cluster.local").unwrap());
    (api, reviews)
}

#[tokio::test]
async fn the_identity_is_the_reviews_word_and_the_pod_is_named() {
    let (api, reviews) = world();
    let (id, pod) = reviews.redeem(&good(), None, NOW).await.unwrap();
    assert_eq!(id.to_string(), "spiffe://cluster.local/ns/shop/sa/api");
    assert_eq!(pod, Pod { name: "shop/api-1".into(), uid: "uid-1".into() });
    assert_eq!(api.requests(), [format!("POST {REVIEWS}"), format!("GET {POD}")]);
}

#[tokio::test]
async fn rubbish_never_reaches_the_api_server() {
    let (api, reviews) = world();
    let aud = |aud: Value| token(&json!({ "aud": aud, "exp": NOW + 3600 }));
    for (case, token, reason) in [
        ("empty", String::new(), "token_malformed"),
        ("a word", "AAAA".into(), "token_malformed"),
        ("two parts", "AAAA.AAAA".into(), "token_malformed"),
        ("four parts", format!("{}.AAAA", good()), "token_malformed"),
        ("not base64url", good().replace('.', ".+"), "token_malformed"),
        ("no claims", token(&json!([])), "token_malformed"),
        ("no expiry", token(&json!({ "aud": ["signet-ca"] })), "token_malformed"),
        ("9 KiB", format!("{}{}", good(), "A".repeat(9 << 10)), "token_malformed"),
        ("no audience", token(&json!({ "exp": NOW + 3600 })), "token_audience"),
        ("the API server's", aud(json!(["https://kubernetes.default.svc"])), "token_audience"),
        ("one like ours", aud(json!("signet-ca2")), "token_audience"),
        ("expired", token(&json!({ "aud": "signet-ca", "exp": NOW - 61 })), "token_expired"),
    ] {
        let error = reviews.redeem(&token, None, NOW).await.unwrap_err();
        assert_eq!(error.reason(), reason, "{case}: {error}");
    }
    assert_eq!(api.requests(), Vec::<String>::new());
    look(&aud(json!("signet-ca")), NOW).unwrap();
    look(&aud(json!(["other", "signet-ca"])), NOW).unwrap();
}

#[tokio::test]
async fn only_an_authenticated_token_of_ours_that_is_bound_to_a_pod_is_believed() {
    let (api, reviews) = world();
    let with = |path: &str, value: Value| {
        let mut status = accepted("system:serviceaccount:shop:api");
        *status.pointer_mut(path).unwrap() = value;
        status
    };
    let extra = "/user/extra/authentication.kubernetes.io~1";
    for (status, reason) in [
        (json!({}), "token_rejected"),
        (json!({ "error": "signature" }), "token_rejected"),
        (with("/authenticated", json!(false)), "token_rejected"),
        (with("/audiences", json!([])), "token_audience"),
        (with("/audiences", json!(["https://kubernetes.default.svc"])), "token_audience"),
        (with("/user", Value::Null), "token_unbound"),
        (with("/user/username", json!("admin")), "token_unbound"),
        (with("/user/username", json!("system:node:a")), "token_unbound"),
        (with("/user/username", json!("system:serviceaccount:shop")), "token_unbound"),
        (with("/user/username", json!("system:serviceaccount:shop:a:b")), "name_invalid"),
        (with("/user/username", json!("system:serviceaccount::api")), "name_invalid"),
        (with("/user/extra", json!({})), "token_unbound"),
        (with(&format!("{extra}pod-name"), json!([])), "token_unbound"),
        (with(&format!("{extra}pod-uid"), json!(["uid-1", "uid-2"])), "token_unbound"),
        (with(&format!("{extra}pod-uid"), json!(["uid-2"])), "pod_gone"),
        (with("/user/username", json!("system:serviceaccount:shop:db")), "pod_gone"),
    ] {
        api.answer_reviews(status.clone());
        let source = Some(IpAddr::V4(Ipv4Addr::from(fastrand::u32(..))));
        let error = reviews.redeem(&good(), source, NOW).await.unwrap_err();
        assert_eq!(error.reason(), reason, "{status}: {error}");
    }
}

#[tokio::test]
async fn a_token_ends_with_its_pod() {
    let (api, reviews) = world();
    let pod = api.get(POD).unwrap();
    for phase in ["Succeeded", "Failed"] {
        let mut ended = pod.clone();
        ended["status"] = json!({ "phase": phase });
        api.put(POD, ended);
        assert_eq!(reviews.redeem(&good(), None, NOW).await.unwrap_err().reason(), "pod_gone", "{phase}");
    }
    let mut running = pod.clone();
    running["status"] = json!({ "phase": "Running" });
    api.put(POD, running);
    reviews.redeem(&good(), None, NOW).await.unwrap();
    api.delete(POD);
    assert_eq!(reviews.redeem(&good(), None, NOW).await.unwrap_err().reason(), "pod_gone");
}

#[tokio::test(start_paused = true)]
async fn an_api_server_that_fails_or_hangs_refuses_for_now_and_nobody_gets_in() {
    for (path, fault, code) in [
        (REVIEWS, Fault::Status(500), Code::Unavailable),
        (REVIEWS, Fault::Status(403), Code::Unavailable),
        (REVIEWS, Fault::Hang, Code::Unavailable),
        (POD, Fault::Status(500), Code::Unavailable),
        (POD, Fault::Hang, Code::Unavailable),
    ] {
        let (api, reviews) = world();
        api.fault("", path, fault);
        let error = reviews.redeem(&good(), None, NOW).await.unwrap_err();
        assert_eq!(error.words().0, code, "{path} {fault:?}: {error}");
    }
}

#[tokio::test]
async fn at_most_32_reviews_are_in_flight_and_a_source_has_its_share() {
    let (api, reviews) = world();
    api.fault("POST", REVIEWS, Fault::Hang);
    let source = |n: u32| Some(IpAddr::V4(Ipv4Addr::from(0xc612_0000 + n)));
    let good = good();
    let mut waiting: Vec<_> = (0..32).map(|n| Box::pin(reviews.redeem(&good, source(n), NOW))).collect();
    for one in &mut waiting {
        assert!(futures_util::poll!(one).is_pending());
    }
    let error = reviews.redeem(&good, source(99), NOW).await.unwrap_err();
    assert_eq!((error.reason(), error.words().0), ("busy", Code::ResourceExhausted));
    drop(waiting);
    api.mend();
    for _ in 0..BURST {
        reviews.redeem(&good, source(100), NOW).await.unwrap();
    }
    assert_eq!(reviews.redeem(&good, source(100), NOW).await, Err(Unreviewed::Busy("from this source")));
    reviews.redeem(&good, source(101), NOW).await.unwrap();
    reviews.redeem(&good, source(100), NOW + 1).await.unwrap();
}

#[tokio::test]
async fn sources_are_counted_in_bounded_memory() {
    let reviews = Reviews::new(Double::default().client(), TrustDomain::new("cluster.local").unwrap());
    for n in 0..20_000 {
        let _ = reviews.take(IpAddr::V4(Ipv4Addr::from(n)), NOW);
    }
    assert!(reviews.sources.lock().unwrap().len() <= MOST_SOURCES + 1);
    reviews.take(IpAddr::V4(Ipv4Addr::from(50_000)), NOW + 60).unwrap();
    assert!(reviews.sources.lock().unwrap().len() < 10, "those that rested are forgotten");
}

proptest::proptest! {
    #[test]
    fn no_token_panics(token in "\\PC{0,80}", claims in "\\PC{0,80}") {
        let _ = look(&token, NOW);
        let _ = look(&format!("YQ.{}.YQ", BASE64_URL_SAFE_NO_PAD.encode(claims)), NOW);
    }
}
