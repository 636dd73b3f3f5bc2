//! The Kubernetes objects of a test, said briefly: `Pod::named("api").in_namespace("shop").accepting(8080)`.

use std::net::{IpAddr, SocketAddr};

use serde_json::{Map, Value, json};

/// A pod, the Service in front of it, and how it takes part in the mesh.
#[derive(Clone, Debug)]
pub struct Pod {
    pub(crate) name: String,
    pub(crate) namespace: String,
    service: Option<String>,
    account: Option<String>,
    pub(crate) address: Option<IpAddr>,
    ports: Vec<u16>,
    upstreams: Vec<(u16, String)>,
    in_the_mesh: bool,
    ready: bool,
    annotations: Map<String, Value>,
    captured: Option<Addresses>,
}

/// Of a pod with a network of its own, and of the Service in front of it: IPv4, IPv6.
#[derive(Clone, Debug)]
struct Addresses {
    pod: [IpAddr; 2],
    service: [IpAddr; 2],
}

impl Pod {
    /// In namespace `shop`, meshed, behind a Service and with a service account of the same name.
    pub fn named(name: &str) -> Self {
        Self {
            name: name.into(),
            namespace: "shop".into(),
            service: None,
            account: None,
            address: None,
            ports: Vec::new(),
            upstreams: Vec::new(),
            in_the_mesh: true,
            ready: true,
            annotations: Map::new(),
            captured: None,
        }
    }

    pub fn in_namespace(mut self, namespace: &str) -> Self {
        self.namespace = namespace.into();
        self
    }

    /// Several pods may be behind one Service.
    pub fn behind(mut self, service: &str) -> Self {
        self.service = Some(service.into());
        self
    }

    /// On its way out, or not there yet: Services lead to others.
    pub fn unready(mut self) -> Self {
        self.ready = false;
        self
    }

    pub fn as_account(mut self, account: &str) -> Self {
        self.account = Some(account.into());
        self
    }

    /// Takes an address instead of the next free one.
    pub fn at(mut self, address: IpAddr) -> Self {
        self.address = Some(address);
        self
    }

    /// A port of the pod and of its Service. The app listens where [`app_port`] says: nothing is captured on one machine.
    pub fn accepting(mut self, port: u16) -> Self {
        self.ports.push(port);
        self
    }

    /// The app dials its own address at `port` and is carried to `to`, e.g. "db.shop:5432".
    pub fn with_upstream(mut self, port: u16, to: &str) -> Self {
        self.upstreams.push((port, to.into()));
        self
    }

    /// No sidecar: the app itself listens on the pod's ports.
    pub fn outside_the_mesh(mut self) -> Self {
        self.in_the_mesh = false;
        self
    }

    pub fn annotated(mut self, name: &str, value: &str) -> Self {
        self.annotations.insert(name.into(), value.into());
        self
    }

    /// In a network of its own, where connections are captured: no annotation says where anything listens.
    pub(crate) fn captured_at(mut self, pod: [IpAddr; 2], service: [IpAddr; 2]) -> Self {
        self.captured = Some(Addresses { pod, service });
        self.at(pod[0])
    }

