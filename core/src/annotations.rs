//! Our labels and annotations: which key belongs where, and what its value means. Pure parsers; each error says which entry is
//! wrong and what was expected. Their names are in [`crate::pod`]; docs/manifests.md describes them for users.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
};

use ipnet::IpNet;

use crate::pod;

/// Where a label or annotation stands.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Spot {
    PodLabel,
    PodAnnotation,
    NamespaceLabel,
    NamespaceAnnotation,
    IngressAnnotation,
}

/// What is wrong with `key` standing at `spot`: not one of ours although it says `signet.dev/`, with its nearest neighbour
/// and the list; or one of ours that belongs elsewhere. `None` for a good one, and for everybody else's keys.
pub fn misplaced(spot: Spot, key: &str) -> Option<String> {
    let name = key.strip_prefix(PREFIX)?;
    let spots = |key: &str| KEYS.iter().find(|(known, _)| *known == key).map(|(_, spots)| *spots);
    match spots(key) {
        Some(spots) if spots.contains(&spot) => None,
        Some(spots) => {
            let spots: Vec<&str> = spots.iter().map(|spot| spot.words()).collect();
            Some(format!("{key} is no {}; it belongs on a {}", spot.words(), spots.join(" or a ")))
        }
        None => {
            let here: Vec<&str> =
                KEYS.iter().filter(|(_, spots)| spots.contains(&spot)).map(|(key, _)| *key).collect();
            let distance = |known: &&&str| edits(name, known.strip_prefix(PREFIX).unwrap_or(known));
            let nearest =
                KEYS.iter().map(|(key, _)| key).min_by_key(distance).filter(|key| distance(key) <= NEAR);
            let nearest = nearest.map_or_else(String::new, |key| format!(", did you mean {key}?"));
            let shown: String = key.chars().take(SHOWN).collect();
            Some(format!("{shown:?} is unknown{nearest} (known as {}: {})", spot.words(), here.join(", ")))
        }
    }
}

impl Spot {
    fn words(self) -> &'static str {
        match self {
            Self::PodLabel => "Pod label",
            Self::PodAnnotation => "Pod annotation",
            Self::NamespaceLabel => "Namespace label",
            Self::NamespaceAnnotation => "Namespace annotation",
            Self::IngressAnnotation => "Ingress annotation",
        }
    }
}

/// "enabled" or "disabled", of [`pod::INJECT`].
pub fn inject(value: &str) -> Result<bool, String> {
    match value {
        "enabled" => Ok(true),
        "disabled" => Ok(false),
        other => Err(wrong(other, "write enabled or disabled")),
    }
}

/// "10.9.0.0/16, 169.254.169.254" -> networks; an address is a network of one.
pub fn subnets(value: &str) -> Result<BTreeSet<IpNet>, String> {
    let subnet = |entry: &str| {
        let address = || entry.parse::<IpAddr>().map(IpNet::from);
        let expected = "expected a subnet like 10.0.0.0/8 or fd00::/8, or an address";
        entry.parse().or_else(|_| address()).map_err(|_| wrong(entry, expected))
    };
    entries(value).map(subnet).collect()
}

/// "9090, 9091" -> ports.
pub fn ports(value: &str) -> Result<BTreeSet<u16>, String> {
    entries(value).map(port).collect()
}

/// "9001=api.shop:80, 9002=127.77.0.9:6379" -> (local port, "<host or address>:<port>").
pub fn upstreams(value: &str) -> Result<Vec<(u16, String)>, String> {
    let upstream = |entry: &str| {
        let (listen, to) = pair(entry)?;
        let (host, to_port) =
            to.rsplit_once(':').ok_or_else(|| wrong(entry, "the target needs a port, api.shop:80"))?;
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let is_name = !bare.is_empty() && bare.chars().all(|c| c.is_ascii_alphanumeric() || ".-".contains(c));
        if !is_name && bare.parse::<std::net::Ipv6Addr>().is_err() {
            return Err(wrong(entry, "the target is neither <service>.<namespace> nor an IP address"));
        }
        port(to_port)?;
        Ok((port(listen)?, to.to_owned()))
    };
    no_double(entries(value).map(upstream).collect::<Result<Vec<_>, String>>()?)
}

/// "8080=18080, 8081=127.0.0.1:18081" -> (pod port, where the app listens: its port on the pod's address, or an address).
pub fn inbound(value: &str) -> Result<Vec<(u16, AppAddress)>, String> {
    let inbound = |entry: &str| {
        let (listen, app) = pair(entry)?;
        let app = match app.parse::<SocketAddr>() {
            Ok(address) if address.port() != 0 => AppAddress::At(address),
            _ => AppAddress::OnPodAddress(port(app)?),
        };
        Ok((port(listen)?, app))
    };
    no_double(entries(value).map(inbound).collect::<Result<Vec<_>, String>>()?)
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum AppAddress {
    OnPodAddress(u16),
    At(SocketAddr),
}

fn entries(value: &str) -> impl Iterator<Item = &str> {
    value.split(',').map(str::trim).filter(|entry| !entry.is_empty())
}

fn pair(entry: &str) -> Result<(&str, &str), String> {
    let (left, right) = entry.split_once('=').ok_or_else(|| wrong(entry, "expected <port>=<target>"))?;
    Ok((left.trim(), right.trim()))
}

fn port(text: &str) -> Result<u16, String> {
    text.parse().ok().filter(|port| *port != 0).ok_or_else(|| wrong(text, "not a port from 1 to 65535"))
}

fn no_double<T>(list: Vec<(u16, T)>) -> Result<Vec<(u16, T)>, String> {
    let mut seen = BTreeSet::new();
    match list.iter().find(|(port, _)| !seen.insert(*port)) {
        Some((port, _)) => Err(format!("port {port} stands there twice")),
        None => Ok(list),
    }
}

fn wrong(entry: &str, why: &str) -> String {
    let entry: String = entry.chars().take(SHOWN).collect();
    format!("{entry:?}: {why}")
}

/// Changes of one character that make `b` of `a` (Levenshtein). Both are names: short.
fn edits(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().take(SHOWN).collect(), b.chars().collect());
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.iter().enumerate() {
            let changed = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(row[j] + 1).min(row[j + 1] + 1);
        }
    }
    row[b.len()]
}

