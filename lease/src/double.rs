//! An API server in memory, for tests: keeps resourceVersions, refuses what does not carry the newest one, and fails or hangs
//! where it is told to.

#![expect(clippy::unwrap_used, reason = "only tests link it")]

use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::{Arc, Mutex, MutexGuard},
};

use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use kube::client::Body;
use serde_json::{Value, json};

/// Clones are the same server.
#[derive(Clone, Default)]
pub struct Double(Arc<Mutex<Held>>);

#[derive(Default)]
struct Held {
    /// By path.
    objects: BTreeMap<String, Value>,
    version: u64,
    /// Method ("": any), path, what happens.
    faults: Vec<(String, String, Fault)>,
    touch: Option<String>,
    /// `status` of the next reviews.
    review: Value,
    /// "GET /api/v1/...", in order.
    requests: Vec<String>,
}

#[derive(Clone, Copy, Debug)]
pub enum Fault {
    Status(u16),
    Hang,
}

impl Double {
    pub fn client(&self) -> kube::Client {
        let double = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let double = double.clone();
            async move { Ok::<_, Infallible>(double.serve(request).await) }
        });
        kube::Client::new(service, "default")
    }

    pub fn get(&self, path: &str) -> Option<Value> {
        self.held().objects.get(path).cloned()
    }

    /// Writes an object as someone else would.
    pub fn put(&self, path: &str, object: Value) {
        self.held().write(path, object);
    }

    pub fn delete(&self, path: &str) {
        self.held().objects.remove(path);
    }

    pub fn namespace(&self, name: &str, labels: &Value) {
        self.put(&format!("/api/v1/namespaces/{name}"), json!({ "metadata": { "labels": labels } }));
    }

    pub fn fault(&self, method: &str, path: &str, fault: Fault) {
        self.held().faults.push((method.into(), path.into(), fault));
    }

    pub fn mend(&self) {
        self.held().faults.clear();
    }

    /// Somebody else writes the object between our read and our write.
    pub fn touch_before_next_write(&self, path: &str) {
        self.held().touch = Some(path.into());
    }

    pub fn answer_reviews(&self, status: Value) {
        self.held().review = status;
    }

    pub fn requests(&self) -> Vec<String> {
        self.held().requests.clone()
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.0.lock().unwrap()
    }

    async fn serve(&self, request: Request<Body>) -> Response<Body> {
        let (head, body) = request.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        let path = head.uri.path().to_owned();
        let query = head.uri.query().unwrap_or_default().replace("%3D", "=").replace("%2F", "/");
        let fault = {
            let mut held = self.held();
            held.requests.push(format!("{} {path}", head.method));
            let mut faults = held.faults.iter();
            faults
                .find(|(m, p, _)| path == *p && (m.is_empty() || *m == head.method.as_str()))
                .map(|(.., fault)| *fault)
        };
        let (status, object) = match fault {
            Some(Fault::Hang) => std::future::pending().await,
            Some(Fault::Status(code)) => (code, failure(code)),
            None => self.held().answer(&head.method, &path, &query, body),
        };
        let response = Response::builder().status(StatusCode::from_u16(status).unwrap());
        response.body(Body::from(object.to_string().into_bytes())).unwrap()
    }
}

impl Held {
    fn answer(&mut self, method: &Method, path: &str, query: &str, body: Value) -> (u16, Value) {
        let path = path.strip_suffix("/status").unwrap_or(path); // a subresource is a part of its object
        if path.ends_with("/tokenreviews") {
            let mut review = body;
            review["status"] = self.review.clone();
            return (201, review);
        }
        if method == Method::POST {
            let path = format!("{path}/{}", body["metadata"]["name"].as_str().unwrap());
            return match self.objects.contains_key(&path) {
                true => (409, failure(409)),
                false => (201, self.write(&path, body)),
            };
        }
        if method == Method::GET && path == "/api/v1/namespaces" {
            return (200, self.namespaces(query));
        }
        if method == Method::GET && path.ends_with("/secrets") {
            return (200, self.list(path, query));
        }
        if self.touch.as_deref() == Some(path) && method != Method::GET {
            self.touch = None;
            let object = self.objects[path].clone();
            self.write(path, object);
        }
        let Some(found) = self.objects.get(path).cloned() else { return (404, failure(404)) };
        let differs = |field: &str| {
            !body["metadata"][field].is_null() && body["metadata"][field] != found["metadata"][field]
        };
        let before = &body["preconditions"]["resourceVersion"];
        let is_another = !before.is_null() && *before != found["metadata"]["resourceVersion"];
        if method != Method::GET && (differs("resourceVersion") || differs("uid") || is_another) {
            return (409, failure(409));
        }
        match *method {
            Method::GET => (200, found),
            Method::PUT => (200, self.write(path, body)),
            Method::PATCH => (200, self.write(path, merged(found, &body))),
            Method::DELETE => {
                self.objects.remove(path);
                (200, found)
            }
            _ => (405, failure(405)),
        }
    }

