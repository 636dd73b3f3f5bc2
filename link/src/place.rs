//! Where a part of the control plane listens, as a flag or a bootstrap file names it.

use std::{fmt, io, net::SocketAddr, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use tokio::net::lookup_host;

/// An address, or a name that is looked up at every connect: a Service keeps its name longer than its address.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Place {
    At(SocketAddr),
    Named { host: String, port: u16 },
}

impl Place {
    /// Every address that it has now, in the resolver's order. Errors: the name is not known, or nobody could be asked.
    pub async fn resolve(&self) -> io::Result<Vec<SocketAddr>> {
        match self {
            Self::At(address) => Ok(vec![*address]),
            Self::Named { host, port } => Ok(lookup_host((host.as_str(), *port)).await?.collect()),
        }
    }
}

impl From<SocketAddr> for Place {
    fn from(address: SocketAddr) -> Self {
        Self::At(address)
    }
}

/// "10.0.0.1:15012", "[fd00::1]:15012" or "ca.signet-system.svc:15012".
impl FromStr for Place {
    type Err = NoPlace;

    fn from_str(text: &str) -> Result<Self, NoPlace> {
        let wrong = || NoPlace(text.chars().take(SHOWN).collect());
        if let Ok(address) = text.parse::<SocketAddr>() {
            return if address.port() == 0 { Err(wrong()) } else { Ok(Self::At(address)) };
        }
        let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
        let port = port.parse::<u16>().ok().filter(|port| *port != 0).ok_or_else(wrong)?;
        let is_label = |label: &str| {
            (1..=63).contains(&label.len()) && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        };
        let is_name = host.len() <= MAX_HOST && host.split('.').all(is_label);
        let is_numbers = host.split('.').all(|label| label.bytes().all(|b| b.is_ascii_digit()));
        if !is_name || is_numbers {
            // "1.2.3.400" is a misspelt address
            return Err(wrong());
        }
        Ok(Self::Named { host: host.to_owned(), port })
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::At(address) => write!(f, "{address}"),
            Self::Named { host, port } => write!(f, "{host}:{port}"),
        }
    }
}

impl Serialize for Place {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Place {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// Neither an address nor a name with a port.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{0:?} is neither <ip>:<port> nor <host>:<port>, like ca.signet-system.svc:15012")]
pub struct NoPlace(String);

/// RFC 1035 2.3.4, without the final dot.
const MAX_HOST: usize = 253;
/// Characters of the text that an error repeats.
const SHOWN: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_names_are_read_and_written_alike() {
        for text in ["10.0.0.1:15012", "[fd00::1]:15012", "ca.signet-system.svc:15012", "localhost:1"] {
            assert_eq!(text.parse::<Place>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_is_no_place_is_refused() {
        for text in [
            "",
            "ca",
            "ca:",
            "ca:0",
            "ca:65536",
            "10.0.0.1:0",
            "10.0.0.400:1",
            "::1:1",
            "a..b:1",
            "a b:1",
            "a/b:1",
            ":1",
        ] {
            assert!(text.parse::<Place>().is_err(), "{text:?}");
        }
        assert!(format!("{}:1", "a.".repeat(127) + "a").parse::<Place>().is_err(), "255 bytes");
    }
}
