//! The edge CA and second names: who gets a leaf, what comes before it, and what is said where there is none.

use super::*;

/// `host`, with a tls section that names Secret web-tls.
fn secured(host: &str) -> Manifest {
    ingress("web")
        .with("/spec/rules", rules(&[(host, &["Prefix / a"])]))
        .with("/spec/tls", tls(&[host], "web-tls"))
}

fn with_ca(mut world: World) -> World {
    world.ca = Some(Arc::new(EdgeCa::generate(&world.suffixes, NOW - 1000).unwrap().0));
    world.issuer = EdgeIssuer::Local;
    world
}

#[test]
fn a_host_below_a_suffix_is_served_with_a_leaf_and_nothing_is_found_wrong() {
    let world =
        with_ca(World::new().with(secured("blog.localhost"))).trouble("shop", "web-tls", Trouble::Absent);
    let gateway = world.serve();
    assert_eq!(gateway.shown("blog.localhost"), Some("edge-ca/blog.localhost"));
    assert_eq!(
        (gateway.http("blog.localhost/"), gateway.https("blog.localhost/")),
        ("308".into(), "a".into())
    );
    assert_eq!(gateway.findings("web"), [], "that nobody made the Secret is how it is meant here");
    let certificate = gateway.host("blog.localhost").certificate.clone().unwrap();
    assert_eq!((certificate.issuer.as_deref(), certificate.secret), (Some("edge CA"), None));
    assert!(
        gateway.0.due.is_some_and(|due| due > NOW && due < NOW + certificate.left_seconds.unwrap()),
        "renewed in time"
    );
    assert_eq!(gateway.0.edge_ca.as_ref().unwrap().suffixes, ["localhost", "test"]);
}

#[test]
fn nobody_gets_a_leaf_that_did_not_choose_it_and_an_ingress_s_own_word_counts_more() {
    let choose = |issuer, word: Option<&str>| {
        let web = secured("blog.test");
        let web = match word {
            Some(word) => web.annotation("signet.dev/edge-issuer", word),
            None => web,
        };
        let mut world = with_ca(World::new().with(web)).trouble("shop", "web-tls", Trouble::Absent);
        world.issuer = issuer;
        world.serve().shown("blog.test").is_some()
    };
    for (issuer, word, served) in [
        (EdgeIssuer::None, None, false),
        (EdgeIssuer::Local, None, true),
        (EdgeIssuer::None, Some("local"), true),
        (EdgeIssuer::Local, Some("none"), false),
        (EdgeIssuer::None, Some("locale"), false),
    ] {
        assert_eq!(choose(issuer, word), served, "{issuer:?} {word:?}");
    }
    let plain = || ingress("web").with("/spec/rules", rules(&[("blog.test", &["Prefix / a"])]));
    assert_eq!(
        with_ca(World::new().with(plain())).serve().http("blog.test/"),
        "a",
        "it asks for no certificate"
    );
    let asked = plain().annotation("signet.dev/edge-issuer", "local");
    assert_eq!(with_ca(World::new().with(asked)).serve().http("blog.test/"), "308", "by name it does");
}

#[test]
fn the_user_s_own_secret_wins_and_one_that_is_broken_is_told_beside_the_leaf() {
    let world = with_ca(World::new().with(secured("blog.test")));
    let own = world.clone().certificate("shop", "web-tls", &["blog.test"]).serve();
    assert_eq!(own.shown("blog.test"), Some("shop/web-tls"));
    let broken = world.certificate("shop", "web-tls", &["other.test"]).serve();
    assert_eq!(broken.shown("blog.test"), Some("edge-ca/blog.test"));
    let (word, why) = broken.findings("web").remove(0);
    assert_eq!(word, Word::NoCertificate);
    assert!(
        why.contains("is for other.test") && why.contains("one of the edge CA is served meanwhile"),
        "{why}"
    );
}

#[test]
fn what_the_ca_may_not_certify_waits_and_is_told_what_to_do() {
    for (host, suffixes, says) in [
        (
            "blog.example.com",
            &[][..],
            "blog.example.com is below none of the edge CA's suffixes (localhost, test)",
        ),
        ("blog.example.com", &["home.example.com"], "--edge-suffix"),
        ("*.test", &[], "no wildcard directly below a top-level name"),
    ] {
        let mut world = World::new().with(secured(host)).trouble("shop", "web-tls", Trouble::Absent);
        world.suffixes = suffixes.iter().map(|suffix| suffix.parse().unwrap()).collect();
        let gateway = with_ca(world).serve();
        let (word, why) = gateway.findings("web").remove(0);
        assert_eq!((word, gateway.0.certificates.len()), (Word::NoCertificate, 0));
        assert!(why.contains("there is no Secret shop/web-tls, and ") && why.contains(says), "{why}");
    }
    let mut without = with_ca(World::new().with(secured("blog.test")));
    without.ca = None;
    let gateway = without.serve();
    assert!(gateway.findings("web")[0].1.contains("there is no edge CA: Secret signet-edge/signet-edge-ca"));
    assert!(gateway.0.edge_ca_fault.is_some());
}

