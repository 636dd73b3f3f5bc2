//! What an ACME CA returns as a certificate, and what stands in Secrets that people can write: judged before anything is served.
#![no_main]
#[path = "pem/encode.rs"]
mod pem;

use std::sync::LazyLock;

use rcgen::KeyPair;
use signet_acme::{account::AccountRecord, names::NameSet, record::Record, returned};
use signet_core::acme_tls;

static OURS: LazyLock<(KeyPair, NameSet)> = LazyLock::new(|| {
    (KeyPair::generate().expect("a key"), NameSet::new(["a.example"]).expect("a name"))
});

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let (key, names) = &*OURS;
    for text in [String::from_utf8_lossy(bytes).into_owned(), pem::encode(bytes, "CERTIFICATE")] {
        assert!(returned::check(&text, key, names, 1_780_000_000).is_err(), "it is for no key of ours");
    }
    let _ = acme_tls::identifier(bytes, "a.example");
    if let Ok(record) = Record::parse(bytes) {
        assert_eq!(Record::parse(&record.to_json()).expect("what we wrote"), record);
    }
    if let Ok(account) = AccountRecord::parse(bytes) {
        assert_eq!(AccountRecord::parse(&account.to_json()).expect("what we wrote"), account);
    }
});
