//! What is done next for a certificate, and when. Pure: a record, what is wanted and the time in, one step out; the same on every
//! replica and after every restart. docs/acme.md draws the stages and says what a crash at each of them costs.
//!
//! The laws, which the tests hold: no step before its time; no name is shown to a CA for a fifth time within an hour of four that
//! came to nothing; a held certificate is never dropped before its end; its renewal is planned before a third of its life is left (half,
//! below ten days); a rehearsal happens only where there is a twin and nothing valid is held.

use std::{collections::BTreeMap, fmt};

use crate::{
    issuer::Issuer,
    names::NameSet,
    order::{Kind, Order, Stage},
    record::{DAY, HOUR, Held, Record, TEN_DAYS, Telling},
};

mod pauses;

pub(crate) use pauses::{back_off, call_again, longest_pause};

/// What is wanted of one certificate now, beside its names.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Wish {
    pub issuer: Issuer,
    pub kind: Kind,
    /// Whose Ingress asks.
    pub namespace: String,
    /// Why nothing may be ordered now (preflight, DNS scope, a host that is not claimed). What is held stays.
    pub held_back: Option<String>,
    /// When a person asked for a new one last (`signet cert renew`). It passes our back-off, never a limit or the CA's Retry-After.
    pub renew: Option<i64>,
}

/// One thing to do, once. Those of an order are in their order.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Step {
    /// Nothing, until record or wish change.
    Wait,
    /// Ask the CA (in a rehearsal its twin) for an order.
    Ask { rehearsal: bool, replaces: bool },
    /// Read what the order wants of us.
    Read,
    /// Put the challenges where the CA will look, and see that they are there.
    Present,
    /// Tell the CA to look.
    Tell,
    /// Ask whether it believes us.
    Poll,
    /// Ask for the certificate: once for each order.
    Finalize,
    /// Ask whether it is there, and fetch it.
    Collect,
    /// Give the order up; `failed`: it was too slow, which counts like any other failure.
    Abandon { failed: bool },
    /// End a rehearsal that the twin does not answer in, and go on as if it had been one.
    Promote,
    /// Ask when the CA wants the certificate to be renewed (RFC 9773).
    AskWindow,
    /// Take back challenges that nobody needs any more.
    Clear,
    /// Store since when another CA is wanted than the one that made the certificate, or that it no longer is.
    Notice,
    /// Delete the record: nobody wants it, and its certificate has ended.
    Forget,
}

/// A step and when to take it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Plan {
    /// Unix seconds; [`i64::MAX`]: never.
    pub at: i64,
    pub step: Step,
    pub because: Because,
}

impl Plan {
    pub fn is_due(&self, now: i64) -> bool {
        self.step != Step::Wait && self.at <= now
    }
}

/// Why this, and why not sooner: for `signet cert why`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Because {
    First,
    OtherIssuer,
    /// Another CA must be wanted for [`SETTLED`], where there is a valid certificate.
    Settling,
    Ended,
    Asked,
    /// By its life.
    Renewal,
    /// By the CA's window.
    Window,
    /// An order is under way.
    UnderWay,
    /// After calls or orders that failed.
    BackOff,
    /// The CA said so.
    RetryAfter,
    /// Four looks at one name within an hour came to nothing.
    Looks {
        name: String,
    },
    /// So many orders within an hour brought nothing.
    Orders,
    HeldBack(String),
    TwinSilent,
    Unwanted,
    Housekeeping,
}

/// When names were shown to a CA without success, over all records.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Tellings(BTreeMap<String, Vec<(String, i64)>>);

impl Tellings {
    pub fn of<'a>(records: impl IntoIterator<Item = &'a Record>) -> Self {
        let mut all = Self::default();
        for record in records.into_iter().filter(|record| !record.tellings.is_empty()) {
            let id = record.id();
            // No CA's word makes a record count for a name that is another's.
            let own = |telling: &&Telling| record.names.contains(&telling.name);
            for telling in record.tellings.iter().filter(own) {
                all.0.entry(telling.name.clone()).or_default().push((id.clone(), telling.at));
            }
        }
        all
    }

    /// Of every record but the one with this id.
    fn of_others<'a>(&'a self, name: &str, id: &'a str) -> impl Iterator<Item = i64> + 'a {
        let all = self.0.get(name).into_iter().flatten();
        all.filter(move |(of, _)| of != id).map(|(_, at)| *at)
    }
}

