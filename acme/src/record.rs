//! Everything that is stored of one certificate: what is held, the order that is under way, and what went wrong.
//!
//! Times are Unix seconds. Private keys are wiped and never printed. The JSON has a schema: what a newer program wrote, an older one
//! leaves alone.

use serde::{Deserialize, Serialize};

use crate::{
    names::{MAX_NAMES, NameSet},
    order::{Kind, Order, Pending},
    plan::Wish,
    problem::Problem,
    secret::Secret,
    solver::Seen,
};

#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    schema: u32,
    pub names: NameSet,
    /// Of this record's jitter, so that every replica and every restart plans the same.
    pub seed: u64,
    /// The certificate that is served, until its end or a better one.
    pub held: Option<Held>,
    pub order: Option<Order>,
    /// The twin's word, which the next order at the CA itself rests on.
    pub rehearsed: Option<Rehearsed>,
    /// Since when the twin fails to answer, in a rehearsal.
    pub twin_silent_since: Option<i64>,
    /// Calls that failed one after the other; the stage stays, and they are tried again.
    pub trouble: Option<Trouble>,
    /// Orders that failed, newest last, at most ten; gone with the next certificate.
    pub failures: Vec<Failure>,
    /// How many of them since the last certificate.
    pub failed: u32,
    /// Our own back-off after a failed order; `cert renew` passes it.
    pub next_try: i64,
    /// What CAs said last of when to ask again, each for itself; nothing passes it.
    pub retry_after: Vec<RetryAfter>,
    /// Each time that the CA was told to look for a challenge, but for those that it then believed.
    pub tellings: Vec<Telling>,
    /// When orders were asked for that brought no certificate yet.
    pub in_vain: Vec<i64>,
    /// When an order was begun last.
    pub tried: i64,
    /// What the last order was begun with: `failed` and `next_try` are its.
    pub tried_with: Option<TriedWith>,
    /// Another CA is wanted than the one whose certificate is held or asked for.
    pub moving: Option<Moving>,
    /// Challenges that nobody needs any more, and that are still where the CA looked.
    pub leftover: Leftover,
    /// Who saw the challenges when they were last looked for.
    pub seen: Option<Seen>,
}

/// A certificate with its key.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Held {
    /// The directory of the CA that made it.
    pub directory: String,
    /// PEM, leaf first.
    pub chain: String,
    /// Of the leaf.
    pub key: Secret,
    /// The first and the last second at which it is valid.
    pub not_before: i64,
    pub not_after: i64,
    /// When we got it.
    pub since: i64,
    /// By which the CA knows it (RFC 9773 4.1); `None`: it has no authority key identifier.
    pub ari_id: Option<String>,
    /// The CA has an order that replaces it, or takes no such orders.
    pub replaced: bool,
    /// When the CA wants it to be renewed (RFC 9773 4.2).
    pub window: Option<Window>,
    /// When to ask for the window again; `None`: the CA has no such thing.
    pub ask_window: Option<i64>,
}

#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Window {
    pub start: i64,
    pub end: i64,
    /// A page that says why, where the CA named one.
    pub explanation: Option<String>,
}

#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Rehearsed {
    pub at: i64,
    /// The twin did not answer, and we went on without it.
    pub skipped: bool,
}

/// With which CA and kind of challenge an order was begun.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct TriedWith {
    /// The issuer's own, in a rehearsal too.
    pub directory: String,
    pub kind: Kind,
}

#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Moving {
    /// Its directory.
    pub to: String,
    pub since: i64,
}

/// A CA's Retry-After. It binds what is asked of that directory.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RetryAfter {
    pub directory: String,
    pub until: i64,
}

/// Calls that failed in a row.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Trouble {
    pub since: i64,
    pub count: u32,
    pub next: i64,
    pub with: With,
    pub problem: Problem,
}

/// With whom.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum With {
    Ca,
    /// Gateways, or the provider of a DNS zone.
    Solver,
    /// Our own store.
    Store,
}

