//! How a record changes: before a step is taken ([`begin`], which is stored), and by what came of it ([`apply`]). Pure, but for the
//! key that [`begin`] makes; what asks CAs and solvers is [`crate::steps`].

use rcgen::KeyPair;
use zeroize::Zeroizing;

use crate::{
    order::{Order, Pending, Stage},
    plan::{IN_FLIGHT, Step, Wish, back_off, call_again, longest_pause, moving},
    problem::{Problem, bounded},
    record::{
        DAY, Failure, HOUR, Held, MAX_WORDS, Moving, Record, Rehearsed, RetryAfter, Telling, TriedWith,
        Trouble, Window, With,
    },
    secret::Secret,
    solver::Seen,
};

/// What came of a step. Seconds where something is to be waited for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Outcome {
    Ordered {
        url: String,
    },
    /// The CA takes no order that replaces this certificate: it is asked for again, without.
    NoReplacement,
    /// The order wants these.
    Challenges(Vec<Pending>),
    /// All names are ours.
    Proven,
    /// They are where the CA will look.
    Presented(Seen),
    Told,
    /// The CA has not looked yet.
    NotYet {
        after: Option<i64>,
    },
    /// It was not told about all of them; it believes these (as in the certificate).
    NotTold {
        proven: Vec<String>,
    },
    Finalized,
    /// It was not asked for the certificate: what was sent got lost.
    NotFinalized,
    Certificate(Box<Held>),
    /// The order has failed, in these words.
    Refused {
        problem: Problem,
        after: Option<i64>,
    },
    /// A call has failed; the order is as it was.
    Trouble {
        with: With,
        problem: Problem,
        after: Option<i64>,
        seen: Option<Seen>,
        /// The CA may have done what it was asked for all the same.
        unsure: bool,
    },
    Promoted,
    Abandoned {
        failed: bool,
    },
    Window {
        window: Window,
        after: i64,
    },
    /// The CA has no such thing.
    NoWindow,
    WindowTrouble,
    Noticed,
    Cleared,
    NotCleared,
}

/// What is stored before `step` is taken; whether anything changed. Errors: no key could be made.
pub fn begin(record: &mut Record, step: Step, wish: Option<&Wish>, now: i64) -> Result<bool, rcgen::Error> {
    match (step, &mut record.order, wish) {
        (Step::Ask { rehearsal, replaces }, order, Some(wish)) => {
            if let Some(again) = order {
                // Seen at Pebble: a CA that is well, but for what it remembers of the certificate that is replaced.
                again.replaces &= record.trouble.as_ref().is_none_or(|trouble| trouble.count < PLAINLY);
            } else {
                *order = Order::new(&wish.issuer, wish, rehearsal, replaces, now);
                record.seen = None;
                if record.tried_with.as_ref().is_none_or(|with| !with.fits(wish)) {
                    (record.failed, record.next_try) = (0, 0);
                    record.tried_with = Some(TriedWith::new(wish));
                }
            }
            record.in_vain.push(now);
            record.tried = now;
        }
        (Step::Tell, Some(order), _) => {
            (order.stage, order.told) = (Stage::Telling { since: now, next: now + POLL }, now);
            record.tellings.extend(order.unproven().map(|name| Telling { name, at: now }));
        }
        (Step::Finalize, Some(order), _) => {
            if order.key.is_none() {
                order.key = Some(Secret::new(Zeroizing::new(KeyPair::generate()?.serialize_pem())));
            }
            order.stage = Stage::Finalizing { since: now, next: now + POLL };
        }
        (Step::Notice, _, Some(wish)) => {
            record.moving = moving(record, wish).map(|to| Moving { to: to.to_owned(), since: now });
        }
        _ => return Ok(false),
    }
    record.prune(now);
    Ok(true)
}

