//! Plain TCP and TLS to endpoints outside of the mesh.

use std::{
    collections::HashMap,
    io,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rustls::{
    ClientConfig, RootCertStore, client::Resumption, crypto::CryptoProvider, pki_types::ServerName,
};
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::{Connecting, Connector, verify};
use crate::{
    model::{BackendTls, Endpoint, Protocol, Security},
    stream::Stream,
};

/// Dials [`Security::Plain`] and [`Security::Tls`]; refuses [`Security::Mesh`].
pub struct Direct {
    provider: Arc<CryptoProvider>,
    /// What [`Roots::WellKnown`](crate::model::Roots::WellKnown) means.
    well_known: Arc<RootCertStore>,
    configs: Mutex<HashMap<Key, Arc<ClientConfig>>>,
}

type Key = (Arc<BackendTls>, Protocol);

impl Direct {
    pub fn new(provider: Arc<CryptoProvider>, well_known: Arc<RootCertStore>) -> Self {
        Self { provider, well_known, configs: Mutex::default() }
    }

    async fn dial(&self, endpoint: &Endpoint, protocol: Protocol) -> io::Result<Box<dyn Stream>> {
        let tls = match &endpoint.security {
            Security::Plain => None,
            Security::Tls(tls) => Some((tls, self.config(tls, protocol)?)),
            Security::Mesh(_) => {
                return Err(io::Error::new(io::ErrorKind::Unsupported, "no connector for the mesh here"));
            }
        };
        let tcp = TcpStream::connect(endpoint.address).await?;
        tune(&tcp)?;
        let Some((tls, config)) = tls else { return Ok(Box::new(tcp)) };
        let name = match &tls.sni {
            Some(name) => ServerName::try_from(name.to_string()).map_err(io::Error::other)?,
            None => ServerName::from(endpoint.address.ip()), // not sent
        };
        let stream = TlsConnector::from(config).connect(name, tcp).await?;
        if protocol == Protocol::Http2 && stream.get_ref().1.alpn_protocol() != Some(b"h2") {
            return Err(io::Error::other("the backend does not speak HTTP/2 on TLS"));
        }
        Ok(Box::new(stream))
    }

    fn config(&self, tls: &Arc<BackendTls>, protocol: Protocol) -> io::Result<Arc<ClientConfig>> {
        let mut configs = self.configs.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (Arc::clone(tls), protocol);
        if let Some(config) = configs.get(&key) {
            return Ok(Arc::clone(config));
        }
        let verifier =
            verify::verifier(&tls.verify, &self.well_known, &self.provider).map_err(io::Error::other)?;
        let mut config = ClientConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_no_client_auth();
        config.enable_sni = tls.sni.is_some();
        config.resumption = Resumption::disabled(); // it skips the verifier
        config.alpn_protocols = match protocol {
            Protocol::Http1 => vec![b"http/1.1".to_vec()],
            Protocol::Http2 => vec![b"h2".to_vec()],
        };
        if configs.len() >= CONFIGS {
            configs.clear(); // built again at the next connection
        }
        let config = Arc::new(config);
        configs.insert(key, Arc::clone(&config));
        Ok(config)
    }
}

impl Connector for Direct {
    fn connect<'a>(&'a self, endpoint: &'a Endpoint, protocol: Protocol) -> Connecting<'a> {
        Box::pin(self.dial(endpoint, protocol))
    }

    /// We present no certificate, and what is trusted is part of the endpoint.
    fn generation(&self, _: &Security) -> u64 {
        0
    }
}

/// A backend that is gone while nothing is sent is found in [`LOST_AFTER`]. No TCP_USER_TIMEOUT: the kernel takes a closed window for
/// a loss as well, and ends an upload that a backend only holds back (8 s of it were ETIMEDOUT); while something is sent, the
/// times of an exchange find who is gone.
fn tune(tcp: &TcpStream) -> io::Result<()> {
    tcp.set_nodelay(true)?;
    let probes = TcpKeepalive::new().with_time(LOST_AFTER / 2).with_interval(LOST_AFTER / 4).with_retries(2);
    SockRef::from(tcp).set_tcp_keepalive(&probes)
}

/// Half of it in silence, the rest two probes.
const LOST_AFTER: Duration = Duration::from_secs(8);
/// TLS settings that are kept ready.
const CONFIGS: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_backend_that_holds_an_upload_back_is_not_taken_for_lost_by_the_kernel() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let tcp = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        tune(&tcp).unwrap();
        let socket = SockRef::from(&tcp);
        assert!(socket.tcp_user_timeout().unwrap().is_none() && socket.keepalive().unwrap());
    }
}
