//! The demo's public host: an app that speaks HTTP, and a visitor who speaks HTTPS and believes in the edge CA and nothing else.

use std::{io, net::SocketAddr, path::Path, sync::Arc, time::Duration};

use rustls::{ClientConfig, RootCertStore, pki_types::ServerName};
use signet_core::{drain::Drain, tls};
use signet_edge_ca::Root;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tokio_rustls::TlsConnector;

/// The host of `cli/demo/40-public.yaml`.
pub(super) const HOST: &str = "blog.localhost";

/// Answers every request with `page`, one on each connection. Returns once it listens.
pub(super) fn serve(listener: TcpListener, page: String, drain: &Drain) {
    let (tasks, page) = (drain.clone(), Arc::<str>::from(page));
    drain.spawn(async move {
        loop {
            let stream = tokio::select! {
                biased;
                () = tasks.stopping() => return,
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => stream,
                    Err(_) => continue, // that client has gone again
                },
            };
            let page = Arc::clone(&page);
            tasks.spawn(async move {
                let _ = timeout(PATIENCE, answer(stream, &page)).await; // its end is the client's to judge
            });
        }
    });
}

async fn answer(mut stream: TcpStream, page: &str) -> io::Result<()> {
    read_until(&mut stream, "\r\n\r\n").await?;
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", page.len());
    stream.write_all(format!("{head}{page}").as_bytes()).await?;
    stream.shutdown().await
}

/// One visit to [`HOST`] at `place`. True: a page with `marker` came. Errors: no handshake by a root in `root`, or no answer.
pub(super) async fn visit(place: SocketAddr, root: &Path, marker: &str) -> io::Result<bool> {
    let root = Root::from_pem(&std::fs::read(root)?).map_err(io::Error::other)?;
    let mut roots = RootCertStore::empty();
    roots.add(root.certificate().clone()).map_err(io::Error::other)?;
    let config = ClientConfig::builder_with_provider(Arc::new(tls::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let talk = async {
        let name = ServerName::try_from(HOST).map_err(io::Error::other)?;
        let tcp = TcpStream::connect(place).await?;
        let mut tls = Box::pin(TlsConnector::from(Arc::new(config)).connect(name, tcp)).await?;
        let request = format!("GET / HTTP/1.1\r\nhost: {HOST}:{}\r\nconnection: close\r\n\r\n", place.port());
        tls.write_all(request.as_bytes()).await?;
        let answer = read_until(&mut tls, marker).await?;
        Ok(answer.starts_with("HTTP/1.1 200") && answer.contains(marker))
    };
    timeout(PATIENCE, Box::pin(talk)).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// What came until `end` did, or the stream ended.
async fn read_until(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), end: &str) -> io::Result<String> {
    let (mut text, mut more) = (String::new(), [0; 1024]);
    while !text.contains(end) && text.len() < LONGEST {
        match stream.read(&mut more).await {
            Ok(0) => break,
            Ok(n) => text += &String::from_utf8_lossy(&more[..n]),
            Err(_) if !text.is_empty() => break,
            Err(error) => return Err(error),
        }
    }
    Ok(text)
}

/// A visit takes milliseconds; this is for one that is held back.
const PATIENCE: Duration = Duration::from_secs(5);
/// Bytes of an answer.
const LONGEST: usize = 16 * 1024;
