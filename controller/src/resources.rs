//! Resources as they travel: encoded, with the hash of their content as version; and who may have which. What the controller
//! serves is here, what edge serves in `edge::snapshot`.

use std::{
    collections::HashMap,
    fmt,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
};

use sha2::{Digest as _, Sha256};
use signet_api::{
    ADDRESS, EDGE_BACKEND, EDGE_CERTIFICATE, EDGE_CHALLENGE, EDGE_HTTPS_HOST, EDGE_LISTENER, EDGE_ROUTE,
    TRUST_BUNDLE, WORKLOAD_SETTINGS, v1,
};
use signet_core::{bundle::TrustBundle, identity::SpiffeId, svid::hex};

use zeroize::Zeroizing;

use crate::{index::Index, translate};

/// The resource types that a process of ours serves.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(crate) enum Type {
    Address,
    WorkloadSettings,
    TrustBundle,
    Listener,
    Certificate,
    Backend,
    Route,
    HttpsHost,
    Challenge,
}

impl Type {
    /// The controller's, for every workload of the mesh.
    pub(crate) const MESH: &[Self] = &[Self::Address, Self::WorkloadSettings, Self::TrustBundle];
    /// Edge's, for gateways alone: a route after its backends, a redirect to HTTPS after its certificate.
    pub(crate) const EDGE: &[Self] =
        &[Self::Listener, Self::Certificate, Self::Backend, Self::Route, Self::HttpsHost, Self::Challenge];

    pub(crate) fn url(self) -> &'static str {
        match self {
            Self::Address => ADDRESS,
            Self::WorkloadSettings => WORKLOAD_SETTINGS,
            Self::TrustBundle => TRUST_BUNDLE,
            Self::Listener => EDGE_LISTENER,
            Self::Certificate => EDGE_CERTIFICATE,
            Self::Backend => EDGE_BACKEND,
            Self::Route => EDGE_ROUTE,
            Self::HttpsHost => EDGE_HTTPS_HOST,
            Self::Challenge => EDGE_CHALLENGE,
        }
    }

    /// For logs and metrics.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Address => "address",
            Self::WorkloadSettings => "workload_settings",
            Self::TrustBundle => "trust_bundle",
            Self::Listener => "listener",
            Self::Certificate => "certificate",
            Self::Backend => "backend",
            Self::Route => "route",
            Self::HttpsHost => "https_host",
            Self::Challenge => "challenge",
        }
    }
}

/// Who asks: the verified SVID, and where the connection comes from.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(crate) struct Subscriber {
    pub(crate) id: SpiffeId,
    pub(crate) address: IpAddr,
}

/// One state of what a process serves: the controller's for proxies, edge's for gateways.
pub(crate) trait Serves: Send + Sync + 'static {
    /// In the order in which they are sent.
    const TYPES: &'static [Type];
    /// For messages: who ends a stream.
    const PART: &'static str;

    /// What `who` gets for `name`.
    fn resource(&self, who: &Subscriber, kind: Type, name: &str) -> Result<Encoded, Denial>;

    /// What a subscription to [`ALL`] stands for.
    fn names(&self, who: &Subscriber, kind: Type) -> Result<Vec<Arc<str>>, Denial>;
}

/// The name that subscribes to every resource of a type (delta xDS).
pub(crate) const ALL: &str = "*";

/// Why a subscriber does not get a resource.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Denial {
    /// There is none of that name: an answer, not an accusation.
    Absent,
    /// It is somebody else's. The word is the metric's label.
    Refused(&'static str),
}

/// The rule per type for who may subscribe (design 6). Asked for every answer, not once per stream: a Pod may be replaced by
/// one of another identity while the stream lives.
pub(crate) fn may_have(index: &Index, who: &Subscriber, kind: Type, name: &str) -> Result<(), Denial> {
    if who.id.trust_domain() != &index.mesh.trust_domain {
        return Err(Denial::Refused("foreign_trust_domain"));
    }
    match kind {
        Type::Address => Ok(()),
        Type::TrustBundle if name == index.mesh.trust_domain.as_str() => Ok(()),
        Type::TrustBundle => Err(Denial::Absent),
        // Not of the mesh, and not served by its stream.
        Type::Listener
        | Type::Certificate
        | Type::Backend
        | Type::Route
        | Type::HttpsHost
        | Type::Challenge => Err(Denial::Absent),
        Type::WorkloadSettings => {
            let pod = name
                .split_once('/')
                .and_then(|(namespace, pod)| index.pod(namespace, pod))
                .ok_or(Denial::Absent)?;
            match pod.identity() {
                None => Err(Denial::Absent),
                Some(id) if *id != who.id => Err(Denial::Refused("identity_mismatch")),
                Some(_) if pod.addresses.is_empty() => Err(Denial::Absent), // its status is behind: it gets them as soon as it has
                Some(_) if !pod.addresses.contains(&who.address) => Err(Denial::Refused("address_mismatch")),
                Some(_) => Ok(()),
            }
        }
    }
}

