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
        &["explain"],
        &["endpoints"],
        &["check"],
        &["install"],
        &["uninstall"],
        &["hosts"],
        &["cert", "list"],
        &["cert", "why"],
        &["cert", "renew"],
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
        &["explain", "shop/web-0"],
        &["endpoints", "--from", "shop/web-0"],
        &["hosts"],
        &["cert", "list"],
        &["cert", "why", "app.example.com"],
        &["cert", "renew", "app.example.com", "--wait"],
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

/// Port 9 (discard): nobody listens there.
#[test]
fn a_cluster_that_cannot_be_asked_is_2_and_is_named() {
    let kubeconfig = std::env::temp_dir().join(format!("signet-kubeconfig-{}", std::process::id()));
    let text = "{apiVersion: v1, kind: Config, current-context: far, clusters: [{name: c, cluster: {server: 'https://127.0.0.1:9'}}], \
                users: [{name: u, user: {token: t}}], contexts: [{name: far, context: {cluster: c, user: u}}]}";
    std::fs::write(&kubeconfig, text).unwrap();
    let kubeconfig = kubeconfig.display().to_string();
    for (question, status) in [
        (&["status"][..], 2),
        (&["edges"], 2),
        (&["identity", "shop/web-0"], 2),
        (&["ca", "status"], 2),
        (&["ca", "rotate"], 2),
        (&["explain", "shop/web-0"], 2),
        (&["check"], 2),
        (&["check", "--pre"], 2),
        (&["uninstall"], 2),
        (&["install"], 1),
    ] {
        let answer = signet(&[question, &["--kubeconfig", &kubeconfig]].concat());
        let error = words(&answer.stderr);
        assert_eq!(answer.status.code(), Some(status), "{question:?}: {error}");
        assert!(error.contains("cluster far (https://127.0.0.1:9)"), "{question:?}: {error}");
        assert!(answer.stdout.is_empty(), "{question:?} prints no half answer");
    }
    let error = words(&signet(&["install", "--kubeconfig", &kubeconfig]).stderr);
    assert!(error.contains("--mesh-range"), "{error}");
    std::fs::remove_file(kubeconfig).unwrap();
}

#[test]
fn with_ranges_an_installation_is_printed_without_any_cluster() {
    let printed = signet(&["install", "--mesh-range", "10.0.0.0/8", "--kubeconfig", "/nonexistent"]);
    assert!(printed.status.success(), "{}", words(&printed.stderr));
    assert!(words(&printed.stdout).contains("- 10.0.0.0/8\n"));
}

#[test]
fn check_lists_what_it_can_find_and_asks_nobody() {
    let list = signet(&["check", "--list", "-o", "json", "--kubeconfig", "/nonexistent"]);
    let list: serde_json::Value = serde_json::from_slice(&list.stdout).unwrap();
    let ids: Vec<&str> = list.as_array().unwrap().iter().map(|known| known["id"].as_str().unwrap()).collect();
    assert!(ids.is_sorted() && ids.contains(&"SG001"), "{ids:?}");
    // What it names is there, and what is there is named. (That each is provoked: cli/src/check/judge/tests.rs.)
    let docs = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/checks");
    let pages = std::fs::read_dir(docs).unwrap().map(|page| page.unwrap().file_name().into_string().unwrap());
    let mut pages: Vec<String> = pages.map(|page| format!("docs/checks/{page}")).collect();
    pages.sort_unstable();
    let named: Vec<&str> =
        list.as_array().unwrap().iter().map(|known| known["page"].as_str().unwrap()).collect();
    assert_eq!(named, pages);
    assert!(ids.iter().zip(&pages).all(|(id, page)| *page == format!("docs/checks/{id}.md")), "{ids:?}");
}

#[test]
fn as_a_plugin_of_kubectl_it_is_called_like_one() {
    let link =
        std::env::temp_dir().join(format!("signet-plugin-{}", std::process::id())).join("kubectl-signet");
    std::fs::create_dir_all(link.parent().unwrap()).unwrap();
    let _ = std::fs::remove_file(&link);
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_signet"), &link).unwrap();
    let help = Command::new(&link).args(["edges", "--help"]).output().unwrap();
    assert!(words(&help.stdout).contains("Usage: kubectl signet edges"), "{}", words(&help.stdout));
    std::fs::remove_dir_all(link.parent().unwrap()).unwrap();
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
        for command in ["demo", "local", "edges", "identity", "distrust", "renew"] {
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
