//! Whom we believe right now. One [`Trust`] per process; the verifiers hold it, so a changed bundle counts from the next
//! handshake on and no TLS config is rebuilt.

use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls_pki_types::TrustAnchor;
use tokio::sync::watch;

use crate::{bundle::TrustBundle, identity::TrustDomain};

/// The live trust of a process: the newest bundle it was offered, unless its trust file is broken.
pub struct Trust {
    domain: TrustDomain,
    state: ArcSwap<State>,
    changed: watch::Sender<u64>,
}

struct State {
    bundle: Option<Arc<TrustBundle>>,
    /// Set: nobody is believed, and this says why (design 10: a broken trust file refuses all).
    fault: Option<Arc<str>>,
    anchors: Arc<[TrustAnchor<'static>]>,
}

impl Trust {
    /// Believes nobody until a bundle is offered.
    pub fn new(domain: TrustDomain) -> Arc<Self> {
        let state = State { bundle: None, fault: None, anchors: Arc::new([]) };
        Arc::new(Self { domain, state: ArcSwap::from_pointee(state), changed: watch::Sender::new(0) })
    }

    pub fn domain(&self) -> &TrustDomain {
        &self.domain
    }

    /// Takes a bundle that is newer than ours; true when it changed whom we believe.
    /// Offers may come from the file, from an issuance answer and from the stream, in any order: the largest sequence stays.
    pub fn offer(&self, bundle: TrustBundle) -> bool {
        let bundle = Arc::new(bundle);
        let taken = |held: &State| held.bundle.as_ref().is_none_or(|held| held.sequence < bundle.sequence);
        let before = self.state.rcu(|held| match taken(held) {
            true => Arc::new(State::new(Some(Arc::clone(&bundle)), held.fault.clone())),
            false => Arc::clone(held),
        });
        let replaced = taken(&before);
        if replaced {
            self.announce();
        }
        replaced
    }

    /// The trust file is broken (`Some(why)`): refuse everyone. Mended (`None`): believe the newest bundle again.
    pub fn set_fault(&self, fault: Option<String>) {
        let fault: Option<Arc<str>> = fault.map(Into::into);
        let before = self.state.rcu(|held| match held.fault == fault {
            true => Arc::clone(held),
            false => Arc::new(State::new(held.bundle.clone(), fault.clone())),
        });
        if before.fault != fault {
            self.announce();
        }
    }

    /// What the next handshake is checked against; empty refuses everyone.
    pub fn anchors(&self) -> Arc<[TrustAnchor<'static>]> {
        Arc::clone(&self.state.load().anchors)
    }

    /// The bundle we hold, believed or not.
    pub fn bundle(&self) -> Option<Arc<TrustBundle>> {
        self.state.load().bundle.clone()
    }

    /// Why nobody is believed, if that is so.
    pub fn fault(&self) -> Option<Arc<str>> {
        let state = self.state.load();
        match (&state.fault, &state.bundle) {
            (Some(why), _) => Some(Arc::clone(why)),
            (None, None) => Some("no trust bundle yet".into()),
            (None, Some(_)) if state.anchors.is_empty() => {
                Some("every root of the bundle is distrusted".into())
            }
            (None, Some(_)) => None,
        }
    }

    /// Changes whenever the bundle or the fault does.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    fn announce(&self) {
        self.changed.send_modify(|n| *n += 1);
    }
}

impl State {
    fn new(bundle: Option<Arc<TrustBundle>>, fault: Option<Arc<str>>) -> Self {
        let anchors = match (&bundle, &fault) {
            (Some(bundle), None) => bundle
                .believed()
                .filter_map(|root| {
                    webpki::anchor_from_trusted_cert(root).ok().map(|anchor| anchor.to_owned())
                })
                .collect(),
            _ => Arc::new([]) as Arc<[_]>,
        };
        Self { bundle, fault, anchors }
    }
}

impl std::fmt::Debug for Trust {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Trust({}, {} anchors)", self.domain, self.state.load().anchors.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};

    fn bundle(sequence: u64) -> TrustBundle {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let root = params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone();
        TrustBundle::new(sequence, vec![root], vec![]).unwrap()
    }

    fn trust() -> Arc<Trust> {
        Trust::new(TrustDomain::new("cluster.local").unwrap())
    }

    #[test]
    fn an_older_bundle_never_replaces_a_newer_one() {
        let trust = trust();
        let newer = bundle(2);
        assert!(trust.offer(newer.clone()));
        assert!(!trust.offer(bundle(1)));
        assert!(!trust.offer(bundle(2)));
        assert_eq!(*trust.bundle().unwrap(), newer);
    }

    #[test]
    fn a_fault_refuses_all_until_it_is_mended() {
        let trust = trust();
        assert!(trust.fault().is_some());
        trust.offer(bundle(1));
        assert_eq!((trust.fault(), trust.anchors().len()), (None, 1));
        trust.set_fault(Some("cut off".into()));
        trust.offer(bundle(2)); // an offer does not mend the file
        assert_eq!((trust.fault().as_deref(), trust.anchors().len()), (Some("cut off"), 0));
        trust.set_fault(None);
        assert_eq!((trust.bundle().unwrap().sequence, trust.anchors().len()), (2, 1));
    }
}
