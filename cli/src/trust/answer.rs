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
    not_before: String,
    not_after: String,
    /// Why no program believes it, wherever it stands: it is of another time.
    fault: Option<String>,
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
    /// The names that it stands there under, whoever gave them.
    names: Vec<String>,
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
    /// As it is now; `now`: Unix seconds; `refused`: stores that were to be changed and were not, and why.
    pub(super) fn of(found: &Found, stores: &[Store], refused: &[(String, String)], now: i64) -> Self {
        let root = &found.root;
        let answer = |store: &Store| {
            let standing = store.standing(root);
            let left: Vec<String> = standing.left().collect();
            let (state, why) = match standing.state {
                State::Here => ("here", None),
                State::Absent => ("absent", None),
                State::Half(why) => ("half", Some(why)),
                State::Unusable(why) => ("unusable", Some(why)),
            };
            let name = store.to_string();
            let refused = refused.iter().find(|(of, _)| *of == name).map(|(_, why)| why.clone());
            let why = refused.into_iter().chain(why).chain(left).next();
            let names = standing.places.into_iter().map(|place| place.name).collect();
            StoreAnswer { kind: store.kind(), store: name, state, names, why }
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
                not_before: clock::rfc3339(root.not_before()).unwrap_or_default(),
                not_after: clock::rfc3339(root.not_after()).unwrap_or_default(),
                fault: root.is_timely(now).err().map(|why| why.to_string()),
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
    let until = match &root.fault {
        None => format!("{} ({left} left)", root.not_after),
        Some(_) => format!("{} (from {})", root.not_after, root.not_before),
    };
    let mut rows = vec![
        ("Root", format!("{}, id {}", root.name, root.id)),
        ("SHA-256", root.sha256.clone()),
        ("For", format!("hosts below {}", root.suffixes.join(", "))),
        ("Until", until),
    ];
    rows.extend(root.fault.as_ref().map(|why| ("But", why.clone())));
    rows.extend(root.file.as_ref().map(|file| ("File", file.display().to_string())));
    let mut text: String = rows.iter().map(|(label, value)| format!("{label:<8} {value}\n")).collect();
    text.push('\n');
    let or_none = |text: String| if text.is_empty() { "-".to_owned() } else { text };
    let row = |store: &StoreAnswer| {
        let why = store.why.clone().unwrap_or_default();
        [store.state.to_owned(), store.store.clone(), or_none(store.names.join(", ")), or_none(why)]
    };
    text += &output::table(["ROOT IS", "STORE", "AS", "WHY"], answer.stores.iter().map(row));
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
