//! Which endpoint takes a request: the one of two random ones that would answer sooner, as far as we know.
//!
//! What is known of an endpoint is its member's, and members live on over snapshots for as long as their backend lists them:
//! so do their pools, their latency and their place among the ejected.

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::time::Instant;

use crate::{
    limits::UpstreamLimits,
    model::{Backend, Choice, Endpoint, Protocol},
    retry::Budget,
    upstream::pool::Pool,
};

/// The backends of a snapshot.
#[derive(Default)]
pub(crate) struct Upstreams {
    by_name: HashMap<Arc<str>, Arc<Upstream>>,
}

/// One backend.
pub(crate) struct Upstream {
    pub(crate) backend: Arc<Backend>,
    members: Vec<Arc<Member>>,
    pub(crate) budget: Arc<Budget>,
}

/// One endpoint of one backend.
pub(crate) struct Member {
    pub(crate) endpoint: Endpoint,
    pub(crate) protocol: Protocol,
    pub(crate) pool: Arc<Pool>,
    /// Requests that it has and has not finished.
    outstanding: AtomicU32,
    known: Mutex<Known>,
}

struct Known {
    /// Seconds until an answer's head: what came lately, and worse as soon as it is worse.
    latency: f64,
    at: Instant,
    /// Connect failures in a row.
    failures: u32,
    ejected_until: Option<Instant>,
}

impl Upstreams {
    /// The backends as they are now. What was known of an endpoint that is still there stays.
    pub(crate) fn new(backends: &[Arc<Backend>], before: &Self, limits: &UpstreamLimits) -> Self {
        let build = |backend: &Arc<Backend>| {
            let old = before.by_name.get(&backend.name);
            if let Some(old) = old
                && old.backend == *backend
            {
                return Arc::clone(old);
            }
            let known: HashMap<&Endpoint, &Arc<Member>> =
                old.iter().flat_map(|old| &old.members).map(|member| (&member.endpoint, member)).collect();
            let members = backend.endpoints.iter().map(|endpoint| match known.get(endpoint) {
                Some(member) if member.protocol == backend.protocol => Arc::clone(member),
                _ => Arc::new(Member::new(endpoint.clone(), backend.protocol)),
            });
            Arc::new(Upstream {
                backend: Arc::clone(backend),
                members: members.collect(),
                budget: old.map_or_else(|| Arc::new(Budget::new(limits)), |old| Arc::clone(&old.budget)),
            })
        };
        Self { by_name: backends.iter().map(|b| (Arc::clone(&b.name), build(b))).collect() }
    }

    pub(crate) fn find(&self, name: &str) -> Option<&Arc<Upstream>> {
        self.by_name.get(name)
    }

    pub(crate) fn members(&self) -> impl Iterator<Item = &Arc<Member>> {
        self.by_name.values().flat_map(|upstream| &upstream.members)
    }
}

impl Upstream {
    /// An endpoint for a request of `client`, rather not one of `tried`, nor an ejected one; `None` if there is none at all.
    /// `random` gives an index below its argument.
    pub(crate) fn pick(
        &self,
        client: IpAddr,
        tried: &[Arc<Member>],
        mut random: impl FnMut(usize) -> usize,
    ) -> Option<&Arc<Member>> {
        let now = Instant::now();
        let is_new = |member: &Arc<Member>| !tried.iter().any(|t| Arc::ptr_eq(t, member));
        let is_good = |member: &Arc<Member>| is_new(member) && !member.is_ejected(now);
        if self.backend.choice == Choice::ClientIp {
            let sticky = sticky(client, &self.members, &is_good);
            return sticky.or_else(|| sticky_or_any(client, &self.members, &is_new));
        }
        let members = &self.members;
        match members.len() {
            0 => return None,
            1 => return members.first(),
            _ => {}
        }
        for _ in 0..PAIRS {
            let first = random(members.len());
            let second = (first + 1 + random(members.len() - 1)) % members.len(); // another one, uniformly
            match (is_good(&members[first]), is_good(&members[second])) {
                (true, true) => {
                    let quicker = members[second].cost(now) < members[first].cost(now);
                    return members.get(if quicker { second } else { first });
                }
                (true, false) => return members.get(first),
                (false, true) => return members.get(second),
                (false, false) => {}
            }
        }
        // Few are good: look at all, from a random one on. None is: one that was not tried, or any.
        let from = random(members.len());
        let all = || members[from..].iter().chain(&members[..from]);
        all().find(|m| is_good(m)).or_else(|| all().find(|m| is_new(m))).or_else(|| members.get(from))
    }
}

