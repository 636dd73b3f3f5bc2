//! CAA (RFC 8659, 8657): whether a set of records lets our CA certify a name, by our method, for our account. Pure.

use std::collections::BTreeSet;

use super::{Method, Wanted};

/// One record; `tag` in lower case.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Caa {
    /// Who does not know the tag must not issue.
    pub critical: bool,
    pub tag: String,
    pub value: String,
}

/// The relevant set of a name, and whose it is; empty where no name above it has any: then every CA may.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct CaaSet {
    pub at: String,
    pub records: Vec<Caa>,
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Answer {
    Allowed,
    Forbidden(Forbidden),
    Unsure(Unsure),
}

/// The set says no; with the record to add.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Forbidden {
    #[error("CAA of {at} lets only {} certify {name}; add: {at}. CAA 0 {tag} \"{ours}\"", who(.allowed))]
    OtherCa { name: String, at: String, tag: &'static str, allowed: BTreeSet<String>, ours: String },
    #[error("CAA of {at} lets nobody certify {name} ({tag} \";\"); {}", instead(.at, .tag, .ours))]
    Nobody { name: String, at: String, tag: &'static str, ours: Option<String> },
    #[error("CAA of {at} lets {ours} certify {name} by {} only, not by {method} (validationmethods); add {method} there, or ask for another challenge", join(.methods))]
    Method { name: String, at: String, ours: String, method: Method, methods: BTreeSet<String> },
    #[error("CAA of {at} lets {ours} certify {name} for account {} only, and ours is {account} (accounturi)", join(.accounts))]
    Account { name: String, at: String, ours: String, account: String, accounts: BTreeSet<String> },
    #[error(
        "CAA of {at} has the critical property {tag:?}, which CAs do not know and must not pass over; remove it, or its flag 128"
    )]
    Critical { at: String, tag: String },
}

/// Only the CA can tell.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Unsure {
    #[error("CAA of {at} lets only {} certify {name}, and the CA's directory does not say which name it has there (caaIdentities)", who(.allowed))]
    Identity { name: String, at: String, allowed: BTreeSet<String> },
    #[error("CAA of {at} lets {ours} certify {name} for account {} only; whether that is ours is known once we have one (accounturi)", join(.accounts))]
    Account { name: String, at: String, ours: String, accounts: BTreeSet<String> },
}

/// Whether `set` lets the CA of `wanted` certify its name.
pub(crate) fn judge(wanted: &Wanted<'_>, set: &CaaSet) -> Answer {
    let (name, at) = (wanted.name.to_owned(), set.at.clone());
    if let Some(unknown) = set.records.iter().find(|caa| caa.critical && !KNOWN.contains(&caa.tag.as_str())) {
        return Answer::Forbidden(Forbidden::Critical { at, tag: unknown.tag.chars().take(SHOWN).collect() });
    }
    let tagged =
        |tag: &str| set.records.iter().filter(|caa| caa.tag == tag).map(Issue::parse).collect::<Vec<_>>();
    // RFC 8659 4.3: where there is any issuewild, it alone counts for wildcards, and never for anything else.
    let (tag, issues) = match tagged("issuewild") {
        wild if wanted.name.starts_with("*.") && !wild.is_empty() => ("issuewild", wild),
        _ => ("issue", tagged("issue")),
    };
    if issues.is_empty() {
        return Answer::Allowed;
    }
    let allowed: BTreeSet<String> = issues.iter().filter_map(|issue| issue.ca.clone()).collect();
    let is_ours = |issue: &&Issue| {
        issue
            .ca
            .as_ref()
            .is_some_and(|ca| wanted.ca.identities.iter().any(|ours| ours.eq_ignore_ascii_case(ca)))
    };
    let ours: Vec<&Issue> = issues.iter().filter(is_ours).collect();
    if ours.is_empty() {
        let first = wanted.ca.identities.first().cloned();
        return match first {
            _ if allowed.is_empty() => Answer::Forbidden(Forbidden::Nobody { name, at, tag, ours: first }),
            Some(ours) => Answer::Forbidden(Forbidden::OtherCa { name, at, tag, allowed, ours }),
            None => Answer::Unsure(Unsure::Identity { name, at, allowed }),
        };
    }
    let ca = ours.iter().filter_map(|issue| issue.ca.clone()).next().unwrap_or_default();
    let by_method: Vec<&&Issue> = ours.iter().filter(|issue| issue.takes_method(wanted.method)).collect();
    if by_method.is_empty() {
        let methods = ours.iter().flat_map(|issue| issue.methods.iter().flatten().cloned()).collect();
        return Answer::Forbidden(Forbidden::Method { name, at, ours: ca, method: wanted.method, methods });
    }
    if by_method.iter().any(|issue| issue.takes_account(wanted.ca.account)) {
        return Answer::Allowed;
    }
    let accounts = by_method.iter().flat_map(|issue| issue.account.iter().flatten().cloned()).collect();
    match wanted.ca.account {
        Some(account) => {
            let account = account.to_owned();
            Answer::Forbidden(Forbidden::Account { name, at, ours: ca, account, accounts })
        }
        None => Answer::Unsure(Unsure::Account { name, at, ours: ca, accounts }),
    }
}

