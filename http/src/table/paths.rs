//! The rules of one host, found by path and then by what else they ask for.

use std::{cmp::Reverse, collections::HashMap, sync::Arc};

use regex::Regex;

use super::{Asked, Problem, patterns::Patterns};
use crate::{
    limits::EncodedSlash,
    model::{HostPattern, Match, PathMatch, Route, Rule, ValueMatch},
    normal::normal,
};

/// One match of one rule.
pub(super) struct Candidate {
    pub(super) route: Arc<Route>,
    rule: usize,
    place: Place,
    conditions: Box<[Condition]>,
    pub(super) broken: bool,
}

enum Place {
    Exact(Box<str>),
    Regex(Arc<Regex>),
    Prefix(Box<str>),
}

enum Condition {
    Method(http::Method),
    Header(http::HeaderName, Value),
    Query(Arc<str>, Value),
    /// One that does not compile. Taken as met: the rule answers 500 rather than a less particular one 200.
    Broken,
}

enum Value {
    Exact(Arc<str>),
    Regex(Arc<Regex>),
}

/// The order of the Gateway API; the smallest wins.
type Precedence<'a> = (Reverse<usize>, Reverse<bool>, Reverse<usize>, Reverse<usize>, i64, &'a str, usize);

impl Candidate {
    pub(super) fn rule(&self) -> &Rule {
        &self.route.rules[self.rule]
    }

    /// Among those of one kind of path match. Its place within its rule is kept by a stable sort.
    fn precedence(&self) -> Precedence<'_> {
        let path = match &self.place {
            Place::Exact(path) | Place::Prefix(path) => path.len(),
            Place::Regex(regex) => regex.as_str().len(),
        };
        let count = |kind: fn(&Condition) -> bool| self.conditions.iter().filter(|c| kind(c)).count();
        (
            Reverse(path),
            Reverse(self.conditions.iter().any(|c| matches!(c, Condition::Method(_)))),
            Reverse(count(|c| matches!(c, Condition::Header(..)))),
            Reverse(count(|c| matches!(c, Condition::Query(..)))),
            self.route.created,
            &self.route.name,
            self.rule,
        )
    }

    fn is_met(&self, asked: &Asked<'_>) -> bool {
        self.conditions.iter().all(|condition| match condition {
            Condition::Method(method) => method == asked.method,
            Condition::Header(name, value) => value.takes_header(asked, name),
            Condition::Query(name, value) => value.takes_query(asked, name),
            Condition::Broken => true,
        })
    }
}

impl Value {
    fn takes(&self, value: &str) -> bool {
        match self {
            Self::Exact(exact) => **exact == *value,
            Self::Regex(regex) => regex.is_match(value),
        }
    }

    fn takes_header(&self, asked: &Asked<'_>, name: &http::HeaderName) -> bool {
        let mut values =
            asked.headers.get_all(name).iter().map(|value| std::str::from_utf8(value.as_bytes()));
        match (values.next(), values.next()) {
            (Some(Ok(only)), None) => self.takes(only),
            (Some(Ok(first)), Some(Ok(second))) => {
                let all: Result<Vec<_>, _> = [Ok(first), Ok(second)].into_iter().chain(values).collect();
                all.is_ok_and(|all| self.takes(&all.join(", ")))
            }
            _ => false,
        }
    }

    fn takes_query(&self, asked: &Asked<'_>, name: &str) -> bool {
        let parameters = asked.query.unwrap_or_default().split('&');
        let mut named =
            parameters.map(|p| p.split_once('=').unwrap_or((p, ""))).filter(|(n, _)| unescaped(n) == name);
        named.next().is_some_and(|(_, value)| self.takes(&unescaped(value)))
    }
}

/// A query's name or value as the form meant it. What is not UTF-8 becomes U+FFFD, and so equals nothing that a rule says.
fn unescaped(text: &str) -> String {
    let (mut bytes, mut rest) = (Vec::with_capacity(text.len()), text.as_bytes());
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        match byte {
            b'+' => bytes.push(b' '),
            b'%' => {
                let hex = after.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
                match hex.filter(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit())) {
                    Some(hex) => {
                        bytes.push(u8::from_str_radix(hex, 16).unwrap_or_default());
                        rest = &after[2..];
                    }
                    None => bytes.push(b'%'),
                }
            }
            byte => bytes.push(*byte),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// All matches of all rules of a route. What does not compile is left out, or taken as met, and its rule is marked broken.
pub(super) fn candidates(
    route: &Arc<Route>,
    patterns: &mut Patterns,
    before: &Patterns,
    problems: &mut Vec<Problem>,
) -> Vec<Arc<Candidate>> {
    let every = [Match::path(PathMatch::any())];
    let mut all = Vec::new();
    for (index, rule) in route.rules.iter().enumerate() {
        let matches = if rule.matches.is_empty() { &every[..] } else { &rule.matches[..] };
        let mut compiler = Compiler { patterns, before, why: None };
        let compiled: Vec<_> =
            matches.iter().map(|m| (compiler.place(&m.path), compiler.conditions(m))).collect();
        let why = compiler.why;
        let broken = why.is_some();
        for (place, conditions) in compiled {
            let Some(place) = place else { continue };
            all.push(Arc::new(Candidate {
                route: Arc::clone(route),
                rule: index,
                place,
                conditions,
                broken,
            }));
        }
        problems.extend(why.map(|why| Problem { route: Arc::clone(&route.name), rule: index, why }));
    }
    all
}

struct Compiler<'a> {
    patterns: &'a mut Patterns,
    before: &'a Patterns,
    why: Option<Arc<str>>,
}

