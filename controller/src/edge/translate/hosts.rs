//! Whose hosts, how Ingresses add up, and what their annotations do.

use signet_http::model::{Case, PathRewrite, Timeout};

use super::*;

fn of_bank(name: &str) -> Manifest {
    ingress(name).in_namespace("bank")
}

fn younger(manifest: Manifest) -> Manifest {
    manifest.with("/metadata/creationTimestamp", "2026-05-05T00:00:00Z")
}

fn app(paths: &[&str]) -> Value {
    rules(&[("app.example", paths)])
}

#[test]
fn ingresses_of_one_namespace_add_up_to_one_host_and_the_older_wins_a_tie() {
    let gateway = World::new()
        .with(younger(ingress("more").with("/spec/rules", app(&["Prefix /more c", "Prefix / b"]))))
        .with(ingress("web").with("/spec/rules", app(&["Prefix / a"])))
        .serve();
    assert_eq!((gateway.http("app.example/"), gateway.http("app.example/more")), ("a".into(), "c".into()));
    assert_eq!(gateway.host("app.example").ingresses, ["shop/web", "shop/more"]);
    let names: Vec<&str> = gateway.0.routes.iter().map(|route| &*route.name).collect();
    assert_eq!(names, ["ingress/shop/web/app.example", "ingress/shop/more/app.example"]);
}

#[test]
fn an_ingress_of_another_namespace_gets_neither_route_nor_certificate_and_is_told_why() {
    let thief = younger(of_bank("thief"))
        .with("/spec/rules", app(&["Prefix /login a"]))
        .with("/spec/tls", tls(&["app.example"], "stolen"));
    let world = World::new().with(ingress("web").with("/spec/rules", app(&["Prefix / a"]))).certificate(
        "bank",
        "stolen",
        &["app.example"],
    );
    let gateway = world.with(thief).serve();
    assert_eq!(gateway.http("app.example/login"), "a", "of namespace shop");
    assert_eq!((gateway.shown("app.example"), gateway.0.certificates.len()), (None, 0));
    assert!(gateway.0.https_hosts.is_empty(), "nor does it force others to HTTPS");
    let (word, why) = gateway.findings("bank/thief").remove(0);
    assert_eq!(word, Word::HostTaken);
    assert!(
        why.contains("namespace shop")
            && why.contains("kubectl annotate namespace bank signet.dev/hosts=app.example"),
        "{why}"
    );
    assert!(!gateway.0.ingresses[&("bank".into(), "thief".into())].served);
    let host = gateway.host("app.example");
    assert_eq!((host.owner.as_str(), host.refused[0].ingress.as_str()), ("shop", "bank/thief"));
}

#[test]
fn a_pin_turns_it_round() {
    let pinned = namespace("bank").annotation("signet.dev/hosts", "app.example, *.bank.example");
    let gateway = World::new()
        .with(pinned)
        .with(ingress("web").with("/spec/rules", app(&["Prefix / a"])))
        .with(younger(of_bank("web")).with("/spec/rules", app(&["Prefix / b"])))
        .serve();
    assert_eq!(gateway.http("app.example/"), "bank/b");
    assert_eq!(gateway.words("web"), [Word::HostTaken]);
    assert_eq!(gateway.host("app.example").by, "pin");
}

#[test]
fn what_is_stored_wins_over_age() {
    let stored = claims::Claim { namespace: "bank".into(), since: NOW - 5, lost: None };
    let mut world = World::new()
        .with(ingress("old").with("/spec/rules", app(&["Prefix / a"])))
        .with(younger(of_bank("web")).with("/spec/rules", app(&["Prefix / b"])));
    world.claims = Some([("app.example".to_owned(), stored)].into());
    let gateway = world.serve();
    assert_eq!(gateway.http("app.example/"), "bank/b");
    assert_eq!(gateway.0.claims, world.claims.unwrap());
}

#[test]
fn a_default_backend_takes_what_the_paths_of_its_hosts_leave() {
    let with_default = |paths: &[&str]| {
        let web = ingress("web").with("/spec/rules", app(paths)).with("/spec/defaultBackend", to("c"));
        World::new().with(web)
    };
    let gateway = with_default(&["Prefix /a a"]).serve();
    assert_eq!((gateway.http("app.example/a"), gateway.http("app.example/x")), ("a".into(), "c".into()));
    assert_eq!(gateway.http("other.example/"), "404", "its hosts' only");
    let more = younger(ingress("more").with("/spec/rules", app(&["Prefix / b"])));
    let gateway = with_default(&["Prefix /a a"]).with(more).serve();
    assert_eq!(gateway.http("app.example/x"), "b", "another Ingress of the host takes everything");
    let whole = ingress("web").with("/spec/rules", json!([{"host": "app.example"}]));
    let gateway = World::new().with(whole.clone().with("/spec/defaultBackend", to("c"))).serve();
    assert_eq!(gateway.http("app.example/x"), "c", "a rule without paths");
    assert_eq!(World::new().with(whole).serve().words("web"), [Word::BadValue]);
}

#[test]
fn a_rule_without_a_host_takes_every_host_that_has_none() {
    let gateway = World::new()
        .with(ingress("all").with("/spec/rules", rules(&[("*", &["Prefix / a"])])))
        .with(ingress("web").with("/spec/rules", app(&["Prefix /b b"])))
        .serve();
    assert_eq!((gateway.http("any.example/"), gateway.http("app.example/b")), ("a".into(), "b".into()));
    assert_eq!(gateway.http("app.example/"), "404", "a host has one owner");
}

