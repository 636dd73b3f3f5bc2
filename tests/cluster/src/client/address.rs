//! The part of a cloud: addresses for Services of type LoadBalancer, and the way to them from outside.

use std::{
    fs::File,
    io::{Read as _, Seek as _, Write as _},
    net::{self, IpAddr, SocketAddr},
    path::Path,
    thread,
};

use anyhow::{Context as _, Result, ensure};
use ipnet::IpNet;
use k8s_openapi::api::core::v1::Service;
use kube::api::{Patch, PatchParams};
use nix::sched::{CloneFlags, setns};
use serde_json::json;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::oneshot,
};

use super::{Cluster, Namespace, kube_proxy, output, output::PATIENCE};
use crate::network;

impl Namespace {
    /// Gives a Service of type LoadBalancer an address of each of its families that no other Service of this cluster
    /// ever had, and leads them, from outside, to `node`. Returns them in the order of the Service's families, when every
    /// kube-proxy knows them.
    pub async fn assign_address(&self, service: &str, node: &str) -> Result<Vec<IpAddr>> {
        let what = "to have address families";
        let object = self
            .wait_for(service, what, |service: &Service| {
                service.spec.as_ref().is_some_and(|spec| spec.ip_families.is_some())
            })
            .await?;
        let families = object.spec.and_then(|spec| spec.ip_families).unwrap_or_default();
        let free = self.cluster.next_addresses()?;
        let addresses: Vec<_> = families
            .iter()
            .filter_map(|family| free.into_iter().find(|address| address.is_ipv6() == (family == "IPv6")))
            .collect();
        let vias = self.cluster.node_addresses(node).await?;
        for address in &addresses {
            let via = vias.iter().find(|via| via.is_ipv6() == address.is_ipv6());
            let via = via.with_context(|| format!("{node} has no address of the family of {address}"))?;
            self.cluster.route(*address, *via).await?;
        }
        let ingress: Vec<_> = addresses.iter().map(|address| json!({ "ip": address })).collect();
        let status = json!({ "status": { "loadBalancer": { "ingress": ingress } } });
        let patch = Patch::Merge(&status);
        self.api::<Service>().patch_status(service, &PatchParams::default(), &patch).await?;
        for address in &addresses {
            kube_proxy::wait_address(&self.cluster, *address).await?;
        }
        Ok(addresses)
    }
}

impl Cluster {
    /// A TCP connection from the network outside of the cluster.
    pub async fn dial_from_outside(&self, to: SocketAddr) -> Result<TcpStream> {
        let dial = move || {
            net::TcpStream::connect_timeout(&to, PATIENCE).with_context(|| format!("dial {to} from outside"))
        };
        let stream = self.outside_of(dial).await?;
        stream.set_nonblocking(true)?;
        Ok(TcpStream::from_std(stream)?)
    }

    /// Listens in the network outside of the cluster.
    pub async fn listen_outside(&self, at: SocketAddr) -> Result<TcpListener> {
        let bind = move || net::TcpListener::bind(at).with_context(|| format!("listen at {at} outside"));
        let listener = self.outside_of(bind).await?;
        listener.set_nonblocking(true)?;
        Ok(TcpListener::from_std(listener)?)
    }

    /// On a thread of its own, which never leaves the network that it enters. A socket stays there whoever uses it.
    async fn outside_of<T: Send + 'static>(
        &self,
        make: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (told, made) = oneshot::channel();
        let outside = self.state.fabric.clone();
        thread::Builder::new().spawn(move || told.send(enter(&outside).and_then(|()| make())))?;
        made.await.context("the thread is gone")?
    }

    async fn route(&self, address: IpAddr, via: IpAddr) -> Result<()> {
        let network = format!("--net={}", self.state.fabric.display());
        let (address, via) = (address.to_string(), via.to_string());
        output::run(&["nsenter", &network, "ip", "route", "replace", &address, "via", &via]).await?.ok()?;
        Ok(())
    }

    fn next_addresses(&self) -> Result<[IpAddr; 2]> {
        let path = self.state.directory.join("load-balancers");
        let number = next(&path).with_context(|| path.display().to_string())?;
        let [v4, v6] = network::LOAD_BALANCERS;
        Ok([nth(v4, number)?, nth(v6, number)?])
    }
}

fn enter(network: &Path) -> Result<()> {
    setns(File::open(network)?, CloneFlags::CLONE_NEWNET)
        .with_context(|| format!("enter {}", network.display()))
}

/// Counts up in a file, from 1, never the same twice whichever process asks.
fn next(path: &Path) -> Result<u32> {
    let mut file = File::options().read(true).write(true).create(true).truncate(false).open(path)?;
    file.lock()?; // until it is closed; held for two system calls
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    let number = if text.is_empty() { 1 } else { text.trim().parse::<u32>()? + 1 };
    file.rewind()?;
    writeln!(file, "{number}")?; // never shorter than the one before
    Ok(number)
}

fn nth(range: &str, number: u32) -> Result<IpAddr> {
    let range: IpNet = range.parse()?;
    let address = match range.network() {
        IpAddr::V4(first) => IpAddr::V4((u32::from(first) + number).into()),
        IpAddr::V6(first) => IpAddr::V6((u128::from(first) + u128::from(number)).into()),
    };
    ensure!(range.contains(&address), "all addresses of {range} were given out; start the cluster anew");
    Ok(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_address_is_given_out_twice_and_none_beyond_the_range() {
        let path = std::env::temp_dir().join(format!("signet-addresses-{}", std::process::id()));
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let path = path.clone();
                std::thread::spawn(move || (0..5).map(|_| next(&path).unwrap()).collect::<Vec<_>>())
            })
            .collect();
        let mut numbers: Vec<_> = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
        numbers.sort_unstable();
        assert_eq!(numbers, (1..=20).collect::<Vec<_>>());
        std::fs::remove_file(path).unwrap();
        let [v4, v6] = network::LOAD_BALANCERS;
        assert_eq!(nth(v4, 1).unwrap().to_string(), "198.19.128.1");
        assert_eq!(nth(v6, 20).unwrap().to_string(), "2001:2:0:300::14");
        assert!(nth(v4, 1 << 14).is_err());
    }
}
