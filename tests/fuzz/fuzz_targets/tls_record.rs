//! What a peer says in a record after the handshake: of somebody known, perhaps not of one who means well.
#![no_main]
use rustls::{ContentType, Side};
use signet_wire::tls::inner::{Inner, alert_for, parse};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Some((kind, payload)) = bytes.split_first() else { return };
    for us in [Side::Client, Side::Server] {
        match parse(us, ContentType::from(*kind), payload) {
            Ok(Inner::Data(data)) => assert_eq!(data, payload),
            Ok(Inner::KeyUpdate { answer }) => assert!(payload.ends_with(&[24, 0, 0, 1, answer.into()])),
            Ok(Inner::Closed) => assert_eq!(payload[1], 0),
            Ok(Inner::Nothing) => assert!(!payload.is_empty()),
            Err(error) => drop(alert_for(&error)),
        }
    }
});
