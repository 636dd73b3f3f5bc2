//! What is done to a system, and the figures that it leaves.

use std::{collections::BTreeMap, sync::atomic::Ordering::Relaxed, time::Duration};

use anyhow::Result;
use rustls::NamedGroup;

use crate::{
    edge::{
        client::{self, Client},
        h2,
        lab::Lab,
        offer::{H1, H2, Offer},
        systems::{Running, System},
    },
    load, proc,
    results::Sample,
    window::Window,
    workloads::percentile,
};

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Workload {
    /// A new connection per request, so many at a time, each with a full handshake by X25519.
    Handshake(usize),
    /// The same by X25519MLKEM768.
    HandshakeMlkem(usize),
    /// The same, each resumed with a ticket of the one before; X25519.
    Resumed(usize),
    /// 1 KiB per request in HTTP/1.1 over so many connections that stay.
    H1(usize),
    /// The same in HTTP/2 over so many connections with [`STREAMS`] each.
    H2(usize),
}

impl Workload {
    /// In the order of the report.
    pub const ALL: [Self; 6] = [
        Self::H1(16),
        Self::H1(64),
        Self::H2(4),
        Self::Handshake(16),
        Self::HandshakeMlkem(16),
        Self::Resumed(16),
    ];

    pub fn word(self) -> String {
        match self {
            Self::Handshake(at_once) => format!("handshake-{at_once}"),
            Self::HandshakeMlkem(at_once) => format!("handshake-mlkem-{at_once}"),
            Self::Resumed(at_once) => format!("resumed-{at_once}"),
            Self::H1(connections) => format!("h1-{connections}"),
            Self::H2(connections) => format!("h2-{connections}x{STREAMS}"),
        }
    }

    pub fn is_handshakes(self) -> bool {
        matches!(self, Self::Handshake(_) | Self::HandshakeMlkem(_) | Self::Resumed(_))
    }

    /// Whether `system` takes part.
    pub fn concerns(self, system: System) -> bool {
        match self {
            Self::HandshakeMlkem(_) => system.knows_mlkem(),
            Self::H1(_) => true,
            _ => system != System::Direct,
        }
    }

    /// Who asks `running`.
    pub fn client(self, lab: &Lab, running: &Running) -> Result<Client> {
        let group = match self {
            Self::HandshakeMlkem(_) => NamedGroup::X25519MLKEM768,
            _ => NamedGroup::X25519,
        };
        let alpn = if matches!(self, Self::H2(_)) { H2 } else { H1 };
        let offer = match running.system {
            System::Direct => None,
            _ => Some(Offer::new(lab.pki.root_pem(), group, alpn)?),
        };
        Ok(Client::new(running.entry, offer))
    }
}

/// Does `workload` to `running` for `time`, and measures.
pub fn measure(lab: &Lab, running: &mut Running, workload: Workload, time: Duration) -> Result<Sample> {
    let (steal, before) = (proc::Steal::now(), lab.origin.answered());
    let client = workload.client(lab, running)?;
    let asked = client.asked.clone();
    let mut window = Window::new(running.pids());
    let during = &mut window;
    let mut outcome = load::run(&lab.net, move || async move {
        match workload {
            Workload::Handshake(at_once) | Workload::HandshakeMlkem(at_once) => {
                Box::pin(client::handshakes(client, false, at_once, time, during)).await
            }
            Workload::Resumed(at_once) => {
                Box::pin(client::handshakes(client, true, at_once, time, during)).await
            }
            Workload::H1(connections) => client::keep_alive(client, connections, time, during).await,
            Workload::H2(connections) => h2::streams(client, connections, STREAMS, time, during).await,
        }
    })?;
    window.end();
    let stolen = proc::Steal::now().percent_since(steal);
    running.check()?;
    let (asked, answered) = (asked.load(Relaxed), lab.origin.answered() - before);
    if asked != answered {
        outcome.failed(&std::io::Error::other(format!("of {asked} requests the origin saw {answered}")));
    }
    Ok(Sample {
        system: running.system.word().into(),
        workload: workload.word(),
        done: outcome.done,
        errors: outcome.errors,
        first_error: outcome.first_error.clone(),
        steal_percent: stolen,
        load: proc::load(),
        figures: figures(outcome, &window),
        ..Sample::default()
    })
}

fn figures(outcome: load::Outcome, window: &Window) -> BTreeMap<String, f64> {
    let done = outcome.done as f64;
    let mut figures = BTreeMap::new();
    let mut figure = |name: &str, value: f64| figures.insert(name.to_owned(), value);
    if let [nanoseconds] = window.cpu()[..]
        && outcome.done > 0
        && nanoseconds > 0
    {
        figure("cpu_us", nanoseconds as f64 / 1e3 / done);
        figure("per_cpu_second", done * 1e9 / nanoseconds as f64);
    }
    figure("per_second", done / window.time().as_secs_f64());
    let mut sorted = outcome.microseconds;
    sorted.sort_unstable();
    for (name, part) in [("p50_us", 0.5), ("p99_us", 0.99)] {
        if let Some(at) = percentile(&sorted, part) {
            figure(name, f64::from(at));
        }
    }
    figures
}

/// Of each connection of [`Workload::H2`].
pub const STREAMS: usize = 16;
