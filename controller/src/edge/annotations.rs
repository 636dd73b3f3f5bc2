//! An Ingress's annotations -> what we do otherwise because of them, and what we do not do. Pure.
//!
//! Three kinds: those of ingress-nginx that we honour, by its rules; those whose absence would open what they close, with which
//! the whole Ingress is refused; and all others, which are told to who wrote them. docs/ingress.md has the list and the reasons.

use std::{collections::BTreeMap, time::Duration};

use signet_core::{
    annotations::{Spot, misplaced},
    pod::{ACME_CHALLENGE, EDGE_ISSUER},
};
use signet_http::model::{Path, PathRewrite};

use super::{
    acme::annotation::Words,
    finding::{Finding, Word},
    issuer::EdgeIssuer,
};

/// What an Ingress asks for beside its rules.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Settings {
    /// `ssl-redirect: "false"`: plaintext is served although the host has a certificate.
    pub(crate) plaintext: bool,
    /// `force-ssl-redirect`: plaintext is sent to HTTPS although the host has none.
    pub(crate) force_https: bool,
    /// `None`: as the Service's port says.
    pub(crate) protocol: Option<AppProtocol>,
    /// Paths are regular expressions.
    pub(crate) regex: bool,
    /// `Err`: a target that we cannot write; nothing is forwarded then.
    pub(crate) rewrite: Option<Result<PathRewrite, String>>,
    /// Bytes; `None`: no limit.
    pub(crate) max_body: Option<u64>,
    pub(crate) connect: Option<Duration>,
    /// The longer one of reading and sending.
    pub(crate) idle: Option<Duration>,
    /// An annotation that asks for a certificate, "kubernetes.io/tls-acme".
    pub(crate) certificate: Option<String>,
    /// Of whom, and how.
    pub(crate) acme: Words,
    /// Who certifies its hosts; `None`: as the process was told.
    pub(crate) issuer: Option<EdgeIssuer>,
    /// Why all of it is refused.
    pub(crate) refused: Option<String>,
    pub(crate) findings: Vec<Finding>,
}

/// What the app speaks.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(crate) enum AppProtocol {
    Http1,
    /// h2c.
    Http2,
    /// The app's own TLS, and nobody's certificate is asked for: what ingress-nginx does.
    Https,
    Grpcs,
}

impl AppProtocol {
    /// What follows a backend's name.
    pub(crate) fn suffix(self) -> &'static str {
        match self {
            Self::Http1 => "",
            Self::Http2 => "+http2",
            Self::Https => "+https",
            Self::Grpcs => "+grpcs",
        }
    }
}

/// Of the annotations that [`crate::source::is_ingress_setting`] lets through.
pub(crate) fn settings(all: &BTreeMap<String, String>) -> Settings {
    let mut settings = Settings::default();
    let (mut unknown, mut closing) = (Vec::new(), Vec::new());
    for (key, value) in all {
        let value = value.trim();
        if let Some(word) = key.strip_prefix(NGINX) {
            if is_off(value) && !HONOURED.contains(&word) {
                continue; // it changes nothing there, either
            }
            match word {
                "ssl-redirect" => settings.plaintext = settings.flag(key, value) == Some(false),
                "force-ssl-redirect" => settings.force_https = settings.flag(key, value) == Some(true),
                "use-regex" => settings.regex |= settings.flag(key, value) == Some(true),
                "backend-protocol" => settings.protocol(value, &mut closing),
                "rewrite-target" => settings.rewrite(value),
                "proxy-body-size" => settings.max_body = settings.read(key, value, bytes).flatten(),
                "proxy-connect-timeout" => settings.connect = settings.read(key, value, seconds),
                "proxy-read-timeout" | "proxy-send-timeout" => {
                    let given = settings.read(key, value, seconds);
                    settings.idle = settings.idle.max(given);
                }
                word if is_closing(word) => closing.push(key.as_str()),
                _ => unknown.push(key.as_str()),
            }
        } else if key == EDGE_ISSUER {
            settings.issuer = settings.read(key, value, |text| match text {
                "local" => Ok(EdgeIssuer::Local),
                "none" => Ok(EdgeIssuer::None),
                _ => Err("is neither local nor none"),
            });
        } else if key == ACME_CHALLENGE {
            settings.authority(key, value);
        } else if key.starts_with("signet.dev/") {
            let why = misplaced(Spot::IngressAnnotation, key);
            settings.findings.extend(why.map(|why| Finding::new(Word::NotHonoured, why)));
        } else {
            if key.strip_prefix(CERT_MANAGER).is_some_and(|word| UNHONOURED.contains(&word)) {
                unknown.push(key.as_str());
            }
            if CERTIFICATE.contains(&key.as_str()) && !is_off(value) {
                settings.certificate = settings.certificate.or(Some(key.clone()));
            }
            settings.authority(key, value);
        }
    }
    if !closing.is_empty() {
        settings.refused = Some(format!(
            "{} would restrict or change who is served what, and is not honoured here: served without it, this Ingress would be open. \
             Nothing of it is served; take the annotation away, or keep this Ingress with the controller that honours it",
            list(&closing)
        ));
    }
    if !unknown.is_empty() {
        let message = format!(
            "{} means nothing here; what is served, and what takes its place: docs/ingress.md",
            list(&unknown)
        );
        settings.findings.push(Finding::new(Word::NotHonoured, message));
    }
    settings
}

