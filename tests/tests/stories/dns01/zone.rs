//! The servers of a zone, found as the world finds them: in a network namespace where a server has port 53.

use std::{net::SocketAddr, time::Duration};

use signet_acme::dns::{Lookups, Saw};
use signet_tests::{
    nameservers::{self, Zone},
    netns::Netns,
    unprivileged::Unprivileged,
};

use super::{dns01, rfc2136::SHA256};

#[test]
fn the_servers_of_a_zone_are_found_by_its_ns_records_and_all_are_asked() {
    let netns = Netns::new().unwrap();
    netns.ip("address add 127.0.0.3/8 dev lo").unwrap(); // BIND takes only addresses that an interface has
    netns.inside(|| std::fs::write("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0")).unwrap();
    let user = Unprivileged::inside(&netns).unwrap();
    let story = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(Box::pin(servers_are_found(&user)));
        Ok(())
    };
    netns.inside(story).unwrap();
}

async fn servers_are_found(user: &Unprivileged) {
    let [first, second] = ["127.0.0.2:53", "127.0.0.3:53"].map(|at| at.parse::<SocketAddr>().unwrap());
    // The host itself is an alias of a name that is a zone with servers of its own, as of a CDN: they are not the host's.
    let records =
        "ns1 A 127.0.0.2\n@ NS ns2\nns2 A 127.0.0.3\n@ NS ns3\nns3 A 127.0.0.4\napp CNAME d1.cdn.test.";
    let shop = Zone { name: "shop.test", records };
    let cdn = Zone { name: "d1.cdn.test", records: "@ A 127.0.0.9" };
    let _first = nameservers::knot(user, first, SHA256, &[shop, cdn]).await.unwrap();
    let _second = nameservers::bind(user, second, SHA256, &[shop]).await.unwrap();
    let (dns01, nameserver) = (dns01(Lookups::at(&[first]).unwrap()), first.to_string());
    let data = [("nameserver", &*nameserver), ("tsig-key-name", SHA256.name), ("tsig-secret", SHA256.secret)];
    let by = super::credentials("rfc2136", "shop.test", &data);

    let txt = dns01.publish(&by, "_acme-challenge.app.shop.test", "x").await.unwrap();
    let mut seen = dns01.look(&by, &txt).await.unwrap();
    seen.sort_by(|a, b| a.server.cmp(&b.server));
    let shown: Vec<String> = seen.iter().map(|sight| sight.to_string()).collect();
    assert_eq!(shown[0], "ns1.shop.test (127.0.0.2:53) shows it");
    assert_eq!(shown[1], "ns2.shop.test (127.0.0.3:53) does not show it");
    assert!(matches!(&seen[2].saw, Saw::Silent(_)), "{shown:?}");

    let data = [
        ("nameserver", &*second.to_string()),
        ("tsig-key-name", SHA256.name),
        ("tsig-secret", SHA256.secret),
    ];
    let other = super::credentials("rfc2136", "shop.test", &data);
    dns01.publish(&other, "_acme-challenge.app.shop.test", "x").await.unwrap(); // as a transfer would
    let seen = dns01.wait(&by, &txt, Duration::from_secs(3)).await.unwrap();
    assert_eq!(seen.iter().filter(|sight| sight.saw == Saw::Shown).count(), 2, "{seen:?}");
}
