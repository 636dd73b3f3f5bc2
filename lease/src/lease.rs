//! The Lease that says which replica takes steps: of the CA, a rotation's and publication; of edge, whatever is written. It saves
//! work and log lines, no more: that a step happens once is the state's own doing.
//!
//! Nobody's wall clock is compared with another's: a Lease that has not changed for its whole duration, as we saw it, is free;
//! ours is over [`MARGIN`] before others may think so.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use k8s_openapi::{
    api::coordination::v1::{Lease as Object, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::MicroTime,
    jiff::Timestamp,
};
use kube::{
    Api, Client,
    api::{ObjectMeta, PostParams},
};
use signet_core::identity::SYSTEM_NAMESPACE;
use tokio::time::sleep;
use tracing::{debug, info, warn};

use crate::{NoAnswer, call, clock::Clock, labels};

/// Our part in it.
pub struct Lease {
    api: Api<Object>,
    /// "ca": the Lease is then "signet-ca".
    part: &'static str,
    name: String,
    /// The pod's name.
    us: String,
    running: Clock,
    wall: Clock,
    /// By the running clock: the first second at which it is no longer ours.
    until: AtomicI64,
    seen: Mutex<Seen>,
}

/// The Lease as we last saw it change.
#[derive(Default)]
struct Seen {
    holder: String,
    version: Option<String>,
    at: i64,
}

impl Lease {
    pub fn new(client: Client, part: &'static str, us: String, running: Clock, wall: Clock) -> Arc<Self> {
        let (api, until) = (Api::namespaced(client, SYSTEM_NAMESPACE), AtomicI64::new(i64::MIN));
        let name = format!("signet-{part}");
        Arc::new(Self { api, part, name, us, running, wall, until, seen: Mutex::default() })
    }

    /// Whether the next step is ours. A step takes less than [`MARGIN`], by the time that each call has.
    pub fn is_held(&self) -> bool {
        (self.running)() < self.until.load(Ordering::Relaxed)
    }

    /// Who holds it, as we last saw; "": nobody.
    pub fn holder(&self) -> String {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).holder.clone()
    }

    pub fn us(&self) -> &str {
        &self.us
    }

    /// Acquires and renews, until it is dropped.
    pub async fn run(&self) {
        loop {
            let held = self.is_held();
            match self.turn().await {
                Ok(()) if held != self.is_held() => {
                    info!(holder = %self.holder(), ours = self.is_held(), "the Lease has another holder");
                }
                Ok(()) => {}
                Err(error) => warn!(%error, "the Lease could not be renewed; its steps wait for who can"),
            }
            sleep(EVERY).await;
        }
    }

    /// Takes the Lease where it is free, renews it where it is ours.
    pub async fn turn(&self) -> Result<(), NoAnswer> {
        let began = (self.running)();
        let found = call(self.api.get_opt(&self.name)).await?;
        let written = match found {
            None => call(self.api.create(&self.params(), &self.object(None))).await,
            Some(object) if self.may_take(&object) => {
                call(self.api.replace(&self.name, &self.params(), &self.object(Some(object)))).await
            }
            Some(_) => {
                self.until.store(i64::MIN, Ordering::Relaxed);
                return Ok(());
            }
        };
        match written {
            Ok(object) => {
                self.see(&object);
                self.until.store(began + DURATION - MARGIN, Ordering::Relaxed);
                Ok(())
            }
            Err(error) if error.is_conflict() => {
                debug!("another replica took the Lease first");
                self.until.store(i64::MIN, Ordering::Relaxed);
                Ok(())
            }
            Err(error) => Err(error), // what is left of it runs out
        }
    }

    /// Gives it back, so that another replica need not wait for its end. No step begins after this.
    pub async fn release(&self) {
        if !self.is_held() {
            return;
        }
        self.until.store(i64::MIN, Ordering::Relaxed);
        let Ok(Some(mut object)) = call(self.api.get_opt(&self.name)).await else { return };
        let spec = object.spec.get_or_insert_default();
        if spec.holder_identity.as_deref() == Some(&*self.us) {
            spec.holder_identity = Some(String::new());
            if let Err(error) = call(self.api.replace(&self.name, &self.params(), &object)).await {
                debug!(%error, "the Lease was not given back; it runs out");
            }
        }
    }

    fn may_take(&self, object: &Object) -> bool {
        self.see(object);
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let named = object.spec.as_ref().and_then(|spec| spec.lease_duration_seconds);
        let duration = named.map_or(DURATION, i64::from).clamp(1, LONGEST);
        seen.holder == self.us || seen.holder.is_empty() || (self.running)() - seen.at > duration
    }

    fn see(&self, object: &Object) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.version != object.metadata.resource_version {
            let holder = object.spec.as_ref().and_then(|spec| spec.holder_identity.clone());
            let version = object.metadata.resource_version.clone();
            *seen = Seen { holder: holder.unwrap_or_default(), version, at: (self.running)() };
        }
    }

    /// The Lease as ours, over what was found.
    fn object(&self, found: Option<Object>) -> Object {
        let now = Timestamp::from_second((self.wall)()).ok().map(MicroTime);
        let mut object = found.unwrap_or_else(|| Object {
            metadata: ObjectMeta {
                name: Some(self.name.clone()),
                labels: Some(labels(self.part)),
                ..ObjectMeta::default()
            },
            ..Object::default()
        });
        let before = object.spec.take().unwrap_or_default();
        let ours = before.holder_identity.as_deref() == Some(&*self.us);
        object.spec = Some(LeaseSpec {
            holder_identity: Some(self.us.clone()),
            lease_duration_seconds: i32::try_from(DURATION).ok(),
            acquire_time: if ours { before.acquire_time } else { now.clone() },
            renew_time: now,
            lease_transitions: Some(before.lease_transitions.unwrap_or(0) + i32::from(!ours)),
            ..LeaseSpec::default()
        });
        object
    }

    fn params(&self) -> PostParams {
        PostParams { field_manager: Some(self.name.clone()), ..PostParams::default() }
    }
}

