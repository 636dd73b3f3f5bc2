//! What gateways are sent: each resource encoded, and nobody else may have any.

use std::{collections::BTreeMap, sync::Arc};

use signet_api::edge::challenge::Kind;
use signet_core::identity::SpiffeId;
use signet_http::contract;
use zeroize::Zeroize as _;

use super::{claim_store::Stored, translate::Translated};
use crate::resources::{Denial, Encoded, Serves, Subscriber, Type};

/// One state of edge.
#[derive(Debug)]
pub(crate) struct EdgeSnapshot {
    /// Who may have it: exactly this ID.
    gateway: SpiffeId,
    resources: BTreeMap<Type, BTreeMap<Arc<str>, Encoded>>,
    /// The claims that it was settled from; `None` in a directory.
    pub(crate) stored: Option<Arc<Stored>>,
    /// What else it says, for pages, status and Events: what is encoded is taken out of it.
    pub(crate) translated: Translated,
}

impl EdgeSnapshot {
    pub(crate) fn new(gateway: SpiffeId, stored: Option<Arc<Stored>>, mut translated: Translated) -> Self {
        let mut resources: BTreeMap<Type, BTreeMap<Arc<str>, Encoded>> = BTreeMap::new();
        let mut add = |kind, name: Arc<str>, encoded| {
            resources.entry(kind).or_default().insert(name, encoded);
        };
        for listener in &std::mem::take(&mut translated.listeners) {
            let encoded = Encoded::of(&contract::listener::encode(listener));
            add(Type::Listener, Arc::clone(&listener.name), encoded);
        }
        for route in &std::mem::take(&mut translated.routes) {
            add(Type::Route, Arc::clone(&route.name), Encoded::of(&contract::route::encode(route)));
        }
        for backend in &std::mem::take(&mut translated.backends) {
            add(Type::Backend, Arc::clone(&backend.name), Encoded::of(&contract::backend::encode(backend)));
        }
        for host in &std::mem::take(&mut translated.https_hosts) {
            let encoded = Encoded::of(&contract::https_host::encode(host));
            add(Type::HttpsHost, host.host.to_string().into(), encoded);
        }
        for certificate in &std::mem::take(&mut translated.certificates) {
            let mut message = contract::certificate::encode(certificate);
            let encoded = Encoded::of(&message);
            message.private_key.zeroize();
            add(Type::Certificate, Arc::clone(&certificate.name), encoded);
        }
        for (name, challenge) in &*std::mem::take(&mut translated.challenges) {
            let mut message = contract::challenge::encode(challenge);
            let encoded = Encoded::of(&message);
            if let Some(Kind::TlsAlpn01(challenge)) = &mut message.kind {
                challenge.private_key.zeroize();
            }
            add(Type::Challenge, name.as_str().into(), encoded);
        }
        Self { gateway, resources, stored, translated }
    }

    /// The one rule of all our types (design 6): a workload's SVID, whatever its namespace, is not a gateway's.
    fn may_have(&self, who: &Subscriber) -> Result<(), Denial> {
        match who.id == self.gateway {
            true => Ok(()),
            false => Err(Denial::Refused("not_a_gateway")),
        }
    }

    /// The resources of a type, by name.
    pub(crate) fn of(&self, kind: Type) -> impl Iterator<Item = (&Arc<str>, &Encoded)> {
        self.resources.get(&kind).into_iter().flatten()
    }
}

impl Serves for EdgeSnapshot {
    const TYPES: &'static [Type] = Type::EDGE;
    const PART: &'static str = "edge";

    fn resource(&self, who: &Subscriber, kind: Type, name: &str) -> Result<Encoded, Denial> {
        self.may_have(who)?;
        let of_kind = self.resources.get(&kind);
        of_kind.and_then(|all| all.get(name)).cloned().ok_or(Denial::Absent)
    }

    fn names(&self, who: &Subscriber, kind: Type) -> Result<Vec<Arc<str>>, Denial> {
        self.may_have(who)?;
        Ok(self.of(kind).map(|(name, _)| Arc::clone(name)).collect())
    }
}