/// The member that a client always gets, and that the fewest clients change when members come and go (rendezvous hashing).
fn sticky<'a>(
    client: IpAddr,
    members: &'a [Arc<Member>],
    allowed: &dyn Fn(&Arc<Member>) -> bool,
) -> Option<&'a Arc<Member>> {
    members.iter().filter(|member| allowed(member)).max_by_key(|member| {
        let mut hasher = DefaultHasher::new();
        (client, member.endpoint.address).hash(&mut hasher);
        hasher.finish()
    })
}

fn sticky_or_any<'a>(
    client: IpAddr,
    members: &'a [Arc<Member>],
    allowed: &dyn Fn(&Arc<Member>) -> bool,
) -> Option<&'a Arc<Member>> {
    sticky(client, members, allowed).or_else(|| sticky(client, members, &|_| true))
}

impl Member {
    fn new(endpoint: Endpoint, protocol: Protocol) -> Self {
        let known = Known {
            latency: UNKNOWN_LATENCY.as_secs_f64(),
            at: Instant::now(),
            failures: 0,
            ejected_until: None,
        };
        Self {
            endpoint,
            protocol,
            pool: Arc::new(Pool::default()),
            outstanding: AtomicU32::new(0),
            known: Mutex::new(known),
        }
    }

    /// Counts a request until the result is dropped.
    pub(crate) fn load(self: &Arc<Self>) -> Load {
        self.outstanding.fetch_add(1, Relaxed);
        Load(Arc::clone(self))
    }

    /// Seconds that a request would wait, roughly.
    fn cost(&self, now: Instant) -> f64 {
        let known = self.lock();
        known.latency_at(now) * f64::from(self.outstanding.load(Relaxed) + 1)
    }

    /// An answer's head came after `took`.
    pub(crate) fn answered(&self, took: Duration) {
        let now = Instant::now();
        let mut known = self.lock();
        let (before, sample) = (known.latency_at(now), took.as_secs_f64());
        // A worse answer counts at once, better ones little by little: decay does the rest.
        known.latency = if sample > before { sample } else { before + (sample - before) * GAIN };
        known.at = now;
    }

    /// It took a connection.
    pub(crate) fn connected(&self) {
        let mut known = self.lock();
        (known.failures, known.ejected_until) = (0, None);
    }

    /// It did not. After enough of these it is out for a while, and for longer each time.
    pub(crate) fn failed(&self, limits: &UpstreamLimits) {
        let mut known = self.lock();
        known.failures = known.failures.saturating_add(1);
        if let Some(times) = known.failures.checked_sub(limits.eject_after) {
            let out = limits.eject.saturating_mul(1 << times.min(16)).min(limits.eject_max);
            known.ejected_until = Some(Instant::now() + out);
        }
    }

    fn is_ejected(&self, now: Instant) -> bool {
        self.lock().ejected_until.is_some_and(|until| now < until)
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    /// Old news count less: back to what is taken of a stranger.
    fn latency_at(&self, now: Instant) -> f64 {
        let age = now.saturating_duration_since(self.at).as_secs_f64() / DECAY.as_secs_f64();
        let unknown = UNKNOWN_LATENCY.as_secs_f64();
        unknown + (self.latency - unknown) * (-age).exp()
    }
}

/// A request that a member has.
pub(crate) struct Load(Arc<Member>);

impl Drop for Load {
    fn drop(&mut self) {
        self.0.outstanding.fetch_sub(1, Relaxed);
    }
}

/// Of an endpoint that has not answered yet: quick enough to be tried, slow enough not to get everything at once. A guess.
const UNKNOWN_LATENCY: Duration = Duration::from_millis(5);
/// After this long a latency counts for a third: Finagle's and Linkerd's peak EWMA take 10 s.
const DECAY: Duration = Duration::from_secs(10);
/// Of a better answer in what is known.
const GAIN: f64 = 0.1;
/// Random pairs that are looked at before all members are.
const PAIRS: usize = 3;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{limits::Limits, model::Security};