    fn write(&mut self, path: &str, mut object: Value) -> Value {
        self.version += 1;
        let uid =
            self.objects.get(path).map_or(json!(self.version.to_string()), |o| o["metadata"]["uid"].clone());
        if object["metadata"]["uid"].is_null() {
            object["metadata"]["uid"] = uid;
        }
        object["metadata"]["name"] = json!(path.rsplit('/').next());
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        self.objects.insert(path.to_owned(), object.clone());
        object
    }

    /// What is in a collection, with the label of `labelSelector=key=value`, or `key`.
    fn list(&self, collection: &str, query: &str) -> Value {
        let selector =
            query.split('&').find_map(|pair| pair.strip_prefix("labelSelector=")).unwrap_or_default();
        let (key, value) =
            selector.split_once('=').map_or((selector, None), |(key, value)| (key, Some(value)));
        let is_in = |path: &str| {
            path.strip_prefix(collection)
                .and_then(|rest| rest.strip_prefix('/'))
                .is_some_and(|name| !name.contains('/'))
        };
        let fits = |object: &Value| {
            let label = &object["metadata"]["labels"][key];
            selector.is_empty() || value.map_or(!label.is_null(), |value| *label == *value)
        };
        let items: Vec<&Value> = self
            .objects
            .iter()
            .filter(|(path, object)| is_in(path) && fits(object))
            .map(|(_, object)| object)
            .collect();
        json!({ "apiVersion": "v1", "kind": "List", "metadata": { "resourceVersion": self.version.to_string() }, "items": items })
    }

    /// Those with the label of `labelSelector=key=value`.
    fn namespaces(&self, query: &str) -> Value {
        let selector = query.split('&').find_map(|pair| pair.strip_prefix("labelSelector="));
        let (key, value) = selector.unwrap_or_default().split_once('=').unwrap_or_default();
        let of_namespace =
            |path: &str| path.strip_prefix("/api/v1/namespaces/").is_some_and(|name| !name.contains('/'));
        let items: Vec<&Value> = self
            .objects
            .iter()
            .filter(|(path, object)| of_namespace(path) && object["metadata"]["labels"][key] == value)
            .map(|(_, object)| object)
            .collect();
        json!({ "apiVersion": "v1", "kind": "NamespaceList", "metadata": { "resourceVersion": "1" }, "items": items })
    }
}

/// A merge patch, or for lists of webhooks a strategic one: entries are merged by name.
fn merged(mut found: Value, patch: &Value) -> Value {
    if patch["webhooks"].is_null() {
        merge(&mut found, patch);
        return found;
    }
    for entry in patch["webhooks"].as_array().unwrap() {
        let entries = found["webhooks"].as_array_mut().unwrap();
        let into = entries.iter_mut().find(|held| held["name"] == entry["name"]).unwrap();
        into["clientConfig"]["caBundle"] = entry["clientConfig"]["caBundle"].clone();
    }
    found
}

/// RFC 7386.
fn merge(found: &mut Value, patch: &Value) {
    let Some(patch) = patch.as_object() else {
        *found = patch.clone();
        return;
    };
    for (key, value) in patch {
        merge(&mut found[key.as_str()], value);
    }
}

fn failure(code: u16) -> Value {
    let reason = match code {
        404 => "NotFound",
        409 => "Conflict",
        403 => "Forbidden",
        _ => "Unknown",
    };
    json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "message": "no", "reason": reason, "code": code })
}
