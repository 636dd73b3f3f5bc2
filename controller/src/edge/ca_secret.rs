//! The edge CA of a cluster: Secret `signet-edge-ca` of namespace `signet-edge`, made by the replica that holds the Lease when an
//! Ingress first wants it, and read by all. Creating it is what makes it once: of two that try one is told that it is there.
//!
//! Nobody asks for it, or reads it, where no Ingress wants it. One that is there and unusable is never written over; one that is deleted
//! is replaced by a new one, while those who knew it go on with it until then.

use std::{sync::Arc, time::Duration};

use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::{
    Api, Client,
    api::{ObjectMeta, PostParams},
};
use signet_core::{clock, identity::EDGE_NAMESPACE};
use signet_edge_ca::{EdgeCa, Suffix};
use signet_lease::{Lease, call, labels};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};
use tracing::info;

use super::{PART, issuer::Known};
use crate::source::tls_secret::TlsSecret;

/// Clones share it.
#[derive(Clone)]
pub(crate) struct CaSecret {
    api: Api<Secret>,
    suffixes: Arc<[Suffix]>,
    known: watch::Sender<Option<Arc<Known>>>,
    wanted: watch::Sender<bool>,
}

/// What the Secret says now.
enum Read {
    Known(Known),
    Absent,
}

impl CaSecret {
    pub(crate) fn new(client: Client, suffixes: &[Suffix]) -> Self {
        let api = Api::namespaced(client, EDGE_NAMESPACE);
        Self {
            api,
            suffixes: suffixes.into(),
            known: watch::Sender::new(None),
            wanted: watch::Sender::new(false),
        }
    }

    /// `None`: not asked yet.
    pub(crate) fn watch(&self) -> watch::Receiver<Option<Arc<Known>>> {
        self.known.subscribe()
    }

    /// Whether any Ingress wants it.
    pub(crate) fn want(&self, wanted: bool) {
        self.wanted.send_if_modified(|held| std::mem::replace(held, wanted) != wanted);
    }

    /// Waits for the first answer, where it is wanted: an edge that starts anew takes no certificate away. Not for ever: others
    /// have hosts, too.
    pub(crate) async fn first(&self, wanted: bool) {
        if wanted {
            let is_answered = |known: &Option<Arc<Known>>| {
                known.as_deref().is_some_and(|known| !matches!(known, Known::Unanswered(_)))
            };
            let _ = timeout(FIRST, self.watch().wait_for(is_answered)).await; // late: it comes as a change
        }
    }

    /// Reads it again and again while it is wanted, until it is dropped.
    pub(crate) async fn run(&self, lease: &Lease) {
        let mut wanted = self.wanted.subscribe();
        while wanted.wait_for(|wanted| *wanted).await.is_ok() {
            let found = self.turn(lease).await;
            let is_here = matches!(found, Known::Here(_));
            self.know(found);
            sleep(if is_here { REREAD } else { AGAIN }).await;
        }
    }

    /// Reads it, and makes it where there is none and it is ours to do.
    async fn turn(&self, lease: &Lease) -> Known {
        match self.read().await {
            Read::Known(known) => known,
            Read::Absent if lease.is_held() => self.make().await,
            Read::Absent => {
                Known::Not(format!("{PLACE} is not there yet; the replica that holds the Lease makes it"))
            }
        }
    }

    async fn read(&self) -> Read {
        let secret = match call(self.api.get_opt(NAME)).await {
            Ok(Some(secret)) => TlsSecret::new(secret),
            Ok(None) => return Read::Absent,
            Err(error) if error.is_absent() => return Read::Absent,
            Err(error) if error.is_forbidden() => {
                return Read::Known(Known::Not(format!("{PLACE} may not be read: {error}")));
            }
            Err(error) => return Read::Known(Known::Unanswered(format!("{PLACE} cannot be read: {error}"))),
        };
        let text = |bytes: &[u8]| std::str::from_utf8(bytes).map(ToOwned::to_owned).unwrap_or_default();
        let key = zeroize::Zeroizing::new(text(&secret.key));
        Read::Known(match EdgeCa::load(&text(&secret.chain), &key) {
            Ok(ca) => Known::Here(Arc::new(ca)),
            Err(why) => Known::Not(format!("{PLACE}: {why}")),
        })
    }

    async fn make(&self) -> Known {
        let (ca, key) = match EdgeCa::generate(&self.suffixes, clock::unix_now()) {
            Ok(made) => made,
            Err(why) => return Known::Not(why.to_string()),
        };
        let data = [("tls.crt", ca.pem().into_bytes()), ("tls.key", key.as_bytes().to_vec())];
        let secret = Secret {
            metadata: ObjectMeta {
                name: Some(NAME.into()),
                labels: Some(labels(PART)),
                ..ObjectMeta::default()
            },
            data: Some(data.map(|(field, bytes)| (field.to_owned(), ByteString(bytes))).into()),
            type_: Some("kubernetes.io/tls".into()),
            ..Secret::default()
        };
        let params = PostParams { field_manager: Some(MANAGER.into()), ..PostParams::default() };
        let created = call(self.api.create(&params, &secret)).await;
        drop(TlsSecret::new(secret)); // wiped
        match created {
            Ok(created) => {
                drop(TlsSecret::new(created));
                info!(id = ca.id(), "made {PLACE}");
                Known::Here(Arc::new(ca))
            }
            Err(error) if error.is_conflict() => match self.read().await {
                Read::Known(known) => known,
                Read::Absent => Known::Not(format!("{PLACE} comes and goes")),
            },
            Err(error) => Known::Not(format!("{PLACE} cannot be made: {error}")),
        }
    }

    fn know(&self, known: Known) {
        self.known.send_if_modified(|held| {
            let is_same = match (held.as_deref(), &known) {
                (Some(Known::Here(a)), Known::Here(b)) => a.certificate() == b.certificate(),
                (Some(Known::Not(a)), Known::Not(b)) => a == b,
                (Some(Known::Unanswered(a)), Known::Unanswered(b)) => a == b,
                _ => false,
            };
            if !is_same {
                *held = Some(Arc::new(known));
            }
            !is_same
        });
    }
}

const NAME: &str = "signet-edge-ca";
pub(crate) const PLACE: &str = "Secret signet-edge/signet-edge-ca";
/// How the API server's logs and `managedFields` name us.
const MANAGER: &str = "signet-edge";
/// Nobody changes it; who deletes it for a new one does not wait long.
const REREAD: Duration = Duration::from_secs(30);
/// While there is none: hosts wait for it.
const AGAIN: Duration = Duration::from_secs(2);
/// Of the first answer.
const FIRST: Duration = Duration::from_secs(30);

#[cfg(test)]
#[path = "ca_secret/tests.rs"]
mod tests;
