//! The law under crashes, partitions and stale decisions: replicas as `authority` runs them, one shared state, virtual time.

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
        self.disk.version += 1; // its intermediate is recorded
        let (state, good_until) = (self.disk.clone(), self.good_until());
        let (signs, bundle, stood) = (active(&state), bundle(&state), self.now);
        self.replicas[index].memory = Some(Memory { state, signs, bundle, good_until, stood });
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
        let Some(memory) = &mut self.replicas[index].memory else { return false };
        if memory.signs == disk {
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
            Event::Rotate(index) => {
                let index = index % many;
                let fresh = self.fresh();
                if !self.replicas[index].cut {
                    self.take(index);
                    if self.replace(index, Change::Prepare(fresh)) {
                        self.take(index);
                    }
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
        let Some(memory) = self.replicas[index].memory.clone() else { return };
        let settled = self.alone || self.now - memory.stood > FOLLOWS + MARGIN;
        let Some(step) = next(&memory.state, self.now).filter(|_| settled) else {
            if memory.state.version == self.disk.version {
                self.file = bundle(&memory.state); // `keep_published`
            }
            return;
        };
        if step == Step::Publish && memory.state.version == self.disk.version {
            self.file = bundle(&memory.state); // written and read back, and only then dated
        }
        if matches!(crash, Crash::BeforeStore) {
            self.replicas[index].memory = None;
            return;
        }
        let change = match step {
            Step::MakeRoot => Change::Prepare(self.fresh()),
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
        if step == Step::Drop {
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
        for index in 0..self.replicas.len() {
            self.event(Event::Cut(index, false));
        }
        for _ in 0..most {
            for index in 0..self.replicas.len() {
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
        2 => (one, any::<bool>()).prop_map(|(index, cut)| Event::Cut(index, cut)),
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

/// One of two hears nothing from the start of each phase on, and goes on being asked for certificates.
#[test]
fn a_rotation_passes_a_replica_that_is_cut_off_in_any_phase() {
    for cut_in in [Phase::Prepare, Phase::Converge, Phase::Activate, Phase::Retire] {
        let (mut world, mut since) = (World::new(2), None);
        world.event(Event::Rotate(0));
        for second in 0..500 {
            if world.disk.rotation.phase == cut_in {
                since = since.or(Some(second));
            }
            world.event(Event::Cut(1, since.is_some_and(|since| second - since < 3 * FOLLOWS)));
            world.event(Event::Tick(0, Crash::No));
            world.event(Event::Follow(1));
            world.event(Event::Issue(0));
            world.event(Event::Issue(1));
            world.event(Event::Pass(1));
        }
        assert_eq!(world.disk.rotation.phase, Phase::Steady, "{cut_in}");
        assert_eq!(&*active(&world.disk), "0000000000000001", "{cut_in}");
        assert_eq!(world.steps.len(), 5, "each step once: {cut_in}");
    }
}

#[test]
fn a_crash_at_each_step_of_a_rotation_is_resumed() {
    for crash in [Crash::BeforeStore, Crash::AfterStore, Crash::AfterEffect] {
        let mut world = World::new(1);
        world.event(Event::Rotate(0));
        let mut seen = vec![];
        for _ in 0..200 {
            world.event(Event::Tick(0, Crash::No)); // starts the dead one
            world.event(Event::Issue(0));
            let before = world.disk.rotation.phase;
            if !seen.contains(&before) && next(&world.disk, world.now).is_some() {
                seen.push(before);
                world.event(Event::Tick(0, crash));
            }
            world.event(Event::Pass(LEAF / 20));
        }
        assert_eq!(world.disk.rotation.phase, Phase::Steady, "{crash:?}");
        assert_eq!(&*active(&world.disk), "0000000000000001", "{crash:?}");
    }
}
