//! A CA that does something else than certify: whatever it answers, the old certificate stays, `signet cert why` says what came, and once
//! it is honest again the next certificate arrives.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::{
    ASKS, Setting, answered,
    between::{Between, PORT, Trick},
    certified, ingress, leaf, opens, why,
};
use crate::{edge::web::Web, installed::Mesh};

#[tokio::test]
async fn whatever_the_ca_answers_the_old_certificate_is_served_why_says_what_came_and_it_comes_to_itself()
-> Result<()> {
    let setting = Setting { nonces: 5, port: PORT, ..Setting::default() };
    certified(setting, async |mesh, outside, addresses| {
        let between = Between::start(&mesh.namespace.cluster, outside).await?;
        mesh.namespace.apply(&ingress("held", HOST, ASKS)).await?;
        let web = outside.web(mesh, *addresses.first().context("an address")?).await?;
        opens(&mesh.namespace, &web, HOST).await?;
        for (trick, words) in TRICKS {
            Box::pin(one(mesh, &web, &between, trick, words)).await.with_context(|| format!("{trick:?}"))?;
        }
        Ok(())
    })
    .await
}

async fn one(mesh: &Mesh, web: &Web, between: &Between, trick: Trick, words: &str) -> Result<()> {
    let held = leaf(web, HOST).await?;
    between.play(trick);
    let (status, said) = renew(mesh).await?;
    ensure!(status == 0, "{status}: {said}");
    let told = async || {
        ensure!(leaf(web, HOST).await? == held, "another certificate is served");
        answered(web, &format!("https://{HOST}/")).await?;
        let (_, said) = why(mesh, HOST).await?;
        ensure!(said.contains(words), "{words} is not in {said}");
        Ok(())
    };
    mesh.namespace.within(TOLD).eventually("cert why to say what the CA did", told).await?;
    between.play(Trick::None);
    let honest = async || {
        renew(mesh).await?; // refused while an order is under way
        ensure!(leaf(web, HOST).await? != held, "the old one is still served");
        answered(web, &format!("https://{HOST}/")).await
    };
    mesh.namespace.within(TOLD).eventually("the next certificate", honest).await
}

async fn renew(mesh: &Mesh) -> Result<(i32, String)> {
    mesh.signet_said(&["cert", "renew", HOST], "").await
}

const HOST: &str = "held.acme.test";
/// What it does, and what is said of it.
const TRICKS: [(Trick, &str); 7] = [
    (Trick::TooMany, "too many orders, says the story"),
    (Trick::Broken, "the database is down, says the story"),
    (Trick::Truncated, "not what RFC 8555 says"),
    (Trick::WrongKey, "for another key than the one that was asked for"),
    (Trick::WrongName, "asked for: held.acme.test"),
    (Trick::TenMegabytes, "longer than 131072 bytes"),
    (Trick::Hangs, "did not answer within 60 s"),
];
/// A call may last a minute, and is made again 5, 15, 45 s later; a new certificate is under way for seconds.
const TOLD: Duration = Duration::from_secs(180);
