//! The stream from edge, and when what it brings is served: a change that names backends which are still on their way waits for
//! them, at most a second, so that no request meets a route without its backend.

use std::{sync::Arc, time::Duration};

use signet_api::xds::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use signet_core::drain::Drain;
use signet_link::discovery::{Discovery, Holder, Server};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

use crate::{
    Gateway,
    config::Admin,
    held::{Held, Model},
};

/// Follows edge until `drain` stops, and serves what it says.
pub fn run(gateway: &Arc<Gateway>, discovery: &Arc<Discovery>, drain: &Drain) {
    let config = &gateway.config;
    let server = Server {
        word: "edge",
        target: config.edge.clone(),
        source: config.source,
        svid: gateway.svid.clone(),
        trust: Arc::clone(&gateway.trust),
        max_message: MAX_MESSAGE,
    };
    let reserved = match config.admin {
        Admin::Pod => OWN_PORTS,
        Admin::At(_) => &[],
    };
    let (offers, offered) = watch::channel(Offer::default());
    let feed = Feed { node: config.name.to_string(), held: Held::new(reserved), offers };
    discovery.run(server, feed, drain);
    let gateway = Arc::clone(gateway);
    drain.keep(async move { adopt(offered, |model| gateway.adopt(model)).await });
}

struct Feed {
    node: String,
    held: Held,
    offers: watch::Sender<Offer>,
}

/// What could be served now.
#[derive(Clone, Default)]
struct Offer {
    /// `None`: not even a whole first answer.
    model: Option<Arc<Model>>,
    /// Every backend that is named is in it.
    whole: bool,
}

impl Holder for Feed {
    fn first(&mut self) -> Vec<DeltaDiscoveryRequest> {
        self.held.first(&self.node)
    }

    fn take(&mut self, discovery: &Discovery, answer: DeltaDiscoveryResponse) -> DeltaDiscoveryRequest {
        let (type_url, nonce) = (answer.type_url.clone(), answer.nonce.clone());
        let faults = self.held.take(answer);
        if self.held.is_answered() {
            let model = Some(Arc::new(self.held.model()));
            self.offers.send_replace(Offer { model, whole: self.held.is_whole() });
        }
        discovery.reply(type_url, nonce, &faults)
    }

    /// We asked for everything.
    async fn next(&mut self) -> Option<DeltaDiscoveryRequest> {
        std::future::pending().await
    }
}

/// Serves each offer that is whole, at once; one that is not when a second has passed since the first such.
async fn adopt(mut offers: watch::Receiver<Offer>, serve: impl Fn(Arc<Model>)) {
    let mut since: Option<Instant> = None;
    loop {
        let due = since.map(|since| since + PATIENCE);
        let late = tokio::select! {
            changed = offers.changed() => match changed {
                Ok(()) => false,
                Err(_) => return,
            },
            () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => true,
        };
        let Offer { model, whole } = offers.borrow_and_update().clone();
        let Some(model) = model else { continue };
        if whole || late {
            since = None;
            serve(model);
        } else {
            since.get_or_insert_with(Instant::now);
        }
    }
}

/// Bytes: a thousand certificates with their chains and keys are 5 MB.
const MAX_MESSAGE: usize = 64 << 20;
/// Ours in a pod.
const OWN_PORTS: &[u16] = &[signet_core::pod::PAGES_PORT, signet_core::pod::ADMIN_PORT];
/// For backends that are on their way; edge sends them before the routes.
const PATIENCE: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    fn offer(mark: &str, whole: bool) -> Offer {
        let model = Model { faults: vec![mark.to_owned()], ..Model::default() };
        Offer { model: Some(Arc::new(model)), whole }
    }

    /// What is served after each of (milliseconds, offer).
    async fn served(story: Vec<(u64, Option<Offer>)>) -> Vec<Vec<String>> {
        let (offers, offered) = watch::channel(Offer::default());
        let seen: Arc<Mutex<Vec<String>>> = Arc::default();
        let drain = Drain::new();
        let note = Arc::clone(&seen);
        drain.keep(async move {
            adopt(offered, |model| note.lock().unwrap().push(model.faults[0].clone())).await;
        });
        let mut all = Vec::new();
        for (after, offer) in story {
            tokio::time::sleep(Duration::from_millis(after)).await;
            if let Some(offer) = offer {
                offers.send_replace(offer);
            }
            tokio::task::yield_now().await;
            tokio::time::sleep(Duration::from_millis(1)).await; // virtual
            all.push(seen.lock().unwrap().clone());
        }
        drain.run(Duration::ZERO).await;
        all
    }

    #[tokio::test(start_paused = true)]
    async fn a_route_waits_for_its_backend_and_no_longer_than_a_second() {
        let whole = served(vec![
            (0, Some(offer("a", true))),
            (0, Some(offer("b", false))),
            (500, Some(offer("c", true))),
        ]);
        assert_eq!(whole.await.last().unwrap(), &["a", "c"], "b was never served");
        let late = served(vec![
            (0, Some(offer("a", false))),
            (500, Some(offer("b", false))),
            (400, None),
            (200, None),
        ]);
        let late = late.await;
        assert_eq!(
            (&late[2][..], &late[3][..]),
            (&[][..], &["b".to_owned()][..]),
            "the newest, a second after the first"
        );
    }
}
