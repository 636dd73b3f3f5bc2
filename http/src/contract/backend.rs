//! Backends and their endpoints.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use rustls_pki_types::CertificateDer;
use signet_api::edge::{self, against, backend_tls, endpoint, san};
use signet_core::identity;

use super::{Fault, MAX_NAME, Wrong, at, each, hostname, known, name, needs, port, some, text, wrong};
use crate::model::{Backend, BackendTls, Choice, Endpoint, Protocol, Roots, San, Security, Verify};

pub fn encode(backend: &Backend) -> edge::Backend {
    let protocol = match backend.protocol {
        Protocol::Http1 => edge::Protocol::Http1,
        Protocol::Http2 => edge::Protocol::Http2,
    };
    let choice = match backend.choice {
        Choice::Quicker => edge::Choice::Quicker,
        Choice::ClientIp => edge::Choice::ClientIp,
    };
    edge::Backend {
        name: backend.name.to_string(),
        protocol: protocol.into(),
        choice: choice.into(),
        endpoints: backend.endpoints.iter().map(encode_endpoint).collect(),
        needs: Vec::new(),
    }
}

pub fn decode(message: edge::Backend) -> Result<Backend, Fault> {
    let resource = message.name.clone();
    backend(message).map_err(|wrong| wrong.of("backend", &resource))
}

fn backend(message: edge::Backend) -> Result<Backend, Wrong> {
    needs(&message.needs)?;
    let mut last: Option<Security> = None;
    Ok(Backend {
        name: name("name", message.name)?,
        protocol: known("protocol", message.protocol, |protocol| match protocol {
            edge::Protocol::Unspecified => None,
            edge::Protocol::Http1 => Some(Protocol::Http1),
            edge::Protocol::Http2 => Some(Protocol::Http2),
        })?,
        choice: known("choice", message.choice, |choice| match choice {
            edge::Choice::Unspecified => None,
            edge::Choice::Quicker => Some(Choice::Quicker),
            edge::Choice::ClientIp => Some(Choice::ClientIp),
        })?,
        endpoints: each("endpoints", MAX_ENDPOINTS, message.endpoints, |message| {
            let mut endpoint = endpoint(message)?;
            // Pods of one Service mostly have one account: they share its name.
            match &last {
                Some(shared) if *shared == endpoint.security => endpoint.security = shared.clone(),
                _ => last = Some(endpoint.security.clone()),
            }
            Ok(endpoint)
        })?,
    })
}

fn encode_endpoint(endpoint: &Endpoint) -> edge::Endpoint {
    let security = match &endpoint.security {
        Security::Plain => endpoint::Security::Plain(edge::Plain {}),
        Security::Tls(tls) => endpoint::Security::Tls(encode_tls(tls)),
        Security::Mesh(ids) => {
            endpoint::Security::Mesh(edge::Mesh { spiffe_ids: ids.iter().map(ToString::to_string).collect() })
        }
    };
    edge::Endpoint {
        address: endpoint.address.ip().to_string(),
        port: endpoint.address.port().into(),
        security: Some(security),
    }
}

fn endpoint(message: edge::Endpoint) -> Result<Endpoint, Wrong> {
    let address = message.address.parse::<IpAddr>();
    let address = at("address", address.map_err(|_| wrong("is not an IP address")))?;
    Ok(Endpoint {
        address: SocketAddr::new(address, port("port", message.port)?),
        security: match some("security", message.security)? {
            endpoint::Security::Plain(edge::Plain {}) => Security::Plain,
            endpoint::Security::Tls(message) => Security::Tls(Arc::new(at("tls", tls(message))?)),
            endpoint::Security::Mesh(mesh) => {
                let id = |uri: String| identity::parse(&uri).map_err(wrong);
                Security::Mesh(each("mesh", MAX_IDS, mesh.spiffe_ids, id)?.into())
            }
        },
    })
}

fn encode_tls(tls: &BackendTls) -> edge::BackendTls {
    let verify = match &tls.verify {
        Verify::Nothing => backend_tls::Verify::Anyone(edge::Anyone {}),
        Verify::Against { roots, names } => {
            let roots = match roots {
                Roots::WellKnown => against::Roots::WellKnown(edge::WellKnown {}),
                Roots::These(roots) => against::Roots::These(edge::These {
                    roots: roots.iter().map(|der| der.to_vec()).collect(),
                }),
            };
            let name = |san: &San| match san {
                San::Dns(name) => san::Kind::Dns(name.to_string()),
                San::Uri(uri) => san::Kind::Uri(uri.to_string()),
            };
            let names = names.iter().map(|san| edge::San { kind: Some(name(san)) }).collect();
            backend_tls::Verify::Against(edge::Against { roots: Some(roots), names })
        }
    };
    edge::BackendTls {
        sni: tls.sni.as_ref().map(ToString::to_string).unwrap_or_default(),
        verify: Some(verify),
    }
}

fn tls(message: edge::BackendTls) -> Result<BackendTls, Wrong> {
    Ok(BackendTls {
        sni: (!message.sni.is_empty()).then(|| hostname("sni", &message.sni)).transpose()?,
        verify: match some("verify", message.verify)? {
            backend_tls::Verify::Anyone(edge::Anyone {}) => Verify::Nothing,
            backend_tls::Verify::Against(against) => at("against", verify(against))?,
        },
    })
}

fn verify(message: edge::Against) -> Result<Verify, Wrong> {
    let root = |der: Vec<u8>| match der.len() {
        1..=MAX_ROOT => Ok(CertificateDer::from(der)),
        _ => Err(wrong(format!("is empty or has more than {MAX_ROOT} bytes"))),
    };
    let san = |san: edge::San| match some("", san.kind)? {
        san::Kind::Dns(name) => Ok(San::Dns(hostname("dns", &name)?)),
        san::Kind::Uri(uri) => Ok(San::Uri(text("uri", MAX_NAME, uri)?)),
    };
    let roots = match some("roots", message.roots)? {
        against::Roots::WellKnown(edge::WellKnown {}) => Roots::WellKnown,
        against::Roots::These(these) => Roots::These(each("roots", MAX_ROOTS, these.roots, root)?.into()),
    };
    Ok(Verify::Against { roots, names: each("names", MAX_SANS, message.names, san)?.into() })
}

/// Three times what a large Service has.
const MAX_ENDPOINTS: usize = 16_384;
/// Accounts of one address: one, and a few while it changes hands.
const MAX_IDS: usize = 64;
/// A whole store of public roots has about 150, of about 1.5 kB each.
const MAX_ROOTS: usize = 256;
const MAX_ROOT: usize = 16 * 1024;
/// The Gateway API has 5.
const MAX_SANS: usize = 64;
