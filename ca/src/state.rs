//! What a CA must remember: one JSON document, replaced as a whole ([`crate::store`]).
//!
//! Times are Unix seconds. Root keys are in it, so it is as secret as they are; the key of an intermediate that we made never
//! is.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::rotation::{Phase, Rotation};

/// Everything that survives a restart.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct State {
    /// [`SCHEMA`]; a newer one is refused, because an older program would lose what it does not know.
    pub schema: u32,
    /// Grows by one with every write; a write names the version that it replaces.
    pub version: u64,
    pub trust_domain: String,
    /// Of the trust bundle; grows whenever its roots do or shrink.
    pub bundle_sequence: u64,
    /// Exactly one is active.
    pub roots: Vec<Root>,
    /// Kept until they would have expired anyway.
    pub distrusted: Vec<Distrusted>,
    /// Every intermediate that may have signed a leaf, recorded before it did; expired ones are dropped.
    pub intermediates: Vec<Intermediate>,
    pub rotation: Rotation,
    /// Longest life of leaves since the last change of that setting, seconds.
    pub leaf_life: i64,
    /// By then every leaf issued under an earlier, perhaps longer, setting has expired.
    pub earlier_leaves_until: i64,
}

#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Root {
    /// `signet_core::bundle::root_id`.
    pub id: Arc<str>,
    pub role: Role,
    pub made: i64,
    pub not_after: i64,
    /// PEM.
    pub certificate: Arc<str>,
    /// PKCS#8 PEM. `None`: the root is the user's, who keeps its key and brings intermediates ([`crate::brought`]).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<Secret>,
    /// Of a user's root that signs, or will, while a rotation is under way: the user's Secret may hold the other root's by
    /// then, and a replica that starts must be able to sign on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept: Option<Offer>,
}

/// An intermediate of the user's own, as the Secret holds it. Not checked; what the Secret does not have is "".
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Offer {
    /// `tls.crt`, PEM: the intermediate, then what lies between it and the root.
    pub chain: Arc<str>,
    /// `tls.key`, PEM.
    pub key: Secret,
    /// `ca.crt`, PEM.
    pub root: Arc<str>,
}

#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Role {
    /// Signs intermediates.
    Active,
    /// Published, signs from `activate` on.
    Next,
    /// Signs no more; leaves under it are still valid.
    Retiring,
}

#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Distrusted {
    pub id: Arc<str>,
    pub not_after: i64,
}

#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Intermediate {
    pub serial: Arc<str>,
    /// The root's id.
    pub issued_by: Arc<str>,
    pub not_after: i64,
    /// PEM.
    pub certificate: Arc<str>,
}

/// A private key in PEM: wiped when dropped, never printed.
#[derive(Clone, Eq, PartialEq)]
pub(crate) struct Secret(Zeroizing<String>);

impl State {
    /// A CA's first day.
    pub(crate) fn new(
        trust_domain: String,
        root: Root,
        bundle_sequence: u64,
        leaf_life: i64,
        now: i64,
    ) -> Self {
        Self {
            schema: SCHEMA,
            version: 0,
            trust_domain,
            bundle_sequence,
            roots: vec![Root { role: Role::Active, ..root }],
            distrusted: Vec::new(),
            intermediates: Vec::new(),
            rotation: Rotation { phase: Phase::Steady, since: now },
            leaf_life,
            earlier_leaves_until: 0,
        }
    }

    pub(crate) fn root_as(&self, role: Role) -> Option<&Root> {
        self.roots.iter().find(|root| root.role == role)
    }

    pub(crate) fn root(&self, id: &str) -> Option<&Root> {
        self.roots.iter().find(|root| &*root.id == id)
    }

    pub(crate) fn distrusted_ids(&self) -> Vec<Arc<str>> {
        self.distrusted.iter().map(|root| Arc::clone(&root.id)).collect()
    }

    /// Records an intermediate before its first use, and forgets those that have expired.
    #[must_use]
    pub(crate) fn with_intermediate(&self, new: Intermediate, now: i64) -> Self {
        let mut next = self.clone();
        next.intermediates.retain(|intermediate| intermediate.not_after >= now);
        if next.intermediates.contains(&new) {
            return next; // the user's: every replica signs with the same, after every restart
        }
        if next.intermediates.len() >= MOST_INTERMEDIATES {
            next.intermediates.remove(0); // a CA in a crash loop: the newest are those that signed
        }
        next.intermediates.push(new);
        next
    }

    /// Takes a new setting of the longest leaf life; leaves issued under the old one keep theirs. Other replicas may go on
    /// with the old one for `lag` seconds.
    #[must_use]
    pub(crate) fn with_leaf_life(&self, life: i64, now: i64, lag: i64) -> Self {
        if life == self.leaf_life {
            return self.clone();
        }
        let earlier_leaves_until = self.earlier_leaves_until.max(now + self.leaf_life + lag);
        Self { leaf_life: life, earlier_leaves_until, ..self.clone() }
    }

    /// What must hold of every state that is read. A file that breaks it was not written by us.
    pub(crate) fn check(&self) -> Result<(), String> {
        let active = self.roots.iter().filter(|root| root.role == Role::Active).count();
        let next = self.roots.iter().filter(|root| root.role == Role::Next).count();
        let rotating = matches!(self.rotation.phase, Phase::Prepare | Phase::Converge);
        if active != 1 {
            return Err(format!("{active} active roots instead of one"));
        }
        if next != usize::from(rotating) {
            return Err(format!("{next} next roots in phase {}", self.rotation.phase));
        }
        for root in self.roots.iter().filter(|root| root.kept.is_some()) {
            let signs = root.role != Role::Retiring && self.rotation.phase != Phase::Steady;
            if root.key.is_some() || !signs {
                return Err(format!("an intermediate is kept for root {}, which needs none", root.id));
            }
        }
        Ok(())
    }
}

impl Secret {
    pub(crate) fn new(pem: Zeroizing<String>) -> Self {
        Self(pem)
    }
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl Serialize for Secret {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|pem| Self(Zeroizing::new(pem)))
    }
}

/// Of the state file. Grows when a field changes its meaning or an older program must not write it.
/// 2: a root may be the user's, and have no key.
pub(crate) const SCHEMA: u32 = 2;
/// One a fortnight at most in ordinary life; this many restarts are remembered in full.
const MOST_INTERMEDIATES: usize = 64;
