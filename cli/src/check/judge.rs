//! What is wrong, out of the facts. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnet::IpNet;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use signet_core::{
    bundle::TrustBundle,
    identity::{EDGE_NAMESPACE, GATEWAY_NAMESPACE, SYSTEM_NAMESPACE},
    pod::{INJECT, POD_SECURITY},
};

use crate::{
    cert,
    check::{Finding, facts::Facts, known::Id, some},
    cluster::{Part, is_ready},
    human,
    identity::has_proxy,
    install::ranges::own_addresses,
    shapes::{IngressFinding, RootState, WorkloadStatus},
};

/// In the order of their numbers. `expiry_within`: seconds.
pub(super) fn findings(facts: &Facts, expiry_within: i64) -> Vec<Finding> {
    let mut findings = Vec::new();
    findings.extend(old_kubernetes(facts));
    if !facts.denied.is_empty() {
        let what = format!("your account may not {}", facts.denied.join(", "));
        let next = "Ask an administrator, or name another context with --context".into();
        findings.push(Finding::new(Id::MissingRight, what, next));
    }
    findings.extend(pod_security(facts));
    if facts.installed {
        findings.extend(parts_not_ready(facts));
        findings.extend(ca_bundles(facts));
        findings.extend(not_injected(facts));
        findings.extend(old_proxies(facts));
        findings.extend(outside_ranges(facts));
        findings.extend(certificates(facts));
        findings.extend(roots(facts, expiry_within));
        findings.extend(brought(facts));
        findings.extend(facts.ingresses.iter().filter_map(ingress));
        findings.extend(edge_ca(facts, expiry_within));
    }
    findings
}

/// Edge's own words, which say what to do. `None`: nothing is wrong yet.
fn ingress(found: &IngressFinding) -> Option<Finding> {
    let IngressFinding { ingress, finding } = found;
    let id = match finding.word.as_str() {
        "BackendRefused" => Id::RefusedBackend,
        "NoBackend" => Id::WithoutBackend,
        "MissingRight" | "NoCertificate" => Id::WithoutCertificate,
        "BeingOrdered" => return None,
        "NotRenewed" => Id::NotRenewed,
        "OrderFailed" => Id::OrderFailed,
        "StagingCertificate" => Id::StagingCertificate,
        "SecretFirst" => Id::SecretFirst,
        "BadValue" | "NotHonoured" => Id::NotHonoured,
        _ => Id::NotServed, // HostTaken, Refused, and whatever a newer edge says
    };
    let next = match of_certificate(id, &finding.message) {
        Some(host) => format!("signet cert why '{host}'"),
        None => {
            let (namespace, name) = ingress.split_once('/').unwrap_or(("", ingress));
            format!("signet explain -n {namespace} ingress/{name}")
        }
    };
    Some(Finding::new(id, format!("Ingress {ingress}: {}", finding.message), next))
}

/// The first name of the certificate that is meant: edge's words begin with all of them. `None`: it is about something else.
fn of_certificate(id: Id, message: &str) -> Option<String> {
    let is_ordered = matches!(id, Id::NotRenewed | Id::OrderFailed | Id::StagingCertificate);
    let (names, _) = message.split_once(": ").filter(|_| is_ordered)?;
    cert::host(names.split(',').next()?).ok()
}

fn old_kubernetes(facts: &Facts) -> Vec<Finding> {
    let server = facts.server.iter().map(|info| ("the API server".to_owned(), info.git_version.clone()));
    let nodes = facts.nodes.iter().filter_map(|node| {
        let kubelet = node.status.as_ref()?.node_info.as_ref()?.kubelet_version.clone();
        Some((format!("the kubelet of node {}", node.name_any()), kubelet))
    });
    let old =
        server.chain(nodes).filter(|(_, version)| minor(version).is_none_or(|minor| minor < OLDEST_MINOR));
    old.map(|(who, version)| {
        let next = format!("Upgrade it to Kubernetes 1.{OLDEST_MINOR} or newer");
        Finding::new(Id::OldKubernetes, format!("{who} is {version}"), next)
    })
    .collect()
}

/// "v1.37.2-eks-1" -> 37.
fn minor(version: &str) -> Option<u32> {
    let rest = version.strip_prefix('v').unwrap_or(version).strip_prefix("1.")?;
    let digits = rest.split(|c: char| !c.is_ascii_digit()).next()?;
    digits.parse().ok()
}

