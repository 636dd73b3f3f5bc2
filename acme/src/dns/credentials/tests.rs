use super::*;

#[test]
fn the_longest_zone_that_holds_the_name_and_admits_the_namespace_is_chosen() {
    let registry = registry(&[
        ("edge/wide", "example.com example.net", "*"),
        ("edge/shop", "shop.example.com", "shop"),
        ("edge/also", "shop.example.com", "shop, web"),
        ("edge/closed", "internal.dev", "ops"),
    ]);
    let chosen = |namespace, name| registry.choose(namespace, name).map(|c| c.secret().to_owned());
    for (namespace, name, secret) in [
        ("blog", "example.com", "edge/wide"),
        ("blog", "*.example.com", "edge/wide"),
        ("blog", "A.Example.Net.", "edge/wide"),
        ("shop", "shop.example.com", "edge/also"), // of two equals the first by name
        ("shop", "*.a.shop.example.com", "edge/also"),
        ("web", "shop.example.com", "edge/also"),
        ("blog", "shop.example.com", "edge/wide"), // a longer zone takes nothing away
        ("ops", "a.internal.dev", "edge/closed"),
    ] {
        assert_eq!(chosen(namespace, name).as_deref(), Ok(secret), "{namespace} {name}");
    }
    for name in ["example.org", "notexample.com", "com", "xshop.example.org"] {
        assert!(matches!(chosen("shop", name), Err(Refusal::Zone { .. })), "{name}");
    }
    let refused = chosen("shop", "a.internal.dev").unwrap_err();
    assert_eq!(
        refused.to_string(),
        "namespace shop may not ask for a.internal.dev: signet.dev/zones of Secret edge/closed holds it as internal.dev, but signet.dev/namespaces there does not name shop"
    );
}

#[test]
fn a_refusal_names_the_secret_that_would_have_served_and_what_it_lacks() {
    let none = Registry::default().choose("a", "b.example.com").unwrap_err();
    assert!(matches!(none, Refusal::None { .. }), "{none}");
    let mut broken = raw("edge/broken", "example.com", "*");
    broken.data.remove("tsig-secret");
    let registry = Registry::new([raw("edge/other", "example.net", "*"), broken]);
    let refused = registry.choose("a", "b.example.com").unwrap_err().to_string();
    assert_eq!(
        refused,
        "the DNS credentials that would hold b.example.com cannot be used: Secret edge/broken: field tsig-secret is missing (docs/dns01.md lists what this provider needs)"
    );
    assert!(registry.choose("a", "b.example.net").is_ok());
    assert_eq!(registry.unusable().len(), 1);
}

#[test]
fn both_annotations_are_required_and_read_strictly() {
    for (zones, namespaces, wrong) in [
        (None, Some("*"), "signet.dev/zones is missing"),
        (Some("a.b"), None, "signet.dev/namespaces is missing"),
        (Some(" , "), Some("*"), "empty: these"),
        (Some("a.b"), Some(""), "empty: nobody"),
        (Some("*.a.b"), Some("*"), "with a *"),
        (Some("a..b"), Some("*"), "no list of domain names"),
        (Some("."), Some("*"), "no list of domain names"),
        (Some("a.b;c.d"), Some("*"), "no list of domain names"),
        (Some("a.b"), Some("*, shop"), "both * and names"),
        (Some("a.b"), Some("Shop"), "no list of namespaces"),
        (Some("a.b"), Some("shop/web"), "no list of namespaces"),
    ] {
        let raw = Raw { zones, namespaces, ..raw("edge/x", "", "") };
        let said = Credentials::parse(&raw).unwrap_err().to_string();
        assert!(said.contains(wrong), "{zones:?} {namespaces:?}: {said}");
    }
    let good = raw("edge/x", "B.example.com.,\n a.example.com b.example.com", "a,b");
    assert_eq!(Credentials::parse(&good).unwrap().zones(), ["a.example.com", "b.example.com"]);
}

