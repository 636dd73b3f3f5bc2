//! Which host is served with which certificate, and which hosts are to have one. Pure.
//!
//! Never a stranger's: a certificate is presented only for hosts of its own namespace, and only for those that an Ingress beside
//! it names. Of several for one host, the oldest Ingress's that can be served is; an Ingress's own Secret comes before what was ordered of
//! an ACME authority, that before the edge CA, and the edge CA, which is chosen, before the default certificate.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    fmt,
    sync::Arc,
    time::Duration,
};

use http::StatusCode;
use signet_core::pod::EDGE_ISSUER;
use signet_http::{
    contract::certificate::Certificate,
    model::{HostPattern, HttpsHost, Respond},
};

use super::{
    acme::wanted::Wanted,
    alias,
    answers::CertificateAnswer,
    certificate::Checked,
    claims::Owner,
    finding::{Finding, Word},
    issuer::{self, EdgeIssuer},
    known::{Trouble, Why},
    objects::{Ingress, Name},
    translate::{HTTPS, State},
    words,
};

/// A host that is to have HTTPS.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct HostCertificate {
    served: Option<Served>,
    /// Why there is none, or why it is not the newest; and whether a missing right is the reason.
    why: Option<(Word, String)>,
    /// The Secret that was looked for.
    secret: Option<Name>,
    /// The certificate of an ACME authority that is served, or waited for.
    acme: Option<String>,
    is_staging: bool,
}

#[derive(Clone, Debug, PartialEq)]
struct Served {
    from: Source,
    certificate: Arc<Checked>,
}

/// Where a certificate is from; also how gateways are told its name.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Source {
    Secret(Name),
    /// Of an ACME authority, by the record's id.
    Acme(String),
    /// Made for this name.
    EdgeCa(String),
}

/// The certificates to present, and what each host that asks for one has; its second name, if it has one, by itself.
pub(crate) fn assign(
    state: &State<'_>,
    ingresses: &[&Ingress],
    owners: &BTreeMap<String, Owner>,
    asked: &Wanted,
) -> (Vec<Certificate>, BTreeMap<String, HostCertificate>) {
    let mut of_hosts: BTreeMap<String, (HostPattern, HostCertificate)> = BTreeMap::new();
    for ingress in ingresses.iter().filter(|ingress| ingress.settings.refused.is_none()) {
        let is_own = |host: &&HostPattern| {
            owners.get(&host.to_string()).is_some_and(|owner| owner.namespace == ingress.namespace)
        };
        for host in ingress.https_hosts().iter().filter(is_own) {
            let owner = owners.get(&host.to_string());
            let alias =
                owner.and_then(|owner| alias::of(host, owner, owners, &state.objects.pins, state.options));
            for name in [Some(host.clone()), alias].into_iter().flatten() {
                let found = look(&Desk { state, owners, asked }, ingress, host, &name);
                match of_hosts.entry(name.to_string()) {
                    Entry::Vacant(vacant) => drop(vacant.insert((name, found))),
                    Entry::Occupied(mut held) if !held.get().1.is_served() && found.is_served() => {
                        held.get_mut().1 = found;
                    }
                    Entry::Occupied(_) => {}
                }
            }
        }
    }
    let certificates = presented(state, of_hosts.values());
    (certificates, of_hosts.into_iter().map(|(host, (_, certificate))| (host, certificate)).collect())
}

/// What a host's certificate is chosen from.
struct Desk<'a> {
    state: &'a State<'a>,
    owners: &'a BTreeMap<String, Owner>,
    asked: &'a Wanted,
}