fn pod_security(facts: &Facts) -> Vec<Finding> {
    let labelled = facts.namespaces.iter().filter(|namespace| wants(namespace.labels().get(INJECT)));
    labelled
        .filter_map(|namespace| {
            let level = namespace.labels().get(POD_SECURITY)?;
            let name = namespace.name_any();
            (level != "privileged").then(|| {
                let what = format!("namespace {name} enforces {level}");
                let next = format!(
                    "kubectl label --overwrite namespace {name} {POD_SECURITY}=privileged, with warn={level} beside \
                     it; or leave it out of the mesh: kubectl label namespace {name} {INJECT}-"
                );
                Finding::new(Id::PodSecurity, what, next)
            })
        })
        .collect()
}

fn parts_not_ready(facts: &Facts) -> Vec<Finding> {
    // Without edge's Deployment this is a mesh alone.
    let edge = Part::EDGE.into_iter().filter(|_| facts.edge_deployment.is_some());
    Part::MESH.into_iter().chain(edge).flat_map(|part| part_not_ready(facts, part)).collect()
}

fn part_not_ready(facts: &Facts, part: Part) -> Vec<Finding> {
    let namespace = part.namespace();
    let of_part = |pod: &&Pod| {
        let labels = pod.labels();
        pod.namespace().as_deref() == Some(namespace)
            && pod.metadata.deletion_timestamp.is_none() // of a rolling update: on its way out
            && labels.get("app.kubernetes.io/part-of").is_some_and(|of| of == "signet")
            && labels.get("app.kubernetes.io/name").is_some_and(|name| *name == part.to_string())
    };
    let pods: Vec<&Pod> = facts.pods.iter().filter(of_part).collect();
    if pods.is_empty() {
        let kinds = if part == Part::Gateway { "deployment,daemonset" } else { "deployment" };
        let next = format!("kubectl -n {namespace} describe {kinds} {part}");
        return vec![Finding::new(Id::PartNotReady, format!("no pod of the {part} runs"), next)];
    }
    let unready = pods.into_iter().filter(|pod| !is_ready(pod)).map(|pod| {
        let name = pod.name_any();
        let next = format!("kubectl -n {namespace} describe pod {name}, and its log");
        Finding::new(Id::PartNotReady, format!("pod {name} is not ready"), next)
    });
    unready.collect()
}

fn ca_bundles(facts: &Facts) -> Vec<Finding> {
    let wait =
        "Wait for a minute: the CA writes it. If it stays so: kubectl -n signet-system logs deployment/ca";
    let Some(webhook) = &facts.webhook else {
        let next = "signet install | kubectl apply --server-side -f -".into();
        return vec![Finding::new(Id::NoCaBundle, "there is no webhook signet-injector".into(), next)];
    };
    let roots = |bundle: &TrustBundle| bundle.believed().map(|der| der.to_vec()).collect::<BTreeSet<_>>();
    let want = facts.bundle.as_ref().map(roots);
    let mut findings = Vec::new();
    for entry in webhook.webhooks.iter().flatten() {
        let name = &entry.name;
        match entry.client_config.ca_bundle.as_ref().filter(|bundle| !bundle.0.is_empty()) {
            None => {
                findings.push(Finding::new(Id::NoCaBundle, format!("{name} has no caBundle"), wait.into()));
            }
            Some(bundle) => {
                let have = TrustBundle::from_pem(&bundle.0).ok().as_ref().map(roots);
                if want.is_some() && have != want {
                    let what = format!("the caBundle of {name} is not the CA's roots");
                    findings.push(Finding::new(Id::WrongCaBundle, what, wait.into()));
                }
            }
        }
    }
    findings
}

