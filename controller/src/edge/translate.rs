//! Objects, claims and Secrets -> what gateways serve, and what people are shown of it. Pure: one state, one answer, on every replica.
//!
//! A host at a time: whose it is ([`claims`]), which certificate it has ([`hosts`]), which rules ([`rules`]). An Ingress that is
//! refused as a whole still holds its hosts, so that nobody else gets them.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use signet_http::{
    contract::certificate::Certificate,
    model::{Backend, HostPattern, Hostname, HttpsHost, Listener, Plaintext, Route, Scheme},
};

use super::{
    acme::{
        Challenges,
        records::Authorities,
        told,
        wanted::{self as acme_wanted, Wanted},
    },
    addresses::{Expose, addresses, gateways},
    alias,
    answers::{EdgeCaAnswer, FindingAnswer, HostAnswer, IngressAnswer, Refusal},
    backends::Backends,
    certificates::{self, HostCertificate},
    claims::{self, Claims, Owner, Wish},
    finding::{Finding, Word},
    issuer::{self, EdgeIssuer, LocalIssuer},
    known::Secrets,
    objects::{Address, Ingress, Name, Objects},
    rules, words,
};
use crate::index::Index;

/// Everything that is known at one moment.
pub(crate) struct State<'a> {
    pub(crate) index: &'a Index,
    pub(crate) objects: &'a Objects,
    /// `None` in a directory: nothing is stored.
    pub(crate) claims: Option<&'a Claims>,
    pub(crate) secrets: &'a Secrets,
    /// The edge CA and its leaves.
    pub(crate) local: &'a LocalIssuer,
    /// Certificate authorities, and what is held of them.
    pub(crate) acme: &'a Authorities,
    /// What the leader wants answered; whose host it is, it has looked at.
    pub(crate) challenges: &'a Arc<Challenges>,
    pub(crate) options: &'a Options,
    /// Unix seconds.
    pub(crate) now: i64,
}

/// What the process was told at its start.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Options {
    /// Ports that the gateway listens on, and those that clients dial.
    pub(crate) http: u16,
    pub(crate) https: u16,
    pub(crate) public_http: u16,
    pub(crate) public_https: u16,
    /// Presented where no other certificate fits.
    pub(crate) default_certificate: Option<Name>,
    /// Of Ingresses that do not say it themselves.
    pub(crate) issuer: EdgeIssuer,
    /// Hosts have a second name below it.
    pub(crate) alias: Option<Hostname>,
    pub(crate) expose: Expose,
    /// What is published whatever is known.
    pub(crate) publish: Vec<Address>,
}

/// What follows from it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Translated {
    pub(crate) listeners: Vec<Listener>,
    pub(crate) routes: Vec<Route>,
    pub(crate) backends: Vec<Arc<Backend>>,
    pub(crate) https_hosts: Vec<HttpsHost>,
    pub(crate) certificates: Vec<Certificate>,
    pub(crate) challenges: Arc<Challenges>,
    /// What is to be ordered of certificate authorities.
    pub(crate) acme: Arc<Wanted>,
    /// Gateways that take requests now, by pod.
    pub(crate) gateways: Vec<(String, IpAddr)>,
    pub(crate) hosts: Vec<HostAnswer>,
    pub(crate) ingresses: BTreeMap<Name, Told>,
    /// To be stored.
    pub(crate) claims: Claims,
    /// To be published; empty: not known yet.
    pub(crate) addresses: Vec<Address>,
    /// Of the certificates that hosts are served with, Unix seconds.
    pub(crate) first_expiry: Option<i64>,
    /// When the same objects mean something else, Unix seconds.
    pub(crate) due: Option<i64>,
    /// The edge CA, what is wrong with it where somebody wants it, and whether anybody does.
    pub(crate) edge_ca: Option<EdgeCaAnswer>,
    pub(crate) edge_ca_fault: Option<String>,
    pub(crate) wants_edge_ca: bool,
}

