//! What Ingresses are told of the certificates that are ordered for them, beside that a host has none (`certificates` says that). Pure.

use signet_acme::record::Record;

use super::{
    super::{
        finding::{Finding, Word},
        objects::Name,
        words,
    },
    records::Authorities,
    wanted::{Asked, Wanted},
};

/// With the Ingress that each is for; what is wanted says it, and what is stored.
pub(crate) fn findings(known: &Authorities, wanted: &Wanted, now: i64) -> Vec<(Name, Finding)> {
    let mut findings = wanted.findings.clone();
    for (id, asked) in &wanted.certificates {
        let Some(record) = known.records.get(id) else { continue };
        for finding in of_record(known, id, asked, record, now) {
            findings.extend(asked.ingresses.iter().map(|ingress| (ingress.clone(), finding.clone())));
        }
    }
    findings
}

fn of_record(known: &Authorities, id: &str, asked: &Asked, record: &Record, now: i64) -> Vec<Finding> {
    let Some(held) = record.served(now) else { return Vec::new() };
    let (names, host) = (&record.names, words::typed(record.names.iter().next().unwrap_or_default()));
    let (end, mut findings) = (words::time(held.not_after), Vec::new());
    let trouble = known.trouble(id, asked);
    if held.is_overdue(now) {
        let why = trouble.as_deref().unwrap_or("its renewal is under way");
        let message = format!(
            "{names}: the certificate ends at {end} and is not renewed: {why} (signet cert why {host})"
        );
        findings.push(Finding::new(Word::NotRenewed, message));
    } else if let Some(failure) = record.failures.last() {
        let message = format!(
            "{names}: the last order of {} failed: {}; the certificate that is served ends at {end}, and another order is made by itself \
             (signet cert why {host})",
            asked.entry.name, failure.problem
        );
        findings.push(Finding::new(Word::OrderFailed, message));
    }
    if known.is_staging(&held.directory) {
        let message = format!(
            "{names}: the certificate is of {}, a staging environment, and no browser believes it; name an issuer that is not staging for one \
             that they do",
            asked.entry.name
        );
        findings.push(Finding::new(Word::StagingCertificate, message));
    }
    findings
}