    /// "shop/api"
    pub(crate) fn full_name(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    pub(crate) fn is_meshed(&self) -> bool {
        self.in_the_mesh
    }

    fn service(&self) -> &str {
        self.service.as_deref().unwrap_or(&self.name)
    }

    pub(crate) fn account(&self) -> &str {
        self.account.as_deref().unwrap_or_else(|| self.service())
    }

    /// "9001=api.shop:80, .."
    pub(crate) fn upstreams(&self) -> Option<String> {
        let upstreams: Vec<String> = self.upstreams.iter().map(|(port, to)| format!("{port}={to}")).collect();
        (!upstreams.is_empty()).then(|| upstreams.join(", "))
    }

    /// The pod, its service account and its Service, as documents of one file.
    pub fn documents(&self, address: IpAddr) -> Vec<Value> {
        let mut annotations = self.annotations.clone();
        if self.in_the_mesh && self.captured.is_none() {
            let inbound: Vec<String> =
                self.ports.iter().map(|port| format!("{port}={}", app_port(*port))).collect();
            let inbound = (!inbound.is_empty()).then(|| inbound.join(", "));
            for (name, list) in [("signet.dev/inbound", inbound), ("signet.dev/upstreams", self.upstreams())]
            {
                if let Some(list) = list {
                    annotations.insert(name.into(), list.into());
                }
            }
        }
        let (namespace, service) = (&self.namespace, self.service());
        let pod_ips = self.captured.as_ref().map_or(vec![address], |addresses| addresses.pod.to_vec());
        let pod_ips: Vec<Value> = pod_ips.iter().map(|ip| json!({"ip": ip})).collect();
        let inject = if self.in_the_mesh { "enabled" } else { "disabled" };
        let mut documents = vec![
            json!({
                "apiVersion": "v1", "kind": "ServiceAccount",
                "metadata": {"name": self.account(), "namespace": namespace},
            }),
            json!({
                "apiVersion": "v1", "kind": "Pod",
                "metadata": {
                    "name": self.name, "namespace": namespace, "annotations": annotations,
                    "labels": {"app": service, "signet.dev/inject": inject},
                },
                "spec": {
                    "serviceAccountName": self.account(),
                    "containers": [{"name": "app", "image": "app"}],
                },
                "status": {
                    "phase": "Running", "podIP": address, "podIPs": pod_ips,
                    "conditions": [{"type": "Ready", "status": if self.ready { "True" } else { "False" }}],
                },
            }),
        ];
        if !self.ports.is_empty() {
            let ports = self.ports.iter().map(|port| json!({"name": format!("tcp-{port}"), "port": port}));
            let mut spec = json!({"selector": {"app": service}, "ports": ports.collect::<Vec<_>>()});
            if let Some(Addresses { service: ips, .. }) = &self.captured {
                spec["clusterIP"] = json!(ips[0]);
                spec["clusterIPs"] = json!(ips);
                spec["ipFamilies"] = json!(["IPv4", "IPv6"]);
            }
            documents.push(json!({
                "apiVersion": "v1", "kind": "Service",
                "metadata": {"name": service, "namespace": namespace},
                "spec": spec,
            }));
        }
        documents
    }
}

/// Where the app behind a pod's `port` listens, on the pod's address.
pub fn app_port(port: u16) -> u16 {
    port + APP_PORTS
}

pub fn app_address(pod: IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(pod, app_port(port))
}

/// `{"signet.dev/inject": "enabled", ...}`; mode: "permissive" or "strict".
pub fn namespace(name: &str, mode: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Namespace",
        "metadata": {"name": name, "labels": {"signet.dev/inject": "enabled", "signet.dev/mtls": mode}},
    })
}

/// An AuthorizationPolicy for `namespace/name`: who of `callers` ("<namespace>/<account>") may call the pods of `service`.
pub fn policy(name: &str, service: &str, callers: &[&str]) -> Value {
    let (namespace, name) = name.split_once('/').expect("<namespace>/<name>");
    let from: Vec<Value> = callers
        .iter()
        .map(|caller| {
            let (namespace, name) = caller.split_once('/').expect("<namespace>/<account>");
            json!({"serviceAccount": {"namespace": namespace, "name": name}})
        })
        .collect();
    json!({
        "apiVersion": "signet.dev/v1alpha1", "kind": "AuthorizationPolicy",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "targetRefs": [{"kind": "Pod", "selector": {"matchLabels": {"app": service}}}],
            "action": "ALLOW",
            "rules": [{"from": from}],
        },
    })
}

/// Several documents as one YAML file; JSON is YAML.
pub fn file(documents: &[Value]) -> String {
    documents.iter().map(|document| format!("---\n{document:#}\n")).collect()
}

/// Far from the ports that pods use.
const APP_PORTS: u16 = 10_000;
