//! Has a Pod our proxy, should it have, and if it should and has not: why, and what to do about it.
//!
//! The webhook says the same to who creates a Pod (`injector`); here it is concluded from the Pod that is there, also for those
//! that the webhook never saw.

use k8s_openapi::{
    api::core::v1::{Container, PodSpec},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use signet_core::pod::{OTHER_MESHES, POD_SECURITY, PROXY_CONTAINER, PROXY_UID};

/// What a Pod's spec says about it.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Injection {
    /// Its own label, or its Namespace's, wants it in the mesh.
    pub wanted: bool,
    /// It holds our proxy: a restartable init container of our name. Whether that runs yet is another question.
    pub proxy: bool,
    /// An app container that runs as the proxy's user, whose traffic capture would let pass.
    pub as_proxy_user: Option<String>,
    /// A container of another mesh.
    pub other_mesh: Option<String>,
    pub owner: Option<Owner>,
}

/// What made a Pod: ReplicaSet, StatefulSet, DaemonSet, Job, ...
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Owner {
    pub kind: String,
    pub name: String,
}

/// Why a Pod that should have a proxy has none.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Obstacle {
    HostNetwork,
    /// The container's name.
    OtherMesh(String),
    /// The container's name.
    ProxyUser(String),
    /// What Pod Security enforces in its namespace.
    PodSecurity(String),
    /// It could be, but was not when it was created.
    NotAsked,
}

impl Injection {
    pub(super) fn of(meta: &ObjectMeta, spec: Option<&PodSpec>, wanted: bool) -> Self {
        let Some(spec) = spec else { return Self { wanted, ..Self::default() } };
        let inits = || spec.init_containers.iter().flatten();
        let is_proxy =
            |c: &Container| c.name == PROXY_CONTAINER && c.restart_policy.as_deref() == Some("Always");
        let of_pod = spec.security_context.as_ref().and_then(|context| context.run_as_user);
        let user =
            |c: &Container| c.security_context.as_ref().and_then(|context| context.run_as_user).or(of_pod);
        let containers = || spec.containers.iter().chain(inits());
        let named = |c: &Container| c.name.clone();
        Self {
            wanted,
            proxy: inits().any(is_proxy),
            as_proxy_user: spec.containers.iter().find(|c| user(c) == Some(PROXY_UID)).map(named),
            other_mesh: containers().find(|c| OTHER_MESHES.contains(&c.name.as_str())).map(named),
            owner: meta
                .owner_references
                .iter()
                .flatten()
                .find(|owner| owner.controller == Some(true))
                .map(|owner| Owner { kind: owner.kind.clone(), name: owner.name.clone() }),
        }
    }

    /// The first thing to fix. `pod_security`: the level that its namespace enforces, if it is one that forbids us.
    pub(super) fn obstacle(&self, host_network: bool, pod_security: Option<&str>) -> Option<Obstacle> {
        if !self.wanted || self.proxy {
            return None;
        }
        Some(match (&self.other_mesh, &self.as_proxy_user, pod_security) {
            _ if host_network => Obstacle::HostNetwork,
            (Some(container), ..) => Obstacle::OtherMesh(container.clone()),
            (_, Some(container), _) => Obstacle::ProxyUser(container.clone()),
            (.., Some(level)) => Obstacle::PodSecurity(level.to_owned()),
            _ => Obstacle::NotAsked,
        })
    }
}

impl Obstacle {
    /// For scripts.
    pub fn word(&self) -> &'static str {
        match self {
            Self::HostNetwork => "host_network",
            Self::OtherMesh(_) => "other_mesh",
            Self::ProxyUser(_) => "proxy_user",
            Self::PodSecurity(_) => "pod_security",
            Self::NotAsked => "not_asked",
        }
    }

    /// Why, in a sentence.
    pub fn why(&self) -> String {
        match self {
            Self::HostNetwork => "it is on its node's network, which cannot be captured for one Pod".into(),
            Self::OtherMesh(container) => format!("it has a proxy of another mesh, container {container}"),
            Self::ProxyUser(container) => {
                format!(
                    "container {container} runs as user {PROXY_UID}, which is the proxy's and is not captured"
                )
            }
            Self::PodSecurity(level) => {
                format!(
                    "its namespace enforces Pod Security {level}, which forbids the NET_ADMIN of the capture step"
                )
            }
            Self::NotAsked => {
                "it was created before it was labelled, or while the webhook was not asked".into()
            }
        }
    }

    /// What to do, in a sentence. `namespace` and `pod` are the Pod's.
    pub fn next_step(&self, namespace: &str, pod: &str, owner: Option<&Owner>) -> String {
        match self {
            Self::HostNetwork => format!(
                "drop hostNetwork if it does not need it, else label the Pod {}=disabled; its calls are plaintext",
                signet_core::pod::INJECT
            ),
            Self::OtherMesh(_) => {
                "take it out of the other mesh (its label or annotation), then restart it".into()
            }
            Self::ProxyUser(_) => "set another runAsUser, then restart it".into(),
            Self::PodSecurity(_) => {
                format!("label the namespace {POD_SECURITY}=privileged, then restart it")
            }
            Self::NotAsked => restart(namespace, pod, owner),
        }
    }
}

