//! A peer's leaf, before anybody is trusted. One that passes names a workload.
#![no_main]
use signet_core::{identity, svid::Leaf};

libfuzzer_sys::fuzz_target!(|der: &[u8]| {
    if let Ok(leaf) = Leaf::parse(der) {
        assert!(identity::workload(&leaf.id).is_some());
    }
});
