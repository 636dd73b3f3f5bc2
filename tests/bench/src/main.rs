//! signet-bench. This file wires and decides nothing.

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use anyhow::Result;
use clap::Parser as _;

use signet_bench::{
    args::{Args, Command, Run},
    edge,
    lab::Lab,
    profile, proof, publish, report,
    results::{About, Kind, Results},
    say, syscalls,
};

fn main() -> Result<ExitCode> {
    match Args::parse().command {
        Command::Run(run) => self::run(&run),
        Command::Edge(run) => Ok(if edge::run(&run)? { ExitCode::SUCCESS } else { ExitCode::FAILURE }),
        Command::Show { file } => {
            let results: Results = serde_json::from_slice(&std::fs::read(file)?)?;
            io::stdout().write_all(report::markdown(&results).as_bytes())?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn run(run: &Run) -> Result<ExitCode> {
    let plan = run.plan()?;
    let with_signet = plan.systems.iter().any(|system| system.is_signet());
    let lab = Lab::new(&run.directory(), run.programs(), with_signet)?;
    let about = About::now(Kind::Dataplane, plan.rounds, plan.time.as_secs_f64(), lab.programs.versions())?;
    let mut results = Results { about, samples: Vec::new(), syscalls: Vec::new(), proof: Vec::new() };
    if !run.no_proof {
        say("proof: is mutual TLS on?");
        for system in &plan.systems {
            let running = system.start(&lab)?;
            results.proof.push(proof::prove(&lab, &running)?);
            running.stop();
        }
    }
    results.samples = plan.run(&lab)?;
    if !run.no_syscalls {
        say("system calls");
        results.syscalls = syscalls::of_all(&lab, &plan)?;
    }
    if run.profile {
        profile::of_all(&lab, &plan)?;
    }
    if run.publish {
        publish::publish(&results)?;
    }
    io::stdout().write_all(report::markdown(&results).as_bytes())?;
    let faults = results.faults();
    faults.iter().for_each(|fault| say(fault));
    Ok(if faults.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
