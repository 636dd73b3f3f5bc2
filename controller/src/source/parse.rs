//! One file's text -> objects and errors. Pure, and safe on hostile text: documents are split by line, each is parsed within
//! [`options`], and one that does not parse never hides its neighbours.

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::api::core::v1::Secret;
use serde::{Deserialize, de::DeserializeOwned};
use serde_saphyr::{Budget, DuplicateKeyPolicy, Options, Spanned};

use super::{Kind, ManifestError, Object, Origin, policy, tls_secret::TlsSecret};

/// Every object of a manifest file, YAML or JSON, and what could not be read. Takes at most [`MAX_FILE_BYTES`].
pub fn parse(file: &str, text: &str) -> (Vec<Object>, Vec<ManifestError>) {
    parse_with(file, text, Secrets::LeftAlone)
}

/// Whether Secrets are read: only by who serves them.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Secrets {
    #[default]
    LeftAlone,
    Read,
}

/// [`parse`], of Secrets too if it is asked for them.
pub fn parse_with(file: &str, text: &str, secrets: Secrets) -> (Vec<Object>, Vec<ManifestError>) {
    let mut reader = Reader { file: file.into(), secrets, objects: Vec::new(), errors: Vec::new() };
    if text.len() as u64 > MAX_FILE_BYTES {
        reader.fail(0, "", format!("longer than {MAX_FILE_BYTES} bytes; split it into several files"));
    } else {
        for (n, (line, document)) in documents(text).enumerate() {
            if n == MAX_DOCUMENTS {
                reader.fail(
                    line,
                    "",
                    format!("more than {MAX_DOCUMENTS} documents; split it into several files"),
                );
                break;
            }
            reader.document(line, document);
        }
    }
    (reader.objects, reader.errors)
}

/// Splits at `---` and `...` lines, as kubectl does, because a document that is no YAML must not hide the next one. (In YAML
/// no scalar may hold such a line.) Yields each document with its first line's number, from 1; blank ones are skipped.
fn documents(text: &str) -> impl Iterator<Item = (u64, &str)> {
    let mut starts = vec![(1u64, 0usize)];
    let mut ends = Vec::new();
    let mut offset = 0;
    for (line, content) in (1u64..).zip(text.split_inclusive('\n')) {
        let word = content.trim_end();
        if word == "..." || word == "---" || word.starts_with("--- ") {
            ends.push(offset);
            // What follows "--- " on its line belongs to the document; three characters further, its line is the same.
            starts.push((line, offset + 3));
        }
        offset += content.len();
    }
    ends.push(text.len());
    let written = |l: &str| !l.trim().is_empty() && !l.trim_start().starts_with('#') && !l.starts_with('%');
    starts.into_iter().zip(ends).filter_map(move |((mut line, start), end)| {
        let mut document = &text[start..end];
        while let Some((_, rest)) = document.split_once('\n').filter(|(first, _)| !written(first)) {
            (line, document) = (line + 1, rest);
        }
        document.lines().any(written).then_some((line, document))
    })
}

struct Reader {
    file: Arc<str>,
    secrets: Secrets,
    objects: Vec<Object>,
    errors: Vec<ManifestError>,
}

/// What tells how to read the rest.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Head {
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    kind: String,
    #[serde(default)]
    metadata: HeadMeta,
}

#[derive(Default, Deserialize)]
struct HeadMeta {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    namespace: Option<String>,
}

#[derive(Deserialize)]
struct List {
    #[serde(default)]
    items: Vec<Spanned<serde_json::Value>>,
}

impl Reader {
    fn document(&mut self, line: u64, text: &str) {
        let source = Source::Text { line, text };
        let head = match source.read::<Head>() {
            Ok(head) => head,
            Err(fault) => {
                self.unreadable(line, text);
                return self.fault(fault);
            }
        };
        if (head.api_version.as_str(), head.kind.as_str()) != ("v1", "List") {
            return self.object(source, line, settings(line, text), head);
        }
        match source.read::<List>() {
            Ok(list) => {
                for (n, item) in list.items.into_iter().enumerate() {
                    let at = line - 1 + item.referenced.line();
                    let source = Source::Item { line: at, n, value: &item.value };
                    match source.read::<Head>() {
                        Ok(head) => self.object(source, at, Arc::default(), head),
                        Err(fault) => self.fault(fault),
                    }
                }
            }
            Err(fault) => self.fault(fault),
        }
    }

