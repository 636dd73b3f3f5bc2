//! Both sides in memory, whatever way the bytes between them are cut.

use std::{
    io::{Read as _, Write as _},
    sync::Arc,
};

use rustls::{AlertDescription, ClientConnection, ContentType, PeerMisbehaved, ServerConnection};
use signet_core::tls;

use super::*;
use crate::pki_for_tests::generations;

fn pair() -> (Handshake, Handshake) {
    let (client, server) = generations();
    (Handshake::client(&client.wire.client).unwrap(), Handshake::server(&server.wire.server).unwrap())
}

fn shaken() -> (Tls, Tls) {
    let (mut client, mut server) = pair();
    let (mut to_client, mut to_server) = (Vec::new(), Vec::new());
    loop {
        let client_done = client.step(&mut to_client).unwrap();
        to_server.extend(client.take_unsent());
        let server_done = server.step(&mut to_server).unwrap();
        to_client.extend(server.take_unsent());
        if client_done && server_done {
            return (client.finish().unwrap(), server.finish().unwrap());
        }
    }
}

/// The client has finished, and its last flight waits for data to ride with.
fn client_is_first() -> (Tls, Handshake) {
    let (mut client, mut server) = pair();
    let (mut to_client, mut to_server) = (Vec::new(), Vec::new());
    client.step(&mut to_client).unwrap();
    to_server.extend(client.take_unsent());
    server.step(&mut to_server).unwrap();
    to_client.extend(server.take_unsent());
    assert!(client.step(&mut to_client).unwrap());
    (client.finish().unwrap(), server)
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
    assert!(!client.step(&mut to_client).unwrap());
    for byte in client.take_unsent() {
        to_server.push(byte);
        assert!(!server.step(&mut to_server).unwrap());
    }
    let flight = server.take_unsent();
    assert!(flight.len() > 1000);
    let mut done = false;
    for byte in flight {
        to_client.push(byte);
        done = client.step(&mut to_client).unwrap();
    }
    assert!(done);
    let mut done = false;
    for byte in client.take_unsent() {
        to_server.push(byte);
        done = server.step(&mut to_server).unwrap();
    }
    assert!(done && server.negotiated().peer_certificates().is_some());
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
    let (mut client, mut server) = client_is_first();
    let mut to_server = Vec::new();
    client.seal_into(b"early", &mut to_server).unwrap();
    assert!(server.step(&mut to_server).unwrap(), "flight and data came in one piece");
    assert_eq!(open_all(&mut server.finish().unwrap(), &mut to_server).0, b"early");
}

