use signet_acme::challenge::AlpnCertificate;
use signet_lease::double::{Double, Fault};

use super::*;

const PATH: &str = "/api/v1/namespaces/signet-edge/secrets/signet-edge-challenges";

fn token(host: &str, token: &str) -> challenge::Challenge {
    let answer = Answer::Http01 { token: token.into(), key_authorization: format!("{token}.thumb") };
    challenge::Challenge { host: host.into(), namespace: "shop".into(), answer }
}

fn alpn(host: &str, digest: u8) -> challenge::Challenge {
    let answer = Answer::TlsAlpn01(AlpnCertificate::new(host, [digest; 32]).unwrap());
    challenge::Challenge { host: host.into(), namespace: "shop".into(), answer }
}

/// As a replica that follows hears it.
fn told(api: &Double) -> Vec<String> {
    let secret: Secret = serde_json::from_value(api.get(PATH).unwrap()).unwrap();
    parse(secret).into_keys().collect()
}

#[tokio::test]
async fn challenges_are_read_back_as_gateways_answer_them() {
    let api = Double::default();
    let secret = ChallengeSecret::new(api.client());
    let all = [token("a.example", "one"), alpn("b.example", 1)];
    secret.put(&all).await.unwrap();
    let stored: Secret = serde_json::from_value(api.get(PATH).unwrap()).unwrap();
    let read = parse(stored);
    for challenge in &all {
        let want = answerable(challenge).unwrap();
        assert_eq!(*read[&want.name()], want);
    }
    assert_eq!(api.get(PATH).unwrap()["metadata"]["labels"]["signet.dev/acme"], "challenges");
    secret.remove(&all).await.unwrap();
    assert_eq!(told(&api), [""; 0]);
    secret.remove(&all).await.unwrap(); // again, after a crash
}

#[tokio::test]
async fn what_others_put_there_meanwhile_stays() {
    let api = Double::default();
    let secret = ChallengeSecret::new(api.client());
    secret.put(&[token("a.example", "one")]).await.unwrap();
    api.touch_before_next_write(PATH);
    secret.put(&[token("b.example", "two")]).await.unwrap();
    let (c, d) = (token("c.example", "x"), token("d.example", "y"));
    let (c, d) = ([c], [d]);
    let (one, two) = tokio::join!(secret.put(&c), secret.put(&d));
    one.and(two).unwrap();
    assert_eq!(
        told(&api),
        ["http-01/a.example/one", "http-01/b.example/two", "http-01/c.example/x", "http-01/d.example/y"]
    );
}

#[tokio::test]
async fn of_tls_alpn_only_its_own_order_takes_it_back() {
    let api = Double::default();
    let secret = ChallengeSecret::new(api.client());
    secret.put(&[alpn("a.example", 1)]).await.unwrap();
    secret.put(&[alpn("a.example", 2)]).await.unwrap();
    secret.remove(&[alpn("a.example", 1)]).await.unwrap();
    assert_eq!(told(&api), ["tls-alpn-01/a.example"]);
    secret.remove(&[alpn("a.example", 2)]).await.unwrap();
    assert_eq!(told(&api), [""; 0]);
}

#[tokio::test]
async fn what_cannot_be_stored_is_an_error() {
    let api = Double::default();
    let secret = ChallengeSecret::new(api.client());
    secret.put(&[token("a.example", "one")]).await.unwrap();
    api.fault("PUT", PATH, Fault::Status(403));
    assert!(secret.put(&[token("b.example", "two")]).await.is_err());
    secret.put(&[token("a.example", "one")]).await.unwrap(); // it is there: nothing is written
}

#[test]
fn what_is_not_understood_is_left_out_and_the_rest_is_answered() {
    let entry = |json: &str| ByteString(json.as_bytes().to_vec());
    let good = r#"{"kind":"http-01","host":"a.example","token":"t","keyAuthorization":"t.x"}"#;
    let data = [
        ("a", entry(good)),
        ("b", entry("{")),
        ("c", entry(r#"{"kind":"http-01","host":"a b","token":"t","keyAuthorization":"t.x"}"#)),
        ("d", entry(r#"{"kind":"http-01","host":"a.example","token":"../x","keyAuthorization":"../x.x"}"#)),
        (
            "e",
            entry(r#"{"kind":"tls-alpn-01","host":"a.example","digest":"00","certificate":"%","key":"%"}"#),
        ),
    ];
    let data = data.map(|(field, value)| (field.to_owned(), value)).into();
    let read = parse(Secret { data: Some(data), ..Secret::default() });
    assert_eq!(read.into_keys().collect::<Vec<_>>(), ["http-01/a.example/t"]);
}
