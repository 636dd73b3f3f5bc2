//! What is done to a system, and the figures that it leaves.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use anyhow::{Result, bail};

use crate::{
    exchange::Wants,
    lab::Lab,
    load::{self, Outcome},
    open_loop, proc,
    results::Sample,
    systems::{Running, System},
    window::Window,
};

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Workload {
    /// 1 KiB per request over so many connections that stay.
    KeepAlive(usize),
    /// A new connection per request, so many at a time, to a destination that was called before.
    NewConnection(usize),
    /// A new connection per request, each with a full handshake.
    FirstContact(usize),
    Down,
    Up,
    /// Four downloads at once that are [`GIB`] together.
    Parallel,
    /// Open loop, so many requests a second.
    Rate(u32),
    /// [`crate::idle`]
    Idle,
}

impl Workload {
    /// In the order of the report.
    pub const ALL: [Self; 11] = [
        Self::KeepAlive(1),
        Self::KeepAlive(16),
        Self::KeepAlive(64),
        Self::NewConnection(16),
        Self::FirstContact(16),
        Self::Down,
        Self::Up,
        Self::Parallel,
        Self::Rate(1_000),
        Self::Rate(4_000),
        Self::Idle,
    ];

    pub fn word(self) -> String {
        match self {
            Self::KeepAlive(connections) => format!("keepalive-{connections}"),
            Self::NewConnection(at_once) => format!("newconn-{at_once}"),
            Self::FirstContact(at_once) => format!("first-contact-{at_once}"),
            Self::Down => "down-1gib".into(),
            Self::Up => "up-1gib".into(),
            Self::Parallel => format!("down-{STREAMS}-parallel"),
            Self::Rate(per_second) => format!("rate-{per_second}"),
            Self::Idle => "idle".into(),
        }
    }

    /// Whether `system` takes part: rows of another key exchange are about handshakes alone, and memory is a proxy's.
    pub fn concerns(self, system: System) -> bool {
        match (self, system) {
            (Self::FirstContact(_), _) => true,
            (_, System::EnvoyMlkem | System::SignetX25519) => false,
            (Self::Idle, system) => system != System::Direct,
            _ => true,
        }
    }
}

/// Does `workload` to `running` for `time`, and measures. [`Workload::Idle`] is not done here.
pub fn measure(lab: &Lab, running: &mut Running, workload: Workload, time: Duration) -> Result<Sample> {
    match workload {
        Workload::FirstContact(at_once) => first_contact(lab, running, at_once),
        Workload::Idle => bail!("idle connections are measured in a phase of their own"),
        _ => watch(running, workload, |running, window| {
            let to = running.entry()?;
            load::run(&lab.net, move || async move {
                match workload {
                    Workload::KeepAlive(connections) => load::keep_alive(to, connections, time, window).await,
                    Workload::NewConnection(at_once) => load::new_connections(to, at_once, time).await,
                    Workload::Down => load::bulk(to, 1, Wants::Down(GIB)).await,
                    Workload::Up => load::bulk(to, 1, Wants::Up(GIB)).await,
                    Workload::Parallel => load::bulk(to, STREAMS, Wants::Down(GIB / STREAMS as u64)).await,
                    Workload::Rate(per_second) => {
                        Box::pin(open_loop::at_rate(to, per_second, OPEN_LOOP_CONNECTIONS, time, window))
                            .await
                    }
                    Workload::FirstContact(_) | Workload::Idle => Outcome::default(), // left above
                }
            })
        }),
    }
}

fn first_contact(lab: &Lab, running: &mut Running, at_once: usize) -> Result<Sample> {
    match untouched(lab, running.system)? {
        Some(mut untouched) => {
            let sample = contact_each(lab, &mut untouched, at_once)?;
            untouched.stop();
            Ok(sample)
        }
        None => contact_each(lab, running, at_once),
    }
}

