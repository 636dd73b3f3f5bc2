//! What rules say: redirects, rewrites, headers, weights, hosts that want HTTPS, certificates that cover a host or not.

use std::{sync::Arc, time::Duration};

use http::{HeaderName, HeaderValue, StatusCode};

use super::world::*;
use crate::{arrival::Arrival, model::*, serve::Version};
use tokio::io::AsyncWriteExt as _;

fn edits(
    set: &[(&'static str, &'static str)],
    add: &[(&'static str, &'static str)],
    remove: &[&'static str],
) -> HeaderEdits {
    let pairs = |list: &[(&'static str, &'static str)]| {
        list.iter().map(|(n, v)| (HeaderName::from_static(n), HeaderValue::from_static(v))).collect()
    };
    HeaderEdits::new(pairs(set), pairs(add), remove.iter().map(|n| HeaderName::from_static(n)).collect())
        .unwrap()
}

fn at(path: &str, rule: Rule) -> Rule {
    Rule { matches: vec![Match::path(PathMatch::Prefix(path.parse().unwrap()))], ..rule }
}

fn get(target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: a.test\r\nX-Old: 1\r\nX-Two: 1\r\n\r\n")
}

#[tokio::test(start_paused = true)]
async fn headers_are_set_added_and_removed_on_both_sides() {
    let world = World::new();
    world.answering(1, |_| "HTTP/1.1 200 OK\r\nserver: secret\r\nx-a: 1\r\ncontent-length: 0\r\n\r\n".into());
    let mut forward = forward();
    forward.request_headers = edits(&[("x-two", "2")], &[("x-two", "3")], &["x-old"]);
    forward.backends[0].request_headers = edits(&[("x-share", "b")], &[], &[]);
    forward.backends[0].response_headers = edits(&[("x-b", "b")], &[], &[]);
    let rule = Rule {
        response_headers: edits(&[("x-a", "2")], &[("x-b", "c")], &["server"]),
        ..Rule::new(Action::Forward(forward))
    };
    world.apply(vec![rule], vec![backend(&[1])]);
    let text = world.talk(&get("/")).await;
    assert!(
        text.contains("x-a: 2\r\n") && text.contains("x-b: b\r\n") && text.contains("x-b: c\r\n"),
        "{text}"
    );
    assert!(!text.contains("secret") && !text.contains("x-a: 1"), "{text}");
    let seen = &world.seen()[0];
    assert!(seen.head.contains("x-two: 2\r\nx-two: 3\r\n"), "{}", seen.head);
    assert_eq!((seen.field("x-old"), seen.field("x-share")), (None, Some("b")));
}

#[tokio::test(start_paused = true)]
async fn paths_and_hosts_are_rewritten_as_the_rule_says_and_the_query_stays() {
    let world = World::new();
    world.answering(1, |_| reply("200 OK", ""));
    let rewrite = |path| {
        let host = Some("inner.test".parse().unwrap());
        Rule::new(Action::Forward(Forward { path: Some(path), host, ..forward() }))
    };
    let regex = Match::path(PathMatch::Regex(Pattern::nginx("/re(/|$)(.*)")));
    let rules = vec![
        at("/whole", rewrite(PathRewrite::Whole("/w".parse().unwrap()))),
        at("/pre", rewrite(PathRewrite::Prefix("/new".parse().unwrap()))),
        at("/strip", rewrite(PathRewrite::Prefix("/".parse().unwrap()))),
        Rule { matches: vec![regex], ..rewrite(PathRewrite::Captures("/$2".parse().unwrap())) },
    ];
    world.apply(rules, vec![backend(&[1])]);
    for (target, expected) in [
        ("/whole/x?q=1", "/w?q=1"),
        ("/pre", "/new"),
        ("/pre/a%20b/c?q", "/new/a%20b/c?q"),
        ("/strip", "/"),
        ("/strip/x", "/x"),
        ("/re", "/"),
        ("/RE/a/b?q", "/a/b?q"),
    ] {
        let text = world.talk(&get(target)).await;
        assert_eq!(statuses(&text), [200], "{target}: {text}");
        let seen = world.seen().pop().unwrap();
        assert_eq!(seen.line(), format!("GET {expected} HTTP/1.1"), "{target}");
        assert_eq!(seen.field("host"), Some("inner.test"));
        assert_eq!(seen.field("x-forwarded-host"), Some("a.test"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_redirect_changes_what_it_names_and_keeps_the_rest() {
    let world = World::new();
    let redirect =
        Redirect { scheme: None, host: None, port: None, path: None, status: RedirectStatus::Found };
    let prefix = Some(PathRewrite::Prefix("/new".parse().unwrap()));
    for (redirect, target, status, location) in [
        (
            Redirect { scheme: Some(Scheme::Https), ..redirect.clone() },
            "/old/x?q",
            302,
            "https://a.test/old/x?q",
        ),
        (
            Redirect { host: Some("b.test".parse().unwrap()), ..redirect.clone() },
            "/old/x",
            302,
            "http://b.test/old/x",
        ),
        (Redirect { port: Some(8080), ..redirect.clone() }, "/old/x", 302, "http://a.test:8080/old/x"),
        (
            Redirect { path: prefix, status: RedirectStatus::PermanentRedirect, ..redirect.clone() },
            "/old/x?q",
            308,
            "http://a.test/new/x?q",
        ),
    ] {
        world.apply(vec![at("/old", Rule::new(Action::Redirect(redirect)))], vec![]);
        let text = world.talk(&get(target)).await;
        assert_eq!(statuses(&text), [status], "{text}");
        assert!(text.contains(&format!("location: {location}\r\n")), "{text}");
    }
}

fn https_snapshot(unready: Option<Respond>) -> Snapshot {
    let challenge = Match::path(PathMatch::Prefix("/.well-known/acme-challenge".parse().unwrap()));
    let ok = || Action::Respond(Respond::status(StatusCode::NO_CONTENT));
    let rules = vec![
        Rule { matches: vec![challenge], plaintext: Plaintext::Serve, ..Rule::new(ok()) },
        at("/app", Rule::new(ok())),
        at("/forced", Rule { plaintext: Plaintext::Redirect, ..Rule::new(ok()) }),
    ];
    let host = HostPattern::ingress(Some("a.test")).unwrap();
    Snapshot { https_hosts: vec![HttpsHost { host, port: 8443, unready }], ..snapshot(rules, vec![]) }
}

#[tokio::test(start_paused = true)]
async fn plaintext_is_sent_to_https_but_for_challenges() {
    let world = World::new();
    world.apply_snapshot(https_snapshot(None));
    let ask = |host: &str, path: &str| format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n");
    for (host, path, expected) in [
        ("a.test", "/app?x", "308 https://a.test:8443/app?x"),
        ("A.test:80", "/none", "308 https://a.test:8443/none"),
        ("a.test", "/.well-known/acme-challenge/x", "204 "),
        ("b.test", "/app", "204 "),
        ("b.test", "/forced", "308 https://b.test/forced"),
    ] {
        let text = world.talk(&ask(host, path)).await;
        let location = text.lines().find_map(|l| l.strip_prefix("location: ")).unwrap_or_default();
        assert_eq!(format!("{} {location}", statuses(&text)[0]), expected, "{host}{path}");
    }
    let secure = Arrival { scheme: Scheme::Https, ..arrival() };
    let mut client = world.connect_as(secure, Version::Http1);
    client.write_all(ask("a.test", "/app").as_bytes()).await.unwrap();
    assert_eq!(statuses(&read_all(&mut client).await), [204]);

    let retry_after = Some(Duration::from_secs(10));
    let unready = Respond { retry_after, ..Respond::status(StatusCode::SERVICE_UNAVAILABLE) };
    world.apply_snapshot(https_snapshot(Some(unready)));
    let text = world.talk(&ask("a.test", "/app")).await;
    assert!(statuses(&text) == [503] && text.contains("retry-after: 10\r\n"), "{text}");
    assert_eq!(statuses(&world.talk(&ask("a.test", "/.well-known/acme-challenge/x")).await), [204]);
}

#[tokio::test(start_paused = true)]
async fn a_host_of_another_certificate_is_misdirected() {
    let world = World::new();
    world.answering(1, |_| reply("200 OK", ""));
    let arrival = Arrival {
        scheme: Scheme::Https,
        sni: Some("a.test".into()),
        covers: Some(Arc::new(|host| host == "a.test")),
        ..arrival()
    };
    let mut client = world.connect_as(arrival, Version::Http1);
    let ask = |host: &str| format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n");
    client
        .write_all(format!("{}{}{}", ask("a.test"), ask("b.test"), ask("A.test.")).as_bytes())
        .await
        .unwrap();
    assert_eq!(statuses(&read_all(&mut client).await), [200, 421, 200]);
    assert_eq!(world.seen().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn weights_are_kept_and_a_share_may_lead_nowhere() {
    let world = World::new();
    world.answering(1, |_| reply("200 OK", ""));
    let broken = Target::Respond(Respond::status(StatusCode::INTERNAL_SERVER_ERROR));
    let mut forward = forward();
    forward.backends[0].weight = 3;
    forward.backends.push(weighted(broken.clone(), 1));
    forward.backends.push(weighted(Target::Backend("never".into()), 0));
    world.apply(vec![Rule::new(Action::Forward(forward))], vec![backend(&[1])]);
    let text = world.talk(&get("/").repeat(400)).await;
    let good = statuses(&text).iter().filter(|status| **status == 200).count();
    assert!((240..360).contains(&good), "{good}");
    for backends in [vec![], vec![weighted(broken, 0)], vec![weighted(Target::Backend("gone".into()), 1)]] {
        let rule = Rule::new(Action::Forward(Forward { backends, ..Forward::default() }));
        world.apply(vec![rule], vec![]);
        assert_eq!(statuses(&world.talk(&get("/")).await), [500]);
    }
    world.apply(vec![to_backend()], vec![backend(&[])]);
    assert_eq!(statuses(&world.talk(&get("/")).await), [503], "no ready endpoint");
}

/// Names and paths of strangers: they are in the log, and nowhere else.
#[tokio::test(start_paused = true)]
async fn a_stranger_cannot_make_a_metric() {
    let world = World::new();
    let host = HostPattern::gateway(Some("*.a.test")).unwrap();
    let mut snapshot = snapshot(vec![Rule::new(Action::Respond(Respond::status(StatusCode::OK)))], vec![]);
    snapshot.routes = vec![Arc::new(Route { hosts: vec![host], ..(*snapshot.routes[0]).clone() })];
    world.apply_snapshot(snapshot);
    for n in 0..50 {
        world.talk(&format!("GET /{n} HTTP/1.1\r\nHost: x{n}.a.test\r\n\r\n")).await;
        world.talk(&format!("GET /{n} HTTP/1.1\r\nHost: x{n}.b.test\r\n\r\n")).await;
    }
    let metrics = world.metrics();
    let series: Vec<&str> = metrics.lines().filter(|l| l.starts_with("signet_http_requests_total")).collect();
    assert_eq!(series.len(), 2, "{series:?}");
    assert!(
        metrics.contains(r#"signet_http_requests_total{host="*.a.test",status="2xx",reason="ok"} 50"#),
        "{metrics}"
    );
    assert!(metrics.contains(r#"host="other",status="4xx",reason="no_host"} 50"#), "{metrics}");
    assert!(metrics.contains("signet_http_requests_active 0"), "{metrics}");
    world.apply(vec![to_backend()], vec![]);
    assert!(!world.metrics().contains("*.a.test"), "a host that is gone takes its series with it");
}