#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Failure {
    pub at: i64,
    pub rehearsal: bool,
    pub directory: String,
    pub problem: Problem,
}

#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Telling {
    /// As in the certificate.
    pub name: String,
    pub at: i64,
}

#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Leftover {
    pub challenges: Vec<Pending>,
    pub tries: u32,
    pub next: i64,
}

impl Record {
    /// Of a certificate that is wanted for the first time.
    pub fn new(names: NameSet) -> Self {
        let seed =
            names.id().bytes().fold(0u64, |seed, byte| seed.wrapping_mul(31).wrapping_add(byte.into()));
        Self {
            schema: SCHEMA,
            names,
            seed,
            held: None,
            order: None,
            rehearsed: None,
            twin_silent_since: None,
            trouble: None,
            failures: Vec::new(),
            failed: 0,
            next_try: 0,
            retry_after: Vec::new(),
            tellings: Vec::new(),
            in_vain: Vec::new(),
            tried: 0,
            tried_with: None,
            moving: None,
            leftover: Leftover::default(),
            seen: None,
        }
    }

    pub fn id(&self) -> String {
        self.names.id()
    }

    /// The certificate, while it is valid.
    pub fn served(&self, now: i64) -> Option<&Held> {
        self.held.as_ref().filter(|held| held.is_valid(now))
    }

    /// Reads a stored one. A record of a newer schema, or one that is not understood, is an error and never a fresh start.
    pub fn parse(json: &[u8]) -> Result<Self, BadRecord> {
        #[derive(Deserialize)]
        struct Schema {
            schema: u32,
        }
        let Schema { schema } = serde_json::from_slice(json).map_err(|e| BadRecord::Broken(e.to_string()))?;
        if schema > SCHEMA {
            return Err(BadRecord::Newer(schema));
        }
        serde_json::from_slice(json).map_err(|e| BadRecord::Broken(e.to_string()))
    }

    /// As it is stored.
    pub fn to_json(&self) -> zeroize::Zeroizing<Vec<u8>> {
        zeroize::Zeroizing::new(
            serde_json::to_vec(self).expect("maps have text as keys, and nothing else can fail"),
        )
    }

    /// Until when the CA at `directory` is not to be asked for orders; 0: it said nothing.
    pub fn ca_until(&self, directory: &str) -> i64 {
        self.retry_after.iter().find(|said| said.directory == directory).map_or(0, |said| said.until)
    }

    /// Ends the order, whatever came of it: its challenges are to be taken back.
    pub(crate) fn end_order(&mut self) {
        let Some(order) = self.order.take() else { return };
        self.leftover.challenges.extend(order.challenges);
        let surplus = self.leftover.challenges.len().saturating_sub(MAX_LEFTOVER);
        self.leftover.challenges.drain(..surplus);
        (self.leftover.tries, self.leftover.next) = (0, 0);
        self.trouble = None;
    }

    /// Keeps why an order failed. The newest may say the most: the record is bounded, whatever CAs say.
    pub(crate) fn keep_failure(&mut self, failure: Failure) {
        self.failures.push(failure);
        let surplus = self.failures.len().saturating_sub(MAX_FAILURES);
        self.failures.drain(..surplus);
        let mut left = MAX_WORDS;
        for failure in self.failures.iter_mut().rev() {
            failure.problem.bound_names(&mut left);
        }
    }

    /// Forgets what is too old to count.
    pub(crate) fn prune(&mut self, now: i64) {
        self.tellings.retain(|telling| telling.at > now - HOUR);
        self.in_vain.retain(|at| *at > now - HOUR);
    }
}

impl TriedWith {
    pub(crate) fn new(wish: &Wish) -> Self {
        Self { directory: wish.issuer.directory.clone(), kind: wish.kind }
    }

    pub(crate) fn fits(&self, wish: &Wish) -> bool {
        (&self.directory, self.kind) == (&wish.issuer.directory, wish.kind)
    }
}

