//! The route table: a snapshot compiled, so that finding a request's rule costs a few hash look-ups however many routes there are.
//!
//! A port's listeners, then a listener's hosts, then a host's paths: in each the most specific one that matches takes the
//! request, and nobody else is asked. Compiling is pure; a table is swapped whole.

mod hosts;
mod paths;
mod patterns;

use std::{collections::HashMap, fmt, sync::Arc};

use http::{HeaderMap, Method};

use self::{
    hosts::Hosts,
    paths::{Candidate, Paths},
    patterns::Patterns,
};
use crate::model::{HttpsHost, Listener, Route, Rule, Snapshot};

/// A compiled snapshot.
#[derive(Default)]
pub struct Table {
    ports: HashMap<u16, Hosts<Listening>>,
    https: Hosts<Arc<HttpsHost>>,
    patterns: Patterns,
    problems: Vec<Problem>,
}

struct Listening {
    listener: Arc<Listener>,
    hosts: Hosts<Paths>,
}

/// A route of a listener, compiled.
type Attached<'a> = (&'a Arc<Route>, Vec<Arc<Candidate>>);

/// What the table asks about a request. Host in lower case and without a port, path in its normal form.
pub struct Asked<'a> {
    pub port: u16,
    pub host: &'a str,
    pub path: &'a str,
    pub query: Option<&'a str>,
    pub method: &'a Method,
    pub headers: &'a HeaderMap,
}

/// What it answers.
#[derive(Clone)]
pub enum Answer<'t> {
    /// No listener, or no route, for this host.
    NoHost,
    /// The host is ours, and none of its rules is for this request. `host`: its pattern, as a label.
    NoRoute {
        host: &'t Arc<str>,
    },
    Found(Found<'t>),
}

#[derive(Clone)]
pub struct Found<'t> {
    pub listener: &'t Arc<Listener>,
    pub route: &'t Arc<Route>,
    pub rule: &'t Rule,
    /// The pattern of the route's host: a label.
    pub host: &'t Arc<str>,
    /// Bytes of the path that a prefix took.
    pub prefix: Option<usize>,
    /// What a regex's groups caught; the first is the whole.
    pub captures: Vec<Arc<str>>,
    /// One of its regexes does not compile: 500.
    pub broken: bool,
}

/// Something of a snapshot that could not be compiled; the rule answers 500.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Problem {
    pub route: Arc<str>,
    /// From 0.
    pub rule: usize,
    pub why: Arc<str>,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rule {} of {} answers 500: {}", self.rule, self.route, self.why)
    }
}

impl Table {
    /// Compiles. `before` lends the regexes that it has compiled already.
    pub fn new(snapshot: &Snapshot, before: &Self) -> Self {
        let mut table = Self::default();
        let mut attached: HashMap<&str, Vec<Attached<'_>>> = HashMap::new();
        for route in &snapshot.routes {
            let candidates =
                paths::candidates(route, &mut table.patterns, &before.patterns, &mut table.problems);
            for parent in &route.parents {
                attached.entry(parent).or_default().push((route, candidates.clone()));
            }
        }
        for listener in &snapshot.listeners {
            let mut hosts: Hosts<Paths> = Hosts::default();
            for (route, candidates) in attached.get(&*listener.name).into_iter().flatten() {
                let all = [listener.hosts.clone()];
                let patterns = if route.hosts.is_empty() { &all[..] } else { &route.hosts[..] };
                for pattern in patterns {
                    hosts.entry(pattern, || Paths::new(pattern)).add(candidates);
                }
            }
            hosts.for_each(Paths::sort);
            let port = table.ports.entry(listener.port).or_default();
            port.entry(&listener.hosts, || Listening { listener: Arc::clone(listener), hosts });
        }
        for https in &snapshot.https_hosts {
            table.https.entry(&https.host, || Arc::new(https.clone()));
        }
        table
    }

    pub fn find<'t>(&'t self, asked: &Asked<'_>) -> Answer<'t> {
        let Some(listening) = self.listening(asked.port, asked.host) else { return Answer::NoHost };
        let Some(paths) = listening.hosts.find(asked.host) else { return Answer::NoHost };
        match paths.find(asked) {
            None => Answer::NoRoute { host: paths.label() },
            Some(hit) => Answer::Found(Found {
                listener: &listening.listener,
                route: &hit.candidate.route,
                rule: hit.candidate.rule(),
                host: paths.label(),
                prefix: hit.prefix,
                captures: hit.captures,
                broken: hit.candidate.broken,
            }),
        }
    }

    /// How plaintext requests for a host are treated, if they are treated at all.
    pub fn https(&self, host: &str) -> Option<&HttpsHost> {
        self.https.find(host).map(|https| &**https)
    }

    /// Whether a connection that named `sni` is for another listener of this port than `host` is (Gateway API, GEP-3567).
    pub fn is_other_listener(&self, port: u16, sni: &str, host: &str) -> bool {
        match (self.listening(port, sni), self.listening(port, host)) {
            (Some(connected), Some(asked)) => !Arc::ptr_eq(&connected.listener, &asked.listener),
            _ => false,
        }
    }

    /// The labels of all hosts, as [`Found::host`] has them.
    pub fn host_labels(&self) -> impl Iterator<Item = &Arc<str>> {
        self.ports.values().flat_map(Hosts::iter).flat_map(|port| port.hosts.iter()).map(Paths::label)
    }

    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    fn listening(&self, port: u16, host: &str) -> Option<&Listening> {
        self.ports.get(&port)?.find(host)
    }
}

#[cfg(test)]
mod tests;
