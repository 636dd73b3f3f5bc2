//! What the demo shows: to people as a page, to programs as JSON.

use std::time::Duration;

use serde::Serialize;

use super::{
    promises::{Evidence, Promise},
    reading::{self, Reading},
    tap::Seen,
};
use crate::{
    edges::edges_table,
    human,
    output::{Mark, Output},
    shapes::Edge,
    state::StateDir,
};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Report {
    /// From the demo's start to the first answer over mutual TLS. None: there was none.
    first_byte_milliseconds: Option<u128>,
    promises: Vec<Promise>,
    edges: Vec<Edge>,
    wires: Vec<Wire>,
}

/// A tapped wire.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Wire {
    name: String,
    meshed: bool,
    connections: u64,
    bytes: u64,
    /// How often the apps' secret passed in the clear.
    secrets: u64,
    /// First bytes of the client and of the server, in hex.
    sent: String,
    received: String,
    /// What they mean.
    reading: String,
}

impl Report {
    pub(super) fn new(first_byte: Option<Duration>, promises: Vec<Promise>, evidence: Evidence) -> Self {
        let meshed = evidence.meshed.iter().map(|(name, seen)| Wire::new(name, true, seen));
        let unmeshed = Wire::new("web -> billing", false, &evidence.unmeshed);
        let wires = meshed.chain([unmeshed]).collect();
        let first_byte_milliseconds = first_byte.map(|time| time.as_millis());
        Self { first_byte_milliseconds, promises, edges: evidence.edges, wires }
    }

    pub(super) fn held(&self) -> bool {
        self.promises.iter().all(|promise| promise.held)
    }
}

impl Wire {
    fn new(name: &str, meshed: bool, seen: &Seen) -> Self {
        Self {
            name: name.into(),
            meshed,
            connections: seen.connections,
            bytes: seen.sent.bytes + seen.received.bytes,
            secrets: seen.sent.marker + seen.received.marker,
            sent: reading::hex(&seen.sent.first, SHOWN),
            received: reading::hex(&seen.received.first, SHOWN),
            reading: Reading::of(&seen.sent.first, &seen.received.first).to_string(),
        }
    }
}

pub(super) fn text(report: &Report, out: Output, state: &StateDir) -> String {
    let mut text = match report.first_byte_milliseconds {
        Some(time) => format!("First byte over mutual TLS {:.2} s after the start.\n", time as f64 / 1000.0),
        None => "No byte came through the mesh.\n".into(),
    };
    text += &format!("\nWho talks to whom (signet edges --state {}):\n\n", state.root().display());
    text += &edges_table(out, &report.edges);
    text += "\nWhat a wiretap between the pods sees:\n\n";
    for wire in &report.wires {
        let kind = if wire.meshed { "both meshed" } else { "billing is not meshed" };
        text += &format!(
            "  {} ({kind}): {} on {}, the apps' secret read {}\n      sent      {}\n      received  {}\n      that is   {}\n",
            wire.name,
            human::bytes(wire.bytes),
            human::count(wire.connections, "connection"),
            human::count(wire.secrets, "time"),
            wire.sent,
            wire.received,
            wire.reading
        );
    }
    text += "\nPromises:\n\n";
    for promise in &report.promises {
        let mark = out.mark(if promise.held { Mark::Good } else { Mark::Bad });
        text += &format!("  {mark} {}\n      {}\n", promise.promise, promise.because);
    }
    let broken = report.promises.iter().filter(|promise| !promise.held).count();
    text += &match broken {
        0 => "\nEvery promise was held.\n".into(),
        n => format!("\n{} broken.\n", human::count(n as u64, "promise")),
    };
    text
}

/// For those who stay.
pub(super) fn what_next(state: &StateDir) -> String {
    let root = state.root().display();
    format!(
        "
It keeps running, with traffic, until Ctrl-C. In another terminal:

  signet edges --state {root}                 who talks to whom, right now
  signet edges --plaintext --state {root}     what is not encrypted, and why
  signet identity shop/api-0 --state {root}   the certificate of a workload
  signet ca rotate --state {root}             replace the root under traffic; nothing breaks
  grep -ac secret- {root}/wiretap/*           look for the secret in what the taps recorded
  sed -i s/permissive/strict/ {root}/manifests/20-office.yaml   cron is refused from now on

Your own manifests: signet local DIR
"
    )
}

/// Bytes of each direction on the page.
const SHOWN: usize = 16;
