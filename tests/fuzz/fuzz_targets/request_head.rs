//! Heads and chunked bodies of HTTP/1 requests, and paths. A head ends in the same place however it is cut, and so does a body;
//! a path's normal form is its own.
#![no_main]
use signet_http::{
    chunks::Chunks,
    head,
    limits::{EncodedSlash, Limits},
    normal::normal,
};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Some((size, bytes)) = bytes.split_first() else { return };
    let size = usize::from(*size).max(1);
    if let Some(end) = head::end(bytes, 0) {
        assert_eq!(head::end(bytes, size.min(end)), Some(end));
        assert_eq!(head::end(&bytes[..end - 1], 0), None);
        let _ = head::judge(&bytes[..end], &Limits::default().head);
    }
    assert_eq!(body(bytes, bytes.len().max(1)), body(bytes, size));
    if let Ok(path) = std::str::from_utf8(bytes)
        && let Ok(once) = normal(path, EncodedSlash::Pass)
    {
        assert_eq!(normal(&once, EncodedSlash::Pass).as_ref(), Ok(&once));
        assert!(once.split('/').all(|element| element != "." && element != ".."));
    }
});

/// Where a body ends, if it does.
fn body(bytes: &[u8], size: usize) -> Result<Option<usize>, &'static str> {
    let (mut chunks, mut followed) = (Chunks::default(), 0);
    for piece in bytes.chunks(size) {
        followed += chunks.follow(piece)?;
        if chunks.is_done() {
            return Ok(Some(followed));
        }
    }
    Ok(None)
}
