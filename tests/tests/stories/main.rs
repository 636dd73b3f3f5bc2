//! The system as its users meet it: real processes, real sockets. One story per promise; docs/acceptance.md says which.
#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail their test")]
#![expect(
    clippy::large_futures,
    reason = "the bound is for connections of the product; a test waits with one future"
)]

mod acme;
mod admission;
mod demo;
mod dns01;
mod edge;
mod gateway;
mod hostile;
mod identity;
mod injector;
mod ordered;
mod outage;
mod policy;
mod programs;
mod reports;
mod reuse;
mod robustness;
mod rotation;
mod streams;
