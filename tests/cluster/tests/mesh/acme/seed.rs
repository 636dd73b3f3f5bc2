//! The scenario that Signet began with: a team adds two annotations and a tls section, and its hosts open with a lock. As it was written in
//! 2019, and as it is today.

use std::net::IpAddr;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::{core::v1::Secret, networking::v1::Ingress};
use kube::{ResourceExt as _, api::ListParams};
use serde_json::Value;

use super::{Outside, Setting, answered, certified, leaf, list, of, opens, why, zone};
use crate::{edge::web::Web, installed::Mesh};

const THEN: &str = include_str!("2019.yaml");
const NOW: &str = include_str!("today.yaml");
/// What the operator of a cluster does that had ingress-nginx before.
const NGINX: &str = "
apiVersion: networking.k8s.io/v1
kind: IngressClass
metadata: {name: nginx}
spec: {controller: signet.dev/gateway}
";

#[tokio::test]
async fn ingresses_of_2019_and_of_today_get_their_certificates_one_of_a_wildcard_and_one_by_tls_alpn_01()
-> Result<()> {
    certified(Setting::default(), async |mesh, outside, addresses| {
        zone(mesh, &[&mesh.namespace.name]).await?;
        mesh.namespace.apply(NGINX).await?;
        for (year, manifests) in [("then", THEN), ("now", NOW)] {
            mesh.namespace.apply(manifests).await?;
            for address in addresses {
                Box::pin(hosts_open(mesh, &outside.web(mesh, *address).await?, year))
                    .await
                    .with_context(|| format!("hosts of {year} at {address}"))?;
            }
        }
        all_is_told(mesh).await?;
        ensure!(outside.orders()? == (6, 6), "orders and certificates: {:?}", outside.orders()?);
        nothing_is_in_the_teams_namespace(mesh).await?;
        Box::pin(one_is_renewed(mesh, outside, addresses)).await
    })
    .await
}

async fn hosts_open(mesh: &Mesh, web: &Web, year: &str) -> Result<()> {
    for host in ["blog", "www.blog", "lab", "alice.files", "bob.files"] {
        let host = format!("{host}.{year}.acme.test");
        opens(&mesh.namespace, web, &host).await?;
        let plain = web.get(&format!("http://{host}/")).await?;
        ensure!(plain.status == 308, "http://{host}/: {plain:?}");
    }
    Ok(())
}

/// The commands say what there is, and that nothing is wrong.
async fn all_is_told(mesh: &Mesh) -> Result<()> {
    let (status, certificates) = list(mesh).await?;
    ensure!(certificates.len() == 6 && status == 0, "{status}: {certificates:#?}");
    for (host, challenge) in [
        ("blog.then.acme.test", "http-01"),
        ("lab.then.acme.test", "http-01"),
        ("*.files.then.acme.test", "dns-01"),
        ("blog.now.acme.test", "http-01"),
        ("lab.now.acme.test", "tls-alpn-01"),
        ("*.files.now.acme.test", "dns-01"),
    ] {
        let one = of(&certificates, host)?;
        let by_dns = challenge == "dns-01";
        ensure!(one["served"] == true && one["challenge"] == challenge, "{one:#}");
        ensure!((one["dnsProvider"] == "signet-edge/dns-acme-test") == by_dns, "{one:#}");
        ensure!(one["namespace"] == mesh.namespace.name.as_str() && one["staging"] == false, "{one:#}");
        let (status, said) = why(mesh, host).await?;
        let seen_by = if by_dns { "ns.acme.test" } else { "gateway-" };
        ensure!(status == 0 && said.contains(&format!("ok {seen_by}")), "{status}: {said}");
        ensure!(said.contains("nothing against an order"), "{said}");
    }
    let both = of(&certificates, "www.blog.now.acme.test")?;
    ensure!(both["names"].as_array().is_some_and(|names| names.len() == 2), "{both:#}");
    let (status, hosts) = mesh.signet_said(&["hosts", "-o", "json"], "").await?;
    let hosts: Value = serde_json::from_str(&hosts)?;
    let served =
        |host: &Value| host["certificate"]["served"] == true && host["certificate"]["acme"].is_string();
    let all = hosts["hosts"].as_array().context("a list")?;
    ensure!(status == 0 && all.len() == 8 && all.iter().all(served), "{status}: {hosts:#}");
    let ready = |ingress: &Ingress| {
        let conditions = ingress.status.as_ref().and_then(|status| status.load_balancer.as_ref());
        conditions.is_some_and(|status| status.ingress.is_some())
    };
    for ingress in mesh.namespace.api::<Ingress>().list(&ListParams::default()).await? {
        ensure!(ready(&ingress), "{} has no address", ingress.name_any());
    }
    Ok(())
}

/// Neither the Secrets that the tls sections name, nor any other key.
async fn nothing_is_in_the_teams_namespace(mesh: &Mesh) -> Result<()> {
    let secrets = mesh.namespace.api::<Secret>().list(&ListParams::default()).await?;
    let names: Vec<String> = secrets.iter().map(kube::ResourceExt::name_any).collect();
    ensure!(names.is_empty(), "{names:?}");
    Ok(())
}

/// By hand, while clients go on.
async fn one_is_renewed(mesh: &Mesh, outside: &Outside, addresses: &[IpAddr]) -> Result<()> {
    let host = "lab.now.acme.test";
    let web = outside.web(mesh, *addresses.first().context("an address")?).await?;
    let before = leaf(&web, host).await?;
    let (status, said) = mesh.signet_said(&["cert", "renew", host, "--wait", "--timeout", "2m"], "").await?;
    ensure!(status == 0 && said.contains("has a new certificate"), "{status}: {said}");
    let replaced = async || {
        ensure!(leaf(&web, host).await? != before, "the old one is still served");
        answered(&web, &format!("https://{host}/")).await
    };
    mesh.namespace.eventually("the new certificate to be served", replaced).await?;
    ensure!(outside.orders()? == (7, 7), "orders and certificates: {:?}", outside.orders()?);
    let (status, said) = mesh.signet_said(&["cert", "renew", "nobody.acme.test"], "").await?;
    ensure!(status == 1, "{status}: {said}");
    Ok(())
}
