use std::{net::Ipv4Addr, str::FromStr as _};

use signet_core::{identity, pod::HttpAsk};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use super::*;

fn pod() -> Pod {
    let workload = Workload {
        namespace: "shop".into(),
        pod: "api-0".into(),
        service_account: "api".into(),
        address: Ipv4Addr::LOCALHOST.into(),
        second: None,
        id: identity::parse("spiffe://td/ns/shop/sa/api").unwrap(),
    };
    Pod { workload, tls: https::unverified().unwrap() }
}

fn http(port: u16, path: &str, headers: &[(&str, &str)]) -> HttpAsk {
    let headers = headers.iter().map(|(name, value)| (name.to_string(), value.to_string()));
    HttpAsk { https: false, port, path: path.into(), host: None, headers: headers.collect() }
}

fn agent() -> HeaderValue {
    HeaderValue::from_static("kube-probe/1.37")
}

/// Gives each connection the next of these answers; returns the requests that it read.
async fn app(listener: TcpListener, answers: Vec<String>) -> Vec<String> {
    let mut requests = Vec::new();
    for answer in answers {
        let (mut tcp, _) = listener.accept().await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(tcp.read_u8().await.unwrap());
        }
        requests.push(String::from_utf8(head).unwrap());
        let _ = tcp.write_all(answer.as_bytes()).await; // a long body is not read to its end
    }
    requests
}

/// What became of a probe whose app gives these answers, `PORT` in them being the app's, and what the app was asked.
async fn asked(path: &str, headers: &[(&str, &str)], answers: &[&str]) -> (Outcome, Vec<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let answers = answers.iter().map(|answer| answer.replace("PORT", &port.to_string())).collect();
    let (pod, ask) = (pod(), http(port, path, headers));
    let (outcome, requests) = tokio::join!(http::ask(&pod, &ask, agent()), app(listener, answers));
    (outcome, requests)
}

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

#[tokio::test]
async fn the_app_is_asked_as_the_kubelet_asks() {
    let (outcome, requests) = asked("/a b?c", &[], &[OK]).await;
    assert_eq!(outcome, Outcome::Passed("HTTP 200".into()));
    let port = requests[0].split("127.0.0.1:").nth(1).unwrap().split("\r\n").next().unwrap().to_owned();
    let head = format!(
        "GET /a%20b?c HTTP/1.1\r\nUser-Agent: kube-probe/1.37\r\nAccept: */*\r\nConnection: close\r\nHost: 127.0.0.1:{port}\r\n\r\n"
    );
    assert_eq!(requests[0], head);
    let headers = [("X-A", "1"), ("x-a", "2"), ("host", "api.shop"), ("user-agent", "mine"), ("Accept", "")];
    let (_, requests) = asked("/", &headers, &[OK]).await;
    for line in ["X-A: 1", "X-A: 2", "Host: api.shop", "User-Agent: mine"] {
        assert!(requests[0].contains(&format!("\r\n{line}\r\n")), "{line}: {}", requests[0]);
    }
    assert!(!requests[0].contains("Accept"), "{}", requests[0]);
}