/// The next step for `record`. `wish`: `None` where nobody wants it any more. `all`: the limit of a name counts over all records; what it
/// has of this one is left out, because the record brings its own.
pub fn plan(record: &Record, wish: Option<&Wish>, all: &Tellings, now: i64) -> Plan {
    let mut candidates = Vec::with_capacity(4);
    if !record.leftover.challenges.is_empty() {
        candidates.push(Plan { at: record.leftover.next, step: Step::Clear, because: Because::Housekeeping });
    }
    if wish
        .is_some_and(|wish| moving(record, wish) != record.moving.as_ref().map(|moving| moving.to.as_str()))
    {
        return Plan { at: now, step: Step::Notice, because: Because::Settling };
    }
    match (wish, &record.order) {
        // Its certificate may be there when somebody wants it again.
        (None, Some(order)) if order.is_sealed() => {
            candidates.push(abandon(too_slow(record, order), Because::Unwanted));
        }
        (None, Some(_)) => candidates.push(abandon(now, Because::Unwanted)),
        (Some(wish), Some(order)) if !order.fits(wish) => {
            candidates.push(abandon(settled(record, wish, now), Because::OtherIssuer));
        }
        (Some(Wish { held_back: Some(why), .. }), Some(order)) if !order.is_sealed() => {
            candidates.push(abandon(now, Because::HeldBack(why.clone())));
        }
        (Some(_), Some(order)) => under_way(record, order, all, now, &mut candidates),
        // Who forgot them could not take them back.
        (None, None) if record.leftover.challenges.is_empty() => candidates.push(forget(record)),
        (None, None) => {}
        (Some(wish), None) => {
            candidates.push(next_order(record, wish, now));
            if let Some(at) = record.held.as_ref().and_then(|held| held.ask_window)
                && held_of(record, &wish.issuer, at.max(now)).is_some()
            {
                candidates.push(Plan { at, step: Step::AskWindow, because: Because::Housekeeping });
            }
        }
    }
    let waits = Plan { at: i64::MAX, step: Step::Wait, because: Because::Housekeeping };
    // The first of those that are due, else the one that is due first. `min_by_key` takes the first of equals.
    candidates.into_iter().min_by_key(|plan| plan.at.max(now)).unwrap_or(waits)
}

/// The CA that is wanted, where it is another one than that whose certificate is held or asked for. From a staging directory to its
/// twin nothing is lost.
pub(crate) fn moving<'a>(record: &Record, wish: &'a Wish) -> Option<&'a str> {
    let sealed = record.order.as_ref().filter(|order| order.is_sealed()).map(|order| &order.directory);
    let from = sealed.or(record.held.as_ref().map(|held| &held.directory))?;
    let is_same = *from == wish.issuer.directory || wish.issuer.twin.as_ref() == Some(from);
    (!is_same).then_some(wish.issuer.directory.as_str())
}

/// When another CA has been wanted for so long that it is meant: an Issuer that is gone for a moment sends no names elsewhere. Whoever asks
/// (`signet cert renew`) means it.
fn settled(record: &Record, wish: &Wish, now: i64) -> i64 {
    let Some(moving) = &record.moving else { return now };
    let is_sealed = record.order.as_ref().is_some_and(Order::is_sealed);
    let end = record.held.as_ref().map_or(i64::MIN, |held| held.not_after.saturating_add(1));
    let is_meant = wish.renew.is_some_and(|asked| asked > moving.since);
    if is_meant || (!is_sealed && end <= now) {
        return now;
    }
    let at = moving.since + SETTLED;
    if is_sealed { at } else { at.min(end) }
}

fn abandon(at: i64, because: Because) -> Plan {
    Plan { at, step: Step::Abandon { failed: false }, because }
}

