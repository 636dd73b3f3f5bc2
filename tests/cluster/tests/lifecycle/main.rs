//! What a cluster leaves behind, however its harness ends: nothing.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail their test")]

mod footprint;

use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader},
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread,
};

use footprint::Footprint;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use signet_cluster::{harness, paths, state::State};

const KILLS: usize = 10;

#[test]
fn killed_with_9_ten_times_in_a_row_it_starts_again_each_time_and_down_leaves_nothing() {
    let cluster = Alone::on_this_machine("lifecycle");
    for round in 1..=KILLS {
        cluster.run(&["up"]);
        cluster.serves(2);
        cluster.kill_harness();
        println!("{round}: ready, and its harness killed");
    }
    cluster.run(&["up"]);
    cluster.serves(2);
    cluster.run(&["down"]);
    cluster.has_left_nothing();
}

#[test]
fn ctrl_c_while_it_starts_leaves_nothing() {
    let cluster = Alone::on_this_machine("lifecycle");
    let mut held = cluster.hold();
    held.until("nodes and their network made");
    held.interrupt();
    cluster.has_left_nothing();
}

#[test]
fn ctrl_c_when_it_is_ready_leaves_nothing() {
    let cluster = Alone::on_this_machine("lifecycle");
    let mut held = cluster.hold();
    held.until("the cluster is ready");
    held.interrupt();
    cluster.has_left_nothing();
}

#[test]
fn up_that_is_killed_while_it_waits_leaves_nothing() {
    let cluster = Alone::on_this_machine("lifecycle");
    let mut up = cluster.command().arg("up").stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(up.stderr.as_mut().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().ends_with("nodes and their network made")));
    up.kill().unwrap();
    up.wait().unwrap();
    cluster.wait_until_its_harness_has_ended();
    cluster.has_left_nothing();
}

#[test]
fn down_ends_a_cluster_that_is_still_starting() {
    let cluster = Alone::on_this_machine("lifecycle");
    let mut held = cluster.hold();
    held.until("nodes and their network made");
    cluster.run(&["down"]);
    held.process.wait().unwrap();
    cluster.has_left_nothing();
}

#[test]
fn one_node_is_a_cluster_too() {
    let cluster = Alone::on_this_machine("lifecycle");
    cluster.run(&["up", "--nodes", "1"]);
    cluster.serves(1);
    cluster.run(&["down"]);
    cluster.has_left_nothing();
}

#[test]
fn a_second_start_of_a_running_cluster_says_so_and_changes_nothing() {
    let cluster = Alone::on_this_machine("lifecycle");
    cluster.run(&["up", "--nodes", "1"]);
    let harness = cluster.harness();
    let said = cluster.run(&["up", "--nodes", "1"]);
    assert!(said.contains("export KUBECONFIG="), "{said}");
    assert_eq!(cluster.harness(), harness);
    cluster.run(&["down"]);
    cluster.has_left_nothing();
}

/// A cluster of this name, by the only test of this binary that runs now, and what the machine looked like before.
struct Alone {
    name: String,
    before: Footprint,
    _lock: File,
}

impl Alone {
    fn on_this_machine(name: &str) -> Self {
        let lock = paths::state(name).unwrap().with_extension("test");
        fs::create_dir_all(lock.parent().unwrap()).unwrap();
        let lock = File::create(lock).unwrap();
        lock.lock().unwrap();
        let alone = Self { name: name.to_owned(), before: Footprint::default(), _lock: lock };
        alone.run(&["down"]); // of a run that was killed
        Self { before: Footprint::take(), ..alone }
    }

    /// Runs a command to its end and returns its stdout.
    fn run(&self, arguments: &[&str]) -> String {
        let output = self.command().args(arguments).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {}\n{said}", output.status);
        String::from_utf8(output.stdout).unwrap()
    }

    fn hold(&self) -> Held {
        let process = self.command().arg("hold").stdout(Stdio::piped()).spawn().unwrap();
        Held { process }
    }

    fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_signet-cluster"));
        command.args(["--name", &self.name]).stdin(Stdio::null());
        command
    }

    /// Returns when it is dead, and not when its nodes are.
    fn kill_harness(&self) {
        kill(self.harness(), Signal::SIGKILL).unwrap();
        self.wait_until_its_harness_has_ended();
    }

    fn wait_until_its_harness_has_ended(&self) {
        while harness::is_running(&self.name).unwrap() {
            thread::yield_now();
        }
    }

    fn harness(&self) -> Pid {
        let state = State::read(&self.state()).unwrap().expect("a running cluster");
        Pid::from_raw(state.harness.try_into().unwrap())
    }

    fn state(&self) -> PathBuf {
        paths::state(&self.name).unwrap()
    }

    /// The API server answers, and knows that its nodes are Ready.
    fn serves(&self, nodes: usize) {
        let ready = "jsonpath={.items[*].status.conditions[?(@.type=='Ready')].status}";
        let said = self.run(&["kubectl", "get", "nodes", "-o", ready]);
        assert_eq!(said.split_whitespace().collect::<Vec<_>>(), vec!["True"; nodes]);
    }

    fn has_left_nothing(&self) {
        self.before.assert_unchanged();
        assert!(!self.state().exists(), "the state directory is still there");
    }
}

/// A harness in the foreground.
struct Held {
    process: Child,
}

impl Held {
    /// Reads what it says until it says that it has done `step`.
    fn until(&mut self, step: &str) {
        let mut lines = BufReader::new(self.process.stdout.as_mut().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap().ends_with(step)), "it ended before: {step}");
    }

    fn interrupt(&mut self) {
        kill(Pid::from_raw(self.process.id().try_into().unwrap()), Signal::SIGINT).unwrap();
        let status = self.process.wait().unwrap();
        assert!(status.success(), "{status}");
    }
}
