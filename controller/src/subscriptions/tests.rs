use super::*;
use crate::{
    build::{index, namespace, pod},
    resources::{Snapshot, may_have},
};
use signet_api::{ADDRESS, WORKLOAD_SETTINGS, xds};
use signet_core::identity;

fn who(account: &str, address: &str) -> Subscriber {
    let id = identity::parse(&format!("spiffe://cluster.local/ns/shop/sa/{account}")).unwrap();
    Subscriber { id, address: address.parse().unwrap() }
}

/// Pod shop/api at `address`, and shop/db.
fn snapshot(address: &str) -> Snapshot {
    let index = index([namespace("shop"), pod("api").at(address), pod("db").at("10.0.0.9")]);
    Snapshot::new(Arc::new(index), None)
}

fn subscribe(names: &[&str]) -> DeltaDiscoveryRequest {
    let names = names.iter().map(|name| (*name).to_owned()).collect();
    DeltaDiscoveryRequest { type_url: ADDRESS.into(), resource_names_subscribe: names, ..Default::default() }
}

fn answer(nonce: &str, error: Option<&str>) -> DeltaDiscoveryRequest {
    let error_detail = error.map(|message| xds::Status { code: 3, message: message.into() });
    DeltaDiscoveryRequest {
        type_url: ADDRESS.into(),
        response_nonce: nonce.into(),
        error_detail,
        ..Default::default()
    }
}

fn next(subscriptions: &mut Subscriptions, snapshot: &Snapshot) -> Option<DeltaDiscoveryResponse> {
    subscriptions.next(Type::Address, snapshot, &who("api", "10.0.0.1"), |_, _| {})
}

fn sent(response: &DeltaDiscoveryResponse) -> (Vec<&str>, Vec<&str>) {
    let resources = response.resources.iter().map(|resource| resource.name.as_str()).collect();
    (resources, response.removed_resources.iter().map(String::as_str).collect())
}

#[test]
fn only_what_changed_is_sent_and_only_to_who_asked() {
    let mut subscriptions = Subscriptions::new(Type::MESH);
    assert_eq!(subscriptions.request(subscribe(&["10.0.0.1", "10.0.0.2", "10.0.0.9"])), Ok(Answer::None));
    let first = next(&mut subscriptions, &snapshot("10.0.0.1")).unwrap();
    assert_eq!(sent(&first), (vec!["10.0.0.1", "10.0.0.9"], vec!["10.0.0.2"]));
    assert_eq!(subscriptions.request(answer(&first.nonce, None)), Ok(Answer::Ack(Type::Address)));
    subscriptions.touch();
    assert_eq!(next(&mut subscriptions, &snapshot("10.0.0.1")), None, "nothing changed");
    subscriptions.touch();
    let second = next(&mut subscriptions, &snapshot("10.0.0.2")).unwrap();
    assert_eq!(sent(&second), (vec!["10.0.0.2"], vec!["10.0.0.1"]));
}

#[test]
fn a_slow_client_gets_one_response_and_then_the_latest_state() {
    let mut subscriptions = Subscriptions::new(Type::MESH);
    subscriptions.request(subscribe(&["10.0.0.1", "10.0.0.2", "10.0.0.3"])).unwrap();
    let first = next(&mut subscriptions, &snapshot("10.0.0.1")).unwrap();
    for n in 0..1000 {
        subscriptions.touch();
        assert_eq!(
            next(&mut subscriptions, &snapshot(["10.0.0.2", "10.0.0.3"][n % 2])),
            None,
            "not acknowledged yet"
        );
    }
    assert_eq!(subscriptions.request(answer("0", None)), Ok(Answer::None), "an older nonce");
    assert!(subscriptions.in_flight());
    subscriptions.request(answer(&first.nonce, None)).unwrap();
    let latest = next(&mut subscriptions, &snapshot("10.0.0.3")).unwrap();
    assert_eq!(sent(&latest), (vec!["10.0.0.3"], vec!["10.0.0.1"]), "10.0.0.2 came and went unseen");
}