impl Settings {
    fn bad(&mut self, key: &str, value: &str, expected: &str) {
        let shown: String = value.chars().take(SHOWN).collect();
        let message = format!("{key}: {shown:?} {expected}; it counts as not written");
        self.findings.push(Finding::new(Word::BadValue, message));
    }

    fn authority(&mut self, key: &str, value: &str) {
        if let Err(expected) = self.acme.take(key, value) {
            self.bad(key, value, expected);
        }
    }

    fn flag(&mut self, key: &str, value: &str) -> Option<bool> {
        self.read(key, value, |text| match text {
            "true" => Ok(true),
            "false" => Ok(false),
            _ => Err("is neither true nor false"),
        })
    }

    fn read<T>(
        &mut self,
        key: &str,
        value: &str,
        parse: impl Fn(&str) -> Result<T, &'static str>,
    ) -> Option<T> {
        parse(value).map_err(|expected| self.bad(key, value, expected)).ok()
    }

    fn protocol(&mut self, value: &str, closing: &mut Vec<&str>) {
        self.protocol = match value.to_ascii_uppercase().as_str() {
            "HTTP" | "AUTO_HTTP" => Some(AppProtocol::Http1),
            "GRPC" => Some(AppProtocol::Http2),
            "HTTPS" => Some(AppProtocol::Https),
            "GRPCS" => Some(AppProtocol::Grpcs),
            // In HTTP the app would be asked what it does not understand.
            _ => {
                closing.push("nginx.ingress.kubernetes.io/backend-protocol with another value than HTTP, HTTPS, GRPC and GRPCS");
                None
            }
        };
    }

    /// As in ingress-nginx a target makes regular expressions of the paths, because it may name their groups.
    fn rewrite(&mut self, value: &str) {
        self.regex = true;
        let whole = value.parse::<Path>().ok().filter(|_| !value.contains('$')).map(PathRewrite::Whole);
        let rewrite = match whole {
            Some(whole) => Ok(whole),
            None => value.parse().map(PathRewrite::Captures).map_err(|e| e.to_string()),
        };
        if let Err(why) = &rewrite {
            let message = format!("{NGINX}rewrite-target: {why}; its paths answer 500");
            self.findings.push(Finding::new(Word::BadValue, message));
        }
        self.rewrite = Some(rewrite);
    }
}

/// ingress-nginx writes each of these into a restriction, or into its configuration as it is. Left out, what they close is open, what
/// they take apart is one.
fn is_closing(word: &str) -> bool {
    word.ends_with("-snippet")
        || word.starts_with("auth-")
        || [
            "allowlist-source-range",
            "whitelist-source-range",
            "denylist-source-range",
            "satisfy",
            "enable-modsecurity",
            "modsecurity-transaction-id",
            // Another Ingress's rules, for some of its requests: it is none of its own.
            "canary",
            // Its app speaks TLS to the client itself.
            "ssl-passthrough",
        ]
        .contains(&word)
}

fn is_off(value: &str) -> bool {
    value.is_empty() || value == "false"
}

