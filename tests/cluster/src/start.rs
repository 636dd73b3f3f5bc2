//! `up`: starts a harness that outlives us, shows how far it is, and leaves it running.

use std::{
    fs::File,
    io::{BufRead as _, BufReader},
    os::unix::process::CommandExt as _,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

use crate::{
    harness::{self, Plan},
    paths,
    state::State,
};

pub fn up(plan: &Plan) -> Result<State> {
    let directory = paths::state(&plan.name)?;
    if harness::is_running(&plan.name)?
        && let Some(state) = State::read(&directory)?
    {
        eprintln!("the cluster {} is running already", plan.name);
        return Ok(state);
    }
    let parent = directory.parent().context("the state directory has no parent")?;
    std::fs::create_dir_all(parent)?;
    let log = parent.join(format!("{}.log", plan.name)); // beside it: the directory itself is made anew by the harness
    let mut harness = Command::new(std::env::current_exe()?)
        .args(["--name", &plan.name, "hold", "--abandon", "--nodes", &plan.nodes.to_string()])
        .stdin(Stdio::piped()) // dropped when we return, or are killed: before it is ready, that ends it
        .stdout(Stdio::piped())
        .stderr(File::create(&log).with_context(|| log.display().to_string())?)
        .process_group(0) // Ctrl-C in this terminal is not its business later
        .spawn()?;
    let stdout = harness.stdout.take().context("no pipe to the harness")?;
    let ready = BufReader::new(stdout).lines().map_while(Result::ok).any(|line| {
        eprintln!("{line}");
        line.ends_with(harness::READY)
    });
    if !ready {
        harness.wait()?;
        for (path, words) in harness::last_words(&directory) {
            eprintln!("--- {}\n{words}", path.display());
        }
        let why = std::fs::read_to_string(&log).unwrap_or_default();
        bail!("the cluster did not start: {}\nits logs: {}", why.trim(), directory.display());
    }
    State::read(&directory)?.context("the harness wrote no state")
}
