//! The first bytes from a load balancer. What was a header stays one when more arrives, and no limit is passed.
#![no_main]
use signet_gateway::proxy_header::{Seen, parse};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    match parse(bytes) {
        Ok(Seen::More(more)) => assert!(more > 0 && bytes.len() + more <= 4096),
        Ok(Seen::Header { client, length }) => {
            assert!(length <= bytes.len());
            assert_eq!(parse(&bytes[..length]), Ok(Seen::Header { client, length }));
        }
        Err(_) => {}
    }
});
