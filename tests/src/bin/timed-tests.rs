//! The runner that `make test` gives to cargo: each test in a process of its own, with its duration kept.
//!
//! cargo calls it with a test binary and arguments. It asks the binary for its tests, runs each with a deadline, prints what
//! libtest would print plus the duration, and appends `<binary>::<test> <seconds> <outcome>` to `$SIGNET_TEST_RESULTS`.
//! Whatever is no libtest binary (a doctest) is run as it is.

use std::{
    env,
    ffi::OsString,
    fmt::Write as _,
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::process::{CommandExt as _, ExitStatusExt as _},
    path::{Path, PathBuf},
    process::{Command, ExitCode, ExitStatus, Stdio},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};

fn main() -> Result<ExitCode> {
    let mut args = env::args_os().skip(1);
    let binary = PathBuf::from(args.next().context("usage: timed-tests TEST-BINARY [ARGUMENTS]")?);
    let rest: Vec<OsString> = args.collect();
    if binary.parent().and_then(Path::file_name).is_none_or(|directory| directory != "deps") {
        return Err(Command::new(&binary).args(rest).exec().into()); // only returns when it cannot
    }
    let suite = Suite::list(binary, &rest)?;
    if later(&suite.name) {
        say(&format!("\n{} is for later (SIGNET_TESTS_LATER)\n", suite.name));
        return Ok(ExitCode::SUCCESS);
    }
    let begun = Instant::now();
    let outcomes = suite.run()?;
    let report = Report::of(&outcomes, suite.filtered);
    say(&report.text(begun.elapsed()));
    Ok(if report.failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(LIBTEST_FAILED) })
}

/// Whether whoever runs the tests has set this binary aside, to run it by itself. docs/acceptance.md holds them to it.
fn later(name: &str) -> bool {
    env::var("SIGNET_TESTS_LATER").is_ok_and(|names| names.split(',').any(|later| later == name))
}

struct Suite {
    binary: PathBuf,
    /// "demo" of `deps/demo-0123456789abcdef`.
    name: String,
    tests: Vec<String>,
    ignored: Vec<String>,
    filtered: usize,
}

struct Outcome {
    test: String,
    took: Duration,
    end: End,
}

enum End {
    Ok,
    Ignored,
    /// Why, and what it printed.
    Failed(String, String),
}

impl Suite {
    fn list(binary: PathBuf, args: &[OsString]) -> Result<Self> {
        let list = |more: &[&str]| -> Result<Vec<String>> {
            let output =
                Command::new(&binary).args(["--list", "--format", "terse"]).args(args).args(more).output()?;
            anyhow::ensure!(output.status.success(), "{} --list: {}", binary.display(), output.status);
            let text = String::from_utf8(output.stdout)?;
            Ok(text.lines().filter_map(|line| line.strip_suffix(": test")).map(str::to_owned).collect())
        };
        let name = binary.file_stem().unwrap_or_default().to_string_lossy();
        let name = name.rsplit_once('-').map_or(&*name, |(name, _hash)| name).to_owned();
        let tests = list(&[])?;
        // Those asked for with --ignored or --include-ignored are run, the others are only counted.
        let asked = args.iter().any(|arg| arg == "--ignored" || arg == "--include-ignored");
        let ignored = if asked { Vec::new() } else { list(&["--ignored"])? };
        let all = Command::new(&binary).args(["--list", "--format", "terse"]).output()?;
        let all = String::from_utf8(all.stdout)?.lines().filter(|line| line.ends_with(": test")).count();
        Ok(Self { filtered: all - tests.len(), binary, name, tests, ignored })
    }

    /// Runs the tests on as many threads as there are cores, in the order of their names.
    fn run(&self) -> Result<Vec<Outcome>> {
        let jobs = match env::var("SIGNET_TEST_JOBS") {
            Ok(jobs) => jobs.parse().context("SIGNET_TEST_JOBS")?,
            Err(_) => thread::available_parallelism()?.get(),
        };
        say(&format!("\nrunning {} tests\n", self.tests.len()));
        let next = AtomicUsize::new(0);
        let outcomes = Mutex::new(Vec::new());
        thread::scope(|scope| {
            for _ in 0..jobs.min(self.tests.len()) {
                scope.spawn(|| {
                    while let Some(test) = self.tests.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let outcome = self.one(test);
                        let mut outcomes = outcomes.lock().unwrap_or_else(PoisonError::into_inner);
                        say(&outcome.line());
                        outcomes.push(outcome);
                    }
                });
            }
        });
        let outcomes = outcomes.into_inner().unwrap_or_else(PoisonError::into_inner);
        self.keep(&outcomes)?;
        Ok(outcomes)
    }

    fn one(&self, test: &str) -> Outcome {
        let begun = Instant::now();
        let end = if self.ignored.iter().any(|ignored| ignored == test) {
            End::Ignored
        } else {
            self.process(test)
                .unwrap_or_else(|e| End::Failed(format!("could not be run: {e}"), String::new()))
        };
        Outcome { test: test.to_owned(), took: begun.elapsed(), end }
    }

    fn process(&self, test: &str) -> Result<End> {
        let transcript =
            env::temp_dir().join(format!("signet-test-{}-{test}", std::process::id()).replace(':', "-"));
        let output = File::create(&transcript)?;
        let mut process = Command::new(&self.binary)
            .args([test, "--exact", "--include-ignored", "--nocapture", "--test-threads=1"])
            .env("RUST_LIB_BACKTRACE", "0") // of a panic it is worth its lines, of an error it is not
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .process_group(0) // so that the deadline also ends what the test started
            .spawn()?;
        let group = Pid::from_raw(process.id().try_into()?);
        let limit = limit()?;
        let deadline = Instant::now() + limit;
        let status = loop {
            match process.try_wait()? {
                Some(status) => break Some(status),
                None if Instant::now() >= deadline => {
                    let _ = killpg(group, Signal::SIGKILL); // gone in this instant: `wait` says how
                    process.wait()?;
                    break None;
                }
                None => thread::sleep(LOOK),
            }
        };
        let printed = fs::read(&transcript)?;
        let _ = fs::remove_file(&transcript);
        let printed = String::from_utf8_lossy(&printed[printed.len().saturating_sub(SHOWN)..]).into_owned();
        Ok(match status {
            Some(status) if status.success() => End::Ok,
            Some(status) => End::Failed(describe(status) + &reason(&printed), printed),
            None => End::Failed(format!("did not end in {limit:?} (SIGNET_TEST_LIMIT)"), printed),
        })
    }

    fn keep(&self, outcomes: &[Outcome]) -> Result<()> {
        let Some(path) = env::var_os("SIGNET_TEST_RESULTS") else { return Ok(()) };
        let mut lines = String::new();
        for Outcome { test, took, end } in outcomes {
            writeln!(lines, "{}::{test} {:.3} {}", self.name, took.as_secs_f64(), end.word())?;
        }
        let mut file = OpenOptions::new().create(true).append(true).open(path)?;
        Ok(file.write_all(lines.as_bytes())?)
    }
}

