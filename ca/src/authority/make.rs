//! New roots, intermediates and first states: pure, but for the key that each makes.

use std::{sync::Arc, time::Duration};

use rustls::crypto::SecureRandom;
use rustls_pki_types::{CertificateDer, pem::PemObject as _};
use signet_core::{bundle::TrustBundle, schedule};
use tracing::{info, warn};

use super::{CaError, Intermediary, Settings};
use crate::{
    issue::Issuer,
    rotation::{self, Change},
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
        key: Secret::new(key),
    })
}

pub(super) fn first_state(
    settings: &Settings,
    random: &dyn SecureRandom,
    now: i64,
) -> Result<State, CaError> {
    let root = fresh_root(settings, random, now)?;
    Ok(State::new(settings.domain.as_str().to_owned(), root, 1, settings.leaf_life, now))
}

/// Holders of a bundle ignore older ones. Where what is published is ahead of the state (restored from a backup, or lost), the
/// state's bundle gets a sequence beyond it; a root that was distrusted meanwhile stays so.
pub(super) fn newer_than(
    mut state: State,
    published: Option<TrustBundle>,
    fresh: impl Fn() -> Result<Root, CaError>,
    now: i64,
) -> Result<State, CaError> {
    let Some(published) = published else { return Ok(state) };
    for id in &published.distrusted {
        if let Some(root) = state.root(id) {
            warn!(root = %id, "the published bundle says that this root was distrusted after the state was saved");
            let fresh = if root.role == Role::Active { Some(fresh()?) } else { None };
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

/// A new intermediate under the active root, and the state in which it is recorded; the caller stores that before use.
pub(super) fn sign_intermediate(
    state: &State,
    settings: &Settings,
    random: &dyn SecureRandom,
    now: i64,
) -> Result<(State, Intermediary), CaError> {
    let root = state.root_as(Role::Active).ok_or(CaError::NoRoot)?;
    let signer = Issuer::load(&root.certificate, root.key.expose())?;
    let issuer = signer.intermediate(&settings.domain, settings.intermediate_life, now, random)?;
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
    Ok((state.with_intermediate(record, now), Intermediary { issuer, issued_by, renew_at }))
}

/// The bundle that a state stands for, oldest root first: the same sequence is always the same bytes.
pub(super) fn bundle_of(state: &State) -> Result<TrustBundle, CaError> {
    let certificates = state.roots.iter().map(|root| {
        CertificateDer::from_pem_slice(root.certificate.as_bytes())
            .map_err(|e| format!("root {}: {e:?}", root.id))
    });
    let distrusted = state.distrusted.iter().map(|root| Arc::clone(&root.id)).collect();
    certificates
        .collect::<Result<_, _>>()
        .and_then(|roots| TrustBundle::new(state.bundle_sequence, roots, distrusted))
        .map_err(CaError::Bundle)
}
