//! The frames of the wire. A frame that parses is written as the same frame.
#![no_main]
use signet_proxy::frames::{self, Parsed};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let mut rest = bytes;
    while let Ok(Parsed::Frame { len, .. } | Parsed::Skip { len }) = frames::parse(rest) {
        if let Ok(Parsed::Frame { frame, .. }) = frames::parse(rest) {
            let mut written = Vec::new();
            frames::write(&frame, &mut written);
            let length = written.len();
            assert_eq!(frames::parse(&written), Ok(Parsed::Frame { frame, len: length }));
        }
        rest = &rest[len..];
    }
});
