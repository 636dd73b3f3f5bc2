//! The one writer of snapshots: a source's objects -> index -> snapshot, for as long as the process lives.

use std::{collections::BTreeSet, path::PathBuf, sync::Arc};

use signet_core::{drain::Drain, trust::Trust};
use tokio::{sync::watch, time::sleep};
use tracing::{error, warn};

use crate::{
    answers::Manifests,
    index::{Index, Mesh},
    metrics::Metrics,
    report::Reports,
    resources::Snapshot,
    source::{
        ManifestError, Object,
        cluster::Cluster,
        directory::{Directory, POLL},
    },
};

/// What everybody else reads.
pub(crate) struct Followed {
    pub(crate) snapshots: watch::Receiver<Arc<Snapshot>>,
    pub(crate) manifests: watch::Receiver<Arc<Manifests>>,
}

/// What an index is built with, and what changes with it.
pub(crate) struct Builder {
    pub(crate) mesh: Mesh,
    pub(crate) trust: Arc<Trust>,
    pub(crate) reports: Arc<Reports>,
    pub(crate) metrics: Arc<Metrics>,
}

/// Reads the directory once, then follows it and the trust bundle until `drain` stops.
pub(crate) async fn directory(root: PathBuf, builder: Builder, drain: &Drain) -> anyhow::Result<Followed> {
    let (mut directory, first) = Directory::new(root).first().await?;
    let mut writer = Writer::new(builder);
    let followed = writer.first(first.files, &first.objects, first.errors);
    let stop = drain.clone();
    drain.spawn(async move {
        let mut bundle = writer.builder.trust.watch();
        loop {
            tokio::select! {
                biased;
                () = stop.stopping() => return,
                _ = bundle.changed() => writer.bundle(),
                () = sleep(POLL) => {
                    let Ok((read, contents)) = directory.next().await else {
                        error!("reading the manifests panicked; the controller goes on with what it knows, restart it");
                        return;
                    };
                    directory = read;
                    if let Some(contents) = contents {
                        writer.next(contents.files, &contents.objects, contents.errors);
                    }
                }
            }
        }
    });
    Ok(followed)
}

/// Waits until everything in the cluster is known, then follows it and the trust bundle until `drain` stops.
pub(crate) async fn cluster(mut cluster: Cluster, builder: Builder, drain: &Drain) -> Followed {
    cluster.changed().await;
    let mut writer = Writer::new(builder);
    let followed = writer.first(0, &cluster.objects(), Vec::new());
    let stop = drain.clone();
    drain.spawn(async move {
        let mut bundle = writer.builder.trust.watch();
        loop {
            tokio::select! {
                biased;
                () = stop.stopping() => return,
                _ = bundle.changed() => writer.bundle(),
                () = cluster.changed() => writer.next(0, &cluster.objects(), Vec::new()),
            }
        }
    });
    followed
}

struct Writer {
    builder: Builder,
    snapshots: watch::Sender<Arc<Snapshot>>,
    manifests: watch::Sender<Arc<Manifests>>,
    /// What was logged already.
    errors: BTreeSet<ManifestError>,
}

impl Writer {
    fn new(builder: Builder) -> Self {
        let nothing = Arc::new(Index::build(&builder.mesh, &[]));
        Self {
            snapshots: watch::Sender::new(Arc::new(Snapshot::new(nothing, None))),
            manifests: watch::Sender::default(),
            errors: BTreeSet::new(),
            builder,
        }
    }

    /// Nobody sees what was before it.
    fn first(&mut self, files: usize, objects: &[Arc<Object>], errors: Vec<ManifestError>) -> Followed {
        self.next(files, objects, errors);
        Followed { snapshots: self.snapshots.subscribe(), manifests: self.manifests.subscribe() }
    }

    fn next(&mut self, files: usize, objects: &[Arc<Object>], mut errors: Vec<ManifestError>) {
        let Builder { trust, reports, metrics, .. } = &self.builder;
        let before = Arc::clone(&self.snapshots.borrow().index);
        let index = before.build_next(objects);
        drop(before);
        errors.extend(index.errors.iter().cloned());
        errors.sort();
        for error in errors.iter().filter(|error| !self.errors.contains(error)) {
            warn!("{error}");
        }
        self.errors = errors.iter().cloned().collect();
        metrics.indexes.inc();
        metrics.manifest_errors.set(i64::try_from(errors.len()).unwrap_or(i64::MAX));
        metrics.objects.set(i64::try_from(index.objects).unwrap_or(i64::MAX));
        reports.retain(|pod| pod.split_once('/').is_some_and(|(ns, pod)| index.pod(ns, pod).is_some()));
        self.manifests.send_replace(Arc::new(Manifests { files, objects: index.objects, errors }));
        self.snapshots.send_replace(Arc::new(Snapshot::new(Arc::new(index), trust.bundle())));
    }

    fn bundle(&self) {
        let bundle = self.builder.trust.bundle();
        self.snapshots.send_modify(|snapshot| *snapshot = Arc::new(snapshot.with_bundle(bundle)));
    }
}
