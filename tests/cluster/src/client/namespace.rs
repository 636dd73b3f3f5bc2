//! A namespace of a test's own, and waiting for what is in it.

use std::{fmt, time::Duration};

use anyhow::{Context as _, Result};
use k8s_openapi::{
    NamespaceResourceScope,
    api::{apps, core::v1, discovery::v1::EndpointSlice},
};
use kube::{
    Api, Resource, ResourceExt as _,
    api::{DeleteParams, PostParams},
    core::PartialObjectMeta,
};

use super::{
    Cluster, kube_proxy,
    wait::{self, Selection, Watched},
};

/// A namespace. Clones are the same one; whoever created it deletes it ([`super::test`] does both).
#[derive(Clone)]
pub struct Namespace {
    pub cluster: Cluster,
    pub name: String,
    /// How long its waits wait.
    deadline: Duration,
}

impl Namespace {
    /// A new one, with its ServiceAccount `default`: pods can be created in it.
    pub async fn create(cluster: &Cluster, prefix: &str) -> Result<Self> {
        let suffix: String = (0..SUFFIX).map(|_| fastrand::lowercase()).collect();
        let namespace =
            Self { cluster: cluster.clone(), name: format!("{prefix}-{suffix}"), deadline: wait::DEADLINE };
        let mut object = v1::Namespace::default();
        object.metadata.name = Some(namespace.name.clone());
        let api = Api::<v1::Namespace>::all(cluster.client.clone());
        api.create(&PostParams::default(), &object)
            .await
            .with_context(|| format!("create namespace {namespace}"))?;
        namespace.wait_for::<v1::ServiceAccount>("default", "to exist", |_| true).await?;
        Ok(namespace)
    }

    /// One that others make and delete; it need not be there yet.
    pub fn of_others(cluster: &Cluster, name: &str) -> Self {
        Self { cluster: cluster.clone(), name: name.into(), deadline: wait::DEADLINE }
    }

    /// The same namespace, with waits that wait so long.
    pub fn within(&self, deadline: Duration) -> Self {
        Self { deadline, ..self.clone() }
    }