/// What is told about one Ingress, in its status, its Events and on its page.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Told {
    pub(crate) uid: String,
    /// What its status says now.
    pub(crate) published: Vec<Address>,
    /// It gets at least one of its hosts.
    pub(crate) served: bool,
    pub(crate) findings: Vec<Finding>,
    pub(crate) answer: IngressAnswer,
}

/// Secrets that a state needs.
pub(crate) fn wanted(objects: &Objects, options: &Options) -> BTreeSet<Name> {
    let named = objects.ingresses.values().flat_map(|ingress| {
        let secrets = ingress.tls.iter().filter_map(|tls| tls.secret.clone());
        secrets.map(|secret| (ingress.namespace.clone(), secret))
    });
    named.chain(options.default_certificate.clone()).collect()
}

pub(crate) fn translate(state: &State<'_>) -> Translated {
    let ingresses: Vec<&Ingress> = {
        let mut all: Vec<&Ingress> = state.objects.ingresses.values().collect();
        all.sort_by_key(|ingress| ingress.age());
        all
    };
    let hosts: Vec<(HostPattern, &Ingress)> =
        ingresses.iter().flat_map(|i| i.hosts().into_iter().map(move |host| (host, *i))).collect();
    let wishes: Vec<Wish<'_>> = hosts.iter().map(|(host, ingress)| wish(host, ingress)).collect();
    let settled = claims::settle(state.claims, &wishes, &state.objects.pins, state.now);
    let mut groups: BTreeMap<String, Group<'_>> = BTreeMap::new();
    for (host, ingress) in hosts {
        let Some(owner) = settled.owners.get(&host.to_string()) else { continue };
        let group = groups.entry(host.to_string()).or_insert_with(|| {
            let alias = alias::of(&host, owner, &settled.owners, &state.objects.pins, state.options);
            Group { host, alias, owner, ingresses: Vec::new(), others: Vec::new() }
        });
        match owner.namespace == ingress.namespace {
            true => group.ingresses.push(ingress),
            false => group.others.push(ingress),
        }
    }
    let mut told: BTreeMap<Name, Told> = ingresses.iter().map(|i| (i.key(), Told::of(i))).collect();
    let asked = acme_wanted::wanted(state, &ingresses, &settled.owners);
    let (certificates, mut of_hosts) = certificates::assign(state, &ingresses, &settled.owners, &asked);
    let first_expiry = of_hosts.values().filter_map(HostCertificate::not_after).min();
    let redirecting = redirecting(&groups, &of_hosts);
    let mut backends = Backends::new(state.index, &state.objects.nodes);
    let mut translated = Translated { certificates, first_expiry, ..Translated::default() };
    for group in groups.values() {
        let mut certificate = None;
        for name in group.names() {
            let Some(of_name) = of_hosts.remove(&name.to_string()) else { continue };
            translated.https_hosts.push(certificates::https_host(name.clone(), &of_name, state));
            // A host that has none by its own name, but by its second one, lacks nothing.
            certificate =
                Some(of_name).filter(|new| certificate.is_none() || new.is_served()).or(certificate);
        }
        let plaintext = match certificate.is_none() && is_below_anothers(group, &redirecting) {
            true => Plaintext::Serve,
            false => Plaintext::AsHost,
        };
        let answer =
            group.serve(&mut translated, plaintext, certificate.as_ref(), &mut backends, &mut told, state);
        translated.hosts.push(answer);
    }
    translated.listeners = listeners(state.options);
    translated.challenges = Arc::clone(state.challenges);
    translated.backends = backends.into_all();
    translated.claims = settled.claims;
    translated.addresses =
        addresses(state.index, state.objects, state.options.expose, &state.options.publish);
    translated.gateways = gateways(state.index);
    let dues = [
        settled.due,
        state.secrets.due(state.now),
        state.local.due(state.now),
        state.acme.records.due(state.now),
    ];
    translated.due = dues.into_iter().flatten().min();
    translated.wants_edge_ca = state.objects.ingresses.values().any(|i| issuer::is_chosen(i, state.options));
    translated.edge_ca = state.local.answer();
    translated.edge_ca_fault = state.local.fault(state.now).filter(|_| translated.wants_edge_ca);
    for (name, finding) in told::findings(state.acme, &asked, state.now) {
        if let Some(told) = told.get_mut(&name) {
            told.findings.push(finding);
        }
    }
    translated.acme = Arc::new(asked);
    for told in told.values_mut() {
        told.findings.sort();
        told.findings.dedup();
        let answers = told.findings.iter();
        told.answer.findings = answers
            .map(|f| FindingAnswer { word: f.word.text().into(), message: f.message.clone() })
            .collect();
    }
    translated.ingresses = told;
    translated
}

