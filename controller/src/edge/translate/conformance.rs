//! The 25 scenarios of `sigs.k8s.io/ingress-controller-conformance` (2021), written anew from the Ingress v1 specification: one
//! default backend, six of hosts, one of classes, one of load balancing, sixteen of paths.

use super::*;

/// An Ingress with these rules, and what requests to it get.
fn serve(all: &[(&str, &[&str])]) -> Gateway {
    World::new().with(ingress("web").with("/spec/rules", rules(all))).serve()
}

fn one(paths: &[&str]) -> Gateway {
    serve(&[("app.example", paths)])
}

// default backend

#[test]
fn an_ingress_without_rules_sends_everything_to_its_default_backend() {
    let gateway = World::new().with(ingress("web").with("/spec/defaultBackend", to("a"))).serve();
    for url in ["my-host.example/", "other.example/sub/path", "x/%20"] {
        assert_eq!(gateway.http(url), "a", "{url}");
    }
}

// host rules

#[test]
fn a_host_rule_sends_its_host_to_its_backend() {
    assert_eq!(serve(&[("foo.bar.com", &["Prefix / a"])]).http("foo.bar.com/"), "a");
}

#[test]
fn a_host_rule_sends_its_host_to_its_backend_over_tls() {
    let web = ingress("web")
        .with("/spec/rules", rules(&[("foo.bar.com", &["Prefix / a"])]))
        .with("/spec/tls", tls(&["foo.bar.com"], "web-tls"));
    let gateway = World::new().with(web).certificate("shop", "web-tls", &["foo.bar.com"]).serve();
    assert_eq!(
        (gateway.shown("foo.bar.com"), gateway.https("foo.bar.com/")),
        (Some("shop/web-tls"), "a".into())
    );
}

#[test]
fn a_host_rule_does_not_take_another_host() {
    let gateway = serve(&[("foo.bar.com", &["Prefix / a"])]);
    for host in ["subdomain.bar.com", "bar.com", "foo.bar.com.evil", "xfoo.bar.com"] {
        assert_eq!(gateway.http(&format!("{host}/")), "404", "{host}");
    }
}

#[test]
fn a_wildcard_host_takes_one_label() {
    assert_eq!(serve(&[("*.foo.com", &["Prefix / a"])]).http("bar.foo.com/"), "a");
}

#[test]
fn a_wildcard_host_does_not_take_two_labels() {
    assert_eq!(serve(&[("*.foo.com", &["Prefix / a"])]).http("baz.bar.foo.com/"), "404");
}

#[test]
fn a_wildcard_host_does_not_take_the_domain_itself() {
    assert_eq!(serve(&[("*.foo.com", &["Prefix / a"])]).http("foo.com/"), "404");
}

// ingress class

#[test]
fn an_ingress_of_another_class_is_neither_served_nor_given_an_address() {
    let web = ingress("web")
        .with("/spec/ingressClassName", "some-invalid-class-name")
        .with("/spec/rules", rules(&[("app.example", &["Prefix / a"])]));
    let gateway = World::new().with(web).serve();
    assert_eq!(gateway.http("app.example/"), "404");
    assert!(gateway.0.ingresses.is_empty(), "no status is written of what is not known");
}

// load balancing

#[test]
fn requests_go_to_every_ready_pod_of_the_service() {
    let more = (1..=9).map(|n| pod(&format!("a-{n}")).label("app", "a").at(&format!("10.77.0.{n}")));
    let web = ingress("web").with("/spec/rules", rules(&[("app.example", &["Prefix / a"])]));
    let gateway = more.fold(World::new().with(web), World::with).serve();
    let backend = gateway.0.backends.iter().find(|backend| &*backend.name == "shop/a:80").unwrap();
    assert_eq!(backend.endpoints.len(), 10);
}

// path rules

#[test]
fn exact_takes_its_path() {
    assert_eq!(one(&["Exact /foo a"]).http("app.example/foo"), "a");
}

#[test]
fn exact_does_not_take_the_path_with_a_trailing_slash() {
    assert_eq!(one(&["Exact /foo a"]).http("app.example/foo/"), "404");
}

#[test]
fn exact_is_case_sensitive() {
    assert_eq!(one(&["Exact /foo a"]).http("app.example/FOO"), "404");
}

#[test]
fn exact_does_not_take_another_path() {
    assert_eq!(one(&["Exact /foo a"]).http("app.example/bar"), "404");
}

#[test]
fn exact_with_a_trailing_slash_takes_only_that() {
    let gateway = one(&["Exact /aaa/bbb/ a"]);
    assert_eq!(
        (gateway.http("app.example/aaa/bbb/"), gateway.http("app.example/aaa/bbb")),
        ("a".into(), "404".into())
    );
}

#[test]
fn prefix_takes_its_path() {
    assert_eq!(one(&["Prefix /foo a"]).http("app.example/foo"), "a");
}

#[test]
fn prefix_takes_its_path_with_a_trailing_slash() {
    assert_eq!(one(&["Prefix /foo a"]).http("app.example/foo/"), "a");
}

#[test]
fn prefix_with_a_trailing_slash_takes_the_path_without_and_with_it() {
    let gateway = one(&["Prefix /foo/ a"]);
    assert_eq!((gateway.http("app.example/foo"), gateway.http("app.example/foo/")), ("a".into(), "a".into()));
}

#[test]
fn prefix_is_case_sensitive() {
    assert_eq!(one(&["Prefix /foo a"]).http("app.example/FOO"), "404");
}

#[test]
fn prefix_takes_what_is_below_it() {
    assert_eq!(one(&["Prefix /aaa/bbb a"]).http("app.example/aaa/bbb/ccc"), "a");
}

#[test]
fn prefix_goes_by_element_and_not_by_letter() {
    let gateway = one(&["Prefix /aaa/bbb a"]);
    for path in ["/aaa/bbbxyz", "/aaa/bb", "/aaa"] {
        assert_eq!(gateway.http(&format!("app.example{path}")), "404", "{path}");
    }
}

#[test]
fn prefix_of_the_root_takes_everything() {
    let gateway = one(&["Prefix / a"]);
    for path in ["/", "/foo", "/foo/bar"] {
        assert_eq!(gateway.http(&format!("app.example{path}")), "a", "{path}");
    }
}

#[test]
fn of_several_prefixes_the_longest_wins() {
    let gateway = one(&["Prefix / a", "Prefix /aaa b", "Prefix /aaa/bbb c"]);
    for (path, want) in [("/ccc", "a"), ("/aaa/ccc", "b"), ("/aaa/bbb/ccc", "c")] {
        assert_eq!(gateway.http(&format!("app.example{path}")), want, "{path}");
    }
}

#[test]
fn exact_wins_over_the_same_prefix_and_leaves_it_the_rest() {
    let gateway = one(&["Prefix /foo a", "Exact /foo b"]);
    for (path, want) in [("/foo", "b"), ("/foo/", "a"), ("/foo/bar", "a")] {
        assert_eq!(gateway.http(&format!("app.example{path}")), want, "{path}");
    }
}

#[test]
fn a_path_that_no_rule_takes_is_not_found() {
    assert_eq!(one(&["Prefix /aaa a", "Exact /bbb b"]).http("app.example/ccc"), "404");
}

#[test]
fn an_implementation_specific_path_is_a_prefix() {
    let gateway = one(&["ImplementationSpecific /foo a"]);
    for (path, want) in [("/foo", "a"), ("/foo/bar", "a"), ("/foobar", "404")] {
        assert_eq!(gateway.http(&format!("app.example{path}")), want, "{path}");
    }
}
