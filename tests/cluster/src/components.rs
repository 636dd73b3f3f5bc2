//! What runs on a node, and how: every flag and setting of the Kubernetes components, each odd one with its reason.

use std::{fs, path::Path};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use signet_core::files;

use crate::{
    network::{self, DOMAIN},
    pki::{self, Pki},
    programs::Programs,
};

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Component {
    pub(crate) name: String,
    pub(crate) argv: Vec<String>,
    pub(crate) environment: Vec<(String, String)>,
}

/// Where a component finds its settings, by node.
pub(crate) struct Place<'a> {
    /// The node's number; the first one carries the control plane.
    pub(crate) number: u8,
    /// The node's directory.
    pub(crate) directory: &'a Path,
    pub(crate) programs: &'a Programs,
    pub(crate) pki: &'a Pki,
    /// The image layout that the registry serves.
    pub(crate) images: &'a Path,
}

const CONTAINERD: &str = "/run/containerd/containerd.sock";
const ETCD: &str = "http://127.0.0.1:2379";

/// Writes the settings of the node's components and says how to start them.
pub(crate) fn prepare(place: &Place<'_>) -> Result<Vec<Component>> {
    for directory in ["log", "lib", "conf", "conf/cni", "conf/registries/_default"] {
        let directory = place.directory.join(directory);
        fs::create_dir_all(&directory).with_context(|| directory.display().to_string())?;
    }
    let mut components = Vec::new();
    if place.number == 1 {
        components.extend([registry(place)?, etcd(place)?, api_server(place)?]);
        components.extend([controller_manager(place)?, scheduler(place)?]);
    }
    components.extend([containerd(place)?, kubelet(place)?, kube_proxy(place)?]);
    Ok(components)
}

impl Place<'_> {
    fn component<S: Into<String>>(
        &self,
        name: &str,
        flags: impl IntoIterator<Item = S>,
    ) -> Result<Component> {
        let program = self.programs.path(name)?.display().to_string();
        let argv = std::iter::once(program).chain(flags.into_iter().map(Into::into)).collect();
        Ok(Component { name: name.into(), argv, environment: vec![("PATH".into(), PATH.into())] })
    }

    /// Writes a file of settings and returns its path.
    fn write(&self, file: &str, content: &str) -> Result<String> {
        let path = self.directory.join("conf").join(file);
        pki::write(&path, content, files::PRIVATE)?;
        Ok(path.display().to_string())
    }

    fn write_json(&self, file: &str, content: &Value) -> Result<String> {
        self.write(file, &serde_json::to_string_pretty(content)?) // every JSON is YAML
    }

    fn kubeconfig(&self, user: &str) -> Result<String> {
        let server = format!("https://{}:{}", network::node_v4(1), network::API_PORT);
        self.write(&format!("{user}.kubeconfig"), &self.pki.kubeconfig(user, &server)?)
    }

    fn key(&self, file: &str) -> String {
        self.pki.path(file).display().to_string()
    }

    fn conf(&self, file: &str) -> String {
        self.directory.join("conf").join(file).display().to_string()
    }
}

const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

fn registry(place: &Place<'_>) -> Result<Component> {
    let program = std::env::current_exe()?.display().to_string();
    let listen = format!("{}:{}", network::node_v4(1), network::REGISTRY_PORT);
    let images = place.images.display().to_string();
    let argv = vec![program, "registry".into(), "--listen".into(), listen, images];
    Ok(Component { name: "registry".into(), argv, environment: Vec::new() })
}

fn etcd(place: &Place<'_>) -> Result<Component> {
    let peer = "http://127.0.0.1:2380";
    place.component(
        "etcd",
        [
            "--name=node1".to_owned(),
            "--data-dir=/var/lib/etcd".to_owned(),
            "--unsafe-no-fsync".to_owned(), // the cluster lives no longer than this machine is up
            format!("--listen-client-urls={ETCD}"),
            format!("--advertise-client-urls={ETCD}"),
            format!("--listen-peer-urls={peer}"),
            format!("--initial-advertise-peer-urls={peer}"),
            format!("--initial-cluster=node1={peer}"),
        ],
    )
}