/// Seconds after its last renewal at which others may take it.
const DURATION: i64 = 15;
/// Seconds by which we stop before that: a call of the API server has 5 s ([`call`]).
const MARGIN: i64 = 5;
/// Three tries fit into a duration.
const EVERY: Duration = Duration::from_secs(5);
/// What someone else may claim, seconds: a Lease of a year would be no Lease.
const LONGEST: i64 = 60;

#[cfg(all(test, feature = "double"))]
mod tests {
    use super::*;
    use crate::double::{Double, Fault};

    const PATH: &str = "/apis/coordination.k8s.io/v1/namespaces/signet-system/leases/signet-ca";

    /// Two replicas and one running clock.
    struct World {
        api: Double,
        now: Arc<AtomicI64>,
        a: Arc<Lease>,
        b: Arc<Lease>,
    }

    fn world() -> World {
        let (api, now) = (Double::default(), Arc::new(AtomicI64::new(1000)));
        let lease = |us: &str| {
            let running = Arc::clone(&now);
            let running: Clock = Arc::new(move || running.load(Ordering::SeqCst));
            Lease::new(api.client(), "ca", us.into(), running, Arc::new(|| 1_800_000_000))
        };
        let (a, b) = (lease("a"), lease("b"));
        World { api, now, a, b }
    }

    impl World {
        fn pass(&self, seconds: i64) {
            self.now.fetch_add(seconds, Ordering::SeqCst);
        }
        fn held(&self) -> (bool, bool) {
            (self.a.is_held(), self.b.is_held())
        }
    }

    #[tokio::test]
    async fn one_holds_it_while_it_renews_and_the_other_takes_over_only_after_its_end() {
        let world = world();
        for _ in 0..5 {
            world.a.turn().await.unwrap();
            world.b.turn().await.unwrap();
            assert_eq!(world.held(), (true, false));
            world.pass(5);
        }
        world.a.turn().await.unwrap();
        world.b.turn().await.unwrap();
        let (mut ended, mut taken) = (None, None);
        for second in 1..30 {
            world.pass(1);
            world.b.turn().await.unwrap();
            let (a, b) = world.held();
            ended = ended.or((!a).then_some(second));
            taken = taken.or(b.then_some(second));
        }
        assert_eq!((ended, taken), (Some(10), Some(16)), "five seconds of nobody, never two");
        world.a.turn().await.unwrap();
        assert_eq!((world.held(), world.a.holder()), ((false, true), "b".into()));
        assert_eq!(world.api.get(PATH).unwrap()["spec"]["leaseTransitions"], 2);
    }

    #[tokio::test]
    async fn who_goes_gives_it_back() {
        let world = world();
        world.a.turn().await.unwrap();
        world.b.turn().await.unwrap();
        world.a.release().await;
        assert_eq!(world.held(), (false, false));
        world.b.turn().await.unwrap();
        assert_eq!(world.held(), (false, true));
        world.a.release().await; // it is not ours to give
        assert_eq!(world.api.get(PATH).unwrap()["spec"]["holderIdentity"], "b");
    }

    #[tokio::test(start_paused = true)]
    async fn who_cannot_renew_holds_it_until_its_margin_and_no_longer() {
        for fault in [Fault::Hang, Fault::Status(500)] {
            let world = world();
            world.a.turn().await.unwrap();
            world.api.fault("", PATH, fault);
            world.pass(9);
            world.a.turn().await.unwrap_err();
            assert!(world.a.is_held());
            world.pass(1);
            assert!(!world.a.is_held());
        }
    }

    #[tokio::test]
    async fn of_two_that_take_a_free_one_together_one_has_it() {
        let world = world();
        world.a.turn().await.unwrap();
        world.a.release().await;
        world.api.touch_before_next_write(PATH);
        world.b.turn().await.unwrap();
        assert_eq!(world.held(), (false, false), "somebody else wrote in between");
        world.b.turn().await.unwrap();
        assert!(world.b.is_held());
    }
}
