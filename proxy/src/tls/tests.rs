//! Both sides in memory, whatever way the bytes between them are cut.

use rustls::{
    ConnectionTrafficSecrets, ContentType, ProtocolVersion,
    crypto::cipher::{MessageEncrypter, OutboundChunks, OutboundPlainMessage},
};

use super::*;
use crate::pki_for_tests::generations;

fn pair() -> (Tls, Tls) {
    let (client, server) = generations();
    (Tls::client(&client.wire.client).unwrap(), Tls::server(&server.wire.server).unwrap())
}

fn shaken() -> (Tls, Tls) {
    let (mut client, mut server) = pair();
    let (mut to_client, mut to_server) = (Vec::new(), Vec::new());
    loop {
        let client_done = client.handshake(&mut to_client).unwrap();
        to_server.extend(client.take_unsent());
        let server_done = server.handshake(&mut to_server).unwrap();
        to_client.extend(server.take_unsent());
        if client_done && server_done {
            return (client, server);
        }
    }
}

fn open_all(tls: &mut Tls, sealed: &mut [u8]) -> (Vec<u8>, Opened) {
    let mut plain = Vec::new();
    let opened = tls.open::<Error>(sealed, |bytes| {
        plain.extend_from_slice(bytes);
        Ok(Then::GoOn)
    });
    (plain, opened.unwrap())
}

#[test]
fn a_handshake_may_arrive_byte_by_byte() {
    let (mut client, mut server) = pair();
    let (mut to_client, mut to_server) = (Vec::new(), Vec::new());
    assert!(!client.handshake(&mut to_client).unwrap());
    for byte in client.take_unsent() {
        to_server.push(byte);
        assert!(!server.handshake(&mut to_server).unwrap());
    }
    let flight = server.take_unsent();
    assert!(flight.len() > 1000);
    let mut done = false;
    for byte in flight {
        to_client.push(byte);
        done = client.handshake(&mut to_client).unwrap();
    }
    assert!(done);
    let mut done = false;
    for byte in client.take_unsent() {
        to_server.push(byte);
        done = server.handshake(&mut to_server).unwrap();
    }
    assert!(done && server.peer_certificates().is_some());
}

#[test]
fn what_is_sealed_is_opened_whole_in_whatever_pieces_it_arrives() {
    let (mut client, mut server) = shaken();
    let plain: Vec<u8> = (0..100_000_u32).map(|n| n.to_le_bytes()[0]).collect();
    let mut sealed = Vec::new();
    client.seal_into(&plain, &mut sealed).unwrap();
    let (mut held, mut got) = (Vec::new(), Vec::new());
    for piece in sealed.chunks(4999) {
        held.extend_from_slice(piece);
        let (part, opened) = open_all(&mut server, &mut held);
        got.extend(part);
        held.drain(..opened.consumed);
    }
    assert!(held.is_empty() && got == plain);
}

#[test]
fn open_stops_behind_the_record_where_it_is_told_to() {
    let (mut client, mut server) = shaken();
    let mut sealed = Vec::new();
    client.seal_into(b"one", &mut sealed).unwrap();
    let first = sealed.len();
    client.seal_into(b"two", &mut sealed).unwrap();
    let opened = server.open::<Error>(&mut sealed, |_| Ok(Then::Stop)).unwrap();
    assert_eq!(opened, Opened { consumed: first, closed: false, stopped: true });
    assert_eq!(open_all(&mut server, &mut sealed[first..]).0, b"two");
}

#[test]
fn a_key_update_of_either_side_changes_nothing_for_the_bytes() {
    let (mut client, mut server) = shaken();
    for round in 0..5_u8 {
        client.refresh_keys().unwrap();
        let mut sealed = Vec::new();
        client.seal_into(&[round; 20_000], &mut sealed).unwrap();
        assert_eq!(open_all(&mut server, &mut sealed).0, [round; 20_000]);
        // The answer to the update rides with the next data, and fits the room that sealed_len promises.
        let mut sealed = vec![0; sealed_len(MAX_PLAIN)];
        let len = server.seal(&[round; MAX_PLAIN], &mut sealed).unwrap();
        assert_eq!(open_all(&mut client, &mut sealed[..len]).0, [round; MAX_PLAIN]);
    }
}

