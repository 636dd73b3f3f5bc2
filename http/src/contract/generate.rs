//! Any model, for the law.

use std::{net::SocketAddr, time::Duration};

use http::{HeaderName, HeaderValue, Method, StatusCode};
use proptest::{collection::vec, option, prelude::*, sample::select};
use rustls_pki_types::CertificateDer;
use signet_core::identity;

use super::{
    certificate::{Certificate, PrivateKey},
    challenge::{Challenge, TlsAlpn01},
};
use crate::model::*;

fn hostname() -> impl Strategy<Value = Hostname> {
    "[a-z0-9_]([a-z0-9-]{0,8}[a-z0-9])?(\\.[a-z]{1,8}){0,3}"
        .prop_filter_map("a host name", |text| text.parse().ok())
}

fn certificate_name() -> impl Strategy<Value = HostPattern> {
    prop_oneof![
        hostname().prop_map(HostPattern::Exact),
        hostname().prop_map(|suffix| HostPattern::Wildcard(suffix, Labels::One)),
    ]
}

fn host() -> impl Strategy<Value = HostPattern> {
    prop_oneof![
        Just(HostPattern::Any),
        certificate_name(),
        hostname().prop_map(|suffix| HostPattern::Wildcard(suffix, Labels::Any)),
    ]
}

fn path() -> impl Strategy<Value = Path> {
    "(/[a-z.;=~-]{1,5}){0,3}/?".prop_filter_map("a path", |text| text.parse().ok())
}

fn template() -> impl Strategy<Value = Template> {
    "[/$](\\$[1-9$]|[a-z/]){0,8}".prop_filter_map("a template", |text| text.parse().ok())
}

fn name() -> impl Strategy<Value = std::sync::Arc<str>> {
    "[a-z/:.+-]{1,20}".prop_map(Into::into)
}

fn text() -> impl Strategy<Value = std::sync::Arc<str>> {
    "\\PC{0,20}".prop_map(Into::into)
}

fn scheme() -> impl Strategy<Value = Scheme> {
    select(vec![Scheme::Http, Scheme::Https])
}

fn duration() -> impl Strategy<Value = Duration> {
    (any::<u32>(), 0..1_000_000_000_u32).prop_map(|(seconds, nanos)| Duration::new(seconds.into(), nanos))
}

fn status() -> impl Strategy<Value = StatusCode> {
    (200..600_u16).prop_map(|status| StatusCode::from_u16(status).unwrap())
}

fn header_name() -> impl Strategy<Value = HeaderName> {
    "[a-z][a-z0-9-]{0,10}".prop_map(|name| format!("x-{name}").parse().unwrap())
}

fn edits() -> impl Strategy<Value = HeaderEdits> {
    let value = vec(prop_oneof![32..127_u8, 128..=255_u8, Just(b'\t')], 0..8)
        .prop_map(|bytes| HeaderValue::from_bytes(&bytes).unwrap());
    let header = || (header_name(), value.clone());
    (vec(header(), 0..3), vec(header(), 0..3), vec(header_name(), 0..3))
        .prop_map(|(set, add, remove)| HeaderEdits::new(set, add, remove).unwrap())
}

fn pattern() -> impl Strategy<Value = Pattern> {
    let case = select(vec![Case::Sensitive, Case::Insensitive]);
    (text(), case, select(vec![Anchor::Whole, Anchor::Start])).prop_map(|(text, case, anchor)| Pattern {
        text,
        case,
        anchor,
    })
}

fn value() -> impl Strategy<Value = ValueMatch> {
    prop_oneof![text().prop_map(ValueMatch::Exact), pattern().prop_map(ValueMatch::Regex)]
}

fn matched() -> impl Strategy<Value = Match> {
    let path = prop_oneof![
        path().prop_map(PathMatch::Exact),
        path().prop_map(PathMatch::Prefix),
        pattern().prop_map(PathMatch::Regex),
    ];
    let header = (header_name(), value()).prop_map(|(name, value)| HeaderMatch { name, value });
    let query = (text(), value()).prop_map(|(name, value)| QueryMatch { name, value });
    (path, option::of(select(vec![Method::GET, Method::PATCH])), vec(header, 0..3), vec(query, 0..3))
        .prop_map(|(path, method, headers, query)| Match { path, method, headers, query })
}

fn rewrite() -> impl Strategy<Value = PathRewrite> {
    prop_oneof![
        path().prop_map(PathRewrite::Whole),
        path().prop_map(PathRewrite::Prefix),
        template().prop_map(PathRewrite::Captures),
    ]
}

fn respond() -> impl Strategy<Value = Respond> {
    (status(), option::of(duration())).prop_map(|(status, retry_after)| Respond { status, retry_after })
}

fn weighted() -> impl Strategy<Value = Weighted> {
    let target = prop_oneof![name().prop_map(Target::Backend), respond().prop_map(Target::Respond)];
    (target, any::<u32>(), edits(), edits()).prop_map(
        |(target, weight, request_headers, response_headers)| Weighted {
            target,
            weight,
            request_headers,
            response_headers,
        },
    )
}

