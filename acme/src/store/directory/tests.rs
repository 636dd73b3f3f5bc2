use std::{io::BufRead as _, os::unix::fs::PermissionsExt as _, process::Stdio, time::Duration};

use super::*;
use crate::{names::NameSet, secret::Secret};

const CHILD: &str = "SIGNET_TEST_ACME_STORE";

fn scratch(name: &str) -> PathBuf {
    let directory = std::env::temp_dir().join(format!("signet-acme-{}-{name}", std::process::id()));
    let _ = fs::remove_dir_all(&directory);
    directory
}

fn record() -> Record {
    Record::new(NameSet::new(["a.example.com"]).unwrap())
}

#[tokio::test]
async fn a_record_is_replaced_only_by_who_knows_its_version() {
    let directory = scratch("swap");
    let store = DirectoryStore::open(&directory).unwrap();
    let mut record = record();
    let first = store.put(&record, None).await.unwrap();
    assert!(matches!(store.put(&record, None).await, Err(StoreError::Moved { .. })));
    record.failed = 1;
    let second = store.put(&record, Some(&first)).await.unwrap();
    record.failed = 2;
    assert!(matches!(store.put(&record, Some(&first)).await, Err(StoreError::Moved { .. })));
    assert!(matches!(store.delete(&record.id(), &first).await, Err(StoreError::Moved { .. })));
    let loaded = store.load().await.unwrap();
    assert_eq!((loaded.records[0].value.failed, &loaded.records[0].version), (1, &second));
    store.delete(&record.id(), &second).await.unwrap();
    assert!(store.load().await.unwrap().records.is_empty());
    fs::remove_dir_all(directory).unwrap();
}

#[tokio::test]
async fn what_is_not_understood_is_said_and_never_written_over() {
    let directory = scratch("broken");
    let store = DirectoryStore::open(&directory).unwrap();
    let file = directory.join("certificates").join(format!("{}.json", record().id()));
    fs::write(&file, "{\"schema\":9}").unwrap();
    fs::write(directory.join("certificates/.acme-x.json.new"), "left by a crash").unwrap();
    let other = Record::new(NameSet::new(["b.example.com"]).unwrap());
    fs::write(directory.join("certificates/acme-0.json"), other.to_json()).unwrap();
    let loaded = store.load().await.unwrap();
    assert!(loaded.records.is_empty());
    let why: Vec<&str> = loaded.broken.iter().map(|(_, why)| why.as_str()).collect();
    assert!(
        why.iter().any(|why| why.contains("schema 9")) && why.iter().any(|why| why.contains("b.example.com")),
        "{why:?}"
    );
    assert!(matches!(store.put(&record(), None).await, Err(StoreError::Moved { .. })));
    fs::remove_dir_all(directory).unwrap();
}

#[tokio::test]
async fn accounts_are_stored_apart_and_all_files_are_for_our_eyes_only() {
    let directory = scratch("mode");
    let store = DirectoryStore::open(&directory).unwrap();
    let account = AccountRecord::new("https://ca.example/", None, Secret::new("key".to_owned().into()));
    let id = crate::account::id("https://ca.example/", None);
    assert_eq!(store.account(&id).await.unwrap(), None);
    let version = store.put_account(&id, &account, None).await.unwrap();
    assert!(store.put_account(&id, &account, None).await.is_err());
    assert_eq!(store.account(&id).await.unwrap(), Some(Stored { value: account, version }));
    store.put(&record(), None).await.unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    for path in [&directory, &directory.join("accounts"), &directory.join("certificates")] {
        assert_eq!(mode(path), 0o700);
    }
    for file in [format!("accounts/{id}.json"), format!("certificates/{}.json", record().id())] {
        assert_eq!(mode(&directory.join(file)), 0o600);
    }
    fs::remove_dir_all(directory).unwrap();
}

#[test]
fn a_second_process_is_refused_and_told_who_is_first() {
    let directory = scratch("lock");
    let first = DirectoryStore::open(&directory).unwrap();
    let error = DirectoryStore::open(&directory).unwrap_err().to_string();
    assert!(error.contains(&format!("process {}", std::process::id())), "{error}");
    drop(first);
    DirectoryStore::open(&directory).unwrap();
    fs::remove_dir_all(directory).unwrap();
}

/// Writes one version after the other and says each that is stored, until it is killed.
async fn write_for_ever(directory: &Path) -> ! {
    let store = DirectoryStore::open(directory).unwrap();
    let loaded = store.load().await.unwrap().records.pop();
    let (mut record, mut version) = match loaded {
        Some(Stored { value, version }) => (value, Some(version)),
        None => (record(), None),
    };
    record.in_vain = vec![7; 50_000]; // several pages, so that a write has a middle
    loop {
        record.failed += 1;
        version = Some(store.put(&record, version.as_ref()).await.unwrap());
        writeln!(io::stdout(), "stored {}", record.failed).unwrap();
    }
}

#[tokio::test]
async fn kill_9_at_any_point_leaves_the_old_record_or_the_new_never_none() {
    if let Some(directory) = std::env::var_os(CHILD) {
        write_for_ever(Path::new(&directory)).await;
    }
    let directory = scratch("kill");
    let mut random = fastrand::Rng::with_seed(7);
    for _ in 0..20 {
        let mut child = std::process::Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "--nocapture",
                "store::directory::tests::kill_9_at_any_point_leaves_the_old_record_or_the_new_never_none",
            ])
            .env(CHILD, &directory)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = io::BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let said = |line: String| line.rsplit_once("stored ").and_then(|(_, n)| n.parse::<u32>().ok());
        let first = lines.by_ref().find_map(said).unwrap();
        std::thread::sleep(Duration::from_micros(random.u64(0..5_000))); // where in a write it dies
        child.kill().unwrap(); // SIGKILL
        child.wait().unwrap();
        let last = lines.filter_map(said).last().unwrap_or(first);
        let found = DirectoryStore::open(&directory).unwrap().load().await.unwrap();
        assert!(found.broken.is_empty());
        let found = found.records[0].value.failed;
        assert!((last..=last + 1).contains(&found), "said {last}, found {found}");
    }
    fs::remove_dir_all(directory).unwrap();
}
