use rcgen::{CertificateParams, KeyPair};
use signet_core::tls;
use zeroize::Zeroizing;

use super::*;

const DAY: i64 = 24 * 3600;
/// 2026-01-01.
const NEW_YEAR: i64 = 1_767_225_600;

/// Of these names, valid for January 2026 and so many days more.
fn secret(names: &[&str], more: i64) -> TlsSecret {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).unwrap();
    params.not_before = rcgen::date_time_ymd(2026, 1, 1);
    params.not_after = rcgen::date_time_ymd(2026, 2, 1) + time::Duration::days(more);
    let key = KeyPair::generate().unwrap();
    TlsSecret {
        namespace: "shop".into(),
        name: "web".into(),
        r#type: "kubernetes.io/tls".into(),
        chain: params.self_signed(&key).unwrap().pem().into_bytes(),
        key: Zeroizing::new(key.serialize_pem().into_bytes()),
    }
}

fn name() -> Name {
    ("shop".into(), "web".into())
}

struct World {
    secrets: Secrets,
    now: i64,
}

impl World {
    fn new() -> Self {
        Self { secrets: Secrets::default(), now: NEW_YEAR + DAY }
    }

    fn found(&mut self, secret: &TlsSecret) -> bool {
        self.secrets.found(&name(), secret, &tls::default_provider())
    }

    /// The names of what is served, and why it is not the newest.
    fn served(&self, host: &str) -> (Option<String>, Option<Why>) {
        let pick = self.secrets.pick(&name(), &HostPattern::ingress(Some(host)).unwrap(), self.now);
        let names = |checked: Arc<Checked>| {
            checked.names.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
        };
        (pick.certificate.map(names), pick.why)
    }
}

#[test]
fn the_last_good_one_stays_until_it_expires_whatever_comes_after_it() {
    let broken = TlsSecret { key: Zeroizing::new(b"junk".to_vec()), ..secret(&["a.example"], 0) };
    for (case, trouble) in [
        ("deleted", Trouble::Absent),
        ("no right any more", Trouble::NoRight),
        ("no answer", Trouble::Unanswered("timeout".into())),
        ("broken", Trouble::Unusable(Unusable::NoKey)),
    ] {
        let mut world = World::new();
        assert_eq!(world.served("a.example"), (None, Some(Why::NotRead)), "{case}");
        assert!(world.found(&secret(&["a.example"], 0)));
        assert_eq!(world.served("a.example"), (Some("a.example".into()), None), "{case}");
        match &trouble {
            Trouble::Unusable(_) => assert!(world.found(&broken)),
            trouble => assert!(world.secrets.trouble(&name(), trouble.clone())),
        }
        assert_eq!(
            world.served("a.example"),
            (Some("a.example".into()), Some(Why::Trouble(trouble.clone()))),
            "{case}"
        );
        assert!(!world.secrets.trouble(&name(), trouble.clone()), "it is the same trouble");
        world.now += 40 * DAY;
        assert_eq!(world.served("a.example"), (None, Some(Why::Trouble(trouble))), "{case}");
    }
}

#[test]
fn one_that_covers_less_takes_over_only_what_it_covers() {
    let mut world = World::new();
    let (both, narrow, narrower) =
        (secret(&["a.example", "b.example"], 0), secret(&["a.example"], 1), secret(&["a.example"], 2));
    assert!(world.found(&both) && !world.found(&both) && world.found(&narrow));
    assert_eq!(world.served("a.example"), (Some("a.example".into()), None));
    let (served, why) = world.served("b.example");
    assert_eq!(served.as_deref(), Some("a.example b.example"));
    assert!(matches!(why, Some(Why::OtherNames(_))));
    assert!(world.found(&narrower));
    assert_eq!(world.served("b.example").0.as_deref(), Some("a.example b.example"), "still");
    assert!(world.found(&secret(&["*.example"], 3)));
    assert_eq!(world.served("b.example"), (Some("*.example".into()), None));
    assert_eq!(world.served("c.example"), (Some("*.example".into()), None));
}

#[test]
fn what_is_not_valid_now_is_not_served_and_the_moment_is_known_beforehand() {
    let mut world = World::new();
    world.now = NEW_YEAR - DAY;
    world.found(&secret(&["a.example"], 0));
    assert_eq!(world.served("a.example"), (None, Some(Why::NotYet(NEW_YEAR))));
    assert_eq!(world.secrets.due(world.now), Some(NEW_YEAR));
    world.now = NEW_YEAR;
    assert_eq!(world.served("a.example").1, None);
    let end = NEW_YEAR + 31 * DAY;
    assert_eq!(world.secrets.due(world.now), Some(end + 1));
    world.now = end + 1;
    assert_eq!(world.served("a.example"), (None, Some(Why::Expired(end))));
    assert_eq!(world.secrets.due(world.now), None);
}

#[test]
fn what_no_ingress_names_is_forgotten() {
    let mut world = World::new();
    world.found(&secret(&["a.example"], 0));
    assert!(!world.secrets.retain(|_| true) && world.secrets.retain(|_| false));
    assert_eq!(world.served("a.example"), (None, Some(Why::NotRead)));
}
