//! The proxy's container as the kubelet makes it: an image from scratch, /etc/hosts and /etc/resolv.conf, the projected token
//! and bundle, an environment. Nothing else is there, and nothing can be written.

use std::{
    ffi::OsString,
    fs, io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use serde_json::json;
use signet_core::pod::{
    self, CA_PORT, CONTROLLER_PORT, IDENTITY_DIR, MESH, POD_IPS, POD_NAME, POD_NAMESPACE, PROBES, Probe,
    SERVICE_ACCOUNT,
};

use crate::{
    binaries::binary,
    manifests::Pod,
    netns::{self, NODE_V4, Netns, PodNetwork},
};

/// The CA's whole name, as the cluster's DNS has it. The controller stands in /etc/hosts: both ways are gone.
pub const CA: &str = "ca.signet-system.svc.cluster.local";

/// What the injector and the downward API write.
pub(crate) fn environment(pod: &Pod, network: &PodNetwork, probes: &[Probe]) -> Vec<(OsString, OsString)> {
    let mesh = json!({
        "trustDomain": "cluster.local",
        "ca": format!("ca.signet-system.svc:{CA_PORT}"),
        "controller": format!("controller.signet-system.svc:{CONTROLLER_PORT}"),
        "meshRanges": netns::MESH,
    });
    let [v4, v6] = network.addresses;
    let mut environment = vec![
        (POD_NAME, pod.name.clone()),
        (POD_NAMESPACE, pod.namespace.clone()),
        (SERVICE_ACCOUNT, pod.account().to_owned()),
        (POD_IPS, format!("{v4},{v6}")),
        (MESH, mesh.to_string()),
    ];
    if !probes.is_empty() {
        environment.push((PROBES, serde_json::to_string(probes).expect("they are data")));
    }
    if let Some(upstreams) = pod.upstreams() {
        environment.push((pod::POD_UPSTREAMS, upstreams));
    }
    environment.into_iter().map(|(name, value)| (name.into(), value.into())).collect()
}

/// The text of a script that starts the proxy in there, called as the supervisor calls a proxy: `--bootstrap FILE` says where
/// the token lies.
pub(crate) fn script(root: &Path, netns: &Netns, namespace: &str) -> io::Result<String> {
    make_root(root, namespace)?;
    let rights = "-all,+dac_read_search,+sys_chroot"; // to read what is private to root here, and to leave for the root
    Ok(format!(
        r#"#!/bin/sh
workload=$(dirname "$2")
shift 2
exec nsenter --net={netns} -- unshare --mount sh -c '
  mount --bind "$1" {root}/mnt/workload && mount --bind "$1/../../trust" {root}/mnt/trust || exit
  shift
  exec setpriv --reuid=1337 --regid=1337 --clear-groups --inh-caps={rights} --ambient-caps={rights} \
    --bounding-set={rights} --no-new-privs chroot {root} /signet-proxy --pod "$@"
' sh "$workload" "$@"
"#,
        netns = netns.path().display(),
        root = root.display(),
    ))
}

fn make_root(root: &Path, namespace: &str) -> io::Result<()> {
    let identity: PathBuf = root.join(IDENTITY_DIR.trim_start_matches('/'));
    for directory in [identity.clone(), root.join("etc"), root.join("mnt/workload"), root.join("mnt/trust")] {
        fs::create_dir_all(directory)?;
    }
    let program = root.join("signet-proxy");
    fs::hard_link(binary("signet-proxy"), &program)
        .or_else(|_| fs::copy(binary("signet-proxy"), &program).map(drop))?; // on another disk
    // The supervisor renames a new file over the old one, so a directory is mounted, as the kubelet does it.
    symlink("/mnt/workload/token", identity.join("token"))?;
    symlink("/mnt/trust/bundle.pem", identity.join("bundle.pem"))?;
    let search = format!("{namespace}.svc.cluster.local svc.cluster.local cluster.local");
    let resolv = format!("search {search}\nnameserver {NODE_V4}\noptions ndots:5\n");
    fs::write(root.join("etc/resolv.conf"), resolv)?;
    let hosts =
        "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n";
    let aliases = format!("\n# Entries added by HostAliases.\n{NODE_V4}\tcontroller.signet-system.svc\n");
    fs::write(root.join("etc/hosts"), hosts.to_owned() + &aliases)
}
