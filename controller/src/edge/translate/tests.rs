//! What a state becomes. `Gateway` answers requests from the translated model as the model's own words say (`signet_http::model`),
//! so that tests speak of requests; the engine is tested against the same words where it lives.

use rcgen::{CertificateParams, KeyPair};
use serde_json::{Value, json};
use signet_core::tls;
use signet_edge_ca::{EdgeCa, Suffix};
use signet_http::model::{Action, HostPattern, Match, PathMatch, Rule, Target};
use zeroize::Zeroizing;

use super::*;
use crate::{
    build::{Manifest, index_of, manifest, namespace, pod, service},
    edge::{issuer::Known, known::Trouble},
    source::{Object, tls_secret::TlsSecret},
};

#[path = "acme.rs"]
mod acme;
#[path = "conformance.rs"]
mod conformance;
#[path = "hosts.rs"]
mod hosts;
#[path = "https.rs"]
mod https;
#[path = "local.rs"]
mod local;

const NOW: i64 = 1_780_000_000;

/// A cluster in the making.
#[derive(Clone, Default)]
struct World {
    objects: Vec<Arc<Object>>,
    secrets: Secrets,
    claims: Option<Claims>,
    now: i64,
    default_certificate: Option<Name>,
    issuer: EdgeIssuer,
    alias: Option<Hostname>,
    /// The edge CA's own.
    suffixes: Vec<Suffix>,
    ca: Option<Arc<EdgeCa>>,
    acme: Authorities,
}

pub(crate) fn options() -> Options {
    Options {
        http: 8080,
        https: 8443,
        public_http: 80,
        public_https: 443,
        default_certificate: None,
        issuer: EdgeIssuer::None,
        alias: None,
        expose: Expose::Loadbalancer,
        publish: Vec::new(),
    }
}

impl World {
    /// Namespace shop is in the mesh, and has the Services a, b and c with a Pod each.
    fn new() -> Self {
        let mut world = Self { now: NOW, ..Self::default() };
        for (net, name) in ["shop", "bank"].into_iter().enumerate() {
            world = world.with(namespace(name));
            for (n, app) in ["a", "b", "c"].into_iter().enumerate() {
                let at = format!("10.{net}.0.{}", n + 1);
                let ports = json!([{"name": "http", "port": 80, "targetPort": 8080}]);
                world = world
                    .with(service(app).in_namespace(name).with("/spec/ports", ports))
                    .with(pod(app).in_namespace(name).at(&at));
            }
        }
        world
    }

    fn with(mut self, manifest: Manifest) -> Self {
        self.objects.extend(manifest.objects());
        self
    }

    /// A good certificate for these names in a Secret.
    fn certificate(mut self, of: &str, secret: &str, names: &[&str]) -> Self {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.not_before = time::OffsetDateTime::from_unix_timestamp(NOW - 1000).unwrap();
        params.not_after = time::OffsetDateTime::from_unix_timestamp(NOW + 1000).unwrap();
        let key = KeyPair::generate().unwrap();
        let content = TlsSecret {
            namespace: of.into(),
            name: secret.into(),
            r#type: "kubernetes.io/tls".into(),
            chain: params.self_signed(&key).unwrap().pem().into_bytes(),
            key: Zeroizing::new(key.serialize_pem().into_bytes()),
        };
        self.secrets.found(&(of.into(), secret.into()), &content, &tls::default_provider());
        self
    }

    fn trouble(mut self, of: &str, secret: &str, trouble: Trouble) -> Self {
        self.secrets.trouble(&(of.into(), secret.into()), trouble);
        self
    }

    fn serve(&self) -> Gateway {
        let (index, objects) = (index_of(&self.objects), Objects::build(&self.objects));
        let options = Options {
            default_certificate: self.default_certificate.clone(),
            issuer: self.issuer,
            alias: self.alias.clone(),
            ..options()
        };
        let mut local = LocalIssuer::new(&self.suffixes, "Secret signet-edge/signet-edge-ca");
        if let Some(ca) = &self.ca {
            local.learn(Known::Here(Arc::clone(ca)), self.now);
        }
        local.prepare(&issuer::wanted(&objects, &options), self.now);
        Gateway(translate(&State {
            index: &index,
            objects: &objects,
            claims: self.claims.as_ref(),
            secrets: &self.secrets,
            local: &local,
            acme: &self.acme,
            challenges: &Arc::default(),
            options: &options,
            now: self.now,
        }))
    }
}

/// In namespace shop, of our class.
fn ingress(name: &str) -> Manifest {
    manifest("networking.k8s.io/v1", "Ingress", name)
        .in_namespace("shop")
        .with("/spec/ingressClassName", "signet")
        .with("/metadata/creationTimestamp", "2026-01-01T00:00:00Z")
}

fn to(service: &str) -> Value {
    json!({"service": {"name": service, "port": {"number": 80}}})
}

/// "Prefix /a a": path type, path, Service.
fn path(words: &str) -> Value {
    let [kind, path, service] = words.split(' ').collect::<Vec<_>>()[..] else { panic!("{words}") };
    json!({"pathType": kind, "path": path, "backend": to(service)})
}

fn rule(host: &str, paths: &[&str]) -> Value {
    let paths: Vec<Value> = paths.iter().map(|words| path(words)).collect();
    match host {
        "*" => json!({"http": {"paths": paths}}),
        host => json!({"host": host, "http": {"paths": paths}}),
    }
}

fn rules(all: &[(&str, &[&str])]) -> Value {
    all.iter().map(|(host, paths)| rule(host, paths)).collect()
}

