//! The one writer of edge's snapshots: objects, Secrets, claims, the edge CA, challenges and the time -> what gateways are sent, for as long as the
//! process lives. Nobody is answered before all of them are known once; afterwards what is known stays.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use rustls::crypto::CryptoProvider;
use signet_core::{clock, drain::Drain, identity::SpiffeId};
use signet_edge_ca::Suffix;
use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval, sleep},
};
use tracing::{error, warn};

use super::{
    acme::{self, Challenges},
    ca_file,
    ca_secret::{self, CaSecret},
    claim_store::{ClaimStore, Stored},
    issuer::{self, LocalIssuer},
    known::{Secrets, Trouble},
    metrics::EdgeMetrics,
    objects::{Name, Objects},
    secrets::SecretFollower,
    snapshot::EdgeSnapshot,
    translate::{Options, State, Translated, translate, wanted},
};
use crate::{
    index::{Index, Mesh},
    metrics::Metrics,
    source::{
        ManifestError, Object,
        cluster::Cluster,
        directory::{Contents, Directory, POLL},
    },
};

/// What a snapshot is made with.
pub(crate) struct Builder {
    pub(crate) mesh: Mesh,
    pub(crate) options: Options,
    /// Of the edge CA, when it is made.
    pub(crate) suffixes: Vec<Suffix>,
    pub(crate) gateway: SpiffeId,
    /// What gateways are to answer to certificate authorities: whoever orders certificates, or follows who does, replaces it whole.
    pub(crate) challenges: watch::Sender<Arc<Challenges>>,
    /// Certificate authorities, and what is held of them.
    pub(crate) acme: watch::Sender<acme::records::Authorities>,
    pub(crate) provider: Arc<CryptoProvider>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) edge_metrics: EdgeMetrics,
}

/// What everybody else reads.
#[derive(Clone)]
pub(crate) struct Followed {
    pub(crate) snapshots: watch::Receiver<Arc<EdgeSnapshot>>,
    pub(crate) errors: watch::Receiver<Vec<ManifestError>>,
}

/// Where a cluster's state comes from.
pub(crate) struct Sources {
    pub(crate) cluster: Cluster,
    pub(crate) secrets: SecretFollower,
    pub(crate) claims: ClaimStore,
    pub(crate) ca: CaSecret,
    pub(crate) acme: acme::follow::Followed,
}

/// Reads the directory once, then follows it until `drain` stops. `ca`: where the edge CA is kept.
pub(crate) async fn directory(
    root: PathBuf,
    ca: Option<PathBuf>,
    builder: Builder,
    drain: &Drain,
) -> anyhow::Result<Followed> {
    let (mut directory, first) = Directory::new(root).with_secrets().first().await?;
    let (mut challenges, mut acme) = (builder.challenges.subscribe(), builder.acme.subscribe());
    let mut writer = Writer::new(builder, ca_file::PLACE);
    let mut secrets = Secrets::default();
    writer.contents(first, &mut secrets, ca.as_deref());
    let followed = writer.followed();
    let stop = drain.clone();
    drain.spawn(async move {
        let mut again = interval(AGAIN);
        again.set_missed_tick_behavior(MissedTickBehavior::Delay); // most of the time nobody asks
        loop {
            let due = writer.until_due();
            tokio::select! {
                biased;
                () = stop.stopping() => return,
                () = due => writer.next(None, &secrets),
                _ = again.tick(), if writer.lacks_ca() => writer.look_for_ca(&secrets, ca.as_deref()),
                _ = challenges.changed() => writer.next(None, &secrets),
                _ = acme.changed() => writer.next(None, &secrets),
                () = sleep(POLL) => {
                    let Ok((read, contents)) = directory.next().await else {
                        error!("reading the manifests panicked; edge goes on with what it knows, restart it");
                        return;
                    };
                    directory = read;
                    if let Some(contents) = contents {
                        writer.contents(contents, &mut secrets, ca.as_deref());
                    }
                }
            }
        }
    });
    Ok(followed)
}

/// Waits until everything in the cluster is known, Secrets, claims and the edge CA too, then follows it until `drain` stops.
pub(crate) async fn cluster(sources: Sources, builder: Builder, drain: &Drain) -> Followed {
    let Sources { mut cluster, secrets, claims, ca, acme } = sources;
    cluster.changed().await;
    let (mut challenges, mut authorities) = (builder.challenges.subscribe(), builder.acme.subscribe());
    let mut writer = Writer::new(builder, ca_secret::PLACE);
    let wanted = writer.objects(&cluster.objects(), Vec::new());
    secrets.want(&wanted);
    ca.want(writer.wants_ca());
    secrets.first(&wanted).await;
    ca.first(writer.wants_ca()).await;
    acme.first().await;
    let (mut known, mut stored, mut authority) = (secrets.watch(), claims.watch(), ca.watch());
    if let Some(known) = authority.borrow_and_update().as_deref() {
        writer.local.learn(known.clone(), clock::unix_now());
    }
    // An error is that nobody reads them any more: we are stopping.
    let read = stored.wait_for(Option::is_some).await.is_ok();
    if read {
        let secrets = known.borrow_and_update().clone(); // who reads them goes on meanwhile
        writer.next(stored.borrow_and_update().clone(), &secrets);
    }
    let followed = writer.followed();
    let stop = drain.clone();
    drain.spawn(async move {
        loop {
            let due = writer.until_due();
            tokio::select! {
                biased;
                () = stop.stopping() => return,
                () = cluster.changed() => {
                    let wanted = writer.objects(&cluster.objects(), Vec::new());
                    secrets.want(&wanted);
                    ca.want(writer.wants_ca());
                }
                _ = authority.changed() => {
                    if let Some(known) = authority.borrow_and_update().as_deref() {
                        writer.local.learn(known.clone(), clock::unix_now());
                    }
                }
                _ = known.changed() => {}
                _ = stored.changed() => {}
                _ = challenges.changed() => {}
                _ = authorities.changed() => {}
                () = due => {}
            }
            let secrets = known.borrow_and_update().clone(); // who reads them goes on meanwhile
            writer.next(stored.borrow_and_update().clone(), &secrets);
        }
    });
    followed
}

