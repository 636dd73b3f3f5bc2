//! Tables of the state machine, and the law under crashes at every point, in virtual time.

use super::*;
use crate::state::Secret;
use proptest::prelude::*;

const NOW: i64 = 1_800_000_000;
const LEAF: i64 = 100;
const ROOT_LIFE: i64 = 1_000_000;

fn root(id: &str, now: i64) -> Root {
    Root {
        id: id.into(),
        role: Role::Next,
        made: now,
        not_after: now + ROOT_LIFE,
        certificate: "".into(),
        key: Some(Secret::new(String::new().into())),
        kept: None,
    }
}

/// A root of the user's.
fn users(id: &str, now: i64) -> Root {
    Root { key: None, ..root(id, now) }
}

fn offer(id: &str) -> Offer {
    Offer { chain: id.into(), key: Secret::new(String::new().into()), root: id.into() }
}

fn bring(id: &str, kept: Option<&str>, now: i64) -> Change {
    Change::Bring { root: users(id, now), offer: offer(id), kept: kept.map(offer) }
}

fn steady() -> State {
    State::new("cluster.local".into(), root("aa", NOW), 1, LEAF, NOW)
}

fn ids(state: &State, role: Role) -> Vec<&str> {
    state.roots.iter().filter(|root| root.role == role).map(|root| &*root.id).collect()
}

/// A rotation from "aa" to "bb", taken to just after `phase` began; each phase began when it could.
fn at(phase: Phase) -> (State, i64) {
    let mut state = steady();
    let mut now = NOW;
    for change in [Change::Prepare(root("bb", now)), Change::Published, Change::Activate, Change::Activated] {
        if state.rotation.phase == phase {
            break;
        }
        if state.rotation.phase != Phase::Steady {
            now = now.max(due(&state).unwrap());
        }
        state = apply(&state, change, now).unwrap();
        state.check().unwrap();
    }
    (state, now)
}

#[test]
fn each_phase_waits_for_what_its_row_says() {
    let wait = LEAF + 10; // leaf life and the skew of a tenth of it
    for (phase, pause, step) in [
        (Phase::Prepare, 0, Step::Publish),
        (Phase::Converge, wait, Step::Activate),
        (Phase::Activate, 0, Step::Retire),
        (Phase::Retire, wait, Step::Drop),
    ] {
        let (state, now) = at(phase);
        assert_eq!(state.rotation.phase, phase);
        if pause > 0 {
            assert_eq!(next(&state, Offered::Nothing, now + pause - 1), None, "{phase}: a second early");
        }
        assert_eq!(next(&state, Offered::Nothing, now + pause), Some(step), "{phase}");
    }
}

#[test]
fn roots_play_their_roles_in_turn() {
    let table: Vec<_> = [Phase::Steady, Phase::Prepare, Phase::Converge, Phase::Activate, Phase::Retire]
        .map(|phase| {
            let state = at(phase).0;
            let names = |role| ids(&state, role).concat();
            (
                phase.to_string(),
                names(Role::Active),
                names(Role::Next),
                names(Role::Retiring),
                state.bundle_sequence,
            )
        })
        .into();
    let row = |phase: &str, active: &str, next: &str, retiring: &str, sequence| {
        (phase.to_owned(), active.to_owned(), next.to_owned(), retiring.to_owned(), sequence)
    };
    assert_eq!(
        table,
        [
            row("steady", "aa", "", "", 1),
            row("prepare", "aa", "bb", "", 2),
            row("converge", "aa", "bb", "", 2),
            row("activate", "bb", "", "aa", 2),
            row("retire", "bb", "", "aa", 2),
        ]
    );
    let (state, _) = at(Phase::Retire);
    let end = apply(&state, Change::Drop, due(&state).unwrap()).unwrap();
    assert_eq!((ids(&end, Role::Active), end.roots.len(), end.bundle_sequence), (vec!["bb"], 1, 3));
}

#[test]
fn a_step_out_of_order_or_too_early_is_refused() {
    let steps = || [Change::Published, Change::Activate, Change::Activated, Change::Drop];
    for phase in [Phase::Steady, Phase::Prepare, Phase::Converge, Phase::Activate, Phase::Retire] {
        let (state, now) = at(phase);
        for change in steps() {
            let allowed = matches!(
                (&change, phase),
                (Change::Published, Phase::Prepare) | (Change::Activated, Phase::Activate)
            );
            let done = apply(&state, change.clone(), now); // at once: converge and retire have to wait
            assert_eq!(done.is_ok(), allowed, "{} in {phase}", name(&change));
        }
        let rotate = apply(&state, Change::Prepare(root("cc", now)), now);
        match phase {
            Phase::Steady => assert!(rotate.is_ok()),
            phase => assert_eq!(rotate.unwrap_err(), OutOfOrder::UnderWay { phase }),
        }
    }
}

