//! The scenarios of the old Ingress conformance suite, against the address in each Ingress's status.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use k8s_openapi::api::networking::v1::Ingress;
use serde_json::{Value, json};
use signet_cluster::Namespace;

use super::{
    addresses,
    certificates::Authority,
    published,
    scenarios::{Asks, SCENARIOS, Scenario, Want},
    web::{Answer, Web},
};
use crate::installed::{Mesh, mesh_with};

#[tokio::test]
async fn the_25_scenarios_of_the_ingress_conformance_suite_hold_at_the_address_in_ingress_status()
-> Result<()> {
    mesh_with(&["--dev"], async |mesh| {
        let authority = Authority::create()?;
        mesh.edge_available().await?;
        Box::pin(deploy(mesh, &authority)).await?;
        let mut failed = Vec::new();
        // The one without rules takes every host that nobody names: it comes when the others are through with those.
        let (with_rules, without): (Vec<_>, Vec<_>) =
            numbered().partition(|(_, scenario)| !matches!(scenario.asks, Asks::Default(_)));
        for scenarios in [with_rules, without] {
            let ingresses: String =
                scenarios.iter().map(|(number, scenario)| ingress(mesh, *number, scenario)).collect();
            mesh.namespace.apply(&ingresses).await?;
            // One of another class has nothing that could be waited for: it is judged when all others are served.
            let (ours, others): (Vec<_>, Vec<_>) = scenarios
                .into_iter()
                .partition(|(_, scenario)| !matches!(scenario.asks, Asks::OtherClass(_)));
            for (number, scenario) in ours.into_iter().chain(others) {
                let held = Box::pin(holds(mesh, &authority, number, scenario)).await;
                let word = if held.is_ok() { "holds" } else { "FAILS" };
                eprintln!("conformance {number:2} {word}: {}", scenario.name);
                failed.extend(held.err().map(|error| format!("{}: {error:#}", scenario.name)));
            }
        }
        ensure!(failed.is_empty(), "{} of 25 fail:\n{}", failed.len(), failed.join("\n"));
        Ok(())
    })
    .await
}

#[test]
fn each_scenario_is_listed_in_docs_ingress_md_in_its_order() {
    let listed: Vec<&str> = include_str!("../../../../../docs/ingress.md")
        .lines()
        .skip_while(|line| *line != "## Conformance")
        .filter_map(|line| line.split_once(". ").filter(|(number, _)| number.parse::<usize>().is_ok()))
        .map(|(_, name)| name)
        .collect();
    assert_eq!(listed, SCENARIOS.iter().map(|scenario| scenario.name).collect::<Vec<_>>());
}

fn numbered() -> impl Iterator<Item = (usize, &'static Scenario)> {
    SCENARIOS.iter().enumerate().map(|(index, scenario)| (index + 1, scenario))
}

/// The Services, meshed, and the certificate of the one with TLS.
async fn deploy(mesh: &Mesh, authority: &Authority) -> Result<()> {
    mesh.label().await?;
    mesh.allow(&mesh.namespace).await?;
    let team = &mesh.namespace;
    let echoes: String = REPLICAS.iter().map(|(name, replicas)| echo(name, *replicas)).collect();
    team.apply(&echoes).await?;
    for (number, scenario) in numbered() {
        if let Asks::Tls(rules) = scenario.asks {
            let hosts: Vec<String> = rules.iter().map(|(name, _)| host(mesh, number, name)).collect();
            team.apply(&authority.secret(&format!("tls-{number}"), &hosts)?).await?;
        }
    }
    for (name, replicas) in REPLICAS {
        team.within(STARTS).wait_deployment_available(name).await?;
        team.wait_endpoints(name, replicas).await?;
    }
    Ok(())
}

fn echo(name: &str, replicas: usize) -> String {
    let field = |path| json!({ "fieldRef": { "fieldPath": path } });
    let container = json!({
        "name": "echo", "image": "signet.test/echo-basic:1", "imagePullPolicy": "IfNotPresent",
        "env": [
            { "name": "SERVICE_NAME", "value": name },
            { "name": "POD_NAME", "valueFrom": field("metadata.name") },
            { "name": "NAMESPACE", "valueFrom": field("metadata.namespace") },
        ],
        "ports": [{ "containerPort": 3000 }],
        "readinessProbe": { "tcpSocket": { "port": 3000 }, "periodSeconds": 1 },
    });
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": name },
        "spec": {
            "replicas": replicas, "selector": { "matchLabels": { "app": name } },
            "template": {
                "metadata": { "labels": { "app": name } },
                "spec": { "terminationGracePeriodSeconds": 0, "containers": [container] },
            },
        },
    });
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": name },
        "spec": { "selector": { "app": name }, "ports": [{ "port": 80, "targetPort": 3000 }] },
    });
    format!("---\n{deployment}\n---\n{service}\n")
}

