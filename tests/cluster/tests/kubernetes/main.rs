//! What the cluster is, proven on it: each test in a namespace of its own, beside others. Needs one: `make cluster`.

mod capture;
mod certificates;
mod images;
mod load_balancer;
mod network;
mod pods;
mod programs;
mod sidecar;
mod story;
mod tokens;
mod webhook;
