//! One question to a running part: HTTP/1.1 over its Unix socket or its loopback admin port, of this machine or of a pod, one
//! request per connection.

use std::{
    fmt, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    pin::pin,
    time::Duration,
};

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{
    Method, Request, StatusCode,
    body::Bytes,
    client::conn::http1,
    header::{CONTENT_TYPE, HOST},
};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, api::Portforwarder};
use serde::{Serialize, de::DeserializeOwned};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
    time::timeout,
};

/// Where a part takes questions.
#[derive(Clone, Debug)]
pub enum Place {
    Socket(PathBuf),
    Tcp(SocketAddr),
    /// A port on the loopback of a pod, reached by a port-forward: Kubernetes' RBAC guards it.
    Pod(Box<PodPort>),
}

/// `port` of pod `namespace`/`name`, in the cluster behind `client`.
#[derive(Clone)]
pub struct PodPort {
    pub client: kube::Client,
    pub namespace: String,
    pub name: String,
    pub port: u16,
}

impl Place {
    pub fn socket(path: &Path) -> Self {
        Self::Socket(path.to_owned())
    }

    /// GET, answered in JSON.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, NoAnswer> {
        self.parse(&self.ask(Method::GET, path, Bytes::new()).await?)
    }

    /// GET, answered in words.
    pub async fn get_text(&self, path: &str) -> Result<String, NoAnswer> {
        let answer = self.ask(Method::GET, path, Bytes::new()).await?;
        Ok(String::from_utf8_lossy(&answer).into_owned())
    }

    /// POST of JSON, answered in JSON.
    pub async fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, NoAnswer> {
        let body = serde_json::to_vec(body).map_err(|e| self.unreadable(&e))?;
        self.parse(&self.ask(Method::POST, path, body.into()).await?)
    }

    async fn ask(&self, method: Method, path: &str, body: Bytes) -> Result<Bytes, NoAnswer> {
        let answer = async {
            match self {
                Self::Socket(socket) => {
                    let stream = UnixStream::connect(socket).await.map_err(|e| self.unreached(e))?;
                    self.exchange(stream, method, path, body).await
                }
                Self::Tcp(address) => {
                    let stream = TcpStream::connect(address).await.map_err(|e| self.unreached(e))?;
                    self.exchange(stream, method, path, body).await
                }
                Self::Pod(pod) => {
                    let mut forward = pod.forward().await.map_err(|e| self.unreached(io::Error::other(e)))?;
                    let ended = || io::Error::other("the port-forward has no stream");
                    let stream = forward.take_stream(pod.port).ok_or_else(ended);
                    let said = forward.take_error(pod.port);
                    let answer = match stream {
                        Ok(stream) => self.exchange(stream, method, path, body).await,
                        Err(e) => Err(self.unreached(e)),
                    };
                    match (answer, said) {
                        // The kubelet's words say more than a stream that ends: that nobody listens, or that the pod is gone.
                        (Err(NoAnswer::Unreached { source, .. }), Some(said)) => {
                            let words = timeout(LAST_WORDS, said).await.ok().flatten();
                            Err(self.unreached(words.map_or(source, io::Error::other)))
                        }
                        (answer, _) => answer,
                    }
                }
            }
        };
        let deadline = self.deadline();
        timeout(deadline, Box::pin(answer))
            .await
            .unwrap_or_else(|_| Err(NoAnswer::Late { place: self.clone(), deadline }))
    }

    fn deadline(&self) -> Duration {
        match self {
            Self::Socket(_) | Self::Tcp(_) => DEADLINE,
            Self::Pod(_) => POD_DEADLINE,
        }
    }

    async fn exchange(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<Bytes, NoAnswer> {
        let broken = |e: hyper::Error| self.unreached(io::Error::other(e));
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, "signet")
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .map_err(|e| self.unreached(io::Error::other(e)))?;
        let answer = pin!(async move {
            let answer = sender.send_request(request).await.map_err(broken)?;
            let status = answer.status();
            let body = Limited::new(answer.into_body(), LARGEST_ANSWER).collect().await;
            let body = body.map_err(|e| self.unreached(io::Error::other(e)))?.to_bytes();
            if status.is_success() { Ok(body) } else { Err(self.refused(status, &body)) }
        });
        let connection = pin!(connection);
        match futures_util::future::select(answer, connection).await {
            futures_util::future::Either::Left((answer, _)) => answer,
            // The connection is over once all of the answer is read off it; what is left is to take it.
            futures_util::future::Either::Right((_, answer)) => answer.await,
        }
    }

    fn parse<T: DeserializeOwned>(&self, answer: &[u8]) -> Result<T, NoAnswer> {
        serde_json::from_slice(answer).map_err(|e| self.unreadable(&e))
    }

    fn unreached(&self, source: io::Error) -> NoAnswer {
        NoAnswer::Unreached { place: self.clone(), source }
    }

    fn unreadable(&self, why: &serde_json::Error) -> NoAnswer {
        NoAnswer::Unreadable { place: self.clone(), why: why.to_string() }
    }

    /// Words of the other side, out of `{"error": "..."}` or as they are.
    fn refused(&self, status: StatusCode, body: &[u8]) -> NoAnswer {
        #[derive(serde::Deserialize)]
        struct Words {
            error: String,
        }
        let words = serde_json::from_slice::<Words>(body)
            .map_or_else(|_| String::from_utf8_lossy(body).trim().to_owned(), |words| words.error);
        NoAnswer::Refused { place: self.clone(), status, words }
    }
}