/// Signet keeps connections to a destination that it called: for first contacts it gets proxies with as many destinations,
/// each another port. `None`: this system makes a handshake for each connection anyway.
pub fn untouched(lab: &Lab, system: System) -> Result<Option<Running>> {
    let ports: Vec<u16> = (FIRST_CONTACT_PORT..FIRST_CONTACT_PORT + FIRST_CONTACTS).collect();
    system.start_untouched(lab, &ports)
}

/// Calls each entry of `running` once, or its only one as often.
pub fn contact_each(lab: &Lab, running: &mut Running, at_once: usize) -> Result<Sample> {
    let to: Vec<SocketAddr> =
        running.entries.iter().copied().cycle().take(usize::from(FIRST_CONTACTS)).collect();
    watch(running, Workload::FirstContact(at_once), |_, _| {
        load::run(&lab.net, move || load::each_once(to, at_once))
    })
}

/// CPU time and conditions around a load.
fn watch(
    running: &mut Running,
    workload: Workload,
    load: impl FnOnce(&mut Running, &mut Window) -> Result<Outcome>,
) -> Result<Sample> {
    let steal = proc::Steal::now();
    let mut window =
        Window::new(running.pids().map(|pids| vec![pids.client, pids.server]).unwrap_or_default());
    let outcome = load(running, &mut window)?;
    window.end();
    let stolen = proc::Steal::now().percent_since(steal);
    running.check()?;
    let mut figures = BTreeMap::new();
    let mut figure = |name: &str, value: f64| figures.insert(name.to_owned(), value);
    let bytes = matches!(workload, Workload::Down | Workload::Up | Workload::Parallel);
    // Four streams carry 1 GiB together.
    let (units, per, scale) =
        if bytes { (1.0, "cpu_s_per_gib", 1e9) } else { (outcome.done as f64, "cpu_us", 1e3) };
    if let [client, server] = window.cpu()[..]
        && units > 0.0
    {
        let [client, server] = [client, server].map(|nanoseconds| nanoseconds as f64 / scale / units);
        figure(per, client + server);
        figure(&format!("{per}_client"), client);
        figure(&format!("{per}_server"), server);
    }
    if bytes {
        figure("mib_per_s", 1024.0 / window.time().as_secs_f64());
    } else {
        figure("per_second", outcome.done as f64 / window.time().as_secs_f64());
        let mut sorted = outcome.microseconds;
        sorted.sort_unstable();
        for (name, part) in [("p50_us", 0.5), ("p99_us", 0.99)] {
            if let Some(at) = percentile(&sorted, part) {
                figure(name, f64::from(at));
            }
        }
    }
    Ok(Sample {
        system: running.system.word().into(),
        workload: workload.word(),
        done: outcome.done,
        errors: outcome.errors,
        first_error: outcome.first_error,
        steal_percent: stolen,
        load: proc::load(),
        figures,
        ..Sample::default()
    })
}

pub fn percentile(sorted: &[u32], part: f64) -> Option<u32> {
    let last = sorted.len().checked_sub(1)?;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a share of an index is an index"
    )]
    let index = (last as f64 * part).round() as usize;
    sorted.get(index).copied()
}

pub const GIB: u64 = 1 << 30;
/// Of [`Workload::Parallel`].
const STREAMS: usize = 4;
/// Enough that a slow answer leaves others free.
const OPEN_LOOP_CONNECTIONS: usize = 64;
/// Handshakes in a cell: about a second of both proxies' time.
const FIRST_CONTACTS: u16 = 1_000;
const FIRST_CONTACT_PORT: u16 = 2_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_one_of_the_values() {
        let sorted: Vec<u32> = (1..=101).collect();
        assert_eq!([0.0, 0.5, 0.99, 1.0].map(|part| percentile(&sorted, part)), [1, 51, 100, 101].map(Some));
        assert_eq!(percentile(&[], 0.5), None);
    }
}