fn tls(hosts: &[&str], secret: &str) -> Value {
    json!([{"hosts": hosts, "secretName": secret}])
}

/// Answers as the model says.
struct Gateway(Translated);

impl Gateway {
    /// What a request in plaintext gets: "a", "b" of namespace shop, "bank/a", "404", "503", "308".
    fn http(&self, url: &str) -> String {
        self.ask(url, Scheme::Http)
    }

    fn https(&self, url: &str) -> String {
        self.ask(url, Scheme::Https)
    }

    fn ask(&self, url: &str, scheme: Scheme) -> String {
        let (host, path) = url.split_once('/').unwrap();
        let path = format!("/{path}");
        let rule = self.rule(host, &path);
        let forced = match (scheme, rule.map_or(Plaintext::AsHost, |rule| rule.plaintext)) {
            (Scheme::Https, _) | (_, Plaintext::Serve) => None,
            (Scheme::Http, Plaintext::Redirect) => Some("308".to_owned()),
            (Scheme::Http, Plaintext::AsHost) => self.https_host(host).map(|found| match &found.unready {
                Some(respond) => respond.status.as_u16().to_string(),
                None => "308".into(),
            }),
        };
        if let Some(status) = forced {
            return status;
        }
        let Some(rule) = rule else { return "404".into() };
        match &rule.action {
            Action::Respond(respond) => respond.status.as_u16().to_string(),
            Action::Redirect(redirect) => redirect.status.code().as_u16().to_string(),
            Action::Forward(forward) => {
                let [weighted] = &forward.backends[..] else { panic!("{:?}", forward.backends) };
                let Target::Backend(name) = &weighted.target else { panic!("{:?}", weighted.target) };
                let backend = self.0.backends.iter().find(|backend| backend.name == *name).unwrap();
                if backend.endpoints.is_empty() {
                    return "503".into();
                }
                let short = name.split(':').next().unwrap();
                short.strip_prefix("shop/").unwrap_or(short).to_owned()
            }
        }
    }

    fn https_host(&self, host: &str) -> Option<&HttpsHost> {
        let matching = self.0.https_hosts.iter().filter(|of| of.host.matches(host));
        matching.max_by_key(|of| weight(&of.host))
    }

    /// The best rule of the routes whose host is the most specific.
    fn rule(&self, host: &str, path: &str) -> Option<&Rule> {
        let of = |route: &Route| match &route.hosts[..] {
            [] => Some((0, 0)),
            hosts => hosts.iter().filter(|of| of.matches(host)).map(weight).max(),
        };
        let most = self.0.routes.iter().filter_map(of).max()?;
        let routes = self.0.routes.iter().filter(|route| of(route) == Some(most));
        let mut all: Vec<(_, &Rule)> = Vec::new();
        for route in routes {
            for (n, rule) in route.rules.iter().enumerate() {
                let any = [Match::path(PathMatch::any())];
                let matches = if rule.matches.is_empty() { &any[..] } else { &rule.matches[..] };
                let best = matches.iter().filter_map(|m| rank(&m.path, path)).max();
                all.extend(
                    best.map(|best| ((best, -route.created, std::cmp::Reverse((&route.name, n))), rule)),
                );
            }
        }
        all.into_iter().max_by(|a, b| a.0.cmp(&b.0)).map(|(_, rule)| rule)
    }

    fn findings(&self, ingress: &str) -> Vec<(Word, String)> {
        let key = ingress.split_once('/').map_or(("shop", ingress), |key| key);
        let told = &self.0.ingresses[&(key.0.to_owned(), key.1.to_owned())];
        told.findings.iter().map(|finding| (finding.word, finding.message.clone())).collect()
    }

    fn words(&self, ingress: &str) -> Vec<Word> {
        self.findings(ingress).into_iter().map(|(word, _)| word).collect()
    }

    fn host(&self, host: &str) -> &HostAnswer {
        self.0.hosts.iter().find(|answer| answer.host == host).unwrap_or_else(|| panic!("{host} is unknown"))
    }

    /// The name of the certificate that a client who dials `host` is shown; `None`: the handshake fails.
    fn shown(&self, host: &str) -> Option<&str> {
        let names = self.0.certificates.iter().flat_map(|c| c.names.iter().map(move |name| (name, c)));
        let best = names.filter(|(name, _)| name.matches(host)).max_by_key(|(name, _)| weight(name));
        let found = best.map(|(_, certificate)| certificate);
        found.or_else(|| self.0.certificates.iter().find(|certificate| certificate.default)).map(|c| &*c.name)
    }
}

fn weight(host: &HostPattern) -> (u8, usize) {
    match host {
        HostPattern::Any => (0, 0),
        HostPattern::Wildcard(suffix, _) => (1, suffix.as_str().len()),
        HostPattern::Exact(_) => (2, 0),
    }
}

/// Kind and length of a match that holds. Of regular expressions only that they begin with the same letters.
fn rank(found: &PathMatch, path: &str) -> Option<(u8, usize)> {
    match found {
        PathMatch::Exact(exact) => (exact.as_str() == path).then_some((2, path.len())),
        PathMatch::Regex(pattern) => {
            let literal = pattern.text.split(['(', '[', '.', '*']).next().unwrap_or_default();
            path.to_lowercase().starts_with(&literal.to_lowercase()).then_some((1, pattern.text.len()))
        }
        PathMatch::Prefix(prefix) => {
            let prefix = prefix.as_str().trim_end_matches('/');
            let rest = path.strip_prefix(prefix)?;
            (rest.is_empty() || rest.starts_with('/')).then_some((0, prefix.len()))
        }
    }
}
