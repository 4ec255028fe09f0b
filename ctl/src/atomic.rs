//! Replacing a file so that a reader, or a crash, sees the old content or the new one, never a part.
//!
//! The new content is written under another name *in the same directory*, flushed to disk and renamed. The
//! directory matters beyond atomicity: container runtimes watch theirs and take notice of a rename inside
//! it, not of a file that is moved in from elsewhere. The temporary name begins with a dot and ends with
//! `.tmp`, so that no runtime takes it for a configuration.
//!
//! The state file of the daemon is not written by this: it keeps its predecessor and survives failures of
//! single steps, see `docs/state-file.md`.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

/// Temporary names tried before giving up. One is taken when a process of the same number, before a crash or
/// in another process namespace, left it there.
const ATTEMPTS: u32 = 16;

/// Gives a file new content and permission bits. Durable when it returns.
///
/// # Errors
/// Those of the system; the old file is still there then, and the temporary one is not.
pub fn write(path: &Path, mode: u32, content: &[u8]) -> io::Result<()> {
    let (dir, name) = split(path)?;
    let (mut file, temporary) = create(dir, name, mode)?;
    let done = (|| {
        file.write_all(content)?;
        // The umask does not decide about files that others must be able to run or read.
        file.set_permissions(std::fs::Permissions::from_mode(mode))?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)
    })();
    if let Err(e) = done {
        // The first failure is the one to report.
        let _ = std::fs::remove_file(&temporary);
        return Err(e);
    }
    File::open(dir)?.sync_all()
}

/// Removes a file durably; false when it was not there.
///
/// # Errors
/// Those of the system.
pub fn remove(path: &Path) -> io::Result<bool> {
    let (dir, _) = split(path)?;
    match std::fs::remove_file(path) {
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(e) => return Err(e),
    }
    File::open(dir)?.sync_all()?;
    Ok(true)
}

fn split(path: &Path) -> io::Result<(&Path, &str)> {
    let invalid = || io::Error::new(io::ErrorKind::InvalidInput, "not the path of a file");
    let name = path.file_name().and_then(|n| n.to_str()).ok_or_else(invalid)?;
    let dir = path.parent().ok_or_else(invalid)?;
    Ok((if dir.as_os_str().is_empty() { Path::new(".") } else { dir }, name))
}

fn create(dir: &Path, name: &str, mode: u32) -> io::Result<(File, PathBuf)> {
    // Long names are cut: the temporary one must fit into a directory entry too.
    let stem = &name[..name.floor_char_boundary(200)];
    let mut last = io::Error::from(io::ErrorKind::AlreadyExists);
    for attempt in 0..ATTEMPTS {
        let path = dir.join(format!(".{stem}.{}-{attempt}.tmp", std::process::id()));
        match OpenOptions::new().write(true).create_new(true).mode(mode).open(&path) {
            Ok(file) => return Ok((file, path)),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => last = e,
            Err(e) => return Err(e),
        }
    }
    Err(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn replaces_content_and_mode_and_leaves_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("10-swd.conflist");
        write(&path, 0o600, b"old, and longer").unwrap();
        write(&path, 0o755, b"new").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o7777, 0o755);
        assert_eq!(names(dir.path()), ["10-swd.conflist"]);
    }

    #[test]
    fn a_failed_write_leaves_the_old_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("taken");
        std::fs::create_dir(&path).unwrap();
        std::fs::write(path.join("inside"), "x").unwrap();
        assert!(write(&path, 0o644, b"new").is_err());
        assert_eq!(names(dir.path()), ["taken"]);
        assert!(write(&dir.path().join("none/file"), 0o644, b"new").is_err());
    }

    #[test]
    fn leftovers_of_a_crash_are_stepped_over() {
        let dir = tempfile::tempdir().unwrap();
        let stale = format!(".a.{}-0.tmp", std::process::id());
        std::fs::write(dir.path().join(&stale), "half").unwrap();
        write(&dir.path().join("a"), 0o644, b"whole").unwrap();
        assert_eq!(names(dir.path()), [stale, "a".to_owned()]);
        assert_eq!(std::fs::read(dir.path().join("a")).unwrap(), b"whole");
    }

    #[test]
    fn removing_twice() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        write(&path, 0o644, b"").unwrap();
        assert!(remove(&path).unwrap());
        assert!(!remove(&path).unwrap());
    }
}
