//! What to show when a test fails: the tails of the logs of the daemons it started.
//!
//! Logs are remembered per test thread; the harness prints them on failure and forgets them after
//! each test. At most 64 logs are remembered, and 40 lines of each are shown.

use std::cell::RefCell;
use std::fmt::Write as _;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

const MAX_LOGS: usize = 64;
const TAIL_LINES: usize = 40;
const TAIL_BYTES: u64 = 16 * 1024;

thread_local! {
    static LOGS: RefCell<Vec<(String, PathBuf)>> = const { RefCell::new(Vec::new()) };
}

/// Remembers a log of this test.
pub fn remember_log(name: &str, path: &Path) {
    LOGS.with_borrow_mut(|logs| {
        if logs.len() < MAX_LOGS && !logs.iter().any(|(_, p)| p == path) {
            logs.push((name.to_owned(), path.to_owned()));
        }
    });
}

/// Forgets all logs of this thread and removes the files.
pub fn forget_logs() {
    for (_, path) in LOGS.take() {
        // Nothing to do about a log that cannot be removed: it is in the sandbox's own tmpfs.
        let _ = std::fs::remove_file(path);
    }
}

/// The tails of all remembered logs as one text; empty if there are none.
pub fn tails() -> String {
    LOGS.with_borrow(|logs| {
        let mut text = String::new();
        for (name, path) in logs {
            let _ = write!(text, "\n--- log of {name} ({}) ---\n{}", path.display(), tail(path));
        }
        text
    })
}

/// The last lines of one file; says so when it cannot be read.
pub fn tail(path: &Path) -> String {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = std::fs::File::open(path)?;
        let len = file.metadata()?.len();
        file.seek(SeekFrom::Start(len.saturating_sub(TAIL_BYTES)))?;
        let mut bytes = Vec::new();
        file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    match read() {
        Ok(bytes) => {
            let text = String::from_utf8_lossy(&bytes);
            let lines: Vec<&str> = text.lines().collect();
            lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
        }
        Err(e) => format!("(cannot be read: {e})"),
    }
}