fn not_injected(facts: &Facts) -> Vec<Finding> {
    let labelled: BTreeSet<String> = facts
        .namespaces
        .iter()
        .filter(|namespace| wants(namespace.labels().get(INJECT)))
        .map(kube::ResourceExt::name_any)
        .collect();
    let mut missing = BTreeMap::<String, Vec<String>>::new();
    for pod in &facts.pods {
        let namespace = pod.namespace().unwrap_or_default();
        let label = pod.labels().get(INJECT);
        let wanted = match label.map(String::as_str) {
            Some("disabled") => false,
            Some("enabled") => true,
            _ => labelled.contains(&namespace),
        };
        // It can have none there, and no restart gives it one.
        let never = ["kube-system", SYSTEM_NAMESPACE, GATEWAY_NAMESPACE].contains(&namespace.as_str())
            || pod.spec.as_ref().is_some_and(|spec| spec.host_network == Some(true))
            || pod.metadata.deletion_timestamp.is_some();
        if wanted && !never && !has_proxy(pod) {
            missing.entry(namespace).or_default().push(pod.name_any());
        }
    }
    missing
        .into_iter()
        .map(|(namespace, pods)| {
            let what = format!("{} of namespace {namespace} without a proxy: {}", human::count(pods.len() as u64, "pod"), some(&pods));
            let next = format!(
                "kubectl -n {namespace} rollout restart deployment,statefulset,daemonset; if it stays so: signet explain {namespace}/{}",
                pods.first().map_or("POD", String::as_str)
            );
            Finding::new(Id::NotInjected, what, next)
        })
        .collect()
}

fn old_proxies(facts: &Facts) -> Vec<Finding> {
    let Some(controller) = &facts.controller else { return Vec::new() };
    let mut others = BTreeMap::<(String, String), Vec<String>>::new();
    for workload in &controller.workloads {
        let version =
            workload.proxy.as_ref().filter(|proxy| proxy.connected).map(|proxy| proxy.version.clone());
        if let Some(version) = version.filter(|version| *version != controller.version) {
            others.entry((workload.namespace.clone(), version)).or_default().push(workload.pod.clone());
        }
    }
    others
        .into_iter()
        .map(|((namespace, version), pods)| {
            let what = format!(
                "{} of namespace {namespace} with proxies {version}, the control plane is {}: {}",
                human::count(pods.len() as u64, "pod"),
                controller.version,
                some(&pods)
            );
            let next = format!("kubectl -n {namespace} rollout restart deployment,statefulset,daemonset");
            Finding::new(Id::OldProxy, what, next)
        })
        .collect()
}

fn outside_ranges(facts: &Facts) -> Vec<Finding> {
    let spec = facts.controller_deployment.as_ref().and_then(|deployment| deployment.spec.as_ref());
    let containers = spec.and_then(|spec| spec.template.spec.as_ref()).map(|spec| &spec.containers);
    let args: Vec<&str> = containers
        .into_iter()
        .flatten()
        .flat_map(|container| container.args.iter().flatten())
        .map(String::as_str)
        .collect();
    let given = args.windows(2).filter(|two| two[0] == "--mesh-range").map(|two| two[1]);
    let ranges: Vec<IpNet> = given.filter_map(|range| range.parse().ok()).collect();
    if ranges.is_empty() {
        return Vec::new(); // it has not been read
    }
    let outside = |pod: &Pod| -> Vec<IpAddr> {
        own_addresses(pod).into_iter().filter(|ip| !ranges.iter().any(|range| range.contains(ip))).collect()
    };
    let found: Vec<String> = facts
        .pods
        .iter()
        .filter_map(|pod| {
            let address = outside(pod).into_iter().next()?;
            Some(format!("{}/{} ({address})", pod.namespace().unwrap_or_default(), pod.name_any()))
        })
        .collect();
    if found.is_empty() {
        return Vec::new();
    }
    let what =
        format!("{} outside of the mesh's ranges: {}", human::count(found.len() as u64, "pod"), some(&found));
    let next = "signet install with a --mesh-range that holds them, and restart the meshed workloads".into();
    vec![Finding::new(Id::OutsideRanges, what, next)]
}

