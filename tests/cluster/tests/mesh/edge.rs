//! The public edge on the real cluster: what clients outside of it get at the address in an Ingress's status.

mod apps;
pub(crate) mod certificates;
mod conformance;
mod notebook;
mod scenarios;
pub(crate) mod web;

use std::{net::IpAddr, time::Duration};

use anyhow::{Context as _, Result};
use k8s_openapi::api::networking::v1::Ingress;
use signet_cluster::Namespace;

/// The addresses in an Ingress's status, once it has some: one of each family.
async fn published(namespace: &Namespace, ingress: &str) -> Result<Vec<IpAddr>> {
    let ingress = namespace
        .within(STARTS)
        .wait_for(ingress, "to have addresses", |ingress: &Ingress| !addresses(ingress).is_empty())
        .await?;
    let parsed = addresses(&ingress).into_iter().map(str::parse).collect::<Result<_, _>>();
    parsed.context("an address of our own cloud is no name")
}

/// In its status.
pub(crate) fn addresses(ingress: &Ingress) -> Vec<&str> {
    let status = ingress.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let all = status.and_then(|status| status.ingress.as_ref());
    all.into_iter().flatten().filter_map(|one| one.ip.as_deref()).collect()
}

/// Images are pulled, and certificates come first.
const STARTS: Duration = Duration::from_secs(180);
