//! Where a request came from: whom we believe, and what we tell backends.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
};

use http::{HeaderMap, HeaderName, HeaderValue, header};

use crate::{model::Scheme, request::Target};

/// Who sent a request, and how: what the forwarded headers say.
pub(crate) struct Sender {
    /// The client itself, behind as many trusted proxies as there are.
    pub(crate) client: IpAddr,
    pub(crate) scheme: Scheme,
    /// What trusted proxies said.
    told: Option<Told>,
}

struct Told {
    /// X-Forwarded-For as the backend gets it.
    chain: String,
    port: Option<HeaderValue>,
    host: Option<HeaderValue>,
}

impl Sender {
    /// Of a request that came from `peer`. With no trusted hop nothing that it says about others is believed.
    pub(crate) fn of(headers: &HeaderMap, peer: SocketAddr, scheme: Scheme, hops: usize) -> Self {
        let peer = peer.ip().to_canonical();
        if hops == 0 {
            return Self { client: peer, scheme, told: None };
        }
        let said =
            headers.get_all(FOR).iter().filter_map(|value| value.to_str().ok()).flat_map(|v| v.split(','));
        let mut chain = last_addresses(said, hops);
        chain.push(peer);
        let scheme = match headers.get(PROTO).map(HeaderValue::as_bytes) {
            Some(b"https") => Scheme::Https,
            Some(b"http") => Scheme::Http,
            _ => scheme,
        };
        let text: Vec<String> = chain.iter().map(IpAddr::to_string).collect();
        let told = Told {
            chain: text.join(", "),
            port: headers.get(PORT).cloned(),
            host: headers.get(HOST).cloned(),
        };
        Self { client: chain[0], scheme, told: Some(told) }
    }
}

/// The last `most` addresses, up to the first that is none, seen from the end.
fn last_addresses<'a>(said: impl Iterator<Item = &'a str>, most: usize) -> Vec<IpAddr> {
    let said: Vec<&str> = said.collect();
    let last = said.iter().rev().map_while(|text| text.trim().parse().ok());
    let mut last: Vec<IpAddr> = last.take(most).collect();
    last.reverse();
    last
}

/// What backends are told of the requests of one connection: nearly always the same as of the one before.
#[derive(Default)]
pub(crate) struct Words(Mutex<Option<Arc<Said>>>);

struct Said {
    authority: Arc<str>,
    public_port: u16,
    fields: Vec<(HeaderName, HeaderValue)>,
}

impl Words {
    /// Adds our fields to `headers`, which have none of these names any more.
    pub(crate) fn say(&self, headers: &mut HeaderMap, target: &Target, sender: &Sender, public_port: u16) {
        let said = self.of(target, sender, public_port);
        headers.reserve(said.fields.len() + 1); // and the request's id
        for (name, value) in &said.fields {
            headers.insert(name, value.clone());
        }
    }

    fn of(&self, target: &Target, sender: &Sender, public_port: u16) -> Arc<Said> {
        let new = || {
            let fields = fields(target, sender, public_port);
            Arc::new(Said { authority: Arc::clone(&target.authority), public_port, fields })
        };
        if sender.told.is_some() {
            return new(); // of others' connections
        }
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &*held {
            Some(said) if said.authority == target.authority && said.public_port == public_port => {
                Arc::clone(said)
            }
            _ => Arc::clone(held.insert(new())),
        }
    }
}

fn fields(target: &Target, sender: &Sender, public_port: u16) -> Vec<(HeaderName, HeaderValue)> {
    let text = |value: &str| HeaderValue::from_str(value).ok();
    let authority = text(&target.authority);
    let port = target.authority.rsplit_once(':').map(|(_, port)| port);
    let port = port.filter(|port| port.bytes().all(|b| b.is_ascii_digit()));
    let port = port.and_then(text).or_else(|| Some(HeaderValue::from(public_port)));
    let client = sender.client.to_string();
    let forwarded_for = match sender.client {
        IpAddr::V4(_) => client.clone(),
        IpAddr::V6(_) => format!("\"[{client}]\""),
    };
    let forwarded =
        format!("for={forwarded_for};host=\"{}\";proto={}", target.authority, sender.scheme.word());
    let told = sender.told.as_ref();
    let fields = [
        (FOR, text(told.map_or(&client, |told| &told.chain))),
        (PROTO, Some(HeaderValue::from_static(sender.scheme.word()))),
        (HOST, told.and_then(|told| told.host.clone()).or(authority)),
        (PORT, told.and_then(|told| told.port.clone()).or(port)),
        (REAL_IP, text(&client)),
        (header::FORWARDED, text(&forwarded)),
    ];
    fields.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
}

const FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
const REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trusted_hop_is_believed_and_what_it_was_told_is_not() {
        let mut headers = HeaderMap::new();
        headers.insert(FOR, HeaderValue::from_static("6.6.6.6, 198.18.7.7, 10.0.0.1"));
        headers.insert(PROTO, HeaderValue::from_static("https"));
        for (hops, client, chain) in [
            (0, "10.0.0.2", "10.0.0.2"),
            (1, "10.0.0.1", "10.0.0.1, 10.0.0.2"),
            (2, "198.18.7.7", "198.18.7.7, 10.0.0.1, 10.0.0.2"),
            (9, "6.6.6.6", "6.6.6.6, 198.18.7.7, 10.0.0.1, 10.0.0.2"),
        ] {
            let sender = Sender::of(&headers, "10.0.0.2:1".parse().unwrap(), Scheme::Http, hops);
            let told = sender.told.as_ref().map_or(sender.client.to_string(), |told| told.chain.clone());
            assert_eq!((sender.client.to_string(), told), (client.to_owned(), chain.to_owned()));
            assert_eq!(sender.scheme == Scheme::Https, hops > 0);
        }
    }

    #[test]
    fn another_host_port_or_sender_on_one_connection_is_told_anew() {
        let words = Words::default();
        let target = |authority: &str| Target {
            authority: authority.into(),
            host: authority.into(),
            path: "/".into(),
        };
        let told = |authority: &str, hops: usize, port: u16| {
            let mut headers = HeaderMap::new();
            let peer = SocketAddr::from(([198, 18, 0, 1], 9));
            let sender = Sender::of(&headers, peer, Scheme::Https, hops);
            words.say(&mut headers, &target(authority), &sender, port);
            ["x-forwarded-host", "x-forwarded-port"].map(|name| headers[name].to_str().unwrap().to_owned())
        };
        for (authority, hops, port, expected) in [
            ("a", 0, 443, ["a", "443"]),
            ("a", 0, 443, ["a", "443"]),
            ("b:8443", 0, 443, ["b:8443", "8443"]),
            ("a", 0, 444, ["a", "444"]),
            ("c", 1, 443, ["c", "443"]),
            ("a", 0, 443, ["a", "443"]),
        ] {
            assert_eq!(told(authority, hops, port), expected, "{authority} {hops} {port}");
        }
    }
}
