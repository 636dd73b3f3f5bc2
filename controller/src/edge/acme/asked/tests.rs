use std::{
    net::Ipv4Addr,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};

use rcgen::{CertificateParams, CustomExtension, KeyPair};
use rustls::ServerConfig;
use signet_core::drain::Drain;
use signet_http::contract::certificate::PrivateKey;
use tokio::{io::AsyncReadExt as _, net::TcpListener};
use tokio_rustls::TlsAcceptor;

use super::*;

const HOST: &str = "a.example";
/// All that a gateway is asked.
const ASKED: &str = "GET /.well-known/acme-challenge/to-ken HTTP/1.1\r\nhost: a.example\r\n\r\n";

fn token() -> Challenge {
    Challenge::Http01(Http01::new(HOST.parse().unwrap(), "to-ken", "to-ken.print").unwrap())
}

fn proof(host: &str, hash: u8) -> TlsAlpn01 {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new([host.to_owned()]).unwrap();
    params.custom_extensions = vec![CustomExtension::new_acme_identifier(&[hash; 32])];
    let certificate = params.self_signed(&key).unwrap().der().clone();
    let key = PrivateKey::new(key.serialize_der());
    TlsAlpn01 { host: host.parse().unwrap(), certificate, key }
}

/// A gateway whose one port answers each connection with the next of `says`, and with the last of them for ever.
async fn gateway(says: Vec<Says>, drain: &Drain) -> Gateway {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let count = AtomicUsize::new(0);
    drain.keep(async move {
        loop {
            let (mut tcp, _) = listener.accept().await.unwrap();
            match &says[count.fetch_add(1, Relaxed).min(says.len() - 1)] {
                Says::Http(answer) => {
                    if head(&mut tcp).await == ASKED {
                        let _ = tcp.write_all(answer.as_bytes()).await;
                    }
                }
                Says::HttpToBalancers(answer) => {
                    if head(&mut tcp).await.starts_with("PROXY UNKNOWN\r\nGET /") {
                        let _ = tcp.write_all(answer.as_bytes()).await;
                    }
                }
                Says::Tls(config) => drop(TlsAcceptor::from(Arc::clone(config)).accept(tcp).await),
            }
        }
    });
    Gateway { address: address.ip(), http: address.port(), https: address.port() }
}

enum Says {
    Http(String),
    HttpToBalancers(String),
    Tls(Arc<ServerConfig>),
}

async fn head(tcp: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(tcp.read_u8().await.unwrap());
    }
    String::from_utf8(head).unwrap()
}

fn http(status: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

fn tls(challenge: TlsAlpn01) -> Says {
    let provider = edge_tls::edge_provider(tls::default_provider());
    let (certificate, host) = (challenge.certificate, challenge.host.to_string());
    let certified = acme_tls::certified(certificate, challenge.key.der(), &host).unwrap();
    Says::Tls(acme_tls::server(&provider, certified).unwrap())
}

/// What is wrong at the first try of `says`.
async fn once(says: Says, challenge: &Challenge) -> Unseen {
    let drain = Drain::new();
    let gateway = gateway(vec![says], &drain).await;
    Question::of(&gateway, challenge).unwrap().put().await.unwrap_err()
}

#[tokio::test]
async fn an_answer_that_comes_late_is_waited_for() {
    let drain = Drain::new();
    let says = ["404 Not Found", "503 Service Unavailable"].map(|status| Says::Http(http(status, "")));
    let says = says.into_iter().chain([Says::Http(http("200 OK", "to-ken.print"))]).collect();
    ask(&gateway(says, &drain).await, &token()).await.unwrap();
    let says = vec![tls(proof(HOST, 8)), tls(proof(HOST, 7))];
    let wanted = Challenge::TlsAlpn01(proof(HOST, 7)); // another certificate for the same
    // Its two tries of the first are one question, asked with and without a PROXY header.
    ask(&gateway(says, &drain).await, &wanted).await.unwrap();
}

#[tokio::test]
async fn a_gateway_that_wants_a_proxy_header_gets_one_that_says_nothing() {
    let drain = Drain::new();
    let says = Says::HttpToBalancers(http("200 OK", "to-ken.print"));
    ask(&gateway(vec![says], &drain).await, &token()).await.unwrap();
}

#[tokio::test]
async fn what_is_no_answer_is_said_as_what_it_is() {
    let moved = once(Says::Http(http("308 Permanent Redirect", "")), &token()).await;
    assert!(matches!(moved, Unseen::Status(_, StatusCode::PERMANENT_REDIRECT)), "{moved}");
    for body in ["", "to-ken.other", "to-ken.print\n", "xto-ken.print"] {
        let other = once(Says::Http(http("200 OK", body)), &token()).await;
        assert!(matches!(other, Unseen::OtherAnswer(_)), "{body:?}: {other}");
    }
    let endless = once(Says::Http(http("200 OK", &"x".repeat(100_000))), &token()).await;
    assert!(matches!(endless, Unseen::NoAnswer(..)), "{endless}");
    let junk = once(Says::Http("SSH-2.0\r\n".into()), &token()).await;
    assert!(matches!(junk, Unseen::NoAnswer(..)), "{junk}");

    let wanted = Challenge::TlsAlpn01(proof(HOST, 7));
    for other in [proof(HOST, 8), proof("b.example", 7)] {
        let unseen = once(tls(other), &wanted).await;
        assert!(matches!(unseen, Unseen::Handshake(..)), "{unseen}");
    }
    let mut ordinary = (**match &tls(proof(HOST, 7)) {
        Says::Tls(config) => config,
        Says::Http(_) | Says::HttpToBalancers(_) => unreachable!("it is TLS"),
    })
    .clone();
    ordinary.alpn_protocols.clear();
    let unseen = once(Says::Tls(Arc::new(ordinary)), &wanted).await;
    assert!(matches!(unseen, Unseen::NoAcmeTls(_)), "{unseen}");

    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let gone = Gateway { address: Ipv4Addr::LOCALHOST.into(), http: port, https: port };
    let unseen = Question::of(&gone, &token()).unwrap().put().await.unwrap_err();
    assert!(matches!(unseen, Unseen::Unreachable(..)), "{unseen}");
}

/// It accepts, and says nothing: virtual time goes on when nothing else does.
#[tokio::test(start_paused = true)]
async fn a_gateway_that_says_nothing_is_given_up_after_five_seconds() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let silent = Gateway { address: address.ip(), http: address.port(), https: address.port() };
    let began = Instant::now();
    let unseen = ask(&silent, &token()).await.unwrap_err();
    assert!(matches!(unseen, Unseen::Silent(_)), "{unseen}");
    assert_eq!(began.elapsed().as_secs(), 5);
}
