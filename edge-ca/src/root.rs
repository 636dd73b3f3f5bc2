//! A root, before anybody believes it: what it vouches for, read from the certificate itself.

use rustls_pki_types::{CertificateDer, pem::PemObject as _};
use sha2::{Digest as _, Sha256};
use signet_core::{
    bundle::{certificate_pem, root_id},
    clock,
};
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

use crate::suffix::{BadSuffix, Suffix};

/// The certificate of an edge CA.
///
/// Shape: a CA for servers alone whose critical name constraints permit DNS names below suffixes that no stranger owns, and no IP
/// address. Errors: [`NoRoot`], for everything else: people's browsers would believe it for more.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Root {
    certificate: CertificateDer<'static>,
    suffixes: Vec<Suffix>,
    /// Unix seconds, both inclusive.
    not_before: i64,
    not_after: i64,
}

impl Root {
    /// The first certificate in `pem`.
    pub fn from_pem(pem: &[u8]) -> Result<Self, NoRoot> {
        Self::new(CertificateDer::from_pem_slice(pem).map_err(|_| NoRoot("there is no certificate in PEM"))?)
    }

    pub fn new(certificate: CertificateDer<'static>) -> Result<Self, NoRoot> {
        let (_, parsed) =
            X509Certificate::from_der(&certificate).map_err(|_| NoRoot("the certificate does not parse"))?;
        if !parsed.is_ca() {
            return Err(NoRoot("the certificate is no CA's"));
        }
        let usage = parsed.extended_key_usage().ok().flatten().map(|found| found.value);
        if !usage.is_some_and(|usage| {
            let others = [
                usage.any,
                usage.client_auth,
                usage.code_signing,
                usage.email_protection,
                usage.time_stamping,
                usage.ocsp_signing,
                !usage.other.is_empty(),
            ];
            usage.server_auth && !others.contains(&true)
        }) {
            return Err(NoRoot("the root is not for servers alone"));
        }
        let constraints = parsed.name_constraints().ok().flatten().filter(|found| found.critical);
        let Some(constraints) = constraints.map(|found| found.value) else {
            return Err(NoRoot("the root is not bound to names"));
        };
        let suffix = |base: &GeneralName<'_>| match base {
            GeneralName::DNSName(name) => name.parse().map_err(|_: BadSuffix| {
                NoRoot("the root vouches for names that others may own on the Internet")
            }),
            _ => Err(NoRoot("the root permits names that are not DNS names")),
        };
        let permitted = constraints.permitted_subtrees.iter().flatten().map(|subtree| suffix(&subtree.base));
        let suffixes: Vec<Suffix> = permitted.collect::<Result<_, _>>()?;
        if suffixes.is_empty() {
            return Err(NoRoot("the root is not bound to names"));
        }
        // A type of name that no subtree speaks of is free.
        let excludes = |length: usize| {
            let mut excluded = constraints.excluded_subtrees.iter().flatten();
            excluded.any(|subtree| matches!(subtree.base, GeneralName::IPAddress(ip) if ip.len() == length && ip.iter().all(|b| *b == 0)))
        };
        if !excludes(IPV4) || !excludes(IPV6) {
            return Err(NoRoot("the root vouches for IP addresses"));
        }
        let validity = parsed.validity();
        let (not_before, not_after) = (validity.not_before.timestamp(), validity.not_after.timestamp());
        Ok(Self { suffixes, not_before, not_after, certificate })
    }

    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    pub fn suffixes(&self) -> &[Suffix] {
        &self.suffixes
    }

    /// Suffixes beside those that every edge CA has: whoever believes the root believes it for them.
    pub fn further_suffixes(&self) -> impl Iterator<Item = &Suffix> {
        let always = Suffix::always();
        self.suffixes.iter().filter(move |suffix| !always.contains(suffix))
    }

    /// Whether it vouches for `name`, perhaps with a `*.` in front.
    pub fn covers(&self, name: &str) -> bool {
        self.suffixes.iter().any(|suffix| suffix.covers(name))
    }

    pub fn pem(&self) -> String {
        certificate_pem(&self.certificate)
    }

    /// Of the certificate: its fingerprint.
    pub fn sha256(&self) -> [u8; 32] {
        Sha256::digest(&self.certificate).into()
    }

    /// As `signet trust` and its messages name it.
    pub fn id(&self) -> String {
        root_id(&self.certificate)
    }

    /// Unix seconds.
    pub fn not_before(&self) -> i64 {
        self.not_before
    }

    /// Unix seconds.
    pub fn not_after(&self) -> i64 {
        self.not_after
    }

    /// Errors: whoever believes it believes nothing that it vouches for. `now`: Unix seconds.
    pub fn is_timely(&self, now: i64) -> Result<(), Untimely> {
        let at = |seconds| clock::rfc3339(seconds).unwrap_or_default();
        match now {
            _ if now > self.not_after => Err(Untimely::Expired(at(self.not_after))),
            _ if now < self.not_before => Err(Untimely::NotYet(at(self.not_before))),
            _ => Ok(()),
        }
    }
}

