//! The values of our labels and annotations. Pure parsers; each error says which entry is wrong and what was expected.
//! Their names are in `signet_core::pod`; docs/manifests.md describes them for users.

use std::{collections::BTreeSet, net::SocketAddr};

/// "9090, 9091" -> ports.
pub(crate) fn ports(value: &str) -> Result<BTreeSet<u16>, String> {
    entries(value).map(port).collect()
}

/// "9001=api.shop:80, 9002=127.77.0.9:6379" -> (local port, "<host or address>:<port>").
pub(crate) fn upstreams(value: &str) -> Result<Vec<(u16, String)>, String> {
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
pub(crate) fn inbound(value: &str) -> Result<Vec<(u16, AppAddress)>, String> {
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
pub(crate) enum AppAddress {
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
    let entry: String = entry.chars().take(80).collect();
    format!("{entry:?}: {why}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_as_the_manual_shows_them() {
        assert_eq!(ports("9090, 9091,"), Ok([9090, 9091].into()));
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