#[test]
fn a_root_is_replaced_around_half_of_its_life_and_not_all_clusters_at_once() {
    let mut dues: Vec<i64> = (0u32..50)
        .map(|n| {
            let id = format!("{:08x}00000000", n.wrapping_mul(0x9e37_79b9));
            due(&State::new("cluster.local".into(), root(&id, NOW), 1, LEAF, NOW)).unwrap() - NOW
        })
        .collect();
    assert!(
        dues.iter().all(|due| (ROOT_LIFE * 45 / 100 - 1..=ROOT_LIFE * 55 / 100).contains(due)),
        "{dues:?}"
    );
    dues.sort_unstable();
    dues.dedup();
    assert!(dues.len() > 40);
}

#[test]
fn distrust_cuts_in_every_phase_and_says_so_in_the_bundle() {
    // phase, who is distrusted, active, next, retiring, phase after
    for (phase, id, active, next, retiring, after) in [
        (Phase::Steady, "aa", "xx", "", "", Phase::Steady),
        (Phase::Prepare, "aa", "xx", "", "", Phase::Steady),
        (Phase::Prepare, "bb", "aa", "", "", Phase::Steady),
        (Phase::Converge, "aa", "xx", "", "", Phase::Steady),
        (Phase::Converge, "bb", "aa", "", "", Phase::Steady),
        (Phase::Activate, "aa", "bb", "", "", Phase::Steady),
        (Phase::Activate, "bb", "xx", "", "aa", Phase::Activate),
        (Phase::Retire, "aa", "bb", "", "", Phase::Steady),
        (Phase::Retire, "bb", "xx", "", "aa", Phase::Retire),
    ] {
        let (state, now) = at(phase);
        let change = Change::Distrust { id: id.into(), fresh: Some(root("xx", now)) };
        let state_after = apply(&state, change.clone(), now).unwrap();
        let case = format!("{id} in {phase}");
        state_after.check().unwrap();
        assert_eq!(ids(&state_after, Role::Active).concat(), active, "{case}");
        assert_eq!(ids(&state_after, Role::Next).concat(), next, "{case}");
        assert_eq!(ids(&state_after, Role::Retiring).concat(), retiring, "{case}");
        assert_eq!(state_after.rotation.phase, after, "{case}");
        assert_eq!(state_after.bundle_sequence, state.bundle_sequence + 1, "{case}");
        assert_eq!(&*state_after.distrusted[0].id, id, "{case}");
        assert!(matches!(apply(&state_after, change, now), Err(OutOfOrder::AlreadyDistrusted { .. })));
    }
    let unknown = Change::Distrust { id: "zz".into(), fresh: Some(root("xx", NOW)) };
    assert!(matches!(apply(&steady(), unknown, NOW), Err(OutOfOrder::UnknownRoot { .. })));
}

#[test]
fn leaves_of_an_earlier_longer_setting_are_waited_for() {
    let long = State { leaf_life: 1000, ..steady() };
    let state = long.with_leaf_life(LEAF, NOW, 0);
    let state = apply(&state, Change::Prepare(root("bb", NOW)), NOW).unwrap();
    let state = apply(&state, Change::Published, NOW + 1).unwrap();
    assert_eq!(next(&state, Offered::Nothing, NOW + 1000), None);
    assert_eq!(next(&state, Offered::Nothing, NOW + 1010), Some(Step::Activate));
}

