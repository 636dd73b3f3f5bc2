//! `signet inject` and `signet uninject`: the webhook's work on files, for people who want to see it, or keep it in git.

use std::{collections::BTreeMap, io::Read as _, path::Path};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;
use signet_injector::{Meshed, NamespaceView, Outcome, inject, manifests, manifests::Note, uninject};
use signet_link::place::Place;

use crate::{
    Exit,
    output::{self, Format, Output},
};

/// Put the proxy into the pods of manifests, as the webhook would
///
/// Prints the same stream of YAML with Pods and pod templates (Deployment, StatefulSet, DaemonSet, ReplicaSet, Job, CronJob)
/// changed; everything else stays as it is. What is injected already is brought up to date. Changes nothing in a cluster.
///
/// Example: signet inject -f app.yaml --image registry.example.com/signet:0.1.0 --mesh-range 10.244.0.0/16,10.96.0.0/12 | kubectl apply -f -
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exit status: 0 printed, 1 something is refused and nothing printed, 2 could not read, 64 wrong usage"
)]
pub(crate) struct Inject {
    #[command(flatten)]
    from: From,
    /// The CA, for the pods
    #[arg(long, value_name = "HOST:PORT", default_value = "ca.signet-system.svc:15012")]
    ca: Place,
    #[command(flatten)]
    meshed: Meshed,
    /// Labels of the namespace, to see what Pod Security says: pod-security.kubernetes.io/enforce=baseline,..
    #[arg(long, value_name = "KEY=VALUE,..", value_delimiter = ',', value_parser = pair)]
    namespace_labels: Vec<(String, String)>,
}

/// Take the proxy out of manifests again
///
/// The way back of signet inject: prints the stream as it was before. Changes nothing in a cluster.
/// Example: kubectl get deploy -n shop -o yaml | signet uninject -f - | kubectl apply -f -
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exit status: 0 printed, 1 something is refused and nothing printed, 2 could not read, 64 wrong usage"
)]
pub(crate) struct Uninject {
    #[command(flatten)]
    from: From,
}

#[derive(Debug, clap::Args)]
struct From {
    /// Manifests, YAML or JSON; - is stdin
    #[arg(short = 'f', long = "filename", value_name = "FILE")]
    file: String,
}

pub(crate) fn run(args: Inject) -> Result<Exit> {
    let settings = args.meshed.settings(&args.ca)?;
    let labels: BTreeMap<String, String> = args.namespace_labels.into_iter().collect();
    convert(&args.from, |pod, namespace| {
        let view = NamespaceView { name: namespace.to_owned(), labels: labels.clone() };
        inject(pod, Some(&view), &settings)
    })
}

pub(crate) fn run_uninject(args: Uninject) -> Result<Exit> {
    convert(&args.from, |pod, _| uninject(pod))
}

fn convert(from: &From, change: impl Fn(&Value, &str) -> Outcome) -> Result<Exit> {
    let text = from.read()?;
    let tell = |note: &Note| {
        let object = if note.object.is_empty() { String::new() } else { format!("{}: ", note.object) };
        output::note(&format!("{}:{}: {object}{}", from.file, note.line, note.message));
    };
    match manifests::convert(&text, change) {
        Ok(converted) => {
            converted.notes.iter().for_each(tell);
            Output::to_stdout(Format::Table).print(&converted.text)?;
            Ok(Exit::Fine)
        }
        Err(faults) => {
            faults.iter().for_each(tell);
            output::note("Nothing is printed: mend that first, or take it out.");
            Ok(Exit::Fix)
        }
    }
}

impl From {
    fn read(&self) -> Result<String> {
        if self.file != "-" {
            return std::fs::read_to_string(Path::new(&self.file)).with_context(|| self.file.clone());
        }
        let mut text = String::new();
        std::io::stdin().lock().read_to_string(&mut text).context("stdin")?;
        Ok(text)
    }
}

fn pair(text: &str) -> Result<(String, String)> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => bail!("{text:?} is no label; write key=value"),
    }
}
