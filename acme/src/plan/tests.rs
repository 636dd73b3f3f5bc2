use proptest::prelude::*;

use super::*;
use crate::{
    issuer::{LETS_ENCRYPT, LETS_ENCRYPT_STAGING},
    names::NameSet,
    order::Pending,
    outcome::{Outcome, apply, begin},
    problem::Problem,
    record::{Window, With},
    secret::Secret,
    solver::Seen,
};

mod bounds;
mod laws;
mod stories;

const START: i64 = 1_800_000_000;

fn names() -> NameSet {
    NameSet::new(["a.example.com", "b.example.com"]).unwrap()
}

fn wish() -> Wish {
    let issuer = Issuer::lets_encrypt(Some("me@example.com"));
    Wish { issuer, kind: Kind::Http01, namespace: "shop".into(), held_back: None, renew: None }
}

fn held(since: i64, life: i64) -> Held {
    Held {
        directory: LETS_ENCRYPT.into(),
        chain: String::new(),
        key: Secret::new(String::new().into()),
        not_before: since,
        not_after: since + life,
        since,
        ari_id: Some("a.b".into()),
        replaced: false,
        window: None,
        ask_window: None,
    }
}

/// A record in virtual time, and everything that was done with it.
struct World {
    record: Record,
    wish: Option<Wish>,
    now: i64,
    /// When, what, and at which directory.
    taken: Vec<(i64, Step, String)>,
    random: fastrand::Rng,
}

impl World {
    fn new() -> Self {
        let random = fastrand::Rng::with_seed(7);
        Self { record: Record::new(names()), wish: Some(wish()), now: START, taken: Vec::new(), random }
    }

    fn plan(&self) -> Plan {
        plan(&self.record, self.wish.as_ref(), &Tellings::default(), self.now)
    }

    /// Takes the next step when it is due, if that is not after `until`; whether there was one.
    fn step(&mut self, until: i64, mut ca: impl FnMut(&mut Self, Step) -> Outcome) -> bool {
        let next = self.plan();
        let is_nothing = self.wish.is_none() && self.record == Record::new(names()); // forgotten
        if is_nothing || next.step == Step::Wait || next.at.max(self.now) > until {
            self.now = until;
            return false;
        }
        self.check_waiting(next.at);
        self.now = self.now.max(next.at);
        let next = self.plan(); // what it is by then
        assert!(next.is_due(self.now), "{next:?} at {}", self.now);
        begin(&mut self.record, next.step, self.wish.as_ref(), self.now).unwrap();
        let directory = self.record.order.as_ref().map(|order| order.directory.clone()).unwrap_or_default();
        self.taken.push((self.now, next.step, directory));
        let outcome = ca(self, next.step);
        if next.step == Step::Forget {
            self.record = Record::new(names());
            return true;
        }
        apply(&mut self.record, outcome, self.now);
        true
    }

    /// Law: no step before its time, whenever one looks.
    fn check_waiting(&mut self, at: i64) {
        if at > self.now {
            let between = self.random.i64(self.now..at);
            let early = plan(&self.record, self.wish.as_ref(), &Tellings::default(), between);
            assert!(!early.is_due(between), "{early:?} at {between}, planned for {at}");
        }
    }

    fn run(&mut self, seconds: i64, mut ca: impl FnMut(&mut Self, Step) -> Outcome) {
        let until = self.now + seconds;
        while self.step(until, &mut ca) {}
    }

    fn certificate(&mut self, life: i64) -> Outcome {
        let directory = self.record.order.as_ref().unwrap().directory.clone();
        Outcome::Certificate(Box::new(Held { directory, ..held(self.now, life) }))
    }

    fn asks(&self) -> Vec<(i64, bool)> {
        let asks = self.taken.iter().filter_map(|(at, step, _)| match step {
            Step::Ask { rehearsal, .. } => Some((at - START, *rehearsal)),
            _ => None,
        });
        asks.collect()
    }

    fn count(&self, step: Step) -> usize {
        self.taken.iter().filter(|(_, taken, _)| *taken == step).count()
    }
}

fn challenges(world: &World) -> Vec<Pending> {
    let of = |name: &str| Pending {
        host: name.into(),
        wildcard: false,
        kind: Kind::Http01,
        token: "t".into(),
        key_authorization: "t.k".into(),
        namespace: "shop".into(),
        proven: false,
    };
    world.record.names.iter().map(of).collect()
}

/// A CA that does what RFC 8555 says, a second for each step; certificates live `life` seconds.
fn honest(life: i64) -> impl FnMut(&mut World, Step) -> Outcome {
    move |world, step| {
        if !matches!(step, Step::Clear | Step::Promote | Step::Notice | Step::Abandon { .. }) {
            world.now += 1;
        }
        match step {
            Step::Ask { .. } => Outcome::Ordered { url: "https://ca.example/order/1".into() },
            Step::Read => Outcome::Challenges(challenges(world)),
            Step::Present => Outcome::Presented(Seen { by: vec!["gateway-0".into()], ..Seen::default() }),
            Step::Tell => Outcome::Told,
            Step::Poll => Outcome::Proven,
            Step::Finalize => Outcome::Finalized,
            Step::Collect => world.certificate(life),
            Step::Abandon { failed } => Outcome::Abandoned { failed },
            Step::Promote => Outcome::Promoted,
            Step::AskWindow => Outcome::NoWindow,
            Step::Notice => Outcome::Noticed,
            Step::Clear | Step::Wait | Step::Forget => Outcome::Cleared,
        }
    }
}

fn trouble(after: Option<i64>) -> Outcome {
    Outcome::Trouble { with: With::Ca, problem: Problem::ours("no route"), after, seen: None, unsure: false }
}

fn refused(after: Option<i64>) -> Outcome {
    Outcome::Refused { problem: Problem::ours("no"), after }
}
