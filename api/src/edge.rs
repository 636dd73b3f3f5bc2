//! What edge tells gateways (`proto/signet/edge.proto`).

use std::fmt;

include!(concat!(env!("OUT_DIR"), "/signet.edge.v1.rs"));

/// Without the key.
impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate")
            .field("name", &self.name)
            .field("listeners", &self.listeners)
            .field("names", &self.names)
            .field("default_certificate", &self.default_certificate)
            .finish_non_exhaustive()
    }
}

/// Without the key.
impl fmt::Debug for TlsAlpn01 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsAlpn01").finish_non_exhaustive()
    }
}
