//! Whether a pod is injected, and what it asks for. Pure; reads and changes nothing.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use k8s_openapi::{
    api::core::v1::{Container, PodSpec},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use serde::Deserialize;
use serde_json::Value;
use signet_core::{
    annotations::{self, Spot},
    pod,
};

use crate::{
    NamespaceView,
    quantity::Quantity,
    verdict::{Refusal, Skip},
};

/// The parts of a Pod, or of a pod template, that we look at.
#[derive(Debug, Deserialize)]
pub(crate) struct View {
    #[serde(default)]
    pub metadata: Option<ObjectMeta>,
    pub spec: PodSpec,
}

/// What a pod's annotations say.
#[derive(Debug, Default)]
pub(crate) struct Wishes {
    pub inbound_ports: BTreeSet<u16>,
    pub outbound_ports: BTreeSet<u16>,
    pub outbound_subnets: BTreeSet<IpNet>,
    pub upstreams: Option<String>,
    pub cpu: Option<String>,
    pub memory: Option<String>,
    pub warnings: Vec<String>,
}

/// Why not.
#[derive(Debug)]
pub(crate) enum No {
    Skip(Skip),
    Refuse(Refusal),
}

impl From<Skip> for No {
    fn from(skip: Skip) -> Self {
        Self::Skip(skip)
    }
}
impl From<Refusal> for No {
    fn from(refusal: Refusal) -> Self {
        Self::Refuse(refusal)
    }
}

impl View {
    pub(crate) fn read(pod: &Value) -> Result<Self, Refusal> {
        serde_path_to_error::deserialize(pod).map_err(|error| {
            let why: String = error.to_string().chars().take(SHOWN).collect();
            Refusal::BadPod { why: format!("it is no Pod: {}", why.replace(|c: char| c.is_control(), " ")) }
        })
    }

    fn labels(&self) -> impl Iterator<Item = (&str, &str)> {
        pairs(self.metadata.as_ref().and_then(|meta| meta.labels.as_ref()))
    }

    fn annotations(&self) -> impl Iterator<Item = (&str, &str)> {
        pairs(self.metadata.as_ref().and_then(|meta| meta.annotations.as_ref()))
    }

    fn annotation(&self, key: &str) -> Option<&str> {
        self.annotations().find(|(known, _)| *known == key).map(|(_, value)| value)
    }

    pub(crate) fn containers(&self) -> impl Iterator<Item = &Container> {
        self.spec.init_containers.iter().flatten().chain(&self.spec.containers)
    }
}

fn pairs(map: Option<&BTreeMap<String, String>>) -> impl Iterator<Item = (&str, &str)> {
    map.into_iter().flatten().map(|(key, value)| (key.as_str(), value.as_str()))
}

/// `pod` is as its author wrote it, without anything of ours.
pub(crate) fn judge(pod: &View, namespace: Option<&NamespaceView>) -> Result<Wishes, No> {
    skips(pod)?;
    let wishes = wishes(pod)?;
    let level = namespace.and_then(|namespace| Some((namespace, namespace.labels.get(pod::POD_SECURITY)?)));
    if let Some((namespace, level)) =
        level.filter(|(_, level)| pod::FORBID_NET_ADMIN.contains(&level.as_str()))
    {
        let (namespace, level) = (namespace.name.clone(), level.clone());
        return Err(Refusal::PodSecurity { namespace, level }.into());
    }
    if let Some(container) = pod.containers().find(|container| user(pod, container) == Some(pod::PROXY_UID)) {
        return Err(Refusal::ProxyUid { container: container.name.clone() }.into());
    }
    taken(pod)?;
    Ok(wishes)
}

fn skips(pod: &View) -> Result<(), No> {
    let (spec, mut labels) = (&pod.spec, pod.labels());
    if let Some((key, value)) = labels.find(|(key, _)| *key == pod::INJECT) {
        let opted_in = annotations::inject(value)
            .map_err(|why| Refusal::BadSetting { why: format!("label {key}: {why}") })?;
        if !opted_in {
            return Err(Skip::OptedOut.into());
        }
    }
    if spec.host_network == Some(true) {
        return Err(Skip::HostNetwork.into());
    }
    if spec.os.as_ref().is_some_and(|os| os.name == "windows") {
        return Err(Skip::Windows.into());
    }
    if pod.annotation(MIRROR).is_some() {
        return Err(Skip::MirrorPod.into());
    }
    match pod.containers().find(|container| pod::OTHER_MESHES.contains(&container.name.as_str())) {
        Some(container) => Err(Skip::OtherMesh { container: container.name.clone() }.into()),
        None => Ok(()),
    }
}