#[test]
fn what_the_user_brings_decides_in_a_steady_state_and_his_root_is_never_replaced_by_one_of_ours() {
    let ours = steady();
    let his = State::new("prod.example".into(), users("aa", NOW), 1, LEAF, NOW);
    let late = NOW + ROOT_LIFE;
    for (case, state, offered, step) in [
        ("half of our root's life is gone", &ours, Offered::Nothing, Some(Step::MakeRoot)),
        ("... beside what cannot be used", &ours, Offered::Unusable, None),
        ("... beside another", &ours, Offered::Root("bb"), Some(Step::Bring)),
        ("half of his is gone", &his, Offered::Nothing, None),
        ("... and he brings what signs", &his, Offered::Root("aa"), None),
        ("... or what cannot be used", &his, Offered::Unusable, None),
        ("he brings another", &his, Offered::Root("bb"), Some(Step::Bring)),
    ] {
        assert_eq!(next(state, offered, late), step, "{case}");
    }
    assert_eq!(next(&ours, Offered::Root("bb"), NOW), Some(Step::Bring), "at once");
    assert_eq!(due(&his), None);
    for phase in [Phase::Prepare, Phase::Converge, Phase::Activate, Phase::Retire] {
        let (state, now) = at(phase);
        let wait = if matches!(phase, Phase::Converge | Phase::Retire) { LEAF + 10 } else { 0 };
        assert_ne!(next(&state, Offered::Root("cc"), now + wait), Some(Step::Bring), "one at a time");
        assert!(apply(&state, bring("cc", None, now), now).is_err(), "{phase}");
    }
}

#[test]
fn what_signs_under_his_roots_is_kept_while_they_may_sign_and_a_rotation_is_under_way() {
    let mut state = State::new("prod.example".into(), users("aa", NOW), 1, LEAF, NOW);
    let mut kept = vec![];
    let mut now = NOW;
    for change in
        [bring("bb", Some("aa"), NOW), Change::Published, Change::Activate, Change::Activated, Change::Drop]
    {
        if state.rotation.phase != Phase::Steady {
            now = now.max(due(&state).unwrap());
        }
        state = apply(&state, change, now).unwrap();
        state.check().unwrap();
        let of_root = |root: &Root| root.kept.as_ref().map(|offer| offer.chain.to_string());
        kept.push(state.roots.iter().filter_map(of_root).collect::<Vec<_>>().concat());
    }
    assert_eq!(kept, ["aabb", "aabb", "bb", "bb", ""]);
}

#[test]
fn until_his_next_root_signs_a_rotation_to_it_is_taken_back_when_he_does_not_bring_it_any_more() {
    let state = apply(&steady(), bring("bb", None, NOW), NOW).unwrap();
    let converge = apply(&state, Change::Published, NOW).unwrap();
    for state in [&state, &converge] {
        for (offered, taken_back) in [
            (Offered::Root("bb"), false),
            (Offered::Unusable, false),
            (Offered::Root("aa"), true),
            (Offered::Root("cc"), true),
            (Offered::Nothing, true),
        ] {
            assert_eq!(next(state, offered, NOW) == Some(Step::Abandon), taken_back, "{offered:?}");
        }
        let back = apply(state, Change::Abandon, NOW).unwrap();
        back.check().unwrap();
        assert_eq!((ids(&back, Role::Active), back.roots.len()), (vec!["aa"], 1));
        assert_eq!(back.bundle_sequence, state.bundle_sequence + 1);
    }
    for phase in [Phase::Steady, Phase::Prepare, Phase::Converge, Phase::Activate, Phase::Retire] {
        let (ours, now) = at(phase);
        assert!(apply(&ours, Change::Abandon, now).is_err(), "a root of ours, {phase}");
        assert_ne!(next(&ours, Offered::Nothing, now), Some(Step::Abandon));
    }
    let signs = apply(&converge, Change::Activate, NOW + 2 * LEAF).unwrap();
    assert!(apply(&signs, Change::Abandon, NOW + 2 * LEAF).is_err());
}

#[test]
fn his_active_root_is_distrusted_only_for_another_of_his_also_for_the_one_that_retires() {
    let mut state = State::new("prod.example".into(), users("aa", NOW), 1, LEAF, NOW);
    let without = Change::Distrust { id: "aa".into(), fresh: None };
    assert_eq!(apply(&state, without, NOW).unwrap_err(), OutOfOrder::NoReplacement);
    for change in [bring("bb", Some("aa"), NOW), Change::Published, Change::Activate] {
        let now = due(&state).unwrap_or(NOW);
        state = apply(&state, change, now).unwrap();
    }
    let back = Change::Distrust { id: "bb".into(), fresh: Some(users("aa", NOW)) };
    let state = apply(&state, back, NOW + LEAF).unwrap();
    state.check().unwrap();
    assert_eq!((ids(&state, Role::Active), state.roots.len()), (vec!["aa"], 1));
    assert_eq!(state.rotation.phase, Phase::Steady);
}

mod law;
