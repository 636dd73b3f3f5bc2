//! A place where programs look for roots that they believe, and what stands in it: found by the certificate itself, never by a name that
//! somebody else could have given.

use std::{
    fmt, io,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use serde::Serialize;
use signet_edge_ca::Root;

use super::{nss::Nss, system::System};

/// One of them.
#[derive(Clone, Debug)]
pub(super) enum Store {
    System(System),
    Nss(Nss),
}

/// Which ones.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(super) enum Kind {
    /// The machine's own: curl, wget, most programs. Needs root
    System,
    /// Yours, of Chromium, Chrome and Firefox
    Nss,
}

/// How a root stands in a store.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Standing {
    pub(super) state: State,
    /// Where it stands, whoever put it there.
    pub(super) places: Vec<Place>,
}

/// Whether programs that read a store believe a root.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum State {
    Here,
    Absent,
    /// Begun and not finished, by whatever was cut: to be done again, or undone.
    Half(String),
    /// It cannot be used as it is: why, and what to do.
    Unusable(String),
}

/// A place in a store that has a root.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Place {
    /// A file, a nickname.
    pub(super) name: String,
    /// Why it is left there, and who takes it out; `None`: it is that root and nothing else, which goes.
    pub(super) stays: Option<String>,
}

/// A root of ours that a store has.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Held {
    pub(super) root: Root,
    /// Its name there: a file, a nickname.
    pub(super) name: String,
}

impl Store {
    pub(super) fn kind(&self) -> Kind {
        match self {
            Self::System(_) => Kind::System,
            Self::Nss(_) => Kind::Nss,
        }
    }

    pub(super) fn standing(&self, root: &Root) -> Standing {
        match self {
            Self::System(store) => store.standing(root),
            Self::Nss(store) => store.standing(root),
        }
    }

    /// All roots of edge CAs in it, whichever installation's.
    pub(super) fn held(&self) -> Vec<Held> {
        match self {
            Self::System(store) => store.held(),
            Self::Nss(store) => store.held().unwrap_or_default(),
        }
    }

    /// What installing does, for who is asked.
    pub(super) fn would_install(&self, root: &Root) -> String {
        match self {
            Self::System(store) => store.would_install(root),
            Self::Nss(store) => store.would_install(root),
        }
    }

    pub(super) fn would_remove(&self, root: &Root) -> String {
        match self {
            Self::System(store) => store.would_remove(root),
            Self::Nss(store) => store.would_remove(root),
        }
    }

    /// Errors: it is as it was before, or the error says otherwise.
    pub(super) fn install(&self, root: &Root) -> Result<(), Failure> {
        match self {
            Self::System(store) => store.install(root),
            Self::Nss(store) => store.install(root),
        }
    }

    /// From every place that is that root and nothing else.
    pub(super) fn remove(&self, root: &Root) -> Result<(), Failure> {
        match self {
            Self::System(store) => store.remove(root),
            Self::Nss(store) => store.remove(root),
        }
    }
}

impl Standing {
    pub(super) fn unusable(why: &Failure) -> Self {
        Self { state: State::Unusable(why.to_string()), places: Vec::new() }
    }

    /// What [`Store::remove`] takes it out of.
    pub(super) fn removable(&self) -> impl Iterator<Item = &str> {
        self.places.iter().filter(|place| place.stays.is_none()).map(|place| place.name.as_str())
    }

    /// What it leaves, and why.
    pub(super) fn left(&self) -> impl Iterator<Item = String> {
        self.places
            .iter()
            .filter_map(|place| Some(format!("{} stays: {}", place.name, place.stays.as_ref()?)))
    }
}

impl fmt::Display for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::System(store) => write!(f, "the system's store ({})", store.anchors.display()),
            Self::Nss(store) => write!(f, "{} ({})", store.owner, store.directory.display()),
        }
    }
}

/// How a root is called in every store: unlike any that is not the same certificate.
pub(super) fn nickname(root: &Root) -> String {
    format!("{NICKNAME} {}", root.id())
}

/// What a change failed of.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error("{program} is not here; {install}")]
    NoProgram { program: String, install: &'static str },
    #[error("{command} failed: {words}")]
    Command { command: String, words: String },
    #[error("{}: {source}", path.display())]
    File { path: PathBuf, source: io::Error },
}

impl Failure {
    pub(super) fn file(path: &Path, source: io::Error) -> Self {
        Self::File { path: path.to_owned(), source }
    }
}

/// Runs a program of others to its end, without input: what would ask for a password fails instead.
pub(super) fn run(command: &mut Command, install: &'static str) -> Result<Output, Failure> {
    let program = command.get_program().to_string_lossy().into_owned();
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => Failure::NoProgram { program: program.clone(), install },
        _ => Failure::Command { command: program.clone(), words: source.to_string() },
    };
    let output = command.stdin(Stdio::null()).output().map_err(failed)?;
    if output.status.success() {
        return Ok(output);
    }
    let words = [output.stderr, output.stdout].map(|said| String::from_utf8_lossy(&said).trim().to_owned());
    let words =
        words.into_iter().find(|words| !words.is_empty()).unwrap_or_else(|| output.status.to_string());
    let args: Vec<_> = command.get_args().map(|arg| arg.to_string_lossy()).collect();
    Err(Failure::Command { command: format!("{program} {}", args.join(" ")), words })
}

/// Whether `run` would find it.
pub(super) fn is_program(program: &Path) -> bool {
    if program.components().count() > 1 {
        return program.is_file();
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(program).is_file())
}

pub(super) const NICKNAME: &str = "Signet edge CA";
