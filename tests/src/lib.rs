//! The harness of the system tests: real processes on real sockets, and whatever stands in their way.
//!
//! A story starts a [`mesh::Mesh`] from [`manifests::Pod`]s, runs [`apps`] in them, talks through it as a [`client`], and
//! asks the proxies what they saw ([`workload::Workload`]). What stands in the way is a [`gate`], a [`fake_ca`], or a peer
//! that the test plays itself ([`wire`], [`hostile`]). Real programs run as somebody [`unprivileged`].
#![expect(clippy::panic, reason = "a harness fails its test, with words")]
#![expect(
    clippy::large_futures,
    reason = "the bound is for connections of the product; a test waits with one future"
)]

pub mod answers;
pub mod apps;
pub mod authority;
pub mod binaries;
pub mod captured;
pub mod client;
pub mod dns;
pub mod eventually;
pub mod fake_ca;
pub mod fake_edge;
pub mod frames;
pub mod gate;
pub mod gateway;
pub mod hostile;
pub mod injected;
pub mod manifests;
pub mod mesh;
pub mod mirror;
pub mod nameservers;
pub mod netns;
pub mod network;
pub mod origins;
pub mod pebble;
pub mod pki;
pub mod programs;
pub mod record;
pub mod route53;
pub mod tap;
pub mod teller;
pub mod unprivileged;
pub mod web;
pub mod wire;
pub mod workload;