impl Held {
    pub fn is_valid(&self, now: i64) -> bool {
        (self.not_before..=self.not_after).contains(&now)
    }

    /// Seconds from its first to its last.
    pub fn life(&self) -> i64 {
        self.not_after - self.not_before
    }

    /// Whether so little of its life is left that a person should look: less than a third, or than half of one below ten days
    /// (where Let's Encrypt would have it renewed, too).
    pub fn is_overdue(&self, now: i64) -> bool {
        let left = self.not_after - now;
        if self.life() < TEN_DAYS { left * 2 < self.life() } else { left * 3 < self.life() }
    }
}

/// Why a record cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BadRecord {
    #[error("it has schema {0}, this program knows {SCHEMA}; run the newer signet that wrote it")]
    Newer(u32),
    #[error(
        "it is not a record of ours: {0}; restore it from a backup, or delete it to order anew (docs/acme.md)"
    )]
    Broken(String),
}

pub(crate) const HOUR: i64 = 3600;
pub(crate) const DAY: i64 = 24 * HOUR;
/// Below it Let's Encrypt would have certificates renewed at half of their life, not at a third.
pub(crate) const TEN_DAYS: i64 = 10 * DAY;
/// Grows when a field changes its meaning, or an older program must not write it.
const SCHEMA: u32 = 1;
/// Enough for `cert why` to show how it went on; a record stays far below a Secret's 1 MiB.
const MAX_FAILURES: usize = 10;
/// Bytes of JSON that CAs' words about single names may take in all failures, and again in the trouble of now: with a chain of 128 KiB and
/// all challenges, a record has less than a Secret's 1 MiB.
pub(crate) const MAX_WORDS: usize = 64 << 10;
/// Challenges that are to be taken back: two orders' of the most names. Older ones stay where they are, which proves nothing to anybody.
const MAX_LEFTOVER: usize = 2 * MAX_NAMES;

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record {
        let mut record = Record::new(NameSet::new(["a.example.com"]).unwrap());
        record.held = Some(Held {
            directory: "https://ca.example/".into(),
            chain: "chain".into(),
            key: Secret::new("hidden key".to_owned().into()),
            not_before: 100,
            not_after: 1100,
            since: 100,
            ari_id: None,
            replaced: false,
            window: None,
            ask_window: Some(7),
        });
        record
    }

    #[test]
    fn a_record_is_read_back_as_it_was_stored_and_its_keys_are_never_printed() {
        let record = record();
        let json = record.to_json();
        assert_eq!(Record::parse(&json).unwrap(), record);
        assert!(String::from_utf8(json.to_vec()).unwrap().contains("hidden key"));
        assert!(!format!("{record:?}").contains("hidden"), "keys are never printed");
    }

    #[test]
    fn a_record_that_is_not_understood_is_an_error() {
        let json = String::from_utf8(record().to_json().to_vec()).unwrap();
        for (case, text) in [
            ("empty", String::new()),
            ("cut off", json[..json.len() / 2].to_owned()),
            ("a field of the future", json.replacen('{', "{\"future\":1,", 1)),
            ("bad names", json.replace("a.example.com", "-.com")),
        ] {
            assert!(matches!(Record::parse(text.as_bytes()), Err(BadRecord::Broken(_))), "{case}");
        }
        let newer = json.replace("\"schema\":1", "\"schema\":2");
        assert!(matches!(Record::parse(newer.as_bytes()), Err(BadRecord::Newer(2))));
    }

    #[test]
    fn a_certificate_is_overdue_with_less_than_a_third_left_or_half_where_it_is_short() {
        let held = |life| Held { not_before: 0, not_after: life, ..record().held.unwrap() };
        assert!(!held(90 * DAY).is_overdue(60 * DAY) && held(90 * DAY).is_overdue(60 * DAY + 1));
        assert!(!held(6 * DAY).is_overdue(3 * DAY) && held(6 * DAY).is_overdue(3 * DAY + 1));
    }
}