impl Outcome {
    fn line(&self) -> String {
        match &self.end {
            End::Ignored => format!("test {} ... ignored\n", self.test),
            End::Ok => format!("test {} ... ok ({:.3} s)\n", self.test, self.took.as_secs_f64()),
            End::Failed(why, _) => format!("test {} ... FAILED ({why})\n", self.test),
        }
    }
}

impl End {
    fn word(&self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Ignored => "ignored",
            Self::Failed(..) => "failed",
        }
    }
}

struct Report<'a> {
    filtered: usize,
    passed: usize,
    ignored: usize,
    failed: Vec<(&'a str, &'a str, &'a str)>,
}

impl<'a> Report<'a> {
    fn of(outcomes: &'a [Outcome], filtered: usize) -> Self {
        let mut report = Self { filtered, passed: 0, ignored: 0, failed: Vec::new() };
        for Outcome { test, end, .. } in outcomes {
            match end {
                End::Ok => report.passed += 1,
                End::Ignored => report.ignored += 1,
                End::Failed(why, printed) => report.failed.push((test, why, printed)),
            }
        }
        report
    }

    fn text(&self, took: Duration) -> String {
        let mut text = String::new();
        for (test, why, printed) in &self.failed {
            let _ = write!(text, "\n---- {test}: {why} ----\n{printed}\n");
        }
        let verdict = if self.failed.is_empty() { "ok" } else { "FAILED" };
        let (passed, failed, ignored, filtered) =
            (self.passed, self.failed.len(), self.ignored, self.filtered);
        let _ = writeln!(
            text,
            "\ntest result: {verdict}. {passed} passed; {failed} failed; {ignored} ignored; 0 measured; {filtered} filtered out; finished in {:.2}s",
            took.as_secs_f64()
        );
        text
    }
}

fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(signal)) => format!("killed by signal {signal}"),
        (None, None) => "ended".into(),
    }
}

/// The error or panic in a line, since what is around it may be long, and is cut by who keeps it.
fn reason(printed: &str) -> String {
    let mut lines = printed.lines().rev();
    let begins = |line: &&str| line.starts_with("Error: ") || line.contains(" panicked at ");
    let Some(first) = lines.find(begins) else { return String::new() };
    let at = printed.rfind(first).unwrap_or_default();
    let error = &printed[at..];
    let ends = ["\n\nStack backtrace", "\nFAILED\n"].into_iter().filter_map(|end| error.find(end)).min();
    let error = error.get(..ends.unwrap_or(error.len())).unwrap_or(error);
    let words = error.split_whitespace().collect::<Vec<_>>().join(" ");
    format!("; {}", words.chars().take(REASON).collect::<String>())
}

fn limit() -> Result<Duration> {
    match env::var("SIGNET_TEST_LIMIT") {
        Ok(seconds) => Ok(Duration::from_secs(seconds.parse().context("SIGNET_TEST_LIMIT")?)),
        Err(_) => Ok(LIMIT),
    }
}

/// A broken pipe (`| head`) ends the words, not the tests.
fn say(text: &str) {
    let _ = io::stdout().lock().write_all(text.as_bytes());
}

/// The longest stories are minutes of load; this is a test that hangs.
const LIMIT: Duration = Duration::from_secs(600);
/// How exact durations are.
const LOOK: Duration = Duration::from_millis(2);
/// Bytes at the end of what a failed test printed: the panic and the log lines before it.
const SHOWN: usize = 64 * 1024;
/// Characters of the error in the line of a failed test.
const REASON: usize = 1500;
/// libtest's own exit status for failed tests; cargo goes on to the next binary.
const LIBTEST_FAILED: u8 = 101;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_of_a_failed_test_says_its_last_error_and_nothing_around_it() {
        let error = "noise\nError: requests failed\n\nCaused by:\n    280 resets\n\nStack backtrace:\n   0: main\nFAILED\n";
        assert_eq!(reason(error), "; Error: requests failed Caused by: 280 resets");
        let panic = "thread 'a' (1) panicked at a.rs:1:2:\nleft != right\nFAILED\n\nfailures:\n";
        assert_eq!(reason(panic), "; thread 'a' (1) panicked at a.rs:1:2: left != right");
        assert_eq!(reason("killed without a word\n"), "");
        assert_eq!(reason(&format!("Error: {}", "x".repeat(2000))).chars().count(), REASON + 2);
    }
}
