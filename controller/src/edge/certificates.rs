//! Which host is served with which certificate, and which hosts are to have one. Pure.
//!
//! Never a stranger's: a certificate is presented only for hosts of its own namespace, and only for those that an Ingress beside
//! it names. Of several for one host, the oldest Ingress's that can be served is.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    sync::Arc,
    time::Duration,
};

use http::StatusCode;
use signet_http::{
    contract::certificate::Certificate,
    model::{HostPattern, HttpsHost, Respond},
};

use super::{
    answers::CertificateAnswer,
    certificate::Checked,
    claims::Owner,
    finding::{Finding, Word},
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
}

#[derive(Clone, Debug, PartialEq)]
struct Served {
    secret: Name,
    certificate: Arc<Checked>,
}

/// The certificates to present, and what each host that asks for one has.
pub(crate) fn assign(
    state: &State<'_>,
    ingresses: &[&Ingress],
    owners: &BTreeMap<String, Owner>,
) -> (Vec<Certificate>, BTreeMap<String, HostCertificate>) {
    let mut of_hosts: BTreeMap<String, (HostPattern, HostCertificate)> = BTreeMap::new();
    for ingress in ingresses.iter().filter(|ingress| ingress.settings.refused.is_none()) {
        let is_own = |host: &&HostPattern| {
            owners.get(&host.to_string()).is_some_and(|owner| owner.namespace == ingress.namespace)
        };
        for host in ingress.https_hosts().iter().filter(is_own) {
            let found = look(state, ingress, host);
            match of_hosts.entry(host.to_string()) {
                Entry::Vacant(vacant) => drop(vacant.insert((host.clone(), found))),
                Entry::Occupied(mut held) if held.get().1.served.is_none() && found.served.is_some() => {
                    held.get_mut().1 = found;
                }
                Entry::Occupied(_) => {}
            }
        }
    }
    let certificates = presented(state, of_hosts.values());
    (certificates, of_hosts.into_iter().map(|(host, (_, certificate))| (host, certificate)).collect())
}

/// What one Ingress has for a host of its own.
fn look(state: &State<'_>, ingress: &Ingress, host: &HostPattern) -> HostCertificate {
    let is_for = |hosts: &[HostPattern]| hosts.is_empty() || hosts.contains(host);
    let named = ingress.tls.iter().filter(|tls| is_for(&tls.hosts)).filter_map(|tls| tls.secret.as_ref());
    let mut first: Option<HostCertificate> = None;
    for secret in named {
        let secret = (ingress.namespace.clone(), secret.clone());
        let pick = state.secrets.pick(&secret, host, state.now);
        let why = pick.why.map(|why| {
            let word = match &why {
                Why::Trouble(Trouble::NoRight) => Word::MissingRight,
                _ => Word::NoCertificate,
            };
            (word, words::why_certificate(&secret, host, &why))
        });
        let served = pick.certificate.map(|certificate| Served { secret: secret.clone(), certificate });
        let found = HostCertificate { served, why, secret: Some(secret) };
        if found.served.is_some() {
            return found;
        }
        first = first.or(Some(found));
    }
    if let Some(name) = &state.options.default_certificate
        && let Some(certificate) = state.secrets.newest(name, state.now).filter(|newest| newest.covers(host))
    {
        return HostCertificate {
            served: Some(Served { secret: name.clone(), certificate }),
            why: first.and_then(|first| first.why),
            secret: Some(name.clone()),
        };
    }
    first.unwrap_or_else(|| {
        let why = match &ingress.settings.certificate {
            Some(annotation) => format!(
                "{annotation} asks for one, and nobody here orders certificates yet: name a Secret in spec.tls[].secretName that holds one"
            ),
            None => "its tls section names no Secret, and there is no default certificate for it".to_owned(),
        };
        HostCertificate { served: None, why: Some((Word::NoCertificate, why)), secret: None }
    })
}

/// A certificate, and the hosts that it is presented for.
type Presented = (Arc<Checked>, Vec<HostPattern>);

/// One for each Secret, and one more where hosts are still served with its last good one.
fn presented<'a>(
    state: &State<'_>,
    hosts: impl Iterator<Item = &'a (HostPattern, HostCertificate)>,
) -> Vec<Certificate> {
    let mut of_secrets: BTreeMap<Name, Vec<Presented>> = BTreeMap::new();
    for (host, certificate) in hosts {
        let Some(Served { secret, certificate }) = &certificate.served else { continue };
        let of_secret = of_secrets.entry(secret.clone()).or_default();
        match of_secret.iter_mut().find(|(held, _)| held == certificate) {
            Some((_, names)) => names.push(host.clone()),
            None => of_secret.push((Arc::clone(certificate), vec![host.clone()])),
        }
    }
    let default = state.options.default_certificate.as_ref();
    let default = default.and_then(|name| Some((name, state.secrets.newest(name, state.now)?)));
    if let Some((name, certificate)) = &default {
        let of_secret = of_secrets.entry((*name).clone()).or_default();
        if !of_secret.iter().any(|(held, _)| held == certificate) {
            of_secret.push((Arc::clone(certificate), Vec::new()));
        }
    }
    let mut presented = Vec::new();
    for (secret, certificates) in of_secrets {
        let mut number = 0;
        for (checked, names) in certificates {
            let is_default =
                default.as_ref().is_some_and(|(name, held)| **name == secret && *held == checked);
            let mut chunks: Vec<&[HostPattern]> = names.chunks(MAX_NAMES).collect();
            if chunks.is_empty() {
                chunks.push(&[]);
            }
            for (n, names) in chunks.into_iter().enumerate() {
                let place = format!("{}/{}", secret.0, secret.1);
                let name = if number == 0 { place } else { format!("{place}#{number}") };
                number += 1;
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
    let unready = certificate.served.is_none().then_some(unready);
    HttpsHost { host, port: state.options.public_https, unready }
}

impl HostCertificate {
    /// What plaintext requests get, a word.
    pub(crate) fn plaintext(&self) -> &'static str {
        if self.served.is_some() { "redirect" } else { "waiting" }
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
            names: checked.iter().flat_map(|checked| checked.names.iter().map(ToString::to_string)).collect(),
            issuer: checked.map(|checked| checked.issuer.clone()),
            not_after: checked.map(|checked| words::time(checked.not_after)),
            left_seconds: checked.map(|checked| checked.not_after - now),
            why: self.why.as_ref().map(|(_, why)| why.clone()),
        }
    }

    /// What its Ingress is told: that it has none, or that it is an older one. Nothing while its Secret is being read.
    pub(crate) fn finding(&self, ingress: &Ingress, host: &HostPattern) -> Option<Finding> {
        let (word, why) = self.why.as_ref().filter(|_| ingress.https_hosts().contains(host))?;
        let then = match &self.served {
            Some(Served { secret: (namespace, name), certificate }) => format!(
                "the last good one of {namespace}/{name} is served until {}",
                words::time(certificate.not_after)
            ),
            None => "it answers 503 in plaintext and no handshake until there is one".to_owned(),
        };
        Some(Finding::new(*word, format!("{host}: {why}; {then}")))
    }
}

/// A Secret is read within seconds of being there.
const RETRY_AFTER: Duration = Duration::from_secs(10);
/// Of one certificate, as the gateway takes them.
const MAX_NAMES: usize = 1024;
