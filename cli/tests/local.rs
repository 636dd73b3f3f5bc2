//! Supervision, with the real CA and controller and a stand-in for the proxy that does nothing until its stdin ends.

#![expect(clippy::unwrap_used, reason = "a test says with a panic that it failed")]

use std::{
    fs,
    future::Future,
    net::IpAddr,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::atomic::{AtomicU8, Ordering},
    time::Duration,
};

use serde_json::Value;
use signet_cli::{
    ask::Place,
    local::{Local, LocalConfig},
    state::StateDir,
};
use tokio::time::{Instant, sleep};

/// A scratch mesh with addresses of its own.
struct Scratch {
    root: PathBuf,
    control: IpAddr,
}

impl Scratch {
    fn new(name: &str) -> Self {
        static NEXT: AtomicU8 = AtomicU8::new(1);
        let third = u8::try_from(std::process::id() % 250).unwrap();
        let control = [127, 40, third, NEXT.fetch_add(1, Ordering::Relaxed)].into();
        let root = std::env::temp_dir().join(format!("signet-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&root);
        fs::create_dir_all(root.join("manifests")).unwrap();
        let proxy = root.join("proxy");
        fs::write(&proxy, "#!/bin/sh\nexec cat\n").unwrap();
        fs::set_permissions(&proxy, fs::Permissions::from_mode(0o755)).unwrap();
        let namespace =
            "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop, labels: {signet.dev/inject: enabled}}\n";
        fs::write(root.join("manifests/00.yaml"), namespace).unwrap();
        Self { root, control }
    }

    fn pod(&self, name: &str, host: u8, upstreams: &str) {
        let pod = format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: shop, annotations: {{signet.dev/upstreams: \"{upstreams}\"}}}}\n\
             spec: {{serviceAccountName: {name}, containers: []}}\nstatus: {{podIP: 127.41.0.{host}, phase: Running}}\n"
        );
        fs::write(self.root.join(format!("manifests/{name}.yaml")), pod).unwrap();
    }

    fn config(&self) -> LocalConfig {
        let state = StateDir::at(&self.root.join("state")).unwrap();
        let mut config = LocalConfig::new(&self.root.join("manifests"), state).unwrap();
        config.signet = env!("CARGO_BIN_EXE_signet").into();
        config.proxy = self.root.join("proxy");
        config.control_address = self.control;
        config
    }

    fn path(&self, path: &str) -> PathBuf {
        self.root.join("state").join(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.root);
    }
}

async fn eventually<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let end = Instant::now() + Duration::from_secs(20);
    while !holds().await {
        assert!(Instant::now() < end, "not within 20 s: {what}");
        sleep(Duration::from_millis(10)).await;
    }
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

async fn boot_id(local: &Local) -> Option<String> {
    let status: Value = Place::Socket(local.state_dir().ca_socket()).get("/v1/status").await.ok()?;
    Some(status["bootId"].as_str()?.to_owned())
}

#[tokio::test]
async fn a_killed_ca_comes_back_and_every_token_is_new() {
    let scratch = Scratch::new("tokens");
    scratch.pod("web", 2, "");
    let local = Local::start(scratch.config()).await.unwrap();
    let tokens = ["workloads/shop.web/token", "controller/token"].map(|path| scratch.path(path));
    eventually("first tokens", || async { tokens.iter().all(|path| !read(path).is_empty()) }).await;
    let (old, boot) = (tokens.each_ref().map(|path| read(path)), boot_id(&local).await.unwrap());
    let mode = fs::metadata(&tokens[0]).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o600);
    local.kill_child("ca").await.unwrap();
    eventually("a new boot id", || async { boot_id(&local).await.is_some_and(|id| id != boot) }).await;
    eventually("new tokens", || async { tokens.iter().zip(&old).all(|(path, old)| read(path) != *old) })
        .await;
    local.shutdown().await;
    assert!(!scratch.path("local.json").exists());
}

#[tokio::test]
async fn the_directory_decides_who_runs() {
    let scratch = Scratch::new("follow");
    scratch.pod("web", 2, "9001=api.shop:80");
    let local = Local::start(scratch.config()).await.unwrap();
    eventually("web runs", || async { local.child_pid("shop/web").is_some() }).await;
    let (web, ca) = (local.child_pid("shop/web"), local.child_pid("ca"));
    scratch.pod("api", 3, "");
    eventually("api was added", || async { local.child_pid("shop/api").is_some() }).await;
    assert_eq!(local.child_pid("shop/web"), web, "web did not change");
    scratch.pod("web", 2, "9002=api.shop:80");
    eventually("web was restarted", || async {
        local.child_pid("shop/web").is_some_and(|pid| Some(pid) != web)
    })
    .await;
    assert!(read(&scratch.path("workloads/shop.web/bootstrap.json")).contains(":9002"));
    fs::write(scratch.root.join("manifests/api.yaml"), "kind: [broken").unwrap();
    eventually("the fault is told", || async { local.problems().iter().any(|p| p.contains("api.yaml")) })
        .await;
    assert!(local.child_pid("shop/api").is_some(), "a broken file costs nobody a proxy");
    fs::remove_file(scratch.root.join("manifests/api.yaml")).unwrap();
    eventually("api was removed", || async { !scratch.path("workloads/shop.api").exists() }).await;
    assert_eq!(local.child_pid("ca"), ca);
    local.shutdown().await;
}

#[tokio::test]
async fn a_child_stays_down_when_told_and_comes_back_when_not() {
    let scratch = Scratch::new("orders");
    let local = Local::start(scratch.config()).await.unwrap();
    local.wait_ready(Duration::from_secs(20)).await.unwrap();
    local.stop_child("controller").await.unwrap();
    assert_eq!(local.child_pid("controller"), None);
    assert_eq!(local.pending().await, ["controller: stopped"]);
    local.start_child("controller").await.unwrap();
    local.wait_ready(Duration::from_secs(20)).await.unwrap();
    let pid = local.child_pid("controller");
    local.pause_child("controller").await.unwrap();
    local.kill_child("controller").await.unwrap();
    eventually("another process", || async {
        local.child_pid("controller").is_some_and(|new| Some(new) != pid)
    })
    .await;
    local.wait_ready(Duration::from_secs(20)).await.unwrap();
    let unknown = local.stop_child("shop/none").await.unwrap_err().to_string();
    assert!(unknown.contains("there are ca, controller"), "{unknown}");
    local.shutdown().await;
}

#[tokio::test]
async fn what_cannot_start_says_why_in_its_own_words() {
    let scratch = Scratch::new("bad");
    let mut config = scratch.config();
    config.leaf_life = "20s".into();
    let error = format!("{:#}", Local::start(config).await.err().unwrap());
    assert!(error.contains("ca exited with status 1") && error.contains("ca.log"), "{error}");
    assert!(error.lines().count() > 1, "no last words: {error}");
    let mut config = scratch.config();
    config.signet = "/nonexistent/signet".into();
    let error = Local::start(config).await.err().unwrap().to_string();
    assert!(error.contains("/nonexistent/signet is missing"), "{error}");
}

/// One child is stopped, by a debugger say, and cannot notice; the next start in that directory ends it.
#[tokio::test]
async fn no_child_outlives_a_killed_supervisor_and_a_stopped_one_is_not_in_the_way() {
    let scratch = Scratch::new("orphans");
    scratch.pod("web", 2, "");
    // It needs signet-proxy beside itself; the stand-in lies beside a link to the real one.
    let bin = scratch.root.join("bin");
    fs::create_dir(&bin).unwrap();
    fs::hard_link(env!("CARGO_BIN_EXE_signet"), bin.join("signet"))
        .or_else(|_| fs::copy(env!("CARGO_BIN_EXE_signet"), bin.join("signet")).map(drop))
        .unwrap();
    fs::copy(scratch.root.join("proxy"), bin.join("signet-proxy")).unwrap();
    let mut supervisor = Command::new(bin.join("signet"))
        .arg("local")
        .arg(scratch.root.join("manifests"))
        .args(["--control-address", &scratch.control.to_string(), "--state"])
        .arg(scratch.root.join("state"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let children = || -> Vec<i32> {
        let running: Value = serde_json::from_str(&read(&scratch.path("local.json"))).unwrap_or_default();
        let children = running["children"].as_array().cloned().unwrap_or_default();
        children.iter().filter_map(|child| i32::try_from(child["pid"].as_i64()?).ok()).collect()
    };
    eventually("three children", || async { children().len() == 3 }).await;
    let pids = children();
    let signal = |pid: i32, signal| nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal);
    let stat = |pid: i32| read(Path::new(&format!("/proc/{pid}/stat")));
    signal(pids[0], nix::sys::signal::Signal::SIGSTOP).unwrap();
    eventually("the CA is stopped", || async { stat(pids[0]).contains(") T ") }).await;
    supervisor.kill().unwrap();
    supervisor.wait().unwrap();
    let gone = |pid: i32| stat(pid).is_empty() || stat(pid).contains(") Z ");
    eventually("the others are gone", || async { pids[1..].iter().all(|pid| gone(*pid)) }).await;
    let local = Local::start(scratch.config()).await.unwrap();
    assert!(gone(pids[0]));
    local.shutdown().await;
}
