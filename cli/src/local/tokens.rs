//! Token files: the twin of a projected service account token. Each holds one one-time join token, fresh enough for a
//! process that starts, or lost its certificate, at any moment.
//!
//! One task writes them all: every 30 s, before each start of their process, and at once when the CA has a new boot id,
//! since tokens die with the CA that made them.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::Deserialize;
use serde_json::json;
use signet_core::{
    drain::Drain,
    files::{self, PRIVATE},
    identity::SpiffeId,
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, MissedTickBehavior, interval, sleep_until, timeout},
};
use tracing::{debug, warn};

use crate::ask::Place;

/// Who gets a token, and where it lies.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Bearer {
    pub(crate) identity: SpiffeId,
    pub(crate) file: PathBuf,
}

/// A handle to the task.
#[derive(Clone)]
pub(crate) struct Tokens(mpsc::Sender<Request>);

enum Request {
    Fresh(Bearer, oneshot::Sender<()>),
    Forget(PathBuf),
}

impl Tokens {
    /// `ca_changed` hears of every new state of the CA's process.
    pub(crate) fn start(ca: Place, ca_changed: watch::Receiver<super::child::State>, drain: &Drain) -> Self {
        let (requests, receive) = mpsc::channel(REQUESTS);
        let mint = Mint { ca, bearers: BTreeMap::new(), epoch: None, owing: false };
        drain.keep(mint.run(receive, ca_changed));
        Self(requests)
    }

    /// Writes a token now and keeps it fresh from now on. Returns when it is written, or cannot be for the moment.
    pub(crate) async fn fresh(&self, bearer: &Bearer) {
        let (done, answer) = oneshot::channel();
        let ask = async {
            if self.0.send(Request::Fresh(bearer.clone(), done)).await.is_ok() {
                let _ = answer.await; // dropped: the task ended with the supervisor
            }
        };
        let _ = timeout(FRESH, ask).await;
    }

    pub(crate) async fn forget(&self, bearer: &Bearer) {
        let _ = self.0.send(Request::Forget(bearer.file.clone())).await; // the task is gone: nothing to forget
    }
}

struct Mint {
    ca: Place,
    bearers: BTreeMap<PathBuf, SpiffeId>,
    /// Of the CA when it made the tokens in the files.
    epoch: Option<Epoch>,
    /// Someone has no fresh token because the CA did not answer.
    owing: bool,
}

/// Tokens of another epoch are of no use, or needed at once: they die with the CA's process, and a distrusted root leaves
/// nobody anything else to come back with.
#[derive(Deserialize, PartialEq)]
#[serde(rename_all = "camelCase")]
struct Epoch {
    boot_id: String,
    bundle_sequence: u64,
}

impl Mint {
    async fn run(
        mut self,
        mut requests: mpsc::Receiver<Request>,
        mut ca_changed: watch::Receiver<super::child::State>,
    ) {
        let mut refresh = interval(REFRESH);
        refresh.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut look = Instant::now();
        loop {
            tokio::select! {
                request = requests.recv() => match request {
                    Some(Request::Fresh(bearer, done)) => {
                        self.write(&bearer.file, &bearer.identity).await;
                        self.bearers.insert(bearer.file, bearer.identity);
                        let _ = done.send(());
                    }
                    Some(Request::Forget(file)) => {
                        self.bearers.remove(&file);
                    }
                    None => return,
                },
                Ok(()) = ca_changed.changed() => look = Instant::now(),
                () = sleep_until(look) => look = Instant::now() + self.look().await,
                _ = refresh.tick() => self.write_all().await,
            }
        }
    }

    /// Asks the CA for its boot id; returns when to look again.
    async fn look(&mut self) -> Duration {
        let Ok(Ok(now)) = timeout(ANSWER, self.ca.get::<Epoch>("/v1/status")).await else {
            return LOOK_AWAY;
        };
        let other = self.epoch.as_ref() != Some(&now);
        self.epoch = Some(now);
        if other || self.owing {
            self.write_all().await;
        }
        LOOK_UP
    }

    async fn write_all(&mut self) {
        self.owing = false;
        for (file, identity) in self.bearers.clone() {
            self.write(&file, &identity).await;
            if self.owing {
                return; // the CA does not answer: the rest would wait for the same silence
            }
        }
    }

    async fn write(&mut self, file: &Path, identity: &SpiffeId) {
        #[derive(Deserialize)]
        struct Token {
            token: String,
        }
        let body = json!({ "identity": identity.to_string(), "lifeSeconds": LIFE.as_secs() });
        let token = match timeout(ANSWER, self.ca.post::<Token>("/v1/tokens", &body)).await {
            Ok(Ok(answer)) => answer.token,
            Ok(Err(why)) => {
                debug!(%identity, %why, "no token yet");
                self.owing = true;
                return;
            }
            Err(_) => {
                self.owing = true;
                return;
            }
        };
        if let Err(e) = files::write_atomic(file, token.as_bytes(), PRIVATE) {
            warn!(%identity, file = %file.display(), "token file not written: {e}");
            self.owing = true;
        }
    }
}

/// Design 3: the twin of a projected token.
const REFRESH: Duration = Duration::from_secs(30);
/// Two refreshes and the one that fails.
const LIFE: Duration = Duration::from_secs(90);
/// A local CA answers in a millisecond; a paused one must not hold up those who wait.
const ANSWER: Duration = Duration::from_millis(500);
/// A start without a token only costs the child a few quick tries.
const FRESH: Duration = Duration::from_secs(1);
/// Pause between looks at the CA while it answers, and while it does not.
const LOOK_UP: Duration = Duration::from_secs(1);
const LOOK_AWAY: Duration = Duration::from_millis(20);
/// Children that ask at the same time; more of them wait in line.
const REQUESTS: usize = 64;
