//! One HTTP request to a provider's API, on a connection of its own: they are few, and minutes apart.

use std::{io, pin::pin, sync::Arc};

use bytes::Bytes;
use futures_util::future::{Either, select};
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

/// Where an API is: `https://host[:port]`, or `http://host[:port]` for a stand-in.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Endpoint {
    tls: bool,
    host: String,
    port: u16,
    /// As it stands in `Host`.
    pub(crate) authority: String,
}

impl Endpoint {
    /// No path, query or user; `None` where there is one.
    pub(crate) fn parse(url: &str) -> Option<Self> {
        let uri: http::Uri = url.parse().ok()?;
        let tls = match uri.scheme_str()? {
            "https" => true,
            "http" => false,
            _ => return None,
        };
        let authority = uri.authority()?;
        if uri.path_and_query().is_some_and(|path| path != "/") || authority.as_str().contains('@') {
            return None;
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']');
        let port = authority.port_u16().unwrap_or(if tls { 443 } else { 80 });
        Some(Self { tls, host: host.to_owned(), port, authority: authority.as_str().to_owned() })
    }

    /// Without a deadline: the caller has one.
    pub(crate) async fn exchange(
        &self,
        tls: &Arc<ClientConfig>,
        request: Request<Full<Bytes>>,
    ) -> io::Result<Response<Bytes>> {
        let stream = TcpStream::connect((self.host.as_str(), self.port)).await?;
        if !self.tls {
            return Box::pin(exchange(stream, request)).await;
        }
        let name = ServerName::try_from(self.host.clone()).map_err(io::Error::other)?;
        let stream = TlsConnector::from(Arc::clone(tls)).connect(name, stream).await?;
        Box::pin(exchange(stream, request)).await // some KiB, for seconds a month
    }
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    request: Request<Full<Bytes>>,
) -> io::Result<Response<Bytes>> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    let answer = pin!(async move {
        let (head, body) = sender.send_request(request).await.map_err(io::Error::other)?.into_parts();
        let body = Limited::new(body, LARGEST_ANSWER).collect().await.map_err(io::Error::other)?;
        Ok(Response::from_parts(head, body.to_bytes()))
    });
    match select(answer, pin!(connection)).await {
        Either::Left((answer, _)) => answer,
        // The connection is over once all of the answer is read off it; what is left is to take it.
        Either::Right((_, answer)) => answer.await,
    }
}

const LARGEST_ANSWER: usize = 1 << 20; // bytes; ten zones or one record set are a few KiB

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_a_scheme_a_host_and_a_port_and_nothing_else() {
        let parsed = |url| Endpoint::parse(url).map(|e| (e.tls, e.host, e.port, e.authority));
        let is = |tls, host: &str, port, authority: &str| Some((tls, host.into(), port, authority.into()));
        assert_eq!(
            parsed("https://route53.amazonaws.com"),
            is(true, "route53.amazonaws.com", 443, "route53.amazonaws.com")
        );
        assert_eq!(parsed("http://127.0.0.1:4566/"), is(false, "127.0.0.1", 4566, "127.0.0.1:4566"));
        assert_eq!(parsed("https://[::1]:8443"), is(true, "::1", 8443, "[::1]:8443"));
        for wrong in [
            "route53.amazonaws.com",
            "ftp://a",
            "https://a/b",
            "https://a?b",
            "https://u:p@a",
            "https://",
            "",
        ] {
            assert_eq!(parsed(wrong), None, "{wrong}");
        }
    }
}