/// When its certificate has ended, and nothing of it counts any more: tries do for an hour, a CA's Retry-After as long as it says.
fn forget(record: &Record) -> Plan {
    let end = record.held.as_ref().map_or(0, |held| held.not_after.saturating_add(1));
    let tries = record.tellings.iter().map(|telling| telling.at).chain(record.in_vain.iter().copied());
    let counts = tries.max().map_or(0, |at| at + HOUR);
    let bound = record.retry_after.iter().map(|said| said.until).max().unwrap_or(0);
    Plan { at: end.max(counts).max(bound), step: Step::Forget, because: Because::Unwanted }
}

/// The step that an order's stage asks for, and what ends it from outside.
fn under_way(record: &Record, order: &Order, all: &Tellings, now: i64, candidates: &mut Vec<Plan>) {
    if order.rehearsal
        && let Some(since) = record.twin_silent_since
    {
        candidates.push(Plan {
            at: since + TWIN_PATIENCE,
            step: Step::Promote,
            because: Because::TwinSilent,
        });
    }
    let ca_until = record.ca_until(&order.directory);
    candidates.push(Plan {
        at: too_slow(record, order),
        step: Step::Abandon { failed: true },
        because: Because::UnderWay,
    });

    let (step, at, because) = match order.stage {
        Stage::Asking => {
            let (at, because) = orders_gate(record);
            (Step::Ask { rehearsal: order.rehearsal, replaces: order.replaces }, at, because)
        }
        Stage::Reading => (Step::Read, now, Because::UnderWay),
        Stage::Presenting => (Step::Present, now, Because::UnderWay),
        Stage::Presented => {
            let (at, because) = looks_gate(record, order, all, now);
            (Step::Tell, at, because)
        }
        Stage::Telling { next, .. } | Stage::Validating { next, .. } => (Step::Poll, next, Because::UnderWay),
        Stage::Ready if order.rehearsal => (Step::Promote, now, Because::UnderWay),
        Stage::Ready => (Step::Finalize, now, Because::UnderWay),
        Stage::Finalizing { next, .. } | Stage::Issuing { next, .. } => {
            (Step::Collect, next, Because::UnderWay)
        }
    };
    let mut plan = Plan { at, step, because };
    if let Some(trouble) = &record.trouble {
        plan.not_before(trouble.next, Because::BackOff);
    }
    plan.not_before(ca_until, Because::RetryAfter);
    candidates.push(plan);
}

/// When an order has taken too long.
fn too_slow(record: &Record, order: &Order) -> i64 {
    // One that is sealed may still bring a certificate, so it is given more of it.
    let patience = if order.is_sealed() { SEALED_PATIENCE } else { PATIENCE };
    let since = order.begun.max(record.ca_until(&order.directory));
    let patient = since.saturating_add(patience);
    match &record.held {
        // What gateways or zones take until they answer, and our own limits, are not the CA's slowness.
        Some(held) if held.life() < TEN_DAYS && !order.stage.is_ours() => {
            patient.min(since.max(order.told) + (held.life() / 4).max(SHORT_PATIENCE))
        }
        _ => patient,
    }
}

/// When an order is asked for, where there is none.
fn next_order(record: &Record, wish: &Wish, now: i64) -> Plan {
    if let Some(why) = held_back(record, wish) {
        return Plan { at: i64::MAX, step: Step::Wait, because: Because::HeldBack(why) };
    }
    let (at, because) = wanted(record, wish, now);
    let mut plan = Plan { at, step: Step::Wait, because };
    if plan.because == Because::OtherIssuer {
        let at = settled(record, wish, now);
        plan.not_before(if at > now { at } else { 0 }, Because::Settling);
    }
    let passes = wish.renew.is_some_and(|at| at > record.tried);
    // What failed with another CA, or another kind of challenge, says nothing about this one.
    if !passes && record.tried_with.as_ref().is_some_and(|with| with.fits(wish)) {
        plan.not_before(record.next_try, Because::BackOff);
    }
    let (gate, because) = orders_gate(record);
    plan.not_before(gate, because);
    // What it is by then: a rehearsal is bound by the twin's Retry-After only, an order at the CA by the CA's.
    let rehearsed_until = record.rehearsed.as_ref().map_or(0, |word| word.at + REHEARSED_FOR);
    let is_rehearsal = |at: i64| {
        wish.issuer.twin.is_some() && held_of(record, &wish.issuer, at).is_none() && at >= rehearsed_until
    };
    let bound = |rehearsal| record.ca_until(wish.issuer.directory_of(rehearsal).unwrap_or_default());
    let held_until = record.held.as_ref().map_or(0, |held| held.not_after.saturating_add(1));
    let soonest = plan.at.max(now);
    let mut times = [soonest, bound(true), bound(false), held_until, rehearsed_until];
    times.sort_unstable();
    let may = times.into_iter().find(|at| *at >= soonest && bound(is_rehearsal(*at)) <= *at);
    plan.not_before(may.filter(|at| *at > soonest).unwrap_or(0), Because::RetryAfter);
    let at = plan.at.max(now);
    let can_replace = |held: &Held| held.ask_window.is_some() && held.ari_id.is_some() && !held.replaced;
    let replaces = held_of(record, &wish.issuer, at).is_some_and(can_replace);
    plan.step = Step::Ask { rehearsal: is_rehearsal(at), replaces };
    plan
}

