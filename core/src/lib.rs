//! What every part of Signet stands on: who someone is ([`identity`], [`svid`]), whom we believe ([`bundle`], [`trust`]),
//! how we speak ([`tls`], [`verifier`]; [`edge_tls`] to the world), what an injected pod holds and users may write on it ([`pod`], [`annotations`]), and how a process lives ([`telemetry`], [`drain`], [`parent`], [`signals`], [`files`], [`descriptors`], [`schedule`]).
//!
//! Not here: HTTP, Kubernetes, protobuf.

pub mod access_log;
pub mod acme_tls;
pub mod annotations;
pub mod bundle;
pub mod clock;
pub mod descriptors;
pub mod drain;
pub mod edge_tls;
pub mod files;
pub mod http_settings;
pub mod identity;
pub mod parent;
pub mod pod;
pub mod runtime;
pub mod schedule;
pub mod serving;
pub mod signals;
pub mod svid;
pub mod telemetry;
pub mod tls;
pub mod trust;
mod verified;
pub mod verifier;

/// The version that every binary reports.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
