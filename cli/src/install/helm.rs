//! The Helm chart in deploy/helm, made of the same objects: `signet install --helm deploy/helm` writes it, and a test fails when what is
//! checked in is not what this would write. Placeholders become template expressions that print JSON strings, which are YAML, so
//! that a value cannot become anything but a value.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context as _, Result};
use serde_json::{Map, Value, json};
use signet_core::{
    VERSION,
    http_settings::HttpSettings,
    identity::SYSTEM_NAMESPACE,
    pod::{Gateway, Serving},
};

use super::{
    default_image,
    manifests::{self, File, GRACE},
};

/// Writes the chart into `directory`.
pub(crate) fn write(directory: &Path) -> Result<()> {
    for (path, text) in chart()? {
        let path = directory.join(path);
        let parent = path.parent().context("a path in the chart has a parent")?;
        fs::create_dir_all(parent).with_context(|| format!("making {}", parent.display()))?;
        fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}

/// Every file of the chart, by its path.
pub(crate) fn chart() -> Result<BTreeMap<String, String>> {
    let fill = |name: &str| {
        Some(match name {
            "$TRUST_DOMAIN" => vec![json!(TRUST_DOMAIN)],
            "$IMAGE" => vec![json!(IMAGE)],
            "$LEAF_LIFE" => vec![json!(LEAF_LIFE)],
            "$MESH_RANGES" => vec![json!(MESH_RANGES)],
            "$REPLICAS" => vec![json!(REPLICAS)],
            "$EXPOSE" => vec![json!(EXPOSE)],
            "$EDGE_ISSUER" => vec![json!(EDGE_ISSUER)],
            "$EDGE_SUFFIXES" => vec![json!(EDGE_SUFFIXES)],
            "$ACME" => vec![json!(ACME)],
            "$ACME_ROOTS" => vec![json!(ACME_ROOTS)],
            "$GATEWAY" => vec![json!(GATEWAY)],
            "$GATEWAY_REPLICAS" => vec![json!(GATEWAY_REPLICAS)],
            "$GATEWAY_GRACE" => vec![json!(GATEWAY_GRACE)],
            "$GATEWAY_POD_SECURITY" => vec![json!(GATEWAY_POD_SECURITY)],
            _ => return None,
        })
    };
    let mut chart = BTreeMap::new();
    for file in manifests::filled(&fill)? {
        chart.insert(format!("templates/{}", file.name), template(&file)?);
    }
    chart.insert("Chart.yaml".into(), manifests::yaml(&about())?);
    let serving = manifests::yaml(&serde_json::to_value(Serving::default())?)?;
    let serving: String = serving.lines().map(|line| format!("  {line}\n")).collect();
    let values = VALUES.replace("IMAGE", &default_image()).replace("SERVING", &serving);
    chart.insert("values.yaml".into(), values);
    chart.insert("values.schema.json".into(), serde_json::to_string_pretty(&schema())? + "\n");
    Ok(chart)
}

fn template(file: &File) -> Result<String> {
    let mut text = format!("# From deploy/{}, by: signet install --helm deploy/helm\n", file.name);
    for object in &file.objects {
        let yaml: String = manifests::yaml(object)?.lines().map(expressions).collect();
        let conditions: Vec<&str> = [exposed(file.name), condition(object)].into_iter().flatten().collect();
        text += &match conditions.as_slice() {
            [] => format!("---\n{yaml}"),
            [one] => format!("{{{{- if {one} }}}}\n---\n{yaml}{{{{- end }}}}\n"),
            all => format!("{{{{- if and ({}) }}}}\n---\n{yaml}{{{{- end }}}}\n", all.join(") (")),
        };
    }
    Ok(text)
}

/// When an object of that file is applied; `None`: always. As [`File::belongs`](manifests::File).
fn exposed(file: &str) -> Option<&'static str> {
    match file {
        "edge.yaml" | "gateway.yaml" => Some(r#"ne .Values.expose "none""#),
        "gateway-loadbalancer.yaml" => Some(r#"eq .Values.expose "loadbalancer""#),
        "gateway-hostport.yaml" => Some(r#"eq .Values.expose "hostport""#),
        _ => None,
    }
}

fn condition(object: &Value) -> Option<&'static str> {
    match object["kind"].as_str() {
        Some("PodDisruptionBudget") => Some("not .Values.dev"),
        // Helm makes the release's namespace and no other.
        Some("Namespace") if object["metadata"]["name"] == SYSTEM_NAMESPACE => {
            Some(".Values.createNamespace")
        }
        _ => None,
    }
}

/// One line, its placeholder replaced; a list becomes a flag and a value for each.
fn expressions(line: &str) -> String {
    for (list, value, flag) in
        [(MESH_RANGES, "meshRanges", "--mesh-range"), (EDGE_SUFFIXES, "edgeSuffixes", "--edge-suffix")]
    {
        if let Some(indent) = line.strip_suffix(&format!("- {list}")) {
            return flags(indent, "range", value, flag);
        }
    }
    if let Some(indent) = line.strip_suffix(&format!("- {ACME}")) {
        let one = |name: &&str| flags(indent, "with", &format!("acme.{name}"), &format!("--acme-{name}"));
        let resolvers = flags(indent, "range", "acme.resolvers", "--acme-resolver");
        return ["email", "directory", "staging", "profile"].iter().map(one).collect::<String>() + &resolvers;
    }
    if line.ends_with(GATEWAY_REPLICAS) {
        return format!(
            "  {{{{- if not .Values.gatewayAutoscaled }}}}\n{}\n  {{{{- end }}}}\n",
            line.replace(GATEWAY_REPLICAS, "{{ if .Values.dev }}1{{ else }}2{{ end }}")
        );
    }
    let string = |value: &str| format!("{{{{ .Values.{value} | toJson }}}}");
    let line = line
        .replace(TRUST_DOMAIN, &string("trustDomain"))
        .replace(IMAGE, &string("image"))
        .replace(LEAF_LIFE, &string("leafLife"))
        .replace(REPLICAS, "{{ if .Values.dev }}1{{ else }}2{{ end }}")
        .replace(EXPOSE, &string("expose"))
        .replace(EDGE_ISSUER, &string("edgeIssuer"))
        .replace(ACME_ROOTS, &string("acme.roots"))
        .replace(
            GATEWAY_GRACE,
            &format!("{{{{ add .Values.gateway.drainSeconds .Values.gateway.finishSeconds {GRACE} }}}}"),
        )
        .replace(
            GATEWAY_POD_SECURITY,
            r#"{{ if eq .Values.expose "hostport" }}privileged{{ else }}restricted{{ end }}"#,
        )
        .replace(GATEWAY, &gateway());
    line + "\n"
}

/// A flag with its value, where there is one (`with`), or for each of a list (`range`).
fn flags(indent: &str, block: &str, value: &str, flag: &str) -> String {
    format!(
        "{indent}{{{{- {block} .Values.{value} }}}}\n{indent}- {flag}\n{indent}- {{{{ . | toJson }}}}\n{indent}{{{{- end }}}}\n"
    )
}

/// The JSON of [`manifests::gateway`], with the release's values, as a JSON string.
fn gateway() -> String {
    let Gateway { ca, edge, .. } = manifests::gateway("", Serving::default());
    format!(
        r#"{{{{ dict "trustDomain" .Values.trustDomain "ca" "{ca}" "edge" "{edge}" "serving" .Values.gateway | toJson | toJson }}}}"#
    )
}

fn about() -> Value {
    json!({
        "apiVersion": "v2",
        "name": "signet",
        "description": "Mutual TLS between the services of a cluster, without changing them",
        "type": "application",
        "version": VERSION,
        "appVersion": VERSION,
        "kubeVersion": ">=1.33.0-0",
    })
}

/// What `signet install` checks of its options, as far as a schema can say it.
fn schema() -> Value {
    json!({
        "$schema": "http://json-schema.org/draft-07/schema#",
        "type": "object",
        "additionalProperties": false,
        "required": ["trustDomain", "image", "leafLife", "dev", "meshRanges", "expose", "edgeIssuer", "edgeSuffixes", "acme", "gateway", "gatewayAutoscaled", "createNamespace"],
        "properties": {
            "trustDomain": { "type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[a-z0-9._-]+$" },
            "image": { "type": "string", "pattern": "^[!-~]+$" },
            "leafLife": { "type": "string", "pattern": "^([1-9][0-9]*)[smhd]$" },
            "dev": { "type": "boolean" },
            "meshRanges": {
                "type": "array",
                "minItems": 1,
                "items": { "type": "string", "pattern": "^[0-9a-fA-F.:]+/[0-9]{1,3}$" },
            },
            "expose": { "enum": ["loadbalancer", "hostport", "none"] },
            "edgeIssuer": { "enum": ["none", "local"] },
            "edgeSuffixes": { "type": "array", "items": { "type": "string", "pattern": SUFFIX } },
            "acme": acme_schema(),
            "gateway": {
                "type": "object",
                "additionalProperties": false,
                "required": ["drainSeconds", "finishSeconds"],
                "properties": {
                    "proxyProtocol": { "type": "array", "items": { "type": "string", "pattern": "^[0-9a-fA-F.:]+/[0-9]{1,3}$" } },
                    "trustedHops": { "type": "integer", "minimum": 0 },
                    "drainSeconds": { "type": "integer", "minimum": 0, "maximum": 86400 },
                    "finishSeconds": { "type": "integer", "minimum": 0, "maximum": 86400 },
                    "workers": { "type": "integer", "minimum": 1, "maximum": 64 },
                    "connections": { "type": "integer", "minimum": 1 },
                    "connectionsPerClient": { "type": "integer", "minimum": 1 },
                    "handshakes": { "type": "integer", "minimum": 1 },
                    "handshakesPerClient": { "type": "integer", "minimum": 1 },
                    "handshakeSeconds": { "type": "integer", "minimum": 1, "maximum": 86400 },
                    "http": http_schema(),
                },
            },
            "gatewayAutoscaled": { "type": "boolean" },
            "createNamespace": { "type": "boolean" },
            "global": { "type": "object" }, // Helm's own, in a chart of charts
        },
    })
}

/// As [`super::acme`] judges its options.
fn acme_schema() -> Value {
    let given = |name: &str| json!({ "properties": { name: { "minLength": 1 } }, "required": [name] });
    json!({
        "type": "object",
        "additionalProperties": false,
        "properties": {
            "email": { "type": "string", "pattern": "^([^@, ]+@[^@, ]+[.][^@, ]+)?$" },
            "directory": { "type": "string", "pattern": "^(https://.+)?$" },
            "staging": { "type": "string", "pattern": "^(https://.+)?$" },
            "profile": { "type": "string", "pattern": "^[!-~]*$" },
            // What is printed may be kept in Git.
            "roots": {
                "type": "string",
                "maxLength": 65536,
                "pattern": "^$|-----BEGIN CERTIFICATE-----",
                "not": { "pattern": "PRIVATE KEY" },
            },
            "resolvers": { "type": "array", "items": { "type": "string", "pattern": RESOLVER } },
        },
        // About a CA, which somebody names.
        "allOf": [
            { "if": given("staging"), "then": given("directory") },
            {
                "if": { "anyOf": [given("profile"), given("roots")] },
                "then": { "anyOf": [given("email"), given("directory")] },
            },
        ],
    })
}

/// The same words and ranges as the gateway's own check.
fn http_schema() -> Value {
    let mut groups = Map::new();
    let mut add = |group: &str, name: &str, schema: Value| {
        let group = groups
            .entry(group)
            .or_insert_with(|| json!({ "type": "object", "additionalProperties": false, "properties": {} }));
        group["properties"][name] = schema;
    };
    for number in HttpSettings::default().numbers() {
        let (least, most) = (number.range.start(), number.range.end());
        add(number.group, number.name, json!({ "type": "integer", "minimum": least, "maximum": most }));
    }
    for (group, name, words) in HttpSettings::WORDS {
        add(group, name, json!({ "enum": words }));
    }
    json!({ "type": "object", "additionalProperties": false, "properties": groups })
}

const VALUES: &str = "\
# First part of every identity; cannot be changed later.
trustDomain: cluster.local
# The image of control plane and proxies.
image: IMAGE
# Longest life of a workload's certificate, 1h to 24h.
leafLife: 24h
# One replica of each part and no disruption budgets: a laptop.
dev: false
# Needed: the cluster's pod and Service ranges. Inside them nothing is sent in plaintext unless the controller says so; outside of
# them everything passes. `signet install | grep -A1 mesh-range` shows what the cluster tells.
meshRanges: []
# How public hosts are reached: loadbalancer (gateways behind a Service of type LoadBalancer), hostport (a gateway on each node, at the
# node's ports 80 and 443), or none (no edge and no gateways: the mesh alone).
expose: loadbalancer
# Who certifies the hosts of Ingresses that ask for a certificate and bring none: none, or local (the edge CA, docs/edge-ca.md), which
# is for names below these suffixes, too, beside .localhost and .test.
edgeIssuer: none
edgeSuffixes: []
# Who certifies public hosts (docs/acme.md): with an e-mail address Let's Encrypt, whose terms you agree to by it; or the CA at an ACME
# directory (https://..). Beside it: the directory of its staging environment, where first orders are rehearsed; a profile of the CA;
# PEM with the roots that its server is believed by. Whoever the CA is: DNS servers (IP:PORT) that are asked about names before an order,
# instead of the cluster's.
acme:
  email: \"\"
  directory: \"\"
  staging: \"\"
  profile: \"\"
  roots: \"\"
  resolvers: []
# How gateways serve; docs/gateway.md has all fields and their defaults, docs/http.md those of requests, below \"http\".
gateway:
SERVING# Leave the number of gateways to an autoscaler: print none.
gatewayAutoscaled: false
# Whether the chart makes the namespace signet-system, with its Pod Security labels. With false it has to be there:
# helm install --namespace signet-system --create-namespace
createNamespace: true
";

/// As [`signet_edge_ca::Suffix`] takes it: several labels, of which the last is no number, or one that the public DNS never has.
const SUFFIX: &str = "^(([a-z0-9]([a-z0-9-]*[a-z0-9])?\\.)+[a-z]([a-z0-9-]*[a-z0-9])?|corp|example|home|internal|intranet|invalid|lan|local|localhost|mail|test)$";

/// "192.0.2.53:53", "[2001:db8::53]:53"
const RESOLVER: &str = "^([0-9.]+|\\[[0-9a-fA-F:.]+\\]):[0-9]{1,5}$";

// Words that YAML writes as they are, and that occur nowhere else.
const TRUST_DOMAIN: &str = "HELM_TRUST_DOMAIN";
const IMAGE: &str = "HELM_IMAGE";
const LEAF_LIFE: &str = "HELM_LEAF_LIFE";
const MESH_RANGES: &str = "HELM_MESH_RANGES";
const REPLICAS: &str = "HELM_REPLICAS";
const EXPOSE: &str = "HELM_EXPOSE";
const EDGE_ISSUER: &str = "HELM_EDGE_ISSUER";
const EDGE_SUFFIXES: &str = "HELM_EDGE_SUFFIXES";
const ACME: &str = "HELM_ACME_FLAGS";
const ACME_ROOTS: &str = "HELM_ACME_PEM";
const GATEWAY: &str = "HELM_GATEWAY_JSON";
const GATEWAY_REPLICAS: &str = "HELM_GATEWAY_COUNT";
const GATEWAY_GRACE: &str = "HELM_GATEWAY_GRACE";
const GATEWAY_POD_SECURITY: &str = "HELM_GATEWAY_POD_SECURITY";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_chart_that_is_checked_in_is_current() {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/helm");
        for (path, want) in chart().unwrap() {
            let have = fs::read_to_string(directory.join(&path)).unwrap_or_default();
            assert_eq!(have, want, "{path} is old; run: signet install --helm deploy/helm");
        }
        let templates = fs::read_dir(directory.join("templates")).unwrap().count();
        assert_eq!(templates, chart().unwrap().keys().filter(|path| path.starts_with("templates/")).count());
    }

    #[test]
    fn what_the_chart_says_of_acme_has_a_value_a_check_and_a_way_to_edge() {
        let chart = chart().unwrap();
        let values: Value = serde_saphyr::from_str(&chart["values.yaml"]).unwrap();
        let of = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
        let mut names = of(&values["acme"]);
        names.sort_unstable();
        let mut checked = of(&acme_schema()["properties"]);
        checked.sort_unstable();
        assert_eq!(names, checked);
        for name in names {
            assert!(chart["templates/edge.yaml"].contains(&format!(" .Values.acme.{name} ")), "{name}");
        }
    }

    #[test]
    fn no_placeholder_is_left_and_nothing_is_printed_unquoted() {
        for (path, text) in chart().unwrap() {
            assert!(!text.contains("HELM_"), "{path}");
            for line in text.lines().filter(|line| path.starts_with("templates/") && line.contains("{{ .")) {
                assert!(line.contains("| toJson }}"), "{path}: {line}");
            }
        }
    }
}