const PREFIX: &str = "signet.dev/";
/// Every key of ours, and where it may stand.
const KEYS: &[(&str, &[Spot])] = &[
    (pod::INJECT, &[Spot::PodLabel, Spot::NamespaceLabel]),
    (pod::MTLS, &[Spot::NamespaceLabel]),
    (pod::TRUST, &[Spot::NamespaceLabel]),
    (pod::PERMISSIVE_PORTS, &[Spot::PodAnnotation, Spot::NamespaceAnnotation]),
    (pod::HOSTS, &[Spot::NamespaceAnnotation]),
    (pod::UPSTREAMS, &[Spot::PodAnnotation]),
    (pod::INBOUND, &[Spot::PodAnnotation]),
    (pod::EDGE_ISSUER, &[Spot::IngressAnnotation]),
    (pod::ACME_CHALLENGE, &[Spot::IngressAnnotation]),
    (pod::EXCLUDE_INBOUND_PORTS, &[Spot::PodAnnotation]),
    (pod::EXCLUDE_OUTBOUND_PORTS, &[Spot::PodAnnotation]),
    (pod::EXCLUDE_OUTBOUND_SUBNETS, &[Spot::PodAnnotation]),
    (pod::PROXY_CPU, &[Spot::PodAnnotation]),
    (pod::PROXY_MEMORY, &[Spot::PodAnnotation]),
    (pod::INJECTED, &[Spot::PodAnnotation]),
    (pod::ORIGINAL_PROBES, &[Spot::PodAnnotation]),
];
/// Edits up to which a name is taken for a slip of the other: half of the shortest, "mtls" for "tls".
const NEAR: usize = 4;
/// Characters of a stranger's key or value that an error repeats.
const SHOWN: usize = 80;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_key_is_told_its_nearest_neighbour_and_a_known_one_its_place() {
        for (spot, key, want) in [
            (
                Spot::PodAnnotation,
                "signet.dev/exclude-inbound-port",
                "did you mean signet.dev/exclude-inbound-ports? (known as Pod annotation: signet.dev/permissive-ports, ",
            ),
            (
                Spot::PodLabel,
                "signet.dev/injet",
                "did you mean signet.dev/inject? (known as Pod label: signet.dev/inject)",
            ),
            (
                Spot::PodAnnotation,
                "signet.dev/something-else-entirely",
                "is unknown (known as Pod annotation: ",
            ),
            (Spot::PodAnnotation, "signet.dev/inject", "it belongs on a Pod label or a Namespace label"),
            (
                Spot::PodLabel,
                "signet.dev/mtls",
                "signet.dev/mtls is no Pod label; it belongs on a Namespace label",
            ),
        ] {
            let why = misplaced(spot, key).unwrap();
            assert!(why.contains(want), "{why}");
        }
        assert_eq!(misplaced(Spot::PodLabel, "app.kubernetes.io/name"), None);
        assert_eq!(misplaced(Spot::PodLabel, "signet.dev/inject"), None);
        assert_eq!((edits("kitten", "sitting"), edits("", "abc"), edits("abc", "abc")), (3, 3, 0));
    }

    #[test]
    fn values_are_read_as_the_manual_shows_them() {
        assert_eq!(ports("9090, 9091,"), Ok([9090, 9091].into()));
        let net = |text: &str| text.parse::<IpNet>().unwrap();
        let want = [net("10.9.0.0/16"), net("169.254.169.254/32"), net("fd00::/8")].into();
        assert_eq!(subnets("10.9.0.0/16, 169.254.169.254,fd00::/8"), Ok(want));
        let want = vec![
            (9001, "api.shop:80".to_owned()),
            (9002, "127.77.0.9:6379".into()),
            (9003, "[::1]:80".into()),
        ];
        assert_eq!(upstreams("9001=api.shop:80, 9002=127.77.0.9:6379,9003=[::1]:80"), Ok(want));
        let at = AppAddress::At("127.0.0.1:18081".parse().unwrap());
        let want = vec![(8080, AppAddress::OnPodAddress(18080)), (8081, at)];
        assert_eq!(inbound("8080=18080, 8081 = 127.0.0.1:18081"), Ok(want));
    }

    #[test]
    fn errors_name_the_entry() {
        for (got, want) in [
            (ports("80,http").map(drop), "\"http\": not a port"),
            (ports("0").map(drop), "\"0\": not a port"),
            (subnets("10.0.0.0/33").map(drop), "\"10.0.0.0/33\": expected a subnet"),
            (inject("true").map(drop), "\"true\": write enabled or disabled"),
            (upstreams("9001").map(drop), "\"9001\": expected"),
            (upstreams("9001=api.shop").map(drop), "\"9001=api.shop\": the target needs a port"),
            (upstreams("9001=a/b:80").map(drop), "\"9001=a/b:80\": the target is neither"),
            (upstreams("9001=a:80,9001=b:80").map(drop), "port 9001 stands there twice"),
            (inbound("8080=app").map(drop), "\"app\": not a port"),
            (inbound("8080=127.0.0.1:0").map(drop), "\"127.0.0.1:0\": not a port"),
        ] {
            let why = got.unwrap_err();
            assert!(why.starts_with(want), "{why}");
        }
    }
}
