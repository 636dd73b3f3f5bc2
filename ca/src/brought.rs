//! An intermediate of the user's own, under a root whose key stays with the user: what is offered, and whether it will do.
//! Pure; who reads it is `cluster::intermediate`, who takes it into use is `authority`.
//!
//! The last judge is the verifier that peers use: a leaf is made and shown to it, so that nothing is taken whose leaves would
//! be refused, whatever the reason.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::Duration,
};

use rcgen::KeyPair;
use rustls::{client::danger::ServerCertVerifier as _, crypto::CryptoProvider};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject};
use signet_core::{
    bundle::{TrustBundle, certificate_pem, root_id},
    identity,
    serving::Serving,
    svid::MAX_CHAIN,
    trust::Trust,
    verifier::MeshVerifier,
};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::{
    authority::Settings,
    issue::{CannotIssue, Issuer, PublicKey},
    ledger::rfc3339,
    serving::ServingName,
    state::{Offer, Role, Root},
};

/// An offer that will do.
pub(crate) struct Brought {
    pub offer: Offer,
    /// Signs with the user's key. Its end is the earliest of the path's.
    pub issuer: Arc<Issuer>,
    /// PEM, each: the issuer's certificate and those between it and the root.
    pub chain: Vec<Arc<str>>,
    /// Unix seconds.
    pub not_before: i64,
    pub root_id: Arc<str>,
    /// PEM, one certificate.
    root: Arc<str>,
    root_not_after: i64,
    /// Whether an intermediate of our own fits below it: its pathlen, those above it, and the longest chain allow it.
    has_room: bool,
}

/// What signs leaves: with what follows the leaf in an answer.
pub(crate) struct Signer {
    pub issuer: Arc<Issuer>,
    /// PEM, each.
    pub above: Vec<Arc<str>>,
}

impl Brought {
    /// Checks everything that would keep its leaves from being believed.
    pub(crate) fn check(
        offer: &Offer,
        settings: &Settings,
        distrusted: &[Arc<str>],
        provider: &Arc<CryptoProvider>,
        now: i64,
    ) -> Result<Self, Refused> {
        if settings.domain.as_str() == EVERYBODYS {
            return Err(Refused::TrustDomain);
        }
        let root = the_root(&offer.root, now)?;
        let root_id: Arc<str> = root_id(&root).into();
        if distrusted.contains(&root_id) {
            return Err(Refused::Distrusted { id: root_id });
        }
        let mut chain = certificates(TLS_CRT, &offer.chain)?;
        chain.retain(|certificate| *certificate != root); // some tools write it too
        let path = Path::of(&chain, &root, now)?;
        let certificate = chain.first().cloned().ok_or(Refused::Missing { key: TLS_CRT })?;
        let key = private_key(&offer.key)?;
        if !belongs(&key, &certificate) {
            return Err(Refused::ForeignKey);
        }
        let brought = Self {
            offer: offer.clone(),
            issuer: Arc::new(Issuer::brought(certificate, key, path.not_after)?),
            chain: chain.iter().map(|der| certificate_pem(der).into()).collect(),
            not_before: path.not_before,
            root_id,
            root: certificate_pem(&root).into(),
            root_not_after: path.root_not_after,
            has_room: path.has_room,
        };
        brought.rehearse(root, settings, provider, now)?;
        Ok(brought)
    }

    /// What leaves are signed with: an intermediate of our own below it (pathlen 0, its key in memory only), or, where it
    /// leaves no room for one, its own key.
    pub(crate) fn signer(
        &self,
        settings: &Settings,
        random: &dyn rustls::crypto::SecureRandom,
        now: i64,
    ) -> Result<Signer, CannotIssue> {
        if !self.has_room {
            return Ok(Signer { issuer: Arc::clone(&self.issuer), above: self.chain.clone() });
        }
        let ours = self.issuer.intermediate(&settings.domain, settings.intermediate_life, now, random)?;
        let above = std::iter::once(&ours.pem).chain(&self.chain).map(Arc::clone).collect();
        Ok(Signer { issuer: Arc::new(ours), above })
    }

    /// Whether a later signer would be good for longer than until `not_after`.
    pub(crate) fn outlasts(&self, not_after: i64, settings: &Settings, now: i64) -> bool {
        self.has_room && self.issuer.not_after.min(now + settings.intermediate_life) > not_after
    }

    /// Its root, as the state holds it: without a key. `rotation::apply` gives it its role.
    pub(crate) fn as_root(&self, now: i64) -> Root {
        Root {
            id: Arc::clone(&self.root_id),
            role: Role::Next,
            made: now,
            not_after: self.root_not_after,
            certificate: Arc::clone(&self.root),
            key: None,
            kept: None,
        }
    }

