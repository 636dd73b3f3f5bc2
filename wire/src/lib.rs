//! The native wire, ALPN `signet/1` (docs/wire.md): what two data planes say to each other, and nothing of what they do with it.
//!
//! A byte passes [`frames`] -> [`tls`] -> [`socket`]; all three make a [`connection`], which carries streams one after the other.
//! [`pool`] keeps those that wait for their next one; [`client`] gets one to an endpoint, idle or new; [`stream`] is one app
//! connection on it as bytes, for who has no socket of an app (the gateway; the sidecar has a pump of its own). Whatever goes
//! wrong has its word in [`refusal`].

pub mod client;
pub mod connection;
pub mod frames;
pub mod heard;
pub mod pool;
pub mod refusal;
pub mod socket;
pub mod stream;
pub mod tls;

#[cfg(test)]
mod pki_for_tests;
