//! `/v1/acme`: what is wanted, stored, planned and seen of each certificate, as people are told it; and the one thing that may be asked for.

use std::{collections::BTreeMap, sync::Arc};

use signet_acme::{
    account,
    dns::credentials::Registry,
    drive,
    order::{Kind, Stage},
    plan::{Plan, Step, renewal},
    problem::Problem,
    record::{Failure, Record},
    solver::Seen,
};
use signet_core::clock;
use tokio::sync::watch;

use super::{
    super::{
        answers::{
            AcmeAnswer, AcmeBroken, AcmeCertificate, AcmeFailure, AcmeIssuer, AcmeNameProblem, AcmeNext,
            AcmePreflight, AcmeProblem, AcmeSight, Replica,
        },
        snapshot::EdgeSnapshot,
        words::{self, time},
    },
    follow::Followed,
    issuers::Entry,
    preflight::Verdicts,
    records::Authorities,
    run::Desk,
    wanted::{Asked, Wanted},
};

/// What it is made of. Clones share it.
#[derive(Clone)]
pub(crate) struct Page {
    pub(crate) followed: Followed,
    pub(crate) desk: Desk,
    pub(crate) snapshots: watch::Receiver<Arc<EdgeSnapshot>>,
}

/// Why nothing is renewed.
pub(crate) enum NoRenewal {
    /// Nobody asks for a certificate for this host.
    NotFound(String),
    /// It is not ours to do, or not now.
    Conflict(String),
}

impl Page {
    /// `replica`: `None` in a directory.
    pub(crate) fn answer(&self, replica: Option<&Replica>) -> AcmeAnswer {
        let (known, driven) = (self.followed.known.borrow().clone(), self.desk.driven.borrow().clone());
        let view = View {
            wanted: &self.wanted(),
            known: &known,
            driven: driven.as_deref(),
            verdicts: &Arc::clone(&self.desk.verdicts.borrow()),
            accounts: &self.followed.accounts.borrow().clone(),
            credentials: &Arc::clone(&self.followed.credentials.borrow()),
            now: clock::unix_now(),
        };
        let mut answer = view.answer();
        if let Some(Replica { name, leader, .. }) = replica {
            (answer.replica, answer.leader) = (name.clone(), leader.clone());
        }
        answer
    }

    /// Has a new certificate ordered for a host, if this replica orders. The certificate's id.
    pub(crate) fn renew(&self, host: &str, replica: Option<&Replica>) -> Result<String, NoRenewal> {
        let wanted = self.wanted();
        let host = host.trim().to_ascii_lowercase();
        let Some(driven) = self.desk.driven.borrow().clone() else {
            let leader = replica.map(|replica| replica.leader.clone()).filter(|leader| !leader.is_empty());
            return Err(NoRenewal::Conflict(match leader {
                Some(leader) => {
                    format!("replica {leader} orders certificates, and this one does not; ask that one")
                }
                None => "no replica orders certificates now; ask again in 20 s".into(),
            }));
        };
        // The one that has the host by its own name, else by a wildcard.
        let covering: Vec<(&String, &Asked)> = wanted.covering(&host).collect();
        let own = covering.iter().find(|(_, asked)| asked.names.contains(&host));
        let Some((id, _)) = own.or(covering.first()) else {
            return Err(NoRenewal::NotFound(format!(
                "nobody asks for a certificate of an authority for {host}: signet hosts {host} says what it has"
            )));
        };
        let entry = driven.entries.get(*id);
        if entry.is_some_and(|entry| entry.record.order.is_some()) {
            return Err(NoRenewal::Conflict(format!(
                "an order for {host} is under way: signet cert why {}",
                words::typed(&host)
            )));
        }
        if let Some(why) = self.followed.known.borrow().held_back.get(*id) {
            return Err(NoRenewal::Conflict(format!("nothing is ordered for {host}: {why}")));
        }
        // Later than the certificate that came, or the order that failed, in this very second.
        let of = |record: &Record| record.held.as_ref().map_or(0, |held| held.since).max(record.tried);
        let last = entry.map_or(0, |entry| of(&entry.record));
        self.desk.renew(id, clock::unix_now().max(last + 1));
        Ok((*id).clone())
    }