    fn object(&mut self, source: Source<'_>, line: u64, settings: Arc<[(String, u64)]>, head: Head) {
        let kind = match (head.api_version.as_str(), head.kind.as_str()) {
            ("v1", "Namespace") => source.read().map(Kind::Namespace),
            ("v1", "ServiceAccount") => source.read().map(Kind::ServiceAccount),
            ("v1", "Service") => source.read().map(Kind::Service),
            ("v1", "Pod") => source.read().map(Kind::Pod),
            ("discovery.k8s.io/v1", "EndpointSlice") => source.read().map(Kind::EndpointSlice),
            ("networking.k8s.io/v1", "Ingress") => source.read().map(Kind::Ingress),
            ("networking.k8s.io/v1", "IngressClass") => source.read().map(Kind::IngressClass),
            ("v1", "Node") => source.read().map(Kind::Node),
            ("v1", "Secret") if self.secrets == Secrets::Read => secret(source),
            (version, "AuthorizationPolicy") if version.starts_with("signet.dev/") => {
                Ok(Kind::Policy(Box::new(self.policy(source, line, &head))))
            }
            ("", _) | (_, "") => {
                Err(Fault { line, field: String::new(), message: "no apiVersion or no kind".into() })
            }
            (api_version, kind) => Ok(Kind::Other {
                api_version: api_version.into(),
                kind: kind.into(),
                name: head.metadata.name.clone().unwrap_or_default(),
            }),
        };
        let nameless = head.metadata.name.as_ref().is_none_or(String::is_empty);
        match kind {
            Ok(Kind::Policy(policy)) => self.push(Kind::Policy(policy), line, settings), // nameless: closed, see there
            Ok(kind) if nameless && !matches!(kind, Kind::Other { .. }) => {
                self.fail(line, "metadata.name", "missing".into())
            }
            Ok(kind) => self.push(kind, line, settings),
            Err(fault) => self.fault(fault),
        }
    }

    fn push(&mut self, kind: Kind, line: u64, settings: Arc<[(String, u64)]>) {
        self.objects.push(Object { origin: Origin { file: Arc::clone(&self.file), line, settings }, kind });
    }

    /// A policy is never dropped: what does not parse becomes one that allows nobody.
    fn policy(&mut self, source: Source<'_>, line: u64, head: &Head) -> policy::PolicyObject {
        let namespace = head.metadata.namespace.as_deref().filter(|ns| !ns.is_empty()).unwrap_or("default");
        let name = head.metadata.name.as_deref().filter(|name| !name.is_empty());
        let parsed = match (head.api_version.as_str(), name) {
            (POLICY_VERSION, Some(_)) => source.read::<policy::Document>(),
            (POLICY_VERSION, None) => Err(Fault::new(line, "metadata.name", "missing")),
            (other, _) => {
                Err(Fault::new(line, "apiVersion", format!("{other} is unknown; write {POLICY_VERSION}")))
            }
        };
        let name = name.map_or_else(|| format!("{}-line-{line}", self.file), str::to_owned);
        let policy = match parsed {
            Ok(document) => policy::PolicyObject::new(namespace, &name, document.spec),
            Err(fault) => {
                let selectors = source.read::<policy::SelectorsOnly>().ok();
                let closed = policy::PolicyObject::closed(namespace, &name, selectors, &fault.words());
                self.fault(fault);
                return closed;
            }
        };
        if let Err(why) = &policy.rules {
            let (field, message) = why.split_once(": ").unwrap_or(("spec.rules", why));
            self.fail(line, field, message.to_owned());
        }
        policy
    }

    /// Not even YAML. If its text speaks of an AuthorizationPolicy, it closes the namespaces that its text names: a typing
    /// error must not open what the policy closed.
    fn unreadable(&mut self, line: u64, text: &str) {
        let value = |l: &str, key: &str| {
            let value = l
                .trim_start_matches([' ', '\t', '-', '{', ',', '"'])
                .strip_prefix(key)?
                .trim_start_matches('"');
            let value = value.trim_start().strip_prefix(':')?.trim();
            Some(value.trim_matches(|c: char| !c.is_ascii_alphanumeric()).to_owned())
        };
        if !text.contains("AuthorizationPolicy") {
            return;
        }
        let mut namespaces: Vec<String> = text.lines().filter_map(|l| value(l, "namespace")).collect();
        namespaces.sort_unstable();
        namespaces.dedup();
        namespaces.truncate(MAX_CLOSED);
        if namespaces.is_empty() {
            namespaces.push("default".into());
        }
        for namespace in namespaces {
            let name = format!("{}-line-{line}", self.file);
            let why = format!("{}:{line} does not parse", self.file);
            let closed = policy::PolicyObject::closed(&namespace, &name, None, &why);
            self.push(Kind::Policy(Box::new(closed)), line, Arc::default());
        }
    }

