//! A notebook kernel of JupyterLab, as its page in a browser drives it: started by POST, told what to run over a WebSocket.
//! https://jupyter-client.readthedocs.io/en/stable/messaging.html

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use futures_util::{SinkExt as _, StreamExt as _};
use http_body_util::Full;
use hyper::{
    Request,
    header::{AUTHORIZATION, HeaderValue, ORIGIN},
};
use serde_json::{Value, json};
use tokio::time::timeout;
use tokio_tungstenite::{
    client_async,
    tungstenite::{Message, client::IntoClientRequest as _},
};

use super::web::Web;

/// Starts a kernel at `host`, has it execute `code`, and returns what a notebook would show below the cell.
pub(super) async fn execute(web: &Web, host: &str, token: &str, code: &str) -> Result<String> {
    let kernel = start(web, host, token).await.context("start a kernel")?;
    let mut request = format!("wss://{host}/api/kernels/{kernel}/channels").into_client_request()?;
    request.headers_mut().insert(AUTHORIZATION, authorization(token)?);
    // A browser always says where the page came from; JupyterLab refuses another host's.
    request.headers_mut().insert(ORIGIN, HeaderValue::from_str(&format!("https://{host}"))?);
    let tls = web.handshake(host, &[b"http/1.1"]).await?;
    let (mut socket, response) = timeout(PATIENCE, Box::pin(client_async(request, tls)))
        .await
        .context("no upgrade in time")?
        .context("upgrade to a WebSocket")?;
    ensure!(response.status() == 101, "{response:?}");
    socket.send(Message::text(execute_request(code).to_string())).await?;
    let result = async {
        while let Some(message) = socket.next().await {
            let Message::Text(text) = message? else { continue };
            let message: Value = serde_json::from_str(&text)?;
            if message["parent_header"]["msg_id"] != REQUEST {
                continue; // of the kernel's start
            }
            match message["msg_type"].as_str() {
                Some("execute_result") => {
                    let shown = message["content"]["data"]["text/plain"].as_str();
                    return Ok(shown.context("a result without text")?.to_owned());
                }
                Some("error") => bail!("{}", message["content"]),
                _ => {}
            }
        }
        bail!("the WebSocket ended before the result")
    };
    let result = timeout(PATIENCE, result).await.context("no result in time")??;
    socket.close(None).await?;
    Ok(result)
}

/// The new kernel's id.
async fn start(web: &Web, host: &str, token: &str) -> Result<String> {
    let request = Request::post(format!("https://{host}/api/kernels"))
        .header(AUTHORIZATION, authorization(token)?)
        .body(Full::from(r#"{"name": "python3"}"#))?;
    let answer = web.send(request).await?.whole().await?;
    ensure!(answer.status == 201, "{answer:?}");
    let kernel: Value = serde_json::from_str(&answer.body)?;
    Ok(kernel["id"].as_str().context("a kernel has an id")?.to_owned())
}

fn authorization(token: &str) -> Result<HeaderValue> {
    let mut value = HeaderValue::from_str(&format!("token {token}"))?;
    value.set_sensitive(true);
    Ok(value)
}

fn execute_request(code: &str) -> Value {
    json!({
        "channel": "shell",
        "header": {
            "msg_id": REQUEST, "msg_type": "execute_request", "version": "5.3",
            "session": "story", "username": "", "date": "",
        },
        "parent_header": {}, "metadata": {}, "buffers": [],
        "content": {
            "code": code, "silent": false, "store_history": false, "user_expressions": {}, "allow_stdin": false,
        },
    })
}

/// The id that answers name as their parent.
const REQUEST: &str = "request-of-the-story";
/// A kernel starts in about a second.
const PATIENCE: Duration = Duration::from_secs(60);