#[test]
fn a_suffix_that_the_stored_ca_lacks_is_told_with_how_to_get_another() {
    let mut world = with_ca(World::new().with(secured("blog.test")));
    world.suffixes = vec!["home.example.com".parse().unwrap()];
    let fault = world.serve().0.edge_ca_fault.unwrap();
    assert!(fault.contains("without home.example.com") && fault.contains("signet trust install"), "{fault}");
}

fn aliased(world: World) -> World {
    let mut world = with_ca(world);
    world.alias = Some("localhost".parse().unwrap());
    world
}

#[test]
fn a_public_host_is_served_by_its_second_name_too_with_certificate_route_and_redirect() {
    for (host, dialled) in
        [("blog.example.com", "blog.example.com.localhost"), ("*.example.com", "a.example.com.localhost")]
    {
        let gateway = aliased(World::new().with(secured(host))).serve();
        assert_eq!(gateway.https(&format!("{dialled}/")), "a", "{host}");
        assert_eq!(gateway.http(&format!("{dialled}/")), "308", "{host}");
        let name = format!("edge-ca/{host}.localhost");
        assert_eq!(gateway.shown(dialled), Some(name.as_str()));
        assert_eq!(gateway.findings("web"), [], "who has a certificate by the second name lacks nothing");
        let answer = gateway.host(host);
        assert_eq!(answer.alias, Some(format!("{host}.localhost")));
        assert!(answer.certificate.as_ref().unwrap().served);
        let own = dialled.strip_suffix(".localhost").unwrap();
        assert_eq!(
            (gateway.http(&format!("{own}/")), gateway.shown(own)),
            ("503".into(), None),
            "never another's"
        );
    }
}

#[test]
fn a_second_name_is_whose_the_host_is_and_nobody_takes_it() {
    let thief = secured("blog.example.com")
        .with("/metadata/name", "later")
        .in_namespace("bank")
        .with("/metadata/creationTimestamp", "2026-02-01T00:00:00Z");
    let gateway = aliased(World::new().with(secured("blog.example.com")).with(thief)).serve();
    assert_eq!(gateway.https("blog.example.com.localhost/"), "a");
    let routes = gateway.0.routes.iter().filter(|route| route.name.contains("bank"));
    assert_eq!(routes.count(), 0);
    let squatter = secured("blog.example.com.localhost").with("/metadata/name", "squat").in_namespace("bank");
    let gateway = aliased(World::new().with(secured("blog.example.com")).with(squatter)).serve();
    let of_bank =
        |route: &&Route| route.hosts.iter().any(|host| host.to_string() == "blog.example.com.localhost");
    let routes: Vec<&str> = gateway.0.routes.iter().filter(of_bank).map(|route| &*route.name).collect();
    assert_eq!(
        routes,
        ["ingress/bank/squat/blog.example.com.localhost"],
        "a name that is asked for is no second name"
    );
}

#[test]
fn a_secret_in_a_namespace_called_edge_ca_takes_no_certificate_s_name() {
    let twin = secured("b.test")
        .with("/metadata/name", "twin")
        .in_namespace("edge-ca")
        .with("/spec/tls", tls(&["b.test"], "a.test"));
    let gateway = with_ca(World::new().with(namespace("edge-ca")).with(secured("a.test")).with(twin))
        .certificate("edge-ca", "a.test", &["b.test"])
        .serve();
    let mut names: Vec<&str> = gateway.0.certificates.iter().map(|certificate| &*certificate.name).collect();
    names.sort_unstable();
    assert_eq!(names, ["edge-ca/a.test", "edge-ca/a.test#1"]);
    assert_eq!(gateway.shown("b.test"), Some("edge-ca/a.test"));
    assert_eq!(gateway.shown("a.test"), Some("edge-ca/a.test#1"));
}

#[test]
fn a_second_name_that_is_pinned_to_another_namespace_is_not_served() {
    let pin = |hosts: &str| namespace("bank").annotation("signet.dev/hosts", hosts);
    let gateway = aliased(World::new().with(pin("*.localhost")).with(secured("blog.example.com"))).serve();
    assert_eq!(gateway.host("blog.example.com").alias, None);
    assert_eq!(gateway.http("blog.example.com.localhost/"), "404");
    assert_eq!(gateway.shown("blog.example.com.localhost"), None);
}

#[test]
fn a_wildcard_s_second_name_redirects_no_plain_host_of_another_namespace() {
    let plain = ingress("plain")
        .in_namespace("bank")
        .with("/spec/rules", rules(&[("a.example.com.localhost", &["Prefix / b"])]));
    let gateway = aliased(World::new().with(secured("*.example.com")).with(plain)).serve();
    assert_eq!(gateway.http("a.example.com.localhost/"), "bank/b", "it asks for no HTTPS");
    assert_eq!(gateway.http("z.example.com.localhost/"), "308", "the wildcard does");
}
