//! A pod as its author wrote it -> the pod in the mesh, and back. Pure: pod, namespace and settings in, patch out.
//!
//! Both ways go over the bare pod: an injected one is stripped and injected anew. So injecting twice changes nothing, and a
//! pod that others changed in between (a sidecar more, an older image of ours) comes out as if they had been first.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use signet_core::pod::{
    CAPTURE_CONTAINER, IDENTITY_VOLUME, INJECTED, Mesh, ORIGINAL_PROBES, PROXY_CONTAINER,
};

use crate::{
    judge::{No, View, Wishes, judge},
    ours,
    patch::{Op, diff},
    probes, resources,
    verdict::{Refusal, Skip},
};

/// What every injected pod gets alike.
#[derive(Clone, Debug)]
pub struct Settings {
    /// With `/signet-proxy` in it.
    pub image: String,
    pub mesh: Mesh,
}

/// The namespace of the pod, where the caller knows it: the webhook does not, `signet inject` and the controller may.
#[derive(Clone, Debug, Default)]
pub struct NamespaceView {
    pub name: String,
    pub labels: BTreeMap<String, String>,
}

/// What becomes of a pod.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// No steps: it is as it should be.
    Patch {
        ops: Vec<Op>,
        warnings: Vec<String>,
    },
    Skip(Skip),
    Refuse(Refusal),
}

/// `pod` is the JSON of a Pod or of a pod template.
pub fn inject(pod: &Value, namespace: Option<&NamespaceView>, settings: &Settings) -> Outcome {
    match injected(pod, namespace, settings) {
        Ok((after, warnings)) => Outcome::Patch { ops: diff(pod, &after), warnings },
        Err(No::Skip(skip)) => Outcome::Skip(skip),
        Err(No::Refuse(refusal)) => Outcome::Refuse(refusal),
    }
}

/// The way back: `pod` as it was before, and what others added since.
pub fn uninject(pod: &Value) -> Outcome {
    if mark_of(pod).is_none() {
        return Outcome::Skip(Skip::NotInjected);
    }
    match bare(pod) {
        Ok(before) => Outcome::Patch { ops: diff(pod, &before), warnings: Vec::new() },
        Err(refusal) => Outcome::Refuse(refusal),
    }
}

fn injected(
    pod: &Value,
    namespace: Option<&NamespaceView>,
    settings: &Settings,
) -> Result<(Value, Vec<String>), No> {
    let mut after = bare(pod)?;
    let view = View::read(&after)?;
    let mut wishes = judge(&view, namespace)?;
    let rewritten = probes::rewrite(&mut after, &view, pod);
    wishes.warnings.extend(rewritten.warnings);
    let resources = resources::resources(resources::class(&view), &wishes);
    let added = Added {
        capture: ours::capture(settings, &wishes, resources.as_ref()),
        proxy: ours::proxy(settings, &wishes, &rewritten.probes, resources.as_ref()),
        volume: ours::volume(),
        originals: rewritten.originals,
        first: view.spec.containers.first().map(|container| container.name.clone()),
    };
    add(&mut after, added, pod)
        .ok_or_else(|| Refusal::BadPod { why: "it is no Pod: a list is missing".into() })?;
    let Wishes { warnings, .. } = wishes;
    Ok((after, warnings))
}

struct Added {
    capture: Value,
    proxy: Value,
    volume: Value,
    originals: probes::Originals,
    /// The app's first container.
    first: Option<String>,
}

/// What was not there before: annotation [`INJECTED`]. Paths are those of [`Mark::fill`].
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(default)]
struct Mark {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    absent: Vec<String>,
    /// There, and null: `annotations:` with nothing after it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    null: Vec<String>,
}