/// Why nothing is ordered: the wish's own reason, or one that no CA would get over.
fn held_back(record: &Record, wish: &Wish) -> Option<String> {
    impossible(&record.names, &wish.issuer, wish.kind).or_else(|| wish.held_back.clone())
}

/// Why no CA would certify these names so, whoever asks.
pub fn impossible(names: &NameSet, issuer: &Issuer, kind: Kind) -> Option<String> {
    let most = issuer.most_names();
    if names.len() > most {
        return Some(format!(
            "{} names, and {} puts at most {most} into one certificate: divide them over several tls sections",
            names.len(),
            issuer.name
        ));
    }
    let is_wrong = names.has_wildcard() && kind != Kind::Dns01;
    is_wrong.then(|| {
        format!(
            "a wildcard is proven by dns-01 only, and {} is asked for: take signet.dev/acme-challenge away, or write dns-01 there",
            kind.as_str()
        )
    })
}

/// The certificate of this CA that is valid at `at`: whoever has one renews, and rehearses nothing.
fn held_of<'a>(record: &'a Record, issuer: &Issuer, at: i64) -> Option<&'a Held> {
    record.held.as_ref().filter(|held| held.directory == issuer.directory && held.is_valid(at))
}

/// When a new certificate is wanted, limits aside. 0: as soon as may be.
fn wanted(record: &Record, wish: &Wish, now: i64) -> (i64, Because) {
    let Some(held) = &record.held else { return (0, Because::First) };
    if held.directory != wish.issuer.directory {
        return (0, Because::OtherIssuer);
    }
    if !held.is_valid(now) {
        return (0, Because::Ended);
    }
    let (at, because) = renewal(held, record.seed);
    match wish.renew {
        Some(asked) if asked > held.since && asked < at => (asked, Because::Asked),
        _ => (at, because),
    }
}

/// When a certificate is renewed: at a random instant of the CA's window, and never later than its life allows.
pub fn renewal(held: &Held, seed: u64) -> (i64, Because) {
    let mut random = fastrand::Rng::with_seed(seed ^ held.not_after.unsigned_abs());
    let fraction = if held.life() < TEN_DAYS { SHORT_FRACTION } else { FRACTION } - SPREAD * random.f64();
    // By dates where the CA dated it back by little; one that was old when we got it is not renewed in a circle.
    let usable = (held.not_after - held.since).max(0);
    let by_life = (held.not_before + part(held.life(), fraction)).max(held.since + usable / 4);
    let Some(window) = &held.window else { return (by_life, Because::Renewal) };
    let wide = (window.end - window.start).max(0);
    // A CA that says "now" of every certificate that it makes is heard once in a quarter of a life.
    let by_window = (window.start + part(wide, random.f64())).max(held.since + (usable / 4).min(HOUR));
    if by_window < by_life { (by_window, Because::Window) } else { (by_life, Because::Renewal) }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    reason = "seconds of a life, in 0..2^52"
)]
pub(crate) fn part(whole: i64, fraction: f64) -> i64 {
    (whole as f64 * fraction) as i64
}

/// When the order limit lets another one be asked for.
fn orders_gate(record: &Record) -> (i64, Because) {
    let oldest = record.in_vain.len().checked_sub(MAX_ORDERS).map(|index| record.in_vain[index]);
    oldest.map_or((0, Because::UnderWay), |at| (at + HOUR, Because::Orders))
}

