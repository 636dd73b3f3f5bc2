//! Certificates from an ACME CA (RFC 8555), for hosts of the edge: ordered, proven, checked, renewed, and explained.
//!
//! What a certificate is for is its [`names`]; who makes it, an [`issuer`]. All that is stored of it is one [`record`]; [`plan`] says
//! from it what is done next, [`steps`] does that, and a [`store`] keeps the record before and after. Challenges are put where the CA
//! looks by a [`solver`]: gateways, or the provider of a DNS zone. docs/acme.md has the stages, and what a crash at each of them costs.
//!
//! Not here: Kubernetes (`signet-controller`: which hosts want one, Secrets as store) and serving (`signet-gateway`).

pub mod account;
pub mod challenge;
pub mod dns;
pub mod drive;
mod fault;
pub mod issuer;
pub mod names;
pub mod order;
pub mod outcome;
pub mod plan;
pub mod preflight;
pub mod problem;
pub mod record;
pub mod returned;
pub mod secret;
pub mod solver;
pub mod steps;
pub mod store;
pub mod transport;