    fn wanted(&self) -> Arc<Wanted> {
        Arc::clone(&self.snapshots.borrow().translated.acme)
    }
}

/// All that an answer is made of. Pure from here on.
struct View<'a> {
    wanted: &'a Wanted,
    known: &'a Authorities,
    driven: Option<&'a drive::Snapshot>,
    verdicts: &'a Verdicts,
    accounts: &'a BTreeMap<String, String>,
    credentials: &'a Registry,
    now: i64,
}

impl View<'_> {
    fn answer(&self) -> AcmeAnswer {
        let mut records: BTreeMap<&String, Arc<Record>> =
            self.known.records.all().map(|(id, record)| (id, Arc::clone(record))).collect();
        let mut broken: BTreeMap<&String, &String> = self.known.records.broken().iter().collect();
        // The one that orders knows before it is told.
        for (id, entry) in self.driven.iter().flat_map(|driven| &driven.entries) {
            records.insert(id, Arc::clone(&entry.record));
        }
        broken.extend(self.driven.iter().flat_map(|driven| &driven.broken).map(|(id, why)| (id, why)));
        for (id, asked) in &self.wanted.certificates {
            records.entry(id).or_insert_with(|| Arc::new(Record::new(asked.names.clone())));
        }
        let mut certificates: Vec<AcmeCertificate> =
            records.iter().map(|(id, record)| self.certificate(id, record)).collect();
        certificates.sort_by(|a, b| a.names.cmp(&b.names));
        AcmeAnswer {
            issuers: self.known.issuers.all().map(|entry| self.issuer(entry)).collect(),
            certificates,
            broken: broken
                .into_iter()
                .map(|(id, why)| AcmeBroken { id: id.clone(), why: why.clone() })
                .collect(),
            leads: self.driven.is_some(),
            ..AcmeAnswer::default()
        }
    }

    fn issuer(&self, entry: &Entry) -> AcmeIssuer {
        let issuer = entry.issuer.as_ref().ok();
        let account = issuer.map(|issuer| account::id(&issuer.directory, issuer.email.as_deref()));
        AcmeIssuer {
            name: entry.name.clone(),
            directory: issuer.map(|issuer| issuer.directory.clone()).unwrap_or_default(),
            staging: entry.is_staging(),
            email: issuer.and_then(|issuer| issuer.email.clone()),
            account: account.and_then(|id| self.accounts.get(&id).cloned()),
            fault: entry.issuer.as_ref().err().cloned(),
            notes: entry.notes.iter().chain(&entry.asides).cloned().collect(),
        }
    }

    fn certificate(&self, id: &str, record: &Record) -> AcmeCertificate {
        let asked = self.wanted.certificates.get(id);
        let entry = self.driven.and_then(|driven| driven.entries.get(id));
        let held = record.held.as_ref();
        let served = record.served(self.now);
        let order = record.order.as_ref();
        let directory =
            held.map(|held| held.directory.as_str()).or(asked.map(|asked| asked.issuer.directory.as_str()));
        let retry = asked.map_or(0, |asked| record.ca_until(&asked.issuer.directory));
        AcmeCertificate {
            id: id.to_owned(),
            names: record.names.iter().map(str::to_owned).collect(),
            namespace: asked.map(|asked| asked.namespace.clone()).unwrap_or_default(),
            ingresses: asked
                .iter()
                .flat_map(|asked| &asked.ingresses)
                .map(|(namespace, name)| format!("{namespace}/{name}"))
                .collect(),
            issuer: asked.map(|asked| asked.entry.name.clone()).unwrap_or_default(),
            challenge: asked.map(|asked| asked.kind.as_str().to_owned()).unwrap_or_default(),
            dns_provider: asked.and_then(|asked| self.dns_provider(asked)),
            stage: match (order, held) {
                (Some(order), _) => stage(&order.stage),
                (None, Some(_)) => "held",
                (None, None) => "none",
            }
            .into(),
            rehearsal: order.is_some_and(|order| order.rehearsal),
            rehearsed: record.rehearsed.is_some(),
            served: served.is_some(),
            staging: directory.is_some_and(|directory| self.known.is_staging(directory)),
            not_before: held.map(|held| time(held.not_before)),
            not_after: held.map(|held| time(held.not_after)),
            renew_at: held.map(|held| time(renewal(held, record.seed).0)),
            overdue: held.is_some_and(|held| asked.is_some() && held.is_overdue(self.now)),
            next: entry.map(|entry| next(&entry.next)),
            held_back: self.known.held_back.get(id).cloned(),
            failures: record.failures.iter().map(|failure| self.failure(record, failure)).collect(),
            trouble: record.trouble.as_ref().map(|trouble| trouble.problem.to_string()),
            retry_after: Some(retry).filter(|until| *until > self.now).map(time),
            preflight: self.verdicts.get(id).map(|verdict| AcmePreflight {
                holds: verdict.holds.clone(),
                warnings: verdict.warnings.clone(),
                at: time(verdict.at),
            }),
            seen: record.seen.as_ref().map(sights).unwrap_or_default(),
        }
    }

    fn dns_provider(&self, asked: &Asked) -> Option<String> {
        if asked.kind != Kind::Dns01 {
            return None;
        }
        let first = asked.names.iter().next()?;
        self.credentials.choose(&asked.namespace, first).ok().map(|by| by.secret().to_owned())
    }

    fn failure(&self, record: &Record, failure: &Failure) -> AcmeFailure {
        let until = record.ca_until(&failure.directory);
        AcmeFailure {
            at: time(failure.at),
            text: failure.problem.to_string(),
            rehearsal: failure.rehearsal,
            problem: problem(&failure.problem),
            retry_after: Some(until).filter(|until| *until > self.now).map(time),
        }
    }
}

