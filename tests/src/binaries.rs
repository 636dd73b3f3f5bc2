//! The binaries under test.

use std::path::PathBuf;

/// `signet` or `signet-proxy`: in `$SIGNET_BIN_DIR`, else beside the directory of the test's own binary.
pub fn binary(name: &str) -> PathBuf {
    let directory = std::env::var_os("SIGNET_BIN_DIR").map(PathBuf::from).unwrap_or_else(|| {
        let us = std::env::current_exe().expect("the kernel knows our path");
        us.parent().and_then(std::path::Path::parent).expect("target/<profile>/deps/<test>").to_owned()
    });
    let path = directory.join(name);
    assert!(path.is_file(), "{} is not built; make test builds it", path.display());
    path
}

/// The proxy that was built without the check of SPIFFE IDs (`scripts/build-tests.sh`).
pub fn mutant_proxy() -> PathBuf {
    let path = std::env::var_os("SIGNET_MUTANT_PROXY").expect("SIGNET_MUTANT_PROXY; scripts/test.sh sets it");
    let path = PathBuf::from(path);
    assert!(path.is_file(), "{} is not built; make test builds it", path.display());
    path
}
