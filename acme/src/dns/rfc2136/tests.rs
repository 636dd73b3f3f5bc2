use std::collections::BTreeMap;

use hickory_proto::{
    op::MessageType,
    rr::rdata::tsig::{TSIG, make_tsig_record},
};
use tokio::net::TcpListener;

use super::*;
use crate::dns::credentials::Raw;

#[tokio::test]
async fn an_answer_that_agrees_and_is_not_signed_is_not_believed() {
    let agrees = |request: Message| {
        let mut answer = Message::response(request.id, OpCode::Update);
        answer.metadata.response_code = ResponseCode::NoError;
        answer
    };
    let error = update(agrees).await.unwrap_err();
    assert!(matches!(error, Rfc2136Error::Unsigned { .. }), "{error}");
    let by_another_key = move |request: Message| {
        let mut answer = agrees(request);
        let name = fqdn("acme-key").unwrap();
        let other = TSigner::new(b"another".to_vec(), TsigAlgorithm::HmacSha256, name, FUDGE).unwrap();
        answer.finalize(&other, u64::try_from(clock::unix_now()).unwrap()).unwrap();
        answer
    };
    let error = update(by_another_key).await.unwrap_err();
    assert!(matches!(error, Rfc2136Error::Unsigned { .. }), "{error}");
}

#[tokio::test]
async fn clocks_that_are_apart_are_named_with_the_seconds_and_strange_answers_as_such() {
    let late = |request: Message| {
        let theirs = u64::try_from(clock::unix_now()).unwrap() - 1000;
        let mut answer = refused(request, ResponseCode::NotAuth);
        let name = fqdn("acme-key").unwrap();
        let other = theirs.to_be_bytes()[2..].to_vec();
        let error = Some(TsigError::BadTime);
        let tsig = TSIG::new(TsigAlgorithm::HmacSha256, theirs, FUDGE, Vec::new(), answer.id, error, other);
        answer.set_signature(Box::new(make_tsig_record(name, tsig)));
        answer
    };
    let error = update(late).await.unwrap_err();
    assert!(matches!(error, Rfc2136Error::BadTime { apart: Some(999..=1010), .. }), "{error}");
    let strange = |mut request: Message| {
        request.metadata.id = request.metadata.id.wrapping_add(1);
        refused(request, ResponseCode::Refused)
    };
    let error = update(strange).await.unwrap_err();
    assert!(matches!(error, Rfc2136Error::Unreadable { .. }), "{error}");
    let broken = |request: Message| refused(request, ResponseCode::ServFail);
    let error = update(broken).await.unwrap_err();
    assert!(matches!(error, Rfc2136Error::Answered { rcode: ResponseCode::ServFail, .. }), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_takes_the_update_and_says_nothing_ends_in_time() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap(); // the kernel takes connections for it
    let error = provider(&listener).update(&txt(), Want::There).await.unwrap_err();
    assert!(matches!(error, Rfc2136Error::Late { .. }), "{error}");
}

/// What an update ends with whose server answers so.
async fn update(answer: impl Fn(Message) -> Message) -> Result<(), Rfc2136Error> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let provider = provider(&listener);
    let txt = txt();
    let (done, ()) = tokio::join!(provider.update(&txt, Want::There), serve(&listener, answer));
    done
}

async fn serve(listener: &TcpListener, answer: impl Fn(Message) -> Message) {
    let (mut stream, _) = listener.accept().await.unwrap();
    let length = stream.read_u16().await.unwrap();
    let mut request = vec![0; usize::from(length)];
    stream.read_exact(&mut request).await.unwrap();
    let answer = answer(Message::from_vec(&request).unwrap()).to_vec().unwrap();
    stream.write_u16(u16::try_from(answer.len()).unwrap()).await.unwrap();
    stream.write_all(&answer).await.unwrap();
}

fn refused(request: Message, rcode: ResponseCode) -> Message {
    let mut answer = Message::new(request.id, MessageType::Response, OpCode::Update);
    answer.metadata.response_code = rcode;
    answer
}

fn provider(listener: &TcpListener) -> Rfc2136 {
    let at = listener.local_addr().unwrap().to_string();
    let data: BTreeMap<&str, &[u8]> = [
        ("nameserver", at.as_bytes()),
        ("zone", b"a.test"),
        ("tsig-key-name", b"acme-key"),
        ("tsig-secret", b"c2VjcmV0"),
    ]
    .into();
    let raw = Raw { secret: "edge/x", provider: "rfc2136", zones: None, namespaces: None, data };
    Rfc2136::new(Settings::parse(raw.secret, &mut Fields::new(&raw)).unwrap())
}

fn txt() -> Txt {
    Txt::new("_acme-challenge.a.test", "x").unwrap()
}

#[test]
fn a_server_is_an_address_or_a_name_with_a_port_or_without() {
    let parsed = |text| Server::parse(text).map(|server| server.to_string());
    for (text, expected) in [
        ("192.0.2.1", "192.0.2.1:53"),
        ("192.0.2.1:5353", "192.0.2.1:5353"),
        ("2001:db8::1", "[2001:db8::1]:53"),
        ("[2001:db8::1]:5353", "[2001:db8::1]:5353"),
        ("NS1.example.com", "ns1.example.com:53"),
        ("ns1.example.com:5353", "ns1.example.com:5353"),
    ] {
        assert_eq!(parsed(text).as_deref(), Some(expected), "{text}");
    }
    for text in ["", "ns1:", "ns1:0", "ns1:x", "ns1 ns2", "https://ns1", "[2001:db8::1", "ns1..com"] {
        assert_eq!(parsed(text), None, "{text}");
    }
}

#[test]
fn algorithms_are_the_three_that_rfc_8945_recommends() {
    assert_eq!(Algorithm::parse("HMAC-SHA384."), Some(Algorithm::Sha384));
    for weak in ["hmac-md5", "hmac-sha1", "hmac-sha256-128", ""] {
        assert_eq!(Algorithm::parse(weak), None, "{weak}");
    }
}

#[test]
fn the_servers_clock_is_read_out_of_badtime() {
    assert_eq!(server_time(&[0, 0, 0x55, 0xe2, 0xf9, 0x70]), Some(1_440_938_352));
    assert_eq!(server_time(&[1, 2, 3]), None);
}
