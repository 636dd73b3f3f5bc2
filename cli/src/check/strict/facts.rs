//! What `signet check --strict-ready` looks at, asked once.

use anyhow::{Context as _, Result};
use k8s_openapi::{
    api::{
        admissionregistration::v1::{
            MutatingWebhookConfiguration, ServiceReference, ValidatingWebhookConfiguration,
        },
        core::v1::{Namespace, Node, Pod, Service},
        networking::v1::NetworkPolicy,
    },
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
    kube_aggregator::pkg::apis::apiregistration::v1::APIService,
};
use kube::{Api, ResourceExt as _, api::ListParams};
use signet_core::identity::SYSTEM_NAMESPACE;

use crate::{
    cluster::{Cluster, Part},
    replicas,
    shapes::{Edge, EdgeList},
};

/// What could not be asked is empty; then `unchecked` says why.
pub(in crate::check) struct Facts {
    /// The one that shall go strict.
    pub(super) namespace: Namespace,
    /// Of the whole mesh.
    pub(super) edges: Vec<Edge>,
    /// Of all namespaces, but for those that have ended.
    pub(super) pods: Vec<Pod>,
    pub(super) namespaces: Vec<Namespace>,
    pub(super) nodes: Vec<Node>,
    /// Of the namespace.
    pub(super) services: Vec<Service>,
    pub(super) calls: Vec<ApiCall>,
    /// Of the namespace and of ours.
    pub(super) policies: Vec<NetworkPolicy>,
    pub(in crate::check) unchecked: Vec<String>,
}

/// The API server calls a Service of the namespace.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct ApiCall {
    /// "validating webhook policy.example.com"
    pub(super) who: String,
    pub(super) service: String,
    /// Of the Service.
    pub(super) port: i32,
}

impl Facts {
    /// An error: nobody answers at all, or there is no such namespace.
    pub(in crate::check) async fn ask(cluster: &Cluster, name: &str) -> Result<Self> {
        let client = || cluster.client.clone();
        let all = ListParams::default();
        let running = ListParams::default().fields("status.phase!=Succeeded,status.phase!=Failed");
        let namespaces = Api::<Namespace>::all(client()).list(&all).await;
        let namespaces = namespaces.map_err(|e| cluster.explain("asking for the namespaces", e))?.items;
        let namespace = namespaces.iter().find(|namespace| namespace.name_any() == name).cloned();
        let namespace = namespace.with_context(|| format!("{} has no namespace {name}", cluster.name))?;
        let (pods, nodes) = (Api::<Pod>::all(client()), Api::<Node>::all(client()));
        let services = Api::<Service>::namespaced(client(), name);
        let policies = Api::<NetworkPolicy>::namespaced(client(), name);
        let our_policies = Api::<NetworkPolicy>::namespaced(client(), SYSTEM_NAMESPACE);
        let (pods, nodes, services, policies, our_policies, edges) = tokio::join!(
            pods.list(&running),
            nodes.list(&all),
            services.list(&all),
            policies.list(&all),
            our_policies.list(&all),
            Box::pin(cluster.ask_all::<EdgeList>(Part::Controller, "/v1/edges")),
        );
        let mut unchecked = Vec::new();
        let mut facts = Self {
            namespace,
            edges: Vec::new(),
            pods: items(cluster, "the pods", pods, &mut unchecked),
            namespaces,
            nodes: items(cluster, "the nodes", nodes, &mut unchecked),
            services: items(cluster, "the Services", services, &mut unchecked),
            calls: Box::pin(calls(cluster, name, &mut unchecked)).await,
            policies: items(cluster, "the NetworkPolicies", policies, &mut unchecked),
            unchecked,
        };
        let ours = items(cluster, "the NetworkPolicies of signet-system", our_policies, &mut facts.unchecked);
        facts.policies.extend(ours);
        match edges {
            Ok(answers) => {
                facts
                    .unchecked
                    .extend(answers.missing.iter().map(|missing| format!("the callers: {missing}")));
                facts.edges = replicas::edges(answers.given.into_iter().map(|(_, answer)| answer.edges));
            }
            Err(e) => facts.unchecked.push(format!("the callers: {e:#}")),
        }
        Ok(facts)
    }
}

fn items<K: Clone>(
    cluster: &Cluster,
    what: &str,
    answer: kube::Result<kube::api::ObjectList<K>>,
    unchecked: &mut Vec<String>,
) -> Vec<K> {
    let failed = |e| unchecked.push(format!("{what}: {:#}", cluster.explain("asking for them", e)));
    answer.map_err(failed).map_or_else(|()| Vec::new(), |list| list.items)
}

/// Whom the API server calls in the namespace: webhooks of admission and of conversion, and aggregated APIs.
async fn calls(cluster: &Cluster, namespace: &str, unchecked: &mut Vec<String>) -> Vec<ApiCall> {
    let client = || cluster.client.clone();
    let all = ListParams::default();
    let (mutating, validating) = (
        Api::<MutatingWebhookConfiguration>::all(client()),
        Api::<ValidatingWebhookConfiguration>::all(client()),
    );
    let (apis, kinds) = (Api::<APIService>::all(client()), Api::<CustomResourceDefinition>::all(client()));
    let (mutating, validating, apis, kinds) =
        tokio::join!(mutating.list(&all), validating.list(&all), apis.list(&all), kinds.list(&all));
    let mut calls = Vec::new();
    let mut add = |who: String, at: Option<&str>, service: Option<&str>, port: Option<i32>| {
        if at == Some(namespace)
            && let Some(service) = service
        {
            calls.push(ApiCall { who, service: service.to_owned(), port: port.unwrap_or(DEFAULT_PORT) });
        }
    };
    let mut admission = |kind: &str, name: &str, service: Option<&ServiceReference>| {
        if let Some(of) = service {
            add(format!("{kind} webhook {name}"), Some(&of.namespace), Some(&of.name), of.port);
        }
    };
    for webhook in items(cluster, "the mutating webhooks", mutating, unchecked)
        .iter()
        .flat_map(|one| one.webhooks.iter().flatten())
    {
        admission("mutating", &webhook.name, webhook.client_config.service.as_ref());
    }
    for webhook in items(cluster, "the validating webhooks", validating, unchecked)
        .iter()
        .flat_map(|one| one.webhooks.iter().flatten())
    {
        admission("validating", &webhook.name, webhook.client_config.service.as_ref());
    }
    for api in items(cluster, "the APIServices", apis, unchecked) {
        if let Some(of) = api.spec.as_ref().and_then(|spec| spec.service.as_ref()) {
            add(
                format!("APIService {}", api.name_any()),
                of.namespace.as_deref(),
                of.name.as_deref(),
                of.port,
            );
        }
    }
    for kind in items(cluster, "the CustomResourceDefinitions", kinds, unchecked) {
        let webhook = kind.spec.conversion.as_ref().and_then(|conversion| conversion.webhook.as_ref());
        let config = webhook.and_then(|webhook| webhook.client_config.as_ref());
        if let Some(of) = config.and_then(|config| config.service.as_ref()) {
            add(
                format!("conversion webhook of {}", kind.name_any()),
                Some(&of.namespace),
                Some(&of.name),
                of.port,
            );
        }
    }
    calls
}

/// Of a ServiceReference without a port, in all of these kinds.
const DEFAULT_PORT: i32 = 443;
