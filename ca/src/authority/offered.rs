//! The intermediate that the user offers: when it is looked for, and what is made of it. Presence decides, and what is there and
//! cannot be used changes nothing.

use std::sync::Arc;

use tracing::info;

use super::{Authority, CaError, Ground, Settings, Writer, make::brought_of};
use crate::{
    brought::{Brought, Refused},
    ledger::rfc3339,
    rotation::{self, Change, Step},
    state::{Offer, Role, State},
    store::StoreError,
};

/// Reads the user's Secret; blocks. `None`: there is none.
pub(crate) type Offers = Box<dyn Fn() -> Result<Option<Offer>, StoreError> + Send + Sync>;

/// What it held.
#[derive(Clone)]
pub(super) enum Offered {
    Nothing,
    Refused(Refused),
    Usable(Arc<Brought>),
}

impl Offered {
    /// A Secret that cannot be read is an error: it may hold one.
    pub(super) fn read(
        ground: &Ground,
        settings: &Settings,
        distrusted: Vec<Arc<str>>,
        now: i64,
    ) -> Result<Self, CaError> {
        let offer = ground.offers.as_ref().map_or(Ok(None), |read| read())?;
        let Some(offer) = offer else { return Ok(Self::Nothing) };
        Ok(match Brought::check(&offer, settings, &distrusted, &ground.provider, now) {
            Ok(brought) => Self::Usable(Arc::new(brought)),
            Err(why) => Self::Refused(why),
        })
    }

    /// What can be used beside this state, in which its root may have been distrusted since.
    pub(super) fn usable(&self, state: &State) -> Option<&Arc<Brought>> {
        match self {
            Self::Usable(brought) => {
                let distrusted = state.distrusted.iter().any(|root| root.id == brought.root_id);
                (!distrusted).then_some(brought)
            }
            Self::Nothing | Self::Refused(_) => None,
        }
    }

    /// As the state machine asks.
    pub(super) fn root(&self, state: &State) -> rotation::Offered<'_> {
        match (self, self.usable(state)) {
            (Self::Nothing, _) => rotation::Offered::Nothing,
            (_, Some(brought)) => rotation::Offered::Root(&brought.root_id),
            (_, None) => rotation::Offered::Unusable,
        }
    }
}

impl Authority {
    /// Once a minute; at once, with every tick, while another replica signs under a root of the user's and we cannot yet.
    pub(super) fn look_in_time(&self, writer: &mut Writer, now: i64) -> Result<(), CaError> {
        let active = writer.state.root_as(Role::Active);
        let lacks = active
            .is_some_and(|root| root.key.is_none() && root.id != self.live.load().intermediate.issued_by);
        match lacks || (now - writer.looked).abs() >= LOOKS_EVERY {
            true => self.look(writer, now),
            false => Ok(()),
        }
    }

    /// Asks for the Secret. An error says what is wrong with it; one that cannot be read is taken to hold what it held.
    pub(super) fn look(&self, writer: &mut Writer, now: i64) -> Result<(), CaError> {
        if self.ground.offers.is_none() {
            return Ok(());
        }
        writer.looked = now;
        writer.offered = Offered::read(&self.ground, &self.settings, writer.state.distrusted_ids(), now)?;
        let found = self.judge(&writer.offered);
        self.fault.store(Arc::new(found.as_ref().err().map(ToString::to_string)));
        found
    }

    fn judge(&self, offered: &Offered) -> Result<(), CaError> {
        let live = self.live.load();
        match (offered, &live.intermediate.brought) {
            (Offered::Refused(why), _) => Err(why.clone().into()),
            (Offered::Nothing, Some(signs)) => Err(CaError::Withdrawn {
                root: Arc::clone(&signs.root_id),
                until: rfc3339(live.intermediate.issuer.not_after),
            }),
            (Offered::Nothing, None) | (Offered::Usable(_), _) => Ok(()),
        }
    }

    /// Begins to rotate to the root that is offered. What signs under a root of the user's is kept for as long as it may have to:
    /// the Secret does not hold it any more.
    pub(super) fn bring(&self, writer: &Writer, now: i64) -> Result<Change, CaError> {
        let Offered::Usable(brought) = &writer.offered else { return Err(CaError::Overtaken) };
        info!(root = %brought.root_id, "a root of the user's own is brought");
        let live = self.live.load();
        let of_active = |signs: &&Arc<Brought>| {
            writer.state.root_as(Role::Active).is_some_and(|root| root.id == signs.root_id)
        };
        let kept = live.intermediate.brought.as_ref().filter(of_active).map(|signs| signs.offer.clone());
        Ok(Change::Bring { root: brought.as_root(now), offer: brought.offer.clone(), kept })
    }

    /// Ends a rotation to what is no longer offered, if that is so by now: another replica may have looked after us, and begun it.
    pub(super) fn abandon(&self, writer: &mut Writer, now: i64) -> Result<(), CaError> {
        let looked = self.look(writer, now);
        let unknown = matches!(looked, Err(CaError::Store(_)));
        if unknown
            || rotation::next(&writer.state, writer.offered.root(&writer.state), now) != Some(Step::Abandon)
        {
            return looked;
        }
        info!("the root that was to be next is not brought any more");
        self.take_step(writer, Change::Abandon, now)?;
        self.publish(writer).map(drop)
    }

    /// Before a root of the user's becomes the one that signs: an error where nothing could be signed under it.
    pub(super) fn can_sign_next(&self, writer: &Writer, now: i64) -> Result<(), CaError> {
        let Some(next) = writer.state.root_as(Role::Next).filter(|next| next.key.is_none()) else {
            return Ok(());
        };
        brought_of(&writer.state, next, &writer.offered, &self.settings, &self.ground.provider, now).map(drop)
    }
}

/// Seconds. Nobody waits for it who has just put a Secret there, and each look brings a key over the wire.
const LOOKS_EVERY: i64 = 60;
