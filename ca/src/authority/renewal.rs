//! What signs, renewed.

use std::sync::Arc;

use tracing::info;

use super::{Authority, CaError, FOLLOWS, Live, Offered, Writer, sign_intermediate};
use crate::state::Role;

impl Authority {
    /// Half of its life is gone and a new one would last longer, it is not the active root's, or the user has put another one of
    /// the same root into his Secret.
    pub(super) fn is_intermediate_due(&self, writer: &Writer, now: i64) -> bool {
        let live = self.live.load();
        let held = &live.intermediate;
        let Some(root) = writer.state.root_as(Role::Active) else { return false };
        if held.issued_by != root.id {
            return true;
        }
        let longer = match (&held.brought, &writer.offered) {
            (Some(brought), Offered::Usable(offered)) if offered.root_id == root.id => {
                if offered.offer != brought.offer {
                    return true;
                }
                offered.outlasts(held.issuer.not_after, &self.settings, now)
            }
            // Of what is no longer there, nothing new is made.
            (Some(_), _) => false,
            (None, _) => root.not_after.min(now + self.settings.intermediate_life) > held.issuer.not_after,
        };
        now >= held.renew_at && longer
    }

    pub(super) fn renew_intermediate(&self, writer: &mut Writer, now: i64) -> Result<(), CaError> {
        let offered = writer.offered.clone();
        let intermediate = self.store(writer, |state| {
            sign_intermediate(state, &offered, &self.settings, &self.ground.provider, now)
        })?;
        info!(serial = %intermediate.issuer.serial, root = %intermediate.issued_by, "new intermediate");
        let live = self.live.load_full();
        self.live.store(Arc::new(Live {
            intermediate: Arc::new(intermediate),
            bundle: Arc::clone(&live.bundle),
            bundle_pem: Arc::clone(&live.bundle_pem),
            leaf_life: live.leaf_life,
            good_until: if self.is_alone() { i64::MAX } else { writer.followed + FOLLOWS },
        }));
        Ok(())
    }
}
