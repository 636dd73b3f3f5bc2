//! Which CA, and as whom.

use std::fmt;

use zeroize::Zeroizing;

/// A CA's directory and what we say to it. Two are the same CA where their directories are.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Issuer {
    /// As people call it: `letsencrypt`, or `<namespace>/<name>` of an Issuer object.
    pub name: String,
    /// URL of its directory (RFC 8555 7.1.1), https.
    pub directory: String,
    /// Of its staging environment, where first orders are rehearsed. `None`: it has none that we know of.
    pub twin: Option<String>,
    /// For the CA's letters; none is fine with Let's Encrypt, which sends no more.
    pub email: Option<String>,
    /// draft-aaron-acme-profiles; `None`: the CA's default.
    pub profile: Option<String>,
    /// Ties our account to one at the CA's shop (RFC 8555 7.3.4). Not said to the twin.
    pub eab: Option<Eab>,
    /// Roots in PEM that the CA's own server is believed by, instead of the web's. For the twin too.
    pub roots: Option<String>,
}

/// An external account: its name and its MAC key.
#[derive(Clone, Eq, PartialEq)]
pub struct Eab {
    pub kid: String,
    /// Raw bytes, not base64.
    pub key: Zeroizing<Vec<u8>>,
}

impl fmt::Debug for Eab {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Eab({}, ..)", self.kid)
    }
}

impl Issuer {
    /// The CA at `directory`; Let's Encrypt's production knows its twin.
    pub fn new(name: &str, directory: &str) -> Result<Self, NoIssuer> {
        let uri: http::Uri = directory.parse().map_err(|_| NoIssuer::Url(directory.to_owned()))?;
        if uri.scheme() != Some(&http::uri::Scheme::HTTPS) || uri.host().is_none_or(str::is_empty) {
            return Err(NoIssuer::Url(directory.to_owned()));
        }
        let twin = (directory == LETS_ENCRYPT).then(|| LETS_ENCRYPT_STAGING.to_owned());
        let (name, directory) = (name.to_owned(), directory.to_owned());
        Ok(Self { name, directory, twin, email: None, profile: None, eab: None, roots: None })
    }

    /// Let's Encrypt, with its staging environment as twin.
    pub fn lets_encrypt(email: Option<&str>) -> Self {
        Self {
            name: "letsencrypt".into(),
            directory: LETS_ENCRYPT.into(),
            twin: Some(LETS_ENCRYPT_STAGING.into()),
            email: email.map(str::to_owned),
            profile: None,
            eab: None,
            roots: None,
        }
    }

    /// Named by the user as the CA itself, so that its certificates are served, though no browser believes them.
    pub fn is_staging(&self) -> bool {
        self.directory == LETS_ENCRYPT_STAGING
    }

    /// How many names it puts into one certificate.
    pub fn most_names(&self) -> usize {
        match (self.directory.as_str(), self.profile.as_deref()) {
            (LETS_ENCRYPT | LETS_ENCRYPT_STAGING, Some("tlsserver" | "shortlived")) => 25,
            _ => crate::names::MAX_NAMES,
        }
    }

    /// The directory of an order: the twin's of a rehearsal.
    pub(crate) fn directory_of(&self, rehearsal: bool) -> Option<&str> {
        if rehearsal { self.twin.as_deref() } else { Some(&self.directory) }
    }
}

/// Why a CA cannot be asked.
#[derive(Debug, thiserror::Error)]
pub enum NoIssuer {
    #[error("{0:?} is not the URL of an ACME directory; it begins with https://")]
    Url(String),
}

pub const LETS_ENCRYPT: &str = "https://acme-v02.api.letsencrypt.org/directory";
pub const LETS_ENCRYPT_STAGING: &str = "https://acme-staging-v02.api.letsencrypt.org/directory";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_https_directories_are_cas_and_lets_encrypt_has_its_twin() {
        for url in ["http://ca.example/directory", "ca.example", "https://", "", "ftp://ca.example"] {
            assert!(Issuer::new("x", url).is_err(), "{url}");
        }
        assert_eq!(Issuer::new("le", LETS_ENCRYPT).unwrap().twin.as_deref(), Some(LETS_ENCRYPT_STAGING));
        let staging = Issuer::new("le", LETS_ENCRYPT_STAGING).unwrap();
        assert!(staging.twin.is_none() && staging.is_staging());
        assert_eq!(Issuer::new("other", "https://ca.example/dir").unwrap().twin, None);
    }

    #[test]
    fn an_external_accounts_key_is_never_printed() {
        let eab = Eab { kid: "kid-1".into(), key: b"secret".to_vec().into() };
        let issuer = Issuer { eab: Some(eab), ..Issuer::lets_encrypt(None) };
        let printed = format!("{issuer:?}");
        assert!(
            printed.contains("kid-1") && !printed.contains("secret") && !printed.contains("115"),
            "{printed}"
        );
    }
}
