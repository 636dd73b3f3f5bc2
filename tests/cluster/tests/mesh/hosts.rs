//! Whose host it is: what another namespace tries in order to get it, with the rights that a tenant has.

use std::{collections::BTreeSet, net::IpAddr, slice, time::Duration};

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::{
    apps::v1::DaemonSet,
    core::v1::{ConfigMap, Event, Secret},
    networking::v1::Ingress,
};
use kube::api::{DeleteParams, ListParams};
use serde_json::{Value, json};
use signet_cluster::Namespace;

use crate::{
    edge::{addresses, certificates::Authority},
    installed::{Mesh, mesh_with},
    pods::{nginx, service},
};

#[tokio::test]
async fn a_host_is_taken_by_no_path_no_certificate_and_no_race_of_another_namespace_and_each_try_is_told()
-> Result<()> {
    mesh_with(&["--dev"], async |mesh| {
        let reached = mesh.edge_available().await?;
        let (owner, thief) = (&mesh.namespace, Namespace::create(&mesh.namespace.cluster, "thief").await?);
        let host = format!("shop.{}.example", owner.name);
        for (namespace, name) in [(owner, "shop"), (&thief, "thief")] {
            namespace.apply(&(nginx(name, name, "node1") + &service(name, ""))).await?;
            namespace.wait_endpoints(name, 1).await?;
            namespace.apply(&Authority::create()?.secret("web-tls", slice::from_ref(&host))?).await?;
            mesh.allow(namespace).await?;
        }
        let public = Public { mesh, host: &host, addresses: &reached };
        owner.apply(&ingress("shop", &host, "/")).await?;
        owner.eventually("the owner to be served", async || public.is_answered_by("/", "shop").await).await?;
        let owners = public.certificate().await?;
        ensure!(owners == secret(owner).await?, "not the owner's certificate");

        // A path that the owner does not name, and the whole host with a certificate of the thief's own.
        thief.apply(&ingress("thief", &host, "/admin")).await?;
        thief.apply(&ingress("thief-too", &host, "/")).await?;
        for name in ["thief", "thief-too"] {
            thief.eventually("the thief to be told", async || told(&thief, name).await).await?;
            let ingress = thief.api::<Ingress>().get(name).await?;
            ensure!(addresses(&ingress).is_empty(), "{name} has an address in its status");
        }
        thief.eventually("signet to tell", async || refused(mesh, &host, &thief).await).await?;
        for path in ["/", "/admin"] {
            public.is_answered_by(path, "shop").await?;
        }
        ensure!(public.certificate().await? == owners, "the certificate is the thief's");

        // The owner deletes; the thief is the quickest, with Ingresses that wait already, and with a new one.
        owner.api::<Ingress>().delete("shop", &DeleteParams::default()).await?;
        thief.api::<Ingress>().delete("thief", &DeleteParams::default()).await?;
        owner.eventually("the owner's route to be gone", async || public.is_refused().await).await?;
        thief.apply(&ingress("thief", &host, "/")).await?;
        thief.eventually("the thief to be told again", async || told(&thief, "thief").await).await?;
        public.is_refused().await?;
        let claims = mesh.edge.api::<ConfigMap>().get("signet-claims").await?;
        let kept = claims.data.iter().flat_map(|data| data.values()).any(|claims| claims.contains(&host));
        ensure!(kept, "the claim is not kept: {claims:?}");

        // And it comes back to whom it belongs.
        owner.apply(&ingress("shop", &host, "/")).await?;
        owner
            .eventually("the owner to be served again", async || public.is_answered_by("/", "shop").await)
            .await?;
        ensure!(public.certificate().await? == owners, "the certificate is the thief's");
        thief.delete().await
    })
    .await
}

#[tokio::test]
async fn at_ports_of_the_nodes_every_node_serves_and_stands_in_the_status_of_ingresses() -> Result<()> {
    mesh_with(&["--dev", "--expose", "hostport"], async |mesh| {
        let shop = &mesh.namespace;
        let host = format!("shop.{}.example", shop.name);
        shop.apply(&(nginx("shop", "shop", "node1") + &service("shop", "") + &plain(&host)?)).await?;
        let on_all = |gateways: &DaemonSet| {
            gateways.status.as_ref().is_some_and(|status| {
                status.desired_number_scheduled == 2 && status.number_available == Some(2)
            })
        };
        mesh.gateways
            .within(STARTS)
            .wait_for::<DaemonSet>("gateway", "to be ready on both nodes", on_all)
            .await?;
        let mut nodes = Vec::new();
        for node in ["node1", "node2"] {
            nodes.extend(shop.cluster.node_addresses(node).await?);
        }
        let public = Public { mesh, host: &host, addresses: &nodes };
        let served = async || {
            for address in public.addresses {
                let answer = public.curl(*address, 80, &[&format!("http://{host}/")]).await?;
                ensure!(answer.starts_with("nginx on shop for "), "{address}: {answer}");
            }
            Ok(())
        };
        shop.within(STARTS).eventually("both nodes to serve", served).await?;
        let published = |ingress: &Ingress| {
            let ips: BTreeSet<IpAddr> = addresses(ingress).iter().filter_map(|ip| ip.parse().ok()).collect();
            ips == nodes.iter().copied().collect()
        };
        shop.wait_for::<Ingress>("plain", "to have the nodes' addresses in its status", published).await?;
        Ok(())
    })
    .await
}

