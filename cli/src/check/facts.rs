//! What `signet check` looks at, asked once.

use std::collections::BTreeSet;

use anyhow::{Result, bail};
use futures_util::future::join_all;
use k8s_openapi::{
    api::{
        admissionregistration::v1::MutatingWebhookConfiguration,
        apps::v1::Deployment,
        authorization::v1::{ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec},
        core::v1::{Namespace, Node, Pod},
    },
    apimachinery::pkg::version::Info,
};
use kube::{
    Api,
    api::{ListParams, PostParams},
};
use signet_core::{bundle::TrustBundle, clock, identity::SYSTEM_NAMESPACE};
use time::OffsetDateTime;

use crate::{
    ca,
    cluster::{Cluster, Part},
    install::manifests,
    replicas,
    shapes::{ControllerStatus, EdgeCaAnswer, FindingList, IngressFinding},
};

/// `None`: not asked, or not answered; then `unchecked` says why.
pub(crate) struct Facts {
    pub(super) now: OffsetDateTime,
    pub(super) server: Option<Info>,
    pub(super) nodes: Vec<Node>,
    pub(super) namespaces: Vec<Namespace>,
    /// "create deployments.apps in signet-system"
    pub(super) denied: Vec<String>,
    /// What follows is not asked before an installation.
    pub(super) installed: bool,
    pub(super) pods: Vec<Pod>,
    pub(super) webhook: Option<MutatingWebhookConfiguration>,
    pub(super) controller_deployment: Option<Deployment>,
    /// `None` also in a mesh without public hosts.
    pub(super) edge_deployment: Option<Deployment>,
    pub(super) bundle: Option<TrustBundle>,
    pub(super) ca: Option<ca::Answer>,
    pub(super) controller: Option<ControllerStatus>,
    /// What edge found of Ingresses.
    pub(super) ingresses: Vec<IngressFinding>,
    /// The edge CA, where an Ingress wants it.
    pub(super) edge_ca: Option<EdgeCaAnswer>,
    pub(super) unchecked: Vec<String>,
}

impl Facts {
    pub(super) fn nothing(now: OffsetDateTime) -> Self {
        Self {
            now,
            server: None,
            nodes: Vec::new(),
            namespaces: Vec::new(),
            denied: Vec::new(),
            installed: false,
            pods: Vec::new(),
            webhook: None,
            controller_deployment: None,
            edge_deployment: None,
            bundle: None,
            ca: None,
            controller: None,
            ingresses: Vec::new(),
            edge_ca: None,
            unchecked: Vec::new(),
        }
    }

    /// An error: nobody answers at all.
    pub(super) async fn ask(cluster: &Cluster, pre: bool) -> Result<Self> {
        let server = cluster.client.apiserver_version().await;
        let server = server.map_err(|e| cluster.explain("asking for the version", e))?;
        let mut facts = Self { server: Some(server), installed: !pre, ..Self::nothing(clock::now()) };
        let all = ListParams::default();
        let nodes = Api::<Node>::all(cluster.client.clone());
        let namespaces = Api::<Namespace>::all(cluster.client.clone());
        let (nodes, namespaces) = tokio::join!(nodes.list(&all), namespaces.list(&all));
        facts.nodes = facts.or_none(cluster, "the nodes", nodes).map_or_else(Vec::new, |list| list.items);
        facts.namespaces =
            facts.or_none(cluster, "the namespaces", namespaces).map_or_else(Vec::new, |list| list.items);
        if pre {
            facts.denied = denied(cluster).await?;
            return Ok(facts);
        }
        let client = || cluster.client.clone();
        let webhooks = Api::<MutatingWebhookConfiguration>::all(client());
        let deployments = Api::<Deployment>::namespaced(client(), SYSTEM_NAMESPACE);
        let pods = Api::<Pod>::all(client());
        let running = ListParams::default().fields("status.phase!=Succeeded,status.phase!=Failed");
        let (webhook, controller, edge, pods) = tokio::join!(
            webhooks.get_opt("signet-injector"),
            deployments.get_opt("controller"),
            deployments.get_opt("edge"),
            pods.list(&running)
        );
        facts.webhook = facts.or_none(cluster, "the webhook", webhook).flatten();
        facts.controller_deployment =
            facts.or_none(cluster, "the controller's Deployment", controller).flatten();
        facts.edge_deployment = facts.or_none(cluster, "edge's Deployment", edge).flatten();
        facts.pods = facts.or_none(cluster, "the pods", pods).map_or_else(Vec::new, |list| list.items);
        facts.ask_parts(cluster).await;
        Ok(facts)
    }

