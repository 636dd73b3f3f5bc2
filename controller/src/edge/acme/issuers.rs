//! Which certificate authorities there are: the one that edge was started with, and those of cert-manager's Issuers and ClusterIssuers
//! with an `acme` block, as far as they are honoured here. Pure: objects in, issuers out; whatever they say and we do not do is noted.

use std::{collections::BTreeMap, sync::Arc};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::Value;
use signet_acme::{
    issuer::{Issuer, LETS_ENCRYPT, LETS_ENCRYPT_STAGING},
    order::Kind,
};

use super::annotation::Named;

/// What edge was started with: the built-in authority.
#[derive(Clone, Debug, Default)]
pub(crate) struct BuiltIn {
    /// `None`: nobody agreed to an authority's terms, so nothing is ordered of one.
    pub(crate) issuer: Option<Issuer>,
    /// Where issuers that are named staging order; `None`: it has no such place.
    pub(crate) staging: Option<String>,
}

/// All that there are.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Issuers {
    built_in: Option<Arc<Entry>>,
    staging: Option<Arc<Entry>>,
    /// By namespace ("" of a ClusterIssuer) and name.
    named: BTreeMap<(String, String), Arc<Entry>>,
    /// Their kinds exist in this cluster.
    has_kinds: bool,
}

/// One of them.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Entry {
    /// "letsencrypt", "Issuer shop/le" or "ClusterIssuer le".
    pub(crate) name: String,
    /// Why nothing can be ordered of it.
    pub(crate) issuer: Result<Issuer, String>,
    solvers: Vec<Solver>,
    /// What it says and we do not do, to be told to who asks for certificates of it.
    pub(crate) notes: Vec<String>,
    /// The same, of what every issuer says: on its page only.
    pub(crate) asides: Vec<String>,
}

/// One entry of `spec.acme.solvers`.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Solver {
    kind: Kind,
    names: Vec<String>,
    zones: Vec<String>,
}

/// What an Ingress's words lead to.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Found {
    pub(crate) entry: Arc<Entry>,
    /// Worth telling, though it works.
    pub(crate) note: Option<String>,
}

impl BuiltIn {
    /// `directory`: `None` is Let's Encrypt's, which needs an e-mail address or `directory` to be said, because an account agrees to terms.
    /// `staging`: the staging directory beside a `directory` of another authority. `roots`: PEM. Errors: a URL that is none.
    pub(crate) fn new(
        email: Option<&str>,
        directory: Option<&str>,
        staging: Option<&str>,
        profile: Option<&str>,
        roots: Option<String>,
    ) -> Result<Self, String> {
        if email.is_none() && directory.is_none() {
            return Ok(Self::default());
        }
        let directory = directory.unwrap_or(LETS_ENCRYPT);
        let mut issuer = Issuer::new(built_in_name(directory), directory).map_err(|e| e.to_string())?;
        if let Some(staging) = staging {
            Issuer::new("staging", staging).map_err(|e| e.to_string())?;
            issuer.twin = Some(staging.to_owned()).filter(|staging| staging != directory);
        }
        (issuer.email, issuer.profile) = (email.map(str::to_owned), profile.map(str::to_owned));
        issuer.roots = roots;
        let staging = issuer.twin.clone().or_else(|| issuer.is_staging().then(|| directory.to_owned()));
        Ok(Self { issuer: Some(issuer), staging })
    }
}

fn built_in_name(directory: &str) -> &'static str {
    match directory {
        LETS_ENCRYPT => "letsencrypt",
        LETS_ENCRYPT_STAGING => "letsencrypt-staging",
        _ => "acme",
    }
}

impl Issuers {
    /// `objects`: cert-manager's, of both kinds; `None`: there are no such kinds here.
    pub(crate) fn new(built_in: &BuiltIn, objects: Option<&[Value]>) -> Self {
        let entry = |issuer: Issuer| {
            let name = issuer.name.clone();
            Arc::new(Entry {
                name,
                issuer: Ok(issuer),
                solvers: Vec::new(),
                notes: Vec::new(),
                asides: Vec::new(),
            })
        };
        let staging = built_in.issuer.clone().zip(built_in.staging.clone()).map(|(issuer, directory)| {
            let name = match directory.as_str() {
                LETS_ENCRYPT_STAGING => "letsencrypt-staging".to_owned(),
                _ => format!("{}-staging", issuer.name),
            };
            entry(Issuer { name, directory, twin: None, ..issuer })
        });
        let named = objects.into_iter().flatten().filter_map(|object| {
            let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
            let key = (text("/metadata/namespace").unwrap_or_default(), text("/metadata/name")?);
            Some((key.clone(), Arc::new(Entry::parse(&key, object))))
        });
        Self {
            built_in: built_in.issuer.clone().map(entry),
            staging,
            named: named.collect(),
            has_kinds: objects.is_some(),
        }
    }

