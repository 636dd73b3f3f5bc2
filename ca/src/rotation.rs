//! Rotation of the root, as a pure state machine: state and time in, next step out.
//!
//! | phase    | is over when                                             | then                                          |
//! |----------|----------------------------------------------------------|-----------------------------------------------|
//! | steady   | half of the root's life is gone, or someone says so,     | a new root is made, or the user's is taken,   |
//! |          | or the user brings another root                          | and joins the bundle                          |
//! | prepare  | the bundle is published, written and read back           | its publication is dated                      |
//! | converge | every leaf issued before that date has expired           | the new root signs; the old one retires       |
//! | activate | the intermediate in use is one of the new root           | that is dated                                 |
//! | retire   | every leaf issued before that date has expired           | the old root leaves the bundle                |
//!
//! **The law**: whoever holds any bundle that was current within the last leaf life can verify every valid leaf. A holder of
//! an older one has no valid leaf of its own, since each issuance brings the bundle. (`tests`: the law holds with
//! crashes at every point, and with a replica that is cut off.)
//!
//! Where replicas share the state, `prepare` and `activate` are not over before all of them have seen the phase, or have
//! fallen silent; `authority` knows when.
//!
//! A root of the user's own is never replaced by one that we make: the user brings the next one, and what signs under it with
//! it. While a rotation is under way the state keeps that, for both of the roots. Until `activate` it is taken back, to `steady`,
//! where the user brings the next root no longer: that one has signed nothing yet.
//!
//! Here are decisions only. `authority` stores each new state before it takes effect, so a restart resumes.

use std::{fmt, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};
use signet_core::schedule;

use crate::{
    brought::SECRET,
    state::{Distrusted, Offer, Role, Root, State},
};

/// Where a rotation stands, since when (Unix seconds). For `converge` and `retire`, the moment that waiting counts from.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Rotation {
    pub phase: Phase,
    pub since: i64,
}

#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    Steady,
    Prepare,
    Converge,
    Activate,
    Retire,
}

/// The next thing to do. Each is one [`Change`] of the state.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Step {
    MakeRoot,
    /// Take the root that the user brings.
    Bring,
    /// Leave it, since the user does not bring it any more.
    Abandon,
    Publish,
    Activate,
    Retire,
    Drop,
}

/// What the user brings, as far as it counts here.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Offered<'a> {
    Nothing,
    /// Something that cannot be used.
    Unusable,
    /// An intermediate of the root with this id.
    Root(&'a str),
}

/// A step that was done, or an order, on its way into the state.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    /// Starts a rotation with this new root.
    Prepare(Root),
    /// The same with a root of the user's, and what signs under it; `kept` is that of the active root, if it is the user's too.
    Bring {
        root: Root,
        offer: Offer,
        kept: Option<Offer>,
    },
    /// Ends a rotation to a root of the user's that has signed nothing yet.
    Abandon,
    /// The bundle with the next root is published.
    Published,
    Activate,
    /// Leaves are signed under the new root.
    Activated,
    Drop,
    /// Out with a root at once. `fresh` takes its place if it was the active one.
    Distrust {
        id: Arc<str>,
        fresh: Option<Root>,
    },
}

/// What to do at `now`, if anything.
pub(crate) fn next(state: &State, offered: Offered<'_>, now: i64) -> Option<Step> {
    match state.rotation.phase {
        Phase::Steady => match (state.root_as(Role::Active)?, offered) {
            (active, Offered::Root(id)) if *active.id != *id => return Some(Step::Bring),
            // Beside what the user brings, usable or not, none is made.
            (_, Offered::Root(_) | Offered::Unusable) => return None,
            (_, Offered::Nothing) => {}
        },
        Phase::Prepare | Phase::Converge => match (state.root_as(Role::Next)?, offered) {
            (next, _) if next.key.is_some() => {}
            (next, Offered::Root(id)) if *next.id == *id => {}
            (_, Offered::Root(_) | Offered::Nothing) => return Some(Step::Abandon),
            (_, Offered::Unusable) => {} // it is told; what was brought is kept
        },
        Phase::Activate | Phase::Retire => {}
    }
    (now >= due(state)?).then_some(match state.rotation.phase {
        Phase::Steady => Step::MakeRoot,
        Phase::Prepare => Step::Publish,
        Phase::Converge => Step::Activate,
        Phase::Activate => Step::Retire,
        Phase::Retire => Step::Drop,
    })
}

/// When the next step is due, Unix seconds. `None`: when the user brings another root.
pub(crate) fn due(state: &State) -> Option<i64> {
    let since = state.rotation.since;
    match state.rotation.phase {
        Phase::Steady => state.root_as(Role::Active).filter(|root| root.key.is_some()).map(rotation_due),
        Phase::Prepare | Phase::Activate => Some(since),
        Phase::Converge | Phase::Retire => {
            Some((since + state.leaf_life).max(state.earlier_leaves_until) + skew(state.leaf_life))
        }
    }
}

