//! Where to: the endpoints that may carry a connection, as the controller says, and the choice among them.
//!
//! No downgrade, ever: plaintext leaves only to an endpoint that the controller called PLAIN, to our own pod, or to an address outside the
//! mesh's ranges; a missing answer refuses.

use std::{net::SocketAddr, sync::Arc};

use signet_wire::refusal::Refusal;

use crate::{
    Proxy,
    balance::{self, Busy},
    captured,
    config::Upstream,
    connections::Entry,
    model::{ANSWER, Answer, Transport, Unanswered, Workload},
};

/// The endpoints that may carry a connection.
#[derive(Debug)]
pub struct Way {
    endpoints: Vec<Endpoint>,
    sticky: bool,
}

#[derive(Clone, Debug)]
pub struct Endpoint {
    pub address: SocketAddr,
    /// "<namespace>/<pod>"
    pub name: Option<Arc<str>>,
    pub transport: Transport,
}

impl Endpoint {
    fn of(proxy: &Proxy, workload: &Workload, port: u16) -> Self {
        let ours = captured::is_own_pod(&proxy.config, workload);
        Self {
            address: SocketAddr::new(workload.address, port),
            name: Some(format!("{}/{}", workload.namespace, workload.name).into()),
            transport: if ours { Transport::Plain(OWN_POD.into()) } else { workload.transport.clone() },
        }
    }
}

impl Way {
    /// Picks one and counts it as busy until the result is dropped.
    pub fn pick(&self, proxy: &Proxy) -> Option<(Endpoint, Busy)> {
        let addresses: Vec<SocketAddr> = self.endpoints.iter().map(|endpoint| endpoint.address).collect();
        let (chosen, busy) =
            match self.sticky.then(|| balance::sticky(proxy.config.workload.address, &addresses)).flatten() {
                Some(one) => proxy.balance.pick(&addresses[one..=one], |_| 0).map(|(_, busy)| (one, busy)),
                None => proxy.balance.pick(&addresses, |n| fastrand::usize(..n)),
            }?;
        Some((self.endpoints[chosen].clone(), busy))
    }

    /// Not this one again; and once a mesh endpoint failed, no plaintext one in its place.
    pub fn drop_after_failure(&mut self, failed: &Endpoint) {
        let was_mesh = matches!(failed.transport, Transport::Mesh(_));
        self.endpoints.retain(|endpoint| {
            endpoint.address != failed.address
                && !(was_mesh && matches!(endpoint.transport, Transport::Plain(_)))
        });
    }
}

/// Where `upstream` leads, as the controller says; waits for its answer.
pub async fn way(proxy: &Proxy, upstream: &Upstream, entry: &Entry) -> Result<Way, Refusal> {
    if let Ok(address) = upstream.name.parse::<std::net::IpAddr>()
        && !proxy.config.is_mesh(address)
    {
        return Ok(outside(SocketAddr::new(address, upstream.port)));
    }
    let to = || Arc::clone(&upstream.to);
    let answer = proxy.model.resolve(&upstream.name).await.map_err(|unanswered| match unanswered {
        Unanswered::NoAnswer => Refusal::Unanswered { to: to(), waited: ANSWER },
        Unanswered::NoSuchAddress => Refusal::NoSuchAddress { to: to() },
    })?;
    entry.note(|facts| facts.model_generation = proxy.model.snapshot().generation);
    match answer {
        Answer::Workload(workload) => {
            Ok(Way { endpoints: vec![Endpoint::of(proxy, &workload, upstream.port)], sticky: false })
        }
        Answer::Service(service) => {
            let reached = service.endpoints.iter().filter_map(|endpoint| {
                let port = endpoint.target_ports.get(&upstream.port)?;
                Some(Endpoint::of(proxy, &endpoint.workload, *port))
            });
            Ok(Way { endpoints: reached.collect(), sticky: service.client_ip_affinity })
        }
        // The bootstrap says that it is inside: two parts of the control plane disagree, and the stricter one counts.
        Answer::Outside => Err(Refusal::NoSuchAddress { to: to() }),
    }
}

fn outside(address: SocketAddr) -> Way {
    let transport = Transport::Plain(OUTSIDE.into());
    Way { endpoints: vec![Endpoint { address, name: None, transport }], sticky: false }
}

/// The word for addresses outside the mesh's ranges.
const OUTSIDE: &str = "outside_mesh";
/// The word for our own app, reached by its Service: nothing leaves the pod, and nothing captures our dial.
const OWN_POD: &str = "own_pod";

#[cfg(test)]
mod tests {
    use super::*;
    use signet_core::identity;

    fn endpoint(n: u8, transport: Transport) -> Endpoint {
        Endpoint { address: SocketAddr::from(([198, 18, 0, n], 80)), name: None, transport }
    }

    #[test]
    fn after_a_mesh_endpoint_failed_no_plaintext_endpoint_takes_its_place() {
        let mesh = Transport::Mesh(identity::parse("spiffe://td/ns/a/sa/b").unwrap());
        let plain = Transport::Plain("namespace_not_labelled".into());
        let all = vec![endpoint(1, mesh.clone()), endpoint(2, plain.clone()), endpoint(3, mesh.clone())];
        let left = |failed: usize| {
            let mut way = Way { endpoints: all.clone(), sticky: false };
            way.drop_after_failure(&all[failed]);
            way.endpoints.iter().map(|e| e.address.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(left(0), ["198.18.0.3:80"]);
        assert_eq!(left(1), ["198.18.0.1:80", "198.18.0.3:80"], "plain failed: mesh may be tried");
    }
}
