//! The DNS names that the CA certifies: a fixed list, each for one of our own parts (docs/design.md section 3). Nothing else
//! ever gets a DNS SAN.

use signet_core::identity::{SYSTEM_NAMESPACE, SpiffeId, workload};

/// A name of [`NAMES`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct ServingName(&'static str);

impl ServingName {
    /// `name`, where it is one of ours and `id` the part that serves it; authentication has settled the trust domain.
    pub(crate) fn granted(name: &str, id: &SpiffeId) -> Option<Self> {
        let (namespace, account) = workload(id)?;
        let (name, _) = NAMES.iter().find(|(served, by)| *served == name && *by == account)?;
        (namespace == SYSTEM_NAMESPACE).then_some(Self(name))
    }

    pub(crate) fn as_str(self) -> &'static str {
        self.0
    }
}

/// The name as clients dial it, and the service account in our namespace that serves it.
const NAMES: [(&str, &str); 1] = [("injector.signet-system.svc", "injector")]; // the API server calls the webhook so

#[cfg(test)]
mod tests {
    use super::*;
    use signet_core::identity::{self, TrustDomain};

    #[test]
    fn each_name_is_for_one_part_and_there_is_no_other_name() {
        let domain = TrustDomain::new("cluster.local").unwrap();
        let injector = identity::injector(&domain);
        let name = "injector.signet-system.svc";
        assert_eq!(ServingName::granted(name, &injector).map(ServingName::as_str), Some(name));
        for other in [
            "",
            "injector",
            "injector.signet-system",
            "Injector.signet-system.svc",
            "injector.signet-system.svc.",
            "controller.signet-system.svc",
            "kubernetes.default.svc",
        ] {
            assert_eq!(ServingName::granted(other, &injector), None, "{other:?}");
        }
        for id in [
            identity::controller(&domain),
            identity::ca(&domain),
            identity::of(&domain, "shop", "injector").unwrap(),
            identity::of(&domain, "signet-system", "injector2").unwrap(),
        ] {
            assert_eq!(ServingName::granted(name, &id), None, "{id}");
        }
    }
}