/// The state after `change`, or why that is out of order. The caller stores it before it takes effect.
pub(crate) fn apply(state: &State, change: Change, now: i64) -> Result<State, OutOfOrder> {
    let mut next = state.clone();
    let phase = state.rotation.phase;
    let mut enter = |phase| next.rotation = Rotation { phase, since: now };
    match (change, phase) {
        (Change::Prepare(root), Phase::Steady) => {
            enter(Phase::Prepare);
            next.roots.push(Root { role: Role::Next, ..root });
            next.bundle_sequence += 1;
        }
        (Change::Bring { root, offer, kept }, Phase::Steady) => {
            enter(Phase::Prepare);
            for active in &mut next.roots {
                active.kept.clone_from(&kept);
            }
            next.roots.push(Root { role: Role::Next, kept: Some(offer), ..root });
            next.bundle_sequence += 1;
        }
        (Change::Prepare(_) | Change::Bring { .. }, phase) => return Err(OutOfOrder::UnderWay { phase }),
        (Change::Abandon, Phase::Prepare | Phase::Converge)
            if state.root_as(Role::Next).is_some_and(|next| next.key.is_none()) =>
        {
            enter(Phase::Steady);
            next.roots.retain(|root| root.role != Role::Next);
            next.bundle_sequence += 1;
        }
        (Change::Published, Phase::Prepare) => enter(Phase::Converge),
        (Change::Activate, Phase::Converge) if due(state).is_some_and(|due| now >= due) => {
            enter(Phase::Activate);
            for root in &mut next.roots {
                root.role = if root.role == Role::Next { Role::Active } else { Role::Retiring };
            }
        }
        (Change::Activated, Phase::Activate) => enter(Phase::Retire),
        (Change::Drop, Phase::Retire) if due(state).is_some_and(|due| now >= due) => {
            enter(Phase::Steady);
            next.roots.retain(|root| root.role == Role::Active);
            next.bundle_sequence += 1;
        }
        (Change::Distrust { id, fresh }, _) => {
            return distrust(next, &id, fresh, now).map(without_spare_keys);
        }
        (change, phase) => return Err(OutOfOrder::Step { change: name(&change), phase }),
    }
    Ok(without_spare_keys(next))
}

/// What is kept of the user's is kept for as long as it may have to sign.
fn without_spare_keys(mut state: State) -> State {
    let is_over = state.rotation.phase == Phase::Steady;
    for root in state.roots.iter_mut().filter(|root| is_over || root.role == Role::Retiring) {
        root.kept = None;
    }
    state
}

/// The emergency act: the root leaves the bundle and goes on its list of those never to be believed.
fn distrust(mut next: State, id: &str, fresh: Option<Root>, now: i64) -> Result<State, OutOfOrder> {
    if next.distrusted.iter().any(|root| &*root.id == id) {
        return Err(OutOfOrder::AlreadyDistrusted { id: shown(id) });
    }
    let Some(root) = next.root(id).cloned() else { return Err(OutOfOrder::UnknownRoot { id: shown(id) }) };
    next.distrusted.retain(|root| root.not_after >= now);
    next.distrusted.push(Distrusted { id: root.id, not_after: root.not_after });
    next.roots.retain(|root| &*root.id != id);
    next.bundle_sequence += 1;
    if root.role == Role::Active {
        let fresh = fresh.ok_or(OutOfOrder::NoReplacement)?;
        // A next one signed nothing yet, and its key lay beside the bad one; a retiring one may be what the user brings back.
        next.roots.retain(|root| root.role != Role::Next && root.id != fresh.id);
        next.roots.push(Root { role: Role::Active, ..fresh });
    }
    // A retiring root that is left keeps its clock; without one there is nothing more to wait for.
    let waiting = matches!(next.rotation.phase, Phase::Activate | Phase::Retire)
        && next.root_as(Role::Retiring).is_some();
    let preparing =
        matches!(next.rotation.phase, Phase::Prepare | Phase::Converge) && next.root_as(Role::Next).is_some();
    if !waiting && !preparing {
        next.rotation = Rotation { phase: Phase::Steady, since: now };
    }
    Ok(next)
}

/// Half of a root's life, jitter from its id: the same at every restart, another in every cluster.
fn rotation_due(root: &Root) -> i64 {
    let life = Duration::from_secs(u64::try_from(root.not_after - root.made).unwrap_or(0));
    let spread = u32::from_str_radix(root.id.get(..8).unwrap_or_default(), 16).unwrap_or(0);
    let after = schedule::renew_after(life, f64::from(spread) / f64::from(u32::MAX));
    root.made.saturating_add(i64::try_from(after.as_secs()).unwrap_or(i64::MAX))
}

/// How long one clock may lag another: what leaves are back-dated by, but at most a tenth of their life, so that a test's
/// short leaves do not wait for minutes. Two seconds at least: times are whole seconds at both ends.
fn skew(leaf_life: i64) -> i64 {
    (leaf_life / 10).clamp(2, crate::issue::BACKDATED)
}

fn name(change: &Change) -> &'static str {
    match change {
        Change::Prepare(_) => "prepare",
        Change::Bring { .. } => "bring",
        Change::Abandon => "abandon",
        Change::Published => "published",
        Change::Activate => "activate",
        Change::Activated => "activated",
        Change::Drop => "drop",
        Change::Distrust { .. } => "distrust",
    }
}

fn shown(id: &str) -> String {
    id.chars().take(64).collect()
}

/// A change that this state does not allow; nothing was changed.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum OutOfOrder {
    #[error("a rotation is under way ({phase}); it ends by itself, see signet ca status")]
    UnderWay { phase: Phase },
    #[error("{change} is out of order in phase {phase}, or too early; nothing was changed")]
    Step { change: &'static str, phase: Phase },
    #[error("{id:?} is no root of this CA; signet ca status lists them")]
    UnknownRoot { id: String },
    #[error("root {id:?} is distrusted already")]
    AlreadyDistrusted { id: String },
    #[error(
        "the active root is your own, and what takes its place is for you to bring: put an intermediate of another root into \
         {SECRET}, then distrust this one"
    )]
    NoReplacement,
    #[error(
        "the active root is your own: to rotate, put an intermediate of another root into {SECRET} (docs/ca.md)"
    )]
    Brought,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Steady => "steady",
            Self::Prepare => "prepare",
            Self::Converge => "converge",
            Self::Activate => "activate",
            Self::Retire => "retire",
        })
    }
}

#[cfg(test)]
mod tests;