#[test]
fn what_is_no_record_is_refused_at_the_byte_that_shows_it() {
    for bytes in [&b"2"[..], b"GET / HTTP/1.1", b"\x16\x02", b"\x17\x03\x03\x41\x01"] {
        let mut client = pair().0;
        client.step(&mut Vec::new()).unwrap();
        let answer = client.step(&mut bytes.to_vec());
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
fn nothing_to_say_is_no_record_and_close_notify_is_the_end_of_one_direction() {
    let (mut client, mut server) = shaken();
    let mut sealed = Vec::new();
    client.seal_into(b"", &mut sealed).unwrap();
    sealed.clear(); // the end of the handshake
    client.close_into(&mut sealed);
    assert!(
        client.seal(b"x", &mut [0; 100]).is_err()
            && client.open::<Error>(&mut [], |_| Ok(Then::GoOn)).is_err()
    );
    let (plain, opened) = open_all(&mut server, &mut [sealed.clone(), vec![99]].concat());
    assert_eq!((plain.len(), opened), (0, Opened { consumed: sealed.len(), closed: true, stopped: false }));
    assert_eq!(
        open_all(&mut server, &mut [99]).1,
        Opened { closed: true, ..Opened::default() },
        "nothing behind it"
    );
    server.seal(b"the other direction", &mut [0; 100]).unwrap();
}

#[test]
fn a_refused_certificate_leaves_an_alert_to_send() {
    let (client, _) = generations();
    let (_, server) = generations(); // of another root
    let mut client = Handshake::client(&client.wire.client).unwrap();
    let mut server = Handshake::server(&server.wire.server).unwrap();
    let (mut to_client, mut to_server) = (Vec::new(), Vec::new());
    client.step(&mut to_client).unwrap();
    to_server.extend(client.take_unsent());
    server.step(&mut to_server).unwrap();
    to_client.extend(server.take_unsent());
    assert!(matches!(client.step(&mut to_client), Err(Error::InvalidCertificate(_))));
    let mut alert = client.take_unsent();
    assert!(!alert.is_empty());
    assert!(matches!(server.step(&mut alert), Err(Error::AlertReceived(_))));
}

/// What a client that is no TLS stack might seal: records of any type and content.
fn forged(client: &mut Tls, kind: ContentType, plain: &[u8]) -> Vec<u8> {
    client.records.as_mut().unwrap().forge(kind, plain)
}

/// Nobody needs to cut a KeyUpdate, so nothing keeps the half of one.
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
                let (mut client, mut server) = shaken();
                let sealed: Vec<u8> =
                    case.iter().flat_map(|(kind, plain)| forged(&mut client, *kind, plain)).collect();
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

/// What the server makes of these records: an error and the alert that the client reads of it, if one is sent.
fn refused(records: &[(ContentType, &[u8])]) -> (Error, Option<AlertDescription>) {
    let (mut client, mut server) = shaken();
    let mut sealed: Vec<u8> =
        records.iter().flat_map(|(kind, plain)| forged(&mut client, *kind, plain)).collect();
    refused_by(&mut client, &mut server, &mut sealed)
}

fn refused_by(client: &mut Tls, server: &mut Tls, sealed: &mut [u8]) -> (Error, Option<AlertDescription>) {
    let error = server.open::<Error>(sealed, |_| Ok(Then::GoOn)).unwrap_err();
    assert!(server.seal(b"x", &mut [0; 100]).is_err(), "over");
    let alert =
        client.open::<Error>(&mut server.take_unsent(), |_| Ok(Then::GoOn)).err().map(|told| match told {
            Error::AlertReceived(alert) => alert,
            other => panic!("{other}"),
        });
    (error, alert)
}

#[test]
fn what_a_peer_may_not_say_ends_the_connection_with_the_alert_that_names_it() {
    use AlertDescription as Alert;
    use ContentType as Kind;
    let long = vec![0; MAX_PLAIN + 1];
    let update = [24, 0, 0, 1, 0];
    for (case, record, alert) in [
        ("a record too long", (Kind::ApplicationData, &long[..]), Some(Alert::RecordOverflow)),
        ("nothing but padding", (Kind::Unknown(0), &[0; 20]), Some(Alert::UnexpectedMessage)),
        ("change_cipher_spec, sealed", (Kind::ChangeCipherSpec, &[1]), Some(Alert::UnexpectedMessage)),
        ("an unknown type", (Kind::Unknown(99), b"x"), Some(Alert::UnexpectedMessage)),
        ("no message at all", (Kind::Handshake, b""), Some(Alert::UnexpectedMessage)),
        ("half a message", (Kind::Handshake, &update[..3]), Some(Alert::UnexpectedMessage)),
        ("a message behind KeyUpdate", (Kind::Handshake, &update.repeat(2)), Some(Alert::UnexpectedMessage)),
        ("a KeyUpdate that is none", (Kind::Handshake, &[24, 0, 0, 1, 2]), Some(Alert::DecodeError)),
        ("an empty KeyUpdate", (Kind::Handshake, &[24, 0, 0, 0]), Some(Alert::DecodeError)),
        ("a ticket, to a server", (Kind::Handshake, &[4, 0, 0, 0]), Some(Alert::UnexpectedMessage)),
        ("a ClientHello", (Kind::Handshake, &[1, 0, 0, 0]), Some(Alert::UnexpectedMessage)),
        ("half an alert", (Kind::Alert, &[2]), Some(Alert::DecodeError)),
        ("an alert, which is not answered", (Kind::Alert, &[2, 80]), None),
    ] {
        assert_eq!(refused(&[record]).1, alert, "{case}");
    }
}

#[test]
fn nothing_is_plaintext_after_the_handshake_and_a_changed_bit_is_noticed() {
    for plain in [&[20, 3, 3, 0, 1, 1][..], &[21, 3, 3, 0, 2, 1, 0], &[22, 3, 3, 0, 4, 4, 0, 0, 0]] {
        let (mut client, mut server) = shaken();
        let alert = refused_by(&mut client, &mut server, &mut plain.to_vec()).1;
        assert_eq!(alert, Some(AlertDescription::UnexpectedMessage), "{plain:?}");
    }
    let (mut client, mut server) = shaken();
    let mut sealed = forged(&mut client, ContentType::ApplicationData, b"hello");
    *sealed.last_mut().unwrap() ^= 1;
    assert_eq!(refused_by(&mut client, &mut server, &mut sealed).1, Some(AlertDescription::BadRecordMac));
    let (mut client, mut server) = shaken();
    let alert = refused_by(&mut client, &mut server, &mut [23, 3, 3, 0x41, 1]).1;
    assert_eq!(alert, Some(AlertDescription::RecordOverflow), "told by the head alone");
}

#[test]
fn a_record_twice_or_out_of_order_is_not_opened() {
    let (mut client, mut server) = shaken();
    let [mut first, mut second] =
        [b"1", b"2"].map(|data| forged(&mut client, ContentType::ApplicationData, data));
    assert_eq!(open_all(&mut server, &mut first.clone()).0, b"1");
    assert_eq!(refused_by(&mut client, &mut server, &mut first).0, Error::DecryptError);
    let (_, mut server) = shaken();
    assert!(server.open::<Error>(&mut second, |_| Ok(Then::GoOn)).is_err());
}

#[test]
fn padding_is_taken_off_and_user_canceled_means_nothing() {
    let (mut client, mut server) = shaken();
    let mut sealed = forged(&mut client, ContentType::Alert, &[1, 90]);
    sealed.extend(forged(&mut client, ContentType::Unknown(0), &[b"data", &[23, 0, 0][..]].concat()));
    sealed.extend(forged(&mut client, ContentType::ApplicationData, &[7; MAX_PLAIN]));
    assert_eq!(open_all(&mut server, &mut sealed).0, [b"data", &[7; MAX_PLAIN][..]].concat());
}

#[test]
fn a_client_ignores_tickets() {
    let (mut client, mut server) = shaken();
    let ticket = [4, 0, 0, 2, 9, 9];
    let mut sealed = forged(&mut server, ContentType::Handshake, &ticket.repeat(2));
    sealed.extend(forged(&mut server, ContentType::ApplicationData, b"data"));
    assert_eq!(open_all(&mut client, &mut sealed).0, b"data");
}

/// The peer's KeyUpdates, each sealed with the key before.
fn updates(peer: &mut Tls, n: usize, answer: bool) -> Vec<u8> {
    let mut sealed = vec![0; n * SLACK];
    let records = peer.records.as_mut().unwrap();
    let len = (0..n).fold(0, |at, _| at + records.update(answer, &mut sealed[at..]).unwrap());
    sealed.truncate(len);
    sealed
}

#[test]
fn many_key_updates_that_ask_for_one_are_answered_once_and_others_not() {
    for (asks, more) in [(true, 27), (false, 0)] {
        let (mut client, mut server) = shaken();
        let one = {
            let mut sealed = vec![];
            server.seal_into(b"data", &mut sealed).unwrap();
            open_all(&mut client, &mut sealed);
            sealed.len()
        };
        open_all(&mut server, &mut updates(&mut client, 5, asks));
        for more in [more, 0] {
            let mut sealed = Vec::new();
            server.seal_into(b"data", &mut sealed).unwrap();
            assert_eq!(sealed.len(), one + more);
            assert_eq!(open_all(&mut client, &mut sealed).0, b"data");
        }
    }
}

#[test]
fn a_flood_of_records_without_data_is_an_error_and_data_between_them_makes_it_none() {
    let (mut client, mut server) = shaken();
    for _ in 0..3 {
        open_all(&mut server, &mut updates(&mut client, 32, true));
        open_all(&mut server, &mut forged(&mut client, ContentType::ApplicationData, b"data"));
    }
    let mut flood = updates(&mut client, 33, true);
    assert_eq!(
        refused_by(&mut client, &mut server, &mut flood),
        (PeerMisbehaved::TooManyKeyUpdateRequests.into(), Some(AlertDescription::UnexpectedMessage))
    );
    for (kind, plain) in [(ContentType::ApplicationData, &b""[..]), (ContentType::Alert, &[1, 90])] {
        assert!(matches!(refused(&[(kind, plain); 33]).0, Error::PeerMisbehaved(_)));
    }
}

/// So many records of AES-GCM with one key are safe (RFC 9846 5.5): both sides are set to just below.
#[test]
fn a_key_is_changed_before_it_has_sealed_what_it_may() {
    let (mut client, mut server) = shaken();
    let limit = 1 << 24;
    let mut first = Vec::new();
    client.seal_into(b"first", &mut first).unwrap(); // aws-lc lets numbers grow, and counts from the first one
    open_all(&mut server, &mut first);
    client.records.as_mut().unwrap().fast_forward(limit - 5, 0);
    server.records.as_mut().unwrap().fast_forward(0, limit - 5);
    let lengths = [4, 1, 2, 2].map(|records| {
        let plain = vec![records; usize::from(records) * MAX_PLAIN];
        let mut sealed = vec![0; sealed_len(plain.len())];
        let len = client.seal(&plain, &mut sealed).unwrap();
        assert_eq!(open_all(&mut server, &mut sealed[..len]).0, plain);
        len - usize::from(records) * (MAX_PLAIN + OVERHEAD)
    });
    assert_eq!(lengths, [0, 27, 0, 0], "one KeyUpdate, and not too late");
}

#[test]
fn an_alert_follows_the_end_of_the_handshake() {
    let (mut client, mut server) = client_is_first();
    assert!(client.open::<Error>(&mut [23, 3, 3, 0xff, 0xff], |_| Ok(Then::GoOn)).is_err());
    let mut last = client.take_unsent();
    assert!(server.step(&mut last).unwrap());
    let told = server.finish().unwrap().open::<Error>(&mut last, |_| Ok(Then::GoOn));
    assert_eq!(told, Err(Error::AlertReceived(AlertDescription::RecordOverflow)));
}

/// rustls at the other end, which makes its own records.
struct Stock(rustls::Connection);

impl Stock {
    fn hear(&mut self, mut bytes: &[u8]) -> Vec<u8> {
        let mut heard = Vec::new();
        while !bytes.is_empty() {
            self.0.read_tls(&mut bytes).unwrap();
            let state = self.0.process_new_packets().unwrap();
            let at = heard.len();
            heard.resize(at + state.plaintext_bytes_to_read(), 0);
            self.0.reader().read_exact(&mut heard[at..]).unwrap();
        }
        heard
    }

    fn say(&mut self, plain: &[u8]) -> Vec<u8> {
        let mut said = Vec::new();
        for chunk in plain.chunks(MAX_PLAIN) {
            self.0.writer().write_all(chunk).unwrap();
            said.extend(self.sent());
        }
        said
    }

    fn sent(&mut self) -> Vec<u8> {
        let mut sent = Vec::new();
        while self.0.wants_write() {
            self.0.write_tls(&mut sent).unwrap();
        }
        sent
    }
}

fn shaken_with_stock(we_are_client: bool) -> (Tls, Stock) {
    let (client, server) = generations();
    let (mut ours, mut stock) = if we_are_client {
        let stock = ServerConnection::new(Arc::clone(&server.wire.server)).unwrap();
        (Handshake::client(&client.wire.client).unwrap(), Stock(stock.into()))
    } else {
        let stock = ClientConnection::new(Arc::clone(&client.wire.client), tls::no_name()).unwrap();
        (Handshake::server(&server.wire.server).unwrap(), Stock(stock.into()))
    };
    let mut to_us = stock.sent();
    while !ours.step(&mut to_us).unwrap() {
        stock.hear(&ours.take_unsent());
        to_us.extend(stock.sent());
    }
    (ours.finish().unwrap(), stock)
}

#[test]
fn rustls_own_records_and_ours_understand_each_other_through_data_updates_and_the_end() {
    for we_are_client in [true, false] {
        let (mut ours, mut stock) = shaken_with_stock(we_are_client);
        let plain: Vec<u8> = (0..100_000_u32).map(|n| n.to_le_bytes()[0]).collect();
        for round in 0..8 {
            match round {
                1 | 5 => ours.refresh_keys().unwrap(),
                2 => stock.0.refresh_traffic_keys().unwrap(),
                4 => drop(stock.hear(&updates(&mut ours, 3, false))),
                _ => {}
            }
            let mut sealed = Vec::new();
            ours.seal_into(&plain, &mut sealed).unwrap();
            assert_eq!(stock.hear(&sealed), plain, "round {round}");
            assert_eq!(open_all(&mut ours, &mut stock.say(&plain)).0, plain, "round {round}");
        }
        stock.0.send_close_notify();
        assert!(open_all(&mut ours, &mut stock.sent()).1.closed);
        let mut last = Vec::new();
        ours.close_into(&mut last);
        stock.hear(&last);
        assert_eq!(stock.0.reader().read(&mut [0]).unwrap(), 0, "close_notify");
    }
}