    /// A workload's certificate, and the webhook's, shown to whoever will have to believe such.
    fn rehearse(
        &self,
        root: CertificateDer<'static>,
        settings: &Settings,
        provider: &Arc<CryptoProvider>,
        now: i64,
    ) -> Result<(), Refused> {
        let trust = Trust::new(settings.domain.clone());
        let bundle = TrustBundle::new(1, vec![root], vec![]).map_err(|why| Refused::Root { why })?;
        trust.offer(bundle);
        let random = provider.secure_random;
        let signer = self.signer(settings, random, now)?;
        let key = KeyPair::generate().map_err(CannotIssue::from)?;
        let public = PublicKey::of(&key).ok_or(CannotIssue::Random)?;
        let id = identity::injector(&settings.domain);
        let chain = |leaf: &str| -> Vec<CertificateDer<'static>> {
            let all = std::iter::once(leaf).chain(signer.above.iter().map(AsRef::as_ref));
            all.filter_map(|pem| CertificateDer::from_pem_slice(pem.as_bytes()).ok()).collect()
        };

        let leaf = signer.issuer.leaf(&id, &public, REHEARSAL, now, random)?;
        let presented = chain(&leaf.certificate);
        let algorithms = provider.signature_verification_algorithms;
        let verifier = MeshVerifier::new(Arc::clone(&trust), algorithms);
        let at = UnixTime::since_unix_epoch(Duration::from_secs(now.unsigned_abs()));
        let refused = |why: rustls::Error| Refused::Unbelieved { who: "a workload", why: why.to_string() };
        verifier.check_chain(&presented, at).map_err(refused)?;
        let (leaf, intermediates) = presented.split_first().ok_or(CannotIssue::Random)?;
        let nobody = ServerName::from(IpAddr::from(Ipv4Addr::UNSPECIFIED)); // the mesh's verifier asks for no name
        verifier.verify_server_cert(leaf, intermediates, &nobody, &[], at).map_err(refused)?;

        let refused = |why: String| Refused::Unbelieved { who: "the webhook", why };
        let name = ServingName::granted(WEBHOOK, &id).ok_or_else(|| refused(WEBHOOK.into()))?;
        let leaf = signer.issuer.serving(name, &public, REHEARSAL, now, random)?;
        let dns = ServerName::try_from(WEBHOOK).map_err(|e| refused(e.to_string()))?;
        let key = PrivateKeyDer::try_from(key.serialize_der()).map_err(|e| refused(e.to_owned()))?;
        Serving::new(&dns, chain(&leaf.certificate), key, Arc::clone(provider), &trust, now)
            .map_err(|why| refused(why.to_string()))?;
        Ok(())
    }
}

/// What the certificates say of themselves, from the one that signs up to the root.
struct Path {
    not_before: i64,
    not_after: i64,
    root_not_after: i64,
    has_room: bool,
}

impl Path {
    fn of(chain: &[CertificateDer<'_>], root: &CertificateDer<'_>, now: i64) -> Result<Self, Refused> {
        if chain.is_empty() {
            return Err(Refused::OnlyRoot);
        }
        if chain.len() >= MAX_CHAIN {
            return Err(Refused::TooMany { certificates: chain.len() });
        }
        let root = Certificate::parse(CA_CRT, root)?;
        let mut has_room = chain.len() + 1 < MAX_CHAIN;
        let (mut not_before, mut not_after) = (root.not_before, root.not_after);
        let mut below: Option<Certificate> = None;
        for (depth, der) in chain.iter().enumerate() {
            let this = Certificate::parse(TLS_CRT, der)?;
            this.check_is_ca()?;
            this.check_is_valid(now)?;
            if depth == 0 && !this.is_plain {
                return Err(Refused::Subject { subject: this.subject });
            }
            match this.path_length.map(|length| length as usize) {
                Some(length) if length < depth => return Err(this.has_no_room(depth)),
                Some(length) if length == depth => has_room = false,
                _ => {}
            }
            if let Some(below) = below.filter(|below| below.issuer_raw != this.subject_raw) {
                return Err(Refused::Gap {
                    subject: below.subject,
                    issuer: below.issuer,
                    next: this.subject,
                });
            }
            (not_before, not_after) = (not_before.max(this.not_before), not_after.min(this.not_after));
            below = Some(this);
        }
        if let Some(below) = below.filter(|below| below.issuer_raw != root.subject_raw) {
            return Err(Refused::Gap { subject: below.subject, issuer: below.issuer, next: root.subject });
        }
        match root.path_length.map(|length| length as usize) {
            Some(length) if length < chain.len() => return Err(root.has_no_room(chain.len())),
            Some(length) if length == chain.len() => has_room = false,
            _ => {}
        }
        Ok(Self { not_before, not_after, root_not_after: root.not_after, has_room })
    }
}

/// What we look at in one of them.
struct Certificate {
    /// Of the Secret, where it stands.
    key: &'static str,
    subject: String,
    issuer: String,
    subject_raw: Vec<u8>,
    issuer_raw: Vec<u8>,
    not_before: i64,
    not_after: i64,
    signs: bool,
    path_length: Option<u32>,
    /// Each kind of attribute once in the subject: others cannot be written as an issuer's name (rcgen keeps one of a kind).
    is_plain: bool,
}

impl Certificate {
    fn parse(key: &'static str, der: &CertificateDer<'_>) -> Result<Self, Refused> {
        let broken = |why: String| Refused::NotPem { key, why };
        let (_, parsed) = X509Certificate::from_der(der).map_err(|e| broken(format!("not X.509: {e}")))?;
        let constraints = parsed.basic_constraints().map_err(|e| broken(e.to_string()))?;
        let usage = parsed.key_usage().map_err(|e| broken(e.to_string()))?;
        let ca = constraints.as_ref().is_some_and(|constraints| constraints.value.ca);
        let mut kinds: Vec<String> = Vec::new();
        let mut is_plain = true;
        for part in parsed.subject().iter() {
            is_plain &= part.iter().count() == 1;
            kinds.extend(part.iter().map(|attribute| attribute.attr_type().to_id_string()));
        }
        let all = kinds.len();
        kinds.sort_unstable();
        kinds.dedup();
        Ok(Self {
            key,
            subject: shown(parsed.subject()),
            issuer: shown(parsed.issuer()),
            subject_raw: parsed.subject().as_raw().to_vec(),
            issuer_raw: parsed.issuer().as_raw().to_vec(),
            not_before: parsed.validity().not_before.timestamp(),
            not_after: parsed.validity().not_after.timestamp(),
            signs: ca && usage.is_some_and(|usage| usage.value.key_cert_sign()),
            path_length: constraints.and_then(|constraints| constraints.value.path_len_constraint),
            is_plain: is_plain && kinds.len() == all,
        })
    }

