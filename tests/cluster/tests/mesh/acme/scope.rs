//! Who gets a certificate at all: DNS credentials are for the zones and namespaces that they name, and a host's certificate is for the
//! namespace that owns it. Whoever may not have one costs no order.

use std::time::Duration;

use anyhow::{Result, ensure};
use k8s_openapi::api::{core::v1::Event, networking::v1::Ingress};
use kube::api::ListParams;
use signet_cluster::Namespace;

use super::{ASKS, Outside, Setting, app, certified, ingress, list, of, opens, why, zone};
use crate::{edge::addresses as published, installed::Mesh};

#[tokio::test]
async fn dns_credentials_serve_no_name_and_no_namespace_that_they_do_not_say_and_nothing_is_ordered_for_them()
-> Result<()> {
    certified(Setting::default(), async |mesh, outside, addresses| {
        let team = &mesh.namespace;
        zone(mesh, &[&team.name]).await?;
        let web = outside.web(mesh, addresses[0]).await?;
        team.apply(&ingress("own", "*.own.acme.test", BY_DNS)).await?;
        opens(team, &web, "a.own.acme.test").await?;
        let before = outside.orders()?;

        let others = Namespace::create(&team.cluster, "others").await?;
        app(&others).await?;
        others.apply(&ingress("wild", "*.others.acme.test", BY_DNS)).await?;
        team.apply(&ingress("abroad", "*.abroad.test", BY_DNS)).await?;
        for (namespace, name, host, words) in [
            (&others, "wild", "*.others.acme.test", "signet-edge/dns-acme-test"),
            (team, "abroad", "*.abroad.test", "signet.dev/zones"),
        ] {
            let told = async || is_told(namespace, name, "NoCertificate", words).await;
            namespace.within(LONG).eventually("an Event that says why", told).await?;
            let (status, said) = why(mesh, host).await?;
            ensure!(status == 1 && said.contains(words), "{status}: {said}");
        }
        // One more of its own: by then the others had their turn.
        team.apply(&ingress("more", "*.more.acme.test", BY_DNS)).await?;
        opens(team, &web, "a.more.acme.test").await?;
        let after = outside.orders()?;
        ensure!(after == (before.0 + 1, before.1 + 1), "orders and certificates: {before:?}, then {after:?}");
        others.delete().await
    })
    .await
}

#[tokio::test]
async fn a_namespace_that_does_not_own_a_host_gets_no_certificate_for_it_by_any_challenge() -> Result<()> {
    certified(Setting::default(), async |mesh, outside, addresses| {
        let owner = &mesh.namespace;
        let thief = Namespace::create(&owner.cluster, "thief").await?;
        zone(mesh, &[&owner.name, &thief.name]).await?;
        app(&thief).await?;
        let web = outside.web(mesh, addresses[0]).await?;
        owner.apply(&ingress("shop", HOST, ASKS)).await?;
        opens(owner, &web, HOST).await?;
        let before = outside.orders()?;

        // By each challenge, with the challenge's path, and with the host among others of the thief's own.
        for (name, annotations) in [
            ("http", "kubernetes.io/tls-acme: \"true\", signet.dev/acme-challenge: http-01"),
            ("alpn", "kubernetes.io/tls-acme: \"true\", signet.dev/acme-challenge: tls-alpn-01"),
            ("dns", BY_DNS),
        ] {
            thief.apply(&ingress(name, HOST, annotations)).await?;
        }
        let path = ingress("path", HOST, ASKS).replace("path: /,", "path: /.well-known/acme-challenge/,");
        thief.apply(&path).await?;
        let both = ingress("both", "thief.acme.test", ASKS)
            .replace("hosts: [\"thief.acme.test\"]", &format!("hosts: [\"thief.acme.test\", {HOST}]"));
        thief.apply(&both).await?;
        for name in ["http", "alpn", "dns", "path"] {
            let told = async || is_told(&thief, name, "HostTaken", HOST).await;
            thief.within(LONG).eventually("the thief to be told", told).await?;
            let ingress = thief.api::<Ingress>().get(name).await?;
            ensure!(published(&ingress).is_empty(), "{name} has an address in its status");
        }
        opens(&thief, &web, "thief.acme.test").await?; // its own host, alone
        nothing_is_stolen(mesh, outside, &thief, before).await?;
        thief.delete().await
    })
    .await
}

async fn nothing_is_stolen(
    mesh: &Mesh,
    outside: &Outside,
    thief: &Namespace,
    before: (usize, usize),
) -> Result<()> {
    let (_, certificates) = list(mesh).await?;
    let of_host = of(&certificates, HOST)?;
    ensure!(of_host["namespace"] == mesh.namespace.name.as_str(), "{of_host:#}");
    let stolen = certificates.iter().filter(|one| one["namespace"] == thief.name.as_str());
    for one in stolen {
        ensure!(one["names"] == serde_json::json!(["thief.acme.test"]), "{one:#}");
    }
    let after = outside.orders()?;
    ensure!(after == (before.0 + 1, before.1 + 1), "orders and certificates: {before:?}, then {after:?}");
    let (status, said) = why(mesh, HOST).await?;
    let owner = format!("namespace {}:", mesh.namespace.name);
    ensure!(status == 0 && said.contains(&owner) && said.contains(&format!("{}/http", thief.name)), "{said}");
    Ok(())
}

/// An Event of the Ingress, with this reason, has these words.
async fn is_told(namespace: &Namespace, ingress: &str, reason: &str, words: &str) -> Result<()> {
    let events = namespace.api::<Event>().list(&ListParams::default()).await?;
    let told = events.items.iter().any(|event| {
        event.involved_object.name.as_deref() == Some(ingress)
            && event.reason.as_deref() == Some(reason)
            && event.message.as_deref().is_some_and(|message| message.contains(words))
    });
    ensure!(told, "no Event {reason} of {ingress} with {words} in {:#?}", events.items);
    Ok(())
}

const HOST: &str = "shop.acme.test";
const BY_DNS: &str = "kubernetes.io/tls-acme: \"true\", signet.dev/acme-challenge: dns-01";
/// Events come once something was wrong for 10 s.
const LONG: Duration = Duration::from_secs(90);
