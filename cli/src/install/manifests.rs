//! deploy/*.yaml as values, the settings put in. Settings never become YAML by pasting: a value that is exactly `$NAME` is replaced in
//! the parsed document, and printed from there. Pure.

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum as _;
use serde_json::{Value, json};
use signet_controller::edge::EdgeIssuer;
use signet_core::{
    identity::SYSTEM_NAMESPACE,
    pod::{CA_PORT, EDGE_PORT, Gateway, Serving},
};

use super::acme::Acme;

/// What a user may choose.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) trust_domain: String,
    pub(crate) image: String,
    pub(crate) leaf_life: String,
    pub(crate) allow_short_leaves: bool,
    pub(crate) mesh_ranges: Vec<String>,
    /// One replica of each, and no budgets.
    pub(crate) dev: bool,
    pub(crate) expose: Expose,
    pub(crate) edge_issuer: EdgeIssuer,
    pub(crate) edge_suffixes: Vec<String>,
    pub(crate) acme: Acme,
    /// How gateways serve.
    pub(crate) serving: Serving,
    /// The number of gateways is somebody else's to say.
    pub(crate) autoscaled: bool,
}

/// How public hosts are reached.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, clap::ValueEnum)]
pub(crate) enum Expose {
    /// Gateways behind a Service of type LoadBalancer
    #[default]
    Loadbalancer,
    /// A gateway on each node, at the node's ports 80 and 443
    Hostport,
    /// No edge and no gateways: the mesh alone
    None,
}

impl Expose {
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Loadbalancer => "loadbalancer",
            Self::Hostport => "hostport",
            Self::None => "none",
        }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            trust_domain: "cluster.local".into(),
            image: super::default_image(),
            leaf_life: "24h".into(),
            allow_short_leaves: false,
            mesh_ranges: Vec::new(),
            dev: false,
            expose: Expose::default(),
            edge_issuer: EdgeIssuer::default(),
            edge_suffixes: Vec::new(),
            acme: Acme::default(),
            serving: Serving::default(),
            autoscaled: false,
        }
    }
}

/// A file of deploy/ and its objects.
#[derive(Clone, Debug)]
pub(crate) struct File {
    pub(crate) name: &'static str,
    pub(crate) objects: Vec<Value>,
}

/// What stands for one placeholder: itself in a field (none: without the field), all of it, one after the other, in a list.
type Fill<'a> = &'a dyn Fn(&str) -> Option<Vec<Value>>;

/// Every object, in the order in which to apply them.
pub(crate) fn render(settings: &Settings) -> Result<Vec<Value>> {
    let files = files(settings)?.into_iter().filter(|file| file.belongs(settings.expose));
    let objects = files.flat_map(|file| file.objects);
    Ok(objects.filter(|object| !(settings.dev && is_budget(object))).collect())
}

/// Every object that any settings print.
pub(crate) fn everything() -> Result<Vec<Value>> {
    Ok(files(&Settings::default())?.into_iter().flat_map(|file| file.objects).collect())
}

fn files(settings: &Settings) -> Result<Vec<File>> {
    let mut leaf_life = vec![json!(settings.leaf_life)];
    leaf_life.extend(settings.allow_short_leaves.then(|| json!("--allow-short-leaves")));
    let ranges = settings.mesh_ranges.iter().flat_map(|range| [json!("--mesh-range"), json!(range)]);
    let ranges: Vec<Value> = ranges.collect();
    let suffixes = settings.edge_suffixes.iter().flat_map(|suffix| [json!("--edge-suffix"), json!(suffix)]);
    let suffixes: Vec<Value> = suffixes.collect();
    let issuer = settings.edge_issuer.to_possible_value().context("every issuer has a word")?;
    let replicas = json!(if settings.dev { 1 } else { 2 });
    // Its keys sorted, as Helm prints them.
    let gateway =
        serde_json::to_value(gateway(&settings.trust_domain, settings.serving.clone()))?.to_string();
    filled(&|name| {
        Some(match name {
            "$TRUST_DOMAIN" => vec![json!(settings.trust_domain)],
            "$IMAGE" => vec![json!(settings.image)],
            "$LEAF_LIFE" => leaf_life.clone(),
            "$MESH_RANGES" => ranges.clone(),
            "$REPLICAS" => vec![replicas.clone()],
            "$EXPOSE" => vec![json!(settings.expose.word())],
            "$EDGE_ISSUER" => vec![json!(issuer.get_name())],
            "$EDGE_SUFFIXES" => suffixes.clone(),
            "$ACME" => settings.acme.flags().into_iter().map(Value::from).collect(),
            "$ACME_ROOTS" => vec![json!(settings.acme.roots)],
            "$GATEWAY" => vec![json!(gateway)],
            "$GATEWAY_REPLICAS" if settings.autoscaled => Vec::new(),
            "$GATEWAY_REPLICAS" => vec![replicas.clone()],
            "$GATEWAY_GRACE" => vec![json!(grace(&settings.serving))],
            "$GATEWAY_POD_SECURITY" => vec![json!(pod_security(settings.expose))],
            _ => return None,
        })
    })
}

