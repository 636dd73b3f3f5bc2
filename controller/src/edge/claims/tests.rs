use proptest::prelude::*;

use super::*;

/// "shop/web@5 app.example": namespace, Ingress, age, host.
#[derive(Debug)]
struct Asks {
    host: HostPattern,
    namespace: String,
    ingress: String,
    created: i64,
}

fn asks(words: &str) -> Asks {
    let (who, host) = words.split_once(' ').unwrap();
    let (ingress, created) = who.split_once('@').unwrap();
    let (namespace, ingress) = ingress.split_once('/').unwrap();
    let host = if host == "*" { None } else { Some(host) };
    Asks {
        host: HostPattern::ingress(host).unwrap(),
        namespace: namespace.into(),
        ingress: ingress.into(),
        created: created.parse().unwrap(),
    }
}

fn pin(words: &str) -> Pin {
    let (namespace, host) = words.split_once(' ').unwrap();
    Pin { namespace: namespace.into(), pattern: HostPattern::gateway(Some(host)).unwrap() }
}

fn settled(stored: Option<&Claims>, all: &[Asks], pins: &[Pin], now: i64) -> Settled {
    let wishes: Vec<Wish<'_>> = all
        .iter()
        .map(|a| Wish { host: &a.host, namespace: &a.namespace, ingress: &a.ingress, created: a.created })
        .collect();
    settle(stored, &wishes, pins, now)
}

/// A cluster whose claims are stored, and whose clock moves when told to.
#[derive(Default)]
struct World {
    claims: Claims,
    ingresses: Vec<&'static str>,
    pins: Vec<Pin>,
    now: i64,
}

impl World {
    fn owner(&mut self, host: &str) -> String {
        let all: Vec<Asks> = self.ingresses.iter().map(|words| asks(words)).collect();
        let settled = settled(Some(&self.claims), &all, &self.pins, self.now);
        self.claims = settled.claims;
        settled.owners.get(host).map_or_else(|| "nobody".into(), |owner| owner.namespace.clone())
    }

    fn pass(&mut self, seconds: i64) {
        self.now += seconds;
    }
}

const HOST: &str = "app.example";
const HOUR: i64 = 3600;

#[test]
fn a_host_is_the_oldest_ingresss_by_age_and_then_by_name() {
    for (case, all, want) in [
        ("the older", &["b/web@5 app.example", "a/web@7 app.example"][..], "b"),
        ("of one age: the first by namespace", &["b/web@5 app.example", "a/web@5 app.example"], "a"),
        (
            "of one namespace the oldest counts",
            &["a/new@9 app.example", "b/web@5 app.example", "a/old@1 app.example"],
            "a",
        ),
        ("every host is a host, too", &["b/web@5 *", "a/web@7 *"], "b"),
    ] {
        let all: Vec<Asks> = all.iter().map(|words| asks(words)).collect();
        let host = all[0].host.to_string();
        assert_eq!(settled(None, &all, &[], 100).owners[&host].namespace, want, "{case}");
    }
}

#[test]
fn who_deletes_loses_it_after_a_day_and_not_to_the_quickest() {
    let mut world = World { ingresses: vec!["shop/web@5 app.example"], now: 1000, ..World::default() };
    assert_eq!(world.owner(HOST), "shop");
    world.ingresses = vec!["thief/web@999 app.example"];
    for _ in 0..23 {
        world.pass(HOUR);
        assert_eq!(world.owner(HOST), "shop");
    }
    // Back in time: as if nothing had been.
    world.ingresses.push("shop/again@90000 app.example");
    assert_eq!(world.owner(HOST), "shop");
    world.ingresses.pop();
    assert_eq!(world.owner(HOST), "shop", "a day begins anew");
    world.pass(KEPT - 1);
    assert_eq!(world.owner(HOST), "shop");
    world.pass(1);
    assert_eq!(world.owner(HOST), "thief");
    world.ingresses.push("shop/web@5 app.example");
    assert_eq!(world.owner(HOST), "thief", "it is its now, whatever the age");
}

