//! Why a step at a CA came to nothing, sorted by what is done about it.

use crate::{problem::Problem, store::StoreError, transport::CallError};

#[derive(Debug)]
pub(crate) struct Fault {
    pub(crate) class: Class,
    pub(crate) problem: Problem,
    /// The CA's Retry-After, seconds.
    pub(crate) after: Option<i64>,
    /// It may have been done all the same: nothing, or nothing that means anything, was heard of it.
    pub(crate) unsure: bool,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Class {
    /// No answer, or none that means anything: ask again.
    Call,
    /// A rate limit.
    Limited,
    /// The CA does not know our account.
    NoAccount,
    /// It does not take this account, whatever is ordered with it.
    Account,
    /// It has an order that replaces the same certificate, or takes no replacements.
    NoReplacement,
    /// It says no.
    Refused,
    /// Our own store.
    Store,
}

impl Fault {
    fn ours(class: Class, detail: impl std::fmt::Display) -> Self {
        Self { class, problem: Problem::ours(detail), after: None, unsure: false }
    }

    /// What a solver, or we ourselves, say no with.
    pub(crate) fn refused(detail: impl std::fmt::Display) -> Self {
        Self::ours(Class::Refused, detail)
    }

    pub(crate) fn call(detail: impl std::fmt::Display) -> Self {
        Self::ours(Class::Call, detail)
    }
}

impl From<instant_acme::Error> for Fault {
    fn from(error: instant_acme::Error) -> Self {
        match error {
            instant_acme::Error::Other(error) => match error.downcast::<CallError>() {
                Ok(error) => Self::from(*error),
                // instant-acme's own words, where the CA's answer leaves the `replaces` of the request out.
                Err(error) if error.to_string().contains("replaces field mismatch") => {
                    Self::ours(Class::NoReplacement, error)
                }
                Err(error) => Self { unsure: true, ..Self::call(error) },
            },
            instant_acme::Error::Api(said) => {
                let problem = Problem::from(&said);
                Self { class: class(&problem), problem, after: None, unsure: false }
            }
            error @ instant_acme::Error::Unsupported(_) => Self::ours(Class::NoReplacement, error),
            error @ (instant_acme::Error::KeyRejected | instant_acme::Error::Crypto) => {
                Self::ours(Class::Account, format!("the account's key: {error}"))
            }
            instant_acme::Error::Json(error) => {
                let said = format!("the CA's answer is not what RFC 8555 says: {error}");
                Self { unsure: true, ..Self::call(said) }
            }
            error => Self { unsure: true, ..Self::call(error) },
        }
    }
}

impl From<CallError> for Fault {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Problem { problem, after } => {
                Self { class: class(&problem), problem, after, unsure: false }
            }
            CallError::Status { status, after, .. } => {
                let class = match status {
                    429 => Class::Limited,
                    409 => Class::NoReplacement, // RFC 9773 5
                    // An ACME server says why (RFC 8555 6.7): these are the words of something in front of it.
                    _ => Class::Call,
                };
                Self { class, problem: Problem::ours(&error).with_status(status), after, unsure: false }
            }
            CallError::Slow { is_sent, .. } | CallError::Cut { is_sent, .. } => {
                Self { unsure: is_sent, ..Self::call(error) }
            }
            CallError::Long(_) => Self { unsure: true, ..Self::call(error) },
            CallError::Unreachable(_) | CallError::Roots(_) => Self::call(error),
        }
    }
}

impl From<StoreError> for Fault {
    fn from(error: StoreError) -> Self {
        Self::ours(Class::Store, error)
    }
}

impl From<rcgen::Error> for Fault {
    fn from(error: rcgen::Error) -> Self {
        Self::ours(Class::Store, format!("a key or a CSR of ours: {error}"))
    }
}

/// RFC 8555 6.7, RFC 9773 7.4.
fn class(problem: &Problem) -> Class {
    match (problem.kind.as_deref().unwrap_or_default(), problem.status.unwrap_or(400)) {
        ("rateLimited", _) | (_, 429) => Class::Limited,
        ("badNonce" | "serverInternal", _) | (_, 500..) => Class::Call,
        ("accountDoesNotExist", _) => Class::NoAccount,
        ("alreadyReplaced", _) => Class::NoReplacement,
        ("externalAccountRequired" | "userActionRequired" | "invalidContact" | "unsupportedContact", _) => {
            Class::Account
        }
        _ => Class::Refused,
    }
}

pub(crate) fn is_bad_nonce(error: &instant_acme::Error) -> bool {
    matches!(error, instant_acme::Error::Api(said) if crate::transport::is_bad_nonce(Some(said)))
}

/// Makes a call again while the CA refuses its nonce: it has done nothing then. instant-acme itself tries thrice, which is too little for
/// a CA whose front ends do not know each other's nonces (Pebble can be told to refuse nine of ten).
macro_rules! patiently {
    ($call:expr) => {{
        let mut tries = 0;
        loop {
            match $call.await {
                Err(error) if tries < $crate::fault::MOST_NONCES && $crate::fault::is_bad_nonce(&error) => {
                    tries += 1
                }
                other => break other,
            }
        }
    }};
}
pub(crate) use patiently;

/// With 90 % refused, one call in 25 000 fails.
pub(crate) const MOST_NONCES: u32 = 31;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_sorted_by_what_is_done_about_it() {
        let said = |kind: &str, status| {
            Problem { kind: Some(kind.into()), ..Problem::default() }.with_status(status)
        };
        for (problem, want) in [
            (said("rateLimited", 429), Class::Limited),
            (said("rateLimited", 503), Class::Limited),
            (said("malformed", 429), Class::Limited),
            (said("serverInternal", 500), Class::Call),
            (said("malformed", 503), Class::Call),
            (said("badNonce", 400), Class::Call),
            (said("accountDoesNotExist", 400), Class::NoAccount),
            (said("alreadyReplaced", 409), Class::NoReplacement),
            (said("externalAccountRequired", 403), Class::Account),
            (said("rejectedIdentifier", 400), Class::Refused),
            (said("something-new", 403), Class::Refused),
        ] {
            assert_eq!(class(&problem), want, "{problem}");
        }
        for (status, want) in [
            (404, Class::Call),
            (403, Class::Call),
            (429, Class::Limited),
            (502, Class::Call),
            (302, Class::Call),
        ] {
            let fault = Fault::from(CallError::Status { status, said: "<html>".into(), after: Some(7) });
            assert_eq!((fault.class, fault.after), (want, Some(7)), "{status}");
        }
    }
}
