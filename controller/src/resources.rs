//! Resources as they travel: encoded, with the hash of their content as version; and who may have which.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
};

use sha2::{Digest as _, Sha256};
use signet_api::{ADDRESS, TRUST_BUNDLE, WORKLOAD_SETTINGS, v1};
use signet_core::{bundle::TrustBundle, identity::SpiffeId, svid::hex};

use crate::{index::Index, translate};

/// The resource types that we serve.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(crate) enum Type {
    Address,
    WorkloadSettings,
    TrustBundle,
}

impl Type {
    pub(crate) const ALL: [Self; 3] = [Self::Address, Self::WorkloadSettings, Self::TrustBundle];

    pub(crate) fn parse(url: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.url() == url)
    }

    pub(crate) fn url(self) -> &'static str {
        match self {
            Self::Address => ADDRESS,
            Self::WorkloadSettings => WORKLOAD_SETTINGS,
            Self::TrustBundle => TRUST_BUNDLE,
        }
    }

    /// For logs and metrics.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Address => "address",
            Self::WorkloadSettings => "workload_settings",
            Self::TrustBundle => "trust_bundle",
        }
    }
}

/// Who asks: the verified SVID, and where the connection comes from.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(crate) struct Subscriber {
    pub(crate) id: SpiffeId,
    pub(crate) address: IpAddr,
}

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

/// One resource, encoded.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Encoded {
    /// First 16 hex digits of the content's SHA-256: the same on every replica and after every restart.
    pub(crate) version: Arc<str>,
    pub(crate) body: Arc<[u8]>,
}

impl Encoded {
    fn of(message: &impl prost::Message) -> Self {
        let body = message.encode_to_vec();
        Self { version: hex(&Sha256::digest(&body)[..8]).into(), body: body.into() }
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

    /// What `who` gets for `name`.
    pub(crate) fn resource(&self, who: &Subscriber, kind: Type, name: &str) -> Result<Encoded, Denial> {
        may_have(&self.index, who, kind, name)?;
        match kind {
            Type::Address => self.address(who, name),
            Type::WorkloadSettings => {
                translate::settings(&self.index, name).map(|settings| Encoded::of(&settings))
            }
            Type::TrustBundle => self.bundle.as_deref().map(|bundle| Encoded::of(&bundle_message(bundle))),
        }
        .ok_or(Denial::Absent)
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

fn bundle_message(bundle: &TrustBundle) -> v1::TrustBundle {
    v1::TrustBundle {
        sequence: bundle.sequence,
        roots: bundle.roots.iter().map(|root| root.to_vec()).collect(),
        distrusted: bundle.distrusted.iter().map(|id| id.to_string()).collect(),
    }
}
