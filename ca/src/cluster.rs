//! The CA in a cluster: its state in a Secret ([`secret`]), what the user may bring in another ([`intermediate`]), the Lease that says which replica takes steps ([`lease`]), the
//! bundle in ConfigMaps and in the webhook ([`trust`]), callers by TokenReview ([`reviews`]). All rights that it needs are in
//! docs/design.md section 11.

use std::{fmt, future::Future, time::Duration};

use tokio::time::timeout;

pub(crate) mod intermediate;
pub(crate) mod lease;
pub(crate) mod reviews;
pub(crate) mod secret;
pub(crate) mod trust;

#[cfg(test)]
pub(crate) mod double;
#[cfg(test)]
mod story;

/// One call of the API server, with an end. Boxed: kube's are 4 kB each.
pub(crate) fn call<'a, T: 'a>(
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
pub(crate) struct NoAnswer {
    /// HTTP's, or 0: no answer at all.
    code: u16,
    words: String,
}

impl NoAnswer {
    pub(crate) fn of(words: &str) -> Self {
        Self { code: 0, words: words.to_owned() }
    }

    /// Someone else wrote the object since we read it, or created it.
    pub(crate) fn is_conflict(&self) -> bool {
        self.code == 409
    }

    pub(crate) fn is_too_many(&self) -> bool {
        self.code == 429
    }

    /// This object, or its namespace, does not let us write: no right or quota, gone, or marked immutable.
    pub(crate) fn is_forbidden(&self) -> bool {
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

/// The labels on everything that we write.
pub(crate) fn labels() -> std::collections::BTreeMap<String, String> {
    [("app.kubernetes.io/part-of", "signet"), ("app.kubernetes.io/name", "ca")]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into()
}

/// A healthy API server answers in milliseconds; one that restarts, or elects another etcd leader, in seconds.
const PATIENCE: Duration = Duration::from_secs(5);
/// How the API server's logs and `managedFields` name us.
pub(crate) const MANAGER: &str = "signet-ca";