#[test]
fn an_old_ingress_that_is_changed_to_name_a_host_takes_it_from_nobody() {
    let mut world = World { ingresses: vec!["shop/web@500 app.example"], now: 1000, ..World::default() };
    assert_eq!(world.owner(HOST), "shop");
    world.ingresses.push("thief/prepared@1 app.example");
    assert_eq!(world.owner(HOST), "shop");
    world.ingresses.push("thief/prepared@1 *.example");
    assert_eq!(world.owner(HOST), "shop");
    assert_eq!(world.owner("*.example"), "thief", "that one was free");
}

#[test]
fn a_pin_gives_a_host_whatever_the_age_and_the_most_specific_one_counts() {
    let mut world = World {
        ingresses: vec!["shop/web@5 app.example", "shop/web@5 a.team.example", "team/web@9 a.team.example"],
        now: 1000,
        ..World::default()
    };
    assert_eq!((world.owner("a.team.example"), world.owner(HOST)), ("shop".into(), "shop".into()));
    world.pins = vec![pin("team *.team.example")];
    assert_eq!((world.owner("a.team.example"), world.owner(HOST)), ("team".into(), "shop".into()));
    world.pins.push(pin("ops *.example"));
    assert_eq!(
        (world.owner("a.team.example"), world.owner(HOST)),
        ("team".into(), "ops".into()),
        "though it has no Ingress"
    );
    world.pins.push(pin("shop app.example"));
    assert_eq!(world.owner(HOST), "shop");
    world.ingresses.push("lab/web@1 x.y.team.example");
    assert_eq!(world.owner("x.y.team.example"), "team", "a pin is for all that is below it");
    world.ingresses.push("lab/web@1 *.team.example");
    assert_eq!(world.owner("*.team.example"), "team");
    // Given to two, age decides between them, and nobody else gets it.
    world.pins = vec![pin("team a.team.example"), pin("lab a.team.example")];
    world.claims.clear();
    world.ingresses.push("lab/web@8 a.team.example");
    assert_eq!(world.owner("a.team.example"), "lab");
}

#[test]
fn without_its_pin_a_host_goes_back_to_who_claimed_it() {
    let mut world = World { ingresses: vec!["shop/web@5 app.example"], now: 1000, ..World::default() };
    assert_eq!(world.owner(HOST), "shop");
    world.pins = vec![pin("ops app.example")];
    world.pass(3 * KEPT);
    assert_eq!(world.owner(HOST), "ops");
    world.pins.clear();
    world.ingresses.push("thief/web@1 app.example");
    assert_eq!(world.owner(HOST), "shop");
}

#[test]
fn a_host_below_anothers_wildcard_is_its_but_a_wildcard_takes_no_host() {
    for (case, all, host, want) in [
        ("younger", &["a/wide@5 *.example", "b/web@7 app.example"][..], "app.example", "a"),
        ("older", &["a/wide@7 *.example", "b/web@5 app.example"], "app.example", "b"),
        (
            "... and the rest is the wildcard's",
            &["a/wide@7 *.example", "b/web@5 app.example"],
            "*.example",
            "a",
        ),
        ("its own", &["a/wide@5 *.example", "a/web@7 app.example"], "app.example", "a"),
        (
            "two labels below it is not",
            &["a/wide@5 *.example", "b/web@7 x.app.example"],
            "x.app.example",
            "b",
        ),
        ("every host covers none", &["a/all@5 *", "b/web@7 app.example"], "app.example", "b"),
    ] {
        let all: Vec<Asks> = all.iter().map(|words| asks(words)).collect();
        assert_eq!(settled(None, &all, &[], 100).owners[host].namespace, want, "{case}");
        assert_eq!(
            settled(Some(&Claims::new()), &all, &[], 100).owners[host].namespace,
            want,
            "{case}, stored"
        );
    }
    let mut world = World { ingresses: vec!["a/wide@5 *.example"], now: 1000, ..World::default() };
    assert_eq!(world.owner("*.example"), "a");
    world.ingresses = vec!["b/web@1 app.example"];
    assert_eq!(world.owner("app.example"), "a", "a wildcard is kept a day, too");
    world.pass(KEPT);
    assert_eq!(world.owner("app.example"), "b");
}

#[test]
fn every_host_is_nobodys_name_and_not_kept() {
    let mut world = World { ingresses: vec!["a/all@5 *"], now: 1000, ..World::default() };
    assert_eq!(world.owner("*"), "a");
    world.ingresses = vec!["b/all@9 *"];
    assert_eq!(world.owner("*"), "b");
}