/// What one Ingress has for a host of its own by the name that clients dial, the host's own or its second.
fn look(desk: &Desk<'_>, ingress: &Ingress, host: &HostPattern, name: &HostPattern) -> HostCertificate {
    let state = desk.state;
    let is_for = |hosts: &[HostPattern]| hosts.is_empty() || hosts.contains(host);
    let named = ingress.tls.iter().filter(|tls| is_for(&tls.hosts)).filter_map(|tls| tls.secret.as_ref());
    let mut first: Option<HostCertificate> = None;
    // Served on though its Secret is gone or broken, until there is another.
    let mut stale: Option<HostCertificate> = None;
    let mut is_absent = true;
    for secret in named {
        let secret = (ingress.namespace.clone(), secret.clone());
        let pick = state.secrets.pick(&secret, name, state.now);
        let is_current = pick.is_current();
        let why = pick.why.map(|why| {
            let word = match &why {
                Why::Trouble(Trouble::NoRight) => Word::MissingRight,
                _ => Word::NoCertificate,
            };
            (word, words::why_certificate(&secret, name, &why))
        });
        let from = Source::Secret(secret.clone());
        let served = pick.certificate.map(|certificate| Served { from, certificate });
        let found =
            HostCertificate { served, why, secret: Some(secret.clone()), acme: None, is_staging: false };
        if found.is_served() && is_current {
            return found;
        }
        if found.is_served() {
            stale = stale.or(Some(found.clone()));
        }
        is_absent &= state.secrets.is_absent(&secret);
        first = first.or(Some(found));
    }
    let asked = desk.asked.of(ingress, host).filter(|_| name == host);
    // One that nobody could read may not even be there; of one that is broken the user should know.
    let is_nobodys = is_absent || first.as_ref().and_then(HostCertificate::word) == Some(Word::MissingRight);
    if let Some((id, certificate)) = of_authority(desk, ingress, name, asked) {
        return HostCertificate {
            is_staging: state
                .acme
                .records
                .get(&id)
                .and_then(|record| record.held.as_ref())
                .is_some_and(|held| state.acme.is_staging(&held.directory)),
            served: Some(Served { from: Source::Acme(id.clone()), certificate }),
            why: first.and_then(|first| first.why).filter(|_| !is_nobodys),
            secret: None,
            acme: Some(id),
        };
    }
    if let Some(stale) = stale {
        return HostCertificate { acme: asked.and_then(Result::ok).map(str::to_owned), ..stale };
    }
    let local = issuer::is_chosen(ingress, state.options).then(|| state.local.pick(name, state.now));
    if let Some(Ok(certificate)) = local {
        let from = Source::EdgeCa(name.to_string());
        // A Secret that is not there is one that nobody has made yet, or ever will on a laptop; of any other the user should know.
        let why = first.and_then(|first| first.why).filter(|_| !is_absent);
        let acme = asked.and_then(Result::ok).map(str::to_owned);
        return HostCertificate {
            served: Some(Served { from, certificate }),
            why,
            secret: None,
            acme,
            is_staging: false,
        };
    }
    if let Some(secret) = &state.options.default_certificate
        && let Some(certificate) =
            state.secrets.newest(secret, state.now).filter(|newest| newest.covers(name))
    {
        return HostCertificate {
            served: Some(Served { from: Source::Secret(secret.clone()), certificate }),
            why: first.and_then(|first| first.why),
            secret: Some(secret.clone()),
            acme: asked.and_then(Result::ok).map(str::to_owned),
            is_staging: false,
        };
    }
    if let Some(Ok(id)) = asked.filter(|_| is_nobodys) {
        return waiting(desk, host, id);
    }
    if let Some(Err(uncertified)) = local {
        let (word, why) = match first.as_ref().and_then(|first| first.why.clone()) {
            Some((word, why)) => (word, format!("{why}, and {uncertified}")),
            None => (Word::NoCertificate, uncertified),
        };
        return HostCertificate {
            served: None,
            why: Some((word, why)),
            secret: first.and_then(|f| f.secret),
            acme: None,
            is_staging: false,
        };
    }
    let why = first.as_ref().and_then(|first| first.why.clone());
    let why = match (why, asked) {
        (Some((word, why)), Some(Err(unasked))) => (word, format!("{why}, and {unasked}")),
        (Some(why), _) => why,
        (None, Some(Err(unasked))) => {
            let why = format!(
                "an annotation asks for one, and {unasked}; a Secret of yours in spec.tls[].secretName does without, or {EDGE_ISSUER}: local, \
                 for one that only those believe who installed the edge CA's root"
            );
            (Word::NoCertificate, why)
        }
        (None, _) => {
            let why = "its tls section names no Secret, no annotation asks for a certificate, and there is no default certificate for it";
            (Word::NoCertificate, why.to_owned())
        }
    };
    HostCertificate {
        served: None,
        why: Some(why),
        secret: first.and_then(|first| first.secret),
        acme: asked.and_then(Result::ok).map(str::to_owned),
        is_staging: false,
    }
}

