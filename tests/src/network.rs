//! Addresses of a test's own: a /16 of 127.0.0.0/8, so that tests run side by side with the fixed ports of a real mesh.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};

/// `127.<X>.0.0/16`, ours until dropped.
///
/// The claim is a listening socket in the range: the kernel gives it to one process only, whoever it runs as, and takes it
/// back however that process ends. A lock file would need a directory that every user may write to.
#[derive(Debug)]
pub struct Network {
    octet: u8,
    _claim: TcpListener,
}

impl Network {
    /// Claims a free range. The demo and `signet local` use 127.64 to 127.126, we use 127.128 to 127.250.
    pub fn claim() -> Self {
        let first = fastrand::u8(FIRST..=LAST);
        let mut octets = (first..=LAST).chain(FIRST..first);
        octets
            .find_map(|octet| {
                let claim = TcpListener::bind((Ipv4Addr::new(127, octet, 255, 254), CLAIM_PORT)).ok()?;
                Some(Self { octet, _claim: claim })
            })
            .expect("fewer than 123 tests run on one machine at a time")
    }

    /// Where the CA and the controller listen.
    pub fn control(&self) -> IpAddr {
        self.address(0, 1)
    }

    /// `127.<X>.<c>.<d>`
    pub fn address(&self, c: u8, d: u8) -> IpAddr {
        Ipv4Addr::new(127, self.octet, c, d).into()
    }

    /// In the notation of a bootstrap's `meshRanges`.
    pub fn range(&self) -> String {
        format!("127.{}.0.0/16", self.octet)
    }

    /// An address that is no pod's, for whatever stands in the way between two.
    pub fn aside(&self, d: u8, port: u16) -> SocketAddr {
        SocketAddr::new(self.address(200, d), port)
    }
}

const FIRST: u8 = 128;
const LAST: u8 = 250;
/// Below the ephemeral ports, so that no client holds it by chance.
const CLAIM_PORT: u16 = 15999;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_tests_never_share_a_range_and_a_dropped_one_is_free_again() {
        let (a, b) = (Network::claim(), Network::claim());
        assert_ne!(a.range(), b.range());
        let octet = a.octet;
        drop(a);
        assert!(TcpListener::bind((Ipv4Addr::new(127, octet, 255, 254), CLAIM_PORT)).is_ok());
    }
}
