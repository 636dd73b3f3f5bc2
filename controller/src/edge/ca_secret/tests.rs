//! Who makes the CA, who reads it, and what happens when it is broken, forbidden or deleted.

use serde_json::json;
use signet_core::drain::Drain;
use signet_lease::{
    clock,
    double::{Double, Fault},
};

use super::*;

const PATH: &str = "/api/v1/namespaces/signet-edge/secrets/signet-edge-ca";
const SECRETS: &str = "/api/v1/namespaces/signet-edge/secrets";

struct Replica {
    secret: CaSecret,
    lease: Arc<Lease>,
}

impl Replica {
    fn new(api: &Double, name: &str) -> Self {
        let lease = Lease::new(api.client(), PART, name.into(), clock::running(), clock::real());
        Self { secret: CaSecret::new(api.client(), &["home.example".parse().unwrap()]), lease }
    }

    async fn turn(&self) -> Result<String, String> {
        id(&self.secret.turn(&self.lease).await)
    }
}

fn id(known: &Known) -> Result<String, String> {
    match known {
        Known::Here(ca) => Ok(ca.id()),
        Known::Not(why) | Known::Unanswered(why) => Err(why.clone()),
    }
}

#[tokio::test]
async fn the_holder_of_the_lease_makes_it_once_and_all_read_it() {
    let api = Double::default();
    let (a, b) = (Replica::new(&api, "a"), Replica::new(&api, "b"));
    assert!(a.turn().await.unwrap_err().contains("the replica that holds the Lease makes it"));
    assert!(api.get(PATH).is_none());
    a.lease.turn().await.unwrap();
    let made = a.turn().await.unwrap();
    assert_eq!((a.turn().await, b.turn().await), (Ok(made.clone()), Ok(made)));
    let stored = api.get(PATH).unwrap();
    assert_eq!(
        (&stored["type"], stored["metadata"]["labels"].is_object()),
        (&json!("kubernetes.io/tls"), true)
    );
}

/// Two that think that they hold the Lease.
#[tokio::test]
async fn of_two_that_make_it_at_once_one_reads_the_others() {
    let api = Double::default();
    let (a, b) = (Replica::new(&api, "a"), Replica::new(&api, "b"));
    let made = id(&a.secret.make().await).unwrap();
    assert_eq!(id(&b.secret.make().await), Ok(made));
}

#[tokio::test]
async fn what_is_broken_or_forbidden_is_said_and_never_written_over() {
    let api = Double::default();
    let a = Replica::new(&api, "a");
    a.lease.turn().await.unwrap();
    api.fault("POST", SECRETS, Fault::Status(403));
    assert!(a.turn().await.unwrap_err().contains("cannot be made"));
    api.mend();
    api.fault("GET", PATH, Fault::Status(403));
    assert!(a.turn().await.unwrap_err().contains("may not be read"));
    api.mend();
    api.put(PATH, json!({"type": "kubernetes.io/tls", "data": {"tls.crt": "QQ==", "tls.key": "QQ=="}}));
    let why = a.turn().await.unwrap_err();
    assert!(why.contains("Secret signet-edge/signet-edge-ca") && why.contains("remove it"), "{why}");
    assert_eq!(api.get(PATH).unwrap()["data"]["tls.crt"], "QQ==");
    api.delete(PATH);
    a.turn().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn nobody_asks_for_it_where_nobody_wants_it() {
    let api = Double::default();
    let Replica { secret, lease } = Replica::new(&api, "a");
    let (running, drain) = (secret.clone(), Drain::new());
    drain.spawn(async move { running.run(&lease).await });
    sleep(Duration::from_secs(60)).await;
    assert_eq!(api.requests(), [""; 0]);
    secret.want(true);
    secret.first(true).await;
    assert!(matches!(secret.watch().borrow().as_deref(), Some(Known::Not(_))));
    assert_eq!(api.requests(), [format!("GET {PATH}")]);
}

/// Or an edge that starts anew would take every leaf away until it is asked again.
#[tokio::test(start_paused = true)]
async fn an_edge_that_starts_waits_while_the_api_server_does_not_say_whether_there_is_one() {
    let api = Double::default();
    let Replica { secret, lease } = Replica::new(&api, "a");
    lease.turn().await.unwrap();
    let made = id(&secret.make().await).unwrap();
    api.fault("GET", PATH, Fault::Status(503));
    let (running, drain) = (secret.clone(), Drain::new());
    drain.spawn(async move { running.run(&lease).await });
    secret.want(true);
    let mut watch = secret.watch();
    watch.wait_for(Option::is_some).await.unwrap();
    let mut first = Box::pin(secret.first(true));
    assert!(timeout(AGAIN * 2, &mut first).await.is_err(), "it did not wait");
    api.mend();
    first.await;
    assert_eq!(secret.watch().borrow().as_deref().map(id), Some(Ok(made)));
}
