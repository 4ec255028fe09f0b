//! Whom the switch process runs as.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, lchown};
use std::path::{Path, PathBuf};

/// The account that is used where nobody has made one.
const NAME: &str = "swd";
/// Used when there is no such account: outside of what distributions and service managers give out.
const UNNAMED: Account = Account { uid: 65_521, gid: 65_521 };

/// A user and a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Account {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

/// The account of the switch process; `None` where this process cannot become another.
///
/// # Errors
/// A sentence, when `wanted` names none.
pub fn of(wanted: Option<&str>) -> Result<Option<Account>, String> {
    let account = match wanted {
        Some(text) => find(text)?,
        None => passwd(NAME).unwrap_or(UNNAMED),
    };
    let possible = rustix::process::geteuid().is_root()
        && mapped("uid_map", account.uid)
        && mapped("gid_map", account.gid);
    Ok(possible.then_some(account))
}

/// The directory on the way to `path` that the account may not pass, if there is one.
#[must_use]
pub fn obstacle(account: Account, path: &Path) -> Option<PathBuf> {
    let path = std::path::absolute(path).ok()?;
    path.ancestors().skip(1).find(|dir| !passes(account, dir)).map(Path::to_owned)
}

/// May it look up names there (path_resolution(7))? What is not there yet is made for everybody to pass.
fn passes(account: Account, dir: &Path) -> bool {
    let Ok(meta) = fs::metadata(dir) else { return true };
    let shift = match () {
        () if meta.uid() == account.uid => 6,
        () if meta.gid() == account.gid => 3,
        () => 0,
    };
    meta.mode() >> shift & 1 == 1
}

fn find(text: &str) -> Result<Account, String> {
    let number = |text: &str| text.parse::<u32>().ok();
    if let Some((uid, gid)) = text.split_once(':') {
        if let (Some(uid), Some(gid)) = (number(uid), number(gid)) {
            return Ok(Account { uid, gid });
        }
    } else if let Some(uid) = number(text) {
        return Ok(Account { uid, gid: uid });
    } else if let Some(account) = passwd(text) {
        return Ok(account);
    }
    Err(format!("user {text:?}: expected a name in /etc/passwd, UID or UID:GID"))
}

/// Local accounts only: a directory service may need the network that is about to be made.
fn passwd(name: &str) -> Option<Account> {
    let table = fs::read_to_string("/etc/passwd").ok()?;
    table.lines().find_map(|line| {
        let mut fields = line.split(':');
        if fields.next() != Some(name) {
            return None;
        }
        let (uid, gid) = (fields.nth(1)?.parse().ok()?, fields.next()?.parse().ok()?);
        Some(Account { uid, gid })
    })
}

/// Is there such an id in this user namespace (user_namespaces(7))?
fn mapped(map: &str, id: u32) -> bool {
    let Ok(map) = fs::read_to_string(format!("/proc/self/{map}")) else { return false };
    map.lines().any(|line| {
        let mut numbers = line.split_whitespace().filter_map(|n| n.parse::<u64>().ok());
        let (Some(first), Some(_), Some(count)) = (numbers.next(), numbers.next(), numbers.next()) else {
            return false;
        };
        (first..first + count).contains(&u64::from(id))
    })
}

impl Account {
    /// Makes this account the owner of a directory and of the plain files in it. Makes the directory where it is
    /// missing, with this mode.
    ///
    /// # Errors
    /// Those of the system.
    pub fn own(account: Option<Self>, dir: &Path, mode: u32) -> io::Result<()> {
        if !dir.is_dir() {
            if let Some(parent) = dir.parent() {
                fs::DirBuilder::new().recursive(true).mode(0o755).create(parent)?;
            }
            fs::DirBuilder::new().mode(mode).create(dir)?;
        }
        let Some(Self { uid, gid }) = account else { return Ok(()) };
        // The directory last: a root without CAP_DAC_OVERRIDE does not get into one that is somebody else's, and by
        // then everything in it is.
        let entries = match fs::read_dir(dir) {
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied && fs::metadata(dir)?.uid() == uid => {
                return Ok(());
            }
            other => other?,
        };
        for entry in entries {
            let entry = entry?;
            if entry.file_type()?.is_file() {
                lchown(entry.path(), Some(uid), Some(gid))?;
            }
        }
        lchown(dir, Some(uid), Some(gid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accounts_are_named_in_three_ways() {
        assert_eq!(find("root"), Ok(Account { uid: 0, gid: 0 }));
        assert_eq!(find("70:80"), Ok(Account { uid: 70, gid: 80 }));
        assert_eq!(find("70"), Ok(Account { uid: 70, gid: 70 }));
        for bad in ["", ":", "70:", ":80", "no such user", "-1", "4294967296"] {
            assert!(find(bad).unwrap_err().contains("expected"), "{bad}");
        }
    }

    #[test]
    fn a_directory_that_cannot_be_passed_is_found() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("closed/deep/state");
        fs::create_dir_all(&path).unwrap();
        let mode =
            |mode| fs::set_permissions(dir.path().join("closed"), fs::Permissions::from_mode(mode)).unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let stranger = Account { uid: 4_000_000, gid: 4_000_001 };
        mode(0o711);
        assert_eq!(obstacle(stranger, &path), None);
        mode(0o770);
        assert_eq!(obstacle(stranger, &path), Some(dir.path().join("closed")));
        let meta = fs::metadata(&path).unwrap();
        assert_eq!(obstacle(Account { uid: meta.uid(), gid: 0 }, &path), None);
        // The directory itself is given to the account.
        assert_eq!(obstacle(stranger, &dir.path().join("closed")), None);
    }

    #[test]
    fn ids_that_are_not_mapped_are_known() {
        let own = rustix::process::geteuid().as_raw();
        assert!(mapped("uid_map", own));
        assert!(!mapped("no such map", own));
    }
}