/// How to have a Pod created again. The owner of a Deployment's Pod is a ReplicaSet, named after it.
fn restart(namespace: &str, pod: &str, owner: Option<&Owner>) -> String {
    let workload = match owner.map(|owner| (owner.kind.as_str(), owner.name.as_str())) {
        Some(("ReplicaSet", name)) => name.rsplit_once('-').map(|(name, _)| format!("deployment/{name}")),
        Some(("StatefulSet", name)) => Some(format!("statefulset/{name}")),
        Some(("DaemonSet", name)) => Some(format!("daemonset/{name}")),
        _ => None,
    };
    match (workload, owner) {
        (Some(workload), _) => format!("restart it: kubectl -n {namespace} rollout restart {workload}"),
        (None, Some(owner)) => format!(
            "delete it, and its {} makes another: kubectl -n {namespace} delete pod {pod}",
            owner.kind
        ),
        (None, None) => {
            format!("create it again; nothing else does: kubectl -n {namespace} delete pod {pod}")
        }
    }
}

/// [`super::Transport::Plain`] of a Pod that is labelled and has no proxy.
pub const NOT_INJECTED: &str = "not_injected";

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{
        build::{Manifest, mesh, namespace, objects, pod},
        index::{Index, Membership, Mesh, Transport},
    };

    fn injected() -> Mesh {
        Mesh { membership: Membership::Injected, ..mesh() }
    }

    /// How callers reach Pod shop/web, and what keeps it out.
    fn judged(namespace: Manifest, pod: Manifest) -> (String, Option<&'static str>) {
        let index = Index::build(&injected(), &objects([namespace, pod]));
        let pod = index.pod("shop", "web").unwrap();
        let how = match &pod.transport {
            Transport::Mesh(_) => "mesh".into(),
            Transport::Plain(why) => (*why).to_owned(),
        };
        (how, index.obstacle(pod).map(|obstacle| obstacle.word()))
    }

    #[test]
    fn a_pod_of_the_cluster_is_in_the_mesh_by_its_proxy_and_not_by_its_label() {
        let with_proxy = |pod: Manifest| {
            pod.with("/spec/initContainers", json!([{"name": "signet-proxy", "restartPolicy": "Always"}]))
        };
        let run_once = pod("web").with("/spec/initContainers", json!([{"name": "signet-proxy"}]));
        let user = |at: &str| pod("web").with("/spec/containers", json!([{"name": "app"}])).with(at, 1337);
        let label = |value: &str| pod("web").label("signet.dev/inject", value);
        let bare = || namespace("shop").label("signet.dev/inject", "disabled");
        let secured = |level: &str| namespace("shop").label(POD_SECURITY, level);
        let linkerd = pod("web").with("/spec/initContainers", json!([{"name": "linkerd-init"}]));
        let istio = pod("web").with("/spec/containers", json!([{"name": "app"}, {"name": "istio-proxy"}]));
        let user_of_container = pod("web")
            .with("/spec/containers", json!([{"name": "app", "securityContext": {"runAsUser": 1337}}]));
        for (case, namespace, pod, how, obstacle) in [
            ("labelled, with proxy", namespace("shop"), with_proxy(pod("web")), "mesh", None),
            ("labelled, without", namespace("shop"), pod("web"), "not_injected", Some("not_asked")),
            (
                "an init container that ends is no proxy",
                namespace("shop"),
                run_once,
                "not_injected",
                Some("not_asked"),
            ),
            ("not labelled, with proxy", bare(), with_proxy(pod("web")), "mesh", None),
            ("not labelled, without", bare(), pod("web"), "namespace_not_labelled", None),
            ("opted out", namespace("shop"), label("disabled"), "pod_opted_out", None),
            ("opted in", bare(), label("enabled"), "not_injected", Some("not_asked")),
            (
                "host network, even with a proxy",
                namespace("shop"),
                with_proxy(pod("web").with("/spec/hostNetwork", true)),
                "host_network",
                None,
            ),
            (
                "host network",
                namespace("shop"),
                pod("web").with("/spec/hostNetwork", true),
                "host_network",
                Some("host_network"),
            ),
            ("baseline", secured("baseline"), pod("web"), "not_injected", Some("pod_security")),
            ("privileged", secured("privileged"), pod("web"), "not_injected", Some("not_asked")),
            ("Linkerd's init container", namespace("shop"), linkerd, "not_injected", Some("other_mesh")),
            ("Istio's", namespace("shop"), istio, "not_injected", Some("other_mesh")),
            (
                "our user",
                namespace("shop"),
                user("/spec/securityContext/runAsUser"),
                "not_injected",
                Some("proxy_user"),
            ),
            (
                "our user in a container",
                namespace("shop"),
                user_of_container,
                "not_injected",
                Some("proxy_user"),
            ),
        ] {
            assert_eq!(judged(namespace, pod), (how.to_owned(), obstacle), "{case}");
        }
    }

    #[test]
    fn the_next_step_names_what_made_the_pod() {
        let step = |owner: Option<(&str, &str)>| {
            let owner = owner.map(|(kind, name)| Owner { kind: kind.into(), name: name.into() });
            Obstacle::NotAsked.next_step("shop", "web-1", owner.as_ref())
        };
        assert!(
            step(Some(("ReplicaSet", "web-5d8"))).ends_with("kubectl -n shop rollout restart deployment/web")
        );
        assert!(step(Some(("StatefulSet", "db"))).ends_with("rollout restart statefulset/db"));
        assert!(
            step(Some(("Job", "import")))
                .ends_with("its Job makes another: kubectl -n shop delete pod web-1")
        );
        assert!(step(None).starts_with("create it again"));
    }
}
