//! A CA that is hard to please: it refuses nine of ten nonces, its certificates last a minute, of each it says at once that it should be
//! renewed now, and one host cannot be proven.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use tokio::time::sleep;

use super::{
    ASKS, Outside, Setting,
    between::{Between, PORT, Trick},
    certified, ingress, leaf, list, of, opens, why,
};
use crate::{edge::web::Web, installed::Mesh};

#[tokio::test]
async fn with_nine_of_ten_nonces_refused_and_certificates_of_a_minute_no_request_fails_and_a_host_that_fails_is_tried_within_limits()
-> Result<()> {
    let setting = Setting {
        nonces: 90,
        life: 60,
        port: PORT,
        options: &["--acme-profile", "story"],
        ..Setting::default()
    };
    certified(setting, async |mesh, outside, addresses| {
        let team = &mesh.namespace;
        let between = Between::start(&team.cluster, outside).await?;
        between.play(Trick::Now);
        team.apply(&ingress("sick", SICK, ASKS)).await?;
        team.apply(&ingress("good", GOOD, ASKS)).await?;
        let web = outside.web(mesh, *addresses.first().context("an address")?).await?;
        opens(team, &web, GOOD).await?;
        let renewed = Box::pin(under_load(&web)).await?;
        ensure!((LEAST..=MOST).contains(&renewed), "{renewed} certificates in {LASTS:?}");
        sick_is_told(mesh, outside, addresses).await
    })
    .await
}

/// Asks all the time, over HTTPS and in plaintext; each connection is a handshake of its own. How many certificates it met.
async fn under_load(web: &Web) -> Result<usize> {
    let (begun, mut leaves, mut asked) = (Instant::now(), BTreeSet::new(), 0);
    while begun.elapsed() < LASTS {
        leaves.insert(leaf(web, GOOD).await.with_context(|| format!("handshake {asked}"))?);
        super::answered(web, &format!("https://{GOOD}/"))
            .await
            .with_context(|| format!("request {asked}"))?;
        for host in [GOOD, SICK] {
            let plain = web.get(&format!("http://{host}/")).await?;
            let want = if host == GOOD { 308 } else { 503 };
            ensure!(plain.status == want, "http://{host}/ in plaintext: {plain:?}");
        }
        asked += 1;
        sleep(EVERY).await; // a rate, not a wait for something
    }
    eprintln!("{asked} requests met {} certificates", leaves.len());
    Ok(leaves.len())
}

/// At most four looks, of which each is in Pebble's log; and the CA's own words reach who asks.
async fn sick_is_told(mesh: &Mesh, outside: &Outside, addresses: &[IpAddr]) -> Result<()> {
    let looks = outside.count("set INVALID by completed challenge")?;
    ensure!((1..=4).contains(&looks), "{looks} looks at a host that fails");
    let (status, said) = why(mesh, SICK).await?;
    let edge = addresses.first().context("an address")?.to_string();
    for words in ["connection", "the CA reached nobody: port 80", &edge, "To fix:"] {
        ensure!(said.contains(words), "{words} is not in {said}");
    }
    ensure!(status == 1, "{status}: {said}");
    let (status, certificates) = list(mesh).await?;
    let (sick, good) = (of(&certificates, SICK)?, of(&certificates, GOOD)?);
    ensure!(status == 1 && sick["served"] == false && good["served"] == true, "{status}: {certificates:#?}");
    let problem = &sick["failures"][0]["problem"];
    ensure!(problem.to_string().contains("connection"), "{sick:#}");
    Ok(())
}

const GOOD: &str = "good.acme.test";
/// Its address is a node's, where nobody listens.
const SICK: &str = "sick.acme.test";
const LASTS: Duration = Duration::from_secs(150);
const EVERY: Duration = Duration::from_millis(100);
/// Each is renewed before half of its minute is over; a step of an order may take ten calls here.
const LEAST: usize = 4;
/// The CA is heard once in a quarter of a life (docs/acme.md).
const MOST: usize = 11;