fn wish<'a>(host: &'a HostPattern, ingress: &'a Ingress) -> Wish<'a> {
    Wish { host, namespace: &ingress.namespace, ingress: &ingress.name, created: ingress.created }
}

fn listeners(options: &Options) -> Vec<Listener> {
    let listener = |name: &str, port, public_port, scheme| Listener {
        name: name.into(),
        port,
        public_port,
        scheme,
        hosts: HostPattern::Any,
    };
    vec![
        listener(HTTP, options.http, options.public_http, Scheme::Http),
        listener(HTTPS, options.https, options.public_https, Scheme::Https),
    ]
}

/// One host, and all who ask for it.
struct Group<'a> {
    host: HostPattern,
    /// Its second name.
    alias: Option<HostPattern>,
    owner: &'a Owner,
    /// Of the owner, the oldest first.
    ingresses: Vec<&'a Ingress>,
    others: Vec<&'a Ingress>,
}

/// Wildcards that send plaintext requests to HTTPS, second names among them, and whose each is.
fn redirecting<'a>(
    groups: &BTreeMap<String, Group<'a>>,
    of_hosts: &BTreeMap<String, HostCertificate>,
) -> BTreeMap<String, &'a str> {
    let names = groups.values().flat_map(|group| group.names().map(move |name| (name, group)));
    let wide = names.filter(|(name, _)| matches!(name, HostPattern::Wildcard(..)));
    let whose = wide.map(|(name, group)| (name.to_string(), group.owner.namespace.as_str()));
    whose.filter(|(name, _)| of_hosts.contains_key(name)).collect()
}

/// Whether a wildcard of another namespace would send this host's plaintext requests to HTTPS, by either of its names.
fn is_below_anothers(group: &Group<'_>, redirecting: &BTreeMap<String, &str>) -> bool {
    group.names().any(|name| {
        let HostPattern::Exact(name) = name else { return false };
        let Some((_, suffix)) = name.as_str().split_once('.') else { return false };
        redirecting.get(&format!("*.{suffix}")).is_some_and(|owner| *owner != group.owner.namespace)
    })
}

impl<'a> Group<'a> {
    fn names(&self) -> impl Iterator<Item = &HostPattern> {
        [Some(&self.host), self.alias.as_ref()].into_iter().flatten()
    }

