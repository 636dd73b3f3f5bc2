//! Names: `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`, in the types of the `spiffe` crate.

pub use spiffe::{SpiffeId, TrustDomain};

/// The namespace of our own parts; in directory mode too, where no such Namespace object exists.
pub const SYSTEM_NAMESPACE: &str = "signet-system";
/// The namespace of gateways, apart from ours: they face strangers, and in hostport mode they need ports of the node, which ours
/// forbids.
pub const GATEWAY_NAMESPACE: &str = "signet-gateway";
/// The namespace of what edge stores: claims of hosts and, later, keys of ACME certificates.
pub const EDGE_NAMESPACE: &str = "signet-edge";

/// Parses a workload's SPIFFE ID and accepts one spelling only.
///
/// Shape: `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`, at most 2048 bytes. `SpiffeId::new` folds the
/// trust domain to lower case, so the parsed ID is compared with the input, byte by byte.
/// Errors: [`NotASpiffeId`] shows the input, shortened and escaped. Callers refuse the peer; there is no lenient mode.
/// Source: SPIFFE-ID 2.1-2.3; `ns` and `sa` are the Kubernetes convention.
pub fn parse(uri: &str) -> Result<SpiffeId, NotASpiffeId> {
    let wrong = |why: String| NotASpiffeId { uri: uri.chars().take(SHOWN).collect(), why };
    if uri.len() > MAX_BYTES {
        return Err(wrong(format!("longer than {MAX_BYTES} bytes")));
    }
    let id = SpiffeId::new(uri).map_err(|e| wrong(e.to_string()))?;
    if id.to_string() != uri {
        return Err(wrong("not in its canonical spelling".into()));
    }
    match workload(&id) {
        Some(_) => Ok(id),
        None => Err(wrong("path is not /ns/<namespace>/sa/<service account>".into())),
    }
}

/// The ID of the workload that runs as `account` in `namespace`.
pub fn of(domain: &TrustDomain, namespace: &str, account: &str) -> Result<SpiffeId, NotASpiffeId> {
    SpiffeId::from_segments(domain.clone(), &["ns", namespace, "sa", account]).map_err(|e| NotASpiffeId {
        uri: format!("spiffe://{domain}/ns/{namespace}/sa/{account}").chars().take(SHOWN).collect(),
        why: e.to_string(),
    })
}

/// `(namespace, service account)` of an ID of that shape.
pub fn workload(id: &SpiffeId) -> Option<(&str, &str)> {
    let mut segments = id.path().strip_prefix('/')?.split('/');
    match (segments.next(), segments.next(), segments.next(), segments.next(), segments.next()) {
        (Some("ns"), Some(namespace), Some("sa"), Some(account), None) => Some((namespace, account)),
        _ => None,
    }
}

/// The pinned ID of the CA. Every bootstrap names it exactly.
pub fn ca(domain: &TrustDomain) -> SpiffeId {
    of(domain, SYSTEM_NAMESPACE, "ca").expect("both segments are valid")
}

/// The pinned ID of the controller.
pub fn controller(domain: &TrustDomain) -> SpiffeId {
    of(domain, SYSTEM_NAMESPACE, "controller").expect("both segments are valid")
}

/// The pinned ID of edge, which tells gateways what to serve.
pub fn edge(domain: &TrustDomain) -> SpiffeId {
    of(domain, SYSTEM_NAMESPACE, "edge").expect("both segments are valid")
}

/// The pinned ID of every gateway: who alone gets edge keys.
pub fn gateway(domain: &TrustDomain) -> SpiffeId {
    of(domain, GATEWAY_NAMESPACE, "gateway").expect("both segments are valid")
}

/// The ID of the injector, whose webhook has a certificate for its DNS name beside it.
pub fn injector(domain: &TrustDomain) -> SpiffeId {
    of(domain, SYSTEM_NAMESPACE, "injector").expect("both segments are valid")
}

/// A string that is not the SPIFFE ID of a workload, and why.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{uri:?} is not spiffe://<trust domain>/ns/<namespace>/sa/<account>: {why}")]
pub struct NotASpiffeId {
    uri: String, // printed with {:?}: a peer must not write our log lines
    why: String,
}

/// SPIFFE-ID 2.3: every implementation takes this much; we take no more.
const MAX_BYTES: usize = 2048;
/// Characters: enough to recognise the caller, too few to flood a log.
const SHOWN: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn near_misses_are_refused() {
        for uri in [
            "",
            "https://td/ns/a/sa/b",
            "SPIFFE://td/ns/a/sa/b",
            "spiffe://td",
            "spiffe://td/",
            "spiffe://td/ns/a/sa/b/",
            "spiffe://td/ns/a/sa",
            "spiffe://td/ns/a/sa/b/c",
            "spiffe://td//ns/a/sa/b",
            "spiffe://TD/ns/a/sa/b",
            "spiffe://td:443/ns/a/sa/b",
            "spiffe://user@td/ns/a/sa/b",
            "spiffe://td/ns/../sa/b",
            "spiffe://td/ns/%61/sa/b",
            "spiffe://td/ns/a/sa/b%2e",
            "spiffe://td/ns/a/sa/b?x=1",
            "spiffe://td/ns/a/sa/b#x",
            "spiffe://td/ns/a/sa/b\0",
            "spiffe://td/NS/a/SA/b",
            " spiffe://td/ns/a/sa/b",
        ] {
            assert!(parse(uri).is_err(), "{uri:?}");
        }
        assert!(parse(&format!("spiffe://td/ns/a/sa/{}", "b".repeat(MAX_BYTES))).is_err());
    }

    proptest! {
        #[test]
        fn what_parses_prints_as_it_was(uri in "spiffe://[a-z0-9.-]{1,20}/ns/[a-z0-9.-]{1,20}/sa/[a-zA-Z0-9._-]{1,20}") {
            if let Ok(id) = parse(&uri) {
                prop_assert_eq!(id.to_string(), uri);
            }
        }
        #[test]
        fn no_input_panics(uri in "\\PC{0,80}") {
            let _ = parse(&uri);
        }
    }
}