/// The certificate of an ACME authority: the one that is asked for; else one that is not asked for any more, or was ordered with other
/// hosts, until it ends.
fn of_authority(
    desk: &Desk<'_>,
    ingress: &Ingress,
    name: &HostPattern,
    asked: Option<Result<&str, &str>>,
) -> Option<(String, Arc<Checked>)> {
    if ingress.settings.issuer == Some(EdgeIssuer::Local) {
        return None;
    }
    let records = &desk.state.acme.records;
    let of_id = |id: &str| Some((id.to_owned(), records.of(id, name, desk.state.now)?));
    let own = asked.and_then(Result::ok).and_then(of_id);
    own.or_else(|| records.any(name, &ingress.namespace, desk.owners, desk.state.now))
}

/// Why a host has no certificate yet that is ordered.
fn waiting(desk: &Desk<'_>, host: &HostPattern, id: &str) -> HostCertificate {
    let wanted = desk.asked.certificates.get(id);
    let trouble = wanted.and_then(|wanted| desk.state.acme.trouble(id, wanted));
    let typed = words::typed(&host.to_string());
    let why = match (trouble, wanted) {
        (Some(trouble), _) => (Word::NoCertificate, format!("{trouble} (signet cert why {typed})")),
        (None, wanted) => {
            let whom = wanted.map_or("an authority", |wanted| wanted.entry.name.as_str());
            (Word::BeingOrdered, format!("it is being ordered of {whom} (signet cert why {typed})"))
        }
    };
    HostCertificate { acme: Some(id.to_owned()), ..HostCertificate::without(why) }
}

/// A certificate, and the hosts that it is presented for.
type Presented = (Arc<Checked>, Vec<HostPattern>);

/// One for each Secret, and one more where hosts are still served with its last good one; one for each name of the edge CA.
fn presented<'a>(
    state: &State<'_>,
    hosts: impl Iterator<Item = &'a (HostPattern, HostCertificate)>,
) -> Vec<Certificate> {
    let mut by_source: BTreeMap<Source, Vec<Presented>> = BTreeMap::new();
    for (host, certificate) in hosts {
        let Some(Served { from, certificate }) = &certificate.served else { continue };
        let of_source = by_source.entry(from.clone()).or_default();
        match of_source.iter_mut().find(|(held, _)| held == certificate) {
            Some((_, names)) => names.push(host.clone()),
            None => of_source.push((Arc::clone(certificate), vec![host.clone()])),
        }
    }
    let default = state.options.default_certificate.as_ref();
    let default =
        default.and_then(|name| Some((Source::Secret(name.clone()), state.secrets.newest(name, state.now)?)));
    if let Some((from, certificate)) = &default {
        let of_source = by_source.entry(from.clone()).or_default();
        if !of_source.iter().any(|(held, _)| held == certificate) {
            of_source.push((Arc::clone(certificate), Vec::new()));
        }
    }
    let (mut presented, mut taken) = (Vec::new(), BTreeSet::new());
    for (from, certificates) in by_source {
        let mut number = 0;
        for (checked, names) in certificates {
            let is_default = default.as_ref().is_some_and(|(of, held)| *of == from && *held == checked);
            let mut chunks: Vec<&[HostPattern]> = names.chunks(MAX_NAMES).collect();
            if chunks.is_empty() {
                chunks.push(&[]);
            }
            for (n, names) in chunks.into_iter().enumerate() {
                // A namespace may be called edge-ca.
                let name = loop {
                    let name = if number == 0 { from.to_string() } else { format!("{from}#{number}") };
                    number += 1;
                    if taken.insert(name.clone()) {
                        break name;
                    }
                };
                presented.push(Certificate {
                    name: name.into(),
                    listeners: vec![HTTPS.into()],
                    names: names.to_vec(),
                    chain: checked.chain.clone(),
                    key: checked.key.clone(),
                    default: is_default && n == 0,
                });
            }
        }
    }
    presented
}

