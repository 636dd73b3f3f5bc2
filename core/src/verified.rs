//! Chains that passed lately. A peer that connects again presents the chain that it presented before: its signatures are
//! as good as they were, so long as the same roots are believed and no certificate of it has expired. Whether the peer has
//! the leaf's key is asked in every handshake anew, and is not remembered here.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use rustls_pki_types::{CertificateDer, TrustAnchor};
use sha2::{Digest, Sha256};
use x509_parser::prelude::*;

/// The memory of one verifier.
#[derive(Debug, Default)]
pub(crate) struct Verified(Mutex<HashMap<Key, Passed>>);

/// A chain, byte for byte, and what it was presented for.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) struct Key {
    chain: [u8; 32],
    as_server: bool,
}

#[derive(Debug)]
struct Passed {
    /// The very roots that it was checked against: another bundle is another allocation.
    anchors: Arc<[TrustAnchor<'static>]>,
    /// Unix seconds, between which every certificate of the chain is valid.
    from: i64,
    until: i64,
}

impl Key {
    pub(crate) fn of(leaf: &[u8], intermediates: &[CertificateDer<'_>], as_server: bool) -> Self {
        let mut hash = Sha256::new();
        for der in std::iter::once(leaf).chain(intermediates.iter().map(AsRef::as_ref)) {
            hash.update(u64::try_from(der.len()).unwrap_or(u64::MAX).to_be_bytes());
            hash.update(der);
        }
        Self { chain: hash.finalize().into(), as_server }
    }
}

impl Verified {
    /// Whether this chain passed against these roots, and is still valid at `now` (Unix seconds).
    pub(crate) fn knows(&self, key: &Key, anchors: &Arc<[TrustAnchor<'static>]>, now: i64) -> bool {
        let passed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        passed.get(key).is_some_and(|passed| {
            Arc::ptr_eq(&passed.anchors, anchors) && (passed.from..=passed.until).contains(&now)
        })
    }

    /// Remembers a chain that has passed all checks.
    pub(crate) fn remember(
        &self,
        key: Key,
        leaf: &[u8],
        intermediates: &[CertificateDer<'_>],
        anchors: Arc<[TrustAnchor<'static>]>,
        now: i64,
    ) {
        let Some((from, until)) = validity(leaf, intermediates) else { return };
        let mut passed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if passed.len() >= CHAINS {
            passed.retain(|_, held| held.until >= now && Arc::ptr_eq(&held.anchors, &anchors));
        }
        if passed.len() < CHAINS {
            passed.insert(key, Passed { anchors, from, until });
        }
    }
}

fn validity(leaf: &[u8], intermediates: &[CertificateDer<'_>]) -> Option<(i64, i64)> {
    let (mut from, mut until) = (i64::MIN, i64::MAX);
    for der in std::iter::once(leaf).chain(intermediates.iter().map(AsRef::as_ref)) {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        from = from.max(certificate.validity().not_before.timestamp());
        until = until.min(certificate.validity().not_after.timestamp());
    }
    Some((from, until))
}

/// Peers that a busy workload has, several times over; 100 bytes each. Who finds no place is verified each time.
const CHAINS: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    fn certificate(year: i32) -> CertificateDer<'static> {
        let mut params = CertificateParams::default();
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(year, 1, 1);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone()
    }

    fn year(year: i32) -> i64 {
        date_time_ymd(year, 1, 1).unix_timestamp()
    }

    #[test]
    fn a_chain_is_known_only_as_it_passed_against_the_same_roots_while_all_of_it_is_valid() {
        let (leaf, above, other) = (certificate(2040), certificate(2030), certificate(2040));
        let roots: Arc<[TrustAnchor<'static>]> = Arc::new([]);
        let verified = Verified::default();
        let key = Key::of(&leaf, std::slice::from_ref(&above), true);
        verified.remember(key, &leaf, std::slice::from_ref(&above), Arc::clone(&roots), year(2025));
        assert!(verified.knows(&key, &roots, year(2029)));
        assert!(!verified.knows(&key, &roots, year(2031)), "what is above the leaf has expired");
        assert!(!verified.knows(&key, &roots, year(2019)), "not yet valid");
        let same_roots_again: Arc<[TrustAnchor<'static>]> = vec![TrustAnchor {
            subject: vec![].into(),
            subject_public_key_info: vec![].into(),
            name_constraints: None,
        }]
        .into();
        assert!(!verified.knows(&key, &same_roots_again, year(2029)), "the bundle changed");
        assert!(!verified.knows(&Key::of(&leaf, &[above], false), &roots, year(2029)), "as a client");
        assert!(!verified.knows(&Key::of(&leaf, std::slice::from_ref(&other), true), &roots, year(2029)));
        assert!(!verified.knows(&Key::of(&leaf, &[], true), &roots, year(2029)));
        assert!(!verified.knows(&Key::of(&other, &[], true), &roots, year(2029)));
    }

    #[test]
    fn the_memory_is_bounded_and_gives_way_to_the_living() {
        let (roots, verified, leaf) = (Arc::new([]) as Arc<[_]>, Verified::default(), certificate(2030));
        let key = |n: usize| Key::of(&n.to_be_bytes(), &[], true);
        for n in 0..2 * CHAINS {
            verified.remember(key(n), &leaf, &[], Arc::clone(&roots), year(2025));
        }
        assert!(
            verified.knows(&key(0), &roots, year(2025)) && !verified.knows(&key(CHAINS), &roots, year(2025))
        );
        verified.remember(key(CHAINS), &certificate(2040), &[], Arc::clone(&roots), year(2035));
        assert!(verified.knows(&key(CHAINS), &roots, year(2035)), "the expired ones went");
    }
}
