//! The second name of a host, for who works on a laptop: with `--alias-suffix localhost`, `blog.example.com` is served as
//! `blog.example.com.localhost`, too. Pure.
//!
//! It belongs to whoever has the host itself, and is served like it. A name that an Ingress asks for by itself, that is below another
//! namespace's wildcard, or that an administrator pinned to another namespace, is no second name of anything.

use std::collections::BTreeMap;

use signet_http::model::{HostPattern, Hostname};

use super::{
    claims::{self, Owner},
    objects::Pin,
    translate::Options,
};

/// The second name of `host`, whoever may have it.
pub(crate) fn name(host: &HostPattern, options: &Options) -> Option<HostPattern> {
    let suffix = options.alias.as_ref()?;
    let below = |name: &Hostname| {
        let is_below = name
            .as_str()
            .strip_suffix(suffix.as_str())
            .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
        // Too long for a name: then it has none.
        if is_below { None } else { format!("{name}.{suffix}").parse::<Hostname>().ok() }
    };
    match host {
        HostPattern::Any => None,
        HostPattern::Exact(name) => below(name).map(HostPattern::Exact),
        HostPattern::Wildcard(above, labels) => {
            below(above).map(|above| HostPattern::Wildcard(above, *labels))
        }
    }
}

/// The second name that `host` is served under; `owners`: of all hosts that Ingresses ask for; `pins`: of Namespaces.
pub(crate) fn of(
    host: &HostPattern,
    owner: &Owner,
    owners: &BTreeMap<String, Owner>,
    pins: &[Pin],
    options: &Options,
) -> Option<HostPattern> {
    let alias = name(host, options)?;
    let is_anothers = || match &alias {
        HostPattern::Exact(name) => {
            let above = name.as_str().split_once('.').map(|(_, above)| format!("*.{above}"));
            let above = above.and_then(|wildcard| owners.get(&wildcard));
            above.is_some_and(|above| above.namespace != owner.namespace)
        }
        _ => false,
    };
    let pinned = claims::pinned(pins, &alias);
    let is_kept_for_another = !pinned.is_empty() && !pinned.contains(owner.namespace.as_str());
    (!owners.contains_key(&alias.to_string()) && !is_anothers() && !is_kept_for_another).then_some(alias)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::edge::{claims::By, translate::tests::options};

    fn alias(host: &str, taken: &[(&str, &str)], pinned: &[(&str, &str)]) -> Option<String> {
        let options = Options { alias: Some("localhost".parse().unwrap()), ..options() };
        let owner = |namespace: &str| Owner { namespace: namespace.into(), by: By::Age };
        let owners = taken.iter().map(|(host, of)| ((*host).to_owned(), owner(of))).collect();
        let host = HostPattern::ingress(Some(host)).unwrap();
        let pin = |(pattern, namespace): &(&str, &str)| Pin {
            namespace: (*namespace).into(),
            pattern: HostPattern::gateway(Some(pattern)).unwrap(),
        };
        let pins: Vec<Pin> = pinned.iter().map(pin).collect();
        of(&host, &owner("shop"), &owners, &pins, &options).map(|alias| alias.to_string())
    }

    #[test]
    fn a_host_has_a_second_name_below_the_suffix_unless_somebody_has_that() {
        let long = format!("{}.example", vec!["a".repeat(60); 4].join("."));
        for (host, taken, want) in [
            ("blog.example.com", &[][..], Some("blog.example.com.localhost")),
            ("*.example.com", &[], Some("*.example.com.localhost")),
            ("blog.localhost", &[], None),
            ("localhost", &[], None),
            ("*.localhost", &[], None),
            ("mylocalhost", &[], Some("mylocalhost.localhost")),
            ("", &[], None),
            (&long, &[], None),
            ("blog.example.com", &[("blog.example.com.localhost", "shop")], None),
            ("blog.example.com", &[("*.example.com.localhost", "bank")], None),
            ("blog.example.com", &[("*.example.com.localhost", "shop")], Some("blog.example.com.localhost")),
        ] {
            assert_eq!(alias(host, taken, &[]).as_deref(), want, "{host:?} {taken:?}");
        }
    }

    #[test]
    fn a_second_name_that_is_pinned_to_another_namespace_is_none() {
        let mine = Some("blog.example.com.localhost");
        for (pins, want) in [
            (&[("blog.example.com.localhost", "bank")][..], None),
            (&[("*.localhost", "bank")], None),
            (&[("*.localhost", "bank"), ("*.example.com.localhost", "shop")], mine),
            (&[("*.example.com", "bank"), ("other.localhost", "bank")], mine),
        ] {
            assert_eq!(alias("blog.example.com", &[], pins).as_deref(), want, "{pins:?}");
        }
        assert_eq!(alias("*.example.com", &[], &[("*.localhost", "bank")]), None);
    }
}
