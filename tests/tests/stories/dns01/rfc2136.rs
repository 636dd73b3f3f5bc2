//! RFC 2136 with TSIG, by Knot and by BIND.

use std::{net::SocketAddr, time::Duration};

use signet_acme::dns::{DnsError, Lookups, Rfc2136Error, Saw, Txt, credentials::Credentials};
use signet_tests::{
    nameservers::{self, Key, Zone},
    network::Network,
    unprivileged::{Server, Unprivileged},
};

use super::dns01;

const ZONES: &[Zone<'_>] = &[
    Zone { name: "shop.test", records: "app A 127.0.0.1\n_acme-challenge.old TXT \"others\"" },
    Zone { name: "sub.shop.test", records: "" },
];

/// One of the two with its key, and where it is.
async fn server(user: &Unprivileged, network: &Network, kind: &str, key: Key) -> (SocketAddr, Server) {
    if kind == "knot" {
        let at = SocketAddr::new(network.address(0, 2), 5353);
        return (at, nameservers::knot(user, at, key, ZONES).await.unwrap());
    }
    let at = nameservers::bind_address(network, 0);
    (at, nameservers::bind(user, at, key, ZONES).await.unwrap())
}

fn secret(at: SocketAddr, key: Key, more: &[(&'static str, &str)]) -> Credentials {
    let (nameserver, at) = (at.to_string(), at.to_string());
    let mut data = vec![
        ("nameserver", nameserver.as_str()),
        ("tsig-key-name", key.name),
        ("tsig-algorithm", key.algorithm),
        ("tsig-secret", key.secret),
        ("check-servers", &at),
    ];
    for (field, value) in more {
        data.retain(|(has, _)| has != field);
        data.push((field, value));
    }
    super::credentials("rfc2136", "shop.test sub.shop.test", &data)
}

#[tokio::test]
async fn values_are_published_beside_others_seen_and_removed_alone_by_knot_and_by_bind() {
    let (user, network) = (Unprivileged::of_others().unwrap(), Network::claim());
    for (kind, key) in [("knot", SHA256), ("bind", SHA384), ("knot", SHA512), ("bind", SHA512)] {
        let (at, _server) = server(&user, &network, kind, key).await;
        let (dns01, by) = (dns01(Lookups::at(&[at]).unwrap()), secret(at, key, &[]));
        let name = "_acme-challenge.old.shop.test";
        let values = async || nameservers::txt(&user, at, name).await.unwrap();

        let one = dns01.publish(&by, name, "one").await.unwrap();
        dns01.publish(&by, name, "two").await.unwrap();
        dns01.publish(&by, name, "two").await.unwrap(); // as after a crash
        assert_eq!(values().await, ["one", "others", "two"], "{kind}");
        let seen = dns01.wait(&by, &one, PATIENCE).await.unwrap();
        assert!(seen.iter().all(|sight| sight.saw == Saw::Shown) && seen.len() == 1, "{kind}: {seen:?}");
        dns01.remove(&by, name, "one").await.unwrap();
        dns01.remove(&by, name, "one").await.unwrap();
        assert_eq!(values().await, ["others", "two"], "{kind}");
        assert_eq!(dns01.look(&by, &one).await.unwrap()[0].saw, Saw::Absent, "{kind}");
        dns01.remove(&by, name, "two").await.unwrap();
        assert_eq!(values().await, ["others"], "{kind}");

        // More than a datagram holds.
        let many = "_acme-challenge.many.shop.test";
        for number in 0..40 {
            dns01.publish(&by, many, &format!("{number:043}")).await.unwrap();
        }
        let last = Txt::new(many, &format!("{:043}", 39)).unwrap();
        assert_eq!(dns01.look(&by, &last).await.unwrap()[0].saw, Saw::Shown, "{kind}");

        // The zone is the longest that the server has, whatever the Secret's zones say, and a name need not exist.
        let below = "_acme-challenge.a.b.sub.shop.test";
        let txt = dns01.publish(&by, below, "deep").await.unwrap();
        dns01.wait(&by, &txt, PATIENCE).await.unwrap();
        assert_eq!(nameservers::txt(&user, at, below).await.unwrap(), ["deep"], "{kind}");
    }
}

#[tokio::test]
async fn a_wrong_key_secret_algorithm_zone_and_server_are_each_named_by_knot_and_by_bind() {
    let (user, network) = (Unprivileged::of_others().unwrap(), Network::claim());
    for kind in ["knot", "bind"] {
        let (at, _server) = server(&user, &network, kind, SHA256).await;
        let dns01 = dns01(Lookups::at(&[at]).unwrap());
        let fails = async |key: Key, more: &[(&'static str, &str)]| {
            let by = secret(at, key, more);
            match dns01.publish(&by, "_acme-challenge.app.shop.test", "x").await {
                Err(DnsError::Rfc2136(e)) => e,
                other => panic!("{kind} {key:?} {more:?}: {other:?}"),
            }
        };
        let unknown = fails(Key { name: "nobody", ..SHA256 }, &[]).await;
        assert!(matches!(unknown, Rfc2136Error::BadKey { .. }), "{kind}: {unknown}");
        let secret = fails(Key { secret: SHA512.secret, ..SHA256 }, &[]).await;
        assert!(matches!(secret, Rfc2136Error::BadSignature { .. }), "{kind}: {secret}");
        let algorithm = fails(Key { algorithm: "hmac-sha512", ..SHA256 }, &[]).await;
        assert!(matches!(algorithm, Rfc2136Error::BadKey { .. }), "{kind}: {algorithm}");
        let zone = fails(SHA256, &[("zone", "test")]).await;
        assert!(
            matches!(zone, Rfc2136Error::NotAuthoritative { .. } | Rfc2136Error::Refused { .. }),
            "{kind}: {zone}"
        );
        let outside = fails(SHA256, &[("zone", "sub.shop.test")]).await;
        assert!(matches!(outside, Rfc2136Error::NotInZone { .. }), "{kind}: {outside}");
        let nobody = fails(SHA256, &[("nameserver", &SocketAddr::new(at.ip(), 5354).to_string())]).await;
        assert!(matches!(nobody, Rfc2136Error::Unreached { .. }), "{kind}: {nobody}");
        assert!(
            nameservers::txt(&user, at, "_acme-challenge.app.shop.test").await.unwrap().is_empty(),
            "{kind}"
        );
    }
}

#[tokio::test]
async fn a_name_that_the_key_may_not_change_and_a_zone_that_the_server_has_not_are_named() {
    let (user, network) = (Unprivileged::of_others().unwrap(), Network::claim());
    let (at, _server) = server(&user, &network, "bind", SHA256).await;
    let data = [
        ("nameserver", &*at.to_string()),
        ("tsig-key-name", SHA256.name),
        ("tsig-secret", SHA256.secret),
        ("check-servers", "none"),
    ];
    // A resolver that knows the name; the update's server does not.
    let other = SocketAddr::new(network.address(0, 3), 5353);
    let _other =
        nameservers::knot(&user, other, SHA256, &[Zone { name: "else.test", records: "" }]).await.unwrap();
    let by = super::credentials("rfc2136", "else.test", &data);
    let failed = dns01(Lookups::at(&[other]).unwrap()).publish(&by, "_acme-challenge.else.test", "x").await;
    let Err(DnsError::Rfc2136(failed)) = failed else { panic!("{failed:?}") };
    assert!(matches!(failed, Rfc2136Error::NoZone { .. }), "{failed}");
    assert!(failed.to_string().contains("REFUSED"), "{failed}");
}

#[tokio::test]
async fn an_alias_is_followed_within_the_secrets_zones_only_and_one_of_a_wildcard_is_none() {
    let (user, network) = (Unprivileged::of_others().unwrap(), Network::claim());
    let at = SocketAddr::new(network.address(0, 2), 5353);
    let zones = [
        Zone {
            name: "shop.test",
            records: "_acme-challenge.in CNAME in.acme.test.\n_acme-challenge.out CNAME x.else.test.\n\
                      *.wild CNAME cdn.else.test.\n_acme-challenge.loop CNAME loop\nloop CNAME _acme-challenge.loop",
        },
        Zone { name: "acme.test", records: "" },
        Zone { name: "else.test", records: "cdn A 127.0.0.1" },
    ];
    let _server = nameservers::knot(&user, at, SHA256, &zones).await.unwrap();
    let (dns01, nameserver) = (dns01(Lookups::at(&[at]).unwrap()), at.to_string());
    let data = [
        ("nameserver", &*nameserver),
        ("tsig-key-name", SHA256.name),
        ("tsig-secret", SHA256.secret),
        ("check-servers", &nameserver),
    ];
    let by = super::credentials("rfc2136", "shop.test acme.test", &data);

    let txt = dns01.publish(&by, "_acme-challenge.in.shop.test", "in").await.unwrap();
    assert_eq!(txt.name(), "in.acme.test");
    dns01.wait(&by, &txt, PATIENCE).await.unwrap();
    dns01.remove(&by, "_acme-challenge.in.shop.test", "in").await.unwrap();
    assert!(nameservers::txt(&user, at, "in.acme.test").await.unwrap().is_empty());

    let out = dns01.publish(&by, "_acme-challenge.out.shop.test", "out").await.unwrap_err();
    assert!(matches!(&out, DnsError::Elsewhere { target, .. } if target == "x.else.test"), "{out}");
    let round = dns01.publish(&by, "_acme-challenge.loop.shop.test", "x").await.unwrap_err();
    assert!(matches!(round, DnsError::AliasLoop { .. } | DnsError::Alias { .. }), "{round}");

    let wild = dns01.publish(&by, "_acme-challenge.wild.shop.test", "wild").await.unwrap();
    assert_eq!(wild.name(), "_acme-challenge.wild.shop.test");
    dns01.wait(&by, &wild, PATIENCE).await.unwrap();
    dns01.remove(&by, "_acme-challenge.wild.shop.test", "wild").await.unwrap();
}

#[tokio::test]
async fn waiting_ends_in_time_and_says_who_shows_it_and_who_does_not() {
    let (user, network) = (Unprivileged::of_others().unwrap(), Network::claim());
    let (primary, _primary) = server(&user, &network, "knot", SHA256).await;
    let (stale, _stale) = server(&user, &network, "bind", SHA256).await;
    let dead = SocketAddr::new(network.address(0, 4), 5353);
    let dns01 = dns01(Lookups::at(&[primary]).unwrap());
    let by = |check: &str| secret(primary, SHA256, &[("check-servers", check)]);
    let txt = dns01.publish(&by("none"), "_acme-challenge.app.shop.test", "x").await.unwrap();
    let wait = async |check: String| dns01.wait(&by(&check), &txt, SHORT).await;

    assert!(wait("none".into()).await.unwrap().is_empty());
    let behind = wait(format!("{primary} {stale}")).await.unwrap_err();
    let DnsError::NotShown { seen, .. } = &behind else { panic!("{behind}") };
    assert_eq!([&seen[0].saw, &seen[1].saw], [&Saw::Shown, &Saw::Absent]);
    assert!(behind.to_string().contains(&format!("{stale} does not show it")), "{behind}");
    let seen = wait(format!("{dead} {primary}")).await.unwrap();
    assert!(
        matches!(&seen[..], [one, two] if matches!(one.saw, Saw::Silent(_)) && two.saw == Saw::Shown),
        "{seen:?}"
    );
    let nobody = wait(dead.to_string()).await.unwrap_err();
    assert!(matches!(nobody, DnsError::NobodyAnswers { .. }), "{nobody}");
}

const PATIENCE: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_secs(3);
pub(super) const SHA256: Key = Key {
    name: "acme-key",
    algorithm: "hmac-sha256",
    secret: "b25lLW9uZS1vbmUtb25lLW9uZS1vbmUtb25lLW9uZS0=",
};
const SHA384: Key = Key {
    name: "acme-key",
    algorithm: "hmac-sha384",
    secret: "dHdvLXR3by10d28tdHdvLXR3by10d28tdHdvLXR3by0=",
};
const SHA512: Key = Key {
    name: "acme-key",
    algorithm: "hmac-sha512",
    secret: "dGhyZWUtdGhyZWUtdGhyZWUtdGhyZWUtdGhyZWUtdGg=",
};