fn hosts() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["a.example", "b.example", "*.example", "a.b.example", "*"])
}

prop_compose! {
    fn ingress()(namespace in "[abc]", name in "[xy]", created in 0..4_i64, host in hosts()) -> Asks {
        let host = if host == "*" { None } else { Some(host) };
        Asks { host: HostPattern::ingress(host).unwrap(), namespace, ingress: name, created }
    }
}

prop_compose! {
    fn any_pin()(namespace in "[abc]", host in prop::sample::select(vec!["a.example", "*.example", "*.b.example"])) -> Pin {
        Pin { namespace, pattern: HostPattern::gateway(Some(host)).unwrap() }
    }
}

#[test]
fn a_claim_that_is_asked_for_again_under_a_pin_is_no_longer_on_its_way_out() {
    let mut world = World { ingresses: vec!["shop/web@5 app.example"], ..World::default() };
    assert_eq!(world.owner("app.example"), "shop");
    world.ingresses.clear();
    world.owner("app.example");
    world.pins = vec![pin("ops app.example")];
    world.ingresses = vec!["shop/web@9 app.example"];
    assert_eq!(world.owner("app.example"), "ops");
    world.pass(KEPT + 1);
    world.owner("app.example");
    world.pins.clear();
    world.ingresses.push("thief/old@1 app.example");
    assert_eq!(world.owner("app.example"), "shop");
}

proptest! {
    /// Replicas that see the same settle the same, in whatever order they saw it.
    #[test]
    fn order_means_nothing(mut all in prop::collection::vec(ingress(), 0..8), pins in prop::collection::vec(any_pin(), 0..3)) {
        let stored = Claims::new();
        let one = settled(Some(&stored), &all, &pins, 50);
        all.reverse();
        prop_assert_eq!(settled(Some(&stored), &all, &pins, 50), one);
    }

    /// What was settled and stored is settled: deciding again, then or later, changes no owner and no claim.
    #[test]
    fn settled_is_settled(all in prop::collection::vec(ingress(), 0..8), pins in prop::collection::vec(any_pin(), 0..3), later in 0..2 * KEPT) {
        let first = settled(Some(&Claims::new()), &all, &pins, 50);
        let again = settled(Some(&first.claims), &all, &pins, 50 + later);
        let names = |settled: &Settled| -> Vec<(String, String)> {
            settled.owners.iter().map(|(host, owner)| (host.clone(), owner.namespace.clone())).collect()
        };
        prop_assert_eq!(names(&again), names(&first));
        prop_assert_eq!(again.claims, first.claims);
    }

    /// The theft law: without pins, whatever others create, change or back-date, whoever has a host and asks for it keeps it; and
    /// who stops asking loses it to nobody within a day.
    #[test]
    fn nobody_takes_a_host_that_another_has(
        mine in prop::collection::vec(ingress(), 1..4),
        before in prop::collection::vec(ingress(), 0..4),
        after in prop::collection::vec(ingress(), 0..8),
        gone in any::<bool>(),
        later in 0..KEPT,
    ) {
        let mine: Vec<Asks> = mine.into_iter().map(|mine| Asks { namespace: "me".into(), ..mine }).collect();
        let had = {
            let all: Vec<Asks> = mine.iter().chain(&before).map(copy).collect();
            settled(Some(&Claims::new()), &all, &[], 50)
        };
        let now: Vec<Asks> = mine.iter().filter(|_| !gone).chain(&after).map(copy).collect();
        let has = settled(Some(&had.claims), &now, &[], 50 + later);
        for (host, owner) in had.owners.iter().filter(|(host, owner)| owner.namespace == "me" && (!gone || *host != "*")) {
            if let Some(owner_now) = has.owners.get(host) {
                prop_assert_eq!(&owner_now.namespace, "me", "{} by {:?}, then {:?}", host, owner.by, owner_now.by);
            }
        }
    }
}

fn copy(asks: &Asks) -> Asks {
    Asks {
        host: asks.host.clone(),
        namespace: asks.namespace.clone(),
        ingress: asks.ingress.clone(),
        created: asks.created,
    }
}
