//! Who asks: by the token of a service account, each time; in directory mode by a one-time join token, or the SVID that is to be
//! renewed. The identity comes from here, never from a request.

use std::{net::IpAddr, sync::Arc, time::Duration};

use rustls_pki_types::UnixTime;
use serde::Serialize;
use signet_core::{
    identity::{self, SpiffeId, TrustDomain},
    tls::Peer,
    verifier::MeshVerifier,
};

use crate::{cluster::reviews::Reviews, refusal::Refusal, tokens::Tokens};

/// How a caller proved itself.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Via {
    Token,
    Svid,
    /// The CA, for its own server certificate.
    Own,
}

impl Via {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::Svid => "svid",
            Self::Own => "own",
        }
    }
}

/// The pod that a token is bound to, as the API server says.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Pod {
    /// "namespace/name"
    pub name: String,
    pub uid: String,
}

/// What a certificate is asked for with.
pub(crate) enum Accepted {
    /// Directory mode: tokens of ours, each good once, and SVIDs.
    Join(Arc<Tokens>),
    /// The cluster: tokens of service accounts, which the API server reviews. An SVID alone renews nothing: whoever stole one
    /// would have it for ever, and so would a pod that is gone.
    Reviewed(Box<Reviews>),
}

/// Authenticates callers of `CreateCertificate`.
pub(crate) struct Callers {
    accepted: Accepted,
    verifier: Arc<MeshVerifier>,
    /// The CA's own ID: peers pin it, so nobody else is ever named so.
    reserved: SpiffeId,
}

impl Callers {
    pub(crate) fn new(accepted: Accepted, verifier: Arc<MeshVerifier>, domain: &TrustDomain) -> Self {
        Self { accepted, verifier, reserved: identity::ca(domain) }
    }

    /// Who the caller is, by its `authorization` header if it sent one; else, in directory mode, by the SVID of its connection.
    /// A bad token is refused even beside a good SVID: it would hide a broken token file.
    pub(crate) async fn authenticate(
        &self,
        authorization: Option<&str>,
        peer: Option<&Peer>,
        source: Option<IpAddr>,
        now: i64,
    ) -> Result<(SpiffeId, Via, Option<Pod>), Refusal> {
        let (id, via, pod) = match (authorization, peer, &self.accepted) {
            (Some(header), _, Accepted::Join(tokens)) => {
                (tokens.redeem(bearer(header), now)?, Via::Token, None)
            }
            (Some(header), _, Accepted::Reviewed(reviews)) => {
                let (id, pod) = reviews.redeem(bearer(header), source, now).await?;
                (id, Via::Token, Some(pod))
            }
            (None, Some(peer), Accepted::Join(_)) => (self.renewing(peer, now)?, Via::Svid, None),
            (None, _, Accepted::Reviewed(_)) => return Err(Refusal::NoToken),
            (None, None, Accepted::Join(_)) => return Err(Refusal::NoCredentials),
        };
        if id == self.reserved {
            return Err(Refusal::Reserved { id });
        }
        Ok((id, via, pod))
    }

    /// The handshake verified this chain, but a connection may outlive its leaf or the trust in its root.
    fn renewing(&self, peer: &Peer, now: i64) -> Result<SpiffeId, Refusal> {
        let now = UnixTime::since_unix_epoch(Duration::from_secs(now.unsigned_abs()));
        match self.verifier.check_chain(&peer.chain, now) {
            Ok(()) => Ok(peer.id().clone()),
            Err(source) => Err(Refusal::Svid { id: peer.id().clone(), source }),
        }
    }
}

/// RFC 6750 2.1; the scheme's name is case-insensitive. What is no bearer token is no token of ours either.
fn bearer(header: &str) -> &str {
    match header.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => token.trim(),
        _ => "",
    }
}

/// Parses an ID that someone wants a token for: a workload of this trust domain, not the CA itself.
pub(crate) fn grantable(id: &str, domain: &TrustDomain) -> Result<SpiffeId, Refusal> {
    let id = identity::parse(id)?;
    if id.trust_domain() != domain {
        return Err(Refusal::Foreign { id, domain: domain.clone() });
    }
    if id == identity::ca(domain) {
        return Err(Refusal::Reserved { id });
    }
    Ok(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_bearer_token_is_a_token() {
        for (header, want) in [
            ("Bearer abc", "abc"),
            ("bearer  abc ", "abc"),
            ("BEARER abc", "abc"),
            ("Basic abc", ""),
            ("abc", ""),
            ("", ""),
            ("Bearer", ""),
        ] {
            assert_eq!(bearer(header), want, "{header:?}");
        }
    }

    #[test]
    fn tokens_are_for_workloads_of_this_domain_and_never_for_the_cas_own_name() {
        let domain = TrustDomain::new("cluster.local").unwrap();
        for (id, reason) in [
            ("spiffe://cluster.local/ns/shop/sa/api", None),
            ("spiffe://cluster.local/ns/signet-system/sa/controller", None),
            ("spiffe://cluster.local/ns/signet-system/sa/ca", Some("name_reserved")),
            ("spiffe://other.local/ns/shop/sa/api", Some("name_foreign")),
            ("spiffe://cluster.local", Some("name_invalid")),
        ] {
            assert_eq!(grantable(id, &domain).err().map(|refusal| refusal.reason()), reason, "{id}");
        }
    }
}
