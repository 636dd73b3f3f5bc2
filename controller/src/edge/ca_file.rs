//! The edge CA of directory mode: one file with root and key, readable by its owner only, and beside it the root alone, for whoever
//! is to believe it (`signet trust install`).

use std::{fs, io, path::Path, sync::Arc};

use signet_core::files::{self, PRIVATE, PUBLIC};
use signet_edge_ca::{EdgeCa, EdgeCaError, Suffix};
use zeroize::Zeroizing;

use super::issuer::Known;

/// The CA in `directory`, made if there is none. One that is there and unusable is never written over, and of two edges that share the
/// directory one makes it. Blocking.
pub(crate) fn open(directory: Option<&Path>, more: &[Suffix], now: i64) -> Known {
    let Some(directory) = directory else {
        return Known::Not("edge was started without --edge-ca-dir, where its key would lie".into());
    };
    match load_or_make(directory, more, now) {
        Ok(ca) => Known::Here(Arc::new(ca)),
        Err(why) => Known::Not(format!("{}: {why}", directory.join(WHOLE).display())),
    }
}

fn load_or_make(directory: &Path, more: &[Suffix], now: i64) -> Result<EdgeCa, Unusable> {
    files::create_private_dir(directory)?;
    let whole = directory.join(WHOLE);
    let ca = match load(&whole)? {
        Some(ca) => ca,
        None => make(&whole, more, now)?,
    };
    let (root, pem) = (directory.join(ROOT), ca.pem());
    if fs::read_to_string(&root).ok().as_deref() != Some(&pem) {
        match fs::remove_file(&root) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
            _ => {} // of another CA, or none
        }
        files::create_atomic(&root, pem.as_bytes(), PUBLIC)?; // or another edge did, with the same root
    }
    Ok(ca)
}

/// `None`: there is none.
fn load(whole: &Path) -> Result<Option<EdgeCa>, Unusable> {
    let bytes = match fs::read(whole) {
        Ok(bytes) => Zeroizing::new(bytes),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    // Each reader takes the part that is its own.
    let text = std::str::from_utf8(&bytes).map_err(|_| Unusable::NoText)?;
    Ok(Some(EdgeCa::load(text, text)?))
}

/// Or the one that another edge made meanwhile: root and key are one file, which is there whole or not at all.
fn make(whole: &Path, more: &[Suffix], now: i64) -> Result<EdgeCa, Unusable> {
    let (ca, key) = EdgeCa::generate(more, now)?;
    let root = ca.pem();
    let mut text = Zeroizing::new(String::with_capacity(key.len() + root.len())); // grown, it would leave the key behind
    text.push_str(&key);
    text.push_str(&root);
    match files::create_atomic(whole, text.as_bytes(), PRIVATE)? {
        true => Ok(ca),
        false => load(whole)?.ok_or(Unusable::Gone),
    }
}

#[derive(Debug, thiserror::Error)]
enum Unusable {
    #[error(transparent)]
    File(#[from] io::Error),
    #[error(transparent)]
    Ca(#[from] EdgeCaError),
    #[error("it is no text; remove it, and a new edge CA is made")]
    NoText,
    #[error("it comes and goes; does something clean the directory?")]
    Gone,
}

/// Key and root, PEM.
const WHOLE: &str = "edge-ca.pem";
/// `cli` knows it, too (`StateDir::edge_ca_root`).
const ROOT: &str = "root.pem";
/// For people.
pub(crate) const PLACE: &str = "edge-ca.pem in the directory of --edge-ca-dir";

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    const NOW: i64 = 1_800_000_000;

    fn id(known: &Known) -> Result<String, String> {
        match known {
            Known::Here(ca) => Ok(ca.id()),
            Known::Not(why) | Known::Unanswered(why) => Err(why.clone()),
        }
    }

    #[test]
    fn it_is_made_once_readable_by_its_owner_only_and_found_again() {
        let directory = std::env::temp_dir().join(format!("signet-edge-ca-{}", std::process::id()));
        let made = id(&open(Some(&directory), &[], NOW)).unwrap();
        assert_eq!(id(&open(Some(&directory), &["home.example".parse().unwrap()], NOW)), Ok(made.clone()));
        let mode = |file: &str| fs::metadata(directory.join(file)).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(WHOLE), mode(ROOT)), (0o600, 0o644));
        let root = fs::read_to_string(directory.join(ROOT)).unwrap();
        assert!(root.contains("BEGIN CERTIFICATE") && !root.contains("PRIVATE"), "{root}");
        fs::write(directory.join(WHOLE), "half").unwrap();
        let why = id(&open(Some(&directory), &[], NOW)).unwrap_err();
        assert!(why.contains("remove it") && why.contains(WHOLE), "{why}");
        assert_eq!(fs::read_to_string(directory.join(WHOLE)).unwrap(), "half", "it is never written over");
        fs::remove_file(directory.join(WHOLE)).unwrap();
        assert_ne!(id(&open(Some(&directory), &[], NOW)).unwrap(), made);
        assert_ne!(
            fs::read_to_string(directory.join(ROOT)).unwrap(),
            root,
            "the root beside it is the new one's"
        );
        fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn edges_that_share_a_directory_have_one_ca_whoever_comes_first() {
        let directory = std::env::temp_dir().join(format!("signet-edge-ca-shared-{}", std::process::id()));
        let ids: Vec<String> = std::thread::scope(|scope| {
            let edges: Vec<_> =
                (0..8).map(|_| scope.spawn(|| id(&open(Some(&directory), &[], NOW)).unwrap())).collect();
            edges.into_iter().map(|edge| edge.join().unwrap()).collect()
        });
        assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
        assert_eq!(id(&open(Some(&directory), &[], NOW)), Ok(ids[0].clone()));
        // Between looking and making another edge was quicker.
        let late = make(&directory.join(WHOLE), &[], NOW).unwrap();
        assert_eq!(late.id(), ids[0], "it takes the one that is there");
        fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn without_a_directory_the_option_is_named() {
        assert!(id(&open(None, &[], NOW)).unwrap_err().contains("--edge-ca-dir"));
    }
}
