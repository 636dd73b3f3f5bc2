use serde_json::json;

use super::*;

const PEBBLE: &str = "https://pebble.example:14000/dir";

fn built_in() -> BuiltIn {
    BuiltIn::new(Some("ops@shop.example"), None, None, None, None).unwrap()
}

fn object(namespace: &str, name: &str, spec: Value) -> Value {
    json!({ "metadata": { "namespace": namespace, "name": name }, "spec": spec })
}

fn found(issuers: &Issuers, named: Named) -> Result<(String, String), String> {
    let found = issuers.find("shop", &named)?;
    Ok((found.entry.name.clone(), found.entry.issuer.clone()?.directory))
}

#[test]
fn without_an_address_or_a_directory_nobody_agreed_to_an_authoritys_terms() {
    let none = BuiltIn::new(None, None, None, None, None).unwrap();
    let why = found(&Issuers::new(&none, None), Named::Default).unwrap_err();
    assert!(why.contains("--acme-email"), "{why}");
    let pebble = BuiltIn::new(None, Some(PEBBLE), None, None, Some("PEM".into())).unwrap();
    let issuers = Issuers::new(&pebble, None);
    assert_eq!(found(&issuers, Named::Default).unwrap(), ("acme".into(), PEBBLE.into()));
    assert!(BuiltIn::new(None, Some("http://plain.example"), None, None, None).is_err());
    assert!(BuiltIn::new(None, Some(PEBBLE), Some("nowhere"), None, None).is_err());
}

#[test]
fn names_of_2019_without_objects_lead_to_the_built_in_authority_and_staging_to_its_staging() {
    let issuers = Issuers::new(&built_in(), None);
    for (named, want) in [
        (Named::Default, LETS_ENCRYPT),
        (Named::ClusterIssuer("letsencrypt-prod".into()), LETS_ENCRYPT),
        (Named::Issuer("le".into()), LETS_ENCRYPT),
        (Named::ClusterIssuer("letsencrypt-staging".into()), LETS_ENCRYPT_STAGING),
        (Named::Issuer("LE-Staging".into()), LETS_ENCRYPT_STAGING),
    ] {
        assert_eq!(found(&issuers, named.clone()).unwrap().1, want, "{named:?}");
        assert_eq!(issuers.find("shop", &named).unwrap().note, None);
    }
    let staging = issuers.find("shop", &Named::Issuer("staging".into())).unwrap().entry;
    assert!(staging.is_staging() && staging.issuer.as_ref().unwrap().twin.is_none());
    let alone = BuiltIn::new(None, Some(PEBBLE), None, None, None).unwrap();
    let why = found(&Issuers::new(&alone, None), Named::Issuer("staging".into())).unwrap_err();
    assert!(why.contains("--acme-staging"), "{why}");
}

#[test]
fn a_namespace_that_is_called_staging_makes_no_issuer_one() {
    let of = |server: &str| json!({ "acme": { "server": server, "email": "a@b.example" } });
    for (namespace, name, server, want) in [
        ("staging", "le", LETS_ENCRYPT, false),
        ("staging", "le", PEBBLE, false),
        ("shop", "my-staging", PEBBLE, true),
        ("shop", "my-staging", LETS_ENCRYPT, false), // browsers believe it, whatever it is called
        ("shop", "le", LETS_ENCRYPT_STAGING, true),
    ] {
        let issuers = Issuers::new(&built_in(), Some(&[object(namespace, name, of(server))]));
        let entry = issuers.find(namespace, &Named::Issuer(name.into())).unwrap().entry;
        assert_eq!(entry.is_staging(), want, "{namespace}/{name} of {server}");
    }
}

