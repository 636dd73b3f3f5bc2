//! Which certificates are to be ordered, of whom and how: Ingresses, whose their hosts are, annotations, issuers and Secrets in,
//! certificates out, and for each host either its certificate or why none is ordered. Pure, and the same on every replica; what only the one
//! knows that orders (DNS credentials, what DNS says) comes on top in [`wishes`].
//!
//! A certificate is for the hosts of one `tls` entry that belong to its namespace; a host of the rules that is in no entry has one for itself.
//! A Secret of the user's always comes first, and nothing is ordered beside it as long as somebody seems to renew it.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry as Slot},
    sync::Arc,
};

use signet_acme::{
    dns::credentials::Registry,
    drive::Wishes,
    issuer::Issuer,
    names::NameSet,
    order::Kind,
    plan::{Wish, impossible},
};
use signet_http::model::HostPattern;

use super::{
    super::{
        claims::Owner,
        finding::{Finding, Word},
        known::Why,
        objects::{Ingress, Name},
        translate::State,
        words,
    },
    issuers::Entry,
    records::Read,
};

#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Wanted {
    /// By id.
    pub(crate) certificates: BTreeMap<String, Asked>,
    /// Of an Ingress and a host that it asks for by annotation: the certificate's id, or why none is ordered.
    pub(super) hosts: BTreeMap<(Name, String), Result<String, String>>,
    /// What Ingresses are told beside that.
    pub(crate) findings: Vec<(Name, Finding)>,
    /// What it comes of.
    pub(crate) read: Read,
}

/// One certificate.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Asked {
    pub(crate) names: NameSet,
    /// Whose all of its names are.
    pub(crate) namespace: String,
    /// Who asks, the oldest first: issuer and challenge are the first one's.
    pub(crate) ingresses: Vec<Name>,
    pub(crate) entry: Arc<Entry>,
    pub(crate) issuer: Issuer,
    pub(crate) kind: Kind,
}

/// Hosts that are to be in one certificate, and the Secret that would hold it.
struct Group<'a> {
    hosts: Vec<HostPattern>,
    secret: Option<&'a String>,
}

/// `ingresses`: the oldest first.
pub(crate) fn wanted(state: &State<'_>, ingresses: &[&Ingress], owners: &BTreeMap<String, Owner>) -> Wanted {
    let mut wanted = Wanted { read: state.acme.read, ..Wanted::default() };
    for ingress in ingresses.iter().filter(|ingress| ingress.settings.refused.is_none()) {
        let Some(named) = ingress.settings.acme.issuer() else { continue };
        if ingress.settings.issuer.is_some() {
            continue; // local, or nobody: its own word, and a newer one than any annotation of others
        }
        let found = state.acme.issuers.find(&ingress.namespace, &named);
        for note in found.iter().flat_map(|found| found.note.iter().chain(&found.entry.notes)) {
            let finding = Finding::new(Word::NotHonoured, note.clone());
            wanted.findings.push((ingress.key(), finding));
        }
        let entry = found.map(|found| found.entry);
        for group in groups(ingress) {
            wanted.take(state, ingress, owners, &group, &entry);
        }
    }
    wanted.findings.sort();
    wanted.findings.dedup();
    wanted
}

/// Of each `tls` entry (all hosts of the rules where it names none), and of each other host by itself.
fn groups(ingress: &Ingress) -> Vec<Group<'_>> {
    let of_rules =
        || ingress.rules.iter().map(|rule| rule.host.clone()).filter(|host| *host != HostPattern::Any);
    let mut groups = Vec::new();
    let mut taken: BTreeSet<String> = BTreeSet::new();
    for tls in &ingress.tls {
        let hosts: Vec<HostPattern> =
            if tls.hosts.is_empty() { of_rules().collect() } else { tls.hosts.clone() };
        taken.extend(hosts.iter().map(ToString::to_string));
        groups.push(Group { hosts, secret: tls.secret.as_ref() });
    }
    for host in of_rules() {
        if taken.insert(host.to_string()) {
            groups.push(Group { hosts: vec![host], secret: None });
        }
    }
    groups
}

impl Wanted {
    /// What one Ingress is told of a host; `None`: it asks for no certificate by annotation, or for none that is its to have.
    pub(crate) fn of(&self, ingress: &Ingress, host: &HostPattern) -> Option<Result<&str, &str>> {
        let told = self.hosts.get(&(ingress.key(), host.to_string()))?;
        Some(told.as_deref().map_err(String::as_str))
    }

    /// The certificates that have a name for this host.
    pub(crate) fn covering(&self, host: &str) -> impl Iterator<Item = (&String, &Asked)> {
        self.certificates.iter().filter(move |(_, asked)| asked.names.covers(host))
    }

    fn take(
        &mut self,
        state: &State<'_>,
        ingress: &Ingress,
        owners: &BTreeMap<String, Owner>,
        group: &Group<'_>,
        entry: &Result<Arc<Entry>, String>,
    ) {
        let is_own = |host: &&HostPattern| {
            owners.get(&host.to_string()).is_some_and(|owner| owner.namespace == ingress.namespace)
        };
        let hosts: Vec<&HostPattern> = group.hosts.iter().filter(is_own).collect();
        if hosts.is_empty() {
            return; // whose they are, the Ingress is told already
        }
        let told = self.order(state, ingress, &hosts, group.secret, entry);
        for host in hosts {
            let of_host = self.hosts.entry((ingress.key(), host.to_string()));
            // In two entries: the one that has it ordered.
            match of_host {
                Slot::Vacant(vacant) => drop(vacant.insert(told.clone())),
                Slot::Occupied(mut held) if held.get().is_err() => drop(held.insert(told.clone())),
                Slot::Occupied(_) => {}
            }
        }
    }

