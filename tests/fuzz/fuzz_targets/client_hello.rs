//! The first bytes of a connection. What was decided stays decided when more arrives.
#![no_main]
use signet_proxy::hello::{Look, look};

const LIMIT: usize = 65 * 1024;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let whole = look(bytes, LIMIT);
    let front = look(&bytes[..bytes.len() / 2], LIMIT);
    assert!(front == Look::More || front == whole || bytes.len() > LIMIT, "{front:?}, then {whole:?}");
});