    fn check_is_ca(&self) -> Result<(), Refused> {
        match self.signs {
            true => Ok(()),
            false => Err(Refused::NotCa { key: self.key, subject: self.subject.clone() }),
        }
    }

    fn check_is_valid(&self, now: i64) -> Result<(), Refused> {
        let (key, subject) = (self.key, self.subject.clone());
        if now < self.not_before {
            return Err(Refused::NotYet { key, subject, from: rfc3339(self.not_before) });
        }
        if now > self.not_after {
            return Err(Refused::Expired { key, subject, since: rfc3339(self.not_after) });
        }
        Ok(())
    }

    fn has_no_room(&self, below: usize) -> Refused {
        Refused::NoRoom { key: self.key, subject: self.subject.clone(), below }
    }
}

/// The one certificate of `ca.crt`, if it is a root.
fn the_root(pem: &str, now: i64) -> Result<CertificateDer<'static>, Refused> {
    let mut roots = certificates(CA_CRT, pem)?;
    let Some(root) = roots.pop().filter(|_| roots.is_empty()) else {
        return Err(Refused::Roots { certificates: roots.len() + 1 });
    };
    let parsed = Certificate::parse(CA_CRT, &root)?;
    if parsed.subject_raw != parsed.issuer_raw {
        return Err(Refused::NotRoot { subject: parsed.subject, issuer: parsed.issuer });
    }
    parsed.check_is_ca()?;
    parsed.check_is_valid(now)?;
    Ok(root)
}

