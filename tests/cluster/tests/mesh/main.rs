//! Signet on the real cluster, as its users install and meet it. There is one signet-system, so each story has the cluster to itself.

mod acme;
mod brought;
mod cold;
mod edge;
mod everyday;
mod findings;
mod helm;
mod hosts;
mod installed;
mod outage;
#[path = "../kubernetes/pods.rs"]
mod pods;
mod proof;
mod readme;
mod ready;
#[path = "../../../src/record.rs"]
#[expect(
    unreachable_pub,
    reason = "it is a module of signet-tests; depending on all of that for it would build the product into this test"
)]
mod record;
mod restarts;
mod rights;
#[path = "../../../../cli/src/install/manifests/rights.rs"]
mod rights_of_design;
mod rotation;
mod strict;
mod table;
mod thief;
mod traffic;
mod webhook;
