//! Certificates of ACME authorities, which the core crate orders ([`signet_acme`]): what is asked for (`annotation`, `issuers`, `wanted`),
//! what is looked at before (`preflight`), how it is proven (`solver`, `challenge_secret`, `asked`), where it is kept (`secret_store`) and
//! known (`follow`, `records`), who orders (`run`), and what people see (`told`, `page`).

pub(crate) mod annotation;
mod args;
pub mod asked;
mod challenge_secret;
pub(crate) mod follow;
pub(crate) mod issuers;
pub(crate) mod page;
mod preflight;
pub(crate) mod records;
mod run;
mod secret_store;
mod solver;
pub(crate) mod told;
pub(crate) mod wanted;

use std::{collections::BTreeMap, sync::Arc};

use anyhow::Context as _;
use kube::Client;
use signet_acme::{
    dns::Dns01,
    steps::Hands,
    store::{Store as _, directory::DirectoryStore},
    transport::{Web, web_tls},
};
use signet_core::{drain::Drain, tls};
use signet_http::contract::challenge::Challenge;
use signet_lease::{Lease, clock};
use tokio::sync::watch;

pub use args::AcmeArgs;

use self::{
    asked::Gateway,
    challenge_secret::ChallengeSecret,
    follow::Followed,
    page::Page,
    run::{Desk, Orders},
    secret_store::SecretStore,
    solver::{ByCluster, ByDirectory, EdgeSolver},
};
use super::{metrics::AcmeMetrics, snapshot::EdgeSnapshot};

/// What orders are made with, wherever they are stored.
pub(crate) struct Acme<'a> {
    pub(crate) args: &'a AcmeArgs,
    pub(crate) followed: Followed,
    pub(crate) snapshots: watch::Receiver<Arc<EdgeSnapshot>>,
    pub(crate) metrics: AcmeMetrics,
    /// Ports that gateways listen on.
    pub(crate) http: u16,
    pub(crate) https: u16,
}

/// Where certificates are kept on one machine, and what is there: known before gateways are told anything, so that a start takes nothing away.
pub(crate) async fn directory(
    args: &AcmeArgs,
    followed: &Followed,
) -> anyhow::Result<Option<DirectoryStore>> {
    let Some(place) = &args.acme_dir else { return Ok(None) };
    let named = || format!("--acme-dir {}", place.display());
    let store = DirectoryStore::open(place).with_context(named)?;
    followed.stored(store.load().await.with_context(named)?);
    Ok(Some(store))
}

impl Acme<'_> {
    /// Orders while the Lease is held.
    pub(crate) fn in_cluster(self, client: Client, lease: &Arc<Lease>, drain: &Drain) -> Page {
        let told = ByCluster {
            secret: ChallengeSecret::new(client.clone()),
            snapshots: self.snapshots.clone(),
            http: self.http,
            https: self.https,
        };
        self.start(SecretStore::new(client), told, Some(Arc::clone(lease)), drain)
    }

    /// Orders all the time, where there is a directory for it: the directory's lock says that nobody else does.
    pub(crate) fn in_directory(self, store: Option<DirectoryStore>, drain: &Drain) -> Page {
        let Some(store) = store else {
            return Page { followed: self.followed, desk: Desk::default(), snapshots: self.snapshots };
        };
        let gateway = Gateway { address: self.args.acme_gateway, http: self.http, https: self.https };
        let told = ByDirectory { challenges: self.followed.challenges.clone(), gateway };
        let followed = self.followed.clone();
        let page = self.start(store, told, None, drain);
        followed.driven(page.desk.driven.subscribe(), drain);
        page
    }

    fn start<S, T>(self, store: S, told: T, lease: Option<Arc<Lease>>, drain: &Drain) -> Page
    where
        S: signet_acme::store::Store + 'static,
        T: solver::Tell + 'static,
    {
        let provider = Arc::new(tls::default_provider());
        let lookups = self.args.lookups();
        if let Err(why) = &lookups {
            tracing::error!(why, "names are not looked at before an order, and DNS-01 is not possible");
        }
        let dns = lookups.clone().and_then(|lookups| Ok(Dns01::new(lookups, web_tls(&provider)?)));
        let solver = EdgeSolver { told, credentials: self.followed.credentials.subscribe(), dns };
        let web = Web::new(provider, clock::real());
        let desk = Desk::default();
        let page =
            Page { followed: self.followed.clone(), desk: desk.clone(), snapshots: self.snapshots.clone() };
        let orders = Orders {
            hands: Hands { store, solver, web },
            snapshots: self.snapshots,
            followed: self.followed,
            lookups: lookups.ok(),
            desk,
            metrics: self.metrics,
        };
        orders.start(lease, drain);
        page
    }
}

/// What gateways are to answer, by [`Challenge::name`]. Several tokens of a host stand beside each other; of TLS-ALPN-01 a host has
/// one: the newest.
pub(crate) type Challenges = BTreeMap<String, Arc<Challenge>>;

#[cfg(test)]
mod tests {
    use signet_core::{
        drain::Drain,
        identity::{self, TrustDomain},
        telemetry, tls,
    };
    use signet_http::model::Http01;
    use tokio::sync::watch;

    use super::*;
    use crate::{
        edge::{
            follow::{self, Builder},
            metrics::EdgeMetrics,
            translate::tests::options,
        },
        index::Mesh,
        metrics::Metrics,
        resources::Type,
    };

    #[tokio::test]
    async fn what_is_to_be_answered_is_told_to_gateways_at_once_and_taken_back() {
        let root = std::env::temp_dir().join(format!("signet-edge-acme-{}", std::process::id()));
        std::fs::create_dir_all(&root).unwrap();
        let domain = TrustDomain::new("cluster.local").unwrap();
        let (drain, mut registry) = (Drain::new(), telemetry::Metrics::new());
        let challenges = watch::Sender::<Arc<Challenges>>::default();
        let builder = Builder {
            mesh: Mesh::new(domain.clone()),
            options: options(),
            suffixes: Vec::new(),
            gateway: identity::gateway(&domain),
            challenges: challenges.clone(),
            acme: watch::Sender::default(),
            provider: Arc::new(tls::default_provider()),
            metrics: Arc::new(Metrics::new(&mut registry)),
            edge_metrics: EdgeMetrics::new(&mut registry),
        };
        let mut followed = follow::directory(root.clone(), None, builder, &drain).await.unwrap();
        let mut told = async |wanted: Challenges| {
            challenges.send_replace(Arc::new(wanted));
            followed.snapshots.changed().await.unwrap();
            let snapshot = followed.snapshots.borrow_and_update().clone();
            snapshot.of(Type::Challenge).map(|(name, _)| name.to_string()).collect::<Vec<_>>()
        };
        let token = |token: &str| {
            let answer = Http01::new("a.example".parse().unwrap(), token, &format!("{token}.x")).unwrap();
            let challenge = Challenge::Http01(answer);
            (challenge.name(), Arc::new(challenge))
        };
        let both = Challenges::from([token("one"), token("two")]);
        assert_eq!(told(both).await, ["http-01/a.example/one", "http-01/a.example/two"]);
        assert_eq!(told(Challenges::from([token("two")])).await, ["http-01/a.example/two"]);
        assert_eq!(told(Challenges::default()).await, [""; 0]);
        drain.run(std::time::Duration::ZERO).await;
        std::fs::remove_dir_all(root).unwrap();
    }
}
