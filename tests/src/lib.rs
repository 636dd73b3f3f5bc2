//! The harness of the system tests: real processes on real sockets, and whatever stands in their way.
#![expect(clippy::panic, reason = "a harness fails its test, with words")]

pub mod apps;
pub mod client;
pub mod eventually;
pub mod fake_ca;
pub mod gate;
pub mod hostile;
pub mod network;
pub mod pki;
pub mod wire;
