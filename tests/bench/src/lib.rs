//! The data plane beside its peers, in the same rounds on the same machine. Run by `make bench`.
//!
//! A run is a [`rounds::Plan`] in a [`lab::Lab`]; what it leaves is [`results::Results`], judged by [`budgets`] and printed by
//! [`report`]. docs/bench/README.md says how to read it. [`edge`] is the same for the edge, with what is its own.

pub mod args;
pub mod backend;
pub mod budgets;
pub mod edge;
pub mod exchange;
pub mod hello;
pub mod idle;
pub mod lab;
pub mod load;
pub mod net;
pub mod open_loop;
pub mod peers;
pub mod pki;
pub mod proc;
pub mod process;
pub mod profile;
pub mod proof;
pub mod publish;
pub mod report;
pub mod results;
pub mod rounds;
pub mod side;
pub mod signet;
pub mod stats;
pub mod syscalls;
pub mod systems;
pub mod window;
pub mod workloads;

use std::io::{self, Write as _};

/// Progress, for whoever waits.
pub fn say(line: &str) {
    let _ = writeln!(io::stderr(), "{line}"); // nobody listens
}