/// One resource, encoded. It may hold a key: wiped with the last of its copies, and not shown.
#[derive(Clone, Eq, PartialEq)]
pub(crate) struct Encoded {
    /// First 16 hex digits of the content's SHA-256: the same on every replica and after every restart.
    pub(crate) version: Arc<str>,
    pub(crate) body: Arc<Zeroizing<Vec<u8>>>,
}

impl Encoded {
    pub(crate) fn of(message: &impl prost::Message) -> Self {
        let body = Zeroizing::new(message.encode_to_vec());
        Self { version: hex(&Sha256::digest(&*body)[..8]).into(), body: Arc::new(body) }
    }
}

impl fmt::Debug for Encoded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Encoded({}, {} bytes)", self.version, self.body.len())
    }
}

/// What every stream answers from: replaced whole when the objects or the trust bundle change.
#[derive(Debug)]
pub(crate) struct Snapshot {
    pub(crate) index: Arc<Index>,
    pub(crate) bundle: Option<Arc<TrustBundle>>,
    /// Addresses that were asked for since, so that a thousand subscribers cost one translation. Only those that exist: their
    /// number is that of the Pods and Services (of those with internalTrafficPolicy Local: times the nodes), whatever names
    /// strangers make up.
    addresses: Arc<Mutex<HashMap<String, Encoded>>>,
}

impl Snapshot {
    pub(crate) fn new(index: Arc<Index>, bundle: Option<Arc<TrustBundle>>) -> Self {
        Self { index, bundle, addresses: Arc::default() }
    }

    /// The same objects, another bundle.
    pub(crate) fn with_bundle(&self, bundle: Option<Arc<TrustBundle>>) -> Self {
        Self { index: Arc::clone(&self.index), bundle, addresses: Arc::clone(&self.addresses) }
    }

    fn address(&self, who: &Subscriber, name: &str) -> Option<Encoded> {
        let key = match name.parse::<IpAddr>() {
            Ok(address) => address.to_canonical().to_string(),
            Err(_) => {
                let (namespace, service) = translate::service_name(&self.index, name)?;
                format!("{service}.{namespace}")
            }
        };
        let by_node = translate::depends_on_node(&self.index, &key);
        let node = self.index.node_of(who.address).filter(|_| by_node);
        let held_as = if by_node { format!("{key} from {}", node.unwrap_or_default()) } else { key.clone() };
        if let Some(held) = self.lock().get(&held_as) {
            return Some(held.clone());
        }
        let address = translate::address(&self.index, &key, node)?;
        let encoded = Encoded::of(&address);
        if !matches!(address.target, Some(v1::address::Target::Outside(_))) {
            self.lock().insert(held_as, encoded.clone());
        }
        Some(encoded)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Encoded>> {
        self.addresses.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Serves for Snapshot {
    const TYPES: &'static [Type] = Type::MESH;
    const PART: &'static str = "the controller";

    fn resource(&self, who: &Subscriber, kind: Type, name: &str) -> Result<Encoded, Denial> {
        may_have(&self.index, who, kind, name)?;
        match kind {
            Type::Address => self.address(who, name),
            Type::WorkloadSettings => {
                translate::settings(&self.index, name).map(|settings| Encoded::of(&settings))
            }
            Type::TrustBundle => self.bundle.as_deref().map(|bundle| Encoded::of(&bundle_message(bundle))),
            Type::Listener
            | Type::Certificate
            | Type::Backend
            | Type::Route
            | Type::HttpsHost
            | Type::Challenge => None,
        }
        .ok_or(Denial::Absent)
    }

    /// Nobody gets all of the mesh.
    fn names(&self, _: &Subscriber, _: Type) -> Result<Vec<Arc<str>>, Denial> {
        Err(Denial::Absent)
    }
}

fn bundle_message(bundle: &TrustBundle) -> v1::TrustBundle {
    v1::TrustBundle {
        sequence: bundle.sequence,
        roots: bundle.roots.iter().map(|root| root.to_vec()).collect(),
        distrusted: bundle.distrusted.iter().map(|id| id.to_string()).collect(),
    }
}