    /// That nobody answers is told by the pods, too; so it is no finding of its own.
    async fn ask_parts(&mut self, cluster: &Cluster) {
        let bundle = async {
            let pem = cluster.ask_any_text(Part::Ca, "/v1/bundle").await?;
            match TrustBundle::from_pem(pem.as_bytes()) {
                Ok(bundle) => Ok(bundle),
                Err(why) => bail!("the CA's bundle {why}"),
            }
        };
        let controller = cluster.ask_all::<ControllerStatus>(Part::Controller, "/v1/status");
        let ca = ca::ask_cluster(cluster);
        let has_edge = self.edge_deployment.is_some();
        let ingresses = async {
            if !has_edge {
                return Ok(FindingList::default());
            }
            let answers = cluster.ask_all::<FindingList>(Part::Edge, "/v1/findings").await?;
            let answers = cluster.some(Part::Edge, answers)?.given.into_iter().map(|(_, list)| list);
            // All decide alike; what holds an order back only the replica knows that orders.
            anyhow::Ok(replicas::leading(answers, |list| list.leads).unwrap_or_default())
        };
        let (bundle, ca, controller, ingresses) =
            tokio::join!(Box::pin(bundle), Box::pin(ca), Box::pin(controller), Box::pin(ingresses));
        self.bundle = bundle.map_err(|e| self.unchecked.push(format!("the CA's roots: {e:#}"))).ok();
        self.ca = ca.map_err(|e| self.unchecked.push(format!("the CA's certificates: {e:#}"))).ok();
        let ingresses = ingresses.map_err(|e| self.unchecked.push(format!("the Ingresses: {e:#}"))).ok();
        FindingList { findings: self.ingresses, edge_ca: self.edge_ca, .. } = ingresses.unwrap_or_default();
        let answers = controller.map_err(|e| self.unchecked.push(format!("the proxies: {e:#}"))).ok();
        self.controller = answers.and_then(|answers| {
            self.unchecked.extend(answers.missing.iter().map(|missing| format!("the proxies: {missing}")));
            replicas::status(answers.given.into_iter().map(|(_, status)| status))
        });
    }

    fn or_none<T>(&mut self, cluster: &Cluster, what: &str, answer: kube::Result<T>) -> Option<T> {
        let failed = |e| self.unchecked.push(format!("{what}: {:#}", cluster.explain("asking for it", e)));
        answer.map_err(failed).ok()
    }
}

/// What the user's account may not do, of what applying the manifests takes: each kind once. RBAC also refuses to grant rights that
/// the granter lacks, so those that our Roles hold are asked, too, in the words of the rule.
async fn denied(cluster: &Cluster) -> Result<Vec<String>> {
    let reviews = Api::<SelfSubjectAccessReview>::all(cluster.client.clone());
    let asked = needed()?.into_iter().map(|attributes| {
        let reviews = &reviews;
        async move {
            let words = words(&attributes);
            let spec =
                SelfSubjectAccessReviewSpec { resource_attributes: Some(attributes), ..Default::default() };
            let review = SelfSubjectAccessReview { spec, ..Default::default() };
            let answer = reviews.create(&PostParams::default(), &review).await;
            let answer = answer.map_err(|e| cluster.explain("asking for your rights", e))?;
            anyhow::Ok((words, answer.status.is_some_and(|status| status.allowed)))
        }
    });
    let answers: Vec<(String, bool)> = join_all(asked).await.into_iter().collect::<Result<_>>()?;
    Ok(answers.into_iter().filter(|(_, allowed)| !allowed).map(|(words, _)| words).collect())
}

fn words(attributes: &ResourceAttributes) -> String {
    let word = |field: &Option<String>| field.clone().unwrap_or_default();
    let group = attributes.group.iter().filter(|group| !group.is_empty()).map(|group| format!(".{group}"));
    let group: String = group.collect();
    let place = attributes.namespace.iter().map(|namespace| format!(" in {namespace}")).collect::<String>();
    format!("{} {}{group}{place}", word(&attributes.verb), word(&attributes.resource))
}

/// `patch` is server-side apply of what is there, `create` of what is not.
fn needed() -> Result<Vec<ResourceAttributes>> {
    let mut needed = Vec::new();
    let mut kinds = BTreeSet::new();
    for object in manifests::everything()? {
        let word = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
        let (api_version, kind) = (word(&object["apiVersion"]), word(&object["kind"]));
        if !kinds.insert(kind.clone()) {
            continue;
        }
        let group = api_version.split_once('/').map_or("", |(group, _)| group).to_owned();
        let plural =
            kube::core::ApiResource::from_gvk(&kube::core::GroupVersionKind::gvk("", "", &kind)).plural;
        for verb in ["create", "patch"] {
            needed.push(ResourceAttributes {
                group: Some(group.clone()),
                resource: Some(plural.clone()),
                namespace: object["metadata"]["namespace"].as_str().map(Into::into),
                verb: Some(verb.into()),
                ..ResourceAttributes::default()
            });
        }
    }
    // The rarest of the rights that our Roles grant; who lacks them cannot grant them, unless he may escalate.
    for (group, resource, verb) in [
        ("authentication.k8s.io", "tokenreviews", "create"),
        ("", "configmaps", "create"),
        ("", "pods", "list"),
    ] {
        needed.push(ResourceAttributes {
            group: Some(group.into()),
            resource: Some(resource.into()),
            verb: Some(verb.into()),
            ..ResourceAttributes::default()
        });
    }
    Ok(needed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_the_manifests_is_asked_for_by_its_resource() {
        let words: Vec<String> = needed().unwrap().iter().map(words).collect();
        for want in [
            "create namespaces",
            "patch namespaces",
            "create deployments.apps in signet-system",
            "patch mutatingwebhookconfigurations.admissionregistration.k8s.io",
            "create poddisruptionbudgets.policy in signet-system",
            "create clusterroles.rbac.authorization.k8s.io",
            "create tokenreviews.authentication.k8s.io",
        ] {
            assert!(words.contains(&want.to_owned()), "{want} is not in {words:#?}");
        }
    }
}