impl PodPort {
    async fn forward(&self) -> kube::Result<Portforwarder> {
        let pods = Api::<Pod>::namespaced(self.client.clone(), &self.namespace);
        pods.portforward(&self.name, &[self.port]).await
    }
}

/// The client is left out: it holds the user's credentials.
impl fmt::Debug for PodPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PodPort({self})")
    }
}

impl fmt::Display for PodPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "port {} of pod {}/{}", self.port, self.namespace, self.name)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(path) => path.display().fmt(f),
            Self::Tcp(address) => address.fmt(f),
            Self::Pod(pod) => pod.fmt(f),
        }
    }
}

/// Why a question has no answer.
#[derive(Debug, thiserror::Error)]
pub enum NoAnswer {
    #[error("nobody answers at {place}")]
    Unreached { place: Place, source: io::Error },
    #[error("{place} took longer than {deadline:?}: the process may be stopped or overloaded; see its log")]
    Late { place: Place, deadline: Duration },
    #[error("{place} answered {status}: {words}")]
    Refused { place: Place, status: StatusCode, words: String },
    #[error("{place} answered what this signet cannot read ({why}): compare signet version on both sides")]
    Unreadable { place: Place, why: String },
}

/// A local process answers in milliseconds; this is for one that never will.
const DEADLINE: Duration = Duration::from_secs(3);
/// Through the API server and a kubelet: two TLS handshakes on the way, and clusters are far away. A guess, not measured.
const POD_DEADLINE: Duration = Duration::from_secs(10);
/// They come with the end of the stream.
const LAST_WORDS: Duration = Duration::from_millis(500);
/// Edges of 10 000 pods fit (300 B each, 20 edges a pod).
const LARGEST_ANSWER: usize = 64 << 20;

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    /// Answers one request with `answer` and closes.
    async fn server(answer: &'static str) -> Place {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let place = Place::Tcp(listener.local_addr().unwrap());
        signet_core::drain::Drain::new().spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.read(&mut [0; 1024]).await.unwrap();
            stream.write_all(answer.as_bytes()).await.unwrap();
        });
        place
    }

    #[tokio::test]
    async fn an_answer_is_read_whole_when_the_other_side_closes_at_once() {
        let place = server("HTTP/1.1 200 OK\r\ncontent-length: 7\r\nconnection: close\r\n\r\n[1,2,3]").await;
        assert_eq!(place.get::<Vec<u8>>("/").await.unwrap(), [1, 2, 3]);
    }

    #[tokio::test]
    async fn each_failure_says_which_it_is() {
        let refused = "HTTP/1.1 409 Conflict\r\ncontent-length: 16\r\n\r\n{\"error\":\"busy\"}";
        let error = server(refused).await.get::<Vec<u8>>("/").await.unwrap_err();
        assert!(error.to_string().ends_with("answered 409 Conflict: busy"), "{error}");
        let garbage = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi";
        let error = server(garbage).await.get::<Vec<u8>>("/").await.unwrap_err();
        assert!(error.to_string().contains("cannot read"), "{error}");
        let error = Place::socket(Path::new("/nonexistent/s")).get::<u8>("/").await.unwrap_err();
        assert_eq!(error.to_string(), "nobody answers at /nonexistent/s");
    }

    #[tokio::test(start_paused = true)]
    async fn a_process_that_is_stopped_is_not_waited_for_without_end() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let place = Place::Tcp(listener.local_addr().unwrap());
        assert!(matches!(place.get::<u8>("/").await, Err(NoAnswer::Late { .. })));
    }
}
