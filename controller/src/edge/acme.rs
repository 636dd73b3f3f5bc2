//! What edge does for certificates of an ACME authority.

pub mod asked;

use std::{collections::BTreeMap, sync::Arc};

use signet_http::contract::challenge::Challenge;

/// What gateways are to answer, by [`Challenge::name`]. Several tokens of a host stand beside each other; of TLS-ALPN-01 a host has
/// one, so that its second order waits for the first.
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
