//! A store against the simplest model: the API server's own table.

use proptest::prelude::*;

use super::*;
use crate::{
    build::{mesh, pod},
    index::Index,
};

/// What may happen to one of a few Pods, on one of a few addresses.
#[derive(Clone, Debug)]
enum Happens {
    /// Created, or its status changed.
    Set {
        pod: u8,
        address: u8,
        ended: bool,
        leaves: bool,
    },
    Delete {
        pod: u8,
    },
    /// An event of before comes again; which one, counted from the last.
    Again(usize),
    /// A new list.
    List,
}

fn happens() -> impl Strategy<Value = Happens> {
    let set = (0..4u8, 0..3u8, prop::bool::weighted(0.2), prop::bool::weighted(0.2));
    prop_oneof![
        5 => set.prop_map(|(pod, address, ended, leaves)| Happens::Set { pod, address, ended, leaves }),
        3 => (0..4u8).prop_map(|pod| Happens::Delete { pod }),
        3 => (0..10usize).prop_map(Happens::Again),
        1 => Just(Happens::List),
    ]
}

/// The API server: what there is, and what it said.
#[derive(Default)]
struct Truth {
    version: u64,
    there: BTreeMap<Name, Seen>,
    said: Vec<Event>,
    /// Of each Pod that is there.
    facts: BTreeMap<Name, Facts>,
}

#[derive(Clone, Debug)]
struct Facts {
    address: String,
    ended: bool,
    leaves: bool,
    created: u64,
}

impl Truth {
    /// The event that a watch tells now.
    fn happen(&mut self, what: &Happens) -> Option<Event> {
        self.version += 1;
        let name = |pod: &u8| ("shop".to_owned(), format!("web-{pod}"));
        let event = match what {
            Happens::Set { pod, address, ended, leaves } => {
                let known = self.facts.get(&name(pod));
                // A Pod that has ended, or leaves, does not come back.
                let facts = Facts {
                    address: format!("10.0.0.{address}"),
                    ended: *ended || known.is_some_and(|known| known.ended),
                    leaves: *leaves || known.is_some_and(|known| known.leaves),
                    created: known.map_or(self.version, |known| known.created),
                };
                let seen = self.seen(*pod, &facts);
                self.facts.insert(seen.name.clone(), facts);
                self.there.insert(seen.name.clone(), seen.clone());
                Event::Set(seen)
            }
            Happens::Delete { pod } => {
                self.facts.remove(&name(pod));
                let seen = Seen { version: Some(self.version), ..self.there.remove(&name(pod))? };
                Event::Deleted(seen)
            }
            Happens::Again(n) => {
                let n = self.said.len().checked_sub(n + 1)?;
                return Some(self.said[n].clone());
            }
            Happens::List => {
                return Some(Event::List(self.there.values().cloned().collect(), Some(self.version)));
            }
        };
        self.said.push(event.clone());
        Some(event)
    }

    fn seen(&self, n: u8, facts: &Facts) -> Seen {
        let time = |seconds: u64| format!("2026-01-01T00:{:02}:{:02}Z", seconds / 60, seconds % 60);
        let mut manifest = pod(&format!("web-{n}"))
            .at(&facts.address)
            .with("/status/phase", if facts.ended { "Succeeded" } else { "Running" })
            .with("/metadata/creationTimestamp", time(facts.created));
        if facts.leaves {
            manifest = manifest.with("/metadata/deletionTimestamp", time(facts.created));
        }
        Seen {
            name: ("shop".into(), format!("web-{n}")),
            uid: format!("uid-{}", facts.created),
            version: Some(self.version),
            object: manifest.objects().remove(0),
        }
    }

    /// Who holds an address: of the living the one that does not leave, else the younger.
    fn holder(&self, address: &str) -> Option<&Name> {
        let living = self.facts.iter().filter(|(_, facts)| facts.address == address && !facts.ended);
        living.max_by_key(|(_, facts)| (!facts.leaves, facts.created)).map(|(name, _)| name)
    }

    fn is_known_by(&self, store: &Store) -> Result<(), TestCaseError> {
        let known: Vec<&Arc<Object>> = store.objects().collect();
        let there: Vec<&Arc<Object>> = self.there.values().map(|seen| &seen.object).collect();
        prop_assert_eq!(known, there);
        let index = Index::build(&mesh(), &store.objects().cloned().collect::<Vec<_>>());
        for address in ["10.0.0.0", "10.0.0.1", "10.0.0.2"] {
            let holder = index.pod_at(address.parse().unwrap()).map(|pod| pod.name.as_str());
            prop_assert_eq!(holder, self.holder(address).map(|(_, name)| name.as_str()), "{}", address);
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))] // each builds up to 60 indexes

    /// With duplicates, late events and lists in between: after every event the store is what the API server has.
    #[test]
    fn a_store_is_what_the_api_server_has_whatever_comes_twice_or_late(story in prop::collection::vec(happens(), 1..60)) {
        let (mut truth, mut store) = (Truth::default(), Store::default());
        store.take(Event::List(Vec::new(), Some(0)));
        for what in &story {
            let before: Vec<Arc<Object>> = store.objects().cloned().collect();
            if let Some(event) = truth.happen(what) {
                let changed = store.take(event);
                let after: Vec<Arc<Object>> = store.objects().cloned().collect();
                prop_assert_eq!(changed, before != after, "says what it did");
            }
            truth.is_known_by(&store)?;
        }
    }

    /// All events of a story, in any order: in the end it is the same.
    #[test]
    fn the_order_of_events_does_not_matter_in_the_end(
        story in prop::collection::vec(happens(), 1..40),
        order in prop::collection::vec(any::<prop::sample::Index>(), 40),
    ) {
        let (mut truth, mut store) = (Truth::default(), Store::default());
        store.take(Event::List(Vec::new(), Some(0)));
        let told = story.iter().filter(|what| !matches!(what, Happens::List));
        let mut events: Vec<Event> = told.filter_map(|what| truth.happen(what)).collect();
        for index in order.iter().cycle() {
            if events.is_empty() {
                break;
            }
            let n = index.index(events.len());
            store.take(events.swap_remove(n));
        }
        truth.is_known_by(&store)?;
    }
}

#[test]
fn what_is_remembered_of_deleted_objects_is_bounded_and_the_newest_stay() {
    let mut store = Store::default();
    store.take(Event::List(Vec::new(), Some(0)));
    let object = pod("web").objects().remove(0);
    let seen = |n: u64| Seen {
        name: ("shop".into(), format!("web-{n}")),
        uid: n.to_string(),
        version: Some(n),
        object: Arc::clone(&object),
    };
    let all = 3 * MAX_GONE as u64;
    for n in 1..all {
        store.take(Event::Set(seen(n)));
        store.take(Event::Deleted(seen(n)));
    }
    assert!(store.gone.len() <= MAX_GONE && store.gone.len() >= MAX_GONE / 2, "{}", store.gone.len());
    assert!(!store.take(Event::Set(seen(all - 1))), "late");
    assert_eq!(store.len(), 0);
}
