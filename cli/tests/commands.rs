//! The command line as people and scripts meet it: help, completion, exit status, words. Nothing runs.

#![expect(clippy::unwrap_used, reason = "a test says with a panic that it failed")]

use std::{
    path::PathBuf,
    process::{Command, Output, Stdio},
};

fn signet(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_signet")).args(args).env_remove("SIGNET_STATE").output().unwrap()
}

fn words(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn nowhere() -> String {
    std::env::temp_dir().join(format!("signet-nowhere-{}", std::process::id())).display().to_string()
}

#[test]
fn every_command_says_what_it_does_and_how_it_ends() {
    for command in [
        &[][..],
        &["demo"],
        &["local"],
        &["status"],
        &["edges"],
        &["identity"],
        &["ca", "status"],
        &["ca", "rotate"],
        &["ca", "bundle"],
        &["ca", "distrust"],
        &["run", "ca"],
        &["run", "controller"],
        &["version"],
        &["completion"],
    ] {
        let help = signet(&[command, &["--help"]].concat());
        let text = words(&help.stdout);
        assert!(help.status.success(), "{command:?}");
        assert!(text.contains("Exit status: 0"), "{command:?}: {text}");
        assert!(!text.contains("allow-short-leaves"), "{command:?} shows a test flag");
    }
}

#[test]
fn what_cannot_be_asked_is_2_and_says_how_to_start() {
    let state = nowhere();
    for question in [
        &["status"][..],
        &["edges"],
        &["edges", "--plaintext"],
        &["identity", "web-0"],
        &["ca", "status"],
        &["ca", "rotate"],
        &["ca", "bundle"],
        &["ca", "distrust", "00"],
    ] {
        let answer = signet(&[question, &["--state", &state, "-o", "json"]].concat());
        let error = words(&answer.stderr);
        assert_eq!(answer.status.code(), Some(2), "{question:?}: {error}");
        assert!(error.contains("signet demo") && error.contains(&state), "{question:?}: {error}");
        assert!(answer.stdout.is_empty(), "{question:?} prints no half answer");
    }
    assert!(!PathBuf::from(state).exists(), "a question makes nothing");
}

#[test]
fn wrong_usage_is_64_and_what_cannot_start_is_1() {
    for (args, status) in [
        (&[][..], 64),
        (&["no-such-command"], 64),
        (&["edges", "-o", "yaml"], 64),
        (&["local"], 64),
        (&["local", "/nonexistent/manifests", "--state", &nowhere()], 1),
        (&["version"], 0),
        (&["--version"], 0),
    ] {
        assert_eq!(signet(args).status.code(), Some(status), "{args:?}");
    }
    let _ = std::fs::remove_dir_all(nowhere());
}

#[test]
fn completion_knows_every_command() {
    for shell in ["bash", "zsh", "fish"] {
        let script = words(&signet(&["completion", shell]).stdout);
        for command in ["demo", "local", "edges", "identity", "distrust"] {
            assert!(script.contains(command), "{shell} does not complete {command}");
        }
    }
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_signet"))
        .args(["completion", "bash"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take()); // as `head` does
    let end = child.wait_with_output().unwrap();
    assert!(end.status.success() && end.stderr.is_empty(), "{}", words(&end.stderr));
}

#[test]
fn version_is_the_same_in_text_and_json() {
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(words(&signet(&["version"]).stdout), format!("signet {version}\n"));
    let json: serde_json::Value = serde_json::from_slice(&signet(&["version", "-o", "json"]).stdout).unwrap();
    assert_eq!(json, serde_json::json!({ "version": version }));
}
