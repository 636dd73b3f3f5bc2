//! Counterparts that stories need: what a user of Kubernetes would have beside Signet.

pub mod signer;
pub mod webhook;