#[test]
fn resuming_with_the_versions_held_sends_what_differs() {
    let mut before = Subscriptions::new(Type::MESH);
    before.request(subscribe(&["10.0.0.1", "10.0.0.9"])).unwrap();
    let held = next(&mut before, &snapshot("10.0.0.1")).unwrap().resources;
    let versions = held.into_iter().map(|resource| (resource.name, resource.version));
    let resume = DeltaDiscoveryRequest {
        initial_resource_versions: versions.chain([("10.0.0.2".into(), "gone".into())]).collect(),
        ..subscribe(&["10.0.0.1", "10.0.0.9", "10.0.0.2"])
    };
    let mut after = Subscriptions::new(Type::MESH);
    after.request(resume.clone()).unwrap();
    let rest = next(&mut after, &snapshot("10.0.0.1")).unwrap();
    assert_eq!(sent(&rest), (vec![], vec!["10.0.0.2"]), "versions are the same on every replica");
    after.request(resume).unwrap(); // not the first request: versions are no longer taken
    after.request(answer(&rest.nonce, None)).unwrap();
    assert_eq!(sent(&next(&mut after, &snapshot("10.0.0.1")).unwrap()).0, ["10.0.0.1", "10.0.0.9"]);
}

#[test]
fn what_is_asked_again_is_sent_again_and_what_is_left_is_not() {
    let mut subscriptions = Subscriptions::new(Type::MESH);
    subscriptions.request(subscribe(&["10.0.0.1", "10.0.0.9"])).unwrap();
    let first = next(&mut subscriptions, &snapshot("10.0.0.1")).unwrap();
    let again = DeltaDiscoveryRequest {
        resource_names_unsubscribe: vec!["10.0.0.9".into(), "never".into()],
        response_nonce: first.nonce,
        ..subscribe(&["10.0.0.1"])
    };
    assert_eq!(subscriptions.request(again), Ok(Answer::Ack(Type::Address)));
    assert_eq!(sent(&next(&mut subscriptions, &snapshot("10.0.0.1")).unwrap()).0, ["10.0.0.1"]);
    assert_eq!(subscriptions.names(), 1);
}

#[test]
fn a_nack_names_what_was_rejected_and_is_not_answered_by_the_same_again() {
    let mut subscriptions = Subscriptions::new(Type::MESH);
    subscriptions.request(subscribe(&["10.0.0.1"])).unwrap();
    let first = next(&mut subscriptions, &snapshot("10.0.0.1")).unwrap();
    let nack = subscriptions.request(answer(&first.nonce, Some("no\nsuch port"))).unwrap();
    let why = "nosuch port".to_owned();
    assert_eq!(nack, Answer::Nack { kind: Type::Address, names: vec!["10.0.0.1".into()], why });
    subscriptions.touch();
    assert_eq!(next(&mut subscriptions, &snapshot("10.0.0.1")), None);
}