/// A root of another time; RFC 3339.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Untimely {
    #[error(
        "it expired at {0}, and no program believes it any more; make a new edge CA (docs/edge-ca.md, Where its key is)"
    )]
    Expired(String),
    #[error(
        "it is valid from {0} on, which is not now; look at the clocks of this machine and of the one that made it"
    )]
    NotYet(String),
}

/// Why a certificate is not an edge CA's root.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{0}")]
pub struct NoRoot(&'static str);

/// Bytes of an address and its mask, which are all zero: every address (RFC 5280 4.2.1.10).
const IPV4: usize = 8;
const IPV6: usize = 32;

#[cfg(test)]
mod tests {
    use rcgen::{
        BasicConstraints, CertificateParams, CidrSubnet, ExtendedKeyUsagePurpose as Usage, GeneralSubtree,
        IsCa, KeyPair, NameConstraints,
    };

    use super::*;

    fn certificate(change: impl Fn(&mut CertificateParams)) -> CertificateDer<'static> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.extended_key_usages = vec![Usage::ServerAuth];
        params.name_constraints = Some(crate::constraints(&Suffix::always()));
        change(&mut params);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone()
    }

    #[test]
    fn a_root_that_vouches_for_more_than_names_of_ours_is_refused_and_the_reason_said() {
        let permit = |params: &mut CertificateParams, name: &str| {
            let subtree = GeneralSubtree::DnsName(name.into());
            params.name_constraints.as_mut().unwrap().permitted_subtrees.push(subtree);
        };
        let good = Root::new(certificate(|_| ())).unwrap();
        assert_eq!(good.suffixes(), Suffix::always());
        assert!(good.covers("blog.localhost") && !good.covers("example.com"));
        for (said, bad) in [
            ("no CA", certificate(|params| params.is_ca = IsCa::NoCa)),
            ("not bound", certificate(|params| params.name_constraints = None)),
            ("servers alone", certificate(|params| params.extended_key_usages.clear())),
            ("servers alone", certificate(|params| params.extended_key_usages.push(Usage::ClientAuth))),
            ("servers alone", certificate(|params| params.extended_key_usages.push(Usage::CodeSigning))),
            (
                "servers alone",
                certificate(|params| params.extended_key_usages.push(Usage::Other(vec![1, 3, 6]))),
            ),
            ("others may own", certificate(|params| permit(params, "com"))),
            (
                "IP addresses",
                certificate(|params| {
                    let all = CidrSubnet::V4([0; 4], [0; 4]);
                    let excluded_subtrees = vec![GeneralSubtree::IpAddress(all)];
                    let permitted_subtrees = vec![GeneralSubtree::DnsName("test".into())];
                    params.name_constraints = Some(NameConstraints { permitted_subtrees, excluded_subtrees });
                }),
            ),
        ] {
            let why = Root::new(bad).unwrap_err().to_string();
            assert!(why.contains(said), "{why}");
        }
        assert!(Root::from_pem(b"nothing").is_err());
        let further = Root::new(certificate(|params| permit(params, "home.example.com"))).unwrap();
        assert_eq!(further.further_suffixes().map(Suffix::as_str).collect::<Vec<_>>(), ["home.example.com"]);
        assert_eq!(good.further_suffixes().count(), 0);
    }

    #[test]
    fn a_root_is_of_its_time_from_its_first_second_to_its_last_and_says_what_else_it_is() {
        let (from, to) = (1_800_000_000, 1_900_000_000);
        let root = Root::new(certificate(|params| {
            params.not_before = crate::at(from).unwrap();
            params.not_after = crate::at(to).unwrap();
        }));
        let root = root.unwrap();
        assert_eq!((root.not_before(), root.not_after()), (from, to));
        for now in [from, to] {
            assert_eq!(root.is_timely(now), Ok(()));
        }
        assert_eq!(root.is_timely(to + 1), Err(Untimely::Expired("2030-03-17T17:46:40Z".into())));
        assert_eq!(root.is_timely(from - 1), Err(Untimely::NotYet("2027-01-15T08:00:00Z".into())));
    }
}