/// The value of `issue` or `issuewild` (RFC 8659 4.2). What does not parse allows nobody.
#[derive(Debug, Default, Eq, PartialEq)]
struct Issue {
    ca: Option<String>,
    /// RFC 8657 4: `None` is any.
    methods: Option<BTreeSet<String>>,
    /// RFC 8657 3: `None` is any; said twice it can hold for nobody.
    account: Option<Vec<String>>,
}

impl Issue {
    fn parse(caa: &Caa) -> Self {
        Self::parse_value(&caa.value).unwrap_or_default()
    }

    fn parse_value(value: &str) -> Option<Self> {
        if value.len() > VALUE {
            return None;
        }
        let mut parts = value.split(';').map(|part| part.trim_matches([' ', '\t']));
        let ca = parts.next().unwrap_or_default();
        let mut issue = Self::default();
        if !ca.is_empty() {
            issue.ca = Some(is_domain(ca).then(|| ca.to_ascii_lowercase())?);
        }
        for part in parts.filter(|part| !part.is_empty()) {
            let (tag, value) = part.split_once('=')?;
            let (tag, value) = (tag.trim_end_matches([' ', '\t']), value.trim_start_matches([' ', '\t']));
            if !is_label(tag) || !value.bytes().all(|b| b.is_ascii_graphic()) {
                return None;
            }
            match tag.to_ascii_lowercase().as_str() {
                "validationmethods" if issue.methods.is_some() => return None,
                "validationmethods" => {
                    issue.methods = Some(value.split(',').map(str::to_ascii_lowercase).collect())
                }
                "accounturi" => issue.account.get_or_insert_default().push(value.to_owned()),
                _ => {} // of the CA's own, which decides by it
            }
        }
        Some(issue)
    }

    fn takes_method(&self, method: Method) -> bool {
        self.methods.as_ref().is_none_or(|methods| methods.contains(method.word()))
    }

    fn takes_account(&self, account: Option<&str>) -> bool {
        match self.account.as_deref() {
            None => true,
            Some([only]) => account == Some(only.as_str()),
            Some(_) => false,
        }
    }
}

fn is_domain(text: &str) -> bool {
    text.split('.').all(is_label)
}

fn is_label(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
    !text.is_empty() && text.bytes().all(inner) && !text.starts_with('-') && !text.ends_with('-')
}

/// Of a stranger's zone: few and short.
fn join(words: &BTreeSet<String>) -> String {
    let short = |word: &String| word.chars().take(SHOWN).collect::<String>();
    words.iter().take(WORDS).map(short).collect::<Vec<_>>().join(", ")
}

fn who(allowed: &BTreeSet<String>) -> String {
    if allowed.is_empty() { "nobody".into() } else { join(allowed) }
}

fn instead(at: &str, tag: &str, ours: &Option<String>) -> String {
    match ours {
        Some(ours) => format!("put in its place: {at}. CAA 0 {tag} \"{ours}\""),
        None => "remove it, or name the CA there".into(),
    }
}

/// What the CAs that we meet know (Boulder's list): RFC 8659 and 9495.
const KNOWN: &[&str] = &["issue", "issuewild", "iodef", "issuemail"];
const VALUE: usize = 1024; // bytes; honest ones have less than 200
const SHOWN: usize = 100; // characters of a word
const WORDS: usize = 10; // of a list

#[cfg(test)]
mod tests {
    use super::*;
    use crate::preflight::{Ca, Published};

