//! Putting a root into stores, and taking it out again: what will be done is said and asked first, and what became of it afterwards.

use std::{
    fmt::Write as _,
    io::{self, BufRead as _, IsTerminal as _},
};

use anyhow::{Context as _, Result, bail};
use signet_core::clock;
use signet_edge_ca::{Root, Suffix};

use super::{
    Change,
    answer::{Answer, sha256, text},
    store::{Kind, State, Store, nickname},
    system_store,
    whose::Found,
};
use crate::{
    Exit,
    output::{self, Output},
};

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Way {
    In,
    Out,
}

/// Says what it will do, asks, does it, and says what became of it.
pub(super) fn change(args: &Change, found: &Found, way: Way) -> Result<Exit> {
    let stores = args.stores();
    let (mut wrong, mut to_do, mut refused) = (false, Vec::new(), Vec::new());
    for store in &stores {
        match may_change(store, found, way) {
            Ok(true) => to_do.push(store),
            Ok(false) => {}
            Err(why) => {
                // Who asked for all stores has those that they may change.
                wrong |= !args.store.is_empty() || store.kind() == Kind::Nss;
                refused.push((store.to_string(), why));
            }
        }
    }
    for (store, why) in &refused {
        output::note(&format!("Not changed: {store}: {why}"));
    }
    if let Err(why) = system_store(&args.store) {
        output::note(&why);
        wrong |= args.store.contains(&Kind::System);
    }
    if !to_do.is_empty() {
        output::note(&plan(&to_do, &found.root, way));
        if !args.yes && !is_wanted()? {
            output::note("Nothing was changed.");
            return Ok(Exit::Fix);
        }
    }
    for store in to_do {
        let done = match way {
            Way::In => store.install(&found.root),
            Way::Out => store.remove(&found.root),
        };
        if let Err(why) = done {
            wrong = true;
            output::note(&format!("Failed: {store}: {why}"));
            refused.push((store.to_string(), why.to_string()));
        }
    }
    if way == Way::Out {
        for store in stores.iter().filter(|store| !refused.iter().any(|(name, _)| *name == store.to_string()))
        {
            wrong |= is_left(store, &found.root);
        }
    }
    let answer = Answer::of(found, &stores, &refused, clock::unix_now());
    Output::to_stdout(args.which.asking.output).show(&answer, text)?;
    Ok(if wrong { Exit::Fix } else { Exit::Fine })
}

/// Whether a store has the root after it was taken out, and says where and why.
fn is_left(store: &Store, root: &Root) -> bool {
    let standing = store.standing(root);
    let mut left: Vec<String> = standing.left().collect();
    if let (true, State::Half(why)) = (left.is_empty(), &standing.state) {
        left.push(why.clone());
    }
    for why in &left {
        output::note(&format!("Left: {store}: {why}"));
    }
    !left.is_empty() || standing.state == State::Here
}

/// Whether there is something to do. Errors: why it cannot be done, and what to do.
fn may_change(store: &Store, found: &Found, way: Way) -> Result<bool, String> {
    let standing = store.standing(&found.root);
    match (&standing.state, way) {
        (State::Here, Way::In) | (State::Absent, Way::Out) => return Ok(false),
        // Nothing of it goes: it is told as what is left.
        (State::Here, Way::Out) if standing.removable().next().is_none() => return Ok(false),
        (State::Unusable(why), _) => return Err(why.clone()),
        _ => {}
    }
    if store.kind() == Kind::System && !nix::unistd::geteuid().is_root() {
        return Err(format!("this needs root: {}", as_root(found, way)));
    }
    Ok(true)
}

/// What to type.
pub(super) fn as_root(found: &Found, way: Way) -> String {
    let us = std::env::current_exe().map_or_else(|_| "signet".to_owned(), |path| path.display().to_string());
    match (way, &found.file) {
        (Way::Out, _) => format!("sudo {us} trust uninstall --store system {}", found.root.id()),
        (Way::In, Some(file)) => {
            format!(
                "sudo {us} trust install --store system --root '{}'{}",
                file.display(),
                suffixes(&found.root)
            )
        }
        (Way::In, None) => format!(
            "signet trust show --pem{} > edge-ca.pem; sudo {us} trust install --store system --root edge-ca.pem{}",
            found.flags,
            suffixes(&found.root)
        ),
    }
}

fn suffixes(root: &Root) -> String {
    root.further_suffixes().map(|suffix| format!(" --suffix {}", suffix.as_str())).collect()
}

fn plan(stores: &[&Store], root: &Root, way: Way) -> String {
    let suffixes: Vec<&str> = root.suffixes().iter().map(Suffix::as_str).collect();
    let mut text = match way {
        Way::In => format!(
            "{} (id {}, SHA-256 {}) will be believed for hosts below {}, and no others. This will:\n",
            nickname(root),
            root.id(),
            sha256(root),
            suffixes.join(", ")
        ),
        Way::Out => format!("{} (id {}) will no longer be believed. This will:\n", nickname(root), root.id()),
    };
    for store in stores {
        let step = match way {
            Way::In => store.would_install(root),
            Way::Out => store.would_remove(root),
        };
        let _ = writeln!(text, "  {step}"); // a String takes everything
    }
    text
}

/// Asks at the keyboard.
fn is_wanted() -> Result<bool> {
    if !io::stdin().is_terminal() {
        bail!("nobody is there to ask; say --yes if this is meant");
    }
    output::note("Go on? [y/N]");
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer).context("reading the answer")?;
    Ok(["y", "yes"].contains(&answer.trim().to_lowercase().as_str()))
}
