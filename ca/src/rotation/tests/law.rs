//! The law under crashes, partitions and stale decisions: replicas as `authority` runs them, one shared state, virtual time. Beside
//! them a user, who brings intermediates of roots of his own and takes them away, which each replica sees when it looks.

use super::*;

/// What `authority` calls so, in seconds of this test's time; longer than the skew that is waited for anyway.
const FOLLOWS: i64 = 20;
const MARGIN: i64 = 2;

#[derive(Clone, Copy, Debug)]
enum Crash {
    No,
    BeforeStore,
    AfterStore,
    AfterEffect,
}

/// Of the replica with that index, where there is one.
#[derive(Clone, Copy, Debug)]
enum Event {
    Pass(i64),
    /// Reads the state, then at most one step, as whoever holds the Lease.
    Tick(usize, Crash),
    /// The same without reading first: what it decided on may be old.
    Late(usize),
    /// Reads the state only, as whoever does not hold the Lease.
    Follow(usize),
    Issue(usize),
    /// kill -9; its next tick starts it again.
    Kill(usize),
    Rotate(usize),
    /// Cut off from the API server, or connected again. Whoever asks it for certificates still reaches it.
    Cut(usize, bool),
    /// The user puts an intermediate of his n-th root into the Secret, or takes it away.
    Put(Option<u8>),
    /// Reads the Secret.
    Look(usize),
}

/// A process.
#[derive(Clone)]
struct Memory {
    /// The state as it was last read or written, and when that began.
    state: State,
    /// The root whose intermediate signs, and the bundle of its answers.
    signs: Arc<str>,
    bundle: Vec<Arc<str>>,
    good_until: i64,
    /// Since when phase and bundle are known to be stored.
    stood: i64,
    /// Whose intermediate was in the Secret when it was read.
    offered: Option<Arc<str>>,
}

impl Memory {
    fn offered(&self) -> Offered<'_> {
        self.offered.as_deref().map_or(Offered::Nothing, Offered::Root)
    }

    /// Whether it could sign under this root: it is ours, or the user's intermediate is at hand.
    fn can_sign(&self, root: &Root) -> bool {
        root.key.is_some() || root.kept.is_some() || self.offered.as_ref() == Some(&root.id)
    }
}

#[derive(Default)]
struct Replica {
    memory: Option<Memory>,
    cut: bool,
}

/// All replicas, with everything that others may have seen of them.
struct World {
    alone: bool,
    now: i64,
    disk: State,
    replicas: Vec<Replica>,
    file: Vec<Arc<str>>,
    /// Root and last second of each leaf.
    leaves: Vec<(Arc<str>, i64)>,
    /// Bundles that anyone could fetch, and the last second at which they could.
    seen: Vec<(Vec<Arc<str>>, i64)>,
    made: u32,
    /// Steps that were stored: the version that each replaced.
    steps: Vec<u64>,
    /// Whose intermediate is in the Secret.
    secret: Option<Arc<str>>,
}

fn bundle(state: &State) -> Vec<Arc<str>> {
    state.roots.iter().map(|root| Arc::clone(&root.id)).collect()
}

fn active(state: &State) -> Arc<str> {
    Arc::clone(&state.root_as(Role::Active).unwrap().id)
}

impl World {
    fn new(replicas: usize) -> Self {
        let mut world = Self {
            alone: replicas == 1,
            now: NOW,
            disk: steady(),
            replicas: (0..replicas).map(|_| Replica::default()).collect(),
            file: bundle(&steady()),
            leaves: vec![],
            seen: vec![],
            made: 0,
            steps: vec![],
            secret: None,
        };
        for index in 0..replicas {
            world.start(index);
        }
        world
    }

    fn good_until(&self) -> i64 {
        if self.alone { i64::MAX } else { self.now + FOLLOWS }
    }

    fn start(&mut self, index: usize) {
        if self.replicas[index].cut {
            return;
        }
        let (mut state, good_until) = (self.disk.clone(), self.good_until());
        state.version += 1; // its intermediate is recorded
        let (signs, bundle, stood, offered) = (active(&state), bundle(&state), self.now, self.secret.clone());
        let memory = Memory { state, signs, bundle, good_until, stood, offered };
        if memory.state.root(&memory.signs).is_some_and(|root| memory.can_sign(root)) {
            self.disk.version += 1;
            self.replicas[index].memory = Some(memory);
        } // or else it waits for the user
    }

    fn look(&mut self, index: usize) {
        let secret = self.secret.clone();
        if let Replica { memory: Some(memory), cut: false } = &mut self.replicas[index] {
            memory.offered = secret;
        }
    }

    /// `authority::take`: of a state that was read or written now.
    fn take(&mut self, index: usize) {
        let (now, good_until, disk) = (self.now, self.good_until(), self.disk.clone());
        let Some(memory) = &mut self.replicas[index].memory else { return };
        memory.bundle = bundle(&disk);
        if active(&disk) == memory.signs {
            memory.good_until = good_until;
        }
        if memory.state.rotation != disk.rotation || memory.state.bundle_sequence != disk.bundle_sequence {
            memory.stood = now;
        }
        memory.state = disk;
    }

