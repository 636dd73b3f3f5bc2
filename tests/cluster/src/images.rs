//! Every container image of the cluster, made here from the programs, Debian's packages and Python's; none is pulled from
//! outside.
//! They are kept in one OCI image layout ([`crate::paths::images`]), which [`crate::registry`] serves to the nodes.

mod build;
mod catalogue;
mod debian;
pub(crate) mod layer;
pub(crate) mod layout;
pub(crate) mod oci;
mod python;
mod signet;

pub use build::{Image, build_all, open};
pub use catalogue::{
    COREDNS, ECHO_BASIC, JUPYTERLAB, NGINX, PAUSE, PEBBLE, POSTGRES, REDIS, TOOLBOX, WSGIDAV,
};
pub use signet::{CLUSTER_DEV, SIGNET_DEV, SIGNET_MUTANT, build_dev, build_signet_release};
