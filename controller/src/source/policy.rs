//! AuthorizationPolicy (signet.dev/v1alpha1) as people write it: ALLOW rules by caller and port for the pods it selects, in
//! the shape of the Gateway API's GEP-3779. docs/manifests.md shows one.
//!
//! A policy that does not parse must not be the same as no policy. So the object keeps its name and, where that much can be
//! read, whom it selects; the rest becomes `rules: Err(why)`, which allows nobody (design 7).

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize;

/// A policy, parsed as far as it can be.
#[derive(Clone, Debug, PartialEq)]
pub struct PolicyObject {
    pub namespace: String,
    pub name: String,
    /// Only counts and logs.
    pub audit: bool,
    /// The pods it selects; `None`: every pod of its namespace, because it says so or because its selector does not parse.
    pub selectors: Option<Vec<Selector>>,
    /// `Err`: it does not parse, and why; it allows nobody.
    pub rules: Result<Vec<Rule>, String>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// Empty: any caller.
    pub from: Vec<Caller>,
    /// Pod ports; empty: every port.
    pub ports: Vec<u16>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Caller {
    ServiceAccount { namespace: String, name: String },
    Spiffe(String),
}

/// The whole document; an unknown field is an error, because a misspelt restriction must not be a missing one.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Document {
    #[serde(rename = "apiVersion")]
    _api_version: serde::de::IgnoredAny,
    #[serde(rename = "kind")]
    _kind: serde::de::IgnoredAny,
    #[serde(rename = "metadata")]
    _metadata: ObjectMeta,
    pub(super) spec: Spec,
    #[serde(rename = "status")]
    _status: Option<serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Spec {
    target_refs: Option<Vec<TargetRef>>,
    action: Option<Action>,
    #[serde(default)]
    audit: bool,
    #[serde(default)]
    rules: Vec<RuleDocument>,
}

/// Only whom it selects, when the rest does not parse.
#[derive(Deserialize)]
pub(super) struct SelectorsOnly {
    spec: SelectorsOnlySpec,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SelectorsOnlySpec {
    target_refs: Option<Vec<TargetRef>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TargetRef {
    #[serde(rename = "kind")]
    _kind: TargetKind,
    selector: Selector,
}

#[derive(Deserialize)]
enum TargetKind {
    Pod,
}

/// Our own, because k8s-openapi's LabelSelector skips unknown fields, and a misspelt one would select everything.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Selector {
    match_labels: BTreeMap<String, String>,
    match_expressions: Vec<Expression>,
}

#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
struct Expression {
    key: String,
    operator: Operator,
    #[serde(default)]
    values: Vec<String>,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq)]
enum Operator {
    In,
    NotIn,
    Exists,
    DoesNotExist,
}

#[derive(Deserialize)]
enum Action {
    #[serde(rename = "ALLOW")]
    Allow,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleDocument {
    #[serde(default)]
    from: Vec<CallerDocument>,
    #[serde(default)]
    ports: Vec<std::num::NonZeroU16>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct CallerDocument {
    service_account: Option<AccountDocument>,
    spiffe: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AccountDocument {
    namespace: Option<String>,
    name: String,
}

impl PolicyObject {
    /// A policy whose document says `spec`; a rule that names no caller makes the whole policy unparsable.
    pub(super) fn new(namespace: &str, name: &str, spec: Spec) -> Self {
        let Spec { target_refs, action: Some(Action::Allow) | None, audit, rules } = spec;
        let rules = rules.into_iter().enumerate().map(|(n, rule)| rule.parse(n, namespace)).collect();
        Self {
            namespace: namespace.into(),
            name: name.into(),
            audit,
            selectors: selectors(target_refs),
            rules,
        }
    }

    /// A policy that does not parse, for the pods that it was read to select.
    pub(super) fn closed(namespace: &str, name: &str, selectors: Option<SelectorsOnly>, why: &str) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
            audit: false,
            selectors: selectors.and_then(|document| self::selectors(document.spec.target_refs)),
            rules: Err(why.into()),
        }
    }

    pub fn selects(&self, labels: &BTreeMap<String, String>) -> bool {
        self.selectors.as_ref().is_none_or(|any| any.iter().any(|selector| selector.matches(labels)))
    }
}

fn selectors(targets: Option<Vec<TargetRef>>) -> Option<Vec<Selector>> {
    let targets = targets.filter(|targets| !targets.is_empty())?;
    Some(targets.into_iter().map(|target| target.selector).collect())
}

impl RuleDocument {
    fn parse(self, n: usize, namespace: &str) -> Result<Rule, String> {
        let from = self.from.into_iter().enumerate().map(|(m, caller)| {
            match (caller.service_account, caller.spiffe) {
                (Some(AccountDocument { namespace: its, name }), None) => {
                    Ok(Caller::ServiceAccount { namespace: its.unwrap_or_else(|| namespace.into()), name })
                }
                (None, Some(id)) => Ok(Caller::Spiffe(id)),
                _ => Err(format!("spec.rules[{n}].from[{m}]: name exactly one of serviceAccount and spiffe")),
            }
        });
        Ok(Rule {
            from: from.collect::<Result<_, _>>()?,
            ports: self.ports.into_iter().map(Into::into).collect(),
        })
    }
}

impl Selector {
    /// Every label and every expression must hold; an empty selector selects every pod.
    fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.match_labels.iter().all(|(key, value)| labels.get(key) == Some(value))
            && self.match_expressions.iter().all(|e| {
                let value = labels.get(&e.key);
                match e.operator {
                    Operator::In => value.is_some_and(|value| e.values.contains(value)),
                    Operator::NotIn => !value.is_some_and(|value| e.values.contains(value)),
                    Operator::Exists => value.is_some(),
                    Operator::DoesNotExist => value.is_none(),
                }
            })
    }
}
