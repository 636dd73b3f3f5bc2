//! HTTPS to CAs, with limits: 10 s to connect, 60 s for a call in all, 1 MiB for an answer, 128 KiB for a certificate; no redirects, no
//! plaintext. Whatever fails is a [`CallError`] with the CA's own words and its Retry-After, which instant-acme would drop.
//!
//! A directory is read once an hour, and anew after anything failed. Connections are kept between calls; of 64 CAs at most.

use std::{
    collections::HashMap,
    fmt,
    hash::Hash,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Bytes;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use instant_acme::{BodyWrapper, BytesResponse, HttpClient};
use rustls::{ClientConfig, RootCertStore, crypto::CryptoProvider};
use rustls_pki_types::{CertificateDer, pem::PemObject as _};
use time::{OffsetDateTime, format_description::well_known::Rfc2822};

use crate::{
    issuer::Issuer,
    problem::{Problem, bounded},
};

/// Unix seconds. Handed in, so that tests own time.
pub type Clock = Arc<dyn Fn() -> i64 + Send + Sync>;

/// The way to CAs, for all orders of a process.
pub struct Web {
    provider: Arc<CryptoProvider>,
    clock: Clock,
    /// Of a whole call.
    limit: Duration,
    /// By the roots that are believed.
    clients: Mutex<Kept<Option<String>, Pool>>,
    directories: Mutex<Kept<Place, Directory>>,
}

/// Where a directory is, and the roots that its server is believed by: one that is believed by others may say something else.
#[derive(Clone, Eq, Hash, PartialEq)]
struct Place {
    roots: Option<String>,
    directory: String,
}

type Pool = Client<HttpsConnector<HttpConnector>, BodyWrapper<Bytes>>;

/// A directory's answer.
#[derive(Clone)]
struct Directory {
    until: i64,
    body: Bytes,
}

impl Web {
    pub fn new(provider: Arc<CryptoProvider>, clock: Clock) -> Arc<Self> {
        Self::with_limit(provider, clock, WHOLE)
    }

    fn with_limit(provider: Arc<CryptoProvider>, clock: Clock, limit: Duration) -> Arc<Self> {
        let (clients, directories) = (Mutex::default(), Mutex::default());
        Arc::new(Self { provider, clock, limit, clients, directories })
    }

    /// For tests with CAs that hang.
    #[cfg(test)]
    pub(crate) fn impatient(provider: Arc<CryptoProvider>, clock: Clock) -> Arc<Self> {
        Self::with_limit(provider, clock, Duration::from_secs(2))
    }

    pub(crate) fn now(&self) -> i64 {
        (self.clock)()
    }

    /// By which names the CA goes in CAA records (`caaIdentities`, RFC 8555 7.1.1); none where its directory says none. Errors, in words: it
    /// could not be read.
    pub async fn identities(self: &Arc<Self>, issuer: &Issuer) -> Result<Vec<String>, String> {
        let call = self.call(&issuer.directory, issuer.roots.as_deref(), WHOLE).map_err(|e| e.to_string())?;
        let request = Request::get(&issuer.directory).body(BodyWrapper::default());
        let mut answer = call.answer(request.map_err(|e| e.to_string())?).await.map_err(|e| e.to_string())?;
        let body = answer.body.into_bytes().await.map_err(|e| e.to_string())?;
        let directory: serde_json::Value = serde_json::from_slice(&body).map_err(|e| e.to_string())?;
        let all = directory.pointer("/meta/caaIdentities").and_then(serde_json::Value::as_array);
        let names = all.into_iter().flatten().filter_map(serde_json::Value::as_str);
        Ok(names.take(MAX_IDENTITIES).map(bounded).collect())
    }

    /// For one step at one CA. `roots`: PEM. `limit`: of each call, at most the usual one. Errors: they hold none.
    pub(crate) fn call(
        self: &Arc<Self>,
        directory: &str,
        roots: Option<&str>,
        limit: Duration,
    ) -> Result<Call, CallError> {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        let (roots, now) = (roots.map(str::to_owned), self.now());
        let pool = match clients.get(&roots, now) {
            Some(pool) => pool,
            None => {
                let pool = pool(&self.provider, roots.as_deref())?;
                clients.put(roots.clone(), pool.clone(), now);
                pool
            }
        };
        let place = Arc::new(Place { roots, directory: directory.to_owned() });
        let limit = limit.min(self.limit);
        Ok(Call { web: Arc::clone(self), pool, limit, place, heard: Arc::default() })
    }

    fn known(&self, place: &Place) -> Option<Bytes> {
        let mut known = self.directories.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(place, self.now()).filter(|known| self.now() < known.until).map(|known| known.body)
    }

    fn learn(&self, place: &Place, body: Bytes) {
        let known = Directory { until: self.now() + DIRECTORY_FOR, body };
        let mut directories = self.directories.lock().unwrap_or_else(PoisonError::into_inner);
        directories.put(place.clone(), known, self.now());
    }

    fn forget(&self, place: &Place) {
        self.directories.lock().unwrap_or_else(PoisonError::into_inner).0.remove(place);
    }
}

/// What was used within the last hour, at most [`MOST_KEPT`] of it, each with when it was used last: tenants name CAs and roots.
struct Kept<K, V>(HashMap<K, (i64, V)>);

impl<K, V> Default for Kept<K, V> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: Clone + Eq + Hash, V: Clone> Kept<K, V> {
    fn get(&mut self, key: &K, now: i64) -> Option<V> {
        let (used, value) = self.0.get_mut(key)?;
        *used = now;
        Some(value.clone())
    }

    fn put(&mut self, key: K, value: V, now: i64) {
        self.0.retain(|_, (used, _)| now - *used < UNUSED_FOR);
        self.0.remove(&key);
        let oldest = self.0.iter().min_by_key(|(_, (used, _))| *used).map(|(key, _)| key.clone());
        if let Some(oldest) = oldest.filter(|_| self.0.len() >= MOST_KEPT) {
            self.0.remove(&oldest);
        }
        self.0.insert(key, (now, value));
    }
}

/// HTTPS that believes the web's roots, for DNS providers. Errors, in words: the provider of cryptography cannot.
pub fn web_tls(provider: &Arc<CryptoProvider>) -> Result<Arc<ClientConfig>, String> {
    config(provider, None).map(Arc::new).map_err(|e| e.to_string())
}

fn config(provider: &Arc<CryptoProvider>, roots: Option<&str>) -> Result<ClientConfig, CallError> {
    let mut store = RootCertStore::empty();
    match roots {
        None => {
            store.add_parsable_certificates(webpki_root_certs::TLS_SERVER_ROOT_CERTS.iter().cloned());
        }
        Some(pem) => {
            let bad = |why: String| CallError::Roots(bounded(&why));
            for root in CertificateDer::pem_slice_iter(pem.as_bytes()) {
                store.add(root.map_err(|e| bad(e.to_string()))?).map_err(|e| bad(e.to_string()))?;
            }
            if store.is_empty() {
                return Err(bad("no certificate in PEM".into()));
            }
        }
    }
    let builder = ClientConfig::builder_with_provider(Arc::clone(provider))
        .with_safe_default_protocol_versions()
        .map_err(|e| CallError::Roots(e.to_string()))?;
    Ok(builder.with_root_certificates(store).with_no_client_auth())
}

fn pool(provider: &Arc<CryptoProvider>, roots: Option<&str>) -> Result<Pool, CallError> {
    let tls = config(provider, roots)?;
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false); // the connector around it has it that https is spoken
    tcp.set_connect_timeout(Some(CONNECT));
    tcp.set_nodelay(true);
    let tls =
        HttpsConnectorBuilder::new().with_tls_config(tls).https_only().enable_http1().wrap_connector(tcp);
    let mut client = Client::builder(TokioExecutor::new());
    client.pool_idle_timeout(IDLE).pool_timer(TokioTimer::new()).timer(TokioTimer::new());
    Ok(client.build(tls))
}