    pub fn api<K>(&self) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.cluster.client.clone(), &self.name)
    }

    /// Waits until the object exists and `holds` of it, and returns it. `what` ends "waited for the Pod web ...".
    pub async fn wait_for<K>(&self, name: &str, what: &str, holds: impl Fn(&K) -> bool) -> Result<K>
    where
        K: Watched + Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
    {
        let what = format!("the {} {name} {what}", K::kind(&()));
        wait::until(&self.api::<K>(), Selection::Named(name), &what, self.deadline, |objects| {
            objects.iter().find(|object| holds(object)).map(|object| (*object).clone())
        })
        .await
    }

    /// Waits until `find` finds something among all objects with these labels ("app=web"; "" for all).
    pub async fn wait_among<K, T>(
        &self,
        labels: &str,
        what: &str,
        find: impl FnMut(&[&K]) -> Option<T>,
    ) -> Result<T>
    where
        K: Watched + Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
    {
        let selection = if labels.is_empty() { Selection::Everything } else { Selection::Labelled(labels) };
        wait::until(&self.api::<K>(), selection, what, self.deadline, find).await
    }

    /// Waits until `find` finds something among all objects of `api`.
    pub async fn wait_in<K: Watched, T>(
        &self,
        api: &Api<K>,
        what: &str,
        find: impl FnMut(&[&K]) -> Option<T>,
    ) -> Result<T> {
        wait::until(api, Selection::Everything, what, self.deadline, find).await
    }

    /// Asks again and again until the answer is no error. Only for what cannot be watched, like an answer of DNS.
    pub async fn eventually<T>(&self, what: &str, ask: impl AsyncFnMut() -> Result<T>) -> Result<T> {
        wait::eventually(what, self.deadline, ask).await
    }

    /// Waits until the pod is Ready.
    pub async fn wait_ready(&self, pod: &str) -> Result<v1::Pod> {
        self.wait_for(pod, "to be Ready", is_ready).await
    }

    /// Waits until exactly `count` pods have these labels and each is Ready.
    pub async fn wait_ready_pods(&self, labels: &str, count: usize) -> Result<Vec<v1::Pod>> {
        let what = format!("{count} Ready pods with {labels}");
        self.wait_among(labels, &what, |pods: &[&v1::Pod]| {
            let all = pods.len() == count && pods.iter().all(|pod| is_ready(pod));
            all.then(|| pods.iter().map(|pod| (*pod).clone()).collect())
        })
        .await
    }

    /// Waits until the Deployment's newest pods are available, all of them, and no other is left.
    pub async fn wait_deployment_available(&self, name: &str) -> Result<apps::v1::Deployment> {
        self.wait_for(name, "to be available", |deployment: &apps::v1::Deployment| {
            let wanted = deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
            deployment.status.as_ref().is_some_and(|status| {
                status.observed_generation >= deployment.metadata.generation
                    && status.updated_replicas.unwrap_or(0) == wanted
                    && status.available_replicas.unwrap_or(0) == wanted
                    && status.replicas.unwrap_or(0) == wanted
            })
        })
        .await
    }

    /// Waits until the Service has `count` ready endpoints of each of its address families, and the kube-proxy of every
    /// node forwards to them: a request sent after this can reach any of them, from anywhere.
    pub async fn wait_endpoints(&self, service: &str, count: usize) -> Result<()> {
        let what = format!("a cluster IP of Service {service}");
        let object = self
            .wait_for(service, &what, |service: &v1::Service| {
                service.spec.as_ref().is_some_and(|spec| spec.ip_families.is_some())
            })
            .await?;
        let spec = object.spec.unwrap_or_default();
        let families = spec.ip_families.unwrap_or_default();
        let what = format!("{count} ready endpoints of Service {service} in each of {families:?}");
        self.wait_among(
            &format!("kubernetes.io/service-name={service}"),
            &what,
            |slices: &[&EndpointSlice]| {
                let all = families.iter().all(|family| ready_endpoints(slices, family) == count);
                all.then_some(())
            },
        )
        .await?;
        if spec.cluster_ip.as_deref() == Some("None") {
            return Ok(()); // headless: no kube-proxy in the way
        }
        let ports = spec.ports.map_or(0, |ports| ports.len());
        let ways = ports * families.len();
        kube_proxy::wait_endpoints(&self.cluster, &format!("{}/{service}", self.name), ways, count).await
    }

    /// Asks the API server to delete everything in it and does not wait for that.
    pub async fn delete(&self) -> Result<()> {
        let api = Api::<v1::Namespace>::all(self.cluster.client.clone());
        api.delete(&self.name, &DeleteParams::background())
            .await
            .with_context(|| format!("delete namespace {self}"))?;
        Ok(())
    }

    /// Its UID, for owner references.
    pub(super) async fn uid(&self) -> Result<String> {
        let api = Api::<PartialObjectMeta<v1::Namespace>>::all(self.cluster.client.clone());
        api.get_metadata(&self.name).await?.uid().with_context(|| format!("namespace {self} has no UID"))
    }
}

impl fmt::Display for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

/// Ready, and not on its way out.
pub fn is_ready(pod: &v1::Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    let ready =
        conditions.is_some_and(|all| all.iter().any(|one| one.type_ == "Ready" && one.status == "True"));
    ready && pod.metadata.deletion_timestamp.is_none()
}

fn ready_endpoints(slices: &[&EndpointSlice], family: &str) -> usize {
    let of_family = slices.iter().filter(|slice| slice.address_type == family);
    let endpoints = of_family.flat_map(|slice| &slice.endpoints);
    endpoints
        .filter(|endpoint| {
            endpoint.conditions.as_ref().is_some_and(|conditions| conditions.ready == Some(true))
        })
        .count()
}

/// Letters: 26^6 names, for tests that run at the same time.
const SUFFIX: usize = 6;
