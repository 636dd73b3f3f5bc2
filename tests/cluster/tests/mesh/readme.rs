//! README.md as its reader meets it: every command of its `console` blocks, typed into bash in the order of the page, prints what
//! stands below it there.
//!
//! A line that begins with `$ ` is a command; what follows, up to the next one, is its output, stderr included. `...` stands for what
//! differs from run to run: within a line for any characters, alone on a line for any lines, none too. Any number of blanks is one.
//! A question ([`ASKS`]) is asked again for a minute until the answer is the one of the page: pods start, and proxies report, in seconds.

use std::{
    fs,
    os::unix,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use signet_cluster::{Cluster, disturb, programs::Programs};
use tokio::{
    process::Command,
    time::{sleep, timeout},
};

use crate::{
    acme::outside::{CA_PORT, LONG_LIFE, Outside},
    installed::{Mesh, binary},
};

#[tokio::test]
async fn every_command_of_the_readme_prints_what_the_readme_says() -> Result<()> {
    disturb(async |namespace| {
        let (mesh, begun) = (Mesh::of(namespace), Instant::now());
        clean(&mesh).await?; // of a test that was killed
        let desk = Desk::new(&namespace.cluster, String::new())?;
        let read: Result<()> = Box::pin(async {
            desk.read("On Kubernetes", 10).await?;
            ensure!(begun.elapsed() < PROMISED, "it took {:?}", begun.elapsed());
            Ok(())
        })
        .await;
        let cleaned = clean(&mesh).await;
        fs::remove_dir_all(&desk.scratch)?;
        read.and(cleaned)
    })
    .await
}

/// With a CA and DNS outside of the cluster, which its reader has at home.
#[tokio::test]
async fn from_an_empty_cluster_to_three_https_hosts_every_command_prints_what_the_page_says() -> Result<()> {
    disturb(async |namespace| {
        let mesh = Mesh::of(namespace);
        clean(&mesh).await?; // of a test that was killed
        let mut outside = Outside::prepare(0, LONG_LIFE)?;
        let mut nodes = Vec::new();
        for node in ["node1", "node2"] {
            nodes.extend(namespace.cluster.node_addresses(node).await?);
        }
        outside.start(&mesh, &nodes).await?;
        let desk = Desk::new(&namespace.cluster, outside.ca(CA_PORT).join(" "))?;
        let read = Box::pin(desk.read("From an empty cluster to HTTPS", 8)).await;
        let cleaned = clean(&mesh).await;
        fs::remove_dir_all(&desk.scratch)?;
        read.and(cleaned)
    })
    .await
}

async fn clean(mesh: &Mesh) -> Result<()> {
    mesh.uninstall().await?;
    let arguments =
        ["delete", "--ignore-not-found", "-f", &examples().join("shop.yaml").display().to_string()];
    mesh.kubectl(&arguments, "").await.map(drop)
}

/// One command of the page and what stands below it.
#[derive(Debug, Eq, PartialEq)]
struct Step {
    command: String,
    output: String,
}

/// What stands below a title of the second level.
fn section<'p>(page: &'p str, title: &str) -> Option<&'p str> {
    let mut sections = page.split("\n## ");
    sections.find_map(|section| section.strip_prefix(title)?.strip_prefix('\n'))
}

fn steps(page: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut inside = false;
    for line in page.lines() {
        match (line.strip_prefix("$ "), steps.last_mut()) {
            _ if line.starts_with("```") => inside = line == "```console",
            (Some(command), _) if inside => {
                steps.push(Step { command: command.to_owned(), output: String::new() });
            }
            (None, Some(step)) if inside => step.output += &format!("{line}\n"),
            _ => {}
        }
    }
    steps
}

/// Where the reader sits: a scratch directory with examples/, and signet and kubectl on the PATH.
struct Desk {
    scratch: PathBuf,
    kubeconfig: PathBuf,
    /// `$CA`: which one certifies public hosts, as options of `signet install`.
    ca: String,
}

impl Desk {
    fn new(cluster: &Cluster, ca: String) -> Result<Self> {
        let scratch = std::env::temp_dir().join(format!("signet-readme-{}", std::process::id()));
        let bin = scratch.join("bin");
        fs::create_dir_all(&bin)?;
        let (signet, kubectl) = (binary("signet")?, Programs::open()?.path("kubectl")?);
        for (from, to) in [
            (&signet, bin.join("signet")),
            (&signet, bin.join("kubectl-signet")),
            (&kubectl, bin.join("kubectl")),
            (&examples(), scratch.join("examples")),
        ] {
            unix::fs::symlink(from, &to).with_context(|| to.display().to_string())?;
        }
        Ok(Self { scratch, kubeconfig: cluster.state.kubeconfig.clone(), ca })
    }

