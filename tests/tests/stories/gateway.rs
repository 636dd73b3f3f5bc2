//! The edge: what clients of the web meet, whatever edge says meanwhile.

mod certificates;
mod challenges;
mod changes;
mod drain;
mod front;
mod heads;
mod slow;
mod smuggling;
mod streams;

use std::net::SocketAddr;

use signet_http::model::Security;
use signet_tests::{
    fake_edge::World,
    gateway::{backend, certificate, route},
    mirror::Mirror,
    network::Network,
    pki::Authority,
};

const BACKEND: &str = "shop/web:80";

fn origin(network: &Network) -> SocketAddr {
    SocketAddr::new(network.address(2, 1), 8000)
}

/// `hosts`, each with a certificate of its own, and one backend without a mesh.
fn serves(world: &mut World, web: &Authority, network: &Network, hosts: &[&str]) {
    world.backend(&backend(BACKEND, origin(network), Security::Plain));
    for host in hosts {
        world.route(&route(host, BACKEND));
        world.certificate(&certificate(web, &format!("shop/{}", host.replace('*', "any")), &[host]));
    }
}

async fn mirror(network: &Network) -> Mirror {
    Mirror::start(origin(network)).await.unwrap()
}
