//! The registry that the nodes pull from: what is in an image layout, read-only, over the OCI distribution protocol (1.1).
//!
//! Images of every name come from here: containerd asks a mirror for `registry.k8s.io/x` as `/v2/x/...?ns=registry.k8s.io`.
//! `index.json` is read for each request, so an image that was built a moment ago is there.

use std::{io, path::PathBuf};

use anyhow::{Context as _, Result};
use axum::{
    Json, Router,
    body::Body,
    extract::{Path, Query, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use serde::Deserialize;
use serde_json::json;
use tokio::{fs::File, net::TcpListener};
use tokio_util::io::ReaderStream;

use crate::images::layout::Layout;

/// Until the listener fails.
pub async fn serve(layout: PathBuf, listener: TcpListener) -> Result<()> {
    let router = Router::new()
        .route("/v2/", get(|| async { Json(json!({})) }))
        .route("/v2/{*path}", get(object))
        .fallback(|| async { Refusal::Unsupported })
        .method_not_allowed_fallback(|| async { Refusal::Unsupported })
        .with_state(Layout::at(layout));
    axum::serve(listener, router).await.context("serve images")
}

#[derive(Deserialize)]
struct Mirrored {
    /// The registry that the image's name begins with.
    ns: Option<String>,
}

/// `<name>/manifests/<tag or digest>` or `<name>/blobs/<digest>`; HEAD as well as GET.
async fn object(
    State(layout): State<Layout>,
    Path(path): Path<String>,
    Query(Mirrored { ns }): Query<Mirrored>,
) -> Result<Response, Refusal> {
    let mut parts = path.rsplitn(3, '/');
    let (Some(reference), Some(kind), Some(name)) = (parts.next(), parts.next(), parts.next()) else {
        return Err(Refusal::Unsupported);
    };
    match kind {
        "manifests" => {
            let name = ns.map_or_else(|| name.to_owned(), |ns| format!("{ns}/{name}"));
            manifest(&layout, &name, reference).await
        }
        "blobs" => {
            let blob = layout.blob(reference).ok_or(Refusal::UnknownBlob)?;
            let file = File::open(blob).await.map_err(|error| missing(error, Refusal::UnknownBlob))?;
            let bytes = file.metadata().await.map_err(Refusal::Broken)?.len();
            let body = Body::from_stream(ReaderStream::with_capacity(file, READ_BYTES));
            Ok(found("application/octet-stream", reference, bytes, body))
        }
        _ => Err(Refusal::Unsupported),
    }
}

async fn manifest(layout: &Layout, name: &str, reference: &str) -> Result<Response, Refusal> {
    let digest = if reference.contains(':') {
        reference.to_owned()
    } else {
        let index = layout.index().map_err(|error| Refusal::Broken(io::Error::other(error)))?;
        let image = index.find(&format!("{name}:{reference}")).ok_or(Refusal::UnknownManifest)?;
        image.digest.clone()
    };
    let blob = layout.blob(&digest).ok_or(Refusal::UnknownManifest)?;
    let text = tokio::fs::read(blob).await.map_err(|error| missing(error, Refusal::UnknownManifest))?;
    // A layer that is asked for as a manifest is no JSON; a configuration has no type.
    let typed: Typed = serde_json::from_slice(&text).map_err(|_| Refusal::UnknownManifest)?;
    let bytes = text.len() as u64;
    Ok(found(&typed.media_type, &digest, bytes, Body::from(text)))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Typed {
    media_type: String,
}

fn found(media_type: &str, digest: &str, bytes: u64, body: Body) -> Response {
    let headers = [
        (header::CONTENT_TYPE.as_str(), media_type.to_owned()),
        (header::CONTENT_LENGTH.as_str(), bytes.to_string()),
        ("docker-content-digest", digest.to_owned()),
    ];
    (headers, body).into_response()
}

/// The words of the protocol for what it cannot give.
enum Refusal {
    UnknownManifest,
    UnknownBlob,
    Unsupported,
    Broken(io::Error),
}

fn missing(error: io::Error, refusal: Refusal) -> Refusal {
    if error.kind() == io::ErrorKind::NotFound { refusal } else { Refusal::Broken(error) }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let (status, code, message) = match self {
            Self::UnknownManifest => {
                (StatusCode::NOT_FOUND, "MANIFEST_UNKNOWN", "no such image; make cluster-build".to_owned())
            }
            Self::UnknownBlob => (StatusCode::NOT_FOUND, "BLOB_UNKNOWN", "no such blob".to_owned()),
            Self::Unsupported => (
                StatusCode::NOT_FOUND,
                "UNSUPPORTED",
                "only manifests and blobs, and only to read".to_owned(),
            ),
            Self::Broken(error) => {
                tracing::error!(%error, "the image layout cannot be read");
                (StatusCode::INTERNAL_SERVER_ERROR, "UNKNOWN", error.to_string())
            }
        };
        (status, Json(json!({ "errors": [{ "code": code, "message": message }] }))).into_response()
    }
}

const READ_BYTES: usize = 256 * 1024; // a layer has up to 100 MB; tokio's default of 4 KiB would cost 25 000 reads

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpStream,
    };

    use super::*;
    use crate::images::oci::{Config, MANIFEST, Platform};

    async fn ask(registry: SocketAddr, method: &str, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(registry).await.unwrap();
        let request = format!("{method} {path} HTTP/1.1\r\nhost: registry\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        let answer = String::from_utf8_lossy(&answer).into_owned();
        (answer.split(' ').nth(1).unwrap().parse().unwrap(), answer)
    }

    #[tokio::test]
    async fn an_image_is_found_by_tag_and_digest_under_its_full_name_and_nothing_else_is() {
        let root = std::env::temp_dir().join(format!("signet-registry-{}", std::process::id()));
        let layout = Layout::create(root.clone()).unwrap();
        let mut layer = crate::images::layer::Layer::default();
        layer.file("greeting", 0o644, b"hello from the layer".to_vec());
        let image = layout.write_image(&Platform::linux("amd64"), &Config::default(), &layer).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let registry = listener.local_addr().unwrap();
        let asked = async {
            let mirrored = "/v2/team/app/manifests/v1?ns=signet.test";
            assert_eq!(ask(registry, "GET", mirrored).await.0, 404, "not published yet");
            layout.publish(&["signet.test/team/app:v1".to_owned()], "key", &image).unwrap();

            let by_digest = format!("/v2/team/app/manifests/{}?ns=signet.test", image.digest);
            for path in [mirrored, "/v2/signet.test/team/app/manifests/v1", &by_digest] {
                for method in ["GET", "HEAD"] {
                    let (status, answer) = ask(registry, method, path).await;
                    assert_eq!(status, 200, "{method} {path}: {answer}");
                    for line in [
                        format!("content-type: {MANIFEST}"),
                        format!("content-length: {}", image.size),
                        format!("docker-content-digest: {}", image.digest),
                    ] {
                        assert!(answer.contains(&format!("{line}\r\n")), "{line} in {answer}");
                    }
                    assert_eq!(answer.contains("schemaVersion"), method == "GET", "{answer}");
                }
            }
            let (_, answer) = ask(registry, "GET", &by_digest).await;
            let manifest: serde_json::Value =
                serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap();
            let layer = manifest["layers"][0]["digest"].as_str().unwrap();
            let (status, answer) = ask(registry, "GET", &format!("/v2/team/app/blobs/{layer}")).await;
            assert!(status == 200 && answer.contains("hello from the layer"), "{answer}");
            assert_eq!(ask(registry, "GET", "/v2/").await.0, 200);

            let unknown = format!("/v2/team/app/blobs/sha256:{}", "0".repeat(64));
            for (method, path, status, code) in [
                ("GET", "/v2/team/app/manifests/v2?ns=signet.test", 404, "MANIFEST_UNKNOWN"),
                ("GET", "/v2/team/app/manifests/v1?ns=registry.k8s.io", 404, "MANIFEST_UNKNOWN"),
                ("GET", "/v2/team/app/manifests/v1", 404, "MANIFEST_UNKNOWN"),
                ("GET", &format!("/v2/team/app/manifests/{layer}"), 404, "MANIFEST_UNKNOWN"),
                ("GET", &unknown, 404, "BLOB_UNKNOWN"),
                ("GET", "/v2/team/app/blobs/..", 404, "BLOB_UNKNOWN"),
                ("GET", "/v2/team/app/blobs/sha256:..", 404, "BLOB_UNKNOWN"),
                ("GET", "/v2/team/app/blobs/..%2F..%2Findex.json", 404, "UNSUPPORTED"),
                ("GET", "/v2/team/app/blobs/sha256:..%2F..%2F..%2Findex.json", 404, "UNSUPPORTED"),
                ("GET", "/v2/team/app/blobs/../../index.json", 404, "UNSUPPORTED"),
                ("GET", "/v2/_catalog", 404, "UNSUPPORTED"),
                ("GET", "/index.json", 404, "UNSUPPORTED"),
                ("POST", "/v2/team/app/blobs/uploads/", 404, "UNSUPPORTED"),
            ] {
                let (got, answer) = ask(registry, method, path).await;
                assert_eq!(got, status, "{method} {path}: {answer}");
                assert!(answer.contains(&format!("\"code\":\"{code}\"")), "{path}: {answer}");
            }
        };
        tokio::select! {
            ended = serve(root.clone(), listener) => panic!("{ended:?}"),
            () = asked => {}
        }
        std::fs::remove_dir_all(root).unwrap();
    }
}
