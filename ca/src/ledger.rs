//! Every decision of the CA, counted and written. Refusals of strangers are written within a budget: a flood of them must
//! not fill the disk, so beyond it they are counted, and one line says how many.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
};

use signet_core::identity::SpiffeId;
use tracing::debug;

use crate::{
    audit::{Audit, CannotAudit, Line},
    authority::Granted,
    callers::{Pod, Via},
    clock::Clock,
    csr::Ignored,
    metrics::CaMetrics,
    refusal::Refusal,
    serving::ServingName,
};

/// Shared by everyone who decides.
pub(crate) struct Ledger {
    audit: Audit,
    metrics: Arc<CaMetrics>,
    clock: Clock,
    budget: Mutex<Budget>,
}

/// What is known of a request when it is decided.
#[derive(Clone, Debug, Default)]
pub(crate) struct About {
    pub source: Option<SocketAddr>,
    pub id: Option<SpiffeId>,
    pub via: Option<Via>,
    pub pod: Option<Pod>,
    pub serving: Option<ServingName>,
    pub key_hash: Option<String>,
    pub ignored: Vec<Ignored>,
}

impl Ledger {
    pub(crate) fn new(audit: Audit, metrics: Arc<CaMetrics>, clock: Clock) -> Self {
        Self { audit, metrics, clock, budget: Mutex::default() }
    }

    /// Writes that a certificate is issued. On an error it must not be handed out.
    pub(crate) async fn issued(&self, about: &About, granted: &Granted) -> Result<(), CannotAudit> {
        let line = Line {
            decision: "issued",
            serial: Some(&granted.serial),
            not_after: Some(rfc3339(granted.not_after)),
            ..self.line(about)
        };
        self.audit.record(&line).await?;
        self.metrics.issued(about.via);
        Ok(())
    }

    /// Counts a refusal, and writes it while its source has not used up its budget. It stays refused if that fails.
    pub(crate) async fn refused(&self, about: &About, refusal: &Refusal) {
        self.metrics.refused(refusal.reason());
        debug!(source = ?about.source, reason = refusal.reason(), why = %refusal, "certificate refused");
        let source = about.source.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |source| source.ip());
        let verdict = self.budget.lock().unwrap_or_else(PoisonError::into_inner).take(source, (self.clock)());
        self.summarise(verdict.owed).await;
        if verdict.write {
            let line = Line {
                decision: "refused",
                reason: Some(refusal.reason()),
                why: Some(refusal.to_string()),
                ..self.line(about)
            };
            let _ = self.audit.record(&line).await; // the writer's thread has said why; refused it is either way
        }
    }

    /// Writes the counts of finished windows; called every now and then, so that a flood that stopped is accounted for.
    pub(crate) async fn settle(&self) {
        let owed = self.budget.lock().unwrap_or_else(PoisonError::into_inner).settle((self.clock)());
        self.summarise(owed).await;
    }

    async fn summarise(&self, owed: Vec<(IpAddr, u64)>) {
        let nobody = About::default();
        for (source, count) in owed {
            let line = Line {
                decision: "refused",
                reason: Some("suppressed"),
                why: Some(format!(
                    "refusals of {source} that were counted and not written, within {WINDOW} s"
                )),
                source: Some(SocketAddr::new(source, 0)),
                count: Some(count),
                ..self.line(&nobody)
            };
            let _ = self.audit.record(&line).await;
        }
    }

    fn line<'a>(&self, about: &'a About) -> Line<'a> {
        Line {
            time: rfc3339((self.clock)()),
            id: about.id.as_ref().map(ToString::to_string),
            via: about.via,
            source: about.source,
            pod: about.pod.as_ref().map(|pod| &*pod.name),
            pod_uid: about.pod.as_ref().map(|pod| &*pod.uid),
            serving: about.serving.map(ServingName::as_str),
            key_hash: about.key_hash.as_deref(),
            ignored: &about.ignored,
            ..Line::default()
        }
    }
}

/// Unix seconds as people and other tools read them; the seconds themselves where no calendar has them.
pub(crate) fn rfc3339(seconds: i64) -> String {
    signet_core::clock::rfc3339(seconds).unwrap_or_else(|| seconds.to_string())
}

