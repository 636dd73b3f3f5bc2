//! The shape of `GET /v1/status`; `signet ca status` reads the same types.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    brought,
    issue::Issuer,
    ledger::rfc3339,
    rotation::{self, Phase},
    state::{Role, State},
};

/// Times are RFC 3339.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    pub version: String,
    pub trust_domain: String,
    /// Another at each start: outstanding join tokens died with the last one.
    pub boot_id: String,
    pub bundle_sequence: u64,
    pub leaf_life_seconds: i64,
    pub roots: Vec<Root>,
    pub intermediate: Intermediate,
    pub rotation: Rotation,
    /// Leaves since the start, the CA's own not counted.
    pub issued: u64,
    pub refused: u64,
    /// What is wrong with the intermediate that the user brings, or that is no longer there, and what to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<String>,
    /// In a cluster only: which replica says this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replica: Option<Replica>,
}

#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Replica {
    /// The pod's.
    pub name: String,
    /// Whether it takes the steps of a rotation and publishes.
    pub leads: bool,
    /// Who does, as it last saw; "": nobody.
    pub leader: String,
    /// Labelled namespaces that do not let the leader write the trust bundle, and why. Empty where this is not the leader.
    pub without_bundle: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Root {
    pub id: String,
    pub not_after: String,
    pub state: RootState,
    /// Whether it is the user's, who keeps its key. False of a distrusted one: that is not known any more.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub brought: bool,
}

#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RootState {
    Active,
    Next,
    Retiring,
    Distrusted,
}

#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Intermediate {
    pub serial: String,
    pub not_after: String,
    /// Id of a root.
    pub issued_by: String,
    /// The user's, where it rests on one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub brought: Option<Brought>,
}

/// An intermediate of the user's own. Its times are those of all between it and the root: latest begin, earliest end.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Brought {
    pub serial: String,
    pub not_before: String,
    pub not_after: String,
}

#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Rotation {
    pub state: Phase,
    pub since: String,
    /// When the next step is due; it is taken with the next tick after that. `None`: when the user brings another root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_step_at: Option<String>,
}

impl Status {
    pub(crate) fn new(
        state: &State,
        intermediate: Intermediate,
        leaf_life_seconds: i64,
        issued: u64,
        refused: u64,
    ) -> Self {
        let trusted = state.roots.iter().map(|root| Root {
            id: root.id.to_string(),
            not_after: rfc3339(root.not_after),
            state: match root.role {
                Role::Active => RootState::Active,
                Role::Next => RootState::Next,
                Role::Retiring => RootState::Retiring,
            },
            brought: root.key.is_none(),
        });
        let distrusted = state.distrusted.iter().map(|root| Root {
            id: root.id.to_string(),
            not_after: rfc3339(root.not_after),
            state: RootState::Distrusted,
            brought: false,
        });
        Self {
            version: signet_core::VERSION.to_owned(),
            trust_domain: state.trust_domain.clone(),
            boot_id: String::new(), // `admin` knows it
            bundle_sequence: state.bundle_sequence,
            leaf_life_seconds,
            roots: trusted.chain(distrusted).collect(),
            intermediate,
            rotation: Rotation {
                state: state.rotation.phase,
                since: rfc3339(state.rotation.since),
                next_step_at: rotation::due(state).map(rfc3339),
            },
            issued,
            refused,
            fault: None,   // `authority` knows it
            replica: None, // `admin` knows it
        }
    }
}

impl Intermediate {
    pub(crate) fn new(issuer: &Issuer, issued_by: &str, brought: Option<&brought::Brought>) -> Self {
        Self {
            serial: issuer.serial.to_string(),
            not_after: rfc3339(issuer.not_after),
            issued_by: issued_by.to_owned(),
            brought: brought.map(|brought| Brought {
                serial: brought.issuer.serial.to_string(),
                not_before: rfc3339(brought.not_before),
                not_after: rfc3339(brought.issuer.not_after),
            }),
        }
    }
}
