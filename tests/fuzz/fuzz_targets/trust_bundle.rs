//! The trust file. What is read is written as it was meant: a second reading gives the same.
#![no_main]
use signet_core::bundle::TrustBundle;

libfuzzer_sys::fuzz_target!(|pem: &[u8]| {
    if let Ok(bundle) = TrustBundle::from_pem(pem) {
        assert!(!bundle.roots.is_empty());
        assert_eq!(TrustBundle::from_pem(bundle.to_pem().as_bytes()).expect("our own PEM"), bundle);
    }
});
