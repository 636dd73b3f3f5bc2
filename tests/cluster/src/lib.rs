//! A real Kubernetes to test against: etcd, the API server, controller-manager, scheduler, kubelet, containerd, kube-proxy
//! (nftables), CNI bridge and CoreDNS on one or two nodes, each node a set of namespaces on this machine.
//!
//! - Made: `programs` builds everything from the Go modules pinned under `go/`, `images` makes the container images, `registry`
//!   serves them to the nodes.
//! - Run: `harness` holds the cluster, `fabric` is the network between the nodes, `node` is process 1 of each node.
//! - Used: [`Cluster`] is what a test sees.
//!
//! Nothing here leaves the machine: every address is in 198.18.0.0/15 or 2001:2::/48 (benchmarking, RFC 2544 and RFC 5180)
//! and exists only in namespaces that end with the harness, however that dies.

mod cgroups;
mod client;
pub mod commands;
mod components;
pub mod control;
mod fabric;
pub mod fixtures;
pub mod harness;
pub mod images;
pub mod network;
pub mod node;
pub mod paths;
mod pki;
pub mod programs;
mod ready;
pub mod registry;
mod run;
mod sha256;
pub mod start;
pub mod state;

pub use client::*;