    /// The certificate's id. Errors: why none is ordered.
    fn order(
        &mut self,
        state: &State<'_>,
        ingress: &Ingress,
        hosts: &[&HostPattern],
        secret: Option<&String>,
        entry: &Result<Arc<Entry>, String>,
    ) -> Result<String, String> {
        let key = ingress.key();
        if let Some(secret) = secret {
            self.ask_secret(state, ingress, hosts, secret, entry)?;
        }
        let entry = entry.as_ref().map_err(Clone::clone)?;
        let issuer = entry.issuer.as_ref().map_err(Clone::clone)?;
        let names = NameSet::new(hosts.iter().map(ToString::to_string)).map_err(|e| e.to_string())?;
        let listed: Vec<&str> = names.iter().collect();
        let by_name = if names.has_wildcard() { Kind::Dns01 } else { Kind::Http01 };
        let words = &ingress.settings.acme;
        let kind = words.challenge().or_else(|| entry.challenge(&listed)).unwrap_or(by_name);
        if let Some(why) = impossible(&names, issuer, kind) {
            return Err(why);
        }
        let id = names.id();
        match self.certificates.entry(id.clone()) {
            Slot::Vacant(vacant) => {
                let (entry, issuer) = (Arc::clone(entry), issuer.clone());
                let namespace = ingress.namespace.clone();
                vacant.insert(Asked { names, namespace, ingresses: vec![key], entry, issuer, kind });
            }
            Slot::Occupied(mut held) => {
                let asked = held.get_mut();
                if (&asked.issuer, asked.kind) != (issuer, kind) {
                    let first = asked.ingresses.first().map(|(_, name)| name.clone()).unwrap_or_default();
                    let message = format!(
                        "{}: {} by {} is asked for, and the older Ingress {first} has the same certificate from {} by {}; let both say the same",
                        asked.names,
                        entry.name,
                        kind.as_str(),
                        asked.entry.name,
                        asked.kind.as_str()
                    );
                    self.findings.push((key.clone(), Finding::new(Word::NotHonoured, message)));
                }
                if !asked.ingresses.contains(&key) {
                    asked.ingresses.push(key);
                }
            }
        }
        Ok(id)
    }

    /// Errors: its Secret is served, or not read yet, and so nothing is ordered.
    fn ask_secret(
        &mut self,
        state: &State<'_>,
        ingress: &Ingress,
        hosts: &[&HostPattern],
        secret: &str,
        entry: &Result<Arc<Entry>, String>,
    ) -> Result<(), String> {
        let name = (ingress.namespace.clone(), secret.to_owned());
        let mut first_end: Option<i64> = None;
        for host in hosts {
            let pick = state.secrets.pick(&name, host, state.now);
            if pick.why == Some(Why::NotRead) {
                return Err(format!("Secret {}/{secret} is being read", ingress.namespace));
            }
            // One that is gone, or broken, is served on, and holds nothing back.
            let is_current = pick.is_current();
            match pick.certificate.filter(|_| is_current) {
                // Whoever renews it has done so before that.
                Some(held) if (held.not_after - state.now) * NEGLECTED > held.not_after - held.not_before => {
                    first_end = Some(first_end.map_or(held.not_after, |end| end.min(held.not_after)));
                }
                _ => return Ok(()),
            }
        }
        let Some(end) = first_end else { return Ok(()) };
        let why = format!("Secret {}/{secret} comes first", ingress.namespace);
        // Beside one that is not asked nothing ever comes.
        if let Ok(entry) = entry
            && entry.issuer.is_ok()
        {
            let shown: Vec<String> = hosts.iter().take(SHOWN).map(ToString::to_string).collect();
            let message = format!(
                "{}: Secret {}/{secret} is served until {}, and so nothing is ordered of {}; once nobody renews the Secret any more (cert-manager, \
                 a person), delete it: it is served on until the other is there",
                shown.join(", "),
                ingress.namespace,
                words::time(end),
                entry.name
            );
            self.findings.push((ingress.key(), Finding::new(Word::SecretFirst, message)));
        }
        Err(why)
    }
}

/// Why one is held back beside what preflight says: nobody may answer for one of its names.
pub(crate) fn refusal(asked: &Asked, credentials: &Registry) -> Option<String> {
    if asked.kind != Kind::Dns01 {
        return None;
    }
    let refused = asked.names.iter().find_map(|name| credentials.choose(&asked.namespace, name).err());
    refused.map(|refusal| refusal.to_string())
}

/// What is wished for, with what only the replica knows that orders. `held_back` and `renew` by id.
pub(crate) fn wishes(
    wanted: &Wanted,
    held_back: &BTreeMap<String, String>,
    renew: &BTreeMap<String, i64>,
) -> Wishes {
    let wish = |(id, asked): (&String, &Asked)| {
        let wish = Wish {
            issuer: asked.issuer.clone(),
            kind: asked.kind,
            namespace: asked.namespace.clone(),
            held_back: held_back.get(id).cloned(),
            renew: renew.get(id).copied(),
        };
        (asked.names.clone(), wish)
    };
    wanted.certificates.iter().map(wish).collect()
}

/// A Secret with less than one part in so many of its life left is one that nobody renews: cert-manager does so with a third left, people
/// in the last month of a year. Then ours is ordered in time, and is served when it ends.
const NEGLECTED: i64 = 6;
/// Hosts that a sentence repeats.
const SHOWN: usize = 5;
