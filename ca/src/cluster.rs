//! The CA in a cluster: its state in a Secret ([`secret`]), what the user may bring in another ([`intermediate`]), the Lease that
//! says which replica takes steps (`signet_lease`), the bundle in ConfigMaps and in the webhook ([`trust`]), callers by TokenReview
//! ([`reviews`]). All rights that it needs are in docs/design.md section 11.

pub(crate) mod intermediate;
pub(crate) mod reviews;
pub(crate) mod secret;
pub(crate) mod trust;

#[cfg(test)]
mod story;

/// The labels on everything that we write.
pub(crate) fn labels() -> std::collections::BTreeMap<String, String> {
    signet_lease::labels(PART)
}

/// How our pods are labelled.
pub(crate) const PART: &str = "ca";
/// How the API server's logs and `managedFields` name us.
pub(crate) const MANAGER: &str = "signet-ca";
