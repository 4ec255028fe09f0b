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
    let mut args = Arguments::from_args();
    args.test_threads.get_or_insert(2);
    let trials =
        tests.iter().map(|&(name, test)| Trial::ignorable_test(name, move || watched(name, test))).collect();
    libtest_mimic::run(&args, trials).exit_code()
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
        Ok(Err(e)) if e.kind() == Kind::Missing && crate::enter::may_skip() => {
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
