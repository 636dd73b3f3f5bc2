//! Where the trust bundle is published for those who have no certificate yet: a file here, ConfigMaps in the cluster
//! ([`crate::cluster::trust`]). Whoever has one gets the bundle with each answer.

use std::{io, path::PathBuf};

use signet_core::{
    bundle::TrustBundle,
    files::{self, PUBLIC},
};

/// Calls block: not for async code.
pub(crate) trait Publication: Send + Sync {
    /// What its readers find now; `None` where there is none, or it is damaged.
    fn found(&self) -> Result<Option<TrustBundle>, CannotPublish>;

    /// Publishes `bundle`. True: it is everywhere where it should be, and was read back; false: that is under way, ask
    /// again. A rotation goes on only after true.
    fn publish(&self, bundle: &TrustBundle) -> Result<bool, CannotPublish>;
}

/// The trust file of directory mode.
pub(crate) struct TrustFile(pub PathBuf);

impl Publication for TrustFile {
    fn found(&self) -> Result<Option<TrustBundle>, CannotPublish> {
        Ok(TrustBundle::read(&self.0).ok())
    }

    /// Replaces a file that holds something else, as a whole.
    fn publish(&self, bundle: &TrustBundle) -> Result<bool, CannotPublish> {
        let holds = || TrustBundle::read(&self.0).is_ok_and(|found| found == *bundle);
        if holds() {
            return Ok(true);
        }
        let failed = |source| CannotPublish::File { path: self.0.clone(), source };
        self.0.parent().map_or(Ok(()), std::fs::create_dir_all).map_err(failed)?;
        files::write_atomic(&self.0, bundle.to_pem().as_bytes(), PUBLIC).map_err(failed)?;
        if !holds() {
            return Err(failed(io::Error::other("it does not hold what was written")));
        }
        Ok(true)
    }
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum CannotPublish {
    #[error("the trust bundle cannot be written to {}: {source}", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("the published trust bundle cannot be read: {0}")]
    Api(String),
}
