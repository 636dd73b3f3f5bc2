//! How people name pods, Services and namespaces: "shop/web-0", or as with kubectl "web-0 -n shop" and "pod/web-0 -n shop".

use anyhow::{Result, bail};

/// The option of commands that ask about one pod or Service.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct InNamespace {
    /// Its namespace, where the name does not say it
    #[arg(short, long, value_name = "NAMESPACE")]
    namespace: Option<String>,
}

/// Which pods a command shows.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct Scope {
    /// Only this namespace
    #[arg(value_name = "NAMESPACE")]
    namespace: Option<String>,
    /// The same, as with kubectl
    #[arg(short = 'n', long = "namespace", value_name = "NAMESPACE", conflicts_with = "namespace")]
    option: Option<String>,
}

/// What a name means.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Named {
    /// `None`: the user did not say.
    pub(crate) namespace: Option<String>,
    /// `None`: either.
    pub(crate) kind: Option<Kind>,
    pub(crate) name: String,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Kind {
    Pod,
    Service,
    Ingress,
}

impl Scope {
    pub(crate) fn namespace(&self) -> Option<&str> {
        self.namespace.as_deref().or(self.option.as_deref())
    }
}

impl InNamespace {
    /// A slash means "namespace/name"; with --namespace it means "kind/name", as `kubectl get pod -o name` prints it.
    pub(crate) fn read(&self, text: &str) -> Result<Named> {
        let (before, name) = match text.split_once('/') {
            Some((before, name)) => (Some(before), name),
            None => (None, text),
        };
        let named = match (&self.namespace, before) {
            (None, before) => {
                Named { namespace: before.map(str::to_owned), kind: None, name: name.to_owned() }
            }
            (Some(namespace), None) => {
                Named { namespace: Some(namespace.clone()), kind: None, name: name.to_owned() }
            }
            (Some(namespace), Some(kind)) => match Kind::read(kind) {
                Some(kind) => {
                    Named { namespace: Some(namespace.clone()), kind: Some(kind), name: name.to_owned() }
                }
                None if kind == namespace => {
                    bail!("{text:?} says the namespace itself; leave out -n {namespace}")
                }
                None => bail!(
                    "{text:?} is not in namespace {namespace}; with -n write NAME, pod/NAME, service/NAME or ingress/NAME"
                ),
            },
        };
        if !is_name(&named.name) || !named.namespace.as_deref().is_none_or(is_name) {
            bail!("{text:?} is no name; write NAMESPACE/NAME, or NAME -n NAMESPACE");
        }
        Ok(named)
    }
}

impl Named {
    /// For commands that do not look for the namespace.
    pub(crate) fn in_full(&self) -> Result<(&str, &str)> {
        match &self.namespace {
            Some(namespace) => Ok((namespace, &self.name)),
            None => bail!("in which namespace? Write NAMESPACE/{0}, or {0} -n NAMESPACE", self.name),
        }
    }

    pub(crate) fn may_be(&self, kind: Kind) -> bool {
        self.kind.is_none_or(|only| only == kind)
    }
}

impl Kind {
    /// As kubectl takes them.
    fn read(word: &str) -> Option<Self> {
        match word {
            "pod" | "pods" | "po" => Some(Self::Pod),
            "service" | "services" | "svc" => Some(Self::Service),
            "ingress" | "ingresses" | "ing" => Some(Self::Ingress),
            _ => None,
        }
    }
}

/// A DNS-1123 name: nothing in it has a meaning in a URL.
pub(crate) fn is_name(text: &str) -> bool {
    !text.is_empty()
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-.".contains(&b))
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    fn read(text: &str, namespace: Option<&str>) -> Result<String, String> {
        let asked = InNamespace { namespace: namespace.map(str::to_owned) };
        let named = asked.read(text).map_err(|e| e.to_string())?;
        let kind = named.kind.map_or(String::new(), |kind| format!(" {kind:?}"));
        let (namespace, name) = named.in_full().map_err(|e| e.to_string())?;
        Ok(format!("{namespace} {name}{kind}"))
    }

    #[test]
    fn a_name_is_read_in_our_words_and_in_kubectls() {
        for (text, namespace, want) in [
            ("shop/web-0", None, "shop web-0"),
            ("web-0", Some("shop"), "shop web-0"),
            ("pod/web-0", Some("shop"), "shop web-0 Pod"),
            ("svc/web", Some("shop"), "shop web Service"),
            ("ing/web", Some("shop"), "shop web Ingress"),
            ("pod/web-0", None, "pod web-0"), // a namespace may be called so
        ] {
            assert_eq!(read(text, namespace).as_deref(), Ok(want), "{text} {namespace:?}");
        }
    }

    #[test]
    fn a_name_that_says_too_little_or_two_things_is_refused_with_the_way_to_write_it() {
        for (text, namespace, words) in [
            ("web-0", None, "web-0 -n NAMESPACE"),
            ("shop/web-0", Some("shop"), "leave out -n shop"),
            ("shop/web-0", Some("office"), "not in namespace office"),
            ("deployment/web", Some("shop"), "pod/NAME, service/NAME or ingress/NAME"),
            ("a/b/c", None, "is no name"),
            ("web&x", Some("shop"), "is no name"),
            ("", None, "is no name"),
            ("web", Some(""), "is no name"),
        ] {
            let error = read(text, namespace).unwrap_err();
            assert!(error.contains(words), "{text} {namespace:?}: {error}");
        }
    }

    #[test]
    fn a_scope_is_given_by_position_or_by_option_and_not_by_both() {
        #[derive(clap::Parser)]
        struct Cli {
            #[command(flatten)]
            scope: Scope,
        }
        let scope = |line: &str| {
            let cli = Cli::try_parse_from(line.split_whitespace()).ok()?;
            Some(cli.scope.namespace().map(str::to_owned))
        };
        assert_eq!(scope("signet"), Some(None));
        for line in ["signet shop", "signet -n shop", "signet --namespace shop"] {
            assert_eq!(scope(line), Some(Some("shop".into())), "{line}");
        }
        assert_eq!(scope("signet shop -n office"), None);
    }
}
