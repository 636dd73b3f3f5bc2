//! Whatever a client sends, a real origin sees the requests that the gateway logged and no others: nginx, gunicorn and node
//! behind one gateway (security-perf.md A1, T13 to T15).
//!
//! The law, for every request that anyone saw: the origin's line and the access log's have one id, method and target, and the
//! body is as long as was logged; what was refused never came to its end at an origin.

mod http1;
mod http2;
mod upgrades;

use std::{collections::HashMap, sync::Arc};

use signet_http::model::Security;
use signet_tests::{
    eventually::{SOON, eventually},
    gateway::{Access, Edge, backend, certificate, route},
    origins::{self, Origin, Seen},
    unprivileged::Unprivileged,
};
use tokio::sync::Semaphore;

/// One gateway, and the origins behind it, each at a host of its own.
struct Stage {
    edge: Edge,
    origins: Vec<Origin>,
    _user: Unprivileged,
}

impl Stage {
    async fn set() -> Self {
        let edge = Edge::start(|world, web, network| {
            for (name, number) in NAMES.into_iter().zip(1..) {
                let (host, backend_name) = (host(name), format!("shop/{name}:80"));
                let at = (network.address(2, number), 8000).into();
                world.backend(&backend(&backend_name, at, Security::Plain));
                world.route(&route(&host, &backend_name));
                world.certificate(&certificate(web, &format!("shop/{name}"), &[&host]));
            }
        })
        .await;
        let user = Unprivileged::of_others().expect("a home");
        let at = |number| (edge.network.address(2, number), 8000).into();
        let origins = vec![
            origins::nginx(&user, at(1)).await.expect("nginx"),
            origins::gunicorn(&user, at(2)).await.expect("gunicorn"),
            origins::node(&user, at(3)).await.expect("node"),
        ];
        Self { edge, origins, _user: user }
    }

    /// Waits until every request that was passed on has a line on both sides, then holds the two against each other. Returns how
    /// many came to their end at each origin.
    async fn balances(&self) -> Vec<usize> {
        let mut whole = Vec::new();
        for origin in &self.origins {
            let at = self.edge.network.address(2, number(origin.name)).to_string();
            let passed =
                |access: &Access| access.endpoint.as_ref().is_some_and(|e| *e == format!("{at}:8000"));
            // Each writes its line when it has answered, or a moment later.
            let words = format!("{} to have seen what was logged", origin.name);
            let (seen, logged) = eventually(&words, SOON, async || {
                let seen = origin.seen();
                let logged: Vec<Access> = self.edge.gateway.accesses().into_iter().filter(passed).collect();
                let served = logged.iter().filter(|access| access.reason == "ok").count();
                (seen.iter().filter(|seen| seen.whole).count() == served).then_some((seen, logged))
            })
            .await;
            balance(origin.name, &seen, &logged);
            whole.push(seen.iter().filter(|seen| seen.whole).count());
        }
        whole
    }

    /// What an origin saw below `path`, which is one vector's.
    fn seen_below(&self, origin: &str, path: &str) -> Vec<Seen> {
        let origin = self.origins.iter().find(|o| o.name == origin).expect("one of the three");
        origin.seen().into_iter().filter(|seen| seen.target.starts_with(path)).collect()
    }
}

fn balance(origin: &str, seen: &[Seen], logged: &[Access]) {
    let mut lines: HashMap<&str, &Access> = HashMap::new();
    for access in logged {
        assert_eq!(access.tries, 1, "{origin}: {access:?}");
        assert!(lines.insert(&access.request_id, access).is_none(), "{origin}: two lines of {access:?}");
    }
    for seen in seen {
        let Some(access) = lines.remove(&*seen.id) else {
            panic!("{origin} saw what nobody logged, or saw it twice: {seen:?}");
        };
        let path = seen.target.split('?').next().unwrap_or_default();
        assert_eq!((&*access.method, &*access.path), (&*seen.method, path), "{origin}");
        assert_eq!(seen.whole, access.reason == "ok", "{origin}: {seen:?}\n{access:?}");
        let length = seen.body.chars().count() as u64; // Latin-1
        assert!(!seen.whole || access.received == length, "{origin}: {seen:?}\n{access:?}");
    }
    // What is left was refused before its head was all at the origin.
    for access in lines.values() {
        assert_ne!(access.reason, "ok", "{origin} did not see {access:?}");
    }
}

fn host(origin: &str) -> String {
    format!("{origin}.example.com")
}

fn number(origin: &str) -> u8 {
    NAMES.into_iter().zip(1..).find(|(name, _)| *name == origin).map_or(0, |(_, number)| number)
}

/// Runs `each` for every origin and vector, several at once, and waits for all. `each`: origin, the vector's place.
async fn all<F: Future<Output = ()> + Send + 'static>(
    stage: &Arc<Stage>,
    vectors: usize,
    each: impl Fn(Arc<Stage>, &'static str, usize) -> F,
) {
    let places = Arc::new(Semaphore::new(AT_ONCE));
    let mut running = tokio::task::JoinSet::new();
    for origin in NAMES {
        for vector in 0..vectors {
            let (places, one) = (Arc::clone(&places), each(Arc::clone(stage), origin, vector));
            running.spawn(async move {
                let _place = places.acquire_owned().await;
                one.await;
            });
        }
    }
    let mut failed = 0;
    while let Some(ended) = running.join_next().await {
        failed += usize::from(ended.is_err()); // which said why
    }
    assert_eq!(failed, 0, "vectors that went wrong, see above");
}

const NAMES: [&str; 3] = ["nginx", "gunicorn", "node"];
/// Enough to be quick; below what one client may have.
const AT_ONCE: usize = 24;
