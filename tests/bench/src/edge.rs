//! The edge beside its peers: one HTTPS proxy between the load generator and an origin that speaks HTTP/1.1 in plaintext,
//! in the same rounds on the same machine. Run by `make bench`.
//!
//! A run is a [`rounds::Plan`] in a [`lab::Lab`], as the data plane's is; what it leaves has the same form.

pub mod budgets;
pub mod client;
pub mod gateway;
pub mod h2;
pub mod lab;
pub mod offer;
pub mod origin;
pub mod peers;
pub mod proof;
pub mod report;
pub mod rounds;
pub mod systems;
pub mod workloads;

use std::io::{self, Write as _};

use anyhow::Result;

use crate::{
    args::EdgeRun,
    publish,
    results::{About, Kind, Results},
    say,
};

/// Measures, prints, and says whether anything was wrong.
pub fn run(run: &EdgeRun) -> Result<bool> {
    let plan = run.plan()?;
    let with_signet = plan.systems.iter().any(|system| system.is_signet());
    let lab = lab::Lab::new(&run.directory(), run.programs(), with_signet)?;
    let seconds = plan.time.as_secs_f64();
    let about = About::now(Kind::Edge, plan.rounds, seconds, lab.programs.versions())?;
    say("proof: does everything go through TLS?");
    let proof = proof::of_all(&lab, &plan.systems)?;
    let results = Results { about, samples: plan.run(&lab)?, syscalls: Vec::new(), proof };
    if run.profile {
        rounds::profile(&lab, &plan)?;
    }
    if run.publish {
        publish::publish(&results)?;
    }
    io::stdout().write_all(report::markdown(&results).as_bytes())?;
    let faults = results.faults();
    faults.iter().for_each(|fault| say(fault));
    Ok(faults.is_empty())
}
