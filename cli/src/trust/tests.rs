//! Which roots are installed, and what to type for the system's store.

use signet_edge_ca::EdgeCa;

use super::{change::as_root, whose::Found, *};

const NOW: i64 = 1_800_000_000;

fn root(suffixes: &[&str]) -> Root {
    let suffixes: Vec<Suffix> = suffixes.iter().map(|suffix| suffix.parse().unwrap()).collect();
    let (ca, _) = EdgeCa::generate(&suffixes, NOW).unwrap();
    Root::new(ca.certificate().clone()).unwrap()
}

#[test]
fn a_root_for_further_suffixes_is_installed_only_where_each_of_them_is_named() {
    let named = |all: &[&str]| all.iter().map(|suffix| suffix.parse().unwrap()).collect::<Vec<Suffix>>();
    is_meant(&root(&[]), &[]).unwrap();
    let further = root(&["home.example.com", "google.com"]);
    for some in [&[][..], &["home.example.com"], &["com.google"]] {
        let why = is_meant(&further, &named(some)).unwrap_err().to_string();
        assert!(why.contains("--suffix google.com"), "{some:?}: {why}");
    }
    is_meant(&further, &named(&["google.com", "home.example.com"])).unwrap();
}

#[test]
fn what_to_type_as_root_finds_the_same_root_and_names_its_suffixes() {
    let found = Found { root: root(&["home.example.com"]), file: None, flags: " --context 'lab'".into() };
    let typed = as_root(&found, Way::In);
    assert!(typed.starts_with("signet trust show --pem --context 'lab' > edge-ca.pem; sudo "), "{typed}");
    assert!(typed.ends_with("--root edge-ca.pem --suffix home.example.com"), "{typed}");
    let file = Found { file: Some("/a b/root.pem".into()), flags: String::new(), ..found };
    assert!(
        as_root(&file, Way::In).contains("--root '/a b/root.pem' --suffix"),
        "{}",
        as_root(&file, Way::In)
    );
}

#[test]
fn a_root_of_another_time_is_installed_nowhere_and_shown_as_what_it_is() {
    let root = root(&[]);
    is_timely(&root, NOW).unwrap();
    for (now, said) in [(root.not_after() + 1, "expired"), (root.not_before() - 1, "valid from")] {
        let why = is_timely(&root, now).unwrap_err().to_string();
        assert!(why.contains("is installed nowhere") && why.contains(said), "{why}");
    }
    let not_yet = Answer::of(&Found { root, file: None, flags: String::new() }, &[], &[], 1_700_000_000);
    assert!(
        text(&not_yet).contains("But      it is valid from 2027-01-15T07:58:00Z on"),
        "{}",
        text(&not_yet)
    );
}
