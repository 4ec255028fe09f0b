//! A program that another version of `swd` must not become: it can be asked for by its name, and fails in the way that
//! its file is called. For tests of upgrades.
//!
//! `silent` does not answer when it is asked what it is, `refusing` says no, `sleeping` does not answer in time; the
//! others say that they are a version of swd. `exiting` then ends as soon as it is to prepare itself, `babbling` says
//! what the monitor does not understand, and `idle` says nothing for ever.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::FromRawFd as _;
use std::process::ExitCode;
use std::time::Duration;

/// Longer than any test waits.
const FOR_EVER: Duration = Duration::from_secs(600);
/// Where a switch process asks its monitor.
const CHANNEL: i32 = 3;

fn main() -> ExitCode {
    let path = std::env::current_exe().unwrap_or_default();
    let kind = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    if std::env::var_os("SWD_REHEARSAL").is_some() {
        match kind {
            "silent" => {}
            "refusing" => {
                let _ = writeln!(std::io::stderr(), "swd: this machine is not good enough");
                return ExitCode::FAILURE;
            }
            "sleeping" => std::thread::sleep(FOR_EVER),
            _ => {
                let _ = writeln!(std::io::stdout(), "swd 0.0.0-{kind}");
            }
        }
        return ExitCode::SUCCESS;
    }
    match kind {
        "babbling" => {
            // SAFETY: the monitor has put its connection there for this process to own, and nothing else here uses it.
            let mut channel = unsafe { File::from_raw_fd(CHANNEL) };
            let _ = channel.write_all(&[0, 0, 0, 3, 0xff, 0xff, 0xff]);
            std::thread::sleep(FOR_EVER);
        }
        "idle" => std::thread::sleep(FOR_EVER),
        _ => {}
    }
    ExitCode::from(3)
}