#[test]
fn objects_go_before_the_built_in_authority_and_one_that_is_missing_is_told() {
    let acme = json!({ "acme": { "server": PEBBLE, "email": "a@b.example", "profile": "shortlived",
        "caBundle": BASE64_STANDARD.encode("PEM"), "privateKeySecretRef": { "name": "key" } } });
    let objects = [
        object("", "le", acme.clone()),
        object("shop", "le", json!({ "ca": {} })),
        object("blog", "x", acme),
    ];
    let issuers = Issuers::new(&built_in(), Some(&objects));
    let entry = issuers.find("shop", &Named::ClusterIssuer("le".into())).unwrap().entry;
    let issuer = entry.issuer.clone().unwrap();
    assert_eq!((entry.name.as_str(), issuer.directory.as_str()), ("ClusterIssuer le", PEBBLE));
    assert_eq!(
        (issuer.email.as_deref(), issuer.profile.as_deref(), issuer.roots.as_deref()),
        (Some("a@b.example"), Some("shortlived"), Some("PEM"))
    );
    assert!(entry.asides[0].contains("privateKeySecretRef") && entry.notes.is_empty(), "{entry:?}");
    let why = found(&issuers, Named::Issuer("le".into())).unwrap_err();
    assert!(why.contains("Issuer shop/le has no acme block"), "{why}");
    let missing = issuers.find("shop", &Named::Issuer("x".into())).unwrap();
    assert_eq!(missing.entry.name, "letsencrypt", "another namespace's is not shop's");
    assert!(missing.note.unwrap().contains("there is no Issuer shop/x"));
    assert!(found(&issuers, Named::Foreign("OriginIssuer x".into())).is_err());
}

#[test]
fn an_issuer_that_cannot_be_asked_as_it_says_is_not_asked() {
    for (acme, says) in [
        (json!({}), "server"),
        (json!({ "server": "http://ca.example/dir" }), "https"),
        (json!({ "server": PEBBLE, "caBundle": "%%" }), "caBundle"),
        (json!({ "server": PEBBLE, "skipTLSVerify": true }), "caBundle"),
        (json!({ "server": PEBBLE, "externalAccountBinding": { "keyID": "x" } }), "externalAccountBinding"),
    ] {
        let issuers = Issuers::new(&built_in(), Some(&[object("", "x", json!({ "acme": acme.clone() }))]));
        let why = found(&issuers, Named::ClusterIssuer("x".into())).unwrap_err();
        assert!(why.contains(says), "{acme}: {why}");
    }
}

#[test]
fn solvers_are_chosen_by_name_then_by_the_longest_zone() {
    let solvers = json!([
        { "http01": { "ingress": { "class": "nginx" } } },
        { "dns01": { "rfc2136": {} }, "selector": { "dnsZones": ["example.com"] } },
        { "http01": {}, "selector": { "dnsZones": ["web.example.com"] } },
        { "dns01": { "cloudflare": {} }, "selector": { "dnsNames": ["a.web.example.com"] } },
        { "dns01": { "route53": {} }, "selector": { "matchLabels": { "a": "b" } } },
        {},
    ]);
    let object = object("", "le", json!({ "acme": { "server": PEBBLE, "solvers": solvers } }));
    let issuers = Issuers::new(&built_in(), Some(&[object]));
    let entry = issuers.find("shop", &Named::ClusterIssuer("le".into())).unwrap().entry;
    for (names, want) in [
        (&["other.org"][..], Some(Kind::Http01)),
        (&["x.example.com"], Some(Kind::Dns01)),
        (&["*.example.com", "example.com"], Some(Kind::Dns01)),
        (&["b.web.example.com"], Some(Kind::Http01)),
        (&["a.web.example.com"], Some(Kind::Dns01)),
        (&["other.org", "x.example.com"], Some(Kind::Dns01)),
        (&["*.web.example.com"], Some(Kind::Dns01)),
        (&["*.other.org"], None),
    ] {
        assert_eq!(entry.challenge(names), want, "{names:?}");
    }
    let notes = entry.notes.join("\n");
    for said in ["solvers[1].dns01", "dns01.cloudflare", "matchLabels", "solvers[5]"] {
        assert!(notes.contains(said), "{said}: {notes}");
    }
    assert_eq!(
        Issuers::new(&built_in(), None).find("x", &Named::Default).unwrap().entry.challenge(&["a.b"]),
        None
    );
}
