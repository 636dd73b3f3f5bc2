//! How our own processes reach each other: gRPC over mesh mTLS ([`client`], [`server`]), and what each of them needs for
//! it: its own SVID ([`svid`]), the trust file ([`trust_file`]), and for the webhook a certificate with a name ([`serving`]).
//! Data planes share the client's end of a [`discovery`] stream. Beside that, the pages that strangers may ask it for ([`pages`]).

pub mod client;
pub mod discovery;
pub mod listen;
pub mod pages;
pub mod place;
mod request;
pub mod server;
pub mod serving;
pub mod svid;
pub mod trust_file;

use signet_core::identity::SpiffeId;

use crate::place::Place;

/// A part of the control plane: where it listens, and exactly who it must be.
#[derive(Clone, Debug, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Target {
    pub address: Place,
    #[serde(with = "spiffe_id")]
    pub id: SpiffeId,
}

/// SPIFFE IDs in config files, in their one spelling.
mod spiffe_id {
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};
    use signet_core::identity::{self, SpiffeId};

    pub(crate) fn serialize<S: Serializer>(id: &SpiffeId, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(id)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SpiffeId, D::Error> {
        identity::parse(&String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}