#[test]
fn limits_end_the_stream_by_name() {
    let unknown = DeltaDiscoveryRequest { type_url: "x".into(), ..Default::default() };
    assert_eq!(Subscriptions::new(Type::MESH).request(unknown), Err(Breach::UnknownType("x".into())));
    let long = "x".repeat(MAX_NAME_BYTES + 1);
    assert_eq!(
        Subscriptions::new(Type::MESH).request(subscribe(&[&long])),
        Err(Breach::LongName(MAX_NAME_BYTES + 1))
    );
    let many: Vec<String> = (0..=MAX_NAMES).map(|n| format!("{n}.shop")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    assert_eq!(Subscriptions::new(Type::MESH).request(subscribe(&many)), Err(Breach::TooManyNames));
    assert_eq!(Subscriptions::new(Type::MESH).request(subscribe(&many[1..])), Ok(Answer::None));
}

#[test]
fn settings_go_to_the_pod_whose_identity_and_address_match_and_to_nobody_else() {
    let snapshot = snapshot("10.0.0.1");
    let may = |who: &Subscriber, kind, name: &str| may_have(&snapshot.index, who, kind, name);
    let settings = Type::WorkloadSettings;
    let foreign = Subscriber {
        id: identity::parse("spiffe://other/ns/shop/sa/api").unwrap(),
        ..who("api", "10.0.0.1")
    };
    for (case, got, want) in [
        ("its own", may(&who("api", "10.0.0.1"), settings, "shop/api"), Ok(())),
        (
            "another's",
            may(&who("db", "10.0.0.9"), settings, "shop/api"),
            Err(Denial::Refused("identity_mismatch")),
        ),
        (
            "from elsewhere",
            may(&who("api", "10.0.0.2"), settings, "shop/api"),
            Err(Denial::Refused("address_mismatch")),
        ),
        ("of nobody", may(&who("api", "10.0.0.1"), settings, "shop/none"), Err(Denial::Absent)),
        ("addresses: all of us", may(&who("db", "10.0.0.9"), Type::Address, "10.0.0.1"), Ok(())),
        ("the bundle: all of us", may(&who("db", "10.0.0.9"), Type::TrustBundle, "cluster.local"), Ok(())),
        ("another's bundle", may(&who("db", "10.0.0.9"), Type::TrustBundle, "other"), Err(Denial::Absent)),
        ("not of us", may(&foreign, Type::Address, "10.0.0.1"), Err(Denial::Refused("foreign_trust_domain"))),
    ] {
        assert_eq!(got, want, "{case}");
    }
    let mut subscriptions = Subscriptions::new(Type::MESH);
    let request = DeltaDiscoveryRequest { type_url: WORKLOAD_SETTINGS.into(), ..subscribe(&["shop/api"]) };
    subscriptions.request(request).unwrap();
    let mut refused = Vec::new();
    let response = subscriptions
        .next(settings, &snapshot, &who("db", "10.0.0.9"), |name, why| refused.push(format!("{name} {why}")))
        .unwrap();
    assert_eq!(
        (sent(&response), refused),
        ((vec![], vec!["shop/api"]), vec!["shop/api identity_mismatch".to_owned()])
    );
}

#[test]
fn a_dual_stack_pod_gets_its_settings_over_either_of_its_addresses_and_one_without_address_when_it_has_one() {
    let name = "shop/api";
    let both = serde_json::json!([{"ip": "10.0.0.1"}, {"ip": "fd00::1"}]);
    let dual = Snapshot::new(
        Arc::new(index([namespace("shop"), pod("api").at("10.0.0.1").with("/status/podIPs", both)])),
        None,
    );
    for (address, want) in
        [("10.0.0.1", Ok(())), ("fd00::1", Ok(())), ("fd00::2", Err(Denial::Refused("address_mismatch")))]
    {
        assert_eq!(
            may_have(&dual.index, &who("api", address), Type::WorkloadSettings, name),
            want,
            "{address}"
        );
    }
    // The kubelet writes the address after the proxy is there to ask.
    let early = Snapshot::new(Arc::new(index([namespace("shop"), pod("api")])), None);
    let mut subscriptions = Subscriptions::new(Type::MESH);
    let request = DeltaDiscoveryRequest { type_url: WORKLOAD_SETTINGS.into(), ..subscribe(&[name]) };
    subscriptions.request(request).unwrap();
    let accuse = |name: &str, word: &'static str| panic!("{name} refused: {word}");
    let who = who("api", "fd00::1");
    let first = subscriptions.next(Type::WorkloadSettings, &early, &who, accuse).unwrap();
    assert_eq!(sent(&first), (vec![], vec![name]), "absent, and no accusation");
    subscriptions
        .request(DeltaDiscoveryRequest { type_url: WORKLOAD_SETTINGS.into(), ..answer(&first.nonce, None) })
        .unwrap();
    subscriptions.touch();
    let second = subscriptions.next(Type::WorkloadSettings, &dual, &who, accuse).unwrap();
    assert_eq!(sent(&second), (vec![name], vec![]));
}

#[test]
fn who_asks_from_another_node_gets_another_answer_of_a_local_service() {
    let on = |name: &str, address: &str, node: &str| {
        pod(name).at(address).with("/spec/nodeName", node).with("/metadata/labels/app", "api")
    };
    let local =
        crate::build::service("api").cluster_ip("10.96.0.1").with("/spec/internalTrafficPolicy", "Local");
    let snapshot = Snapshot::new(
        Arc::new(index([namespace("shop"), on("near", "10.0.0.1", "a"), on("far", "10.0.0.2", "b"), local])),
        None,
    );
    let version =
        |address: &str| snapshot.resource(&who("near", address), Type::Address, "10.96.0.1").unwrap().version;
    assert_ne!(version("10.0.0.1"), version("10.0.0.2"));
    assert_eq!(version("10.0.0.1"), version("10.0.0.1"));
}

/// What edge is to its stream: named things for one who may have them.
struct Everything(BTreeMap<&'static str, &'static str>);

impl Serves for Everything {
    const TYPES: &'static [Type] = Type::MESH;
    const PART: &'static str = "a test";

    fn resource(&self, who: &Subscriber, _: Type, name: &str) -> Result<Encoded, Denial> {
        self.names(who, Type::Address)?;
        self.0.get(name).map(|text| Encoded::of(&(*text).to_owned())).ok_or(Denial::Absent)
    }

    fn names(&self, who: &Subscriber, _: Type) -> Result<Vec<Arc<str>>, Denial> {
        match who.id.path() {
            "/ns/shop/sa/api" => Ok(self.0.keys().map(|name| (*name).into()).collect()),
            _ => Err(Denial::Refused("not_api")),
        }
    }
}

#[test]
fn whoever_asks_for_everything_is_answered_once_even_where_there_is_nothing_and_is_told_while_more_comes() {
    let caller = who("api", "10.0.0.1");
    let mut subscriptions = Subscriptions::new(Type::MESH);
    subscriptions.request(subscribe(&["*"])).unwrap();
    let nothing = Everything([].into());
    let mut next = |all: &Everything| {
        subscriptions.touch();
        let response = subscriptions.next(Type::Address, all, &caller, |_, _| panic!("refused"))?;
        subscriptions.request(answer(&response.nonce, None)).unwrap();
        Some((sent(&response).0.len(), response.system_version_info))
    };
    assert_eq!(next(&nothing), Some((0, String::new())));
    assert_eq!(next(&nothing), None);
    let large: &str = "x".repeat(MAX_RESPONSE_BYTES).leak();
    let three = Everything([("a", large), ("b", large), ("c", "1")].into());
    assert_eq!(next(&three), Some((1, "more".into())));
    assert_eq!(next(&three), Some((1, "more".into())));
    assert_eq!(next(&three), Some((1, String::new())));
    assert_eq!(next(&three), None);
}

#[test]
fn a_subscription_to_everything_gets_all_and_then_what_changes_comes_and_goes() {
    let mut subscriptions = Subscriptions::new(Type::MESH);
    let next = |subscriptions: &mut Subscriptions, all: &Everything| {
        subscriptions.touch();
        let response =
            subscriptions.next(Type::Address, all, &who("api", "10.0.0.1"), |_, _| panic!("refused"))?;
        let told = sent(&response);
        let told = (told.0.join(" "), told.1.join(" "));
        subscriptions.request(answer(&response.nonce, None)).unwrap();
        Some(told)
    };
    subscriptions.request(subscribe(&["*"])).unwrap();
    let first = Everything([("a", "1"), ("b", "1")].into());
    assert_eq!(next(&mut subscriptions, &first), Some(("a b".into(), String::new())));
    assert_eq!(next(&mut subscriptions, &first), None, "nothing changed");
    let second = Everything([("b", "2"), ("c", "1")].into());
    assert_eq!(next(&mut subscriptions, &second), Some(("b c".into(), "a".into())));
    assert_eq!(next(&mut subscriptions, &second), None, "what is gone is told once");
    assert_eq!(subscriptions.names(), 0, "they are ours, not the client's");
    // Another stream brings along what it holds.
    let versions = ["a", "b"].map(|name| {
        let held = first.resource(&who("api", "10.0.0.1"), Type::Address, name).unwrap();
        (name.to_owned(), held.version.to_string())
    });
    let mut after = Subscriptions::new(Type::MESH);
    after
        .request(DeltaDiscoveryRequest { initial_resource_versions: versions.into(), ..subscribe(&["*"]) })
        .unwrap();
    assert_eq!(next(&mut after, &second), Some(("b c".into(), "a".into())));
    after
        .request(DeltaDiscoveryRequest { resource_names_unsubscribe: vec!["*".into()], ..subscribe(&[]) })
        .unwrap();
    assert_eq!(next(&mut after, &first), None);
}

#[test]
fn who_may_not_have_everything_learns_no_name_of_it_and_is_accused_once() {
    let all = Everything([("a", "1")].into());
    let mut subscriptions = Subscriptions::new(Type::MESH);
    let versions = [("a".to_owned(), "guessed".to_owned())].into();
    subscriptions
        .request(DeltaDiscoveryRequest { initial_resource_versions: versions, ..subscribe(&["*", "a"]) })
        .unwrap();
    let mut refused = Vec::new();
    let mut look = |subscriptions: &mut Subscriptions| {
        subscriptions.touch();
        subscriptions.next(Type::Address, &all, &who("db", "10.0.0.9"), |name, word| {
            refused.push(format!("{name} {word}"));
        })
    };
    let response = look(&mut subscriptions).unwrap();
    assert_eq!(sent(&response), (vec![], vec!["*"]));
    subscriptions.request(answer(&response.nonce, None)).unwrap();
    assert_eq!(look(&mut subscriptions), None);
    assert_eq!(refused, ["* not_api"]);
}
