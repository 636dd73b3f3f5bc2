use std::sync::Mutex;

use signet_acme::challenge::AlpnCertificate;

use super::*;

/// Gateways that nobody has, at ports where nobody listens.
#[derive(Default)]
struct Nobody {
    put: Mutex<Vec<String>>,
    gateways: Vec<(String, Gateway)>,
}

impl Tell for Nobody {
    async fn put(&self, challenges: &[Challenge]) -> Result<(), Problem> {
        self.put.lock().unwrap().extend(challenges.iter().map(|challenge| challenge.host.clone()));
        Ok(())
    }

    async fn take_back(&self, challenges: &[Challenge]) -> Result<(), Problem> {
        self.put.lock().unwrap().retain(|host| challenges.iter().all(|challenge| challenge.host != *host));
        Ok(())
    }

    fn gateways(&self) -> Vec<(String, Gateway)> {
        self.gateways.clone()
    }
}

fn solver(told: Nobody) -> EdgeSolver<Nobody> {
    let (_, credentials) = watch::channel(Arc::default());
    EdgeSolver { told, credentials, dns: Err("no resolver".into()) }
}

fn http(host: &str) -> Challenge {
    let answer = Answer::Http01 { token: "t".into(), key_authorization: "t.x".into() };
    Challenge { host: host.into(), namespace: "shop".into(), answer }
}

fn dns(host: &str) -> Challenge {
    let answer = Answer::Dns01 { name: format!("_acme-challenge.{host}"), value: "v".into() };
    Challenge { host: host.into(), namespace: "shop".into(), answer }
}

#[tokio::test]
async fn gateways_are_told_of_theirs_and_dns_needs_credentials_of_the_namespace() {
    let solver = solver(Nobody::default());
    solver.present(&[http("a.example")]).await.unwrap();
    assert_eq!(*solver.told.put.lock().unwrap(), ["a.example"]);
    let refused = solver.present(&[dns("b.example")]).await.unwrap_err();
    assert!(refused.detail.contains("no DNS credentials"), "{refused}");
    assert!(solver.look(&[dns("b.example")]).await.is_err());
    assert!(solver.clear(&[dns("b.example")]).await.is_err());
    solver.clear(&[http("a.example")]).await.unwrap();
    assert!(solver.told.put.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_gateway_that_does_not_answer_is_passed_over_and_named() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener); // nobody listens there now
    let address = std::net::Ipv4Addr::LOCALHOST.into();
    let gateway = Gateway { address, http: port, https: port };
    let solver = solver(Nobody { gateways: vec![("gateway-1".into(), gateway)], ..Nobody::default() });
    let seen = solver.look(&[http("a.example")]).await.unwrap();
    assert!(seen.by.is_empty());
    let [missing] = &seen.missing[..] else { panic!("{seen:?}") };
    assert!(missing.who == "gateway-1" && missing.why.contains("does not take connections"), "{missing:?}");
}

#[tokio::test]
async fn in_a_directory_an_order_takes_back_its_own_challenges_and_no_newer_ones() {
    let gateway = Gateway { address: std::net::Ipv4Addr::LOCALHOST.into(), http: 80, https: 443 };
    let told = ByDirectory { challenges: watch::Sender::default(), gateway };
    let alpn = |digest| {
        let answer = AlpnCertificate::new("a.example", [digest; 32]).unwrap();
        Challenge { host: "a.example".into(), namespace: "shop".into(), answer: Answer::TlsAlpn01(answer) }
    };
    told.put(&[http("a.example"), alpn(1)]).await.unwrap();
    told.put(&[alpn(2)]).await.unwrap();
    told.take_back(&[alpn(1)]).await.unwrap();
    assert_eq!(told.challenges.borrow().len(), 2, "the newer order's stays");
    told.take_back(&[alpn(2)]).await.unwrap();
    assert_eq!(told.challenges.borrow().len(), 1);
    told.take_back(&[http("a.example")]).await.unwrap();
    assert!(told.challenges.borrow().is_empty());
}

#[tokio::test]
async fn without_any_gateway_nobody_has_seen_it() {
    let seen = solver(Nobody::default()).look(&[http("a.example")]).await.unwrap();
    assert_eq!(seen, Seen::default());
}

#[test]
fn a_server_of_several_names_has_seen_them_when_it_shows_each() {
    let mut seen = Seen::default();
    let sight = |server: &str, saw| Sight { server: server.into(), saw };
    for of in [
        sight("ns1", Saw::Shown),
        sight("ns2", Saw::Shown),
        sight("ns1", Saw::Silent("refused".into())),
        sight("ns1", Saw::Shown),
        sight("ns2", Saw::Shown),
    ] {
        note(&mut seen, of);
    }
    assert_eq!(seen.by, ["ns2"]);
    assert_eq!(seen.missing, [Missing { who: "ns1".into(), why: "refused".into() }]);
}
