//! Route 53, by a stand-in that checks every signature and keeps record sets as Route 53 does.

use std::{net::SocketAddr, sync::Arc};

use rustls::{RootCertStore, ServerConfig};
use signet_acme::dns::{Dns01, DnsError, Lookups, Route53Error, credentials::Credentials};
use signet_tests::{
    nameservers::{self, Zone},
    network::Network,
    route53::{ACCESS_KEY_ID, Route53, SECRET_ACCESS_KEY, Zones},
    unprivileged::{Server, Unprivileged},
};

use super::{dns01, dns01_believing, rfc2136::SHA256};

const NAME: &str = "_acme-challenge.app.shop.test";

/// The stand-in with zones of `shop.test` and what surrounds it, and a resolver that knows no aliases there.
async fn start(network: &Network, user: &Unprivileged) -> (Route53, Dns01, Server) {
    let zones = Zones::default()
        .with("ZTEST", "test")
        .with("ZSHOP", "shop.test")
        .with_private("ZVPC", "shop.test")
        .with("ZOTHER", "myshop.test");
    let stand_in = Route53::start(SocketAddr::new(network.address(0, 2), 4566), zones).await.unwrap();
    let at = SocketAddr::new(network.address(0, 3), 5353);
    let resolver = nameservers::knot(user, at, SHA256, &[Zone { name: "test", records: "" }]).await.unwrap();
    (stand_in, dns01(Lookups::at(&[at]).unwrap()), resolver)
}