    fn backend(name: &str, ports: &[u16]) -> Arc<Backend> {
        let endpoint =
            |port: &u16| Endpoint { address: ([198, 18, 0, 1], *port).into(), security: Security::Plain };
        Arc::new(Backend {
            name: name.into(),
            protocol: Protocol::Http1,
            choice: Choice::Quicker,
            endpoints: ports.iter().map(endpoint).collect(),
        })
    }

    fn upstreams(ports: &[u16], before: &Upstreams) -> Upstreams {
        Upstreams::new(&[backend("a", ports)], before, &Limits::default().upstream)
    }

    const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(198, 18, 9, 9));

    fn share(upstream: &Upstream, port: u16) -> usize {
        let mut random = fastrand::Rng::with_seed(7);
        (0..1000)
            .filter(|_| {
                upstream.pick(CLIENT, &[], |n| random.usize(..n)).unwrap().endpoint.address.port() == port
            })
            .count()
    }

    #[tokio::test(start_paused = true)]
    async fn the_quicker_and_less_busy_one_gets_the_request_and_old_news_fade() {
        let upstreams = upstreams(&[1, 2], &Upstreams::default());
        let upstream = upstreams.find("a").unwrap();
        assert!((400..600).contains(&share(upstream, 1)));
        upstream.members[0].answered(Duration::from_millis(200));
        assert_eq!(share(upstream, 1), 0);
        let busy: Vec<_> = (0..50).map(|_| upstream.members[1].load()).collect();
        assert_eq!(share(upstream, 1), 1000);
        drop(busy);
        tokio::time::advance(Duration::from_secs(120)).await;
        assert!(upstream.members[0].cost(Instant::now()) < 0.006);
    }

    #[tokio::test(start_paused = true)]
    async fn an_endpoint_that_takes_no_connections_is_out_for_longer_each_time_but_never_the_last_one() {
        let limits = Limits::default().upstream;
        let upstreams = upstreams(&[1, 2], &Upstreams::default());
        let upstream = upstreams.find("a").unwrap();
        for _ in 0..limits.eject_after {
            assert!(share(upstream, 1) > 0);
            upstream.members[0].failed(&limits);
        }
        assert_eq!(share(upstream, 1), 0);
        tokio::time::advance(limits.eject).await;
        assert!(share(upstream, 1) > 0, "it is tried again");
        upstream.members[0].failed(&limits);
        tokio::time::advance(limits.eject).await;
        assert_eq!(share(upstream, 1), 0, "out for longer");
        for _ in 0..limits.eject_after {
            upstream.members[1].failed(&limits);
        }
        assert!(share(upstream, 1) > 0 && share(upstream, 2) > 0, "nobody is left: everybody is");
        upstream.members[0].connected();
        assert_eq!(share(upstream, 1), 1000);
    }

    #[tokio::test]
    async fn a_retry_goes_elsewhere_if_there_is_an_elsewhere() {
        let upstreams = upstreams(&[1, 2, 3], &Upstreams::default());
        let upstream = upstreams.find("a").unwrap();
        let mut tried = Vec::new();
        for _ in 0..3 {
            let member = upstream.pick(CLIENT, &tried, |n| fastrand::usize(..n)).unwrap();
            assert!(!tried.iter().any(|t| Arc::ptr_eq(t, member)));
            tried.push(Arc::clone(member));
        }
        assert!(upstream.pick(CLIENT, &tried, |n| fastrand::usize(..n)).is_some());
        assert!(
            Upstreams::new(&[backend("b", &[])], &Upstreams::default(), &Limits::default().upstream)
                .find("b")
                .unwrap()
                .pick(CLIENT, &[], |_| 0)
                .is_none()
        );
    }

    #[tokio::test]
    async fn what_is_known_of_an_endpoint_outlives_the_snapshot() {
        let first = upstreams(&[1, 2], &Upstreams::default());
        let second = upstreams(&[2, 3], &first);
        let (old, new) = (first.find("a").unwrap(), second.find("a").unwrap());
        assert!(Arc::ptr_eq(&old.members[1], &new.members[0]));
        assert!(Arc::ptr_eq(&old.budget, &new.budget));
        assert!(Arc::ptr_eq(new, upstreams(&[2, 3], &second).find("a").unwrap()));
    }
}
