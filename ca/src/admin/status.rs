//! The shape of `GET /v1/status`; `signet ca status` reads the same types.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
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
}

#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Rotation {
    pub state: Phase,
    pub since: String,
    /// When the next step is due; it is taken with the next tick after that.
    pub next_step_at: String,
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
        });
        let distrusted = state.distrusted.iter().map(|root| Root {
            id: root.id.to_string(),
            not_after: rfc3339(root.not_after),
            state: RootState::Distrusted,
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
                next_step_at: rfc3339(rotation::due(state)),
            },
            issued,
            refused,
            replica: None, // `admin` knows it
        }
    }
}

impl Intermediate {
    pub(crate) fn new(issuer: &Issuer, issued_by: &str) -> Self {
        Self {
            serial: issuer.serial.to_string(),
            not_after: rfc3339(issuer.not_after),
            issued_by: issued_by.to_owned(),
        }
    }
}
