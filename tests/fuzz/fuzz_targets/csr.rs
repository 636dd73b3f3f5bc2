//! A stranger's CSR: read before the caller is known.
#![no_main]
use signet_ca::csr;

libfuzzer_sys::fuzz_target!(|pem: &[u8]| {
    let _ = csr::parse(pem);
    // The fuzzer finds no base64 by itself: the same bytes as what the PEM holds.
    let body = libfuzzer_pem(pem);
    let _ = csr::parse(body.as_bytes());
});

fn libfuzzer_pem(der: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::from("-----BEGIN CERTIFICATE REQUEST-----\n");
    for (at, chunk) in der.chunks(3).enumerate() {
        let bits = chunk.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for sextet in 0..4 {
            let index = (bits >> (18 - 6 * sextet)) & 63;
            text.push(if sextet <= chunk.len() { char::from(ALPHABET[index as usize]) } else { '=' });
        }
        if at % 16 == 15 {
            text.push('\n');
        }
    }
    text.push_str("\n-----END CERTIFICATE REQUEST-----\n");
    text
}
