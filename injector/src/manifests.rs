//! `signet inject` and `uninject`: a stream of YAML documents in, the same stream out, with the pods and pod templates in it
//! changed. A document that is not changed is passed on byte for byte; a changed one keeps the order of its keys and loses
//! comments inside of it.

use serde_json::Value;
use serde_saphyr::{Budget, DuplicateKeyPolicy, Options};

use crate::{Outcome, document::Document};

/// A stream that was converted.
#[derive(Debug, Default, PartialEq)]
pub struct Converted {
    pub text: String,
    /// What happened to each object with pods in it.
    pub notes: Vec<Note>,
}

/// About one object of the stream.
#[derive(Clone, Debug, PartialEq)]
pub struct Note {
    /// Of its document, from 1.
    pub line: u64,
    /// "Deployment shop/web"; empty where the document could not be read.
    pub object: String,
    pub message: String,
}

/// Puts every pod and pod template of `text` through `change`, which also gets its namespace.
///
/// Errors: everything that is wrong, and then no text: half of a stream must not be applied.
pub fn convert(text: &str, change: impl Fn(&Value, &str) -> Outcome) -> Result<Converted, Vec<Note>> {
    let (mut out, mut faults) = (Converted::default(), Vec::new());
    if text.len() > MAX_BYTES {
        let message = format!("longer than {MAX_BYTES} bytes; split it");
        return Err(vec![Note { line: 1, object: String::new(), message }]);
    }
    for part in parts(text) {
        let before = faults.len();
        let changed = part.convert(&change, &mut out.notes, &mut faults);
        match changed.filter(|_| faults.len() == before) {
            Some(document) => match render(&document) {
                Ok(yaml) => {
                    out.text.push_str(part.opening);
                    if !part.opening.is_empty() && !part.opening.ends_with('\n') {
                        out.text.push('\n');
                    }
                    out.text.push_str(&yaml);
                }
                Err(message) => faults.push(Note { line: part.line, object: String::new(), message }),
            },
            None => {
                out.text.push_str(part.opening);
                out.text.push_str(part.body);
            }
        }
    }
    if faults.is_empty() { Ok(out) } else { Err(faults) }
}

/// A document as it stands in the stream.
struct Part<'a> {
    /// Of the body, from 1.
    line: u64,
    /// The separator before it, with comments and blank lines that follow.
    opening: &'a str,
    body: &'a str,
}

/// Splits at `---` and `...` lines, as kubectl does: in YAML no scalar may hold such a line. Nothing is lost between parts.
fn parts(text: &str) -> Vec<Part<'_>> {
    let mut parts = Vec::new();
    let (mut start, mut body, mut line) = (0, 0, 1);
    let (mut offset, mut in_body) = (0, false);
    for (number, content) in (1_u64..).zip(text.split_inclusive('\n')) {
        let word = content.trim_end();
        let separates = word == "---" || word == "..." || word.starts_with("--- ");
        if separates {
            parts.push(Part { line, opening: &text[start..body], body: &text[body..offset] });
            start = offset;
            in_body = false;
        }
        if !in_body {
            in_body = if separates { word.len() > 3 } else { is_content(word) };
            line = number;
            body = match (separates, in_body) {
                (true, true) => offset + 3, // "--- a: b"
                (false, true) => offset,
                (_, false) => offset + content.len(),
            };
        }
        offset += content.len();
    }
    parts.push(Part { line, opening: &text[start..body], body: &text[body..] });
    parts
}

fn is_content(line: &str) -> bool {
    let line = line.trim_start();
    !line.is_empty() && !line.starts_with('#') && !line.starts_with('%')
}

