//! For tests: objects and indexes in a few words.

use std::sync::Arc;

use signet_core::identity::TrustDomain;

use crate::{
    index::{Index, Mesh},
    source::{
        Object,
        parse::{self, Secrets},
    },
};

/// A mesh of trust domain cluster.local, without ranges.
pub(crate) fn mesh() -> Mesh {
    Mesh::new(TrustDomain::new("cluster.local").unwrap())
}

/// An index of objects that all parse.
pub(crate) fn index<const N: usize>(manifests: [Manifest; N]) -> Index {
    Index::build(&mesh(), &objects(manifests))
}

/// An index of these objects.
pub(crate) fn index_of(objects: &[Arc<Object>]) -> Index {
    Index::build(&mesh(), objects)
}

pub(crate) fn objects<const N: usize>(manifests: [Manifest; N]) -> Vec<Arc<Object>> {
    manifests.into_iter().flat_map(|manifest| manifest.objects()).collect()
}

/// A manifest in the making.
#[derive(Clone)]
pub(crate) struct Manifest(serde_json::Value);

/// Labelled for the mesh.
pub(crate) fn namespace(name: &str) -> Manifest {
    manifest("v1", "Namespace", name).label("signet.dev/inject", "enabled")
}

/// In namespace shop, with label app=<name> and service account <name>.
pub(crate) fn pod(name: &str) -> Manifest {
    let pod = manifest("v1", "Pod", name).in_namespace("shop").label("app", name);
    pod.with("/spec/serviceAccountName", name)
}

/// In namespace shop, at port 80, selecting app=<name>.
pub(crate) fn service(name: &str) -> Manifest {
    let service = manifest("v1", "Service", name).in_namespace("shop").with("/spec/selector/app", name);
    service.with("/spec/ports", serde_json::json!([{"port": 80}]))
}

/// The slice of Service <service> in namespace shop, mapping its one port to `port`.
pub(crate) fn slice(service: &str, port: u16) -> Manifest {
    let slice =
        manifest("discovery.k8s.io/v1", "EndpointSlice", &format!("{service}-1")).in_namespace("shop");
    let slice = slice.label("kubernetes.io/service-name", service).with("/addressType", "IPv4");
    slice.with("/ports", serde_json::json!([{"port": port}])).with("/endpoints", serde_json::json!([]))
}

/// In namespace shop, with this spec in JSON.
pub(crate) fn policy(name: &str, spec: serde_json::Value) -> Manifest {
    manifest("signet.dev/v1alpha1", "AuthorizationPolicy", name).in_namespace("shop").with("/spec", spec)
}

pub(crate) fn manifest(api_version: &str, kind: &str, name: &str) -> Manifest {
    Manifest(serde_json::json!({"apiVersion": api_version, "kind": kind, "metadata": {"name": name}}))
}

impl Manifest {
    pub(crate) fn in_namespace(self, namespace: &str) -> Self {
        self.with("/metadata/namespace", namespace)
    }

    /// A Pod's IP.
    pub(crate) fn at(self, address: &str) -> Self {
        self.with("/status/podIP", address)
    }

    /// A Service's ClusterIP.
    pub(crate) fn cluster_ip(self, address: &str) -> Self {
        self.with("/spec/clusterIP", address)
    }

    pub(crate) fn label(self, key: &str, value: &str) -> Self {
        self.with_key("/metadata/labels", key, value)
    }

    pub(crate) fn annotation(self, key: &str, value: &str) -> Self {
        self.with_key("/metadata/annotations", key, value)
    }

    /// An endpoint of a slice, in JSON.
    pub(crate) fn endpoint(mut self, endpoint: serde_json::Value) -> Self {
        self.0["endpoints"].as_array_mut().unwrap().push(endpoint);
        self
    }

    /// Sets a field, making the objects on its way.
    pub(crate) fn with(self, path: &str, value: impl Into<serde_json::Value>) -> Self {
        let (parents, key) = path.rsplit_once('/').unwrap();
        self.with_key(parents, key, value)
    }

    fn with_key(mut self, parents: &str, key: &str, value: impl Into<serde_json::Value>) -> Self {
        let mut at = &mut self.0;
        for parent in parents.split('/').skip(1) {
            at = &mut at[parent];
        }
        at[key] = value.into();
        self
    }

    pub(crate) fn json(&self) -> &serde_json::Value {
        &self.0
    }

    pub(crate) fn text(&self) -> String {
        self.0.to_string()
    }

    pub(crate) fn objects(&self) -> Vec<Arc<Object>> {
        let (objects, errors) = parse::parse_with("test.json", &self.text(), Secrets::Read);
        assert!(errors.is_empty() || self.0["kind"] == "AuthorizationPolicy", "{errors:?}");
        objects.into_iter().map(Arc::new).collect()
    }
}
