#![expect(
    clippy::large_futures,
    reason = "the bound is for connections of the product; a test waits with one future"
)]

use std::{
    collections::HashMap,
    sync::{
        Mutex,
        atomic::{AtomicI64, AtomicUsize, Ordering},
    },
};

use tokio::sync::Notify;

use super::*;
use crate::{
    account::AccountRecord,
    names::NameSet,
    plan::{Tellings, plan},
    solver::{Missing, Seen},
    store::Loaded,
};
use fake_ca::{FakeCa, Trick, Wrong, said};

mod fake_ca;
mod hostile;
mod killed;
mod orders;

pub(crate) const START: i64 = 1_800_000_000;

/// Records and accounts in memory, which dies at a chosen write: before it, or after.
#[derive(Default)]
pub(crate) struct Memory {
    records: Mutex<HashMap<String, Vec<u8>>>,
    accounts: Mutex<HashMap<String, Vec<u8>>>,
    writes: AtomicUsize,
    dies_at: Mutex<Option<(usize, bool)>>,
    died: Notify,
}

impl Memory {
    async fn write(
        &self,
        map: &Mutex<HashMap<String, Vec<u8>>>,
        id: &str,
        json: &[u8],
        over: Option<&Version>,
    ) -> Result<Version, StoreError> {
        let number = self.writes.fetch_add(1, Ordering::SeqCst) + 1;
        let dies = self.dies_at.lock().unwrap().filter(|(at, _)| *at == number).map(|(_, after)| after);
        if dies == Some(false) {
            self.died.notify_one();
            std::future::pending::<()>().await;
        }
        let version = Version(format!("{json:?}"));
        {
            let mut map = map.lock().unwrap();
            if map.get(id).map(|held| Version(format!("{held:?}"))).as_ref() != over {
                return Err(StoreError::Moved { place: id.to_owned() });
            }
            map.insert(id.to_owned(), json.to_vec());
        }
        if dies == Some(true) {
            self.died.notify_one();
            std::future::pending::<()>().await;
        }
        Ok(version)
    }

    fn record(&self, id: &str) -> Option<Stored<Record>> {
        let records = self.records.lock().unwrap();
        let bytes = records.get(id)?;
        Some(Stored { value: Record::parse(bytes).ok()?, version: Version(format!("{bytes:?}")) })
    }

    /// This write never ends.
    pub(crate) fn hang_at(&self, write: usize) {
        *self.dies_at.lock().unwrap() = Some((self.writes.load(Ordering::SeqCst) + write, false));
    }

    /// As a person does with kubectl.
    pub(crate) fn remove(&self, id: &str) {
        self.records.lock().unwrap().remove(id);
    }

    pub(crate) fn break_record(&self, id: &str) {
        self.records.lock().unwrap().insert(id.to_owned(), b"{\"schema\":99}".to_vec());
    }
}

impl Store for Arc<Memory> {
    async fn load(&self) -> Result<Loaded, StoreError> {
        let ids: Vec<String> = self.records.lock().unwrap().keys().cloned().collect();
        let mut loaded = Loaded::default();
        for id in ids {
            match self.record(&id) {
                Some(stored) => loaded.records.push(stored),
                None => loaded.broken.push((id, "it is broken".into())),
            }
        }
        Ok(loaded)
    }

    async fn put(&self, record: &Record, over: Option<&Version>) -> Result<Version, StoreError> {
        self.write(&self.records, &record.id(), &record.to_json(), over).await
    }

    async fn delete(&self, id: &str, _: &Version) -> Result<(), StoreError> {
        self.records.lock().unwrap().remove(id);
        Ok(())
    }

    async fn account(&self, id: &str) -> Result<Option<Stored<AccountRecord>>, StoreError> {
        let accounts = self.accounts.lock().unwrap();
        let parse = |bytes: &Vec<u8>| Stored {
            value: AccountRecord::parse(bytes).unwrap(),
            version: Version(format!("{bytes:?}")),
        };
        Ok(accounts.get(id).map(parse))
    }

    async fn put_account(
        &self,
        id: &str,
        account: &AccountRecord,
        over: Option<&Version>,
    ) -> Result<Version, StoreError> {
        self.write(&self.accounts, id, &account.to_json(), over).await
    }
}