/// A leaf is renewed at half of its life, so one with less than a quarter left has missed it.
fn certificates(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    let left = |end: &str| human::seconds_until(end, facts.now);
    let leaf_life = facts.ca.as_ref().map_or(DAY, |ca| ca.status.leaf_life_seconds);
    for replica in facts.ca.iter().flat_map(|ca| &ca.replicas) {
        // Leaves never outlive it: with less than one leaf life left, they become shorter.
        if left(&replica.intermediate.not_after).is_some_and(|left| left < leaf_life) {
            let what = format!(
                "the intermediate of {}: {}",
                replica.pod,
                human::left_until(&replica.intermediate.not_after, facts.now)
            );
            let next = format!(
                "kubectl -n {SYSTEM_NAMESPACE} logs {}: it says why it makes no new one",
                replica.pod
            );
            findings.push(Finding::new(Id::CertificateEnds, what, next));
        }
    }
    let late = |workload: &&WorkloadStatus| {
        let end = workload.proxy.as_ref().and_then(|proxy| proxy.leaf_not_after.as_deref());
        workload.meshed && end.and_then(left).is_some_and(|left| left < leaf_life / 4)
    };
    for workload in facts.controller.iter().flat_map(|controller| &controller.workloads).filter(late) {
        let name = format!("{}/{}", workload.namespace, workload.pod);
        let end = workload.proxy.as_ref().and_then(|proxy| proxy.leaf_not_after.clone()).unwrap_or_default();
        let what = format!("the certificate of {name}: {}", human::left_until(&end, facts.now));
        let next = format!(
            "kubectl -n {} logs {} -c signet-proxy: it says why it got no new one",
            workload.namespace, workload.pod
        );
        findings.push(Finding::new(Id::CertificateEnds, what, next));
    }
    findings
}

fn roots(facts: &Facts, within: i64) -> Vec<Finding> {
    let roots = facts.ca.iter().flat_map(|ca| &ca.status.roots);
    let active = roots.filter(|root| root.state == RootState::Active);
    let soon = active
        .filter(|root| human::seconds_until(&root.not_after, facts.now).is_some_and(|left| left < within));
    soon.map(|root| {
        let what = format!("root {}: {}", root.id, human::left_until(&root.not_after, facts.now));
        let next = match root.brought {
            true => {
                format!("put an intermediate of another root of yours into {OWN_INTERMEDIATE} (docs/ca.md)")
            }
            false => {
                "signet ca status shows whether a rotation is under way; begin one with: signet ca rotate"
                    .into()
            }
        };
        Finding::new(Id::RootEnds, what, next)
    })
    .collect()
}

/// The user's own intermediate, by every replica, though they usually say the same.
fn brought(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    let Some(ca) = &facts.ca else { return findings };
    let mut seen = BTreeSet::new();
    for brought in ca.replicas.iter().filter_map(|replica| replica.intermediate.brought.as_ref()) {
        let left = human::seconds_until(&brought.not_after, facts.now);
        let begun = human::seconds_until(&brought.not_before, facts.now);
        let late = left.zip(begun).is_some_and(|(left, begun)| left * 3 < left - begun);
        if late && seen.insert(&brought.serial) {
            let left = human::left_until(&brought.not_after, facts.now);
            let what = format!("your own intermediate {}: {left}", brought.serial);
            let next = format!(
                "put a new one of the same root into {OWN_INTERMEDIATE}: it is used within a minute, with no restart"
            );
            findings.push(Finding::new(Id::RootEnds, what, next));
        }
    }
    if let Some(fault) = &ca.status.fault {
        let next = format!(
            "kubectl -n {SYSTEM_NAMESPACE} get secret signet-ca-intermediate; then as docs/ca.md says"
        );
        findings.push(Finding::new(Id::BroughtRefused, fault.clone(), next));
    }
    findings
}

/// Who believes it has to install the next one by hand.
fn edge_ca(facts: &Facts, within: i64) -> Option<Finding> {
    let ca = facts.edge_ca.as_ref()?;
    human::seconds_until(&ca.not_after, facts.now).filter(|left| *left < within)?;
    let what = format!("edge CA {}: {}", ca.id, human::left_until(&ca.not_after, facts.now));
    let next = format!(
        "kubectl -n {EDGE_NAMESPACE} delete secret signet-edge-ca: edge makes the next one, and whoever believed this one runs signet \
         trust install again (docs/edge-ca.md)"
    );
    Some(Finding::new(Id::EdgeCaEnds, what, next))
}

fn wants(label: Option<&String>) -> bool {
    label.is_some_and(|value| value == "enabled")
}

/// Native sidecars are stable since then, and it is what k8s-openapi is built for.
const OLDEST_MINOR: u32 = 33;
const DAY: i64 = 86_400;
const OWN_INTERMEDIATE: &str = "Secret signet-system/signet-ca-intermediate";

#[cfg(test)]
mod tests;
