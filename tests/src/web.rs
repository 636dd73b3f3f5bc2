//! A client of the web with one connection: HTTP/1.1 or HTTP/2 over TLS, by what ALPN says.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use http_body_util::{BodyExt as _, Empty};
use hyper::{
    Request, Response,
    body::{Bytes, Incoming},
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ClientConfig;
use signet_core::drain::Drain;
use tokio::time::timeout;

use crate::{eventually::SOON, gateway::shake};

/// One connection.
pub struct Web {
    sender: Sender,
    /// The certificate that it was shown.
    pub leaf: Vec<u8>,
}

enum Sender {
    One(http1::SendRequest<Empty<Bytes>>),
    Many(http2::SendRequest<Empty<Bytes>>),
}

impl Web {
    pub async fn connect(
        from: IpAddr,
        to: SocketAddr,
        config: &Arc<ClientConfig>,
        sni: &str,
    ) -> io::Result<Self> {
        let tls = shake(from, to, config, sni).await?;
        let session = tls.get_ref().1;
        let leaf = session.peer_certificates().and_then(|chain| chain.first()).map(|leaf| leaf.to_vec());
        let leaf = leaf.unwrap_or_default();
        let (drain, is_h2) = (Drain::new(), session.alpn_protocol() == Some(b"h2"));
        let tls = TokioIo::new(tls);
        // How a connection ends, its requests say.
        let sender = if is_h2 {
            let (sender, connection) =
                http2::handshake(TokioExecutor::new(), tls).await.map_err(io::Error::other)?;
            drain.spawn(async move { drop(connection.await) });
            Sender::Many(sender)
        } else {
            let (sender, connection) = http1::handshake(tls).await.map_err(io::Error::other)?;
            drain.spawn(async move { drop(connection.await) });
            Sender::One(sender)
        };
        Ok(Self { sender, leaf })
    }

    /// Up to the answer's head.
    pub async fn begin(&mut self, host: &str, path: &str) -> io::Result<Response<Incoming>> {
        let answer = match &mut self.sender {
            Sender::One(sender) => {
                let request = Request::get(path).header("host", host).body(Empty::new());
                sender.ready().await.map_err(io::Error::other)?;
                timeout(SOON, sender.send_request(request.map_err(io::Error::other)?)).await
            }
            Sender::Many(sender) => {
                let request = Request::get(format!("https://{host}{path}")).body(Empty::new());
                sender.ready().await.map_err(io::Error::other)?;
                timeout(SOON, sender.send_request(request.map_err(io::Error::other)?)).await
            }
        };
        answer?.map_err(io::Error::other)
    }

    /// The whole answer: its head, and its body.
    pub async fn get(&mut self, host: &str, path: &str) -> io::Result<(Response<()>, Bytes)> {
        let (parts, body) = self.begin(host, path).await?.into_parts();
        let body = timeout(SOON, body.collect()).await?.map_err(io::Error::other)?;
        Ok((Response::from_parts(parts, ()), body.to_bytes()))
    }

    /// Whether another request may be sent on it.
    pub fn is_open(&self) -> bool {
        match &self.sender {
            Sender::One(sender) => !sender.is_closed(),
            Sender::Many(sender) => !sender.is_closed(),
        }
    }

    /// One more handle of the same connection; of HTTP/2 only.
    pub fn share(&self) -> Option<Self> {
        match &self.sender {
            Sender::One(_) => None,
            Sender::Many(sender) => {
                Some(Self { sender: Sender::Many(sender.clone()), leaf: self.leaf.clone() })
            }
        }
    }
}