    fn fault(&mut self, fault: Fault) {
        self.fail(fault.line, &fault.field, fault.message);
    }

    fn fail(&mut self, line: u64, field: &str, message: String) {
        let (file, field) = (self.file.to_string(), field.to_owned());
        self.errors.push(ManifestError { file, line, field, message });
    }
}

/// What does not parse in it is not repeated: it may be the key.
fn secret(source: Source<'_>) -> Result<Kind, Fault> {
    match source.read::<Secret>() {
        Ok(secret) => Ok(Kind::Secret(Box::new(TlsSecret::new(secret)))),
        Err(fault) => Err(Fault { message: "does not parse as it should; compare it with kubectl create secret tls NAME --cert FILE --key FILE --dry-run=client -o yaml".into(), ..fault }),
    }
}

/// One object's text, or an item of a List.
#[derive(Clone, Copy)]
enum Source<'a> {
    Text { line: u64, text: &'a str },
    Item { line: u64, n: usize, value: &'a serde_json::Value },
}

struct Fault {
    line: u64,
    field: String,
    message: String,
}

impl Fault {
    fn new(line: u64, field: &str, message: impl Into<String>) -> Self {
        Self { line, field: field.into(), message: message.into() }
    }

    fn words(&self) -> String {
        if self.field.is_empty() { self.message.clone() } else { format!("{}: {}", self.field, self.message) }
    }
}

impl Source<'_> {
    fn read<T: DeserializeOwned>(self) -> Result<T, Fault> {
        match self {
            Self::Text { line, text } => {
                let mut field = String::new();
                serde_saphyr::with_deserializer_from_str_with_options(text, options(), |de| {
                    serde_path_to_error::deserialize(de).map_err(|e| {
                        field = e.path().to_string();
                        e.into_inner()
                    })
                })
                .map_err(|e| yaml_fault(line, &field, &e))
            }
            Self::Item { line, n, value } => serde_path_to_error::deserialize(value).map_err(|e| {
                let field = format!("items[{n}].{}", e.path());
                Fault { line, field, message: shorten(&e.into_inner().to_string()) }
            }),
        }
    }
}

/// The library counts lines within the document; its message repeats them, ours names the file's.
fn yaml_fault(line: u64, field: &str, error: &serde_saphyr::Error) -> Fault {
    let message = error.to_string();
    let field = if field == "." || field == "?" { "" } else { field };
    match error.location() {
        Some(at) => {
            let suffix = format!(" at line {}, column {}", at.line(), at.column());
            let message = message.strip_suffix(&suffix).unwrap_or(&message);
            Fault::new(line - 1 + at.line(), field, shorten(message))
        }
        None => Fault::new(line, field, shorten(&message)),
    }
}

fn shorten(message: &str) -> String {
    message.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_MESSAGE).collect()
}

/// The lines of a document that mention our labels and annotations, each by its first mention.
fn settings(line: u64, text: &str) -> Arc<[(String, u64)]> {
    let mut found = BTreeMap::new();
    for (at, content) in (line..).zip(text.lines()) {
        if let Some((_, rest)) = content.split_once("signet.dev/") {
            let word: String =
                rest.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '-').take(64).collect();
            if found.len() < 32 {
                found.entry(format!("signet.dev/{word}")).or_insert(at);
            }
        }
    }
    found.into_iter().collect()
}

/// What one document may cost: far above any Pod (a large one has about 2 000 nodes) and a few MB at most, whatever its
/// anchors and aliases say.
fn options() -> Options {
    let mut budget = Budget::default();
    budget.max_events = 1_000_000; // a List of 500 pods has 400 000
    budget.max_nodes = 500_000;
    budget.max_aliases = 1_000;
    budget.max_anchors = 1_000;
    budget.max_depth = 48;
    budget.max_documents = 1;
    budget.max_recorded_anchor_bytes = 1 << 20;
    budget.max_recorded_anchor_events = 10_000;
    serde_saphyr::options! {
        budget: Some(budget),
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: 20_000, max_replay_stack_depth: 8 },
        duplicate_keys: DuplicateKeyPolicy::Error,
        with_snippet: false,
    }
}

/// A List of 1 000 pods as kubectl prints them.
pub const MAX_FILE_BYTES: u64 = 8 << 20;
/// Documents of one file.
const MAX_DOCUMENTS: usize = 10_000;
/// Namespaces that one unreadable policy may close.
const MAX_CLOSED: usize = 16;
/// Characters of a library's message that we repeat.
const MAX_MESSAGE: usize = 300;
const POLICY_VERSION: &str = "signet.dev/v1alpha1";
