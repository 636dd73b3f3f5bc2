//! The CA's key, and its PEM: every buffer of ours that it passes through is wiped, and none grows, which would leave a copy behind.
//! (rcgen's own PEM, and that of rustls, keep such buffers.)

use base64::{Engine as _, prelude::BASE64_STANDARD};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData, SignatureAlgorithm, SigningKey};
use rustls_pki_types::PrivatePkcs8KeyDer;
use zeroize::{Zeroize as _, Zeroizing};

/// rcgen's, wiped when it is dropped. P-256.
pub(crate) struct Key(KeyPair);

impl Key {
    pub(crate) fn generate() -> Result<Self, rcgen::Error> {
        Ok(Self(KeyPair::generate()?))
    }

    /// The first PKCS#8 key in `pem`, whatever else is in it. `None`: there is none that parses.
    pub(crate) fn from_pem(pem: &str) -> Option<Self> {
        let der = der(pem)?;
        let der = PrivatePkcs8KeyDer::from(der.as_slice());
        KeyPair::from_pkcs8_der_and_sign_algo(&der, &PKCS_ECDSA_P256_SHA256).ok().map(Self)
    }

    /// PKCS#8.
    pub(crate) fn pem(&self) -> Zeroizing<String> {
        pem(self.0.serialized_der())
    }

    /// PKCS#8.
    pub(crate) fn der(&self) -> Zeroizing<Vec<u8>> {
        Zeroizing::new(self.0.serialized_der().to_vec())
    }
}

/// Source: RFC 7468 10. Lines of 64 characters.
fn pem(der: &[u8]) -> Zeroizing<String> {
    let mut text = Zeroizing::new(String::with_capacity(pem_length(der.len())));
    text.push_str(BEGIN);
    text.push('\n');
    for line in der.chunks(LINE) {
        BASE64_STANDARD.encode_string(line, &mut text);
        text.push('\n');
    }
    text.push_str(END);
    text.push('\n');
    text
}

/// Bytes of PEM for so many of DER.
fn pem_length(der: usize) -> usize {
    BEGIN.len() + END.len() + 2 + der.div_ceil(3) * 4 + der.div_ceil(LINE)
}

fn der(pem: &str) -> Option<Zeroizing<Vec<u8>>> {
    let (_, rest) = pem.split_once(BEGIN)?;
    let (body, _) = rest.split_once(END)?;
    let mut letters = Zeroizing::new(Vec::with_capacity(body.len()));
    letters.extend(body.bytes().filter(|letter| !letter.is_ascii_whitespace()));
    let mut der = Zeroizing::new(vec![0; letters.len().div_ceil(4) * 3]);
    let length = BASE64_STANDARD.decode_slice(letters.as_slice(), &mut der).ok()?;
    der.truncate(length);
    Some(der)
}

impl PublicKeyData for Key {
    fn der_bytes(&self) -> &[u8] {
        self.0.der_bytes()
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        self.0.algorithm()
    }
}

impl SigningKey for Key {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        self.0.sign(message)
    }
}

impl Drop for Key {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

const BEGIN: &str = "-----BEGIN PRIVATE KEY-----";
const END: &str = "-----END PRIVATE KEY-----";
/// Bytes that make a line of 64 characters.
const LINE: usize = 48;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_s_pem_is_what_others_write_and_read_and_its_buffer_never_grew() {
        for length in [1, 2, 3, 47, 48, 49, 96, 138, 200] {
            let bytes: Vec<u8> = (0..=u8::MAX).cycle().take(length).collect();
            let text = pem(&bytes);
            assert_eq!(text.len(), pem_length(length), "{length}: it was all the room there is");
            assert_eq!(der(&text).as_deref(), Some(&bytes), "{length}");
        }
        let key = Key::generate().unwrap();
        assert_eq!(key.0.serialize_pem().replace("\r\n", "\n"), *key.pem());
        let read = Key::from_pem(&key.0.serialize_pem()).unwrap();
        assert_eq!(read.der(), key.der());
    }

    #[test]
    fn it_is_found_between_other_things_and_what_is_no_key_is_none() {
        let key = Key::generate().unwrap();
        let certificate = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        for text in [
            format!("{}{certificate}", *key.pem()),
            format!("words\n{certificate}{}", key.pem().replace('\n', "\r\n")),
        ] {
            assert_eq!(Key::from_pem(&text).map(|key| key.der()), Some(key.der()), "{text}");
        }
        for text in [
            "",
            certificate,
            "-----BEGIN PRIVATE KEY-----",
            "-----BEGIN PRIVATE KEY-----\n-----END PRIVATE KEY-----\n",
            "-----BEGIN PRIVATE KEY-----\n????\n-----END PRIVATE KEY-----\n",
            "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
        ] {
            assert!(Key::from_pem(text).is_none(), "{text}");
        }
    }
}
