//! The second name of a host, for who works on a laptop: with `--alias-suffix localhost`, `blog.example.com` is served as
//! `blog.example.com.localhost`, too. Pure.
//!
//! It belongs to whoever has the host itself, and is served like it. A name that an Ingress asks for by itself, or that is below another
//! namespace's wildcard, is no second name of anything.

use std::collections::BTreeMap;

use signet_http::model::{HostPattern, Hostname};

use super::{claims::Owner, translate::Options};

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

/// The second name that `host` is served under; `owners`: of all hosts that Ingresses ask for.
pub(crate) fn of(
    host: &HostPattern,
    owner: &Owner,
    owners: &BTreeMap<String, Owner>,
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
    (!owners.contains_key(&alias.to_string()) && !is_anothers()).then_some(alias)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::edge::{claims::By, translate::tests::options};

    fn alias(host: &str, taken: &[(&str, &str)]) -> Option<String> {
        let options = Options { alias: Some("localhost".parse().unwrap()), ..options() };
        let owner = |namespace: &str| Owner { namespace: namespace.into(), by: By::Age };
        let owners = taken.iter().map(|(host, of)| ((*host).to_owned(), owner(of))).collect();
        let host = HostPattern::ingress(Some(host)).unwrap();
        of(&host, &owner("shop"), &owners, &options).map(|alias| alias.to_string())
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
            assert_eq!(alias(host, taken).as_deref(), want, "{host:?} {taken:?}");
        }
    }
}
