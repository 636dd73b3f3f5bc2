//! What a test sees of the running cluster.
//!
//! - Begin: [`test`] gives a namespace of its own, side by side with other tests; [`disturb`] the cluster alone.
//! - Use: [`Namespace`] applies YAML, waits, runs programs in pods; [`Capture`] sees a pod's packets.
//! - Beneath: [`Node`] and its components; [`Cluster::assign_address`] and [`Cluster::outside`] are the cloud.
//!
//! Waiting is watching, with a deadline whose error shows the objects; the few things that nobody announces are asked for
//! again and again, [`Namespace::eventually`].

mod address;
mod capture;
mod cluster;
mod describe;
mod exec;
mod kinds;
mod kube_proxy;
mod manifest;
mod namespace;
mod node;
mod output;
mod packets;
mod process;
mod test;
mod wait;

pub use capture::Capture;
pub use cluster::Cluster;
pub use kinds::{
    PodCertificateRequest, PodCertificateRequestSpec, PodCertificateRequestStatus, pod_certificate_requests,
};
pub use namespace::{Namespace, is_ready};
pub use node::{Disturbance, Node};
pub use output::Output;
pub use packets::{Frame, Packets, Transport};
pub use test::{disturb, test};

/// An image with a shell, busybox, curl, openssl and nft.
pub const TOOLBOX: &str = "signet.test/toolbox:1";