/// Every setting, or every mistake in them at once.
fn wishes(pod: &View) -> Result<Wishes, Refusal> {
    let misplaced = |spot| move |(key, _): (&str, &str)| annotations::misplaced(spot, key);
    let mut unknown: Vec<String> = pod.labels().filter_map(misplaced(Spot::PodLabel)).collect();
    unknown.extend(pod.annotations().filter_map(misplaced(Spot::PodAnnotation)));
    if !unknown.is_empty() {
        return Err(Refusal::UnknownSetting { why: unknown.join("; ") });
    }
    let mut bad = Vec::new();
    let wishes = Wishes {
        inbound_ports: value(pod, pod::EXCLUDE_INBOUND_PORTS, annotations::ports, &mut bad),
        outbound_ports: value(pod, pod::EXCLUDE_OUTBOUND_PORTS, annotations::ports, &mut bad),
        outbound_subnets: value(pod, pod::EXCLUDE_OUTBOUND_SUBNETS, annotations::subnets, &mut bad),
        upstreams: value(
            pod,
            pod::UPSTREAMS,
            |v| annotations::upstreams(v).map(|_| Some(v.to_owned())),
            &mut bad,
        ),
        cpu: value(pod, pod::PROXY_CPU, amount, &mut bad),
        memory: value(pod, pod::PROXY_MEMORY, amount, &mut bad),
        warnings: warnings(pod),
    };
    value(pod, pod::PERMISSIVE_PORTS, annotations::ports, &mut bad); // the controller's; a mistake shows earlier here
    if bad.is_empty() { Ok(wishes) } else { Err(Refusal::BadSetting { why: bad.join("; ") }) }
}

fn value<T: Default>(
    pod: &View,
    key: &str,
    parse: impl Fn(&str) -> Result<T, String>,
    bad: &mut Vec<String>,
) -> T {
    let Some(value) = pod.annotation(key) else { return T::default() };
    parse(value).unwrap_or_else(|why| {
        bad.push(format!("annotation {key}: {why}"));
        T::default()
    })
}

/// "250m", "96Mi": more than nothing.
fn amount(text: &str) -> Result<Option<String>, String> {
    match text.parse::<Quantity>() {
        Ok(quantity) if !quantity.is_zero() => Ok(Some(text.to_owned())),
        _ => {
            Err(format!("{:?}: not a quantity like 250m or 96Mi", text.chars().take(40).collect::<String>()))
        }
    }
}

fn warnings(pod: &View) -> Vec<String> {
    let mut warnings = Vec::new();
    for container in pod.containers().filter(|container| may_change_rules(container)) {
        warnings.push(format!("signet: container {} may undo the capture (NET_ADMIN)", container.name));
    }
    if matches!(pod.spec.dns_policy.as_deref(), Some("Default" | "None")) {
        warnings.push(
            "signet: dnsPolicy Default or None: the proxy must find ca.signet-system.svc, or stays unready"
                .into(),
        );
    }
    if pod.annotation(pod::INBOUND).is_some() {
        warnings.push(format!("signet: annotation {} means nothing in a cluster", pod::INBOUND));
    }
    warnings
}

fn may_change_rules(container: &Container) -> bool {
    let Some(context) = &container.security_context else { return false };
    let added = context.capabilities.as_ref().and_then(|capabilities| capabilities.add.as_ref());
    let is_admin = |name: &String| matches!(name.as_str(), "NET_ADMIN" | "CAP_NET_ADMIN" | "ALL");
    context.privileged == Some(true) || added.is_some_and(|added| added.iter().any(is_admin))
}

/// The user that a container says it runs as; its own word beats the pod's. An image may say another, which nobody sees here.
fn user(pod: &View, container: &Container) -> Option<i64> {
    let own = container.security_context.as_ref().and_then(|context| context.run_as_user);
    own.or_else(|| pod.spec.security_context.as_ref()?.run_as_user)
}

/// Without our mark these names are somebody else's.
fn taken(pod: &View) -> Result<(), Refusal> {
    let ours = [pod::CAPTURE_CONTAINER, pod::PROXY_CONTAINER];
    let container = pod.containers().find(|container| ours.contains(&container.name.as_str()));
    let container = container.map(|container| format!("container {}", container.name));
    let volume = pod.spec.volumes.iter().flatten().find(|volume| volume.name == pod::IDENTITY_VOLUME);
    let volume = volume.map(|volume| format!("volume {}", volume.name));
    let note = pod.annotation(pod::ORIGINAL_PROBES).map(|_| format!("annotation {}", pod::ORIGINAL_PROBES));
    match container.or(volume).or(note) {
        Some(what) => Err(Refusal::NameTaken { what }),
        None => Ok(()),
    }
}

/// Annotation of the pods that a kubelet shows for its static ones; they may have no service account token, so with ours
/// the API server would take none.
const MIRROR: &str = "kubernetes.io/config.mirror";
/// Characters of an error that repeats what a stranger sent.
const SHOWN: usize = 200;
