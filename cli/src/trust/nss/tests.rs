//! With a `certutil` of our own, which keeps a directory of PEM files: what the real one does is proven by a browser (tests/tests/laptop).

use std::os::unix::fs::PermissionsExt as _;

use signet_edge_ca::EdgeCa;

use super::*;

const CERTUTIL: &str = r#"#!/bin/bash
set -eu
op= nick= in= trust=
while (($#)); do
  case $1 in
    -N | -A | -D | -L) op=$1 ;;
    -n) nick=$2; shift ;;
    -i) in=$2; shift ;;
    -d) db=${2#sql:}; shift ;;
    -t) trust=$2; shift ;;
  esac
  shift
done
[[ -z $nick || -n $nick ]]
case $op$nick in
  -N) touch "$db/cert9.db" ;;
  -L) printf 'Certificate Nickname                  Trust Attributes\n\n'; for f in "$db"/held/*; do [[ -e $f ]] && printf '%-60s %s  \n' "${f##*/}" "$(cat "$db/trust/${f##*/}" 2>/dev/null || echo C,,)"; done; exit 0 ;;
  -A*) mkdir -p "$db/held"; [[ ! -e $db/full ]] || { echo 'database is full' >&2; exit 1; }; cp "$in" "$db/held/$nick"; mkdir -p "$db/trust"; echo "$trust" > "$db/trust/$nick" ;;
  -L*) cat "$db/held/$nick" ;;
  -D*) rm -f "$db/held/$nick" "$db/trust/$nick" ;;
esac
"#;

struct Home(PathBuf);

impl Home {
    fn new(name: &str) -> Self {
        let home = std::env::temp_dir().join(format!("signet-nss-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&home);
        fs::create_dir_all(&home).unwrap();
        fs::write(home.join("certutil"), CERTUTIL).unwrap();
        fs::set_permissions(home.join("certutil"), fs::Permissions::from_mode(0o755)).unwrap();
        Self(home)
    }

    fn database(&self, path: &str) {
        fs::create_dir_all(self.0.join(path)).unwrap();
        fs::write(self.0.join(path).join("cert9.db"), "").unwrap();
    }

    fn find(&self) -> Vec<Nss> {
        let found = find(&self.0, &self.0.join("data")).into_iter();
        found.map(|nss| Nss { certutil: self.0.join("certutil"), ..nss }).collect()
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn root() -> Root {
    EdgeCa::generate(&[], 1_800_000_000).unwrap().0.root().clone()
}

#[test]
fn databases_are_those_of_the_user_s_browsers_and_chromium_s_is_made_where_there_is_none() {
    let home = Home::new("find");
    let owners = |home: &Home| home.find().into_iter().map(|nss| nss.owner).collect::<Vec<_>>();
    assert_eq!(owners(&home), ["Chromium and Chrome"]);
    assert_eq!(home.find()[0].directory, home.0.join(".pki/nssdb"));
    home.database("data/pki/nssdb");
    assert_eq!(
        home.find()[0].directory,
        home.0.join("data/pki/nssdb"),
        "a newer Chromium's, and it reads no other"
    );
    home.database(".mozilla/firefox/b.default");
    home.database(".mozilla/firefox/a.dev");
    fs::create_dir_all(home.0.join(".mozilla/firefox/Crash Reports")).unwrap();
    assert_eq!(owners(&home), ["Chromium and Chrome", "Firefox profile a.dev", "Firefox profile b.default"]);
}

#[test]
fn a_root_is_added_found_by_its_certificate_and_exactly_that_one_is_taken_out() {
    let home = Home::new("whole");
    let (nss, ours, theirs) = (home.find().remove(0), root(), root());
    assert_eq!((nss.standing(&ours).state, nss.is_there()), (State::Absent, false), "looking makes nothing");
    nss.install(&ours).unwrap();
    nss.install(&theirs).unwrap();
    assert_eq!((nss.standing(&ours).state, nss.held().unwrap().len()), (State::Here, 2));
    nss.remove(&ours).unwrap();
    assert_eq!((nss.standing(&ours).state, nss.standing(&theirs).state), (State::Absent, State::Here));
    assert_eq!(fs::read_dir(&nss.directory).unwrap().count(), 3, "no file of ours stays");
}

/// `certutil`'s own hands: what a person does beside us.
fn put(nss: &Nss, name: &str, trust: &str, pem: &str) {
    for (directory, what) in [("held", pem), ("trust", trust)] {
        fs::create_dir_all(nss.directory.join(directory)).unwrap();
        fs::write(nss.directory.join(directory).join(name), what).unwrap();
    }
}

#[test]
fn a_root_that_is_believed_by_a_name_of_somebody_else_s_is_found_named_and_taken_out() {
    let home = Home::new("named");
    home.database(".pki/nssdb");
    let (nss, ours) = (home.find().remove(0), root());
    put(&nss, "my own  CA, I think", "CT,C,C", &ours.pem());
    put(&nss, "an intermediate", ",,", &root().pem());
    let standing = nss.standing(&ours);
    assert_eq!((standing.state, standing.places[0].name.as_str()), (State::Here, "my own  CA, I think"));
    assert_eq!(nss.held().unwrap().len(), 1, "what vouches for nobody is not looked at");
    assert!(nss.would_remove(&ours).contains("my own  CA, I think"));
    nss.remove(&ours).unwrap();
    assert_eq!(nss.standing(&ours).state, State::Absent);
    put(&nss, &nickname(&ours), "p,,", &ours.pem());
    assert!(
        matches!(nss.standing(&ours).state, State::Half(why) if why.contains("p,,")),
        "a person forbade it: it is there, and not believed"
    );
}

#[test]
fn a_name_that_certificates_share_is_left_and_told_since_certutil_would_take_any_of_them() {
    let home = Home::new("shared");
    home.database(".pki/nssdb");
    let (nss, ours, theirs) = (home.find().remove(0), root(), root());
    put(&nss, "two", "C,,", &(theirs.pem() + &ours.pem()));
    let standing = nss.standing(&ours);
    assert_eq!((&standing.state, standing.removable().count()), (&State::Here, 0));
    assert!(standing.left().all(|why| why.starts_with("two stays: ")), "{standing:?}");
    nss.remove(&ours).unwrap();
    assert_eq!((nss.standing(&ours).state, nss.held().unwrap().len()), (State::Here, 2));
}

#[test]
fn what_fails_is_told_in_certutils_words_and_a_missing_one_with_its_package() {
    let home = Home::new("fails");
    let (nss, root) = (home.find().remove(0), root());
    home.database(".pki/nssdb");
    fs::write(nss.directory.join("full"), "").unwrap();
    let why = nss.install(&root).unwrap_err().to_string();
    assert!(why.contains("database is full"), "{why}");
    assert_eq!(nss.standing(&root).state, State::Absent);
    let without = Nss { certutil: home.0.join("none"), ..nss };
    assert!(matches!(without.standing(&root).state, State::Unusable(why) if why.contains("libnss3-tools")));
}