fn action() -> impl Strategy<Value = Action> {
    let forward = (vec(weighted(), 0..3), edits(), option::of(hostname()), option::of(rewrite())).prop_map(
        |(backends, request_headers, host, path)| Forward { backends, request_headers, host, path },
    );
    let status =
        select(vec![301, 302, 303, 307, 308]).prop_map(|status| RedirectStatus::new(status).unwrap());
    let redirect = (
        option::of(scheme()),
        option::of(hostname()),
        option::of(1..=u16::MAX),
        option::of(rewrite()),
        status,
    )
        .prop_map(|(scheme, host, port, path, status)| Redirect { scheme, host, port, path, status });
    prop_oneof![
        forward.prop_map(Action::Forward),
        redirect.prop_map(Action::Redirect),
        respond().prop_map(Action::Respond),
    ]
}

fn timeout() -> impl Strategy<Value = Timeout> {
    prop_oneof![Just(Timeout::Default), Just(Timeout::Off), duration().prop_map(Timeout::After)]
}

fn rule() -> impl Strategy<Value = Rule> {
    let timeouts = (timeout(), timeout(), timeout(), timeout())
        .prop_map(|(request, backend, connect, idle)| Timeouts { request, backend, connect, idle });
    let retry = (any::<u8>(), vec(status(), 0..3), duration())
        .prop_map(|(attempts, statuses, backoff)| Retry { attempts, statuses: statuses.into(), backoff });
    let plaintext = select(vec![Plaintext::AsHost, Plaintext::Serve, Plaintext::Redirect]);
    (vec(matched(), 0..3), action(), edits(), plaintext, timeouts, retry, option::of(any::<u64>())).prop_map(
        |(matches, action, response_headers, plaintext, timeouts, retry, max_body)| Rule {
            matches,
            action,
            response_headers,
            plaintext,
            timeouts,
            retry,
            max_body,
        },
    )
}

pub(super) fn route() -> impl Strategy<Value = Route> {
    (name(), any::<i64>(), vec(name(), 0..3), vec(host(), 0..3), vec(rule(), 0..3))
        .prop_map(|(name, created, parents, hosts, rules)| Route { name, created, parents, hosts, rules })
}

pub(super) fn listener() -> impl Strategy<Value = Listener> {
    (name(), 1..=u16::MAX, 1..=u16::MAX, scheme(), host()).prop_map(
        |(name, port, public_port, scheme, hosts)| Listener { name, port, public_port, scheme, hosts },
    )
}

pub(super) fn https_host() -> impl Strategy<Value = HttpsHost> {
    (host(), 1..=u16::MAX, option::of(respond())).prop_map(|(host, port, unready)| HttpsHost {
        host,
        port,
        unready,
    })
}

fn security() -> impl Strategy<Value = Security> {
    let der = vec(any::<u8>(), 1..8).prop_map(CertificateDer::from);
    let roots = prop_oneof![Just(Roots::WellKnown), vec(der, 0..3).prop_map(|r| Roots::These(r.into()))];
    let san = prop_oneof![hostname().prop_map(San::Dns), text().prop_map(San::Uri)];
    let verify = prop_oneof![
        Just(Verify::Nothing),
        (roots, vec(san, 0..3)).prop_map(|(roots, names)| Verify::Against { roots, names: names.into() }),
    ];
    let tls = (option::of(hostname()), verify).prop_map(|(sni, verify)| BackendTls { sni, verify });
    let id = "[a-z]{1,6}/sa/[a-z]{1,6}"
        .prop_map(|text| identity::parse(&format!("spiffe://cluster.local/ns/{text}")).unwrap());
    prop_oneof![
        Just(Security::Plain),
        tls.prop_map(|tls| Security::Tls(tls.into())),
        vec(id, 0..3).prop_map(|ids| Security::Mesh(ids.into())),
    ]
}

pub(super) fn backend() -> impl Strategy<Value = Backend> {
    let endpoint = (any::<std::net::IpAddr>(), 1..=u16::MAX, security())
        .prop_map(|(ip, port, security)| Endpoint { address: SocketAddr::new(ip, port), security });
    let protocol = select(vec![Protocol::Http1, Protocol::Http2]);
    (name(), protocol, select(vec![Choice::Quicker, Choice::ClientIp]), vec(endpoint, 0..4))
        .prop_map(|(name, protocol, choice, endpoints)| Backend { name, protocol, choice, endpoints })
}

pub(super) fn certificate() -> impl Strategy<Value = Certificate> {
    let chain = vec(vec(any::<u8>(), 1..8).prop_map(CertificateDer::from), 1..3);
    let key = vec(any::<u8>(), 1..8).prop_map(PrivateKey::new);
    (name(), vec(name(), 0..3), vec(certificate_name(), 0..3), chain, key, any::<bool>()).prop_map(
        |(name, listeners, names, chain, key, default)| Certificate {
            name,
            listeners,
            names,
            chain,
            key,
            default,
        },
    )
}

pub(super) fn challenge() -> impl Strategy<Value = Challenge> {
    let http =
        (hostname(), "[A-Za-z0-9_-]{1,128}", "[A-Za-z0-9_-]{1,127}").prop_map(|(host, token, thumbprint)| {
            let authorization = format!("{token}.{thumbprint}");
            Challenge::Http01(Http01::new(host, &token, &authorization).unwrap())
        });
    let bytes = || vec(any::<u8>(), 1..8);
    let tls = (hostname(), bytes(), bytes()).prop_map(|(host, certificate, key)| {
        let (certificate, key) = (certificate.into(), PrivateKey::new(key));
        Challenge::TlsAlpn01(TlsAlpn01 { host, certificate, key })
    });
    prop_oneof![http, tls]
}