/// A public host, as clients outside of the cluster meet it.
struct Public<'a> {
    mesh: &'a Mesh,
    host: &'a str,
    addresses: &'a [IpAddr],
}

impl Public<'_> {
    /// At each address.
    async fn is_answered_by(&self, path: &str, pod: &str) -> Result<()> {
        for address in self.addresses {
            let answer = self.ask(*address, path).await?;
            ensure!(answer.starts_with(&format!("nginx on {pod} for ")), "{address}{path}: {answer}");
        }
        Ok(())
    }

    /// No certificate and so no handshake; and in plaintext nobody's answer.
    async fn is_refused(&self) -> Result<()> {
        for address in self.addresses {
            let answer = self.ask(*address, "/").await?;
            ensure!(answer.contains("unrecognized name"), "{address}: {answer}");
            let plain = format!("http://{}/", self.host);
            let answer = self.curl(*address, 80, &["-o", "/dev/null", "-w", "%{http_code}", &plain]).await?;
            ensure!(answer == "404", "{address}: {answer}");
        }
        Ok(())
    }

    /// What curl prints, of an error too. The certificate is compared, not believed.
    async fn ask(&self, address: IpAddr, path: &str) -> Result<String> {
        self.curl(address, 443, &["-k", &format!("https://{}{path}", self.host)]).await
    }

    async fn curl(&self, address: IpAddr, port: u16, arguments: &[&str]) -> Result<String> {
        let at = if address.is_ipv6() { format!("[{address}]") } else { address.to_string() };
        let resolve = format!("{}:{port}:{at}", self.host);
        let argv = [&["curl", "-sS", "-m", "10", "--resolve", &resolve], arguments].concat();
        let output = self.mesh.namespace.cluster.outside(&argv).await?;
        Ok(output.stdout + &output.stderr)
    }

    /// PEM of the leaf that is presented.
    async fn certificate(&self) -> Result<String> {
        let address = self.addresses.first().context("an address")?;
        let format = ["-k", "-o", "/dev/null", "-w", "%{certs}", &format!("https://{}/", self.host)];
        let printed = self.curl(*address, 443, &format).await?;
        let begin = printed.find(BEGIN).with_context(|| format!("no certificate in {printed}"))?;
        let end = printed.find(END).with_context(|| format!("half a certificate in {printed}"))?;
        Ok(lines(&printed[begin..end]))
    }
}

/// An Event of the Ingress says whose the host is.
async fn told(namespace: &Namespace, ingress: &str) -> Result<()> {
    let events = namespace.api::<Event>().list(&ListParams::default()).await?;
    let told = events.items.iter().any(|event| {
        event.involved_object.name.as_deref() == Some(ingress) && event.reason.as_deref() == Some("HostTaken")
    });
    ensure!(told, "no Event HostTaken of {ingress} in {events:#?}");
    Ok(())
}

async fn refused(mesh: &Mesh, host: &str, thief: &Namespace) -> Result<()> {
    let (status, said) = mesh.signet_said(&["hosts", "-o", "json"], "").await?;
    let said: Value = serde_json::from_str(&said)?;
    let of_host = said["hosts"].as_array().into_iter().flatten().find(|one| one["host"] == host);
    let of_host = of_host.with_context(|| format!("{host} is not in {said:#}"))?;
    let refused = of_host["refused"].as_array().context("a list")?;
    let refused: Vec<&str> = refused.iter().filter_map(|one| one["ingress"].as_str()).collect();
    for name in ["thief", "thief-too"] {
        ensure!(refused.contains(&format!("{}/{name}", thief.name).as_str()), "{name} is not in {refused:?}");
    }
    ensure!(of_host["owner"] == mesh.namespace.name.as_str() && status == 1, "{status}: {of_host:#}");
    Ok(())
}

async fn secret(namespace: &Namespace) -> Result<String> {
    let data = namespace.api::<Secret>().get("web-tls").await?.data.context("data")?;
    let pem = String::from_utf8(data.get("tls.crt").context("tls.crt")?.0.clone())?;
    Ok(lines(&pem[..pem.find(END).context("a certificate")?]))
}

fn lines(pem: &str) -> String {
    pem.lines().map(str::trim).filter(|line| !line.starts_with("-----")).collect()
}

/// Leads `path` of the host to the Service of the namespace's nginx ("shop" of "shop", "thief" of all others).
fn ingress(name: &str, host: &str, path: &str) -> String {
    let service = name.trim_end_matches("-too");
    let backend = json!({ "service": { "name": service, "port": { "number": 80 } } });
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": { "name": name },
        "spec": {
            "ingressClassName": "signet",
            "tls": [{ "hosts": [host], "secretName": "web-tls" }],
            "rules": [{ "host": host, "http": { "paths": [{ "path": path, "pathType": "Prefix", "backend": backend }] } }],
        },
    })
    .to_string()
}

/// An Ingress without a certificate.
fn plain(host: &str) -> Result<String> {
    let mut plain: Value = serde_json::from_str(&ingress("shop", host, "/"))?;
    plain["metadata"]["name"] = "plain".into();
    plain["spec"].as_object_mut().context("a spec")?.remove("tls");
    Ok(format!("---\n{plain}\n"))
}

/// Images are pulled, and certificates issued.
const STARTS: Duration = Duration::from_secs(180);
const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
const END: &str = "-----END CERTIFICATE-----";