#[test]
fn too_little_room_is_told_and_loses_nothing() {
    let (mut client, mut server) = shaken();
    client.refresh_keys().unwrap();
    let mut sealed = vec![0; 64];
    let Err(Unsealed::Room { needed }) = client.seal(&[7; 100], &mut sealed) else { panic!("too small") };
    let mut sealed = vec![0; needed];
    let len = client.seal(&[7; 100], &mut sealed).unwrap();
    assert_eq!(open_all(&mut server, &mut sealed[..len]).0, [7; 100]);
}

#[test]
fn data_behind_the_handshake_stays_sealed_until_it_is_opened() {
    let (mut client, mut server) = pair();
    let (mut to_client, mut to_server) = (Vec::new(), Vec::new());
    client.handshake(&mut to_client).unwrap();
    to_server.extend(client.take_unsent());
    server.handshake(&mut to_server).unwrap();
    to_client.extend(server.take_unsent());
    assert!(client.handshake(&mut to_client).unwrap());
    client.seal_into(b"early", &mut to_server).unwrap();
    assert!(server.handshake(&mut to_server).unwrap(), "flight and data came in one piece");
    assert_eq!(open_all(&mut server, &mut to_server).0, b"early");
}

#[test]
fn what_is_no_record_is_refused_at_the_byte_that_shows_it() {
    for bytes in [&b"2"[..], b"GET / HTTP/1.1", b"\x16\x02", b"\x17\x03\x03\x41\x01"] {
        let mut client = pair().0;
        client.handshake(&mut Vec::new()).unwrap();
        let answer = client.handshake(&mut bytes.to_vec());
        assert!(matches!(answer, Err(Error::InvalidMessage(_))), "{bytes:02x?}: {answer:?}");
    }
}

#[test]
fn a_broken_connection_is_an_error_for_ever_and_never_a_panic() {
    let (mut client, mut server) = shaken();
    let mut sealed = Vec::new();
    client.seal_into(b"hello", &mut sealed).unwrap();
    sealed[7] ^= 1;
    assert!(server.open::<Error>(&mut sealed, |_| Ok(Then::GoOn)).is_err());
    assert!(server.seal(b"x", &mut [0; 100]).is_err());
    assert!(server.open::<Error>(&mut [], |_| Ok(Then::GoOn)).is_err());
    server.close_into(&mut sealed);
}

#[test]
fn empty_records_are_nothing_and_a_flood_of_them_is_an_error() {
    let (mut client, mut server) = shaken();
    let mut sealed = Vec::new();
    client.seal_into(b"", &mut sealed).unwrap();
    assert_eq!(open_all(&mut server, &mut sealed), (vec![], Opened::default()));
    client.close_into(&mut sealed);
    assert!(open_all(&mut server, &mut sealed).1.closed);
}

#[test]
fn a_refused_certificate_leaves_an_alert_to_send() {
    let (client, _) = generations();
    let (_, server) = generations(); // of another root
    let mut client = Tls::client(&client.wire.client).unwrap();
    let mut server = Tls::server(&server.wire.server).unwrap();
    let (mut to_client, mut to_server) = (Vec::new(), Vec::new());
    client.handshake(&mut to_client).unwrap();
    to_server.extend(client.take_unsent());
    server.handshake(&mut to_server).unwrap();
    to_client.extend(server.take_unsent());
    assert!(matches!(client.handshake(&mut to_client), Err(Error::InvalidCertificate(_))));
    let mut alert = client.take_unsent();
    assert!(!alert.is_empty());
    assert!(matches!(server.handshake(&mut alert), Err(Error::AlertReceived(_))));
}

/// Seals records of any type and content for `server`, as no TLS stack would.
struct Forger {
    seal: Box<dyn MessageEncrypter>,
    next: u64,
}