/// Adds what is ours to a bare pod; keeps what stands in `found`, the pod as it came, where that is as good.
fn add(pod: &mut Value, added: Added, found: &Value) -> Option<()> {
    let mut mark = Mark::default();
    let keep = |list: &str, wanted: Value| {
        let items = found.pointer(list).and_then(Value::as_array).into_iter().flatten();
        items
            .filter(|item| name(item) == name(&wanted))
            .find(|item| ours::covers(item, &wanted))
            .cloned()
            .unwrap_or(wanted)
    };
    let capture = keep("/spec/initContainers", added.capture);
    let proxy = keep("/spec/initContainers", added.proxy);
    let volume = keep("/spec/volumes", added.volume);
    let pod = pod.as_object_mut()?;
    let spec = pod.get_mut("spec")?.as_object_mut()?;
    mark.fill(spec, "initContainers", Value::Array(Vec::new()))?
        .as_array_mut()?
        .splice(0..0, [capture, proxy]);
    let volumes = mark.fill(spec, "volumes", Value::Array(Vec::new()))?.as_array_mut()?;
    let stood = found.pointer("/spec/volumes").and_then(Value::as_array);
    let stood = stood.and_then(|list| list.iter().position(|item| name(item) == Some(IDENTITY_VOLUME)));
    volumes.insert(stood.unwrap_or(volumes.len()).min(volumes.len()), volume); // their order means nothing: keep it
    let metadata = mark.fill(pod, "metadata", Value::Object(Map::new()))?.as_object_mut()?;
    let annotations = mark.fill(metadata, "annotations", Value::Object(Map::new()))?.as_object_mut()?;
    if let Some(first) = added.first {
        mark.fill(annotations, DEFAULT_CONTAINER, first.into())?;
    }
    if !added.originals.is_empty() {
        annotations.insert(ORIGINAL_PROBES.into(), json_text(&added.originals));
    }
    // What others have filled meanwhile was absent all the same, and goes when theirs goes.
    let before: Mark = mark_of(found).and_then(|mark| serde_json::from_str(mark).ok()).unwrap_or_default();
    for (now, before) in [(&mut mark.absent, before.absent), (&mut mark.null, before.null)] {
        now.extend(before);
        now.sort();
        now.dedup();
    }
    annotations.insert(INJECTED.into(), json_text(&mark));
    Some(())
}

impl Mark {
    /// `object[key]`, made `default` and remembered where there is nothing.
    fn fill<'a>(
        &mut self,
        object: &'a mut Map<String, Value>,
        key: &str,
        default: Value,
    ) -> Option<&'a mut Value> {
        match object.get(key) {
            None => self.absent.push(key.into()),
            Some(Value::Null) => self.null.push(key.into()),
            Some(_) => return object.get_mut(key),
        }
        object.insert(key.into(), default);
        object.get_mut(key)
    }

    /// The way back, once ours is out of it. What others have put there meanwhile stays.
    fn clear(&self, object: &mut Map<String, Value>, key: &str) {
        let is_empty = match object.get(key) {
            Some(Value::Array(list)) => list.is_empty(),
            Some(Value::Object(map)) => map.is_empty(),
            _ => key == DEFAULT_CONTAINER,
        };
        let was = |list: &[String]| is_empty && list.iter().any(|known| known == key);
        if was(&self.absent) {
            object.remove(key);
        } else if was(&self.null) {
            object.insert(key.into(), Value::Null);
        }
    }
}

/// The pod without anything of ours: without our mark, as it is.
fn bare(pod: &Value) -> Result<Value, Refusal> {
    let mut pod = pod.clone();
    let Some(mark) = mark_of(&pod) else { return Ok(pod) };
    let mark: Mark = serde_json::from_str(mark).map_err(|error| Refusal::BadSetting {
        why: format!("annotation {INJECTED}: {error}; it is ours, do not edit it"),
    })?;
    let annotation = |pod: &mut Value, key: &str| {
        pod.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut)?.remove(key)
    };
    annotation(&mut pod, INJECTED);
    if let Some(originals) = annotation(&mut pod, ORIGINAL_PROBES) {
        probes::restore(&mut pod, originals.as_str().unwrap_or_default())?;
    }
    if let Some(spec) = pod.get_mut("spec").and_then(Value::as_object_mut) {
        let lists: [(&str, &[&str]); 2] =
            [("initContainers", &[CAPTURE_CONTAINER, PROXY_CONTAINER]), ("volumes", &[IDENTITY_VOLUME])];
        for (list, ours) in lists {
            if let Some(items) = spec.get_mut(list).and_then(Value::as_array_mut) {
                items.retain(|item| !name(item).is_some_and(|name| ours.contains(&name)));
            }
            mark.clear(spec, list);
        }
    }
    if let Some(pod) = pod.as_object_mut() {
        if let Some(metadata) = pod.get_mut("metadata").and_then(Value::as_object_mut) {
            if let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) {
                mark.clear(annotations, DEFAULT_CONTAINER);
            }
            mark.clear(metadata, "annotations");
        }
        mark.clear(pod, "metadata");
    }
    Ok(pod)
}

fn mark_of(pod: &Value) -> Option<&str> {
    pod.get("metadata")?.get("annotations")?.get(INJECTED)?.as_str()
}

fn name(item: &Value) -> Option<&str> {
    item.get("name")?.as_str()
}

fn json_text<T: Serialize>(value: &T) -> Value {
    serde_json::to_string(value).expect("text is JSON").into()
}

/// So that `kubectl logs` and `exec` go on meaning the app.
const DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";

#[cfg(test)]
pub(crate) mod tests;
