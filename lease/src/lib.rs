//! What one of several replicas needs of the API server: a Lease that says whose turn it is ([`Lease`]), and calls that end
//! ([`call`]). CA and edge share it; it is apart from `link` because every proxy links that, and no data plane links kube.

pub mod clock;
#[cfg(feature = "double")]
pub mod double;
mod lease;

use std::{collections::BTreeMap, fmt, future::Future, time::Duration};

use signet_core::pod::POD_NAME;
use tokio::time::timeout;

pub use lease::Lease;

/// One call of the API server, with an end. Boxed: kube's are 4 kB each.
pub fn call<'a, T: 'a>(
    asked: impl Future<Output = kube::Result<T>> + Send + 'a,
) -> impl Future<Output = Result<T, NoAnswer>> + Send + 'a {
    let asked = Box::pin(asked);
    async move {
        match timeout(PATIENCE, asked).await {
            Ok(answer) => answer.map_err(NoAnswer::from),
            Err(_) => Err(NoAnswer::of(&format!("the API server took longer than {PATIENCE:?}"))),
        }
    }
}

/// Why the API server did not do what it was asked. After code 0 it may have done it or not.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub struct NoAnswer {
    /// HTTP's, or 0: no answer at all.
    code: u16,
    words: String,
}

impl NoAnswer {
    pub fn of(words: &str) -> Self {
        Self { code: 0, words: words.to_owned() }
    }

    /// Someone else wrote the object since we read it, or created it.
    pub fn is_conflict(&self) -> bool {
        self.code == 409
    }

    pub fn is_too_many(&self) -> bool {
        self.code == 429
    }

    /// There is no such object.
    pub fn is_absent(&self) -> bool {
        self.code == 404
    }

    /// We have no right to it; or something in front of it said so.
    pub fn is_no_right(&self) -> bool {
        self.code == 403
    }

    /// This object, or its namespace, does not let us write: no right or quota, gone, or marked immutable.
    pub fn is_forbidden(&self) -> bool {
        matches!(self.code, 403 | 404 | 422)
    }
}

impl From<kube::Error> for NoAnswer {
    fn from(error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => {
                let words = if status.message.is_empty() { status.reason } else { status.message };
                Self { code: status.code, words }
            }
            other => {
                let mut words = other.to_string();
                let mut innermost: &dyn std::error::Error = &other;
                while let Some(source) = innermost.source() {
                    innermost = source;
                }
                let last = innermost.to_string();
                if !words.contains(&last) {
                    words = format!("{words}: {last}");
                }
                Self { code: 0, words }
            }
        }
    }
}

impl fmt::Display for NoAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.code {
            0 => write!(f, "{}", self.words),
            code => write!(f, "the API server says {code}: {}", self.words),
        }
    }
}

/// The labels on everything that a part of ours ("ca") writes.
pub fn labels(part: &str) -> BTreeMap<String, String> {
    [("app.kubernetes.io/part-of", "signet"), ("app.kubernetes.io/name", part)]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into()
}

/// Who we are among replicas: the pod's name, which Kubernetes makes unique; outside of one, a name that nobody else has.
pub fn replica_name(part: &str) -> String {
    let name = std::env::var(POD_NAME).ok().filter(|name| !name.is_empty());
    name.or_else(|| std::env::var("HOSTNAME").ok())
        .unwrap_or_else(|| format!("{part}-{:016x}", fastrand::u64(..)))
}

/// A healthy API server answers in milliseconds; one that restarts, or elects another etcd leader, in seconds.
const PATIENCE: Duration = Duration::from_secs(5);