/// One step's calls.
#[derive(Clone)]
pub(crate) struct Call {
    web: Arc<Web>,
    pool: Pool,
    /// Of each call.
    limit: Duration,
    place: Arc<Place>,
    heard: Arc<Mutex<Option<i64>>>,
}

impl Call {
    /// The Retry-After of the last answer, seconds from then.
    pub(crate) fn retry_after(&self) -> Option<i64> {
        *self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn answer(self, mut request: Request<BodyWrapper<Bytes>>) -> Result<BytesResponse, CallError> {
        let is_directory = request.method() == Method::GET && *request.uri() == *self.place.directory;
        if is_directory && let Some(body) = self.web.known(&self.place) {
            return Ok(whole(Response::new(()).into_parts().0, body));
        }
        let (is_get, is_sent) = (request.method() == Method::GET, request.method() == Method::POST);
        request.headers_mut().insert(header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
        let exchange = tokio::time::timeout(self.limit, exchange(&self.pool, request, is_sent));
        let slow = CallError::Slow { seconds: self.limit.as_secs(), is_sent };
        let answered = exchange.await.unwrap_or(Err(slow));
        let (mut parts, body) = answered.inspect_err(|_| self.web.forget(&self.place))?;
        let after = retry_after(parts.headers.get(header::RETRY_AFTER), self.web.now());
        *self.heard.lock().unwrap_or_else(PoisonError::into_inner) = after;
        let said =
            serde_json::from_slice::<instant_acme::Problem>(&body).ok().filter(|said| said.r#type.is_some());
        if !parts.status.is_success() {
            // instant-acme signs again with the nonce that comes with this one.
            if parts.status == StatusCode::BAD_REQUEST && is_bad_nonce(said.as_ref()) {
                return Ok(whole(parts, body));
            }
            self.web.forget(&self.place);
            let status = parts.status.as_u16();
            return Err(match said {
                Some(said) => CallError::Problem { problem: Problem::from(&said).with_status(status), after },
                None => CallError::Status { status, said: bounded(&String::from_utf8_lossy(&body)), after },
            });
        }
        if is_directory && serde_json::from_slice::<serde_json::Map<_, serde_json::Value>>(&body).is_ok() {
            self.web.learn(&self.place, body.clone());
        } else if is_get && !parts.headers.contains_key(header::RETRY_AFTER) {
            // A renewal window; instant-acme insists on what RFC 9773 4.3 only recommends.
            parts.headers.insert(header::RETRY_AFTER, HeaderValue::from_static(WINDOW_AGAIN));
        }
        Ok(whole(parts, body))
    }
}

impl HttpClient for Call {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, instant_acme::Error>> + Send>> {
        let answer = self.clone().answer(request);
        Box::pin(async move { answer.await.map_err(|error| instant_acme::Error::Other(Box::new(error))) })
    }
}

async fn exchange(
    pool: &Pool,
    request: Request<BodyWrapper<Bytes>>,
    is_sent: bool,
) -> Result<(http::response::Parts, Bytes), CallError> {
    let response = pool.request(request).await.map_err(|error| match error.is_connect() {
        true => CallError::Unreachable(whys(&error)),
        false => CallError::Cut { why: whys(&error), is_sent },
    })?;
    let (parts, body) = response.into_parts();
    let is_certificate = parts.headers.get(header::CONTENT_TYPE).is_some_and(is_chain);
    let most = if is_certificate { crate::returned::MAX_PEM } else { MAX_ANSWER };
    match Limited::new(body, most).collect().await {
        Ok(body) => Ok((parts, body.to_bytes())),
        Err(error) if error.is::<http_body_util::LengthLimitError>() => Err(CallError::Long(most)),
        Err(error) => Err(CallError::Cut { why: whys(error.as_ref()), is_sent }),
    }
}

/// Whether it is a certificate chain (RFC 8555 7.4.2), whatever its parameters say beside.
fn is_chain(value: &HeaderValue) -> bool {
    let essence = value.to_str().unwrap_or_default().split(';').next().unwrap_or_default().trim();
    essence.eq_ignore_ascii_case(CERTIFICATES)
}

fn whole(parts: http::response::Parts, body: Bytes) -> BytesResponse {
    BytesResponse { parts, body: Box::new(body) }
}

pub(crate) fn is_bad_nonce(said: Option<&instant_acme::Problem>) -> bool {
    said.and_then(|said| said.r#type.as_deref()) == Some("urn:ietf:params:acme:error:badNonce")
}

/// Seconds from `now` (RFC 9110 10.2.3: seconds, or a date).
fn retry_after(value: Option<&HeaderValue>, now: i64) -> Option<i64> {
    let value = value?.to_str().ok()?.trim();
    if let Ok(seconds) = value.parse::<u32>() {
        return Some(seconds.into());
    }
    let date = OffsetDateTime::parse(value, &Rfc2822).ok()?;
    Some((date.unix_timestamp() - now).max(0))
}

/// An error and its causes, on one line.
fn whys(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(why) = cause {
        text.push_str(": ");
        text.push_str(&why.to_string());
        cause = why.source();
    }
    bounded(&text)
}

/// Why a call to a CA came to nothing. `is_sent`: it was to change something there, and may have.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    #[error("{problem}")]
    Problem { problem: Problem, after: Option<i64> },
    #[error("the CA answered {status} and no problem document, but: {said:?}")]
    Status { status: u16, said: String, after: Option<i64> },
    #[error("the CA cannot be reached: {0}")]
    Unreachable(String),
    #[error("the CA cannot be reached: {why}")]
    Cut { why: String, is_sent: bool },
    #[error("the CA did not answer within {seconds} s")]
    Slow { seconds: u64, is_sent: bool },
    #[error("the CA's answer is longer than {0} bytes")]
    Long(usize),
    #[error("the roots that the CA is to be believed by: {0}")]
    Roots(String),
}

impl fmt::Debug for Web {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Web")
    }
}

const CONNECT: Duration = Duration::from_secs(10);
/// Of a call, with its connection and all of its answer.
pub(crate) const WHOLE: Duration = Duration::from_secs(60);
/// Longest idle connection: the steps of an order follow each other within seconds.
const IDLE: Duration = Duration::from_secs(30);
/// A directory with its profiles, an order with 100 names or an authorization with all challenges is some 10 KiB.
const MAX_ANSWER: usize = 1 << 20;
const MAX_IDENTITIES: usize = 20; // Let's Encrypt has one
const DIRECTORY_FOR: i64 = 3600; // a guess, not measured: it changes once in years
const UNUSED_FOR: i64 = 3600; // a CA with certificates of an hour or longer is asked seldom, and may be read anew
const MOST_KEPT: usize = 64; // clusters have a handful of CAs; with the largest answers it is 64 MiB
const WINDOW_AGAIN: &str = "21600"; // seconds; RFC 9773 4.3.2's own example
const CERTIFICATES: &str = "application/pem-certificate-chain"; // RFC 8555 7.4.2
/// RFC 8555 6.1 has us say who we are.
const USER_AGENT: &str = concat!("signet/", env!("CARGO_PKG_VERSION"), " instant-acme/0.8");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_seconds_or_a_date_and_anything_else_is_nothing() {
        let now = 784_111_777; // Sun, 06 Nov 1994 08:49:37 GMT
        for (value, want) in [
            ("120", Some(120)),
            (" 0 ", Some(0)),
            ("Sun, 06 Nov 1994 08:50:37 GMT", Some(60)),
            ("Sun, 06 Nov 1994 08:00:00 GMT", Some(0)),
            ("-5", None),
            ("soon", None),
            ("99999999999999", None),
        ] {
            assert_eq!(retry_after(Some(&HeaderValue::from_static(value)), now), want, "{value}");
        }
    }

    #[test]
    fn a_chain_is_known_by_its_type_whatever_its_parameters() {
        for (value, want) in [
            ("application/pem-certificate-chain", true),
            ("Application/PEM-certificate-chain; charset=utf-8", true),
            ("application/json", false),
            ("", false),
        ] {
            assert_eq!(is_chain(&HeaderValue::from_static(value)), want, "{value}");
        }
    }

    #[test]
    fn roots_that_are_none_are_refused_and_the_webs_are_there() {
        let provider = Arc::new(signet_core::tls::default_provider());
        assert!(matches!(pool(&provider, Some("no PEM")), Err(CallError::Roots(_))));
        assert!(pool(&provider, None).is_ok());
        assert!(webpki_root_certs::TLS_SERVER_ROOT_CERTS.len() > 100);
    }

    #[test]
    fn what_is_kept_of_cas_has_an_end_and_is_theirs_who_believe_the_same_roots() {
        let provider = Arc::new(signet_core::tls::default_provider());
        let clock = Arc::new(std::sync::atomic::AtomicI64::new(1_800_000_000));
        let now = Arc::clone(&clock);
        let web = Web::new(provider, Arc::new(move || now.load(std::sync::atomic::Ordering::SeqCst)));
        let place = |n: usize, roots: Option<&str>| Place {
            roots: roots.map(str::to_owned),
            directory: format!("https://ca{n}.example/directory"),
        };
        web.learn(&place(0, Some("a tenant's")), Bytes::from("{}"));
        assert!(web.known(&place(0, Some("a tenant's"))).is_some());
        assert!(web.known(&place(0, None)).is_none(), "what another's server says of itself");
        for n in 0..200 {
            clock.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            web.learn(&place(n, None), Bytes::from("{}"));
            assert!(web.known(&place(0, None)).is_some(), "what is used stays");
        }
        assert_eq!(web.directories.lock().unwrap().0.len(), MOST_KEPT);
        clock.fetch_add(3600, std::sync::atomic::Ordering::SeqCst);
        web.learn(&place(1, None), Bytes::from("{}"));
        assert_eq!(web.directories.lock().unwrap().0.len(), 1, "what nobody uses goes");

        let root = |_| {
            let key = rcgen::KeyPair::generate().unwrap();
            rcgen::CertificateParams::new(vec!["ca.example".into()]).unwrap().self_signed(&key).unwrap().pem()
        };
        for roots in (0..MOST_KEPT + 3).map(root) {
            web.call("https://ca.example/directory", Some(&roots), WHOLE).unwrap();
        }
        assert_eq!(web.clients.lock().unwrap().0.len(), MOST_KEPT);
    }
}