/// What a gateway is told by its environment.
pub(crate) fn gateway(trust_domain: &str, serving: Serving) -> Gateway {
    Gateway {
        trust_domain: trust_domain.into(),
        ca: format!("ca.{SYSTEM_NAMESPACE}.svc:{CA_PORT}"),
        edge: format!("edge.{SYSTEM_NAMESPACE}.svc:{EDGE_PORT}"),
        serving,
    }
}

/// Seconds, from SIGTERM to SIGKILL.
fn grace(serving: &Serving) -> u64 {
    serving.drain_seconds + serving.finish_seconds + GRACE
}

/// A port of the node is allowed by no other level.
fn pod_security(expose: Expose) -> &'static str {
    if expose == Expose::Hostport { "privileged" } else { "restricted" }
}

impl File {
    /// Whether it is applied where public hosts are reached so.
    fn belongs(&self, expose: Expose) -> bool {
        match self.name {
            "edge.yaml" | "gateway.yaml" => expose != Expose::None,
            "gateway-loadbalancer.yaml" => expose == Expose::Loadbalancer,
            "gateway-hostport.yaml" => expose == Expose::Hostport,
            _ => true,
        }
    }
}

/// The files of deploy/ with their placeholders filled.
pub(crate) fn filled(fill: Fill<'_>) -> Result<Vec<File>> {
    FILES
        .iter()
        .map(|(name, text)| {
            let mut objects: Vec<Value> =
                serde_saphyr::from_multiple(text).with_context(|| format!("deploy/{name}"))?;
            for object in &mut objects {
                put_in(object, fill).with_context(|| format!("deploy/{name}"))?;
            }
            Ok(File { name, objects })
        })
        .collect()
}

fn put_in(value: &mut Value, fill: Fill<'_>) -> Result<()> {
    match value {
        Value::String(text) if text.starts_with('$') => match fill(text).as_deref() {
            Some([one]) => *value = one.clone(),
            Some(_) => bail!("{text} is a list, and stands in a field"),
            None => bail!("nothing stands for {text}"),
        },
        Value::Array(items) => {
            let mut all = Vec::with_capacity(items.len());
            for mut item in std::mem::take(items) {
                match item.as_str().filter(|text| text.starts_with('$')) {
                    Some(text) => {
                        all.extend(fill(text).with_context(|| format!("nothing stands for {text}"))?)
                    }
                    None => {
                        put_in(&mut item, fill)?;
                        all.push(item);
                    }
                }
            }
            *items = all;
        }
        Value::Object(fields) => {
            let is_empty = |field: &Value| field.as_str().and_then(fill).is_some_and(|all| all.is_empty());
            fields.retain(|_, field| !is_empty(field));
            for field in fields.values_mut() {
                put_in(field, fill)?;
            }
        }
        _ => {}
    }
    Ok(())
}

pub(crate) fn is_budget(object: &Value) -> bool {
    object["kind"] == "PodDisruptionBudget"
}

/// One YAML document for each, with sorted keys: the same objects are the same text.
pub(crate) fn print(objects: &[Value]) -> Result<String> {
    let documents: Vec<String> = objects.iter().map(yaml).collect::<Result<_>>()?;
    Ok(documents.join("---\n"))
}

pub(crate) fn yaml(object: &Value) -> Result<String> {
    let options = serde_saphyr::ser_options! { prefer_block_scalars: false };
    let mut text = serde_saphyr::to_string_with_options(object, options)?;
    if !text.ends_with('\n') {
        text.push('\n');
    }
    Ok(text)
}

/// Seconds between a gateway's own end and the kubelet's patience.
pub(crate) const GRACE: u64 = 10;
/// In the order in which to apply them: the webhook last, so that no pod waits for an injector that is not there yet.
const FILES: [(&str, &str); 10] = [
    ("namespace.yaml", include_str!("../../../deploy/namespace.yaml")),
    ("viewer.yaml", include_str!("../../../deploy/viewer.yaml")),
    ("ca.yaml", include_str!("../../../deploy/ca.yaml")),
    ("controller.yaml", include_str!("../../../deploy/controller.yaml")),
    ("injector.yaml", include_str!("../../../deploy/injector.yaml")),
    ("edge.yaml", include_str!("../../../deploy/edge.yaml")),
    ("gateway.yaml", include_str!("../../../deploy/gateway.yaml")),
    ("gateway-loadbalancer.yaml", include_str!("../../../deploy/gateway-loadbalancer.yaml")),
    ("gateway-hostport.yaml", include_str!("../../../deploy/gateway-hostport.yaml")),
    ("webhook.yaml", include_str!("../../../deploy/webhook.yaml")),
];

#[cfg(test)]
mod tests;