    /// Its routes into `translated`, what is to be said into `told`, and its answer back.
    fn serve(
        &self,
        translated: &mut Translated,
        plaintext: Plaintext,
        certificate: Option<&HostCertificate>,
        backends: &mut Backends<'_>,
        told: &mut BTreeMap<Name, Told>,
        state: &State<'_>,
    ) -> HostAnswer {
        let mut answer = HostAnswer {
            host: self.host.to_string(),
            alias: self.alias.as_ref().map(ToString::to_string),
            owner: self.owner.namespace.clone(),
            by: words::by(&self.owner.by).into(),
            why: words::why_owner(self.owner),
            plaintext: certificate.map_or("served", HostCertificate::plaintext).into(),
            certificate: certificate.map(|certificate| certificate.answer(state.now)),
            ..HostAnswer::default()
        };
        let served = || self.ingresses.iter().filter(|ingress| ingress.settings.refused.is_none());
        let of_host = |ingress: &&'a Ingress| -> Vec<_> {
            ingress.rules.iter().filter(|rule| rule.host == self.host).collect()
        };
        let whole = served().any(|i| of_host(i).iter().any(|rule| rules::takes_everything(i, rule)));
        for ingress in served() {
            let part = rules::part(ingress, &of_host(ingress), !whole, own(ingress, plaintext), backends);
            let name = format!("{}/{}", ingress.namespace, ingress.name);
            if !part.rules.is_empty() {
                translated.routes.push(Route {
                    name: format!("ingress/{name}/{}", self.host).into(),
                    created: ingress.created,
                    parents: vec![HTTP.into(), HTTPS.into()],
                    hosts: self.names().filter(|host| **host != HostPattern::Any).cloned().collect(),
                    rules: part.rules,
                });
            }
            answer.rules.extend(part.shown);
            answer.ingresses.push(name);
            if let Some(told) = told.get_mut(&ingress.key()) {
                told.served = true;
                told.findings.extend(part.findings);
                told.findings
                    .extend(certificate.and_then(|certificate| certificate.finding(ingress, &self.host)));
            }
        }
        for ingress in &self.ingresses {
            let refused = ingress.settings.refused.clone();
            answer.refused.extend(refused.map(|why| Refusal { ingress: name_of(ingress), why }));
        }
        for ingress in &self.others {
            let why = words::why_taken(&self.host, self.owner, &ingress.namespace);
            answer.refused.push(Refusal { ingress: name_of(ingress), why: why.clone() });
            if let Some(told) = told.get_mut(&ingress.key()) {
                let only = HostAnswer {
                    host: answer.host.clone(),
                    owner: answer.owner.clone(),
                    by: answer.by.clone(),
                    why: why.clone(),
                    plaintext: "refused".into(),
                    ..HostAnswer::default()
                };
                told.answer.hosts.push(only);
                told.findings.push(Finding::new(Word::HostTaken, why));
            }
        }
        for ingress in &self.ingresses {
            if let Some(told) = told.get_mut(&ingress.key()) {
                told.answer.hosts.push(answer.clone());
            }
        }
        answer
    }
}

/// An Ingress's own word about plaintext.
fn own(ingress: &Ingress, of_host: Plaintext) -> Plaintext {
    match (ingress.settings.force_https, ingress.settings.plaintext) {
        (true, _) => Plaintext::Redirect,
        (false, true) => Plaintext::Serve,
        (false, false) => of_host,
    }
}

impl Told {
    fn of(ingress: &Ingress) -> Self {
        let mut findings: Vec<Finding> =
            ingress.findings.iter().chain(&ingress.settings.findings).cloned().collect();
        let refused = ingress.settings.refused.as_ref();
        findings.extend(refused.map(|why| Finding::new(Word::Refused, why.clone())));
        let answer = IngressAnswer {
            namespace: ingress.namespace.clone(),
            name: ingress.name.clone(),
            refused: refused.is_some(),
            addresses: ingress.published.iter().map(ToString::to_string).collect(),
            ..IngressAnswer::default()
        };
        let (uid, published) = (ingress.uid.clone(), ingress.published.clone());
        Self { uid, published, served: false, findings, answer }
    }
}

fn name_of(ingress: &Ingress) -> String {
    format!("{}/{}", ingress.namespace, ingress.name)
}

/// The listeners of all Ingresses.
pub(crate) const HTTP: &str = "ingress/http";
pub(crate) const HTTPS: &str = "ingress/https";

#[cfg(test)]
#[path = "translate/tests.rs"]
pub(crate) mod tests;
