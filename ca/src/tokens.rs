//! One-time join tokens: what a workload's first certificate costs in directory mode.
//!
//! A token is 256 random bits; only its SHA-256 is kept, in memory, so outstanding tokens die with the process and the
//! supervisor mints new ones. Redeeming takes it out of the map under one lock: of any number of concurrent uses one
//! succeeds. Lookup is by hash, so its time says nothing about the token.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine as _};
use rustls::crypto::SecureRandom;
use sha2::{Digest as _, Sha256};
use signet_core::identity::SpiffeId;
use zeroize::Zeroizing;

/// The outstanding tokens of this process.
#[derive(Default)]
pub(crate) struct Tokens {
    outstanding: Mutex<HashMap<[u8; 32], Grant>>,
}

struct Grant {
    id: SpiffeId,
    /// Unix seconds; the last one at which it is good.
    expires: i64,
}

impl Tokens {
    /// A new token for one certificate of `id`, good for `life` seconds.
    pub(crate) fn mint(
        &self,
        id: SpiffeId,
        life: i64,
        now: i64,
        random: &dyn SecureRandom,
    ) -> Result<Zeroizing<String>, CannotMint> {
        if !(1..=LONGEST_LIFE).contains(&life) {
            return Err(CannotMint::Life(life));
        }
        let mut secret = Zeroizing::new([0; SECRET_BYTES]);
        random.fill(&mut *secret).map_err(|_| CannotMint::Random)?;
        let token = Zeroizing::new(BASE64_URL_SAFE_NO_PAD.encode(*secret));
        let mut outstanding = self.outstanding.lock().unwrap_or_else(PoisonError::into_inner);
        if outstanding.len() >= MOST {
            outstanding.retain(|_, grant| grant.expires >= now);
        }
        if outstanding.len() >= MOST {
            return Err(CannotMint::TooMany);
        }
        outstanding.insert(Sha256::digest(token.as_bytes()).into(), Grant { id, expires: now + life });
        Ok(token)
    }

    /// Whose token this is; never answers so a second time.
    pub(crate) fn redeem(&self, token: &str, now: i64) -> Result<SpiffeId, BadToken> {
        if token.len() > LONGEST_TOKEN {
            return Err(BadToken::Unknown);
        }
        let hash: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        let taken = self.outstanding.lock().unwrap_or_else(PoisonError::into_inner).remove(&hash);
        match taken {
            None => Err(BadToken::Unknown),
            Some(grant) if grant.expires < now => Err(BadToken::Expired(grant.id)),
            Some(grant) => Ok(grant.id),
        }
    }

    /// Forgets the expired ones; called now and then, so that a quiet CA holds none.
    pub(crate) fn sweep(&self, now: i64) {
        self.outstanding
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|_, grant| grant.expires >= now);
    }
}

#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum BadToken {
    #[error("the token is not one of ours, or was used before")]
    Unknown,
    #[error("the token of {0} has expired")]
    Expired(SpiffeId),
}

#[derive(Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum CannotMint {
    #[error("a token may live 1 to {LONGEST_LIFE} seconds, not {0}")]
    Life(i64),
    #[error("{MOST} tokens are outstanding; wait until some are used or expire")]
    TooMany,
    #[error("the system's random numbers failed")]
    Random,
}

const SECRET_BYTES: usize = 32;
/// A token file is renewed every 30 s; an hour is for a person who starts a workload by hand.
const LONGEST_LIFE: i64 = 3600;
/// 10 000 workloads hold three each (30 s refresh, 90 s life); twice that, 10 MB at most.
const MOST: usize = 65_536;
/// Ours are 43 characters; longer ones are not worth hashing.
const LONGEST_TOKEN: usize = 128;

#[cfg(test)]
mod tests {
    use super::*;
    use signet_core::{identity, tls};
    use std::sync::Barrier;

    const NOW: i64 = 1_800_000_000;

    fn id() -> SpiffeId {
        identity::parse("spiffe://cluster.local/ns/shop/sa/api").unwrap()
    }

    fn mint(tokens: &Tokens, life: i64) -> Zeroizing<String> {
        tokens.mint(id(), life, NOW, tls::default_provider().secure_random).unwrap()
    }

    #[test]
    fn of_200_concurrent_uses_one_succeeds() {
        for _ in 0..20 {
            let tokens = Tokens::default();
            let token = mint(&tokens, 90);
            let start = Barrier::new(200);
            let successes: usize = std::thread::scope(|scope| {
                let uses: Vec<_> = (0..200)
                    .map(|_| {
                        scope.spawn(|| {
                            start.wait();
                            usize::from(tokens.redeem(&token, NOW).is_ok())
                        })
                    })
                    .collect();
                uses.into_iter().map(|thread| thread.join().unwrap()).sum()
            });
            assert_eq!(successes, 1);
        }
    }

    #[test]
    fn a_token_is_good_until_its_last_second_and_for_its_owner() {
        let tokens = Tokens::default();
        let (first, second) = (mint(&tokens, 90), mint(&tokens, 90));
        assert_ne!(first, second);
        assert_eq!(tokens.redeem(&first, NOW + 90), Ok(id()));
        assert_eq!(tokens.redeem(&first, NOW + 90), Err(BadToken::Unknown));
        assert_eq!(tokens.redeem(&second, NOW + 91), Err(BadToken::Expired(id())));
        assert_eq!(tokens.redeem(&second, NOW), Err(BadToken::Unknown), "an expired one is gone too");
    }

    #[test]
    fn guesses_are_refused() {
        let tokens = Tokens::default();
        let token = mint(&tokens, 90);
        for guess in ["", "x", &token[..42], &format!("{}x", *token), &"A".repeat(1 << 20)] {
            assert_eq!(tokens.redeem(guess, NOW), Err(BadToken::Unknown));
        }
        assert!(tokens.redeem(&token, NOW).is_ok());
    }

    #[test]
    fn their_number_and_life_are_bounded_and_expired_ones_make_room() {
        let tokens = Tokens::default();
        let random = tls::default_provider().secure_random;
        for life in [0, -1, LONGEST_LIFE + 1] {
            assert_eq!(tokens.mint(id(), life, NOW, random), Err(CannotMint::Life(life)));
        }
        for _ in 0..MOST {
            mint(&tokens, 90);
        }
        assert_eq!(tokens.mint(id(), 90, NOW, random), Err(CannotMint::TooMany));
        assert!(tokens.mint(id(), 90, NOW + 91, random).is_ok());
        tokens.sweep(NOW + 1000);
        assert!(tokens.outstanding.lock().unwrap().is_empty());
    }
}