    /// Types every command of a section that has more than `least`.
    async fn read(&self, title: &str, least: usize) -> Result<()> {
        let page = fs::read_to_string(root().join("README.md"))?;
        let steps = steps(section(&page, title).with_context(|| format!("no section {title}"))?);
        ensure!(steps.len() > least, "{title} has only {} commands", steps.len());
        for step in &steps {
            self.follow(step).await?;
        }
        Ok(())
    }

    async fn follow(&self, step: &Step) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let got = self.type_in(&step.command).await?;
            eprintln!("$ {}\n{got}", step.command);
            if is_as_written(&step.output, &got) {
                return Ok(());
            }
            if !asks(&step.command) || Instant::now() > deadline {
                bail!("`{}` prints\n{got}\nand the README says\n{}", step.command, step.output);
            }
            sleep(AGAIN).await; // nothing tells when a proxy has reported
        }
    }

    async fn type_in(&self, command: &str) -> Result<String> {
        let path = format!("{}:/usr/bin:/bin", self.scratch.join("bin").display());
        let child = Command::new("bash")
            .args(["-c", &format!("exec 2>&1\n{command}")])
            .current_dir(&self.scratch)
            .env_clear()
            .envs([("PATH", path.as_str()), ("LANG", "C.UTF-8")])
            .env("HOME", &self.scratch)
            .env("KUBECONFIG", &self.kubeconfig)
            .env("CA", &self.ca)
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output();
        let output = timeout(LONGEST, child).await.with_context(|| format!("`{command}` does not end"))??;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

fn asks(command: &str) -> bool {
    ASKS.iter().any(|ask| command.starts_with(ask)) || command.contains(" exec ")
}

/// Whether `got` is what the page says, by the rules at the head of this file.
fn is_as_written(page: &str, got: &str) -> bool {
    fn lines(page: &[String], got: &[String]) -> bool {
        match (page, got) {
            ([], []) => true,
            ([any, rest @ ..], _) if any == ANY => {
                (0..=got.len()).any(|skipped| lines(rest, &got[skipped..]))
            }
            ([one, page @ ..], [line, got @ ..]) => line_is_as_written(one, line) && lines(page, got),
            _ => false,
        }
    }
    let words = |text: &str| -> Vec<String> {
        let lines = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "));
        lines.filter(|line| !line.is_empty()).collect()
    };
    lines(&words(page), &words(got))
}

fn line_is_as_written(page: &str, line: &str) -> bool {
    let pieces: Vec<&str> = page.split(ANY).collect();
    let [first, middle @ .., last] = &pieces[..] else { return page == line };
    let Some(mut rest) = line.strip_prefix(first) else { return false };
    for piece in middle {
        let Some((_, after)) = rest.split_once(piece) else { return false };
        rest = after;
    }
    rest.ends_with(last)
}

fn examples() -> PathBuf {
    root().join("examples")
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

#[test]
fn a_line_that_is_not_as_the_readme_says_is_noticed() {
    for (page, got, same) in [
        ("a b\n", "a   b\n", true),
        ("a b\n", "a c\n", false),
        ("a b\n", "a b\nc\n", false),
        ("a b\nc\n", "a b\n", false),
        ("web-... yes ... id\n", "web-1 yes  24h  id\n", true),
        ("web-... yes ... id\n", "web-1 no  24h  id\n", false),
        ("web-... yes ... id\n", "web-1 yes  24h  other\n", false),
        ("first\n...\nlast\n", "first\nlast\n", true),
        ("first\n...\nlast\n", "first\n1\n2\nlast\n", true),
        ("first\n...\nlast\n", "first\n1\n2\n", false),
        ("...\n", "", true),
        ("", "words\n", false),
    ] {
        assert_eq!(is_as_written(page, got), same, "{page:?} {got:?}");
    }
}

#[test]
fn only_console_blocks_are_typed() {
    let page =
        "$ no\n```\n$ no\n```\n```console\n$ one\nsaid\n\nmore\n$ two\n```\ntext\n```console\n$ three\n```\n";
    let step = |command: &str, output: &str| Step { command: command.into(), output: output.into() };
    assert_eq!(steps(page), [step("one", "said\n\nmore\n"), step("two", ""), step("three", "")]);
}

const ANY: &str = "...";
/// Commands that change nothing.
const ASKS: [&str; 11] = [
    "kubectl -n shop get",
    "signet cert list",
    "signet cert why",
    "signet check",
    "signet edges",
    "signet endpoints",
    "signet explain",
    "signet hosts",
    "signet identity",
    "signet status",
    "kubectl signet",
];
/// Issue 6, line 9.
const PROMISED: Duration = Duration::from_secs(600);
/// For an answer to become the one of the page: a proxy reports every few seconds.
const PATIENCE: Duration = Duration::from_secs(60);
const AGAIN: Duration = Duration::from_millis(500);
/// Images are pulled, and the kubelet tries a ConfigMap that is not there yet again after up to a minute.
const LONGEST: Duration = Duration::from_secs(240);
