//! The first thing a newcomer runs.

use serde_json::Value;
use signet_tests::{
    eventually::{SOON, eventually},
    unprivileged::Unprivileged,
};
use tokio::process::Command;

/// Word for word what issue 3 says: an empty environment, no rights, nobody's uid.
#[tokio::test]
async fn the_demo_runs_without_rights_in_an_empty_environment_and_every_promise_holds() {
    let user = Unprivileged::new().unwrap();
    let mut demo = Command::new("env");
    demo.arg("-i").arg(format!("HOME={}", user.home.display()));
    demo.args([
        "setpriv",
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
        "--bounding-set=-all",
        "--no-new-privs",
    ]);
    demo.arg(user.home.join("bin/signet")).args(["demo", "--once"]).current_dir(&user.home);
    let shown = user.output(demo).await.unwrap();
    for said in ["spiffe://", "TLSv1.3", "X25519MLKEM768", "namespace_not_labelled", "plaintext_refused"] {
        assert!(shown.contains(said), "the demo does not show {said:?}:\n{shown}");
    }
    assert!(!shown.contains('✗'), "{shown}");
}

#[tokio::test]
async fn while_the_demo_runs_the_cli_shows_both_identities_and_why_an_edge_is_plaintext() {
    let user = Unprivileged::new().unwrap();
    let state = user.home.join("mesh").display().to_string();
    let mut demo = user.signet("signet");
    demo.args(["demo", "--state", &state]);
    let shown = user.home.join("demo.out");
    let mut demo = demo.stdout(std::fs::File::create(&shown).unwrap()).spawn().unwrap();
    // The demo makes a directory of its own in the state directory, and says its name.
    let state = eventually("the demo's state directory", SOON, async || {
        let made = std::fs::read_dir(&state).ok()?.flatten().next()?;
        Some(made.path().display().to_string())
    })
    .await;
    let ask = async |args: &[&str]| -> Option<Value> {
        let mut signet = user.signet("signet");
        signet.args(args).args(["-o", "json", "--state", &state]);
        let output = signet.output().await.ok()?;
        serde_json::from_slice(&output.stdout).ok()
    };
    let secured = eventually("a secured edge", SOON, async || {
        let edges = ask(&["edges"]).await?;
        let edges = edges["edges"].as_array()?;
        let plain =
            edges.iter().any(|edge| edge["secured"] == false && edge["reason"] == "namespace_not_labelled");
        edges
            .iter()
            .find(|edge| edge["secured"] == true && edge["proof"] == "both")
            .filter(|_| plain)
            .cloned()
    })
    .await;
    for end in ["client", "server"] {
        assert!(secured[end]["id"].as_str().unwrap().starts_with("spiffe://cluster.local/ns/"), "{secured}");
    }
    assert_eq!(secured["tls"]["version"], "TLSv1.3");
    assert_eq!(secured["tls"]["keyExchange"], "X25519MLKEM768");
    assert!(secured["certLeftSeconds"].as_i64().unwrap() > 0, "{secured}");
    let pod = secured["server"]["pod"].as_str().unwrap().to_owned();
    let identity = ask(&["identity", &pod]).await.unwrap();
    assert!(identity.to_string().contains(secured["server"]["id"].as_str().unwrap()), "{identity}");
    let status = ask(&["status"]).await.unwrap();
    assert!(status.to_string().contains(&pod), "{status}");
    let ca = ask(&["ca", "status"]).await.unwrap();
    assert_eq!(ca["rotation"]["state"], "steady", "{ca}");
    // Ctrl-C before the verdict would be an end without one.
    eventually("the verdict", SOON, async || {
        std::fs::read_to_string(&shown).ok().filter(|text| text.contains("Every promise was held")).map(drop)
    })
    .await;
    let pid = nix::unistd::Pid::from_raw(i32::try_from(demo.id().unwrap()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
    assert!(
        tokio::time::timeout(SOON, demo.wait()).await.unwrap().unwrap().success(),
        "Ctrl-C is a clean stop"
    );
}