/// The record after a step.
pub fn apply(record: &mut Record, outcome: Outcome, now: i64) {
    let is_trouble = matches!(outcome, Outcome::Trouble { .. });
    let is_of_order = !matches!(
        outcome,
        Outcome::Noticed
            | Outcome::Cleared
            | Outcome::NotCleared
            | Outcome::Window { .. }
            | Outcome::NoWindow
            | Outcome::WindowTrouble
    );
    let last = record.trouble.as_ref().map(|trouble| trouble.problem.clone());
    if is_of_order && !is_trouble {
        record.twin_silent_since = None;
        // What has to be done again has not got over its trouble yet.
        if !matches!(outcome, Outcome::NotTold { .. } | Outcome::NotFinalized) {
            record.trouble = None;
        }
    }
    match outcome {
        Outcome::Promoted => promoted(record, now),
        Outcome::Abandoned { failed: false } => record.end_order(),
        Outcome::Abandoned { failed: true } => {
            refused(record, too_slow(last), None, now);
        }
        Outcome::Refused { problem, after } => {
            // Its Retry-After holds back what comes.
            if after.is_some() {
                never_asked(record);
            }
            refused(record, problem, after, now);
        }
        Outcome::Trouble { with, problem, after, seen, unsure } => {
            record.seen = seen.or(record.seen.take());
            if !unsure {
                never_asked(record);
            }
            trouble(record, with, problem, after, now);
        }
        Outcome::Certificate(held) => {
            record.end_order();
            record.held = Some(*held);
            record.failures.clear();
            record.in_vain.clear();
            (record.failed, record.next_try, record.rehearsed) = (0, 0, None);
        }
        Outcome::NoReplacement => {
            record.end_order();
            if let Some(held) = &mut record.held {
                held.replaced = true;
            }
        }
        Outcome::Window { window, after } => {
            if let Some(held) = &mut record.held {
                held.window = Some(window);
                held.ask_window = Some(now + after.clamp(WINDOW_SOONEST, WINDOW_LATEST));
            }
        }
        Outcome::NoWindow => {
            if let Some(held) = &mut record.held {
                (held.window, held.ask_window) = (None, None);
            }
        }
        Outcome::WindowTrouble => {
            if let Some(held) = &mut record.held {
                held.ask_window = Some(now + (held.life() / 10).clamp(WINDOW_SOONEST, HOUR));
            }
        }
        Outcome::Cleared => record.leftover = crate::record::Leftover::default(),
        Outcome::NotCleared => not_cleared(record, now),
        Outcome::Noticed => {} // stored before
        of_order => advance(record, of_order, now),
    }
}

/// A step of the order that went well.
fn advance(record: &mut Record, outcome: Outcome, now: i64) {
    let Some(order) = &mut record.order else { return };
    match outcome {
        Outcome::Ordered { url } => (order.url, order.stage) = (Some(url), Stage::Reading),
        Outcome::Challenges(challenges) => (order.challenges, order.stage) = (challenges, Stage::Presenting),
        Outcome::Presented(seen) => {
            order.stage = Stage::Presented;
            record.seen = Some(seen);
        }
        Outcome::Told => order.stage = Stage::Validating { polls: 0, next: now + POLL },
        Outcome::NotYet { after } => {
            let wait = |polls: u32| after.unwrap_or(1 << polls.min(5)).clamp(POLL, LONGEST_POLL);
            match &mut order.stage {
                Stage::Validating { polls, next } | Stage::Issuing { polls, next } => {
                    (*polls, *next) = (polls.saturating_add(1), now + wait(*polls));
                }
                // It heard what we were not sure to have said: from here on it is asked ever more seldom.
                Stage::Telling { .. } => order.stage = Stage::Validating { polls: 0, next: now + wait(0) },
                Stage::Finalizing { .. } => order.stage = Stage::Issuing { polls: 0, next: now + wait(0) },
                _ => {}
            }
        }
        Outcome::NotTold { proven } => {
            if let Stage::Telling { since, next } = &mut order.stage
                && now < *since + IN_FLIGHT
            {
                *next = *since + IN_FLIGHT;
            } else {
                order.stage = Stage::Presenting;
            }
            for pending in &mut order.challenges {
                pending.proven |= proven.contains(&pending.name());
            }
            let begun = order.begun;
            record.tellings.retain(|telling| telling.at < begun || !proven.contains(&telling.name));
        }
        Outcome::Proven => {
            order.stage = Stage::Ready;
            let (begun, names) = (order.begun, &record.names);
            record
                .tellings
                .retain(|telling| telling.at < begun || !names.iter().any(|name| name == telling.name));
        }
        Outcome::Finalized => order.stage = Stage::Issuing { polls: 0, next: now },
        Outcome::NotFinalized => match &mut order.stage {
            Stage::Finalizing { since, next } if now < *since + IN_FLIGHT => *next = *since + IN_FLIGHT,
            stage => *stage = Stage::Ready,
        },
        _ => {}
    }
}