/// The scenario's Ingress, as YAML.
fn ingress(mesh: &Mesh, number: usize, scenario: &Scenario) -> String {
    let backend = |service: &str| json!({ "service": { "name": service, "port": { "number": 80 } } });
    let rules = |all: &[(&str, &[&str])]| -> Vec<Value> {
        let path = |text: &&str| {
            let mut words = text.split(' ');
            let (kind, path, service) = (words.next(), words.next(), words.next().unwrap_or_default());
            json!({ "pathType": kind, "path": path, "backend": backend(service) })
        };
        let rule = |(name, paths): &(&str, &[&str])| {
            let paths: Vec<Value> = paths.iter().map(path).collect();
            json!({ "host": host(mesh, number, name), "http": { "paths": paths } })
        };
        all.iter().map(rule).collect()
    };
    let spec = match scenario.asks {
        Asks::Default(service) => json!({ "ingressClassName": "signet", "defaultBackend": backend(service) }),
        Asks::Rules(all) => json!({ "ingressClassName": "signet", "rules": rules(all) }),
        Asks::OtherClass(all) => {
            json!({ "ingressClassName": "some-invalid-class-name", "rules": rules(all) })
        }
        Asks::Tls(all) => {
            let hosts: Vec<String> = all.iter().map(|(name, _)| host(mesh, number, name)).collect();
            let tls = json!([{ "hosts": hosts, "secretName": format!("tls-{number}") }]);
            json!({ "ingressClassName": "signet", "rules": rules(all), "tls": tls })
        }
    };
    let ingress = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "Ingress",
        "metadata": { "name": format!("scenario-{number}") }, "spec": spec,
    });
    format!("---\n{ingress}\n")
}

/// Below a domain of this run's and this scenario's own: claims outlive both.
fn host(mesh: &Mesh, number: usize, name: &str) -> String {
    format!("{name}.s{number}.{}.test", mesh.namespace.name)
}

async fn holds(mesh: &Mesh, authority: &Authority, number: usize, scenario: &Scenario) -> Result<()> {
    let (team, name) = (&mesh.namespace, format!("scenario-{number}"));
    let at = if matches!(scenario.asks, Asks::OtherClass(_)) {
        let object = team.api::<Ingress>().get(&name).await?;
        ensure!(addresses(&object).is_empty(), "it has the address {:?}", addresses(&object));
        published(team, "scenario-2").await? // where it would be served
    } else {
        published(team, &name).await?
    };
    let at = at.first().context("it has one")?;
    let web = Web::at(&team.cluster, *at, &authority.root)?;
    let url = |short: &str| -> Result<String> {
        let (scheme, rest) = short.split_once("://").context("a URL")?;
        let (name, path) = rest.split_once('/').context("a path")?;
        Ok(format!("{scheme}://{}/{path}", host(mesh, number, name)))
    };
    let [(first, want), others @ ..] = scenario.requests else { bail!("it asks nothing") };
    let first = url(first)?;
    team.eventually("the Ingress to be served", async || Box::pin(gets(team, &web, &first, *want)).await)
        .await?;
    for (other, want) in others {
        Box::pin(gets(team, &web, &url(other)?, *want)).await?;
    }
    Ok(())
}

async fn gets(team: &Namespace, web: &Web, url: &str, want: Want) -> Result<()> {
    match want {
        Want::Status(status) => {
            let answer = web.get(url).await?;
            ensure!(answer.status == status, "{url}: wanted {status}, got {answer:?}");
        }
        Want::Service(service) => {
            said_by(team, service, url, &web.get(url).await?)?;
            if url.starts_with("https://") {
                said_by(team, service, url, &web.get_h2(url).await?)?;
            }
        }
        Want::EveryPod(service) => {
            let all = REPLICAS.iter().find(|(name, _)| *name == service).context("one of ours")?.1;
            let mut pods = BTreeSet::new();
            for _ in 0..REQUESTS {
                pods.insert(said_by(team, service, url, &web.get(url).await?)?);
            }
            ensure!(pods.len() == all, "of {all} pods only {pods:?} were asked");
        }
    }
    Ok(())
}

/// Which pod of the Service answered, to the question as it was asked.
fn said_by(team: &Namespace, service: &str, url: &str, answer: &Answer) -> Result<String> {
    ensure!(answer.status == 200, "{url}: {answer:?}");
    let said: Value = serde_json::from_str(&answer.body).with_context(|| answer.body.clone())?;
    let (_, rest) = url.split_once("://").context("a URL")?;
    let (host, path) = rest.split_once('/').context("a path")?;
    let want = json!([team.name, service, host, format!("/{path}")]);
    let got = json!([said["namespace"], said["service"], said["host"], said["path"]]);
    ensure!(got == want, "{url}: wanted {want}, got {got}");
    Ok(said["pod"].as_str().context("a pod")?.to_owned())
}

/// How many pods each Service has.
const REPLICAS: [(&str, usize); 3] = [("a", 4), ("b", 1), ("c", 1)];
/// Of 4 pods, each chosen at random, one is left out by 64 with a chance of 4 * 0.75^64 = 4e-8.
const REQUESTS: usize = 64;
const STARTS: Duration = Duration::from_secs(180);
