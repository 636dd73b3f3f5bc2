//! What is said of a root and of each store, as text and as JSON: one struct for both.

use std::path::PathBuf;

use serde::Serialize;
use signet_core::{clock, svid::hex};
use signet_edge_ca::Root;

use super::{
    store::{Held, Kind, State, Store, nickname},
    whose::Found,
};
use crate::{human, output};

/// `-o json`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Answer {
    root: RootAnswer,
    stores: Vec<StoreAnswer>,
    /// Roots of other edge CAs that the stores have.
    others: Vec<OtherAnswer>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct RootAnswer {
    id: String,
    name: String,
    sha256: String,
    suffixes: Vec<String>,
    not_after: String,
    file: Option<PathBuf>,
    pem: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct StoreAnswer {
    kind: Kind,
    store: String,
    /// "here", "absent", "half", "unusable": after what was done.
    state: &'static str,
    /// Why it is neither here nor absent, or was not changed; and what to do.
    why: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct OtherAnswer {
    id: String,
    store: String,
    name: String,
}

impl Answer {
    /// As it is now; `refused`: stores that were to be changed and were not, and why.
    pub(super) fn of(found: &Found, stores: &[Store], refused: &[(String, String)]) -> Self {
        let root = &found.root;
        let answer = |store: &Store| {
            let (state, why) = match store.state(root) {
                State::Here => ("here", None),
                State::Absent => ("absent", None),
                State::Half(why) => ("half", Some(why)),
                State::Unusable(why) => ("unusable", Some(why)),
            };
            let name = store.to_string();
            let refused = refused.iter().find(|(of, _)| *of == name).map(|(_, why)| why.clone());
            StoreAnswer { kind: store.kind(), store: name, state, why: refused.or(why) }
        };
        let other = |store: &Store| {
            let name = store.to_string();
            let others = store.held().into_iter().filter(|held| held.root != *root);
            others
                .map(move |Held { root, name: held }| OtherAnswer {
                    id: root.id(),
                    store: name.clone(),
                    name: held,
                })
                .collect::<Vec<_>>()
        };
        Self {
            root: RootAnswer {
                id: root.id(),
                name: nickname(root),
                sha256: sha256(root),
                suffixes: root.suffixes().iter().map(ToString::to_string).collect(),
                not_after: clock::rfc3339(root.not_after()).unwrap_or_default(),
                file: found.file.clone(),
                pem: root.pem(),
            },
            stores: stores.iter().map(answer).collect(),
            others: stores.iter().flat_map(other).collect(),
        }
    }
}

pub(super) fn text(answer: &Answer) -> String {
    let root = &answer.root;
    let left = human::left_until(&root.not_after, clock::now());
    let mut rows = vec![
        ("Root", format!("{}, id {}", root.name, root.id)),
        ("SHA-256", root.sha256.clone()),
        ("For", format!("hosts below {}", root.suffixes.join(", "))),
        ("Until", format!("{} ({left} left)", root.not_after)),
    ];
    rows.extend(root.file.as_ref().map(|file| ("File", file.display().to_string())));
    let mut text: String = rows.iter().map(|(label, value)| format!("{label:<8} {value}\n")).collect();
    text.push('\n');
    let row = |store: &StoreAnswer| {
        [store.state.to_owned(), store.store.clone(), store.why.clone().unwrap_or_else(|| "-".into())]
    };
    text += &output::table(["ROOT IS", "STORE", "WHY"], answer.stores.iter().map(row));
    if !answer.others.is_empty() {
        text += "\nRoots of other edge CAs, which signet trust uninstall ID takes out:\n";
        let row = |other: &OtherAnswer| [other.id.clone(), other.store.clone(), other.name.clone()];
        text += &output::table(["ID", "STORE", "NAME"], answer.others.iter().map(row));
    }
    text
}

/// As browsers and OpenSSL show it: "AB:CD:...".
pub(super) fn sha256(root: &Root) -> String {
    let digest = hex(&root.sha256()).to_uppercase();
    let pairs: Vec<&str> = (0..digest.len()).step_by(2).filter_map(|at| digest.get(at..at + 2)).collect();
    pairs.join(":")
}