fn problem(problem: &Problem) -> AcmeProblem {
    let names = problem.names.iter().map(|of| AcmeNameProblem {
        name: of.name.clone(),
        r#type: of.kind.clone(),
        detail: of.detail.clone(),
    });
    AcmeProblem { r#type: problem.kind.clone(), detail: problem.detail.clone(), names: names.collect() }
}

fn sights(seen: &Seen) -> Vec<AcmeSight> {
    let at = time(seen.at);
    let by =
        seen.by.iter().map(|by| AcmeSight { by: by.clone(), at: at.clone(), saw: true, why: String::new() });
    let missing = seen.missing.iter().map(|missing| AcmeSight {
        by: missing.who.clone(),
        at: at.clone(),
        saw: false,
        why: missing.why.clone(),
    });
    by.chain(missing).collect()
}

fn next(plan: &Plan) -> AcmeNext {
    AcmeNext {
        at: Some(plan.at).filter(|at| *at != i64::MAX).map(time),
        step: step(plan.step).into(),
        because: plan.because.to_string(),
    }
}

fn stage(stage: &Stage) -> &'static str {
    match stage {
        Stage::Asking => "asking",
        Stage::Reading => "reading",
        Stage::Presenting => "presenting",
        Stage::Presented => "presented",
        Stage::Telling { .. } => "telling",
        Stage::Validating { .. } => "validating",
        Stage::Ready => "ready",
        Stage::Finalizing { .. } => "finalizing",
        Stage::Issuing { .. } => "issuing",
    }
}

fn step(step: Step) -> &'static str {
    match step {
        Step::Wait => "wait",
        Step::Ask { rehearsal: true, .. } => "ask the staging environment for an order",
        Step::Ask { rehearsal: false, .. } => "ask for an order",
        Step::Read => "read what the order wants",
        Step::Present => "present the challenges",
        Step::Tell => "tell the authority to look",
        Step::Poll => "ask whether the names are believed",
        Step::Finalize => "ask for the certificate",
        Step::Collect => "fetch the certificate",
        Step::Abandon { .. } => "give the order up",
        Step::Promote => "go on without the staging environment",
        Step::AskWindow => "ask when to renew",
        Step::Clear => "take challenges back",
        Step::Notice => "note that another authority is asked for",
        Step::Forget => "forget it",
    }
}

#[cfg(test)]
#[path = "page/tests.rs"]
mod tests;
