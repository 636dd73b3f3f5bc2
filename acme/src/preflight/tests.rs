use super::*;

#[test]
fn four_kinds_of_answers_hold_an_order_back_and_the_rest_warns() {
    use Found::{Failed, NoName, Nothing, Some as Is};
    use Method::{Dns01, Http01, TlsAlpn01};
    let failed = || Failed("SERVFAIL".into());
    let cases: Vec<(&str, Method, Found<IpAddr>, &[&str])> = vec![
        ("app.shop.com", Http01, Is(ips(&["192.0.2.1"])), &[]),
        ("app.shop.com", Http01, Is(ips(&["192.0.2.1", "2001:db8::1"])), &[]),
        ("app.shop.com", Http01, NoName, &["hold no_such_name"]),
        ("app.shop.com", TlsAlpn01, NoName, &["hold no_such_name"]),
        ("app.shop.com", Dns01, NoName, &[]),
        ("*.shop.com", Dns01, NoName, &[]),
        ("app.shop.com", Http01, Nothing, &["no address"]),
        ("app.shop.com", Dns01, Nothing, &[]),
        ("app.shop.com", Http01, failed(), &["unknown"]),
        ("app.shop.com", Http01, Is(ips(&["198.51.100.9"])), &["elsewhere"]),
        ("app.shop.com", Dns01, Is(ips(&["198.51.100.9"])), &[]),
        ("app.shop.com", Http01, Is(ips(&["192.0.2.1", "198.51.100.9"])), &["partly"]),
        ("app.shop.com", Http01, Is(ips(&["192.0.2.1", "2001:db8::bad"])), &["aaaa"]),
        ("app.shop.com", Http01, Is(ips(&["192.0.2.1", "2001:db8::1", "2001:db8::bad"])), &["partly"]),
        ("app.shop.com", Http01, Is(ips(&["10.1.2.3"])), &["private", "elsewhere"]),
        (
            "app.shop.com",
            Http01,
            Is(ips(&["100.64.1.1", "fd00::1", "::ffff:127.0.0.1"])),
            &["private", "elsewhere"],
        ),
    ];
    for (name, method, addresses, expected) in cases {
        let answers = Answers { addresses, ..clean() };
        assert_eq!(words(&judged(name, method, &answers, true)), expected, "{name} by {method}: {answers:?}");
    }
}

#[test]
fn caa_that_cannot_be_read_is_a_warning_and_one_that_forbids_is_not() {
    let unknown = Err(CaaUnknown { at: "shop.com".into(), why: "no answer in 20 s".into() });
    assert_eq!(
        words(&judged("a.shop.com", Method::Http01, &Answers { caa: unknown, ..clean() }, true)),
        ["caa?"]
    );
    let issue = |value: &str| {
        let records = vec![Caa { critical: false, tag: "issue".into(), value: value.into() }];
        Answers { caa: Ok(CaaSet { at: "shop.com".into(), records }), ..clean() }
    };
    assert_eq!(
        words(&judged("a.shop.com", Method::Dns01, &issue("digicert.com"), true)),
        ["hold caa_forbids"]
    );
    assert!(words(&judged("a.shop.com", Method::Dns01, &issue("ca.example"), true)).is_empty());
}

#[test]
fn reserved_suffixes_are_no_public_cas_and_any_private_ones() {
    for name in [
        "blog.example.com",
        "example.org",
        "a.example",
        "app.test",
        "a.b.localhost",
        "x.invalid",
        "nas.local",
        "db.internal",
        "x.onion",
        "router.home.arpa",
        "y.alt",
        "*.app.test",
    ] {
        let answers = Answers { addresses: Found::NoName, ..clean() };
        assert_eq!(words(&judged(name, Method::Http01, &answers, true)), ["hold reserved_suffix"], "{name}");
        assert!(words(&judged(name, Method::Dns01, &answers, false)).is_empty(), "{name}");
    }
    for name in ["myexample.com", "test.com", "internal.dev", "localhost.dev", "notlocal"] {
        assert!(words(&judged(name, Method::Http01, &clean(), true)).is_empty(), "{name}");
    }
}

#[test]
fn words_say_what_to_do() {
    let answers = Answers { addresses: Found::NoName, ..clean() };
    let verdict = judged("app.shop.com", Method::Http01, &answers, true);
    assert_eq!(
        verdict.holds[0].to_string(),
        "app.shop.com does not exist in DNS (NXDOMAIN): the CA would not find it either; make an A or AAAA record for 192.0.2.1, 2001:db8::1"
    );
    let answers = Answers { addresses: Found::Some(ips(&["192.0.2.1", "2001:db8::bad"])), ..clean() };
    let verdict = judged("app.shop.com", Method::Http01, &answers, true);
    assert_eq!(
        verdict.warnings[0].to_string(),
        "the AAAA record of app.shop.com is 2001:db8::bad, which is not this edge, and CAs try IPv6 first: remove it, or point it here"
    );
    let answers = Answers { published: Vec::new(), ..clean() };
    assert_eq!(words(&judged("app.shop.com", Method::Http01, &answers, true)), ["nothing published"]);
}

fn judged(name: &str, method: Method, answers: &Answers, public: bool) -> Verdict {
    let (identities, published) = (["ca.example".to_owned()], Published::default());
    let ca = Ca { public, identities: &identities, account: None };
    judge(&Wanted { name, method, ca, published: &published }, answers)
}

fn clean() -> Answers {
    let ours = ips(&["192.0.2.1", "2001:db8::1"]);
    Answers { addresses: Found::Some(ours.clone()), caa: Ok(CaaSet::default()), published: ours }
}

fn ips(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn words(verdict: &Verdict) -> Vec<String> {
    let holds = verdict.holds.iter().map(|hold| format!("hold {}", hold.reason()));
    let warnings = verdict.warnings.iter().map(|warning| {
        let word = match warning {
            Warning::Unknown { .. } => "unknown",
            Warning::NoAddress { .. } => "no address",
            Warning::Elsewhere { .. } => "elsewhere",
            Warning::PartlyElsewhere { .. } => "partly",
            Warning::ForeignAaaa { .. } => "aaaa",
            Warning::Private { .. } => "private",
            Warning::NothingPublished { .. } => "nothing published",
            Warning::CaaUnknown { .. } => "caa?",
            Warning::CaaUnsure(_) => "caa unsure",
        };
        word.to_owned()
    });
    holds.chain(warnings).collect()
}