struct Writer {
    builder: Builder,
    index: Index,
    objects: Objects,
    local: LocalIssuer,
    due: Option<i64>,
    snapshots: watch::Sender<Arc<EdgeSnapshot>>,
    errors: watch::Sender<Vec<ManifestError>>,
}

impl Writer {
    /// `place`: where the edge CA is kept.
    fn new(builder: Builder, place: &'static str) -> Self {
        let nothing = EdgeSnapshot::new(builder.gateway.clone(), None, Translated::default());
        Self {
            index: Index::build(&builder.mesh, &[]),
            objects: Objects::default(),
            local: LocalIssuer::new(&builder.suffixes, place),
            due: None,
            snapshots: watch::Sender::new(Arc::new(nothing)),
            errors: watch::Sender::default(),
            builder,
        }
    }

    /// Nobody sees what was before it.
    fn followed(&self) -> Followed {
        Followed { snapshots: self.snapshots.subscribe(), errors: self.errors.subscribe() }
    }

    /// Of a directory: what it holds is all there is.
    fn contents(&mut self, contents: Contents, secrets: &mut Secrets, ca: Option<&Path>) {
        let wanted = self.objects(&contents.objects, contents.errors);
        secrets.retain(|name| wanted.contains(name));
        for name in &wanted {
            match self.objects.secrets.get(name) {
                Some(secret) => secrets.found(name, secret, &self.builder.provider),
                None => secrets.trouble(name, Trouble::Absent),
            };
        }
        if self.lacks_ca() {
            self.open_ca(ca);
        }
        self.next(None, secrets);
    }

    /// Whoever mends its file, or its directory's rights, changes no manifest.
    fn look_for_ca(&mut self, secrets: &Secrets, ca: Option<&Path>) {
        let fault = |writer: &Self| writer.local.fault(clock::unix_now());
        let before = fault(self);
        self.open_ca(ca);
        if fault(self) != before {
            self.next(None, secrets);
        }
    }

    /// Once in its life it is written, which takes milliseconds.
    fn open_ca(&mut self, ca: Option<&Path>) {
        let now = clock::unix_now();
        self.local.learn(ca_file::open(ca, &self.builder.suffixes, now), now);
    }

    fn lacks_ca(&self) -> bool {
        !self.local.is_here() && self.wants_ca()
    }

    /// Whether any Ingress wants the edge CA.
    fn wants_ca(&self) -> bool {
        !issuer::wanted(&self.objects, &self.builder.options).is_empty()
    }

    /// Takes objects in; the Secrets that they need come back.
    fn objects(&mut self, objects: &[Arc<Object>], mut errors: Vec<ManifestError>) -> BTreeSet<Name> {
        self.index = self.index.build_next(objects);
        self.objects = Objects::build(objects);
        errors.extend(self.index.errors.iter().chain(&self.objects.errors).cloned());
        errors.sort();
        errors.dedup();
        let metrics = &self.builder.metrics;
        metrics.indexes.inc();
        metrics.manifest_errors.set(i64::try_from(errors.len()).unwrap_or(i64::MAX));
        metrics.objects.set(i64::try_from(self.index.objects).unwrap_or(i64::MAX));
        let held = self.errors.send_replace(errors);
        for error in self.errors.borrow().iter().filter(|error| !held.contains(error)) {
            warn!("{error}");
        }
        wanted(&self.objects, &self.builder.options)
    }

    fn next(&mut self, stored: Option<Arc<Stored>>, secrets: &Secrets) {
        let (now, challenges) = (clock::unix_now(), self.builder.challenges.borrow().clone());
        let acme = self.builder.acme.borrow().clone(); // who writes it goes on meanwhile
        self.local.prepare(&issuer::wanted(&self.objects, &self.builder.options), now);
        let state = State {
            index: &self.index,
            objects: &self.objects,
            claims: stored.as_deref().map(|stored| &stored.claims),
            secrets,
            local: &self.local,
            acme: &acme,
            challenges: &challenges,
            options: &self.builder.options,
            now,
        };
        let translated = translate(&state);
        self.due = translated.due;
        self.builder.edge_metrics.count(&translated);
        let snapshot = EdgeSnapshot::new(self.builder.gateway.clone(), stored, translated);
        self.snapshots.send_replace(Arc::new(snapshot));
    }

    /// Until the same objects mean something else: a certificate begins, ends or is due, a claim is over.
    fn until_due(&self) -> impl Future<Output = ()> + use<> {
        let due = self.due.map(|due| due - clock::unix_now() + 1);
        async move {
            match due.map(u64::try_from) {
                Some(Ok(seconds)) => sleep(Duration::from_secs(seconds).min(LONGEST)).await,
                Some(Err(_)) => sleep(SOON).await,
                None => std::future::pending().await,
            }
        }
    }
}

/// Clocks are set; a timer of days would not notice.
const LONGEST: Duration = Duration::from_secs(600);
const SOON: Duration = Duration::from_secs(1);
/// Between two looks for an edge CA's file that cannot be used: somebody is mending it and waits.
const AGAIN: Duration = Duration::from_secs(2);

#[cfg(test)]
#[path = "follow/tests.rs"]
mod tests;
