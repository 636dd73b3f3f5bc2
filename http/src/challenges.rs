//! HTTP-01 challenges, compiled. They come before everything that a host's owner says: what a certificate authority asks for is
//! between it and edge.

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;
use http::{HeaderValue, Method, Response, header, request::Parts};

use crate::{
    body::Body,
    forward::Reply,
    model::{HTTP_01, Hostname, Http01},
};

/// By host and token.
#[derive(Default)]
pub(crate) struct Challenges(HashMap<Hostname, HashMap<String, Arc<Http01>>>);

impl Challenges {
    pub(crate) fn new(challenges: &[Arc<Http01>]) -> Self {
        let mut by_host: HashMap<Hostname, HashMap<String, Arc<Http01>>> = HashMap::new();
        for challenge in challenges {
            let of_host = by_host.entry(challenge.host().clone()).or_default();
            of_host.insert(challenge.token().to_owned(), Arc::clone(challenge));
        }
        Self(by_host)
    }

    /// The one that a request asks for. `host` as [`Target`](crate::request::Target) has it. The path counts as it is written: an
    /// authority writes it in one way, and every other spelling, and a query, is the app's.
    pub(crate) fn find(&self, host: &str, parts: &Parts) -> Option<&Http01> {
        let of_host = self.0.get(host)?; // none for nearly every request
        if parts.method != Method::GET && parts.method != Method::HEAD {
            return None;
        }
        let token = parts.uri.path_and_query()?.as_str().strip_prefix(HTTP_01)?;
        of_host.get(token).map(|challenge| &**challenge)
    }
}

/// Its answer. An octet stream, as in RFC 8555 8.3: no browser makes anything of it.
pub(crate) fn answer(challenge: &Http01) -> Reply {
    let text = Bytes::copy_from_slice(challenge.key_authorization().as_bytes());
    let length = text.len();
    let mut response = Response::new(Body::Text(text));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    Reply::new(response)
}
