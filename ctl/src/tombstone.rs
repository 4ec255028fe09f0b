//! Notes to a daemon that does not run: these attachments are deleted.
//!
//! A runtime deletes pods whether or not the daemon answers, and asks once or many times as it likes. When the
//! CNI plugin cannot reach the daemon it leaves a tombstone and reports success; the daemon deletes what the
//! tombstones name when it starts, before it opens ports, and now and then while it runs, because one may be
//! written while it is merely slow.
//!
//! The directory is `deleted` beside the daemon's socket: both sides know it without being told more than the
//! socket. A tombstone is one JSON object in a file of its own:
//!
//! ```json
//! {"container_id":"0123abcd","ifname":"eth0","cni_network":"pods","time":1767225600}
//! ```
//!
//! `time` is when it was written, in seconds since 1970, for people; nothing depends on it. The file is named
//! `CONTAINER-ID:IFNAME`. Neither part can contain a `:` or a `/`, so no two attachments share a name, and names
//! that begin with a dot are files being written.
//!
//! **For the reader.** List, delete the attachments and remove the files while no attachment can be added (the
//! daemon's lock on its state serves): the plugin first deletes the attachment through the daemon, then removes
//! the tombstone, and only then adds an attachment of the same key. A reader that listed before and deletes
//! after would delete the new one.

use std::fs::{DirBuilder, File};
use std::io::{self, Read as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::atomic;

/// Longest file that is read, in bytes. Three names and a number need less than 1 KiB.
const MAX_FILE: u64 = 16 << 10;
/// Longest name of a file on Linux, in bytes.
const MAX_NAME: usize = 255;

/// One attachment that its runtime has deleted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tombstone {
    /// `CNI_CONTAINERID`.
    pub container_id: String,
    /// `CNI_IFNAME`.
    pub ifname: String,
    /// `name` of the CNI network configuration.
    pub cni_network: String,
    /// Seconds since 1970; 0 when the clock is before that.
    #[serde(default)]
    pub time: u64,
}

/// What a directory of tombstones holds.
#[derive(Debug, Default)]
pub struct Listing {
    /// Each with its file.
    pub tombstones: Vec<(PathBuf, Tombstone)>,
    /// Files that are no tombstones, with the cause. They are not removed: somebody should look at them.
    pub unreadable: Vec<(PathBuf, String)>,
    /// There are more than were asked for.
    pub more: bool,
}

/// Where the tombstones for the daemon at this socket are.
#[must_use]
pub fn directory(socket: &Path) -> PathBuf {
    socket.parent().unwrap_or(Path::new("/")).join("deleted")
}

impl Tombstone {
    /// A tombstone written now.
    #[must_use]
    pub fn new(container_id: &str, ifname: &str, cni_network: &str) -> Self {
        let time = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
        let own = str::to_owned;
        Self { container_id: own(container_id), ifname: own(ifname), cni_network: own(cni_network), time }
    }

    /// Writes it durably, making the directory when it is missing.
    ///
    /// # Errors
    /// Those of the system, and [`io::ErrorKind::InvalidInput`] for a key that cannot be part of a file name.
    pub fn write(&self, dir: &Path) -> io::Result<()> {
        let path = path(dir, &self.container_id, &self.ifname)?;
        if !dir.is_dir() {
            if let Some(parent) = dir.parent() {
                // As the daemon makes it: clients that are not root pass through it to the socket.
                DirBuilder::new().recursive(true).mode(0o755).create(parent)?;
            }
            // Only the daemon and the plugin have business here. Many plugins may run at once.
            match DirBuilder::new().mode(0o700).create(dir) {
                Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
                _ => {}
            }
        }
        atomic::write(&path, 0o600, &serde_json::to_vec(self)?)?;
        // The daemon reads it as whoever owns the directory.
        let (file, owner) = (std::fs::metadata(&path)?, std::fs::metadata(dir)?);
        if (file.uid(), file.gid()) != (owner.uid(), owner.gid()) {
            std::os::unix::fs::lchown(&path, Some(owner.uid()), Some(owner.gid()))?;
        }
        Ok(())
    }
}

/// The file of an attachment's tombstone.
///
/// # Errors
/// [`io::ErrorKind::InvalidInput`] when the key cannot be part of a file name. No attachment can have such a key:
/// its port's name would be as bad.
pub fn path(dir: &Path, container_id: &str, ifname: &str) -> io::Result<PathBuf> {
    let name = format!("{container_id}:{ifname}");
    let bad = |part: &str| part.is_empty() || part.contains(['/', ':', '\0']);
    if bad(container_id) || bad(ifname) || name.starts_with('.') || name.len() > MAX_NAME {
        let shown = name.escape_default();
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("`{shown}` cannot name a file")));
    }
    Ok(dir.join(name))
}

/// Reads at most `limit` tombstones; a directory that does not exist has none.
///
/// # Errors
/// When the directory cannot be read. A single file that cannot is listed as such.
pub fn list(dir: &Path, limit: usize) -> io::Result<Listing> {
    let entries = match std::fs::read_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Listing::default()),
        other => other?,
    };
    let mut listing = Listing::default();
    for entry in entries {
        let path = entry?.path();
        if path.file_name().is_some_and(|n| n.as_encoded_bytes().starts_with(b".")) {
            continue;
        }
        if listing.tombstones.len() + listing.unreadable.len() == limit {
            listing.more = true;
            break;
        }
        match read(&path) {
            Ok(Some(tombstone)) => listing.tombstones.push((path, tombstone)),
            // Removed since the directory was read.
            Ok(None) => {}
            Err(cause) => listing.unreadable.push((path, cause)),
        }
    }
    Ok(listing)
}