fn certificates(key: &'static str, pem: &str) -> Result<Vec<CertificateDer<'static>>, Refused> {
    if pem.trim().is_empty() {
        return Err(Refused::Missing { key });
    }
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    let all = all.map_err(|why| Refused::NotPem { key, why: format!("{why:?}") })?;
    match all.is_empty() {
        true => Err(Refused::NotPem { key, why: "no CERTIFICATE block".into() }),
        false => Ok(all),
    }
}

fn private_key(pem: &crate::state::Secret) -> Result<KeyPair, Refused> {
    if pem.expose().trim().is_empty() {
        return Err(Refused::Missing { key: TLS_KEY });
    }
    let key = PrivateKeyDer::from_pem_slice(pem.expose().as_bytes()).map_err(|_| Refused::Key)?;
    KeyPair::try_from(&key).map_err(|_| Refused::Key)
}

fn belongs(key: &KeyPair, certificate: &CertificateDer<'_>) -> bool {
    X509Certificate::from_der(certificate).is_ok_and(|(_, parsed)| {
        parsed.public_key().subject_public_key.data == rcgen::PublicKeyData::der_bytes(key)
    })
}

/// For a message: it comes from a Secret of the administrator's, and may be long all the same.
fn shown(name: &impl fmt::Display) -> String {
    name.to_string().chars().filter(|c| !c.is_control()).take(SHOWN).collect()
}

/// Why an offer is not taken. What signs, signs on.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum Refused {
    #[error(
        "{SECRET}: an intermediate of your own needs a trust domain of your own, because two clusters under one root \
         that are both {EVERYBODYS} would be each other; install with --trust-domain NAME, or delete the Secret"
    )]
    TrustDomain,
    #[error("{SECRET} has no {key}; make it with all of {TLS_CRT}, {TLS_KEY} and {CA_CRT} (docs/ca.md)")]
    Missing { key: &'static str },
    #[error("{SECRET}, {key}: {why}; put certificates in PEM there, whole")]
    NotPem { key: &'static str, why: String },
    #[error(
        "{SECRET}, {TLS_KEY} is no private key that can sign; put one in PEM there, not encrypted (PKCS#8, SEC1 or \
         PKCS#1): P-256, P-384, P-521, Ed25519, or RSA of 2048 bits or more"
    )]
    Key,
    #[error(
        "{SECRET}, {TLS_KEY} is not the key of the first certificate in {TLS_CRT}; put the two there that belong together"
    )]
    ForeignKey,
    #[error(
        "{SECRET}, {key}: {subject:?} is not a CA; have it issued with basicConstraints CA:TRUE and keyUsage keyCertSign \
         (cert-manager: isCA: true and usage \"cert sign\")"
    )]
    NotCa { key: &'static str, subject: String },
    #[error("{SECRET}, {key}: {subject:?} is valid from {from} on only; wait, or set the clock right")]
    NotYet { key: &'static str, subject: String, from: String },
    #[error("{SECRET}, {key}: {subject:?} expired at {since}; put a new one there")]
    Expired { key: &'static str, subject: String, since: String },
    #[error(
        "{SECRET}, {CA_CRT} holds {certificates} certificates instead of the one root; put what lies between it and the intermediate into {TLS_CRT}"
    )]
    Roots { certificates: usize },
    #[error(
        "{SECRET}, {CA_CRT}: {subject:?} is no root, since {issuer:?} issued it; put the root there, and this one at the end of {TLS_CRT}"
    )]
    NotRoot { subject: String, issuer: String },
    #[error("{SECRET}, {CA_CRT} cannot be a root of the mesh: it {why}; put another root there")]
    Root { why: String },
    #[error("{SECRET}, {CA_CRT}: root {id} is distrusted; bring an intermediate of another root")]
    Distrusted { id: Arc<str> },
    #[error(
        "{SECRET}, {TLS_CRT} holds the root alone; put the intermediate there that {TLS_KEY} belongs to: the root's own key stays with you"
    )]
    OnlyRoot,
    #[error(
        "{SECRET}, {TLS_CRT} holds {certificates} certificates; with a workload's own that is more than the {MAX_CHAIN} that peers look at: bring an intermediate nearer to the root"
    )]
    TooMany { certificates: usize },
    #[error(
        "{SECRET}, {TLS_CRT}: {subject:?} was issued by {issuer:?}, and what comes next is {next:?}; put the certificates in order, from the intermediate up to below {CA_CRT}"
    )]
    Gap { subject: String, issuer: String, next: String },
    #[error(
        "{SECRET}, {key}: the pathlen of {subject:?} allows less than the {below} intermediates that are below it; have it issued with a larger one, or none"
    )]
    NoRoom { key: &'static str, subject: String, below: usize },
    #[error(
        "{SECRET}, {TLS_CRT}: the subject {subject:?} has an attribute twice, or two in one place, which cannot be written as the issuer of other certificates; have it issued with a plain one, like CN=mesh"
    )]
    Subject { subject: String },
    #[error(
        "{SECRET}: peers would refuse the certificate of {who} that it issues: {why}; look at {TLS_CRT}'s signatures, name constraints and extended key usages"
    )]
    Unbelieved { who: &'static str, why: String },
    #[error("{SECRET} cannot sign: {0}")]
    CannotSign(String),
}

impl From<CannotIssue> for Refused {
    fn from(why: CannotIssue) -> Self {
        Self::CannotSign(why.to_string())
    }
}

/// As users name it to kubectl, with its namespace.
pub(crate) const SECRET: &str = "Secret signet-system/signet-ca-intermediate";
pub(crate) const TLS_CRT: &str = "tls.crt";
pub(crate) const TLS_KEY: &str = "tls.key";
pub(crate) const CA_CRT: &str = "ca.crt";
/// The trust domain of whoever has not named one.
const EVERYBODYS: &str = "cluster.local";
/// `serving::NAMES`: the one name that somebody outside of the mesh has to believe.
const WEBHOOK: &str = "injector.signet-system.svc";
/// Seconds that a certificate lives which nobody gets.
const REHEARSAL: i64 = 60;
/// Characters of a name in a message.
const SHOWN: usize = 128;

#[cfg(test)]
pub(crate) mod tests;