fn secret(stand_in: &Route53, more: &[(&'static str, &str)]) -> Credentials {
    let endpoint = format!("http://{}", stand_in.at);
    let mut data = vec![
        ("access-key-id", ACCESS_KEY_ID),
        ("secret-access-key", SECRET_ACCESS_KEY),
        ("endpoint", &endpoint),
        ("check-servers", "none"),
    ];
    for (field, value) in more {
        data.retain(|(has, _)| has != field);
        data.push((field, value));
    }
    super::credentials("route53", "shop.test", &data)
}

fn values(stand_in: &Route53) -> Option<(u32, Vec<String>)> {
    stand_in.state().zones.txt("ZSHOP", NAME)
}

fn is(ttl: u32, values: &[&str]) -> Option<(u32, Vec<String>)> {
    Some((ttl, values.iter().map(|value| value.to_string()).collect()))
}

async fn fails(dns01: &Dns01, by: &Credentials) -> Route53Error {
    match dns01.publish(by, NAME, "x").await {
        Err(DnsError::Route53(e)) => e,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn values_are_published_beside_others_and_removed_alone_and_a_repeat_changes_nothing() {
    let (network, user) = (Network::claim(), Unprivileged::of_others().unwrap());
    let (stand_in, dns01, _resolver) = start(&network, &user).await;
    let by = secret(&stand_in, &[]);
    stand_in.state().pending = 1;
    dns01.publish(&by, NAME, "one").await.unwrap();
    assert_eq!(values(&stand_in), is(60, &["one"]));
    let asked = stand_in.state().asked.clone();
    assert_eq!(asked.iter().filter(|asked| asked.contains("/change/")).count(), 2, "until INSYNC: {asked:?}");
    stand_in.state().pending = 0;
    stand_in.state().zones.add("ZSHOP", NAME, 17, "others \\\"quoted\\\" & <odd>");
    dns01.publish(&by, NAME, "two").await.unwrap();
    dns01.publish(&by, NAME, "two").await.unwrap(); // as after a crash
    let others = "others \\\"quoted\\\" & <odd>";
    assert_eq!(values(&stand_in), is(17, &["one", others, "two"]));
    for _ in 0..2 {
        dns01.remove(&by, NAME, "one").await.unwrap();
        assert_eq!(values(&stand_in), is(17, &[others, "two"]));
    }
    dns01.remove(&by, NAME, "two").await.unwrap();
    assert_eq!(values(&stand_in), is(17, &[others]));
    dns01.remove(&by, NAME, "two").await.unwrap();
    let (deep, by) =
        ("_acme-challenge.a.b.shop.test", secret(&stand_in, &[("hosted-zone-id", "/hostedzone/ZSHOP")]));
    dns01.publish(&by, deep, "x").await.unwrap();
    assert_eq!(stand_in.state().zones.txt("ZSHOP", deep), is(60, &["x"]));
    dns01.remove(&by, deep, "x").await.unwrap();
    assert_eq!(stand_in.state().zones.txt("ZSHOP", deep), None);
}

#[tokio::test]
async fn another_clients_value_that_comes_between_reading_and_writing_is_kept() {
    let (network, user) = (Network::claim(), Unprivileged::of_others().unwrap());
    let (stand_in, dns01, _resolver) = start(&network, &user).await;
    let by = secret(&stand_in, &[]);
    stand_in.state().meanwhile = Some(Box::new(|zones| zones.add("ZSHOP", NAME, 60, "first")));
    dns01.publish(&by, NAME, "ours").await.unwrap();
    assert_eq!(values(&stand_in), is(60, &["first", "ours"]));
    stand_in.state().meanwhile = Some(Box::new(|zones| zones.add("ZSHOP", NAME, 60, "second")));
    dns01.remove(&by, NAME, "ours").await.unwrap();
    assert_eq!(values(&stand_in), is(60, &["first", "second"]));
}

#[tokio::test]
async fn two_challenges_of_one_name_published_at_once_are_both_there() {
    let (network, user) = (Network::claim(), Unprivileged::of_others().unwrap());
    let (stand_in, dns01, _resolver) = start(&network, &user).await;
    let by = secret(&stand_in, &[("hosted-zone-id", "ZSHOP")]);
    let (one, two) = tokio::join!(dns01.publish(&by, NAME, "apex"), dns01.publish(&by, NAME, "wildcard"));
    one.unwrap();
    two.unwrap();
    assert_eq!(values(&stand_in), is(60, &["apex", "wildcard"]));
}

#[tokio::test]
async fn over_tls_only_an_endpoint_that_is_believed_is_asked() {
    let (network, user) = (Network::claim(), Unprivileged::of_others().unwrap());
    let (_plain, nobody, _resolver) = start(&network, &user).await;
    let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let chain = vec![certified.cert.der().clone()];
    let key = rustls::pki_types::PrivateKeyDer::try_from(certified.signing_key.serialize_der()).unwrap();
    let tls = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = ServerConfig::builder_with_provider(tls).with_safe_default_protocol_versions().unwrap();
    let tls = tls.with_no_client_auth().with_single_cert(chain.clone(), key).unwrap();
    let at = SocketAddr::from(([127, 0, 0, 1], 0));
    let stand_in = Route53::start_tls(at, Zones::default().with("ZSHOP", "shop.test"), tls).await.unwrap();
    let endpoint = format!("https://localhost:{}", stand_in.at.port());
    let by = secret(&stand_in, &[("endpoint", &endpoint)]);

    let error = fails(&nobody, &by).await;
    assert!(matches!(error, Route53Error::Unreached { .. }), "{error}");
    assert!(stand_in.state().asked.is_empty());
    let mut roots = RootCertStore::empty();
    roots.add(chain[0].clone()).unwrap();
    let resolver = SocketAddr::new(network.address(0, 3), 5353);
    let believing = dns01_believing(Lookups::at(&[resolver]).unwrap(), roots);
    believing.publish(&by, NAME, "x").await.unwrap();
    assert_eq!(values(&stand_in), is(60, &["x"]));
}

#[tokio::test]
async fn throttling_outages_and_lost_answers_are_waited_out() {
    let (network, user) = (Network::claim(), Unprivileged::of_others().unwrap());
    let (stand_in, dns01, _resolver) = start(&network, &user).await;
    let by = secret(&stand_in, &[("hosted-zone-id", "ZSHOP")]);
    (stand_in.state().throttled, stand_in.state().busy) = (2, 1);
    dns01.publish(&by, NAME, "one").await.unwrap();
    assert_eq!(values(&stand_in), is(60, &["one"]));
    // The change is made and its answer lost: repeated, it conflicts with itself, is read again, and found done.
    stand_in.state().lost = Some("POST");
    dns01.publish(&by, NAME, "two").await.unwrap();
    assert_eq!(values(&stand_in), is(60, &["one", "two"]));
    stand_in.state().throttled = 100;
    let error = fails(&dns01, &by).await;
    assert!(matches!(&error, Route53Error::Answer { code, .. } if code == "Throttling"), "{error}");
}

#[tokio::test]
async fn a_temporary_key_sends_and_signs_its_token() {
    let (network, user) = (Network::claim(), Unprivileged::of_others().unwrap());
    let (stand_in, dns01, _resolver) = start(&network, &user).await;
    stand_in.state().session_token = Some("tok/en+==".into());
    dns01.publish(&secret(&stand_in, &[("session-token", "tok/en+==")]), NAME, "x").await.unwrap();
    let error = fails(&dns01, &secret(&stand_in, &[])).await;
    assert!(matches!(error, Route53Error::WrongSecret { .. }), "{error}");
    let error = fails(&dns01, &secret(&stand_in, &[("session-token", "another")])).await;
    assert!(matches!(error, Route53Error::UnknownKey { .. }), "{error}");
}

#[tokio::test]
async fn a_wrong_key_secret_clock_right_or_zone_is_named_with_what_to_do() {
    let (network, user) = (Network::claim(), Unprivileged::of_others().unwrap());
    let (stand_in, dns01, _resolver) = start(&network, &user).await;
    let by = secret(&stand_in, &[]);
    let error = fails(&dns01, &secret(&stand_in, &[("access-key-id", "AKIANOBODY")])).await;
    assert!(matches!(error, Route53Error::UnknownKey { .. }), "{error}");
    let error = fails(&dns01, &secret(&stand_in, &[("secret-access-key", "wrong")])).await;
    assert!(matches!(error, Route53Error::WrongSecret { .. }), "{error}");
    stand_in.state().ahead = 3600;
    let error = fails(&dns01, &by).await;
    assert!(matches!(error, Route53Error::ClockSkew { apart: 3590..=3610 }), "{error}");
    stand_in.state().ahead = 0;
    for (denied, action) in [
        ("hostedzonesbyname", "route53:ListHostedZonesByName"),
        ("GET /2013-04-01/hostedzone/", "route53:ListResourceRecordSets"),
        ("POST", "route53:ChangeResourceRecordSets"),
        ("/change/", "route53:GetChange"),
    ] {
        stand_in.state().denied = Some(denied);
        let error = fails(&dns01, &by).await;
        assert!(
            matches!(error, Route53Error::Denied { .. }) && error.to_string().contains(action),
            "{error}"
        );
    }
    stand_in.state().denied = None;
    stand_in.state().zones.weigh("ZSHOP", NAME);
    let error = fails(&dns01, &by).await;
    assert!(matches!(error, Route53Error::Routed { .. }), "{error}");
    stand_in.state().zones = Zones::default().with("Z1", "shop.test").with("Z2", "shop.test");
    let error = fails(&dns01, &by).await;
    assert!(matches!(&error, Route53Error::Ambiguous { ids, .. } if ids.len() == 2), "{error}");
    stand_in.state().zones = Zones::default().with("Z1", "other.test").with_private("Z2", "shop.test");
    let error = fails(&dns01, &by).await;
    assert!(matches!(error, Route53Error::NoZone { .. }), "{error}");
    let nobody = format!("http://{}", SocketAddr::new(network.address(0, 9), 4566));
    let error = fails(&dns01, &secret(&stand_in, &[("endpoint", &nobody)])).await;
    assert!(matches!(error, Route53Error::Unreached { .. }), "{error}");
}