    /// A new intermediate, where the active root is another.
    fn renew(&mut self, index: usize) -> bool {
        let (disk, good_until) = (active(&self.disk), self.good_until());
        if self.replicas[index].memory.as_ref().is_some_and(|memory| memory.signs != disk) {
            self.look(index); // at once, where it is needed
        }
        let root = self.disk.root(&disk).cloned().unwrap();
        let Some(memory) = &mut self.replicas[index].memory else { return false };
        if memory.signs == disk || !memory.can_sign(&root) {
            return false;
        }
        self.disk.version += 1;
        memory.state.version = self.disk.version;
        (memory.signs, memory.good_until) = (disk, good_until);
        true
    }

    /// The compare-and-swap of the store.
    fn replace(&mut self, index: usize, change: Change) -> bool {
        let Some(memory) = &self.replicas[index].memory else { return false };
        if memory.state.version != self.disk.version {
            return false;
        }
        let Ok(next) = apply(&memory.state, change, self.now) else { return false };
        next.check().unwrap();
        self.steps.push(self.disk.version);
        self.disk = State { version: self.disk.version + 1, ..next };
        true
    }

    fn note(&mut self) {
        let mut shown: Vec<_> = vec![self.file.clone()];
        for replica in &self.replicas {
            // A replica that may not sign answers nothing.
            let answers = replica.memory.iter().filter(|memory| self.now <= memory.good_until);
            shown.extend(answers.map(|memory| memory.bundle.clone()));
        }
        for bundle in shown {
            match self.seen.iter_mut().find(|(known, _)| *known == bundle) {
                Some((_, until)) => *until = self.now,
                None => self.seen.push((bundle, self.now)),
            }
        }
    }

    fn event(&mut self, event: Event) {
        self.note();
        let many = self.replicas.len();
        match event {
            Event::Pass(seconds) => {
                // Second by second: answers end in between.
                for _ in 0..seconds {
                    self.now += 1;
                    self.note();
                }
            }
            Event::Kill(index) => self.replicas[index % many].memory = None,
            Event::Cut(index, cut) => self.replicas[index % many].cut = cut && !self.alone,
            Event::Issue(index) => {
                let memory = &self.replicas[index % many].memory;
                if let Some(memory) = memory.as_ref().filter(|memory| self.now <= memory.good_until) {
                    self.leaves.push((Arc::clone(&memory.signs), self.now + LEAF));
                }
            }
            Event::Put(root) => self.secret = root.map(|n| format!("yours{n}").into()),
            Event::Look(index) => self.look(index % many),
            Event::Rotate(index) => {
                let index = index % many;
                if !self.replicas[index].cut {
                    self.take(index);
                    self.look(index);
                    self.rotate(index);
                }
            }
            Event::Follow(index) => {
                let index = index % many;
                if !self.replicas[index].cut {
                    self.take(index);
                    self.renew(index);
                }
            }
            Event::Tick(index, crash) => self.tick(index % many, crash, true),
            Event::Late(index) => self.tick(index % many, Crash::No, false),
        }
        self.note();
        self.check();
    }

    /// `authority::rotate`.
    fn rotate(&mut self, index: usize) {
        let Some(memory) = self.replicas[index].memory.clone() else { return };
        let is_users = memory.state.root_as(Role::Active).is_some_and(|root| root.key.is_none());
        let change = match next(&memory.state, memory.offered(), self.now) {
            Some(Step::Bring) => self.bring(&memory),
            _ if is_users => return,
            _ => Change::Prepare(self.fresh()),
        };
        if self.replace(index, change) {
            self.take(index);
        }
    }

    /// `authority::bring`: what signs can be kept by who has it.
    fn bring(&self, memory: &Memory) -> Change {
        let active = memory.state.root_as(Role::Active).unwrap();
        let kept = active.key.is_none() && memory.signs == active.id;
        super::bring(memory.offered.as_deref().unwrap(), kept.then_some(&*active.id), self.now)
    }

    fn fresh(&mut self) -> Root {
        self.made += 1;
        root(&format!("{:016x}", self.made), self.now)
    }

