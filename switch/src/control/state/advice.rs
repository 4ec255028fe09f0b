//! What an operator does about a disk that fails.

use std::io::{self, ErrorKind};

/// The next step after this error of writing the state.
#[must_use]
pub fn next_step(e: &io::Error) -> &'static str {
    match e.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => "make room on the disk of the state directory",
        ErrorKind::ReadOnlyFilesystem => {
            "find out why the file system of the state directory is read-only (`dmesg`), and mount it read-write"
        }
        ErrorKind::PermissionDenied => {
            "give the state directory and its files back to the user that swd runs as"
        }
        _ => "look in the kernel's log (`dmesg`) for errors of the disk of the state directory",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_error_has_a_step_of_its_own() {
        let step = |errno| next_step(&io::Error::from_raw_os_error(errno));
        assert_eq!(step(libc::ENOSPC), step(libc::EDQUOT));
        for (errno, word) in [
            (libc::ENOSPC, "room"),
            (libc::EROFS, "read-write"),
            (libc::EIO, "dmesg"),
            (libc::EACCES, "user"),
        ] {
            assert!(step(errno).contains(word), "{errno}");
        }
    }
}
