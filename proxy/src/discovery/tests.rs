use super::*;
use prost::Message as _;
use signet_core::{identity::TrustDomain, telemetry::Metrics};

struct Fixture {
    discovery: Arc<Discovery>,
    model: Arc<Model>,
    trust: Arc<Trust>,
    held: Held,
}

fn fixture() -> Fixture {
    Fixture {
        discovery: Discovery::new(&mut Metrics::new()),
        model: Model::new(["api.shop".into()]),
        trust: Trust::new(TrustDomain::new("cluster.local").unwrap()),
        held: Held { addresses: ["api.shop".into()].into(), ..Held::new("shop/web".into()) },
    }
}

impl Fixture {
    fn take(&mut self, resources: Vec<Resource>, removed: &[&str]) -> DeltaDiscoveryRequest {
        let answer = DeltaDiscoveryResponse {
            resources,
            type_url: ADDRESS.into(),
            nonce: "7".into(),
            removed_resources: removed.iter().map(ToString::to_string).collect(),
            ..Default::default()
        };
        take(&self.discovery, &self.model, &self.trust, &mut self.held, answer)
    }
}

fn resource(name: &str, version: &str, address: &v1::Address) -> Resource {
    let body = prost_types::Any { type_url: ADDRESS.into(), value: address.encode_to_vec() };
    Resource { name: name.into(), version: version.into(), resource: Some(body) }
}

fn service() -> v1::Address {
    let service = v1::Service { namespace: "shop".into(), name: "api".into(), ..Default::default() };
    v1::Address { target: Some(v1::address::Target::Service(service)) }
}

#[test]
fn an_answer_is_acked_and_its_version_resumes_the_next_stream() {
    let mut fixture = fixture();
    let first = fixture.held.first_requests(&fixture.model, &fixture.trust);
    assert_eq!(first[2].resource_names_subscribe, ["api.shop"]);
    let ack = fixture.take(vec![resource("api.shop", "v1", &service())], &[]);
    assert_eq!((ack.response_nonce.as_str(), ack.error_detail), ("7", None));
    assert!(matches!(fixture.model.snapshot().address("api.shop"), Some(Some(Answer::Service(_)))));
    let again = fixture.held.first_requests(&fixture.model, &fixture.trust);
    assert_eq!(again[2].initial_resource_versions.get("api.shop").map(String::as_str), Some("v1"));
}

#[test]
fn an_unusable_answer_is_nacked_and_what_was_held_stays() {
    let mut fixture = fixture();
    fixture.take(vec![resource("api.shop", "v1", &service())], &[]);
    let nack = fixture.take(vec![resource("api.shop", "v2", &v1::Address::default())], &[]);
    assert!(nack.error_detail.unwrap().message.contains("api.shop"));
    assert!(matches!(fixture.model.snapshot().address("api.shop"), Some(Some(Answer::Service(_)))));
    assert_eq!(fixture.held.versions.get(ADDRESS, "api.shop"), Some("v1"));
    assert_eq!(fixture.discovery.status().nacks, 1);
}

#[test]
fn removed_is_unknown_and_never_plain_and_comes_back_whole() {
    let mut fixture = fixture();
    fixture.take(vec![resource("api.shop", "v1", &service())], &[]);
    fixture.take(vec![], &["api.shop"]);
    assert_eq!(fixture.model.snapshot().address("api.shop"), Some(None));
    let again = fixture.held.first_requests(&fixture.model, &fixture.trust);
    assert!(again[2].initial_resource_versions.is_empty(), "an old version would hide the answer for ever");
}

#[tokio::test(start_paused = true)]
async fn what_expired_or_arrives_without_a_subscription_is_never_an_answer() {
    let mut fixture = fixture();
    fixture.held.first_requests(&fixture.model, &fixture.trust);
    fixture.take(vec![resource("10.0.0.8", "v1", &service())], &["10.0.0.7"]);
    assert_eq!(fixture.model.snapshot().address("10.0.0.8"), None, "it would never be updated");
    assert_eq!(fixture.model.snapshot().address("10.0.0.7"), None);

    let _ = fixture.model.hint("10.0.0.9", Duration::ZERO).await;
    fixture.held.follow(&fixture.model).unwrap();
    fixture.take(vec![resource("10.0.0.9", "v1", &service())], &[]);
    tokio::time::advance(Duration::from_secs(3600)).await; // the controller was away for an hour
    let again = fixture.held.first_requests(&fixture.model, &fixture.trust);
    assert_eq!(again[2].resource_names_subscribe, ["api.shop"]);
    assert_eq!(fixture.model.snapshot().address("10.0.0.9"), None);
}

#[test]
fn a_proxy_that_dials_nothing_never_subscribes_to_everything() {
    let (model, trust) = (Model::new([]), fixture().trust);
    let first = Held::new("shop/web".into()).first_requests(&model, &trust);
    assert!(first.iter().all(|request| !request.resource_names_subscribe.is_empty()), "{first:?}");
}

#[test]
fn a_good_resource_beside_a_broken_one_is_taken_and_the_nack_is_short() {
    let mut fixture = fixture();
    fixture.held.first_requests(&fixture.model, &fixture.trust);
    let names: Vec<String> = (0..1000).map(|n| format!("10.1.{}.{}", n / 250, n % 250)).collect();
    fixture.held.addresses.extend(names.iter().map(|name| name.as_str().into()));
    let broken = names.iter().map(|name| resource(name, "v1", &v1::Address::default()));
    let all = broken.chain([resource("api.shop", "v1", &service())]).collect();
    let message = fixture.take(all, &[]).error_detail.unwrap().message;
    assert!(message.len() < 1024 && message.ends_with("and 992 more"), "{message}");
    assert!(matches!(fixture.model.snapshot().address("api.shop"), Some(Some(Answer::Service(_)))));
}

#[test]
fn settings_that_the_controller_no_longer_knows_stay() {
    let mut fixture = fixture();
    let settings = v1::WorkloadSettings { mode: v1::Mode::Strict.into(), ..Default::default() };
    let body = prost_types::Any { type_url: WORKLOAD_SETTINGS.into(), value: settings.encode_to_vec() };
    let resource = Resource { name: "shop/web".into(), version: "v1".into(), resource: Some(body) };
    let answer = |resources, removed: &[&str]| DeltaDiscoveryResponse {
        resources,
        type_url: WORKLOAD_SETTINGS.into(),
        removed_resources: removed.iter().map(ToString::to_string).collect(),
        ..Default::default()
    };
    for answer in [answer(vec![resource], &[]), answer(vec![], &["shop/web"])] {
        let ack = take(&fixture.discovery, &fixture.model, &fixture.trust, &mut fixture.held, answer);
        assert_eq!(ack.error_detail, None);
        assert!(fixture.model.snapshot().settings.is_some());
    }
}

#[tokio::test(start_paused = true)]
async fn names_that_nobody_uses_are_unsubscribed_and_forgotten() {
    let mut fixture = fixture();
    fixture.held.first_requests(&fixture.model, &fixture.trust);
    let _ = fixture.model.hint("10.0.0.9", Duration::ZERO).await;
    let request = fixture.held.follow(&fixture.model).unwrap();
    assert_eq!(request.resource_names_subscribe, ["10.0.0.9"]);
    fixture.take(vec![resource("10.0.0.9", "v1", &service())], &[]);
    tokio::time::advance(Duration::from_secs(3600)).await;
    let request = fixture.held.follow(&fixture.model).unwrap();
    assert_eq!(request.resource_names_unsubscribe, ["10.0.0.9"]);
    assert_eq!(fixture.model.snapshot().address("10.0.0.9"), None);
}
