//! New roots, intermediates and first states: pure, but for the key that each makes.

use std::{sync::Arc, time::Duration};

use rustls::crypto::{CryptoProvider, SecureRandom};
use rustls_pki_types::{CertificateDer, pem::PemObject as _};
use signet_core::{bundle::TrustBundle, schedule};
use tracing::{info, warn};

use super::{CaError, Intermediary, Offered, Settings};
use crate::{
    brought::{Brought, Signer},
    issue::Issuer,
    rotation::{self, Change, OutOfOrder},
    state::{Intermediate, Role, Root, Secret, State},
};

pub(super) fn fresh_root(settings: &Settings, random: &dyn SecureRandom, now: i64) -> Result<Root, CaError> {
    let (root, key) = Issuer::new_root(&settings.domain, settings.root_life, now, random)?;
    info!(root = %root.id(), "new root");
    Ok(Root {
        id: root.id(),
        role: Role::Next, // `rotation::apply` gives it its role
        made: now,
        not_after: root.not_after,
        certificate: Arc::clone(&root.pem),
        key: Some(Secret::new(key)),
        kept: None,
    })
}

/// Where the user brings an intermediate, a root of ours is never made: not while his is refused, either.
pub(super) fn first_state(
    settings: &Settings,
    offered: &Offered,
    random: &dyn SecureRandom,
    now: i64,
) -> Result<State, CaError> {
    let root = match offered {
        Offered::Nothing => fresh_root(settings, random, now)?,
        Offered::Refused(why) => return Err(why.clone().into()),
        Offered::Usable(brought) => brought.as_root(now),
    };
    Ok(State::new(settings.domain.as_str().to_owned(), root, 1, settings.leaf_life, now))
}

/// What takes the place of a root that is distrusted: the one that the user brings, or else a new one of ours where it was ours.
pub(super) fn replacement(
    bad: &Root,
    state: &State,
    offered: &Offered,
    settings: &Settings,
    random: &dyn SecureRandom,
    now: i64,
) -> Result<Root, CaError> {
    match offered.usable(state) {
        Some(brought) if brought.root_id != bad.id => Ok(brought.as_root(now)),
        _ if bad.key.is_some() => fresh_root(settings, random, now),
        _ => Err(OutOfOrder::NoReplacement.into()),
    }
}

/// Holders of a bundle ignore older ones. Where what is published is ahead of the state (restored from a backup, or lost), the
/// state's bundle gets a sequence beyond it; a root that was distrusted meanwhile stays so.
pub(super) fn newer_than(
    mut state: State,
    published: Option<TrustBundle>,
    fresh: impl Fn(&Root, &State) -> Result<Root, CaError>,
    now: i64,
) -> Result<State, CaError> {
    let Some(published) = published else { return Ok(state) };
    for id in &published.distrusted {
        if let Some(root) = state.root(id) {
            warn!(root = %id, "the published bundle says that this root was distrusted after the state was saved");
            let fresh = if root.role == Role::Active { Some(fresh(root, &state)?) } else { None };
            state = rotation::apply(&state, Change::Distrust { id: Arc::clone(id), fresh }, now)?;
        }
    }
    let ours = bundle_of(&state)?;
    let behind = published.sequence > ours.sequence;
    if behind || (published.sequence == ours.sequence && published != ours) {
        warn!(
            published = published.sequence,
            state = ours.sequence,
            "what is published is not this state's bundle; publishing a newer one"
        );
        state.bundle_sequence = published.sequence.saturating_add(1);
    }
    Ok(state)
}

/// What signs from now on under the active root, and the state in which it is recorded; the caller stores that before use. A new
/// intermediate, or, where the user's leaves no room for one, that one itself.
pub(super) fn sign_intermediate(
    state: &State,
    offered: &Offered,
    settings: &Settings,
    provider: &Arc<CryptoProvider>,
    now: i64,
) -> Result<(State, Intermediary), CaError> {
    let root = state.root_as(Role::Active).ok_or(CaError::NoRoot)?;
    let random = provider.secure_random;
    let (Signer { issuer, above }, brought) = match &root.key {
        Some(key) => {
            let signer = Issuer::load(&root.certificate, key.expose())?;
            let issuer = signer.intermediate(&settings.domain, settings.intermediate_life, now, random)?;
            let above = vec![Arc::clone(&issuer.pem)];
            (Signer { issuer: Arc::new(issuer), above }, None)
        }
        None => {
            let brought = brought_of(state, root, offered, settings, provider, now)?;
            (brought.signer(settings, random, now)?, Some(brought))
        }
    };
    let record = Intermediate {
        serial: Arc::clone(&issuer.serial),
        issued_by: Arc::clone(&root.id),
        not_after: issuer.not_after,
        certificate: Arc::clone(&issuer.pem),
    };
    let life = Duration::from_secs((issuer.not_after - now).max(0).unsigned_abs());
    let after = schedule::renew_after(life, fastrand::f64()).as_secs();
    let renew_at = now.saturating_add_unsigned(after);
    let issued_by = Arc::clone(&root.id);
    let intermediary = Intermediary { issuer, above, issued_by, renew_at, brought };
    Ok((state.with_intermediate(record, now), intermediary))
}

/// The user's intermediate of his root: the one that he offers now, or the one that the state keeps while a rotation is under way.
pub(super) fn brought_of(
    state: &State,
    root: &Root,
    offered: &Offered,
    settings: &Settings,
    provider: &Arc<CryptoProvider>,
    now: i64,
) -> Result<Arc<Brought>, CaError> {
    let why = match (offered, &root.kept) {
        (Offered::Usable(brought), _) if brought.root_id == root.id => return Ok(Arc::clone(brought)),
        (_, Some(kept)) => match Brought::check(kept, settings, &state.distrusted_ids(), provider, now) {
            Ok(brought) => return Ok(Arc::new(brought)),
            Err(why) => format!("the one that was kept will not do any more ({why})"),
        },
        (Offered::Usable(other), None) => format!("what is there is of root {}", other.root_id),
        (Offered::Nothing, None) => "there is no such Secret".to_owned(),
        (Offered::Refused(why), None) => why.to_string(),
    };
    Err(CaError::NoIntermediate { root: Arc::clone(&root.id), why })
}

/// The bundle that a state stands for, oldest root first: the same sequence is always the same bytes.
pub(super) fn bundle_of(state: &State) -> Result<TrustBundle, CaError> {
    let certificates = state.roots.iter().map(|root| {
        CertificateDer::from_pem_slice(root.certificate.as_bytes())
            .map_err(|e| format!("root {}: {e:?}", root.id))
    });
    let distrusted = state.distrusted_ids();
    certificates
        .collect::<Result<_, _>>()
        .and_then(|roots| TrustBundle::new(state.bundle_sequence, roots, distrusted))
        .map_err(CaError::Bundle)
}