impl Forger {
    fn record(&mut self, kind: ContentType, plain: &[u8]) -> Vec<u8> {
        let payload = OutboundChunks::Single(plain);
        let record = OutboundPlainMessage { typ: kind, version: ProtocolVersion::TLSv1_2, payload };
        let sealed = self.seal.encrypt(record, self.next).unwrap();
        self.next += 1;
        sealed.encode()
    }
}

fn forger_and_server() -> (Forger, Tls) {
    let (client, server) = generations();
    let mut config = ClientConfig::clone(&client.wire.client);
    config.enable_secret_extraction = true;
    let mut client = Tls::client(&Arc::new(config)).unwrap();
    let mut server = Tls::server(&server.wire.server).unwrap();
    let (mut to_client, mut to_server) = (Vec::new(), Vec::new());
    while !client.handshake(&mut to_client).unwrap() {
        to_server.extend(client.take_unsent());
        server.handshake(&mut to_server).unwrap();
        to_client.extend(server.take_unsent());
    }
    to_server.extend(client.take_unsent());
    assert!(server.handshake(&mut to_server).unwrap());
    let Side::Client(client) = client.side else { panic!("a client") };
    let (next, secrets) = client.dangerous_into_kernel_connection().unwrap().0.tx;
    let ConnectionTrafficSecrets::Aes128Gcm { key, iv } = secrets else { panic!("the first suite") };
    let suites = tls::mesh_provider(tls::default_provider()).cipher_suites.clone();
    let suite = suites.iter().find_map(|suite| suite.tls13()).unwrap();
    (Forger { seal: suite.aead_alg.encrypter(key, iv), next }, server)
}

/// rustls panics when it is called without the half of a message that it has seen. However a peer cuts its messages, and
/// whatever we do in between, that never happens.
#[test]
fn half_a_handshake_message_in_whatever_company_is_an_error_or_nothing_and_never_a_panic() {
    let update = [24, 0, 0, 1, 1];
    let halves =
        |at: usize| [&update[..at], &update[at..]].map(|part| (ContentType::Handshake, part.to_vec()));
    let data = (ContentType::ApplicationData, b"data".to_vec());
    let close = (ContentType::Alert, vec![1, 0]);
    let both = (ContentType::Handshake, [&update[..], &update[..3]].concat());
    let mut cases =
        vec![vec![both.clone()], vec![both, data.clone()], vec![(ContentType::Handshake, vec![])]];
    cases.push(vec![(ContentType::Handshake, vec![24, 0xff, 0xff, 0xff, 0])]);
    cases.push(update.iter().map(|byte| (ContentType::Handshake, vec![*byte])).collect());
    for at in 1..update.len() {
        let [first, second] = halves(at);
        cases.push(vec![first.clone()]);
        cases.push(vec![first.clone(), second.clone()]);
        cases.push(vec![data.clone(), first.clone(), data.clone()]);
        cases.push(vec![data.clone(), first.clone(), close.clone()]);
        cases.push(vec![first.clone(), first.clone(), second.clone()]);
        cases.push(vec![data.clone(), first, data.clone(), second]);
    }
    for case in &cases {
        for pieces in [1, 7, 30, usize::MAX] {
            for then in [Then::GoOn, Then::Stop] {
                let (mut forger, mut server) = forger_and_server();
                let sealed: Vec<u8> =
                    case.iter().flat_map(|(kind, plain)| forger.record(*kind, plain)).collect();
                let mut held = Vec::new();
                for piece in sealed.chunks(pieces.min(sealed.len())) {
                    held.extend_from_slice(piece);
                    // As a wire does: what is whole is opened, again as long as it was told to stop.
                    while let Ok(opened) = server.open::<Error>(&mut held, |_| Ok(then)) {
                        held.drain(..opened.consumed);
                        let _ = server.seal(b"in between", &mut [0; 200]);
                        if !opened.stopped {
                            break;
                        }
                    }
                }
                let _ = server.seal(b"afterwards", &mut [0; 200]);
                let _ = server.open::<Error>(&mut [], |_| Ok(Then::GoOn));
                server.close_into(&mut Vec::new());
            }
        }
    }
}