/// 308, or 503 while there is no certificate.
pub(crate) fn https_host(host: HostPattern, certificate: &HostCertificate, state: &State<'_>) -> HttpsHost {
    let unready = Respond { status: StatusCode::SERVICE_UNAVAILABLE, retry_after: Some(RETRY_AFTER) };
    let unready = (!certificate.is_served()).then_some(unready);
    HttpsHost { host, port: state.options.public_https, unready }
}

impl HostCertificate {
    fn without(why: (Word, String)) -> Self {
        Self { served: None, why: Some(why), secret: None, acme: None, is_staging: false }
    }

    fn word(&self) -> Option<Word> {
        self.why.as_ref().map(|(word, _)| *word)
    }

    pub(crate) fn is_served(&self) -> bool {
        self.served.is_some()
    }

    /// What plaintext requests get, a word.
    pub(crate) fn plaintext(&self) -> &'static str {
        if self.is_served() { "redirect" } else { "waiting" }
    }

    /// Of the one that is served, Unix seconds.
    pub(crate) fn not_after(&self) -> Option<i64> {
        self.served.as_ref().map(|served| served.certificate.not_after)
    }

    pub(crate) fn answer(&self, now: i64) -> CertificateAnswer {
        let checked = self.served.as_ref().map(|served| &served.certificate);
        CertificateAnswer {
            served: checked.is_some(),
            secret: self.secret.as_ref().map(|(namespace, name)| format!("{namespace}/{name}")),
            acme: self.acme.clone(),
            staging: self.is_staging,
            names: checked.iter().flat_map(|checked| checked.names.iter().map(ToString::to_string)).collect(),
            issuer: checked.map(|checked| checked.issuer.clone()),
            not_after: checked.map(|checked| words::time(checked.not_after)),
            left_seconds: checked.map(|checked| checked.not_after - now),
            why: self.why.as_ref().map(|(_, why)| why.clone()),
        }
    }

    /// What its Ingress is told: that it has none, or that it is an older one. Nothing while its Secret is being read.
    pub(crate) fn finding(&self, ingress: &Ingress, host: &HostPattern) -> Option<Finding> {
        let (word, why) = self.why.as_ref().filter(|_| ingress.wants_https(host))?;
        let then = match &self.served {
            Some(Served { from: from @ Source::Secret(_), certificate }) => {
                format!("the last good one of {from} is served until {}", words::time(certificate.not_after))
            }
            Some(Served { from: Source::Acme(_), certificate }) => {
                format!(
                    "one of {} is served until {}",
                    certificate.issuer,
                    words::time(certificate.not_after)
                )
            }
            Some(Served { from: Source::EdgeCa(_), .. }) => {
                "one of the edge CA is served meanwhile".to_owned()
            }
            None => "it answers 503 in plaintext and no handshake until there is one".to_owned(),
        };
        Some(Finding::new(*word, format!("{host}: {why}; {then}")))
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Secret((namespace, name)) => write!(f, "{namespace}/{name}"),
            Self::Acme(id) => write!(f, "acme/{id}"),
            Self::EdgeCa(name) => write!(f, "edge-ca/{name}"),
        }
    }
}

/// A Secret is read within seconds of being there.
const RETRY_AFTER: Duration = Duration::from_secs(10);
/// Of one certificate, as the gateway takes them.
const MAX_NAMES: usize = 1024;