/// "8m": bytes by nginx's rules; "0" is no limit.
fn bytes(text: &str) -> Result<Option<u64>, &'static str> {
    const EXPECTED: &str = "is no size such as 512k, 8m or 1g";
    let (digits, unit) = match text.as_bytes().last() {
        Some(b'k' | b'K') => (&text[..text.len() - 1], 1 << 10),
        Some(b'm' | b'M') => (&text[..text.len() - 1], 1 << 20),
        Some(b'g' | b'G') => (&text[..text.len() - 1], 1 << 30),
        _ => (text, 1),
    };
    let number = digits.parse::<u64>().ok().filter(|_| digits.bytes().all(|b| b.is_ascii_digit()));
    match number.and_then(|number| number.checked_mul(unit)) {
        Some(0) => Ok(None),
        Some(bytes) => Ok(Some(bytes)),
        None => Err(EXPECTED),
    }
}

/// "60" or "60s".
fn seconds(text: &str) -> Result<Duration, &'static str> {
    let digits = text.strip_suffix('s').unwrap_or(text);
    let number = digits.parse::<u64>().ok().filter(|_| digits.bytes().all(|b| b.is_ascii_digit()));
    match number {
        Some(seconds @ 1..=LONGEST) => Ok(Duration::from_secs(seconds)),
        _ => Err("is no number of seconds from 1 to 604800"),
    }
}

fn list(keys: &[&str]) -> String {
    let shown: Vec<&str> = keys.iter().take(LISTED).copied().collect();
    let more = keys.len() - shown.len();
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("{}{more}", shown.join(", "))
}

