//! The Helm chart is the same installation: what the real helm makes of it, and what it installs.

use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use signet_cluster::{
    disturb,
    images::SIGNET_DEV,
    network::{PODS, SERVICES},
};

use crate::installed::{Mesh, settings};

fn chart() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../deploy/helm")
}

/// `--set` of what [`settings`] says to `signet install`.
fn values(dev: bool) -> Vec<String> {
    let ranges: Vec<&str> = PODS.iter().chain(&SERVICES).copied().collect();
    let values =
        [format!("image={SIGNET_DEV}"), format!("meshRanges={{{}}}", ranges.join(",")), format!("dev={dev}")];
    values.into_iter().flat_map(|value| ["--set".to_owned(), value]).collect()
}

/// The chart's, and those of `signet install`.
const SETTINGS: [(&[&str], &[&str]); 6] = [
    (&[], &[]),
    (&["dev=true"], &["--dev"]),
    (&["expose=hostport"], &["--expose", "hostport"]),
    (&["expose=none"], &["--expose", "none"]),
    (
        &["gatewayAutoscaled=true", "edgeIssuer=local", "edgeSuffixes={home.example,lan.example}"],
        &[
            "--gateway-autoscaled",
            "--edge-issuer",
            "local",
            "--edge-suffix",
            "home.example",
            "--edge-suffix",
            "lan.example",
        ],
    ),
    (
        &[
            "acme.email=you@acme.test",
            "acme.directory=https://ca.acme.test/dir",
            "acme.profile=shortlived",
            "acme.resolvers={192.0.2.53:53}",
        ],
        &[
            "--acme-resolver",
            "192.0.2.53:53",
            "--acme-email",
            "you@acme.test",
            "--acme-directory",
            "https://ca.acme.test/dir",
            "--acme-profile",
            "shortlived",
        ],
    ),
];

/// By kind and name.
fn objects(yaml: &str) -> Result<Vec<Value>> {
    let mut objects: Vec<Value> = serde_saphyr::from_multiple(yaml).context("not YAML")?;
    objects.retain(|object| !object.is_null());
    objects.sort_by_key(|object| (object["kind"].to_string(), object["metadata"]["name"].to_string()));
    Ok(objects)
}

#[tokio::test]
async fn helm_template_is_what_signet_install_prints() -> Result<()> {
    disturb(async |namespace| {
        let mesh = Mesh::of(namespace);
        let chart = chart().display().to_string();
        for (set, options) in SETTINGS {
            let mut values = values(false);
            values.extend(set.iter().flat_map(|value| ["--set".to_owned(), (*value).to_owned()]));
            let values: Vec<&str> = values.iter().map(String::as_str).collect();
            let templated = mesh.helm(&[&["template", "signet", &chart], &values[..]].concat()).await?;
            let printed = mesh.signet(&[&["install"], &settings()[..], options].concat()).await?;
            assert_eq!(objects(&templated)?, objects(&printed)?, "{options:?}");
        }
        for wrong in [
            "meshRanges={}",
            "trustDomain=a b",
            "image=",
            "leafLife=1",
            "dev=yes",
            "unknown=1",
            "expose=nodeport",
            "edgeIssuer=letsencrypt",
            "acme.email=nobody",
            "acme.directory=http://ca.acme.test/dir",
            "acme.server=https://ca.acme.test/dir",
            "acme.profile=shortlived",
            "acme.staging=https://ca.acme.test/s",
            "acme.roots=hello",
            "acme.resolvers={dns.test}",
            "gateway.drainSecond=1",
            "gateway.workers=0",
        ] {
            let values = values(true);
            let values: Vec<&str> = values.iter().map(String::as_str).chain(["--set", wrong]).collect();
            let refused = mesh.helm(&[&["template", "signet", &chart], &values[..]].concat()).await;
            ensure!(refused.is_err(), "{wrong} is taken");
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn helm_installs_a_control_plane_that_becomes_ready_and_takes_it_away_again() -> Result<()> {
    disturb(async |namespace| {
        let mesh = Mesh::of(namespace);
        mesh.uninstall().await?;
        let chart = chart().display().to_string();
        let values = values(true);
        let values: Vec<&str> = values.iter().map(String::as_str).collect();
        let release = ["--namespace", &namespace.name];
        mesh.helm(&[&["install", "signet", &chart], &release[..], &values[..]].concat()).await?;
        let ready = mesh.available().await;
        let gone = mesh.helm(&[&["uninstall", "signet", "--wait"], &release[..]].concat()).await;
        let left = mesh.uninstall().await; // what the CA made outside of the chart's objects
        ready.and(gone.map(drop)).and(left)
    })
    .await
}
