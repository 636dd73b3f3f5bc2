//! An order at a CA as it is stored: the stage that it has reached says what is done next, after a crash too (docs/acme.md).

use serde::{Deserialize, Serialize};

use crate::{issuer::Issuer, plan::Wish, secret::Secret};

/// How a CA is shown that a name is ours.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A file at port 80 (RFC 8555 8.3). No wildcards.
    #[serde(rename = "http-01")]
    Http01,
    /// A certificate at port 443, for ALPN `acme-tls/1` (RFC 8737). No wildcards.
    #[serde(rename = "tls-alpn-01")]
    TlsAlpn01,
    /// A TXT record (RFC 8555 8.4).
    #[serde(rename = "dns-01")]
    Dns01,
}

impl Kind {
    /// As the RFCs, the old annotations and people write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http01 => "http-01",
            Self::TlsAlpn01 => "tls-alpn-01",
            Self::Dns01 => "dns-01",
        }
    }
}

#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Order {
    /// At the twin: it ends when the CA believes that the names are ours, and no certificate is made.
    pub rehearsal: bool,
    /// The CA's directory.
    pub directory: String,
    /// The account's e-mail address; with the directory it names the account.
    pub email: Option<String>,
    pub profile: Option<String>,
    pub kind: Kind,
    /// Whose challenges they are: DNS credentials are given to namespaces.
    pub namespace: String,
    /// When it was about to be asked for. Unix seconds, like every time here.
    pub begun: i64,
    /// When the CA was told to look last; 0: it was not.
    pub told: i64,
    /// Whether it was asked for as the replacement of the certificate that is held (RFC 9773 5).
    pub replaces: bool,
    /// `None`: the CA was not asked, or its answer was never stored. Then a second order is made, and this one expires there.
    pub url: Option<String>,
    pub stage: Stage,
    pub challenges: Vec<Pending>,
    /// Of the certificate to come. Made and stored before it is used.
    pub key: Option<Secret>,
}

/// What is done next. Each is stored before that is done.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Stage {
    /// The order is asked for.
    Asking,
    /// Its authorizations are read.
    Reading,
    /// The challenges are put where the CA will look, and looked for there.
    Presenting,
    /// They are there: the CA may be told to look.
    Presented,
    /// The CA was about to be told; whether it heard is not known.
    Telling { since: i64, next: i64 },
    /// It knows, and is asked how it went.
    Validating { polls: u32, next: i64 },
    /// The names are ours: the certificate may be asked for.
    Ready,
    /// It was about to be asked for; whether the CA heard is not known.
    Finalizing { since: i64, next: i64 },
    /// The CA makes it, and is asked whether it is there.
    Issuing { polls: u32, next: i64 },
}

/// A challenge, without what can be made of it at any time.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Pending {
    /// Without the `*.` of a wildcard.
    pub host: String,
    pub wildcard: bool,
    pub kind: Kind,
    pub token: String,
    /// Token and the hash of the account's public key: no secret.
    pub key_authorization: String,
    pub namespace: String,
    /// The CA believes it.
    pub proven: bool,
}

impl Order {
    pub(crate) fn new(
        issuer: &Issuer,
        wish: &Wish,
        rehearsal: bool,
        replaces: bool,
        now: i64,
    ) -> Option<Self> {
        Some(Self {
            rehearsal,
            directory: issuer.directory_of(rehearsal)?.to_owned(),
            email: issuer.email.clone(),
            profile: issuer.profile.clone(),
            kind: wish.kind,
            namespace: wish.namespace.clone(),
            begun: now,
            told: 0,
            replaces,
            url: None,
            stage: Stage::Asking,
            challenges: Vec::new(),
            key: None,
        })
    }

    /// Whether it is still what is wanted. Of one that is sealed, only the CA matters any more.
    pub(crate) fn fits(&self, wish: &Wish) -> bool {
        let issuer = &wish.issuer;
        let is_same = (&self.email, &self.profile) == (&issuer.email, &issuer.profile)
            && (self.kind, &self.namespace) == (wish.kind, &wish.namespace);
        issuer.directory_of(self.rehearsal) == Some(self.directory.as_str()) && (is_same || self.is_sealed())
    }

    /// The certificate was asked for, and may come without anything more from us.
    pub(crate) fn is_sealed(&self) -> bool {
        matches!(self.stage, Stage::Finalizing { .. } | Stage::Issuing { .. })
    }

    /// Names, as in the certificate, that the CA is told to look at next.
    pub(crate) fn unproven(&self) -> impl Iterator<Item = String> {
        self.challenges.iter().filter(|pending| !pending.proven).map(Pending::name)
    }
}

impl Stage {
    /// It waits for gateways, zones or limits of ours and for nothing of the CA's, or there is no order yet that another could replace.
    pub(crate) fn is_ours(&self) -> bool {
        matches!(self, Self::Asking | Self::Presenting | Self::Presented)
    }
}

impl Pending {
    /// As in the certificate.
    pub fn name(&self) -> String {
        if self.wildcard { format!("*.{}", self.host) } else { self.host.clone() }
    }
}
