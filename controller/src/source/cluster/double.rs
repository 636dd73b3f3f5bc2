//! For tests: an API server in this process, as far as lists, watches and the creation of events go, and everything that can go
//! wrong with them.

use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    sync::{Arc, Mutex, MutexGuard},
};

use axum::{
    body::{Body, to_bytes},
    http::{Method, Request, Response},
};
use kube::Client;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::build::Manifest;

/// Clones share it.
#[derive(Clone, Default)]
pub(crate) struct Double(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    version: u64,
    /// By resource ("pods"), namespace and name.
    objects: BTreeMap<Key, Value>,
    /// What happened, for watches that come back.
    log: Vec<Happened>,
    /// Versions up to this one are forgotten.
    compacted: u64,
    watches: Vec<Watching>,
    refuses: BTreeMap<&'static str, u16>,
    hangs: BTreeSet<&'static str>,
    lists: BTreeMap<String, usize>,
    posted: Vec<Value>,
    /// Namespace, and the words of the 403 that its events get.
    forbidden: (String, String),
    /// Names in `posted`.
    taken: BTreeSet<String>,
}

type Key = (String, String, String);

struct Happened {
    version: u64,
    resource: String,
    line: String,
}

struct Watching {
    resource: String,
    to: mpsc::Sender<Result<String, Infallible>>,
}

impl Double {
    pub(crate) fn client(&self) -> Client {
        let double = self.clone();
        let service = tower::service_fn(move |request: Request<kube::client::Body>| {
            let double = double.clone();
            async move { Ok::<_, Infallible>(double.answer(request).await) }
        });
        Client::new(service, "default")
    }

    /// Creates or changes an object.
    pub(crate) fn set(&self, manifest: Manifest) {
        let mut state = self.lock();
        let mut object = manifest.json().clone();
        let key = key(&object);
        let known = state.objects.get(&key).cloned();
        state.version += 1;
        let uid = known
            .as_ref()
            .map_or_else(|| format!("uid-{}", state.version), |o| string(&o["metadata"]["uid"]));
        let meta = &mut object["metadata"];
        meta["resourceVersion"] = state.version.to_string().into();
        if meta["uid"].is_null() {
            meta["uid"] = uid.into();
        }
        if meta["creationTimestamp"].is_null() {
            meta["creationTimestamp"] = "2026-01-01T00:00:00Z".into();
        }
        meta["managedFields"] = json!([{"manager": "kubectl", "fieldsV1": {"f:spec": {}}}]);
        state.objects.insert(key.clone(), object.clone());
        state.happened(&key.0, if known.is_some() { "MODIFIED" } else { "ADDED" }, &object);
    }

    pub(crate) fn delete(&self, manifest: &Manifest) {
        let mut state = self.lock();
        let key = key(manifest.json());
        let mut object = state.objects.remove(&key).unwrap();
        state.version += 1;
        object["metadata"]["resourceVersion"] = state.version.to_string().into();
        state.happened(&key.0, "DELETED", &object);
    }

    /// A watch from before now gets 410.
    pub(crate) fn forget_history(&self) {
        let mut state = self.lock();
        state.compacted = state.version;
        state.log.clear();
    }

    /// Ends every watch.
    pub(crate) fn cut(&self) {
        self.lock().watches.clear();
    }

    /// Open watches stay open and say nothing, like a connection whose other end is gone; new ones work.
    pub(crate) fn lose_watches(&self) {
        let mut state = self.lock();
        let lost: Vec<Watching> = std::mem::take(&mut state.watches);
        std::mem::forget(lost); // their senders live on
    }