fn read(path: &Path) -> Result<Option<Tombstone>, String> {
    let mut content = Vec::new();
    // Of a pipe or device by that name not even a read may be tried: it could wait for ever.
    match std::fs::symlink_metadata(path) {
        Ok(m) if !m.is_file() => return Err("not a regular file".to_owned()),
        Ok(_) => {}
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e.to_string()),
    }
    let file = match File::open(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(|e| e.to_string())?,
    };
    file.take(MAX_FILE + 1).read_to_end(&mut content).map_err(|e| e.to_string())?;
    if content.len() as u64 > MAX_FILE {
        return Err(format!("longer than {MAX_FILE} bytes"));
    }
    serde_json::from_slice(&content).map(Some).map_err(|e| e.to_string())
}

/// Removes a tombstone whose attachment is gone; false when there was none.
///
/// # Errors
/// Those of the system.
pub fn remove(path: &Path) -> io::Result<bool> {
    atomic::remove(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_listed_removed() {
        let run = tempfile::tempdir().unwrap();
        let dir = directory(&run.path().join("swd/swd.sock"));
        assert_eq!(dir, run.path().join("swd/deleted"));
        assert!(list(&dir, 10).unwrap().tombstones.is_empty());

        let [a, b] = ["eth0", "net1"].map(|ifname| Tombstone::new("0123-ab.c_d", ifname, "pods"));
        a.write(&dir).unwrap();
        a.write(&dir).unwrap();
        b.write(&dir).unwrap();
        let listing = list(&dir, 10).unwrap();
        assert!(listing.unreadable.is_empty() && !listing.more);
        let mut found: Vec<_> = listing.tombstones.into_iter().collect();
        found.sort_by(|x, y| x.0.cmp(&y.0));
        let file = |ifname| path(&dir, "0123-ab.c_d", ifname).unwrap();
        assert_eq!(found, [(file("eth0"), a), (file("net1"), b)]);

        assert!(remove(&file("eth0")).unwrap());
        assert!(!remove(&file("eth0")).unwrap());
        assert_eq!(list(&dir, 10).unwrap().tombstones.len(), 1);
    }

    #[test]
    fn directories_are_made_as_the_daemon_makes_them() {
        use std::os::unix::fs::PermissionsExt as _;
        let root = tempfile::tempdir().unwrap();
        let dir = directory(&root.path().join("run/swd/swd.sock"));
        Tombstone::new("c1", "eth0", "pods").write(&dir).unwrap();
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
        // Whatever the umask takes away, passing through is left to others, and reading the notes is not.
        assert_eq!(mode(&root.path().join("run/swd")) & 0o011, 0o011);
        assert_eq!(mode(&dir), 0o700);
    }

    #[test]
    fn what_is_on_disk() {
        let dir = tempfile::tempdir().unwrap();
        let own = str::to_owned;
        let tombstone = Tombstone {
            container_id: own("c1"),
            ifname: own("eth0"),
            cni_network: own("pods"),
            time: 1_767_225_600,
        };
        tombstone.write(dir.path()).unwrap();
        let text = std::fs::read_to_string(dir.path().join("c1:eth0")).unwrap();
        assert_eq!(text, r#"{"container_id":"c1","ifname":"eth0","cni_network":"pods","time":1767225600}"#);
    }

    #[test]
    fn keys_that_name_no_file() {
        let dir = Path::new("/x");
        let long = "a".repeat(251);
        for (id, ifname) in [("", "eth0"), ("a", ""), ("a/b", "e"), ("a:b", "e"), (".", "e"), (&long, "eth0")]
        {
            let e = path(dir, id, ifname).unwrap_err();
            assert_eq!(e.kind(), io::ErrorKind::InvalidInput, "{id} {ifname}");
        }
        assert!(path(dir, &long, "e").is_ok());
    }

    #[test]
    fn what_is_no_tombstone_is_reported_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("half"), "{\"container_id\":\"a\"").unwrap();
        std::fs::write(dir.path().join("huge"), " ".repeat(17 << 10)).unwrap();
        std::fs::write(dir.path().join(".c:eth0.1-0.tmp"), "").unwrap();
        std::fs::create_dir(dir.path().join("dir")).unwrap();
        let listing = list(dir.path(), 10).unwrap();
        assert!(listing.tombstones.is_empty());
        assert_eq!(listing.unreadable.len(), 3);
        assert!(dir.path().join("half").exists());
    }

    #[test]
    fn a_listing_has_a_limit() {
        let dir = tempfile::tempdir().unwrap();
        for n in 0..5 {
            Tombstone::new(&format!("c{n}"), "eth0", "pods").write(dir.path()).unwrap();
        }
        let listing = list(dir.path(), 3).unwrap();
        assert_eq!((listing.tombstones.len(), listing.more), (3, true));
        let listing = list(dir.path(), 5).unwrap();
        assert_eq!((listing.tombstones.len(), listing.more), (5, false));
    }
}