#[test]
fn what_cannot_be_understood_is_left_out_and_named_and_hides_no_neighbour() {
    let web = ingress("web").with(
        "/spec/rules",
        json!([
            {"host": "not a host", "http": {"paths": [path("Prefix / a")]}},
            {"host": "app.example", "http": {"paths": [
                path("Prefix / a"), path("Prefix /a//b b"), {"path": "/c", "backend": to("c")},
                {"pathType": "Prefix", "path": "/r", "backend": {"resource": {"kind": "Bucket", "name": "x"}}},
                {"pathType": "Prefix", "path": "/n", "backend": {"service": {"name": "gone", "port": {"number": 80}}}},
            ]}},
        ]),
    );
    let gateway = World::new().with(web).serve();
    for (path, want) in [("/", "a"), ("/a/b", "a"), ("/c", "a"), ("/r", "500"), ("/n", "503")] {
        assert_eq!(gateway.http(&format!("app.example{path}")), want, "{path}");
    }
    assert_eq!(
        gateway.words("web"),
        [Word::BadValue, Word::BadValue, Word::BadValue, Word::BackendRefused, Word::NoBackend]
    );
}

#[test]
fn an_ingress_whose_protection_we_would_leave_out_is_not_served_at_all_and_keeps_its_host() {
    let web = ingress("web")
        .with("/spec/rules", app(&["Prefix / a"]))
        .annotation("nginx.ingress.kubernetes.io/auth-url", "https://auth.example");
    let gateway = World::new()
        .with(web)
        .with(younger(of_bank("web")).with("/spec/rules", app(&["Prefix / a"])))
        .serve();
    assert_eq!(gateway.http("app.example/"), "404");
    assert_eq!(gateway.words("web"), [Word::Refused]);
    assert_eq!(gateway.words("bank/web"), [Word::HostTaken]);
    assert_eq!(gateway.host("app.example").refused.len(), 2);
}

#[test]
fn annotations_set_what_they_say_for_their_own_rules_and_no_others() {
    let web = ingress("web")
        .with("/spec/rules", app(&["Prefix /old(/|$)(.*) a", "Exact /exact b"]))
        .annotation("nginx.ingress.kubernetes.io/rewrite-target", "/new/$2")
        .annotation("nginx.ingress.kubernetes.io/proxy-body-size", "8m")
        .annotation("nginx.ingress.kubernetes.io/proxy-read-timeout", "90");
    let other = younger(ingress("other").with("/spec/rules", app(&["Prefix / c"])));
    let gateway = World::new().with(web).with(other).serve();
    let [old, exact] = &gateway.0.routes[0].rules[..] else { panic!("two rules") };
    let Action::Forward(forward) = &old.action else { panic!("{:?}", old.action) };
    assert!(matches!(forward.path, Some(PathRewrite::Captures(_))));
    let PathMatch::Regex(pattern) = &old.matches[0].path else { panic!("{:?}", old.matches) };
    assert_eq!((&*pattern.text, pattern.case), ("/old(/|$)(.*)", Case::Insensitive));
    assert_eq!(
        (old.max_body, old.timeouts.idle),
        (Some(8 << 20), Timeout::After(std::time::Duration::from_secs(90)))
    );
    assert!(matches!(exact.matches[0].path, PathMatch::Exact(_)));
    assert_eq!(gateway.http("app.example/OLD/x"), "a");
    let rest = &gateway.0.routes[1].rules[0];
    assert_eq!((rest.max_body, rest.timeouts.idle), (None, Timeout::Default));
    let bad = ingress("web")
        .with("/spec/rules", app(&["Prefix / a"]))
        .annotation("nginx.ingress.kubernetes.io/rewrite-target", "https://elsewhere/$1");
    let gateway = World::new().with(bad).serve();
    assert_eq!((gateway.http("app.example/"), gateway.words("web")), ("500".into(), vec![Word::BadValue]));
}

#[test]
fn backends_are_sent_once_each_and_only_those_that_a_rule_names() {
    let gateway = World::new()
        .with(ingress("web").with("/spec/rules", app(&["Prefix / a", "Prefix /x a", "Prefix /b b"])))
        .serve();
    let names: Vec<&str> = gateway.0.backends.iter().map(|backend| &*backend.name).collect();
    assert_eq!(names, ["shop/a:80", "shop/b:80"]);
}

#[test]
fn the_page_of_a_host_says_how_each_endpoint_is_reached() {
    let gateway = World::new().with(ingress("web").with("/spec/rules", app(&["Prefix / a"]))).serve();
    let way = &gateway.host("app.example").rules[0].endpoints[0];
    assert_eq!((way.transport.as_str(), way.pod.as_str()), ("mesh", "shop/a"));
    assert_eq!(way.detail, "spiffe://cluster.local/ns/shop/sa/a");
}

/// What one tenant writes keeps no other waiting.
#[test]
fn an_ingress_of_more_than_a_thousand_hosts_is_refused_whole_and_told() {
    let many: Vec<String> = (0..1001).map(|n| format!("h{n}.example")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let rules_of = |hosts: &[&str]| hosts.iter().map(|host| rule(host, &["Prefix / a"])).collect::<Value>();
    let served = ingress("most").with("/spec/rules", rules_of(&many[..1000]));
    assert_eq!(World::new().with(served).serve().http("h999.example/"), "a");
    for refused in [
        ingress("web").with("/spec/rules", rules_of(&many)),
        ingress("web").with("/spec/rules", rules_of(&many[..2])).with("/spec/tls", tls(&many, "t")),
    ] {
        let gateway = World::new().with(refused).serve();
        assert_eq!(gateway.http("h0.example/"), "404");
        let (word, why) = gateway.findings("shop/web").remove(0);
        assert!(word == Word::Refused && why.contains("more than 1000"), "{why}");
    }
}
