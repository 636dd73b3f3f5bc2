//! What an Ingress's annotations say of certificate authorities: cert-manager's of today and of 2018, kube-lego's, and ours. Pure.

use signet_acme::order::Kind;
use signet_core::pod::ACME_CHALLENGE;

/// All that they say.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Words {
    /// `None`: no certificate is asked for by annotation.
    issuer: Option<Named>,
    /// `cert-manager.io/issuer-kind` and `issuer-group`.
    kind: Option<String>,
    group: Option<String>,
    /// The newest word wins: ours, then `acme-challenge-type`, then that there is a `acme-dns01-provider`.
    challenge: Option<(Rank, Kind)>,
}

/// Whom they name.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Named {
    /// Whichever there is: `kubernetes.io/tls-acme`.
    Default,
    ClusterIssuer(String),
    Issuer(String),
    /// Of an API group that is not cert-manager's own, "OriginIssuer x".
    Foreign(String),
}

type Rank = u8;

impl Words {
    /// Takes one annotation in; those that say nothing here pass. Errors: what was expected.
    pub(crate) fn take(&mut self, key: &str, value: &str) -> Result<(), &'static str> {
        if value.is_empty() || value == "false" {
            return Ok(());
        }
        match key {
            "kubernetes.io/tls-acme" if value == "true" => self.name(Named::Default),
            "kubernetes.io/tls-acme" => return Err("is neither true nor false"),
            "cert-manager.io/cluster-issuer" | "certmanager.k8s.io/cluster-issuer" => {
                self.name(Named::ClusterIssuer(value.to_owned()));
            }
            "cert-manager.io/issuer" | "certmanager.k8s.io/issuer" => {
                self.name(Named::Issuer(value.to_owned()));
            }
            "cert-manager.io/issuer-kind" => self.kind = Some(value.to_owned()),
            "cert-manager.io/issuer-group" => self.group = Some(value.to_owned()),
            "certmanager.k8s.io/acme-dns01-provider" => self.prove(0, Kind::Dns01),
            "certmanager.k8s.io/acme-challenge-type" => self.prove(1, challenge(value)?),
            key if key == ACME_CHALLENGE => self.prove(2, challenge(value)?),
            _ => {}
        }
        Ok(())
    }

    /// One that is named goes before whichever there is, a namespace's own before the cluster's.
    fn name(&mut self, named: Named) {
        self.issuer = self.issuer.take().max(Some(named));
    }

    fn prove(&mut self, rank: Rank, kind: Kind) {
        if self.challenge.is_none_or(|(held, _)| rank >= held) {
            self.challenge = Some((rank, kind));
        }
    }

    /// `None`: they ask for no certificate.
    pub(crate) fn issuer(&self) -> Option<Named> {
        let named = self.issuer.clone()?;
        let is_foreign = self.group.as_deref().is_some_and(|group| group != GROUP);
        Some(match (named, self.kind.as_deref()) {
            (Named::Issuer(name), kind) if is_foreign => {
                Named::Foreign(format!("{} {name}", kind.unwrap_or("Issuer")))
            }
            (Named::Issuer(name), Some("ClusterIssuer")) => Named::ClusterIssuer(name),
            (named, _) => named,
        })
    }

    /// `None`: they do not say.
    pub(crate) fn challenge(&self) -> Option<Kind> {
        self.challenge.map(|(_, kind)| kind)
    }
}

/// In today's words and in those of 2018.
fn challenge(value: &str) -> Result<Kind, &'static str> {
    match value.to_ascii_lowercase().as_str() {
        "http01" | "http-01" => Ok(Kind::Http01),
        "dns01" | "dns-01" => Ok(Kind::Dns01),
        "tls-alpn-01" | "tlsalpn01" | "tls-alpn01" => Ok(Kind::TlsAlpn01),
        _ => Err("is none of http-01, tls-alpn-01 and dns-01"),
    }
}

/// Of cert-manager's own Issuers.
pub(crate) const GROUP: &str = "cert-manager.io";

#[cfg(test)]
mod tests {
    use super::*;

    fn of(all: &[(&str, &str)]) -> Words {
        let mut words = Words::default();
        for (key, value) in all {
            words.take(key, value).unwrap();
        }
        words
    }

    #[test]
    fn annotations_of_every_year_name_an_issuer_and_a_challenge() {
        let issuer = |name: &str| Some(Named::Issuer(name.into()));
        let cluster = |name: &str| Some(Named::ClusterIssuer(name.into()));
        for (all, named, kind) in [
            (&[("kubernetes.io/tls-acme", "true")][..], Some(Named::Default), None),
            (&[("kubernetes.io/tls-acme", "false")], None, None),
            (&[("cert-manager.io/cluster-issuer", "le")], cluster("le"), None),
            (&[("cert-manager.io/issuer", "le"), ("kubernetes.io/tls-acme", "true")], issuer("le"), None),
            (&[("cert-manager.io/issuer", "a"), ("cert-manager.io/cluster-issuer", "b")], issuer("a"), None),
            (
                &[
                    ("certmanager.k8s.io/cluster-issuer", "le"),
                    ("certmanager.k8s.io/acme-challenge-type", "dns01"),
                    ("certmanager.k8s.io/acme-dns01-provider", "prod"),
                ],
                cluster("le"),
                Some(Kind::Dns01),
            ),
            (
                &[
                    ("certmanager.k8s.io/issuer", "le"),
                    ("certmanager.k8s.io/acme-challenge-type", "http01"),
                    ("certmanager.k8s.io/acme-dns01-provider", "prod"),
                ],
                issuer("le"),
                Some(Kind::Http01),
            ),
            (
                &[
                    ("cert-manager.io/issuer", "le"),
                    ("certmanager.k8s.io/acme-challenge-type", "http01"),
                    (ACME_CHALLENGE, "tls-alpn-01"),
                ],
                issuer("le"),
                Some(Kind::TlsAlpn01),
            ),
            (
                &[("cert-manager.io/issuer", "x"), ("cert-manager.io/issuer-kind", "ClusterIssuer")],
                cluster("x"),
                None,
            ),
            (
                &[
                    ("cert-manager.io/issuer", "x"),
                    ("cert-manager.io/issuer-kind", "OriginIssuer"),
                    ("cert-manager.io/issuer-group", "cf.com"),
                ],
                Some(Named::Foreign("OriginIssuer x".into())),
                None,
            ),
            (&[("certmanager.k8s.io/acme-challenge-type", "dns01")], None, Some(Kind::Dns01)),
            (&[("cert-manager.io/renew-before", "1h")], None, None),
        ] {
            let words = of(all);
            assert_eq!((words.issuer(), words.challenge()), (named, kind), "{all:?}");
        }
        assert!(Words::default().take(ACME_CHALLENGE, "dns").is_err());
        assert!(Words::default().take("kubernetes.io/tls-acme", "yes").is_err());
    }
}
