//! Which is it? Tells our wire from plaintext by a connection's first bytes alone.
//!
//! Where plaintext is allowed, the controller's word about the source address decides only whether our app may speak before
//! the client does. It is a hint, never an identity.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::AsyncReadExt as _,
    time::{Instant, sleep_until},
};

use signet_wire::{refusal::Refusal, socket::AppSocket};

use crate::{
    Proxy,
    config::Inbound,
    connections::Entry,
    hello::{Look, look},
    inbound::{authorize, dial_app},
    model::{Answer, Transport},
    settings::Settings,
};

/// What the first bytes showed.
pub enum Admitted {
    /// A ClientHello for our wire, as received so far.
    Wire(Vec<u8>),
    /// Plaintext, and allowed. `app`: dialled already, because the app may speak first.
    Plain { received: Vec<u8>, app: Option<AppSocket> },
    /// The client left without a word.
    Nothing,
}

/// Reads until it is clear what this is.
pub async fn admit(
    proxy: &Proxy,
    down: &mut AppSocket,
    source: SocketAddr,
    inbound: &Inbound,
    settings: &Settings,
    entry: &Entry,
) -> Result<Admitted, Refusal> {
    let limits = &proxy.config.limits;
    let plaintext = settings.takes_plaintext(inbound.port);
    let patience = if plaintext { limits.first_bytes } else { limits.wire.handshake };
    let silent = Instant::now() + patience;
    let mut stranger = Box::pin(is_stranger(proxy, source));
    // Strict: nothing goes out before the handshake, so nobody waits for a hint.
    let mut hint_awaited = plaintext;
    let mut app: Option<AppSocket> = None;
    let mut received = Vec::new();
    loop {
        let dialled = app.is_some();
        let event = tokio::select! {
            biased;
            why = entry.cut() => return Err(why),
            read = down.tcp().read_buf(&mut received) => Event::Client(read.map_err(|source| Refusal::AppReset { source })?),
            stranger = &mut stranger, if hint_awaited => Event::Hint { stranger },
            () = speaks(&mut app) => Event::App,
            () = sleep_until(silent), if !dialled => return Err(Refusal::Silent { peer: source, waited: patience }),
        };
        match event {
            Event::Client(0) if received.is_empty() => return Ok(Admitted::Nothing),
            Event::Client(n) => match look(&received, limits.client_hello_bytes) {
                Look::Wire => return Ok(Admitted::Wire(received)),
                Look::More if n > 0 => {}
                Look::More | Look::Other if plaintext => return Ok(Admitted::Plain { received, app }),
                Look::More | Look::Other => return Err(Refusal::Plaintext { peer: source }),
            },
            Event::Hint { stranger } => {
                hint_awaited = false;
                if stranger {
                    authorize(settings, inbound.port, entry)?;
                    app = Some(dial_app(inbound, limits.wire.dial).await?);
                }
            }
            Event::App => return Ok(Admitted::Plain { received, app }),
        }
    }
}

enum Event {
    /// So many bytes of the client; 0: it ended.
    Client(usize),
    Hint {
        stranger: bool,
    },
    /// Our app spoke first, or ended.
    App,
}

async fn speaks(app: &mut Option<AppSocket>) {
    match app {
        Some(app) => drop(app.tcp().readable().await),
        None => std::future::pending().await,
    }
}

/// Whether the controller says that no mesh workload has this address; unknown after [`HINT`] counts as a stranger.
async fn is_stranger(proxy: &Proxy, source: SocketAddr) -> bool {
    if let Some(workload) = proxy.model.snapshot().workload_at(source.ip()) {
        return !matches!(workload.transport, Transport::Mesh(_));
    }
    match proxy.model.hint(&source.ip().to_string(), HINT).await {
        Ok(Answer::Workload(workload)) => !matches!(workload.transport, Transport::Mesh(_)),
        _ => true,
    }
}

/// How long a stranger's address may hold back the app's greeting (design 4).
const HINT: Duration = Duration::from_millis(100);