    /// Every request for a resource is answered with this status; 0: as usual.
    pub(crate) fn refuse(&self, resources: &[&'static str], status: u16) {
        let mut state = self.lock();
        for resource in resources {
            match status {
                0 => drop(state.refuses.remove(resource)),
                _ => drop(state.refuses.insert(resource, status)),
            }
        }
    }

    /// Requests for a resource are never answered, or again.
    pub(crate) fn hang(&self, resource: &'static str, hangs: bool) {
        match hangs {
            true => drop(self.lock().hangs.insert(resource)),
            false => drop(self.lock().hangs.remove(resource)),
        }
    }

    /// Back to a backup of long ago with these objects: versions begin again.
    pub(crate) fn restore(&self, manifests: impl IntoIterator<Item = Manifest>) {
        {
            let mut state = self.lock();
            (state.version, state.compacted) = (0, 0);
            state.objects.clear();
            state.log.clear();
            state.watches.clear();
        }
        manifests.into_iter().for_each(|manifest| self.set(manifest));
    }

    /// Says again what was said last, `n` times.
    pub(crate) fn repeat(&self, n: usize) {
        let mut state = self.lock();
        let Some(last) = state.log.last() else { return };
        let (resource, line) = (last.resource.clone(), last.line.clone());
        (0..n).for_each(|_| state.say(&resource, &line));
    }

    /// How often a resource was listed, pages counted once each.
    pub(crate) fn lists(&self, resource: &str) -> usize {
        self.lock().lists.get(resource).copied().unwrap_or(0)
    }

    /// The events that were created.
    pub(crate) fn posted(&self) -> Vec<Value> {
        self.lock().posted.clone()
    }

    /// Of one namespace; "" of none.
    pub(crate) fn forbid_events(&self, namespace: &str, words: &str) {
        self.lock().forbidden = (namespace.into(), words.into());
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    async fn answer(&self, request: Request<kube::client::Body>) -> Response<Body> {
        let (head, body) = request.into_parts();
        let path = head.uri.path().trim_end_matches('/').to_owned();
        let mut steps = path.rsplit('/');
        let (last, before) = (steps.next().unwrap_or_default(), steps.next().unwrap_or_default());
        // Of one object: /api/v1/namespaces/<namespace>/secrets/<name>.
        let one =
            (before == "secrets").then(|| (steps.next().unwrap_or_default().to_owned(), last.to_owned()));
        let resource = if one.is_some() { before } else { last }.to_owned();
        let query: BTreeMap<&str, &str> =
            head.uri.query().unwrap_or_default().split('&').filter_map(|pair| pair.split_once('=')).collect();
        let hangs = self.lock().hangs.contains(resource.as_str());
        if hangs {
            std::future::pending::<()>().await;
        }
        let watched = format!("watch of {resource}");
        let refused = match query.contains_key("watch") {
            true => self.lock().refuses.get(watched.as_str()).copied(),
            false => None,
        };
        let refused = refused.or_else(|| self.lock().refuses.get(resource.as_str()).copied());
        if let Some(code) = refused {
            return failure(code, &format!("{resource} is refused by the test"));
        }
        if let Some((namespace, name)) = one {
            return match self.lock().objects.get(&(resource, namespace, name)) {
                Some(object) => Response::new(Body::from(object.to_string())),
                None => failure(404, "not found"),
            };
        }
        if head.method == Method::POST {
            let body = to_bytes(Body::new(body), 1 << 20).await.unwrap();
            return self.lock().post(serde_json::from_slice(&body).unwrap());
        }
        let number = |name: &str| query.get(name).and_then(|text| text.parse::<u64>().ok());
        match query.get("watch") {
            Some(_) => self.lock().watch(&resource, number("resourceVersion").unwrap_or(0)),
            None => {
                self.lock().list(&resource, number("limit").unwrap_or(500), number("continue").unwrap_or(0))
            }
        }
    }
}

impl State {
    fn happened(&mut self, resource: &str, kind: &str, object: &Value) {
        let line = format!("{}\n", json!({"type": kind, "object": object}));
        let (version, resource) = (self.version, resource.to_owned());
        self.say(&resource, &line);
        self.log.push(Happened { version, resource, line });
    }

    fn say(&mut self, resource: &str, line: &str) {
        self.watches
            .retain(|watch| watch.resource != resource || watch.to.try_send(Ok(line.to_owned())).is_ok());
    }

    fn watch(&mut self, resource: &str, from: u64) -> Response<Body> {
        if from < self.compacted {
            // As kube-apiserver does: a watch that begins, and whose first event is the error.
            let status = json!({"kind": "Status", "code": 410, "reason": "Expired", "message": "too old resource version"});
            return Response::new(Body::from(format!("{}\n", json!({"type": "ERROR", "object": status}))));
        }
        if from > self.version {
            return failure(504, "Too large resource version");
        }
        let (to, lines) = mpsc::channel(10_000);
        for happened in self.log.iter().filter(|h| h.resource == resource && h.version > from) {
            to.try_send(Ok(happened.line.clone())).unwrap();
        }
        self.watches.push(Watching { resource: resource.to_owned(), to });
        Response::new(Body::from_stream(ReceiverStream::new(lines)))
    }

    fn list(&mut self, resource: &str, limit: u64, from: u64) -> Response<Body> {
        *self.lists.entry(resource.to_owned()).or_default() += 1;
        let all: Vec<&Value> =
            self.objects.iter().filter(|((of, ..), _)| of == resource).map(|(_, object)| object).collect();
        let (from, limit) = (usize::try_from(from).unwrap(), usize::try_from(limit).unwrap());
        let page: Vec<&Value> = all.iter().skip(from).take(limit).copied().collect();
        let next =
            if from + page.len() < all.len() { (from + page.len()).to_string() } else { String::new() };
        let list = json!({
            "kind": "List", "apiVersion": "v1", "items": page,
            "metadata": {"resourceVersion": self.version.to_string(), "continue": next},
        });
        Response::new(Body::from(list.to_string()))
    }

    fn post(&mut self, object: Value) -> Response<Body> {
        if object["metadata"]["namespace"] == self.forbidden.0.as_str() {
            return failure(403, &self.forbidden.1);
        }
        let name =
            format!("{}/{}", string(&object["metadata"]["namespace"]), string(&object["metadata"]["name"]));
        if !self.taken.insert(name) {
            return failure(409, "already exists");
        }
        self.posted.push(object.clone());
        Response::new(Body::from(object.to_string()))
    }
}

fn key(object: &Value) -> Key {
    let resource = match string(&object["kind"]).as_str() {
        "Namespace" => "namespaces",
        "Pod" => "pods",
        "Service" => "services",
        "EndpointSlice" => "endpointslices",
        "Secret" => "secrets",
        other => panic!("the double knows no {other}"),
    };
    (resource.into(), string(&object["metadata"]["namespace"]), string(&object["metadata"]["name"]))
}

fn string(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn failure(code: u16, message: &str) -> Response<Body> {
    let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "message": message, "reason": "Test"});
    Response::builder().status(code).body(Body::from(status.to_string())).unwrap()
}
