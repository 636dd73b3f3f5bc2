//! A client of the web, outside of the cluster: HTTP/1.1 and HTTP/2, in plaintext or over TLS, which believes in one CA and dials
//! one address whatever the host. Every request has a connection of its own.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::{
    Request, Response, Uri,
    body::{Body, Bytes, Incoming},
    client::conn::http1,
    header::{HOST, HeaderMap, HeaderValue},
};
use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName},
};
use signet_cluster::Cluster;
use signet_core::tls;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    task::JoinSet,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

pub(crate) struct Web {
    cluster: Cluster,
    pub(crate) address: IpAddr,
    roots: Arc<RootCertStore>,
}

/// A response, whole.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
}

/// A response whose body is still to come; the connection ends with it.
pub(crate) struct Exchange {
    pub(crate) response: Response<Incoming>,
    _connection: JoinSet<()>,
}

impl Web {
    pub(crate) fn at(cluster: &Cluster, address: IpAddr, root: &CertificateDer<'static>) -> Result<Self> {
        let mut roots = RootCertStore::empty();
        roots.add(root.clone())?;
        Ok(Self { cluster: cluster.clone(), address, roots: Arc::new(roots) })
    }

    /// GET `http://<host>/...` from port 80, or `https://` from 443, over HTTP/1.1.
    pub(crate) async fn get(&self, url: &str) -> Result<Answer> {
        let request = Request::get(url).body(Empty::<Bytes>::new())?;
        self.send(request).await?.whole().await.with_context(|| url.to_owned())
    }

    /// Sends a request with an absolute URL over HTTP/1.1; returns when its response has begun.
    pub(crate) async fn send<B>(&self, mut request: Request<B>) -> Result<Exchange>
    where
        B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + 'static,
    {
        let url = request.uri().clone();
        let host = url.host().context("a URL without a host")?;
        request.headers_mut().insert(HOST, HeaderValue::from_str(host)?);
        *request.uri_mut() = url.path_and_query().context("a URL without a path")?.as_str().parse()?;
        let exchange = async {
            if url.scheme_str() == Some("https") {
                begin(self.handshake(host, &[b"http/1.1"]).await?, request).await
            } else {
                begin(self.dial(80).await?, request).await
            }
        };
        // As long as a large body needs to be sent.
        timeout(LONG, Box::pin(exchange)).await.context("no answer in time")?.with_context(|| url.to_string())
    }

    /// GET over HTTP/2.
    pub(crate) async fn get_h2(&self, url: &str) -> Result<Answer> {
        let host = url.parse::<Uri>()?.host().context("a URL without a host")?.to_owned();
        let tls = self.handshake(&host, &[b"h2"]).await?;
        let protocol = tls.get_ref().1.alpn_protocol();
        ensure!(protocol == Some(b"h2"), "{host} speaks {protocol:?}");
        let exchange = async {
            let (mut client, connection) = h2::client::handshake(tls).await?;
            let mut connections = JoinSet::new();
            connections.spawn(async move { drop(connection.await) }); // its error is the stream's, too
            let (response, _) = client.send_request(Request::get(url).body(())?, true)?;
            let (parts, mut body) = response.await?.into_parts();
            let mut whole = Vec::new();
            while let Some(data) = body.data().await {
                let data = data?;
                body.flow_control().release_capacity(data.len())?;
                whole.extend_from_slice(&data);
                ensure!(whole.len() <= LARGEST, "more than {LARGEST} bytes");
            }
            let body = String::from_utf8_lossy(&whole).into_owned();
            Ok(Answer { status: parts.status.as_u16(), headers: parts.headers, body })
        };
        timeout(PATIENCE, Box::pin(exchange))
            .await
            .context("no answer in time")?
            .with_context(|| url.to_owned())
    }

    /// TLS to port 443 with this name, which the certificate has to have.
    pub(crate) async fn handshake(&self, host: &str, alpn: &[&[u8]]) -> Result<TlsStream<TcpStream>> {
        let provider = Arc::new(tls::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(Arc::clone(&self.roots))
            .with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        let (name, tcp) = (ServerName::try_from(host.to_owned())?, self.dial(443).await?);
        let handshake = Box::pin(TlsConnector::from(Arc::new(config)).connect(name, tcp));
        timeout(PATIENCE, handshake)
            .await
            .context("no handshake in time")?
            .with_context(|| format!("TLS with {host}"))
    }

    async fn dial(&self, port: u16) -> Result<TcpStream> {
        self.cluster.dial_from_outside(SocketAddr::new(self.address, port)).await
    }
}

impl Exchange {
    pub(crate) async fn whole(self) -> Result<Answer> {
        let (parts, body) = self.response.into_parts();
        let body =
            timeout(PATIENCE, Limited::new(body, LARGEST).collect()).await.context("no end in time")?;
        let body = body.map_err(|error| anyhow::anyhow!(error))?.to_bytes();
        let body = String::from_utf8_lossy(&body).into_owned();
        Ok(Answer { status: parts.status.as_u16(), headers: parts.headers, body })
    }
}

async fn begin<S, B>(stream: S, request: Request<B>) -> Result<Exchange>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let mut connections = JoinSet::new();
    connections.spawn(async move { drop(connection.await) }); // its error is the request's, too
    Ok(Exchange { response: sender.send_request(request).await?, _connection: connections })
}

/// For everything but large bodies.
const PATIENCE: Duration = Duration::from_secs(30);
/// 1 GiB on a machine that compiles meanwhile.
pub(crate) const LONG: Duration = Duration::from_secs(300);
/// Of an answer that is kept: pages and lists.
const LARGEST: usize = 8 << 20;
