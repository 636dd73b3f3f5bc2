//! Reading and writing the state, which other replicas may write too.

use std::sync::Arc;

use tracing::info;

use super::{Authority, CaError, FOLLOWS, Live, MARGIN, TRIES, Writer, bundle_of};
use crate::{
    rotation::{self, Change},
    state::{Role, State},
    store::StoreError,
};

impl Authority {
    /// Whether no replica acts any more by the state before this one: each has read this one, or signs nothing.
    pub(super) fn is_settled(&self, writer: &Writer) -> bool {
        self.is_alone() || self.running() - writer.stood > FOLLOWS + MARGIN
    }

    /// Takes over what another replica wrote.
    pub(super) fn follow(&self, writer: &mut Writer) -> Result<(), CaError> {
        if self.is_alone() {
            return Ok(());
        }
        let began = self.running();
        let state = self.ground.store.load()?.ok_or(CaError::Gone)?;
        if state.version < writer.state.version || state.trust_domain != writer.state.trust_domain {
            return Err(CaError::Replaced { found: state.version, held: writer.state.version });
        }
        self.take(writer, state, began)
    }

    /// A step of the rotation, on the very state that it was decided on.
    pub(super) fn take_step(&self, writer: &mut Writer, change: Change, now: i64) -> Result<(), CaError> {
        let decided_on = writer.state.version;
        self.store(writer, |state| match state.version == decided_on {
            true => Ok((rotation::apply(state, change.clone(), now)?, ())),
            false => Err(CaError::Overtaken),
        })
    }

    /// Stores what `decide` makes of the state, then lets it take effect. Where another replica was faster, it decides
    /// again, on what that one wrote.
    pub(super) fn store<T>(
        &self,
        writer: &mut Writer,
        decide: impl Fn(&State) -> Result<(State, T), CaError>,
    ) -> Result<T, CaError> {
        for _ in 0..TRIES {
            let (next, beside) = decide(&writer.state)?;
            let began = self.running();
            match self.ground.store.replace(&next) {
                Ok(state) => return self.take(writer, state, began).map(|()| beside),
                Err(StoreError::Moved { .. }) if !self.is_alone() => self.follow(writer)?,
                Err(error) => return Err(error.into()),
            }
        }
        Err(CaError::Contended)
    }

    /// Lets a stored state, read or written from `began` on, take effect: on answers, our own trust, and how long we sign.
    fn take(&self, writer: &mut Writer, state: State, began: i64) -> Result<(), CaError> {
        let live = self.live.load_full();
        let (bundle, bundle_pem) = match state.bundle_sequence > live.bundle.sequence {
            true => {
                let bundle = bundle_of(&state)?;
                self.ground.trust.offer(bundle.clone());
                let pem = bundle.to_pem().into();
                (Arc::new(bundle), pem)
            }
            false => (Arc::clone(&live.bundle), Arc::clone(&live.bundle_pem)),
        };
        // An intermediate of a root that signs no more is used until it would have been anyway: a new one is on its way.
        let signs = state.root_as(Role::Active).is_some_and(|root| root.id == live.intermediate.issued_by);
        let good_until = if self.is_alone() { i64::MAX } else { began + FOLLOWS };
        let good_until = if signs { good_until } else { live.good_until };
        let intermediate = Arc::clone(&live.intermediate);
        let leaf_life = self.settings.leaf_life.min(state.leaf_life);
        self.live.store(Arc::new(Live { intermediate, bundle, bundle_pem, leaf_life, good_until }));

        let (before, after) = (writer.state.rotation.phase, state.rotation.phase);
        if before != after {
            info!(%before, %after, "rotation of the root");
        }
        if writer.state.bundle_sequence != state.bundle_sequence {
            writer.published = None;
        }
        if writer.state.rotation != state.rotation || writer.state.bundle_sequence != state.bundle_sequence {
            writer.stood = self.running();
        }
        if writer.state.version != state.version {
            self.shown.store(Arc::new(state.clone()));
        }
        (writer.state, writer.followed) = (state, began);
        Ok(())
    }
}