impl Part<'_> {
    /// The document, if anything in it changed.
    fn convert(
        &self,
        change: &impl Fn(&Value, &str) -> Outcome,
        notes: &mut Vec<Note>,
        faults: &mut Vec<Note>,
    ) -> Option<Document> {
        if self.body.trim().is_empty() {
            return None;
        }
        let mut document = match read(self.body) {
            Ok(document) => document,
            Err(error) => {
                let line = error.location().map_or(self.line, |at| self.line - 1 + at.line());
                let message = error.to_string().chars().take(MESSAGE).collect();
                faults.push(Note { line, object: String::new(), message });
                return None;
            }
        };
        let whole = Value::from(&document);
        let mut changed = false;
        for (pointer, object) in objects(&whole) {
            let Some(below) = pods_of(object) else { continue };
            let Some(pod) = object.pointer(below) else { continue };
            let namespace = text_at(object, "/metadata/namespace").unwrap_or("default");
            let name = text_at(object, "/metadata/name").unwrap_or("(no name)");
            let kind = text_at(object, "/kind").unwrap_or_default();
            let note =
                |message| Note { line: self.line, object: format!("{kind} {namespace}/{name}"), message };
            match change(pod, namespace) {
                Outcome::Patch { ops, warnings } => {
                    notes.extend(warnings.into_iter().map(&note));
                    notes.push(note(if ops.is_empty() { "nothing to do".into() } else { "changed".into() }));
                    for op in ops {
                        changed = true;
                        if document.apply(&op.below(&format!("{pointer}{below}"))).is_none() {
                            faults.push(note("the patch does not fit it: report this".into()));
                        }
                    }
                }
                Outcome::Skip(skip) => {
                    notes.push(note(format!("left as it is: {} ({})", skip.words(), skip.reason())))
                }
                Outcome::Refuse(refusal) => {
                    faults.push(note(format!("{} ({})", refusal.words(), refusal.reason())))
                }
            }
        }
        changed.then_some(document)
    }
}

/// The objects of a document with their places: itself, or the items of a list.
fn objects(document: &Value) -> Vec<(String, &Value)> {
    let is_list = text_at(document, "/kind").is_some_and(|kind| kind.ends_with("List"));
    match document.get("items").and_then(Value::as_array).filter(|_| is_list) {
        Some(items) => items.iter().enumerate().map(|(n, item)| (format!("/items/{n}"), item)).collect(),
        None => vec![(String::new(), document)],
    }
}

/// Where an object has its pod; `None` where it has none, or is nothing that we know.
fn pods_of(object: &Value) -> Option<&'static str> {
    let version = text_at(object, "/apiVersion")?;
    let group = version.split_once('/').map_or("", |(group, _)| group);
    match (group, text_at(object, "/kind")?) {
        ("", "Pod") => Some(""),
        ("apps", "Deployment" | "StatefulSet" | "DaemonSet" | "ReplicaSet")
        | ("batch", "Job")
        | ("", "ReplicationController") => Some("/spec/template"),
        ("batch", "CronJob") => Some("/spec/jobTemplate/spec/template"),
        _ => None,
    }
}

fn text_at<'a>(value: &'a Value, pointer: &str) -> Option<&'a str> {
    value.pointer(pointer).and_then(Value::as_str)
}

fn read(text: &str) -> Result<Document, serde_saphyr::Error> {
    serde_saphyr::from_str_with_options(text, options())
}

/// YAML that reads as `document`, which is checked: what we print is applied to clusters unread.
fn render(document: &Document) -> Result<String, String> {
    let options = serde_saphyr::ser_options! { folded_wrap_chars: usize::MAX };
    let text = serde_saphyr::to_string_with_options(document, options).map_err(|error| error.to_string())?;
    match read(&text) {
        Ok(again) if again == *document => Ok(text),
        _ => Err("a value of it cannot be written as YAML faithfully: report this".into()),
    }
}

/// As kubectl reads YAML 1.1 (0644 is octal), within what a List of 500 pods needs.
fn options() -> Options {
    let mut budget = Budget::default();
    budget.max_events = 1_000_000;
    budget.max_nodes = 500_000;
    budget.max_aliases = 1_000;
    budget.max_anchors = 1_000;
    budget.max_depth = 48;
    budget.max_documents = 1;
    serde_saphyr::options! {
        budget: Some(budget),
        duplicate_keys: DuplicateKeyPolicy::Error,
        legacy_octal_numbers: true,
        with_snippet: false,
    }
}

/// A List of 1 000 pods as kubectl prints them.
const MAX_BYTES: usize = 8 << 20;
/// Characters of a library's message that we repeat.
const MESSAGE: usize = 300;