#[test]
fn fields_are_required_known_and_well_formed_and_a_refusal_shows_no_value() {
    type Data = &'static [(&'static str, &'static str)];
    let cases: &[(&str, Data, &str)] = &[
        ("cloudflare", &[], "label signet.dev/dns-provider says \"cloudflare\""),
        (RFC2136, &[("nameserver", "")], "field nameserver is missing"),
        (RFC2136, &[("nameserver", "https://leak")], "field nameserver is not"),
        (RFC2136, &[("tsig-key-name", "leak leak")], "field tsig-key-name is not"),
        (RFC2136, &[("tsig-algorithm", "hmac-md5")], "field tsig-algorithm is not"),
        (RFC2136, &[("tsig-secret", "leak!")], "field tsig-secret is not base64"),
        (RFC2136, &[("tsig-secret", "\u{e9}leak")], "field tsig-secret is not printable"),
        (RFC2136, &[("zone", "leak..")], "field zone is not"),
        (RFC2136, &[("tsig-secert", "leak")], "field \"tsig-secert\" is unknown"),
        (RFC2136, &[("check-servers", "ns1.example.com")], "field check-servers is not"),
        (ROUTE53, &[("access-key-id", "")], "field access-key-id is missing"),
        (ROUTE53, &[("access-key-id", "leak leak")], "field access-key-id is not"),
        (ROUTE53, &[("secret-access-key", " ")], "field secret-access-key is missing"),
        (ROUTE53, &[("secret-access-key", "leak leak")], "field secret-access-key is not"),
        (ROUTE53, &[("session-token", "leak leak")], "field session-token is not"),
        (ROUTE53, &[("region", "leak/leak")], "field region is not"),
        (ROUTE53, &[("endpoint", "https://leak/path")], "field endpoint is not"),
        (ROUTE53, &[("hosted-zone-id", "leak?x")], "field hosted-zone-id is not"),
        (ROUTE53, &[("nameserver", "192.0.2.1")], "field \"nameserver\" is unknown"),
    ];
    for (provider, changed, wrong) in cases {
        let mut raw = Raw { provider, ..raw("edge/x", "a.b", "*") };
        if *provider == ROUTE53 {
            raw.data = route53();
        }
        raw.data.extend(changed.iter().map(|(field, value)| (*field, value.as_bytes())));
        let said = Credentials::parse(&raw).unwrap_err().to_string();
        assert!(said.contains(wrong) && !said.contains("leak"), "{changed:?}: {said}");
    }
}

#[test]
fn whom_to_ask_whether_a_value_is_there_is_the_zone_or_whoever_is_named() {
    let check = |text: &str| {
        let mut raw = raw("edge/x", "a.b", "*");
        raw.data.insert("check-servers", text.as_bytes());
        Credentials::parse(&raw).unwrap().check().clone()
    };
    let at = |texts: &[&str]| Check::At(texts.iter().map(|text| text.parse().unwrap()).collect());
    assert_eq!(check(""), Check::Zone);
    assert_eq!(check("none\n"), Check::Nobody);
    assert_eq!(
        check("192.0.2.1, [2001:db8::1]:5353 2001:db8::2"),
        at(&["192.0.2.1:53", "[2001:db8::1]:5353", "[2001:db8::2]:53"])
    );
}

#[test]
fn nothing_that_is_printed_has_a_secret() {
    let mut aws = Raw { provider: ROUTE53, ..raw("edge/aws", "a.b", "*") };
    aws.data = route53();
    aws.data.insert("session-token", b"TOKENTOKEN");
    let registry = Registry::new([raw("edge/tsig", "c.d", "*"), aws]);
    let debug = format!("{registry:?}");
    assert!(debug.contains("AKIDEXAMPLE") && debug.contains("acme-key"), "{debug}");
    let key: Vec<String> =
        BASE64_STANDARD.decode("c2VjcmV0c2VjcmV0").unwrap().iter().map(u8::to_string).collect();
    for secret in ["SECRETKEY", "TOKENTOKEN", "c2VjcmV0", "secretsecret", &key.join(", ")] {
        assert!(!debug.contains(secret), "{secret} in {debug}");
    }
}

fn registry(secrets: &[(&'static str, &'static str, &'static str)]) -> Registry {
    Registry::new(secrets.iter().map(|(secret, zones, namespaces)| raw(secret, zones, namespaces)))
}

fn raw<'a>(secret: &'a str, zones: &'a str, namespaces: &'a str) -> Raw<'a> {
    let data = [
        ("nameserver", &b"192.0.2.1"[..]),
        ("tsig-key-name", b"acme-key."),
        ("tsig-secret", b"c2VjcmV0c2VjcmV0\n"),
    ];
    Raw { secret, provider: RFC2136, zones: Some(zones), namespaces: Some(namespaces), data: data.into() }
}

fn route53() -> BTreeMap<&'static str, &'static [u8]> {
    [("access-key-id", &b"AKIDEXAMPLE"[..]), ("secret-access-key", b"SECRETKEY")].into()
}