    fn tick(&mut self, index: usize, crash: Crash, reads: bool) {
        if self.replicas[index].cut {
            return;
        }
        if self.replicas[index].memory.is_none() {
            return self.start(index);
        }
        if reads {
            self.take(index);
            if self.renew(index) {
                return;
            }
        }
        let Some(mut memory) = self.replicas[index].memory.clone() else { return };
        let settled = self.alone || self.now - memory.stood > FOLLOWS + MARGIN;
        if settled && next(&memory.state, memory.offered(), self.now) == Some(Step::Abandon) {
            self.look(index); // before anything is taken back
            memory.offered.clone_from(&self.secret);
        }
        let Some(step) = next(&memory.state, memory.offered(), self.now).filter(|_| settled) else {
            if memory.state.version == self.disk.version {
                self.file = bundle(&memory.state); // `keep_published`
            }
            return;
        };
        if step == Step::Publish && memory.state.version == self.disk.version {
            self.file = bundle(&memory.state); // written and read back, and only then dated
        }
        if step == Step::Activate
            && !memory.state.root_as(Role::Next).is_some_and(|root| memory.can_sign(root))
        {
            return;
        }
        if matches!(crash, Crash::BeforeStore) {
            self.replicas[index].memory = None;
            return;
        }
        let change = match step {
            Step::MakeRoot => Change::Prepare(self.fresh()),
            Step::Bring => self.bring(&memory),
            Step::Abandon => Change::Abandon,
            Step::Publish => Change::Published,
            Step::Activate => Change::Activate,
            Step::Retire => Change::Activated,
            Step::Drop => Change::Drop,
        };
        let stored = self.replace(index, change);
        if matches!(crash, Crash::AfterStore) || !stored {
            if stored {
                self.replicas[index].memory = None;
            } else {
                self.take(index);
            }
            return;
        }
        self.take(index);
        self.renew(index);
        if matches!(step, Step::Drop | Step::Abandon) {
            self.file = bundle(&self.disk);
        }
        if matches!(crash, Crash::AfterEffect) {
            self.replicas[index].memory = None;
        }
    }

    /// Whoever holds a bundle that was current within the last leaf life verifies every valid leaf; no step is taken twice.
    fn check(&self) {
        for (root, not_after) in self.leaves.iter().filter(|(_, not_after)| self.now <= *not_after) {
            for (bundle, until) in self.seen.iter().filter(|(_, until)| self.now - LEAF <= *until) {
                assert!(
                    bundle.contains(root),
                    "at {}: leaf of {root} until {not_after}, bundle {bundle:?} current until {until}; {:?}",
                    self.now,
                    self.disk.rotation
                );
            }
        }
        assert!(self.steps.windows(2).all(|pair| pair[0] < pair[1]), "{:?}", self.steps);
    }

    /// Everyone is connected and beats: what is under way finishes.
    fn settle(&mut self) {
        let tick = LEAF / 20;
        let most = (2 * (LEAF + 10) + 8 * (FOLLOWS + MARGIN + tick)) / tick + 2;
        // The user brings what signs: who died begins again, and what was not active yet is taken back.
        self.secret = self
            .disk
            .root_as(Role::Active)
            .filter(|root| root.key.is_none())
            .map(|root| Arc::clone(&root.id));
        for index in 0..self.replicas.len() {
            self.event(Event::Cut(index, false));
        }
        for _ in 0..most {
            for index in 0..self.replicas.len() {
                self.event(Event::Look(index));
                self.event(Event::Tick(index, Crash::No));
                self.event(Event::Issue(index));
            }
            self.event(Event::Pass(tick));
        }
    }
}

fn crash() -> impl Strategy<Value = Crash> {
    prop_oneof![
        4 => Just(Crash::No),
        1 => Just(Crash::BeforeStore),
        1 => Just(Crash::AfterStore),
        1 => Just(Crash::AfterEffect),
    ]
}

fn event() -> impl Strategy<Value = Event> {
    let one = 0usize..2;
    prop_oneof![
        5 => (1..LEAF / 2).prop_map(Event::Pass),
        5 => (1..FOLLOWS + 3).prop_map(Event::Pass),
        1 => (1..5 * LEAF).prop_map(Event::Pass),
        6 => (one.clone(), crash()).prop_map(|(index, crash)| Event::Tick(index, crash)),
        1 => one.clone().prop_map(Event::Late),
        3 => one.clone().prop_map(Event::Follow),
        6 => one.clone().prop_map(Event::Issue),
        1 => one.clone().prop_map(Event::Kill),
        1 => one.clone().prop_map(Event::Rotate),
        2 => (one.clone(), any::<bool>()).prop_map(|(index, cut)| Event::Cut(index, cut)),
        1 => proptest::option::weighted(0.8, 0u8..3).prop_map(Event::Put),
        2 => one.prop_map(Event::Look),
    ]
}

proptest! {
    #[test]
    fn every_valid_leaf_is_believed_by_every_recent_bundle_whenever_it_crashes(
        replicas in 1usize..=2,
        events in proptest::collection::vec(event(), 1..200)
    ) {
        let mut world = World::new(replicas);
        for event in events {
            world.event(event);
        }
        // ... and whatever happened, the rotation that is under way finishes by itself.
        world.settle();
        prop_assert_eq!(world.disk.rotation.phase, Phase::Steady);
        prop_assert_eq!(world.disk.roots.len(), 1);
    }
}

mod stories;