    #[test]
    fn a_set_allows_and_forbids_as_the_rfcs_say() {
        let cases: &[(&str, &[&str], Method, &str)] = &[
            ("a.b", &[], Method::Http01, "allowed"),
            ("a.b", &["iodef mailto:x@y", "issuemail ;"], Method::Http01, "allowed"),
            ("a.b", &["issue letsencrypt.org"], Method::Http01, "allowed"),
            ("a.b", &["issue  LetsEncrypt.ORG  "], Method::Http01, "allowed"),
            ("a.b", &["issue digicert.com", "issue letsencrypt.org"], Method::Http01, "allowed"),
            ("a.b", &["issue letsencrypt.org;foo=bar"], Method::Http01, "allowed"),
            ("a.b", &["issue digicert.com"], Method::Http01, "other"),
            ("a.b", &["issue ;"], Method::Http01, "nobody"),
            ("a.b", &["issue "], Method::Http01, "nobody"),
            ("a.b", &["issue %%%%%"], Method::Http01, "nobody"),
            ("a.b", &["issue letsencrypt.org; foo"], Method::Http01, "nobody"),
            ("a.b", &["issue letsencrypt.org; foo=\u{e9}"], Method::Http01, "nobody"),
            ("a.b", &["issuewild digicert.com"], Method::Http01, "allowed"),
            ("*.a.b", &["issuewild digicert.com", "issue letsencrypt.org"], Method::Dns01, "other"),
            ("*.a.b", &["issuewild letsencrypt.org", "issue ;"], Method::Dns01, "allowed"),
            ("*.a.b", &["issue letsencrypt.org"], Method::Dns01, "allowed"),
            ("*.a.b", &["issue ;"], Method::Dns01, "nobody"),
            ("a.b", &["!tbs x", "issue letsencrypt.org"], Method::Http01, "critical"),
            ("a.b", &["tbs x", "issue letsencrypt.org"], Method::Http01, "allowed"),
            ("a.b", &["!issue letsencrypt.org"], Method::Http01, "allowed"),
            ("a.b", &["issue letsencrypt.org; validationmethods=dns-01"], Method::Http01, "method"),
            ("a.b", &["issue letsencrypt.org; validationmethods=dns-01"], Method::Dns01, "allowed"),
            ("a.b", &["issue letsencrypt.org; validationmethods=dns-01,http-01"], Method::Http01, "allowed"),
            (
                "a.b",
                &["issue letsencrypt.org; validationmethods=dns-01; validationmethods=http-01"],
                Method::Http01,
                "nobody",
            ),
            ("a.b", &["issue letsencrypt.org; accounturi=https://ca/acct/1"], Method::Http01, "allowed"),
            ("a.b", &["issue letsencrypt.org; accounturi=https://ca/acct/2"], Method::Http01, "account"),
            (
                "a.b",
                &["issue letsencrypt.org; accounturi=https://ca/acct/1; accounturi=https://ca/acct/1"],
                Method::Http01,
                "account",
            ),
            (
                "a.b",
                &[
                    "issue letsencrypt.org; accounturi=https://ca/acct/2",
                    "issue letsencrypt.org; validationmethods=http-01",
                ],
                Method::Http01,
                "allowed",
            ),
        ];
        for (name, records, method, expected) in cases {
            let identities = ["letsencrypt.org".to_owned()];
            let answer = ask(name, records, *method, &identities, Some("https://ca/acct/1"));
            assert_eq!(word(&answer), *expected, "{name} {records:?} by {method}: {answer:?}");
        }
    }

    #[test]
    fn what_only_the_ca_can_tell_holds_nothing_back() {
        let identities = ["letsencrypt.org".to_owned()];
        let account = ask(
            "a.b",
            &["issue letsencrypt.org; accounturi=https://ca/1"],
            Method::Http01,
            &identities,
            None,
        );
        assert!(matches!(account, Answer::Unsure(Unsure::Account { .. })), "{account:?}");
        let nameless = ask("a.b", &["issue digicert.com"], Method::Http01, &[], None);
        assert!(matches!(nameless, Answer::Unsure(Unsure::Identity { .. })), "{nameless:?}");
        assert_eq!(word(&ask("a.b", &["issue ;"], Method::Http01, &[], None)), "nobody");
    }

    #[test]
    fn a_refusal_says_what_to_write() {
        let identities = ["letsencrypt.org".to_owned()];
        let Answer::Forbidden(other) =
            ask("www.a.b", &["issue digicert.com"], Method::Http01, &identities, None)
        else {
            panic!("allowed")
        };
        assert_eq!(
            other.to_string(),
            "CAA of a.b lets only digicert.com certify www.a.b; add: a.b. CAA 0 issue \"letsencrypt.org\""
        );
    }

    fn ask(
        name: &str,
        records: &[&str],
        method: Method,
        identities: &[String],
        account: Option<&str>,
    ) -> Answer {
        let record = |text: &&str| {
            let (tag, value) = text.split_once(' ').unwrap();
            let (critical, tag) = (tag.starts_with('!'), tag.trim_start_matches('!'));
            Caa { critical, tag: tag.into(), value: value.into() }
        };
        let set = CaaSet { at: "a.b".into(), records: records.iter().map(record).collect() };
        let published = Published::default();
        let wanted =
            Wanted { name, method, ca: Ca { public: true, identities, account }, published: &published };
        judge(&wanted, &set)
    }

    fn word(answer: &Answer) -> &'static str {
        match answer {
            Answer::Allowed => "allowed",
            Answer::Unsure(_) => "unsure",
            Answer::Forbidden(Forbidden::OtherCa { .. }) => "other",
            Answer::Forbidden(Forbidden::Nobody { .. }) => "nobody",
            Answer::Forbidden(Forbidden::Method { .. }) => "method",
            Answer::Forbidden(Forbidden::Account { .. }) => "account",
            Answer::Forbidden(Forbidden::Critical { .. }) => "critical",
        }
    }
}