const NGINX: &str = "nginx.ingress.kubernetes.io/";
/// Also where they say "false".
const HONOURED: [&str; 3] = ["ssl-redirect", "force-ssl-redirect", "use-regex"];
/// Annotations that ask for a certificate, today's and those of 2018.
const CERTIFICATE: [&str; 5] = [
    "kubernetes.io/tls-acme",
    "cert-manager.io/cluster-issuer",
    "cert-manager.io/issuer",
    "certmanager.k8s.io/cluster-issuer",
    "certmanager.k8s.io/issuer",
];
const CERT_MANAGER: &str = "cert-manager.io/";
/// Of cert-manager's, those that would make another certificate of it. The rest of them say how it works, and here it does not.
const UNHONOURED: [&str; 9] = [
    "alt-names",
    "common-name",
    "duration",
    "ip-sans",
    "private-key-algorithm",
    "private-key-size",
    "renew-before",
    "uri-sans",
    "usages",
];
/// Seconds: a week.
const LONGEST: u64 = 604_800;
/// Characters of a value, and names of annotations, that a finding repeats: an Event holds 1 000.
const SHOWN: usize = 60;
const LISTED: usize = 8;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(all: &[(&str, &str)]) -> Settings {
        let full = |key: &str| if key.contains('/') { key.to_owned() } else { format!("{NGINX}{key}") };
        settings(&all.iter().map(|(key, value)| (full(key), (*value).to_owned())).collect())
    }

    fn words(settings: &Settings) -> Vec<Word> {
        settings.findings.iter().map(|finding| finding.word).collect()
    }

    #[test]
    fn what_is_honoured_is_read_by_nginx_rules() {
        let seconds = |n| Some(Duration::from_secs(n));
        let default = Settings::default;
        for (all, want) in [
            (&[("ssl-redirect", "false")][..], Settings { plaintext: true, ..default() }),
            (&[("ssl-redirect", "true")], default()),
            (&[("force-ssl-redirect", "true")], Settings { force_https: true, ..default() }),
            (&[("backend-protocol", "grpc")], Settings { protocol: Some(AppProtocol::Http2), ..default() }),
            (&[("backend-protocol", "HTTPS")], Settings { protocol: Some(AppProtocol::Https), ..default() }),
            (&[("use-regex", "true")], Settings { regex: true, ..default() }),
            (&[("proxy-body-size", "8m")], Settings { max_body: Some(8 << 20), ..default() }),
            (&[("proxy-body-size", "0")], default()),
            (&[("proxy-connect-timeout", "5")], Settings { connect: seconds(5), ..default() }),
            (
                &[("proxy-read-timeout", "3600s"), ("proxy-send-timeout", "60")],
                Settings { idle: seconds(3600), ..default() },
            ),
            (
                &[("kubernetes.io/tls-acme", "true")],
                Settings {
                    certificate: Some("kubernetes.io/tls-acme".into()),
                    acme: {
                        let mut words = Words::default();
                        words.take("kubernetes.io/tls-acme", "true").unwrap();
                        words
                    },
                    ..default()
                },
            ),
            (&[("kubernetes.io/tls-acme", "false")], default()),
            (&[(EDGE_ISSUER, "local")], Settings { issuer: Some(EdgeIssuer::Local), ..default() }),
            (&[(EDGE_ISSUER, "none")], Settings { issuer: Some(EdgeIssuer::None), ..default() }),
            (&[("enable-cors", "false"), ("auth-url", "")], default()),
        ] {
            assert_eq!(of(all), want, "{all:?}");
        }
        let rewrite = of(&[("rewrite-target", "/$2")]);
        assert!(rewrite.regex && matches!(rewrite.rewrite, Some(Ok(PathRewrite::Captures(_)))));
        assert!(matches!(of(&[("rewrite-target", "/")]).rewrite, Some(Ok(PathRewrite::Whole(_)))));
    }

    #[test]
    fn an_annotation_whose_absence_would_open_something_refuses_the_whole_ingress() {
        for key in [
            "configuration-snippet",
            "server-snippet",
            "auth-snippet",
            "modsecurity-snippet",
            "auth-url",
            "auth-type",
            "auth-tls-secret",
            "whitelist-source-range",
            "denylist-source-range",
            "canary",
            "ssl-passthrough",
        ] {
            let refused = of(&[(key, "something")]).refused.unwrap();
            assert!(refused.contains(key) && refused.contains("Nothing of it is served"), "{refused}");
        }
        assert!(of(&[("backend-protocol", "FCGI")]).refused.is_some());
        assert_eq!(of(&[("enable-cors", "true"), ("proxy-buffering", "off")]).refused, None);
    }

    #[test]
    fn what_means_nothing_is_named_once_for_all() {
        let settings = of(&[("enable-cors", "true"), ("limit-rps", "5"), ("signet.dev/host", "a.example")]);
        assert_eq!(words(&settings), [Word::NotHonoured, Word::NotHonoured]);
        let all: Vec<&str> = settings.findings.iter().map(|finding| finding.message.as_str()).collect();
        let all = all.join(" ");
        assert!(all.contains("enable-cors") && all.contains("limit-rps") && all.contains("signet.dev/host"));
        let settings = of(&[("cert-manager.io/duration", "24h"), ("cert-manager.io/secret-template", "{}")]);
        assert_eq!(words(&settings), [Word::NotHonoured]);
        assert!(settings.findings[0].message.contains("cert-manager.io/duration means nothing here"));
    }

    #[test]
    fn a_value_that_means_nothing_is_told_and_counts_as_not_written() {
        for (key, value) in [
            ("ssl-redirect", "no"),
            ("proxy-body-size", "8 MB"),
            ("proxy-body-size", "-1"),
            ("proxy-body-size", "99999999999999999999g"),
            ("proxy-read-timeout", "1h"),
            ("proxy-read-timeout", "0"),
            ("proxy-connect-timeout", "+5"),
            (EDGE_ISSUER, "letsencrypt"),
        ] {
            let settings = of(&[(key, value)]);
            assert_eq!(words(&settings), [Word::BadValue], "{key}: {value}");
            assert_eq!(Settings { findings: Vec::new(), ..settings }, Settings::default(), "{key}: {value}");
        }
        let settings = of(&[("rewrite-target", "https://other.example/$1")]);
        assert!(matches!(settings.rewrite, Some(Err(_))), "nothing is forwarded to a path that nobody meant");
    }

    proptest! {
        /// IngressNightmare: no text in an annotation may do anything but set its own field.
        #[test]
        fn no_value_breaks_out_of_its_own_setting(key in "[a-z-]{1,20}", value in "\\PC{0,200}") {
            let settings = of(&[(&key, &value)]);
            for finding in &settings.findings {
                prop_assert!(finding.message.chars().count() < 1000 && !finding.message.contains('\n'));
            }
        }
    }
}
