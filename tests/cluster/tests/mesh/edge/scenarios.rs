//! The 25 scenarios of `sigs.k8s.io/ingress-controller-conformance` (2021), written anew from the Ingress v1 specification, as a table:
//! one default backend, six of hosts, one of classes, one of load balancing, sixteen of paths. docs/ingress.md lists them.

/// One Ingress and what requests to it get.
pub(super) struct Scenario {
    pub(super) name: &'static str,
    pub(super) asks: Asks,
    /// `http://` or `https://`, host, path. The first is asked again until it gets what it wants, so that the others, which may want
    /// nothing, are asked of an Ingress that is served.
    pub(super) requests: &'static [(&'static str, Want)],
}

/// Every host is below a domain of the scenario's own: "foo" is `foo.<scenario>.<namespace>.test`.
pub(super) enum Asks {
    /// No rules, and this Service as `defaultBackend`.
    Default(&'static str),
    /// By host: type of path, path, Service.
    Rules(&'static [(&'static str, &'static [&'static str])]),
    /// The same, with a certificate for these hosts.
    Tls(&'static [(&'static str, &'static [&'static str])]),
    /// The same, of a class that is not ours.
    OtherClass(&'static [(&'static str, &'static [&'static str])]),
}

#[derive(Clone, Copy)]
pub(super) enum Want {
    /// 200, from a pod of this Service, which was asked for the host and the path that the client named.
    Service(&'static str),
    /// Likewise, and in the end from every one of its pods.
    EveryPod(&'static str),
    Status(u16),
}

use Want::{EveryPod, Service, Status};

/// Services are called a, b and c.
pub(super) const SCENARIOS: [Scenario; 25] = [
    Scenario {
        name: "an Ingress without rules sends everything to its default backend",
        asks: Asks::Default("a"),
        requests: &[
            ("http://my-host/", Service("a")),
            ("http://other/sub/path", Service("a")),
            ("http://x/%20", Service("a")),
        ],
    },
    Scenario {
        name: "a host rule sends its host to its backend",
        asks: Asks::Rules(&[("foo.bar", &["Prefix / a"])]),
        requests: &[("http://foo.bar/", Service("a"))],
    },
    Scenario {
        name: "a host rule sends its host to its backend over TLS",
        asks: Asks::Tls(&[("foo.bar", &["Prefix / a"])]),
        requests: &[("https://foo.bar/", Service("a")), ("http://foo.bar/", Status(308))],
    },
    Scenario {
        name: "a host rule does not take another host",
        asks: Asks::Rules(&[("foo.bar", &["Prefix / a"])]),
        requests: &[
            ("http://foo.bar/", Service("a")),
            ("http://subdomain.bar/", Status(404)),
            ("http://bar/", Status(404)),
            ("http://x.foo.bar/", Status(404)),
            ("http://xfoo.bar/", Status(404)),
        ],
    },
    Scenario {
        name: "a wildcard host takes one label",
        asks: Asks::Rules(&[("*.foo", &["Prefix / a"])]),
        requests: &[("http://bar.foo/", Service("a")), ("http://other.foo/", Service("a"))],
    },
    Scenario {
        name: "a wildcard host does not take two labels",
        asks: Asks::Rules(&[("*.foo", &["Prefix / a"])]),
        requests: &[("http://bar.foo/", Service("a")), ("http://baz.bar.foo/", Status(404))],
    },
    Scenario {
        name: "a wildcard host does not take the domain itself",
        asks: Asks::Rules(&[("*.foo", &["Prefix / a"])]),
        requests: &[("http://bar.foo/", Service("a")), ("http://foo/", Status(404))],
    },
    Scenario {
        name: "an Ingress of another class is neither served nor given an address",
        asks: Asks::OtherClass(&[("app", &["Prefix / a"])]),
        requests: &[("http://app/", Status(404))],
    },
    Scenario {
        name: "requests go to every ready pod of the Service",
        asks: Asks::Rules(&[("app", &["Prefix / a"])]),
        requests: &[("http://app/", EveryPod("a"))],
    },
    Scenario {
        name: "Exact takes its path",
        asks: Asks::Rules(&[("app", &["Exact /foo a"])]),
        requests: &[("http://app/foo", Service("a"))],
    },
    Scenario {
        name: "Exact does not take the path with a trailing slash",
        asks: Asks::Rules(&[("app", &["Exact /foo a"])]),
        requests: &[("http://app/foo", Service("a")), ("http://app/foo/", Status(404))],
    },
    Scenario {
        name: "Exact is case-sensitive",
        asks: Asks::Rules(&[("app", &["Exact /foo a"])]),
        requests: &[("http://app/foo", Service("a")), ("http://app/FOO", Status(404))],
    },
    Scenario {
        name: "Exact does not take another path",
        asks: Asks::Rules(&[("app", &["Exact /foo a"])]),
        requests: &[
            ("http://app/foo", Service("a")),
            ("http://app/bar", Status(404)),
            ("http://app/foo/bar", Status(404)),
        ],
    },
    Scenario {
        name: "Exact with a trailing slash takes only that",
        asks: Asks::Rules(&[("app", &["Exact /aaa/bbb/ a"])]),
        requests: &[("http://app/aaa/bbb/", Service("a")), ("http://app/aaa/bbb", Status(404))],
    },
    Scenario {
        name: "Prefix takes its path",
        asks: Asks::Rules(&[("app", &["Prefix /foo a"])]),
        requests: &[("http://app/foo", Service("a"))],
    },
    Scenario {
        name: "Prefix takes its path with a trailing slash",
        asks: Asks::Rules(&[("app", &["Prefix /foo a"])]),
        requests: &[("http://app/foo/", Service("a"))],
    },
    Scenario {
        name: "Prefix with a trailing slash takes the path without and with it",
        asks: Asks::Rules(&[("app", &["Prefix /foo/ a"])]),
        requests: &[("http://app/foo", Service("a")), ("http://app/foo/", Service("a"))],
    },
    Scenario {
        name: "Prefix is case-sensitive",
        asks: Asks::Rules(&[("app", &["Prefix /foo a"])]),
        requests: &[("http://app/foo", Service("a")), ("http://app/FOO", Status(404))],
    },
    Scenario {
        name: "Prefix takes what is below it",
        asks: Asks::Rules(&[("app", &["Prefix /aaa/bbb a"])]),
        requests: &[("http://app/aaa/bbb/ccc", Service("a"))],
    },
    Scenario {
        name: "Prefix goes by element and not by letter",
        asks: Asks::Rules(&[("app", &["Prefix /aaa/bbb a"])]),
        requests: &[
            ("http://app/aaa/bbb", Service("a")),
            ("http://app/aaa/bbbxyz", Status(404)),
            ("http://app/aaa/bb", Status(404)),
            ("http://app/aaa", Status(404)),
        ],
    },
    Scenario {
        name: "Prefix of the root takes everything",
        asks: Asks::Rules(&[("app", &["Prefix / a"])]),
        requests: &[
            ("http://app/", Service("a")),
            ("http://app/foo", Service("a")),
            ("http://app/foo/bar", Service("a")),
        ],
    },
    Scenario {
        name: "of several Prefixes the longest wins",
        asks: Asks::Rules(&[("app", &["Prefix / a", "Prefix /aaa b", "Prefix /aaa/bbb c"])]),
        requests: &[
            ("http://app/ccc", Service("a")),
            ("http://app/aaa/ccc", Service("b")),
            ("http://app/aaa/bbb/ccc", Service("c")),
        ],
    },
    Scenario {
        name: "Exact wins over the same Prefix and leaves it the rest",
        asks: Asks::Rules(&[("app", &["Prefix /foo a", "Exact /foo b"])]),
        requests: &[
            ("http://app/foo", Service("b")),
            ("http://app/foo/", Service("a")),
            ("http://app/foo/bar", Service("a")),
        ],
    },
    Scenario {
        name: "a path that no rule takes is not found",
        asks: Asks::Rules(&[("app", &["Prefix /aaa a", "Exact /bbb b"])]),
        requests: &[
            ("http://app/bbb", Service("b")),
            ("http://app/aaa", Service("a")),
            ("http://app/ccc", Status(404)),
        ],
    },
    Scenario {
        name: "an ImplementationSpecific path is a Prefix",
        asks: Asks::Rules(&[("app", &["ImplementationSpecific /foo a"])]),
        requests: &[
            ("http://app/foo", Service("a")),
            ("http://app/foo/bar", Service("a")),
            ("http://app/foobar", Status(404)),
        ],
    },
];
