//! Whether the capture rules are still there. A process without NET_ADMIN cannot list them, so it tries them out: readiness
//! dials the canary of each address family every [`EVERY`] and fails after two misses in a row.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use prometheus_client::metrics::gauge::Gauge;
use signet_core::{drain::Drain, telemetry::Metrics};
use tokio::time::{MissedTickBehavior, interval};
use tracing::{info, warn};

use crate::capture::{
    CANARIES, has_route,
    self_test::{self, Process},
};

/// What the canaries showed so far.
pub struct Canary {
    process: Process,
    seen: Mutex<Seen>,
    ok: Gauge,
}

impl Canary {
    /// Has seen nothing yet, which is not ready.
    pub fn new(process: Process, metrics: &mut Metrics) -> Arc<Self> {
        let help = "1: connections of this pod are captured, as the canary dials show";
        let ok = metrics.add("capture_ok", help, Gauge::default());
        Arc::new(Self { process, seen: Mutex::default(), ok })
    }

    /// Dials until `drain` ends.
    pub fn run(self: &Arc<Self>, drain: &Drain) {
        let canary = Arc::clone(self);
        drain.spawn(async move {
            let canary = &*canary;
            watch(|| canary.look(), |looks| canary.take(looks)).await;
        });
    }

    /// Why nobody should be sent here, with the next step.
    pub fn fault(&self) -> Option<&'static str> {
        match *self.seen.lock().unwrap_or_else(PoisonError::into_inner) {
            Seen::Nothing => {
                Some("no canary dial has landed yet; if this stays, run signet-proxy capture in this pod")
            }
            Seen::Landed { misses } if misses < MISSES => None,
            Seen::Landed { .. } | Seen::Missed => Some(
                "the capture rules are missing: connections of this pod bypass the proxy; run signet-proxy capture again in \
                 its network namespace (docs/capture.md)",
            ),
        }
    }

    /// Which process answers a dial that was captured.
    pub fn process(&self) -> Process {
        self.process
    }

    async fn look(&self) -> [Look; 2] {
        let [v4, v6] = CANARIES.map(|canary| look(canary, self.process));
        tokio::join!(v4, v6).into()
    }

    fn take(&self, looks: [Look; 2]) {
        let before = self.fault();
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        *seen = seen.after(looks);
        drop(seen);
        let now = self.fault();
        self.ok.set(now.is_none().into());
        match now {
            None if before.is_some() => info!("captured: the canary dials land"),
            Some(why) if before != now => warn!("not ready: {why}"),
            _ => {}
        }
    }
}

/// One dial of one canary.
async fn look(canary: SocketAddr, process: Process) -> Look {
    if !has_route(canary) {
        return Look::NoFamily;
    }
    match self_test::ask(canary).await {
        Ok(answer) if answer.process == process && answer.destination == canary => Look::Landed,
        Ok(_) | Err(_) => Look::Missed,
    }
}

/// How a dial ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Look {
    Landed,
    Missed,
    /// This namespace has no route, so no app can dial either.
    NoFamily,
}

/// What the rounds of dials say together.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum Seen {
    /// The first round has not ended.
    #[default]
    Nothing,
    /// Once captured; so many rounds in a row have missed since.
    Landed { misses: u32 },
    /// Never captured.
    Missed,
}

impl Seen {
    /// Every family that there is must land; a namespace with none of both shows nothing, which is a miss.
    fn after(self, looks: [Look; 2]) -> Self {
        let landed = !looks.contains(&Look::Missed) && looks.contains(&Look::Landed);
        match self {
            _ if landed => Self::Landed { misses: 0 },
            Self::Landed { misses } => Self::Landed { misses: misses.saturating_add(1) },
            Self::Nothing | Self::Missed => Self::Missed,
        }
    }
}

async fn watch<Looks>(look: impl Fn() -> Looks, mut take: impl FnMut([Look; 2]))
where
    Looks: Future<Output = [Look; 2]>,
{
    let mut rounds = interval(EVERY);
    rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        rounds.tick().await;
        take(look().await);
    }
}

/// With two misses and the dial's patience of 2 s, missing rules show within 12 s; design 10 promises 15.
const EVERY: Duration = Duration::from_secs(5);
/// One may be a lost packet of a busy machine; two in a row are not.
const MISSES: u32 = 2;

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use tokio::time::{Instant, sleep};

    use super::*;
    use Look::{Landed, Missed, NoFamily};

    fn after(rounds: &[[Look; 2]]) -> bool {
        let canary = Canary { process: Process::new(), seen: Mutex::default(), ok: Gauge::default() };
        rounds.iter().for_each(|looks| canary.take(*looks));
        assert_eq!(canary.ok.get() == 1, canary.fault().is_none());
        canary.fault().is_none()
    }

    #[test]
    fn two_misses_in_a_row_make_it_unready_and_one_landing_ready_again() {
        let (good, bad) = ([Landed, Landed], [Missed, Missed]);
        for (case, rounds, ready) in [
            ("nothing seen yet", &[][..], false),
            ("first round", &[good], true),
            ("first round missed: was never captured", &[bad], false),
            ("... and captured late", &[bad, good], true),
            ("one miss", &[good, bad], true),
            ("two misses", &[good, bad, bad], false),
            ("misses that are not in a row", &[good, bad, good, bad], true),
            ("healed", &[good, bad, bad, bad, good], true),
            ("healed, and one miss", &[bad, bad, good, bad], true),
        ] {
            assert_eq!(after(rounds), ready, "{case}");
        }
    }

    #[test]
    fn a_family_without_a_route_does_not_count_unless_both_lack() {
        for (looks, landed) in [
            ([Landed, NoFamily], true),
            ([NoFamily, Landed], true),
            ([Missed, NoFamily], false),
            ([Missed, Landed], false),
            ([Landed, Missed], false),
            ([NoFamily, NoFamily], false),
        ] {
            assert_eq!(after(&[[Landed, Landed], looks, looks]), landed, "{looks:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn missing_rules_show_within_15_s_at_the_worst_moment_and_heal_with_the_next_round() {
        let canary = Canary { process: Process::new(), seen: Mutex::default(), ok: Gauge::default() };
        let (begun, there) = (Instant::now(), Cell::new(true));
        let dial = || async {
            if there.get() {
                return [Landed, Landed];
            }
            sleep(Duration::from_secs(2)).await; // the dial's patience
            [Missed, Missed]
        };
        let rounds = watch(dial, |looks| canary.take(looks));
        let story = async {
            sleep(Duration::from_millis(20_001)).await; // just behind a round that landed
            assert_eq!(canary.fault(), None);
            there.set(false);
            let lost = Instant::now();
            while canary.fault().is_none() {
                sleep(Duration::from_millis(100)).await;
            }
            assert!(lost.elapsed() < Duration::from_secs(15), "{:?}", lost.elapsed());
            there.set(true);
            let healed = Instant::now();
            while canary.fault().is_some() {
                sleep(Duration::from_millis(100)).await;
            }
            assert!(healed.elapsed() <= EVERY, "{:?}", healed.elapsed());
        };
        tokio::select! {
            () = rounds => unreachable!("it never ends"),
            () = story => {}
        }
        assert!(begun.elapsed() > Duration::from_secs(30));
    }
}