    /// Those that something may be ordered of, and those that should be mended.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Arc<Entry>> {
        self.built_in.iter().chain(&self.staging).chain(self.named.values())
    }

    /// Whom words of an Ingress in `namespace` lead to. Errors: why nobody, and what to do.
    pub(crate) fn find(&self, namespace: &str, named: &Named) -> Result<Found, String> {
        let (key, shown, name) = match named {
            Named::Default => return self.built_in().map(|entry| Found { entry, note: None }),
            Named::Foreign(shown) => {
                return Err(format!(
                    "{shown} is no issuer of cert-manager's own, and none that is known here"
                ));
            }
            Named::ClusterIssuer(name) => {
                ((String::new(), name.clone()), format!("ClusterIssuer {name}"), name)
            }
            Named::Issuer(name) => {
                ((namespace.to_owned(), name.clone()), format!("Issuer {namespace}/{name}"), name)
            }
        };
        if let Some(entry) = self.named.get(&key) {
            return Ok(Found { entry: Arc::clone(entry), note: None });
        }
        let is_staging = name.to_ascii_lowercase().contains(STAGING);
        let entry = match (&self.staging, is_staging) {
            (Some(staging), true) => Arc::clone(staging),
            (None, true) if self.built_in.is_some() => {
                return Err(format!(
                    "{shown} is named staging, there is no such object, and --acme-directory has no staging directory beside it; name one \
                     with --acme-staging"
                ));
            }
            _ => self.built_in()?,
        };
        let note =
            self.has_kinds.then(|| format!("there is no {shown}; {} is asked in its place", entry.name));
        Ok(Found { entry, note })
    }

    fn built_in(&self) -> Result<Arc<Entry>, String> {
        self.built_in.clone().ok_or_else(|| {
            "no authority is set up that could be asked: signet install --acme-email you@example.com sets up Let's Encrypt".to_owned()
        })
    }
}

impl Entry {
    /// `issuers`, in the words of `kubectl`, of one that is staging.
    pub(crate) fn is_staging(&self) -> bool {
        // "Issuer staging/letsencrypt" is one of a namespace that is called so.
        let own = self.name.rsplit([' ', '/']).next().unwrap_or_default();
        let is_named = own.to_ascii_lowercase().contains(STAGING);
        let is_staging = |issuer: &Issuer| {
            issuer.is_staging() || is_named && issuer.directory != signet_acme::issuer::LETS_ENCRYPT
        };
        self.issuer.as_ref().is_ok_and(is_staging)
    }

    /// How its solvers have names proven: an exact `dnsNames` before the longest of `dnsZones` before one without selector, the first of
    /// equals, as cert-manager chooses. `None`: they do not say. Where names of one certificate differ, all go by DNS-01.
    pub(crate) fn challenge(&self, names: &[&str]) -> Option<Kind> {
        let kinds = names.iter().map(|name| self.of_name(name));
        let kinds: Vec<Option<Kind>> = kinds.collect();
        match kinds.first() {
            Some(first) if kinds.iter().all(|kind| kind == first) => *first,
            _ => kinds.into_iter().flatten().max(), // DNS-01 is the last of them
        }
    }

    fn of_name(&self, name: &str) -> Option<Kind> {
        let base = name.strip_prefix("*.").unwrap_or(name);
        let mut best: Option<(usize, Kind)> = None;
        for solver in &self.solvers {
            let zone = solver.zones.iter().filter(|zone| holds(zone, base)).map(String::len).max();
            let rank = match zone {
                _ if solver.names.iter().any(|exact| exact == name) => usize::MAX,
                Some(length) => length,
                None if solver.names.is_empty() && solver.zones.is_empty() => 0,
                None => continue,
            };
            // A wildcard is proven by DNS-01 only, and cert-manager passes the others over.
            if name.starts_with("*.") && solver.kind != Kind::Dns01 {
                continue;
            }
            if best.is_none_or(|(held, _)| rank > held) {
                best = Some((rank, solver.kind));
            }
        }
        best.map(|(_, kind)| kind)
    }

