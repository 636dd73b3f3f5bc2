//! Against a double of the API server, in virtual time.

use base64::Engine as _;
use rcgen::{CertificateParams, KeyPair};
use serde_json::json;
use signet_core::tls;
use signet_http::model::HostPattern;

use super::*;
use crate::{
    build::{Manifest, manifest},
    edge::known::Why,
    source::cluster::double::Double,
};

struct World {
    api: Double,
    follower: SecretFollower,
    known: watch::Receiver<Secrets>,
    _drain: Drain,
}

fn secret(namespace: &str, name: &str, host: &str) -> Manifest {
    let key = KeyPair::generate().unwrap();
    let chain = CertificateParams::new(vec![host.to_owned()]).unwrap().self_signed(&key).unwrap().pem();
    let text = |text: String| base64::engine::general_purpose::STANDARD.encode(text);
    manifest("v1", "Secret", name)
        .in_namespace(namespace)
        .with("/type", "kubernetes.io/tls")
        .with("/data", json!({"tls.crt": text(chain), "tls.key": text(key.serialize_pem())}))
}

fn named(all: &[(&str, &str)]) -> BTreeSet<Name> {
    all.iter().map(|(namespace, name)| ((*namespace).to_owned(), (*name).to_owned())).collect()
}

impl World {
    fn new() -> Self {
        let (api, drain) = (Double::default(), Drain::new());
        let follower = SecretFollower::new(api.client(), Arc::new(tls::default_provider()), &drain);
        Self { known: follower.watch(), api, follower, _drain: drain }
    }

    /// Whether a host is served with a Secret, and why not with its newest.
    fn state(&self, namespace: &str, name: &str, host: &str) -> (bool, Option<Why>) {
        let host = HostPattern::ingress(Some(host)).unwrap();
        let pick = self.known.borrow().pick(&(namespace.into(), name.into()), &host, 1_800_000_000);
        (pick.certificate.is_some(), pick.why)
    }

    async fn until(&mut self, limit: Duration, holds: impl Fn(&Self) -> bool) {
        let waiting = async {
            while !holds(self) {
                self.known.changed().await.unwrap();
            }
        };
        timeout(limit, waiting).await.expect("it becomes so in time");
    }
}

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test(start_paused = true)]
async fn a_secret_is_read_when_an_ingress_names_it_and_its_renewal_is_seen_at_once() {
    let mut world = World::new();
    world.api.set(secret("shop", "web", "a.example"));
    world.api.set(secret("shop", "other", "b.example"));
    world.follower.want(&named(&[("shop", "web")]));
    world.follower.first(&named(&[("shop", "web")])).await;
    assert_eq!(world.state("shop", "web", "a.example"), (true, None));
    assert_eq!(world.state("shop", "other", "b.example"), (false, Some(Why::NotRead)), "nobody named it");
    world.api.set(secret("shop", "web", "c.example"));
    world.until(SECOND, |world| world.state("shop", "web", "c.example").0).await;
    world.follower.want(&named(&[("shop", "web"), ("shop", "other")]));
    world.until(SECOND, |world| world.state("shop", "other", "b.example").0).await;
    world.follower.want(&named(&[("shop", "other")]));
    assert_eq!(world.state("shop", "web", "c.example"), (false, Some(Why::NotRead)), "forgotten");
}

#[tokio::test(start_paused = true)]
async fn one_that_is_not_there_is_told_from_one_that_may_not_be_read_and_both_are_seen_when_that_changes() {
    let mut world = World::new();
    let wanted = named(&[("shop", "web"), ("shop", "late")]);
    world.api.set(secret("shop", "web", "a.example"));
    world.api.refuse(&["secrets"], 403);
    world.follower.want(&wanted);
    world.follower.first(&wanted).await;
    assert_eq!(world.state("shop", "web", "a.example").1, Some(Why::Trouble(Trouble::NoRight)));
    world.api.refuse(&["secrets"], 0); // signet allow shop | kubectl apply -f -
    world.until(TROUBLED * 2, |world| world.state("shop", "web", "a.example").0).await;
    let absent = Some(Why::Trouble(Trouble::Absent));
    world.until(SECOND, |world| world.state("shop", "late", "b.example").1 == absent).await;
    world.api.set(secret("shop", "late", "b.example"));
    world.until(SECOND, |world| world.state("shop", "late", "b.example").0).await;
    world.api.delete(&secret("shop", "late", "b.example"));
    world.until(SECOND, |world| world.state("shop", "late", "b.example") == (true, absent.clone())).await;
}

#[tokio::test(start_paused = true)]
async fn with_the_right_to_read_alone_it_is_looked_at() {
    let mut world = World::new();
    let wanted = named(&[("shop", "web")]);
    world.api.set(secret("shop", "web", "a.example"));
    world.api.refuse(&["watch of secrets"], 403);
    world.follower.want(&wanted);
    world.follower.first(&wanted).await;
    assert_eq!(world.state("shop", "web", "a.example"), (true, None));
    world.api.set(secret("shop", "web", "b.example"));
    world.until(POLL * 2, |world| world.state("shop", "web", "b.example").0).await;
}

#[tokio::test(start_paused = true)]
async fn an_api_server_that_is_away_takes_no_certificate_away() {
    let mut world = World::new();
    let wanted = named(&[("shop", "web")]);
    world.api.set(secret("shop", "web", "a.example"));
    world.follower.want(&wanted);
    world.follower.first(&wanted).await;
    world.api.refuse(&["secrets"], 500);
    world.api.cut();
    world.until(REREAD * 2, |world| world.state("shop", "web", "a.example").1.is_some()).await;
    let (served, why) = world.state("shop", "web", "a.example");
    assert!(served && matches!(why, Some(Why::Trouble(Trouble::Unanswered(_)))));
    world.api.refuse(&["secrets"], 0);
    world.until(TROUBLED * 3, |world| world.state("shop", "web", "a.example").1.is_none()).await;
}

#[tokio::test(start_paused = true)]
async fn at_the_start_nobody_waits_for_ever() {
    let world = World::new();
    let wanted = named(&[("shop", "web")]);
    world.api.hang("secrets", true);
    world.follower.want(&wanted);
    let began = Instant::now();
    world.follower.first(&wanted).await;
    assert_eq!(began.elapsed(), FIRST);
}
