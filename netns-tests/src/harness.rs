//! Runs a suite of namespace tests with the usual options and the usual result line, although the
//! sandbox needs a `main` of its own.
//!
//! Use in a test target with `harness = false`:
//! ```no_run
//! fn ping() -> lab::Result<()> { Ok(()) }
//! fn main() -> std::process::ExitCode {
//!     lab::harness::run(&[("ping", ping)])
//! }
//! ```
//! A test that finds something missing is reported as ignored with the reason in a loud SKIPPED
//! line, or fails where nothing may be skipped. A test that hangs ends the whole run after
//! `LAB_TEST_TIMEOUT` seconds (default 180); the sandbox then removes what it left.

use std::io::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use libtest_mimic::{Arguments, Completion, Failed, Trial};

use crate::error::{Kind, Result};

/// One test: a name and what to run.
pub type Test = (&'static str, fn() -> Result<()>);

/// Enters the sandbox and runs the tests, two at a time unless `--test-threads` says otherwise.
pub fn run(tests: &[Test]) -> ExitCode {
    crate::enter::enter();
    conclude(tests)
}

/// As [`run`], for tests that only real root can make. For an ordinary user all of them are
/// ignored, also where nothing may be skipped: the run as root makes their claims.
pub fn run_as_root(tests: &[Test], why: &str) -> ExitCode {
    let sandbox = crate::enter::enter();
    if sandbox.outer_uid == 0 {
        return conclude(tests);
    }
    say(&format!("SKIPPED (the whole suite): uid {} is not root: {why}", sandbox.outer_uid));
    let ignored =
        |&(name, _): &Test| Trial::ignorable_test(name, || Ok(Completion::ignored_with("needs root")));
    libtest_mimic::run(&Arguments::from_args(), tests.iter().map(ignored).collect()).exit_code()
}

fn conclude(tests: &[Test]) -> ExitCode {
    let mut args = Arguments::from_args();
    args.test_threads.get_or_insert(2);
    let trials =
        tests.iter().map(|&(name, test)| Trial::ignorable_test(name, move || watched(name, test))).collect();
    libtest_mimic::run(&args, trials).exit_code()
}

/// Whether a test that ended with this error is skipped here rather than failed.
fn skipped(kind: Kind) -> bool {
    match kind {
        Kind::Failed => false,
        Kind::Missing => crate::enter::may_skip(),
        Kind::Excused => true,
    }
}

fn limit() -> Duration {
    let seconds = std::env::var("LAB_TEST_TIMEOUT").ok().and_then(|v| v.parse().ok());
    Duration::from_secs(seconds.unwrap_or(180))
}

fn watched(name: &'static str, test: fn() -> Result<()>) -> std::result::Result<Completion, Failed> {
    let (done_tx, done_rx) = channel::<()>();
    let watchdog = std::thread::spawn(move || {
        if done_rx.recv_timeout(limit()) == Err(RecvTimeoutError::Timeout) {
            say(&format!("test {name} hangs (no end within {:?}): giving up the whole run", limit()));
            std::process::exit(101);
        }
    });
    let result = catch_unwind(AssertUnwindSafe(test));
    drop(done_tx);
    // The watchdog never panics; joining only makes sure that it is gone.
    let _ = watchdog.join();
    let tails = crate::diag::tails();
    crate::diag::forget_logs();
    match result {
        Ok(Ok(())) => Ok(Completion::Completed),
        Ok(Err(e)) if skipped(e.kind()) => {
            say(&format!("SKIPPED {name}: {e}"));
            Ok(Completion::ignored_with(e))
        }
        Ok(Err(e)) => Err(format!("{e}{tails}").into()),
        Err(panic) => {
            let text = panic
                .downcast_ref::<String>()
                .map(String::as_str)
                .or_else(|| panic.downcast_ref::<&str>().copied())
                .unwrap_or("(no message)");
            Err(format!("panicked: {text}{tails}").into())
        }
    }
}

fn say(line: &str) {
    // A closed standard error is no reason to fail a test.
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// A number from the environment.
pub fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default)
}