    fn parse((namespace, name): &(String, String), object: &Value) -> Self {
        let shown = match namespace.as_str() {
            "" => format!("ClusterIssuer {name}"),
            namespace => format!("Issuer {namespace}/{name}"),
        };
        let (mut notes, mut asides) = (Vec::new(), Vec::new());
        let Some(acme) = object.pointer("/spec/acme").filter(|acme| acme.is_object()) else {
            let why = format!("{shown} has no acme block: whoever serves its kind makes its Secret");
            return Self { name: shown, issuer: Err(why), solvers: Vec::new(), notes, asides };
        };
        if acme.pointer("/privateKeySecretRef/name").is_some() {
            asides.push("spec.acme.privateKeySecretRef is not read: edge has an account of its own".into());
        }
        let issuer = issuer(&shown, acme, &mut notes).map_err(|why| format!("{shown}: {why}"));
        let all = acme.get("solvers").and_then(Value::as_array);
        let solvers = all.into_iter().flatten().take(MAX_SOLVERS).enumerate();
        let solvers = solvers.filter_map(|(n, solver)| Solver::parse(n, solver, &mut notes)).collect();
        Self { name: shown, issuer, solvers, notes, asides }
    }
}

/// Of an `acme` block. Errors: why it cannot be asked.
fn issuer(shown: &str, acme: &Value, notes: &mut Vec<String>) -> Result<Issuer, String> {
    let text = |field: &str| acme.get(field).and_then(Value::as_str).filter(|text| !text.is_empty());
    let server = text("server").ok_or("spec.acme.server is missing")?;
    let mut issuer = Issuer::new(shown, server).map_err(|e| e.to_string())?;
    if acme.get("externalAccountBinding").is_some_and(|eab| !eab.is_null()) {
        return Err("spec.acme.externalAccountBinding is not honoured here, and its authority takes no other accounts".into());
    }
    if acme.get("skipTLSVerify").and_then(Value::as_bool) == Some(true) {
        return Err(
            "spec.acme.skipTLSVerify is not honoured: write the authority's roots into spec.acme.caBundle"
                .into(),
        );
    }
    if let Some(bundle) = text("caBundle") {
        let pem = BASE64_STANDARD.decode(bundle).ok().and_then(|bytes| String::from_utf8(bytes).ok());
        issuer.roots = Some(pem.ok_or("spec.acme.caBundle is no PEM in base64")?);
    }
    (issuer.email, issuer.profile) = (text("email").map(str::to_owned), text("profile").map(str::to_owned));
    for (field, what) in [
        ("preferredChain", "the authority's default chain is served"),
        ("enableDurationFeature", "the authority says how long"),
    ] {
        let is_set = acme.get(field).is_some_and(|value| !(value.is_null() || value == "" || value == false));
        if is_set {
            notes.push(format!("spec.acme.{field} is not honoured: {what}"));
        }
    }
    Ok(issuer)
}

impl Solver {
    fn parse(n: usize, solver: &Value, notes: &mut Vec<String>) -> Option<Self> {
        let field = format!("spec.acme.solvers[{n}]");
        let is_set = |pointer: &str| solver.pointer(pointer).is_some_and(|value| !value.is_null());
        let kind = match (is_set("/http01"), is_set("/dns01")) {
            (_, true) => Kind::Dns01,
            (true, false) => Kind::Http01,
            (false, false) => {
                notes.push(format!("{field} says neither http01 nor dns01, and counts as not written"));
                return None;
            }
        };
        if is_set("/selector/matchLabels") {
            notes.push(format!("{field}.selector.matchLabels is not honoured, and the solver counts as not written: select by dnsNames or dnsZones"));
            return None;
        }
        if kind == Kind::Dns01 {
            let provider = solver.pointer("/dns01").and_then(Value::as_object).into_iter().flatten();
            let mut providers =
                provider.map(|(provider, _)| provider.as_str()).filter(|name| *name != "cnameStrategy");
            notes.push(match providers.next() {
                Some("rfc2136" | "route53") | None => format!(
                    "the credentials of {field}.dns01 are not read: they lie in a Secret of namespace signet-edge (docs/dns01.md)"
                ),
                Some(other) => format!(
                    "{field}.dns01.{} is no provider that is known here: route53 and rfc2136 are (docs/dns01.md)",
                    other.chars().take(SHOWN).collect::<String>()
                ),
            });
        }
        let list = |pointer: &str| -> Vec<String> {
            let all = solver.pointer(pointer).and_then(Value::as_array).into_iter().flatten();
            all.filter_map(Value::as_str)
                .map(|text| text.trim_end_matches('.').to_ascii_lowercase())
                .collect()
        };
        Some(Self { kind, names: list("/selector/dnsNames"), zones: list("/selector/dnsZones") })
    }
}

fn holds(zone: &str, name: &str) -> bool {
    name.strip_suffix(zone).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

/// In the name of an issuer.
const STAGING: &str = "staging";
/// Of one issuer: more than anybody writes.
const MAX_SOLVERS: usize = 100;
const SHOWN: usize = 40; // characters of a stranger's word

#[cfg(test)]
#[path = "issuers/tests.rs"]
mod tests;