fn api_server(place: &Place<'_>) -> Result<Component> {
    let key = |file: &str| place.key(file);
    place.component(
        "kube-apiserver",
        [
            format!("--etcd-servers={ETCD}"),
            format!("--advertise-address={}", network::node_v4(1)),
            format!("--secure-port={}", network::API_PORT),
            format!("--service-cluster-ip-range={}", network::SERVICES.join(",")),
            "--authorization-mode=Node,RBAC".into(),
            "--enable-admission-plugins=NodeRestriction".into(),
            "--allow-privileged=true".into(),
            format!("--client-ca-file={}", key("ca.crt")),
            format!("--tls-cert-file={}", key("apiserver.crt")),
            format!("--tls-private-key-file={}", key("apiserver.key")),
            "--kubelet-preferred-address-types=InternalIP".into(), // no DNS knows the nodes' names
            format!("--kubelet-certificate-authority={}", key("ca.crt")),
            format!("--kubelet-client-certificate={}", key("apiserver-kubelet-client.crt")),
            format!("--kubelet-client-key={}", key("apiserver-kubelet-client.key")),
            format!("--service-account-issuer=https://kubernetes.default.svc.{DOMAIN}"),
            format!("--service-account-key-file={}", key("sa.pub")),
            format!("--service-account-signing-key-file={}", key("sa.key")),
            format!("--requestheader-client-ca-file={}", key("front-proxy-ca.crt")),
            "--requestheader-allowed-names=front-proxy-client".into(),
            "--requestheader-username-headers=X-Remote-User".into(),
            "--requestheader-group-headers=X-Remote-Group".into(),
            "--requestheader-extra-headers-prefix=X-Remote-Extra-".into(),
            format!("--proxy-client-cert-file={}", key("front-proxy-client.crt")),
            format!("--proxy-client-key-file={}", key("front-proxy-client.key")),
        ],
    )
}

fn controller_manager(place: &Place<'_>) -> Result<Component> {
    let kubeconfig = place.kubeconfig("kube-controller-manager")?;
    place.component(
        "kube-controller-manager",
        [
            format!("--kubeconfig={kubeconfig}"),
            format!("--authentication-kubeconfig={kubeconfig}"),
            format!("--authorization-kubeconfig={kubeconfig}"),
            "--authentication-tolerate-lookup-failure=true".into(), // it starts together with the API server
            "--bind-address=127.0.0.1".into(),
            "--kube-api-qps=500".into(), // its default throttles the start by some 5 s
            "--kube-api-burst=1000".into(),
            "--use-service-account-credentials=true".into(),
            format!("--root-ca-file={}", place.key("ca.crt")),
            format!("--client-ca-file={}", place.key("ca.crt")),
            format!("--service-account-private-key-file={}", place.key("sa.key")),
            format!("--cluster-signing-cert-file={}", place.key("ca.crt")),
            format!("--cluster-signing-key-file={}", place.key("ca.key")),
            format!("--cluster-cidr={}", network::PODS.join(",")),
            format!("--service-cluster-ip-range={}", network::SERVICES.join(",")),
        ],
    )
}

fn scheduler(place: &Place<'_>) -> Result<Component> {
    let kubeconfig = place.kubeconfig("kube-scheduler")?;
    place.component(
        "kube-scheduler",
        [
            format!("--kubeconfig={kubeconfig}"),
            format!("--authentication-kubeconfig={kubeconfig}"),
            format!("--authorization-kubeconfig={kubeconfig}"),
            "--authentication-tolerate-lookup-failure=true".into(),
            "--bind-address=127.0.0.1".into(),
        ],
    )
}

