//! Addresses of the demo: 127.X.0.0/16 is all ours on every Linux, without root, and a free X lets demos run side by side.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};

use anyhow::{Context as _, Result};

/// One 127.X.0.0/16, held by a listener for as long as this lives.
pub(super) struct Network {
    x: u8,
    _claim: TcpListener,
}

impl Network {
    /// The first free one, looking from `start` on (any number).
    pub(super) fn claim(start: u8) -> Result<Self> {
        let count = LAST - FIRST + 1;
        (0..count)
            .map(|n| FIRST + (start % count + n) % count)
            .find_map(|x| {
                let claim = TcpListener::bind((Ipv4Addr::new(127, x, 255, 254), CLAIM_PORT)).ok()?;
                let network = Self { x, _claim: claim };
                network.is_free().then_some(network)
            })
            .context("no 127.X.0.0/16 is free for X from 64 to 126; stop other demos, or something that listens on all addresses at port 15012")
    }

    /// Nobody else's control plane is there.
    fn is_free(&self) -> bool {
        [15012, 15010].iter().all(|port| TcpListener::bind(SocketAddr::new(self.control(), *port)).is_ok())
    }

    pub(super) fn control(&self) -> IpAddr {
        self.address(0, 1)
    }

    /// The pod that the manifests place at 127.77.0.`host`.
    pub(super) fn pod(&self, host: u8) -> IpAddr {
        self.address(0, host)
    }

    /// Where what stands behind the wiretap on that pod's address listens.
    pub(super) fn behind_tap(&self, host: u8) -> IpAddr {
        self.address(1, host)
    }

    /// A manifest, moved here.
    pub(super) fn place(&self, manifest: &str) -> String {
        manifest.replace(WRITTEN, &format!("127.{}.", self.x))
    }

    /// "77"
    pub(super) fn name(&self) -> String {
        self.x.to_string()
    }

    fn address(&self, third: u8, host: u8) -> IpAddr {
        Ipv4Addr::new(127, self.x, third, host).into()
    }
}

/// Away from 127.0, where everyone is, 127.53 (systemd-resolved) and the end.
const FIRST: u8 = 64;
const LAST: u8 = 126;
/// Any port that nobody dials.
const CLAIM_PORT: u16 = 15099;
/// As the manifests in cli/demo are written.
const WRITTEN: &str = "127.77.";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_demos_never_share_a_network() {
        let (a, b) = (Network::claim(200).unwrap(), Network::claim(200).unwrap());
        assert_ne!(a.control(), b.control());
        assert_eq!(a.place("podIP: 127.77.0.2"), format!("podIP: {}", a.pod(2)));
        assert!((FIRST..=LAST).contains(&a.x) && (FIRST..=LAST).contains(&b.x));
    }
}
