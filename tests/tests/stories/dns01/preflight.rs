//! What is looked at before an order, with a real DNS server's answers.

use std::{net::SocketAddr, time::Duration};

use signet_acme::{
    dns::{Found, Lookups},
    preflight::{self, Ca, Hold, Method, Published, Verdict, Wanted, Warning},
};
use signet_tests::{
    nameservers::{self, Zone},
    network::Network,
    unprivileged::Unprivileged,
};
use tokio::{net::UdpSocket, time::Instant};

use super::rfc2136::SHA256;

#[tokio::test]
async fn names_addresses_and_caa_are_read_as_a_ca_reads_them() {
    let (user, network) = (Unprivileged::of_others().unwrap(), Network::claim());
    let at = SocketAddr::new(network.address(0, 2), 5353);
    // "test" is the top here, so that every name above has an answer; Knot answers for aliases across its zones.
    let zones = [
        Zone { name: "test", records: "shop NS ns1\nother NS ns1" },
        Zone {
            name: "shop.test",
            records: "@ CAA 0 issue \"ca.test\"\n@ CAA 0 issuewild \";\"\n\
                      app A 192.0.2.1\napp AAAA 2001:db8::1\n\
                      a.deep.er A 192.0.2.1\n\
                      shut A 192.0.2.1\nshut CAA 0 issue \"elsewhere.test\"\n\
                      alias CNAME far.other.test.\n\
                      here CNAME bare.other.test.\n\
                      txt TXT \"x\"\n\
                      moved A 198.51.100.9\n\
                      critical A 192.0.2.1\ncritical CAA 128 tbs \"x\"\n\
                      mine A 192.0.2.1\nmine CAA 0 issue \"ca.test; accounturi=https://ca.test/1; validationmethods=http-01\"",
        },
        Zone {
            name: "other.test",
            records: "@ CAA 0 issue \"elsewhere.test\"\nfar A 192.0.2.1\nfar CAA 0 issue \"elsewhere.test\"\nbare A 192.0.2.1\nlb A 192.0.2.1",
        },
    ];
    let _server = nameservers::knot(&user, at, SHA256, &zones).await.unwrap();
    let lookups = Lookups::at(&[at]).unwrap();
    let published =
        Published { addresses: vec!["2001:db8::1".parse().unwrap()], names: vec!["lb.other.test".into()] };
    let identities = ["ca.test".to_owned()];
    let verdict = async |name: &str, method: Method| {
        let ca = Ca { public: false, identities: &identities, account: Some("https://ca.test/1") };
        let wanted = Wanted { name, method, ca, published: &published };
        preflight::judge(&wanted, &preflight::look(&lookups, &wanted).await)
    };
    let http = async |name: &str| verdict(name, Method::Http01).await;

    for fine in ["app.shop.test", "a.deep.er.shop.test", "mine.shop.test"] {
        assert_eq!(http(fine).await, Verdict::default(), "{fine}");
    }
    // An alias's target has CAA: it counts. Its parents' does not (RFC 8659 3), but that of the name's own parents.
    assert!(matches!(&http("alias.shop.test").await.holds[..], [Hold::Forbidden(_)]));
    assert_eq!(http("here.shop.test").await, Verdict::default());
    let gone = http("gone.shop.test").await;
    assert!(matches!(&gone.holds[..], [Hold::NoName { .. }]), "{gone:?}");
    assert_eq!(verdict("gone.shop.test", Method::Dns01).await, Verdict::default());
    for (name, method, words) in [
        ("shut.shop.test", Method::Http01, "shut.shop.test. CAA 0 issue \"ca.test\""),
        ("*.shop.test", Method::Dns01, "put in its place: shop.test. CAA 0 issuewild \"ca.test\""),
        ("critical.shop.test", Method::Http01, "critical property \"tbs\""),
        ("mine.shop.test", Method::TlsAlpn01, "by http-01 only, not by tls-alpn-01"),
    ] {
        let verdict = verdict(name, method).await;
        assert!(
            verdict.holds.len() == 1 && verdict.holds[0].to_string().contains(words),
            "{name}: {verdict:?}"
        );
    }
    let bare = http("txt.shop.test").await;
    assert!(bare.holds.is_empty() && matches!(&bare.warnings[..], [Warning::NoAddress { .. }]), "{bare:?}");
    let moved = http("moved.shop.test").await;
    assert!(
        moved.holds.is_empty() && matches!(&moved.warnings[..], [Warning::Elsewhere { .. }]),
        "{moved:?}"
    );
}

#[tokio::test]
async fn a_server_that_answers_nothing_or_refuses_holds_no_order_back_and_costs_seconds() {
    let (user, network) = (Unprivileged::of_others().unwrap(), Network::claim());
    let [deaf, refusing] = [2, 3].map(|d| SocketAddr::new(network.address(0, d), 5353));
    let _deaf = UdpSocket::bind(deaf).await.unwrap(); // takes every question, and nobody listens for TCP
    let _refusing =
        nameservers::knot(&user, refusing, SHA256, &[Zone { name: "shop.test", records: "" }]).await.unwrap();
    for server in [deaf, refusing] {
        let published = Published { addresses: vec!["192.0.2.1".parse().unwrap()], names: Vec::new() };
        let ca = Ca { public: true, ..Ca::default() };
        let wanted = Wanted { name: "app.elsewhere.dev", method: Method::Http01, ca, published: &published };
        let begun = Instant::now();
        let answers = preflight::look(&Lookups::at(&[server]).unwrap(), &wanted).await;
        assert!(begun.elapsed() < Duration::from_secs(60));
        assert!(matches!(answers.addresses, Found::Failed(_)), "{answers:?}");
        let verdict = preflight::judge(&wanted, &answers);
        assert!(verdict.holds.is_empty(), "{verdict:?}");
        assert!(
            matches!(&verdict.warnings[..], [Warning::Unknown { .. }, Warning::CaaUnknown { .. }]),
            "{verdict:?}"
        );
    }
}
