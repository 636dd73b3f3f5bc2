//! A stranger's CSR: read before the caller is known.
#![no_main]
#[path = "pem/encode.rs"]
mod pem;

use signet_ca::csr;

libfuzzer_sys::fuzz_target!(|pem: &[u8]| {
    let _ = csr::parse(pem);
    let _ = csr::parse(pem::encode(pem, "CERTIFICATE REQUEST").as_bytes());
});