/// Every image of whatever registry is asked of ours.
fn containerd(place: &Place<'_>) -> Result<Component> {
    let mirror = format!("http://{}:{}", network::node_v4(1), network::REGISTRY_PORT);
    place.write(
        "registries/_default/hosts.toml",
        &format!("server = \"{mirror}\"\n[host.\"{mirror}\"]\ncapabilities = [\"pull\", \"resolve\"]\n"),
    )?;
    let [pods_v4, pods_v6] = network::node_pods(place.number);
    place.write_json(
        "cni/10-pods.conflist",
        &json!({"cniVersion": "1.0.0", "name": "pods", "plugins": [
            {"type": "bridge", "bridge": "cni0", "isGateway": true, "hairpinMode": true, "ipMasq": false, "ipam": {
                "type": "host-local",
                "ranges": [[{"subnet": pods_v4}], [{"subnet": pods_v6}]],
                "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
            }},
            {"type": "portmap", "backend": "nftables", "capabilities": {"portMappings": true}},
        ]}),
    )?;
    let settings = place.write(
        "containerd.toml",
        &format!(
            r#"version = 3
disabled_plugins = ["io.containerd.nri.v1.nri", "io.containerd.tracing.processor.v1.otlp"]
[grpc]
address = "{CONTAINERD}"
[plugins."io.containerd.cri.v1.images"]
snapshotter = "overlayfs"
[plugins."io.containerd.cri.v1.images".pinned_images]
sandbox = "signet.test/pause:1"
[plugins."io.containerd.cri.v1.images".registry]
config_path = "{registries}"
[plugins."io.containerd.cri.v1.runtime"]
# Without CAP_SYS_RESOURCE no process may be made less killable than we are.
restrict_oom_score_adj = true
enable_unprivileged_ports = true
enable_unprivileged_icmp = true
[plugins."io.containerd.cri.v1.runtime".cni]
bin_dirs = ["{cni}"]
conf_dir = "{cni_conf}"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
BinaryName = "{runc}"
SystemdCgroup = false
"#,
            registries = place.conf("registries"),
            cni = place.programs.directory("cni")?.display(),
            cni_conf = place.conf("cni"),
            runc = place.programs.path("runc")?.display(),
        ),
    )?;
    let mut component = place.component("containerd", [format!("--config={settings}")])?;
    let shims = place.programs.directory("containerd")?;
    component.environment = vec![("PATH".into(), format!("{}:{PATH}", shims.display()))];
    Ok(component)
}

fn kubelet(place: &Place<'_>) -> Result<Component> {
    let node = network::node_name(place.number);
    let kubeconfig = place.kubeconfig(&format!("{node}-kubelet"))?;
    let resolver = place.write("pods-resolv.conf", "")?; // for pods with dnsPolicy Default
    let settings = place.write_json(
        "kubelet.json",
        &json!({
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "failCgroupV1": false, // 1.37 refuses cgroup v1 otherwise
            "cgroupDriver": "cgroupfs",
            "containerRuntimeEndpoint": format!("unix://{CONTAINERD}"),
            "authentication": {
                "anonymous": {"enabled": false},
                "webhook": {"enabled": true},
                "x509": {"clientCAFile": place.key("ca.crt")},
            },
            "authorization": {"mode": "Webhook"},
            "tlsCertFile": place.key(&format!("{node}-kubelet-serving.crt")),
            "tlsPrivateKeyFile": place.key(&format!("{node}-kubelet-serving.key")),
            "clusterDomain": DOMAIN,
            "clusterDNS": [network::DNS_SERVICE],
            "resolvConf": resolver,
            "maxPods": 250,
            "serializeImagePulls": false,
            "failSwapOn": false,
            "imageGCHighThresholdPercent": 100,
            "evictionHard": {
                "memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%", "nodefs.inodesFree": "1%",
            },
            "syncFrequency": "10s",
            "volumeStatsAggPeriod": "0s",
        }),
    )?;
    place.component(
        "kubelet",
        [
            format!("--config={settings}"),
            format!("--kubeconfig={kubeconfig}"),
            format!("--hostname-override={node}"),
            format!("--node-ip={},{}", network::node_v4(place.number), network::node_v6(place.number)),
        ],
    )
}

fn kube_proxy(place: &Place<'_>) -> Result<Component> {
    let kubeconfig = place.kubeconfig("kube-proxy")?;
    let settings = place.write_json(
        "kube-proxy.json",
        &json!({
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "mode": "nftables",
            "hostnameOverride": network::node_name(place.number),
            "clusterCIDR": network::PODS.join(","),
            "clientConnection": {"kubeconfig": kubeconfig},
            // These sysctls are not writable outside the first network namespace.
            "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
        }),
    )?;
    place.component("kube-proxy", [format!("--config={settings}")])
}