/// Gateways that answer, or one of them, or none.
#[derive(Default)]
pub(crate) struct Gateways {
    silent: AtomicUsize,
    /// How often challenges were presented.
    presented: AtomicUsize,
    shown: Mutex<Vec<Challenge>>,
}

impl Solver for Arc<Gateways> {
    async fn present(&self, challenges: &[Challenge]) -> Result<(), Problem> {
        self.presented.fetch_add(1, Ordering::SeqCst);
        let mut shown = self.shown.lock().unwrap();
        shown.retain(|held| {
            !challenges.iter().any(|new| (&new.host, new.kind()) == (&held.host, held.kind()))
        });
        shown.extend(challenges.iter().cloned());
        Ok(())
    }

    async fn look(&self, _: &[Challenge]) -> Result<Seen, Problem> {
        let silent = self.silent.load(Ordering::SeqCst);
        let by = ["gateway-0", "gateway-1"].into_iter().skip(silent).map(str::to_owned).collect();
        let miss = |n| Missing { who: format!("gateway-{n}"), why: "no answer within 5 s".into() };
        Ok(Seen { at: 0, by, missing: (0..silent).map(miss).collect() })
    }

    async fn clear(&self, challenges: &[Challenge]) -> Result<(), Problem> {
        self.shown.lock().unwrap().retain(|held| !challenges.iter().any(|of| of.host == held.host));
        Ok(())
    }
}

pub(crate) struct World {
    pub(crate) ca: FakeCa,
    pub(crate) clock: Arc<AtomicI64>,
    pub(crate) hands: Hands<Arc<Memory>, Arc<Gateways>>,
    pub(crate) wish: Wish,
    id: String,
}

impl World {
    pub(crate) async fn new() -> Self {
        Self::of(&["a.example.com", "b.example.com"]).await
    }

    async fn of(names: &[&str]) -> Self {
        let ca = FakeCa::start(START).await;
        let mut issuer = Issuer::new("fake", &ca.directory).unwrap();
        issuer.roots = Some(ca.roots.clone());
        issuer.email = Some("me@example.com".into());
        let wish =
            Wish { issuer, kind: Kind::Http01, namespace: "shop".into(), held_back: None, renew: None };
        let (store, clock) = (Arc::<Memory>::default(), Arc::new(AtomicI64::new(START)));
        let record = Record::new(NameSet::new(names).unwrap());
        let id = record.id();
        store.put(&record, None).await.unwrap();
        store.writes.store(0, Ordering::SeqCst);
        let hands = Hands { store, solver: Arc::default(), web: web(&clock) };
        Self { ca, clock, hands, wish, id }
    }

    fn now(&self) -> i64 {
        self.clock.load(Ordering::SeqCst)
    }

    fn stored(&self) -> Stored<Record> {
        self.hands.store.record(&self.id).unwrap()
    }

    fn record(&self) -> Record {
        self.stored().value
    }

    fn plan(&self) -> Plan {
        plan(&self.record(), Some(&self.wish), &Tellings::default(), self.now())
    }

    /// Takes steps in virtual time for so many seconds; what came of each.
    async fn run(&self, seconds: i64) -> Vec<(Step, Outcome)> {
        let until = self.now() + seconds;
        let mut came = Vec::new();
        loop {
            let next = self.plan();
            if next.step == Step::Wait || next.at > until {
                self.set(until);
                return came;
            }
            self.set(self.now().max(next.at));
            let (_, outcome) = advance(&self.hands, self.stored(), Some(&self.wish), &next).await.unwrap();
            came.push((next.step, outcome));
        }
    }

    fn set(&self, now: i64) {
        self.clock.store(now, Ordering::SeqCst);
        self.ca.set(now);
    }

    /// With a certificate that is due for renewal; its chain.
    async fn renewing(&self) -> String {
        self.run(60).await;
        let held = self.record().held.expect("a first certificate");
        self.set(crate::plan::renewal(&held, self.record().seed).0);
        held.chain
    }
}

fn web(clock: &Arc<AtomicI64>) -> Arc<Web> {
    let clock = Arc::clone(clock);
    let now = Arc::new(move || clock.load(Ordering::SeqCst));
    Web::impatient(Arc::new(signet_core::tls::default_provider()), now)
}
