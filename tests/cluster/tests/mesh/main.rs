//! Signet on the real cluster, as its users install and meet it. There is one signet-system, so each story has the cluster to itself.

mod cold;
mod everyday;
mod findings;
mod helm;
mod installed;
#[path = "../kubernetes/pods.rs"]
mod pods;
mod proof;
mod rights;
#[path = "../../../../cli/src/install/manifests/rights.rs"]
mod rights_of_design;
mod table;