#[tokio::test]
async fn success_is_200_to_399_and_another_status_is_passed_on() {
    for (answer, want) in [
        ("HTTP/1.1 204 No Content\r\n\r\n", None),
        ("HTTP/1.0 200 OK\r\n\r\nuntil the end", None),
        ("HTTP/1.1 399 X\r\ncontent-length: 0\r\n\r\n", None),
        ("HTTP/1.1 304 Not Modified\r\n\r\n", None),
        ("HTTP/1.1 302 Found\r\ncontent-length: 0\r\n\r\n", None), // says not where
        ("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n", Some(404)),
        ("HTTP/1.1 500 Oh\r\ncontent-length: 6\r\n\r\nsecret", Some(500)),
    ] {
        let (outcome, _) = asked("/", &[], &[answer]).await;
        match (want, &outcome) {
            (None, Outcome::Passed(_)) => {}
            (Some(code), Outcome::Refused(status, text)) => {
                assert_eq!(
                    (status.as_u16(), &**text),
                    (code, &*format!("HTTP probe failed with statuscode: {code}"))
                );
            }
            _ => panic!("{answer:?}: {outcome:?}"),
        }
    }
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_none() {
    for answer in
        ["HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nok", "HTTP/1.1 200 OK\r\n", "SSH-2.0-x\r\n", ""]
    {
        let (outcome, _) = asked("/", &[], &[answer]).await;
        assert!(matches!(outcome, Outcome::Failed(_)), "{answer:?}: {outcome:?}");
    }
    let endless = format!("HTTP/1.1 200 OK\r\n\r\n{}", "x".repeat(1 << 20));
    assert_eq!(asked("/", &[], &[&endless]).await.0, Outcome::Passed("HTTP 200".into()));
}

#[tokio::test]
async fn redirects_on_the_same_host_are_followed_ten_requests_long_and_others_succeed() {
    let to = |place: &str| format!("HTTP/1.1 302 Found\r\nlocation: {place}\r\ncontent-length: 0\r\n\r\n");
    let own = [("Host", "api.shop")];
    let (outcome, requests) = asked("/", &own, &[&to("/next"), &to("http://127.0.0.1:PORT/last"), OK]).await;
    assert_eq!(outcome, Outcome::Passed("HTTP 200".into()));
    assert!(
        requests[1].starts_with("GET /next ") && requests[1].contains("Host: api.shop"),
        "{}",
        requests[1]
    );
    assert!(
        requests[2].starts_with("GET /last ") && requests[2].contains("Host: 127.0.0.1:"),
        "{}",
        requests[2]
    );
    let (outcome, _) = asked("/", &[], &[&to("http://api.shop/login")]).await;
    assert_eq!(outcome, Outcome::Passed("Probe terminated redirects".into()));
    let round = to("/");
    let (outcome, requests) = asked("/", &[], &[&*round; 10]).await;
    assert!(
        matches!(&outcome, Outcome::Failed(why) if why.contains("stopped after 10 redirects")),
        "{outcome:?}"
    );
    assert_eq!(requests.len(), 10);
    let (outcome, _) = asked("/", &[], &[&to("http://127.0.0.1:x/")]).await;
    assert!(matches!(outcome, Outcome::Failed(_)), "{outcome:?}");
}

#[tokio::test]
async fn nobody_is_sent_to_the_proxys_own_listeners() {
    let redirect = "HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:15020/probe/api/liveness\r\ncontent-length: 0\r\n\r\n";
    let (outcome, _) = asked("/", &[], &[redirect]).await;
    assert!(matches!(&outcome, Outcome::Failed(why) if why.contains("the proxy's own")), "{outcome:?}");
    for (host, port, own) in [("127.0.0.1", 15021, true), ("[::1]", 15001, true), ("127.0.0.1", 15022, false)]
    {
        let why = pod().dial(Some(host), port).await.unwrap_err().to_string();
        assert_eq!(why.contains("the proxy's own"), own, "{host} {port}: {why}");
    }
}

fn probes(probe: Probe) -> Probes {
    let listed = HashMap::from([(probe.path(), Listed { probe, last: UNKNOWN.into() })]);
    Probes { listed, pod: pod(), asked: Family::default() }
}

#[tokio::test]
async fn only_what_is_listed_is_asked() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let ask = Ask::Tcp { port: listener.local_addr().unwrap().port(), host: None };
    let probe = Probe { container: "api".into(), kind: ProbeKind::Liveness, ask, timeout_seconds: 1 };
    let probes = probes(probe);
    assert_eq!(probes.ask("/probe/api/readiness", None).await, None);
    assert_eq!(probes.ask("/probe/web/liveness", None).await, None);
    let said = probes.ask("/probe/api/liveness", None).await;
    assert_eq!(said, Some(Reply::Say(StatusCode::OK, "connected".into())));
    drop(listener);
    let Some(Reply::Say(status, text)) = probes.ask("/probe/api/liveness", None).await else { panic!() };
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(text.starts_with("dial tcp 127.0.0.1:") && text.contains("refused"), "{text}");
}

#[tokio::test]
async fn an_app_that_is_silent_longer_than_its_probe_allows_has_failed_and_its_hook_has_no_answer() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    for kind in [ProbeKind::Readiness, ProbeKind::PreStop] {
        let ask = Ask::Http(http(port, "/slow", &[]));
        let probe = Probe { container: "api".into(), kind, ask, timeout_seconds: 1 };
        let path = probe.path();
        match probes(probe).ask(&path, Some(&agent())).await {
            Some(Reply::Say(status, text)) => {
                assert_eq!((status, kind), (StatusCode::SERVICE_UNAVAILABLE, ProbeKind::Readiness));
                assert!(text.contains("/slow: no answer within 1s"), "{text}");
            }
            other => assert_eq!((other, kind), (Some(Reply::Hang), ProbeKind::PreStop)),
        }
    }
}

#[test]
fn a_stranger_writes_nothing_into_the_apps_log() {
    for (agent, kubelets) in [
        ("kube-probe/1.37", true),
        ("kube-lifecycle/v1.33.1-eks-1a2b", true),
        ("kube-probe/1.37+k3s1", true),
        ("kube-probe/${jndi:ldap://x}", false),
        ("curl/8", false),
        ("", false),
    ] {
        assert_eq!(is_the_kubelets(&HeaderValue::from_str(agent).unwrap()), kubelets, "{agent}");
    }
    assert!(!is_the_kubelets(&HeaderValue::from_str(&format!("kube-probe/{}", "1".repeat(99))).unwrap()));
    assert_eq!(in_short("it's\na\u{1b}[0m"), "it's a [0m");
    assert_eq!(in_short(&"x".repeat(1000)).len(), SHOWN);
}

#[test]
fn an_address_with_its_port_is_written_as_in_a_url() {
    for (host, want) in
        [("10.0.0.1", "10.0.0.1:80"), ("fd00::1", "[fd00::1]:80"), ("[fd00::1]", "[fd00::1]:80")]
    {
        assert_eq!(authority(host, 80), want);
        assert!(SocketAddr::from_str(want).is_ok());
    }
}