impl Compiler<'_> {
    fn regex(&mut self, pattern: &crate::model::Pattern) -> Option<Arc<Regex>> {
        let compiled = self.patterns.compile(pattern, self.before);
        compiled.map_err(|why| self.why.get_or_insert(why).clone()).ok()
    }

    fn place(&mut self, path: &PathMatch) -> Option<Place> {
        // A Path has no spelling that `normal` refuses.
        let normal = |path: &str| Box::from(&*normal(path, EncodedSlash::Pass).unwrap_or(path.into()));
        match path {
            PathMatch::Exact(path) => Some(Place::Exact(normal(path.as_str()))),
            PathMatch::Prefix(path) => Some(Place::Prefix(match path.as_str().trim_end_matches('/') {
                "" => "/".into(),
                path => normal(path),
            })),
            PathMatch::Regex(pattern) => self.regex(pattern).map(Place::Regex),
        }
    }

    fn conditions(&mut self, m: &Match) -> Box<[Condition]> {
        let method = m.method.iter().map(|method| Condition::Method(method.clone())).collect::<Vec<_>>();
        let mut conditions = method;
        for header in &m.headers {
            let value = self.value(&header.value);
            conditions.push(value.map_or(Condition::Broken, |v| Condition::Header(header.name.clone(), v)));
        }
        for query in &m.query {
            let value = self.value(&query.value);
            conditions
                .push(value.map_or(Condition::Broken, |v| Condition::Query(Arc::clone(&query.name), v)));
        }
        conditions.into()
    }

    fn value(&mut self, value: &ValueMatch) -> Option<Value> {
        match value {
            ValueMatch::Exact(exact) => Some(Value::Exact(Arc::clone(exact))),
            ValueMatch::Regex(pattern) => self.regex(pattern).map(Value::Regex),
        }
    }
}

/// The rules of one host.
pub(super) struct Paths {
    label: Arc<str>,
    exact: HashMap<Box<str>, Vec<Arc<Candidate>>>,
    regex: Vec<Arc<Candidate>>,
    prefix: HashMap<Box<str>, Vec<Arc<Candidate>>>,
    /// The lengths of the prefixes, longest first.
    lengths: Vec<usize>,
}

/// A candidate that takes the request.
pub(super) struct Hit<'t> {
    pub(super) candidate: &'t Arc<Candidate>,
    pub(super) prefix: Option<usize>,
    pub(super) captures: Vec<Arc<str>>,
}

impl Paths {
    pub(super) fn new(host: &HostPattern) -> Self {
        Self {
            label: host.to_string().into(),
            exact: HashMap::new(),
            regex: Vec::new(),
            prefix: HashMap::new(),
            lengths: Vec::new(),
        }
    }

    pub(super) fn label(&self) -> &Arc<str> {
        &self.label
    }

    pub(super) fn add(&mut self, candidates: &[Arc<Candidate>]) {
        for candidate in candidates {
            let list = match &candidate.place {
                Place::Exact(path) => self.exact.entry(path.clone()).or_default(),
                Place::Prefix(path) => self.prefix.entry(path.clone()).or_default(),
                Place::Regex(_) => &mut self.regex,
            };
            list.push(Arc::clone(candidate));
        }
    }

    /// Once, after the last `add`.
    pub(super) fn sort(&mut self) {
        let lists = self.exact.values_mut().chain(self.prefix.values_mut()).chain([&mut self.regex]);
        lists.for_each(|list| list.sort_by(|a, b| a.precedence().cmp(&b.precedence())));
        self.lengths = self.prefix.keys().map(|path| path.len()).collect();
        self.lengths.sort_unstable_by_key(|length| Reverse(*length));
        self.lengths.dedup();
    }

    pub(super) fn find(&self, asked: &Asked<'_>) -> Option<Hit<'_>> {
        let path = asked.path;
        let first = |list: &'_ [Arc<Candidate>]| list.iter().position(|c| c.is_met(asked));
        if let Some(list) = self.exact.get(path)
            && let Some(at) = first(list)
        {
            return Some(Hit { candidate: &list[at], prefix: None, captures: Vec::new() });
        }
        for candidate in &self.regex {
            let Place::Regex(regex) = &candidate.place else { continue };
            if candidate.is_met(asked)
                && let Some(captures) = regex.captures(path)
            {
                let text = |group: Option<regex::Match<'_>>| group.map_or("", |m| m.as_str()).into();
                return Some(Hit { candidate, prefix: None, captures: captures.iter().map(text).collect() });
            }
        }
        for length in &self.lengths {
            let at_element =
                *length == 1 || path.len() == *length || path.as_bytes().get(*length) == Some(&b'/');
            let list = path.get(..*length).filter(|_| at_element).and_then(|prefix| self.prefix.get(prefix));
            if let Some(list) = list
                && let Some(at) = first(list)
            {
                return Some(Hit { candidate: &list[at], prefix: Some(*length), captures: Vec::new() });
            }
        }
        None
    }
}