/// When the limit of looks lets the CA be told of every name that is left.
fn looks_gate(record: &Record, order: &Order, all: &Tellings, now: i64) -> (i64, Because) {
    let (mut gate, id) = ((now, Because::UnderWay), record.id());
    for name in order.unproven() {
        let own = record.tellings.iter().filter(|telling| telling.name == name).map(|telling| telling.at);
        let looks = own.chain(all.of_others(&name, &id));
        let mut recent: Vec<i64> = looks.filter(|at| *at > now - HOUR).collect();
        recent.sort_unstable();
        if let Some(index) = recent.len().checked_sub(MAX_LOOKS)
            && recent[index] + HOUR > gate.0
        {
            gate = (recent[index] + HOUR, Because::Looks { name });
        }
    }
    gate
}

impl Plan {
    fn not_before(&mut self, at: i64, because: Because) {
        if at > self.at {
            (self.at, self.because) = (at, because);
        }
    }
}

impl fmt::Display for Because {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::First => f.write_str("there is no certificate yet"),
            Self::OtherIssuer => f.write_str("another issuer, challenge type or owner is asked for now"),
            Self::Settling => {
                write!(f, "another issuer is asked for now; for {SETTLED} s it may be a moment's")
            }
            Self::Ended => f.write_str("the certificate has ended"),
            Self::Asked => f.write_str("signet cert renew asked for it"),
            Self::Renewal => f.write_str("renewal by its life"),
            Self::Window => f.write_str("renewal in the CA's window (ARI)"),
            Self::UnderWay => f.write_str("an order is under way"),
            Self::BackOff => f.write_str("after failures, so that the CA's limits are kept"),
            Self::RetryAfter => f.write_str("the CA said when to ask again (Retry-After)"),
            Self::Looks { name } => {
                write!(f, "the CA looked at {name} {MAX_LOOKS} times within an hour and did not believe it")
            }
            Self::Orders => write!(f, "{MAX_ORDERS} orders within an hour brought no certificate"),
            Self::HeldBack(why) => f.write_str(why),
            Self::TwinSilent => f.write_str("the staging directory does not answer"),
            Self::Unwanted => f.write_str("nobody asks for it any more"),
            Self::Housekeeping => f.write_str("nothing to do"),
        }
    }
}

/// Looks at one name that came to nothing, within an hour. Let's Encrypt allows five; one is left for a person.
pub const MAX_LOOKS: usize = 4;
/// Orders within an hour that brought nothing: a loop of crashes between asking and storing stays far below Let's Encrypt's 300 in three
/// hours for a whole account.
const MAX_ORDERS: usize = 10;
/// What was sent before we died may still be on its way (a kernel sends what it has): so long it is not sent again.
pub(crate) const IN_FLIGHT: i64 = 10;
/// A twin that does not answer so long is gone on without.
const TWIN_PATIENCE: i64 = 600;
/// How long a rehearsal counts: of a host that works today, tomorrow's order is one of today.
const REHEARSED_FOR: i64 = DAY;
/// Seconds that another CA must be wanted, where there is a valid certificate: objects that are replaced are gone for a moment.
const SETTLED: i64 = 300;
/// An order that the CA lets lie for so long has failed.
/// Longer than the limit of looks, which is not the CA's slowness.
const PATIENCE: i64 = 3 * HOUR;
/// The same, when the certificate was asked for: giving it up may cost a second one of five that Let's Encrypt makes in a week.
const SEALED_PATIENCE: i64 = DAY;
/// Seconds; where the certificate that is held lives less than ten days, a quarter of its life is patience enough, and so much is the least.
const SHORT_PATIENCE: i64 = 60;
/// Of a certificate's life, gone when it is renewed at the latest. A third is left where Let's Encrypt would have it renewed; one
/// hundredth and a half is room for a notBefore that the CA dated back.
const FRACTION: f64 = 0.65;
const SHORT_FRACTION: f64 = 0.485;
/// Renewals of hosts that were set up together spread over so much of a life.
const SPREAD: f64 = 0.05;

#[cfg(test)]
mod tests;