/// The CA surely has no order of the try just made: that is none that brought nothing.
fn never_asked(record: &mut Record) {
    let tried = record.tried;
    if record.order.as_ref().is_some_and(|order| order.stage == Stage::Asking) {
        record.in_vain.pop_if(|last| *last == tried);
    }
}

/// A rehearsal ends, by the twin's word or for want of it, and the CA itself is asked at once.
fn promoted(record: &mut Record, now: i64) {
    let skipped = record.order.as_ref().is_none_or(|order| order.stage != Stage::Ready);
    record.rehearsed = Some(Rehearsed { at: now, skipped });
    record.next_try = 0;
    record.end_order();
}

/// With what went wrong last, if anything did.
fn too_slow(last: Option<Problem>) -> Problem {
    let slow = "the CA did not finish the order in time";
    match last {
        None => Problem::ours(slow),
        Some(last) => Problem { detail: bounded(&format!("{slow}: {}", last.detail)), ..last },
    }
}

fn refused(record: &mut Record, problem: Problem, after: Option<i64>, now: i64) {
    let Some(order) = &record.order else { return };
    let (rehearsal, directory) = (order.rehearsal, order.directory.clone());
    retry_after(record, after, now);
    record.failed = record.failed.saturating_add(1);
    record.next_try = now + back_off(record.failed, longest_pause(record, now), &mut random(record, now));
    record.keep_failure(Failure { at: now, rehearsal, directory, problem });
    record.rehearsed = None;
    record.end_order();
}

fn trouble(record: &mut Record, with: With, mut problem: Problem, after: Option<i64>, now: i64) {
    let mut left = MAX_WORDS;
    problem.bound_names(&mut left);
    retry_after(record, after, now);
    if with == With::Ca && record.order.as_ref().is_some_and(|order| order.rehearsal) {
        record.twin_silent_since.get_or_insert(now);
    }
    let (since, count) =
        record.trouble.as_ref().map_or((now, 1), |old| (old.since, old.count.saturating_add(1)));
    let next = now + call_again(count, longest_pause(record, now), &mut random(record, now));
    record.trouble = Some(Trouble { since, count, next, with, problem });
}

fn not_cleared(record: &mut Record, now: i64) {
    let tries = record.leftover.tries.saturating_add(1);
    let next = now + call_again(tries, i64::MAX, &mut random(record, now));
    (record.leftover.tries, record.leftover.next) = (tries, next);
    if tries >= MAX_CLEARS {
        record.leftover = crate::record::Leftover::default();
    }
}

fn retry_after(record: &mut Record, after: Option<i64>, now: i64) {
    let (Some(after), Some(order)) = (after, &record.order) else { return };
    let (directory, until) = (order.directory.clone(), now + after.clamp(0, LONGEST_RETRY_AFTER));
    record.retry_after.retain(|said| said.directory != directory && said.until > now);
    record.retry_after.push(RetryAfter { directory, until });
}

/// The same for the same record at the same second.
fn random(record: &Record, now: i64) -> fastrand::Rng {
    fastrand::Rng::with_seed(record.seed ^ now.unsigned_abs())
}

/// Between two questions, seconds: at least, and at most whatever the CA says.
const POLL: i64 = 1;
const LONGEST_POLL: i64 = 600;
/// Let's Encrypt's longest limit is counted over a week. A CA that says more is asked again all the same.
const LONGEST_RETRY_AFTER: i64 = 7 * DAY;
/// Between two questions for the window: RFC 9773 4.3.2 would have us take less as a minute and more as a day; Let's Encrypt, ask twice
/// a day.
const WINDOW_SOONEST: i64 = 60;
const WINDOW_LATEST: i64 = DAY / 2;
/// A challenge that cannot be taken back in about two hours stays: it proves nothing to anybody any more.
const MAX_CLEARS: u32 = 12;
/// Failed calls after which an order is asked for without what it replaces: it is asked for sooner than ARI's exemption from limits is worth.
const PLAINLY: u32 = 2;