/// Lines that each source may still cause in its window.
#[derive(Default)]
struct Budget {
    windows: HashMap<IpAddr, Window>,
    all: Window,
}

#[derive(Clone, Copy, Default)]
struct Window {
    began: i64,
    written: u32,
    suppressed: u64,
}

struct Verdict {
    write: bool,
    /// Summaries of windows that have ended.
    owed: Vec<(IpAddr, u64)>,
}

impl Budget {
    fn take(&mut self, source: IpAddr, now: i64) -> Verdict {
        let owed = self.settle(now);
        // A flood from more addresses than we count shares one window.
        let known = self.windows.len() < MOST_SOURCES || self.windows.contains_key(&source);
        let source = if known { source } else { IpAddr::V4(Ipv4Addr::UNSPECIFIED) };
        if now - self.all.began >= WINDOW {
            self.all = Window { began: now, ..Window::default() };
        }
        let window = self.windows.entry(source).or_insert(Window { began: now, ..Window::default() });
        let write = window.written < PER_SOURCE && self.all.written < IN_ALL;
        if write {
            window.written += 1;
            self.all.written += 1;
        } else {
            window.suppressed += 1;
        }
        Verdict { write, owed }
    }

    fn settle(&mut self, now: i64) -> Vec<(IpAddr, u64)> {
        let ended = self.windows.extract_if(|_, window| now - window.began >= WINDOW);
        let mut owed = Vec::new();
        let mut beyond = 0;
        for (source, window) in ended.filter(|(_, window)| window.suppressed > 0) {
            if owed.len() < SUMMARIES {
                owed.push((source, window.suppressed));
            } else {
                beyond += window.suppressed;
            }
        }
        if beyond > 0 {
            owed.push((IpAddr::V4(Ipv4Addr::UNSPECIFIED), beyond)); // 0.0.0.0: all others together
        }
        owed
    }
}

/// Seconds.
const WINDOW: i64 = 60;
/// Lines per source and window: a misconfigured workload shows itself, with every retry of `schedule::retry_after`.
const PER_SOURCE: u32 = 20;
/// Lines per window from all sources: at some 400 bytes each, at most 120 MB a day.
const IN_ALL: u32 = 200;
/// Sources counted one by one; 64 kB.
const MOST_SOURCES: usize = 1024;
/// Summary lines per settling.
const SUMMARIES: usize = 20;

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_800_000_000;

    fn source(n: u32) -> IpAddr {
        Ipv4Addr::from(0xc612_0000 + n).into()
    }

    #[test]
    fn a_flood_of_one_source_is_written_a_little_and_counted_in_full() {
        let mut budget = Budget::default();
        let written = (0..10_000).filter(|_| budget.take(source(1), NOW).write).count();
        assert_eq!(written, 20);
        assert!(budget.take(source(2), NOW).write, "others are still heard");
        let next = budget.take(source(1), NOW + 60);
        assert!(next.write);
        assert_eq!(next.owed, [(source(1), 9_980)]);
    }

    #[test]
    fn a_flood_of_many_sources_is_bounded_in_lines_and_memory_and_no_refusal_goes_uncounted() {
        let mut budget = Budget::default();
        let written = (0..50_000).filter(|n| budget.take(source(*n), NOW).write).count() as u64;
        assert_eq!(written, 200);
        assert!(budget.windows.len() <= MOST_SOURCES + 1);
        let owed = budget.settle(NOW + 60);
        assert!(owed.len() <= SUMMARIES + 1);
        assert_eq!(written + owed.iter().map(|(_, count)| count).sum::<u64>(), 50_000);
        assert!(budget.windows.is_empty());
    }

    #[test]
    fn a_flood_that_stopped_is_settled_without_another_refusal() {
        let mut budget = Budget::default();
        for _ in 0..25 {
            budget.take(source(1), NOW);
        }
        assert_eq!(budget.settle(NOW + 59), []);
        assert_eq!(budget.settle(NOW + 60), [(source(1), 5)]);
        assert_eq!(budget.settle(NOW + 60), []);
    }
}
