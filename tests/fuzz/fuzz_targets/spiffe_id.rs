//! A name that parses has one spelling.
#![no_main]
use signet_core::identity;

libfuzzer_sys::fuzz_target!(|uri: &str| {
    if let Ok(id) = identity::parse(uri) {
        assert_eq!(id.to_string(), uri);
        assert!(identity::workload(&id).is_some());
    }
});
