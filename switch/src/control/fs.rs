//! The few file operations that durability is made of.
//!
//! They sit behind [`Fs`] so that a test can stop, fail or lose power at each of them. Names are single
//! components inside one directory; the real thing opens everything relative to that directory's descriptor
//! and follows no symbolic link.

use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

/// Files larger than this are refused: a state of a million objects is far smaller.
pub const MAX_FILE: u64 = 256 << 20;

/// One directory of small files.
pub trait Fs: Send {
    /// The whole content, or `None` when there is no such file.
    ///
    /// # Errors
    /// Those of the system, and `InvalidData` for more than [`MAX_FILE`] bytes.
    fn read(&mut self, name: &str) -> io::Result<Option<Vec<u8>>>;
    /// Is there something of this name?
    ///
    /// # Errors
    /// Those of the system.
    fn exists(&mut self, name: &str) -> io::Result<bool>;
    /// Creates a file that did not exist, with this content, and waits until the content is on the disk. The
    /// name is durable only after [`Fs::sync_dir`].
    ///
    /// # Errors
    /// Those of the system; part of the file may be left.
    fn create(&mut self, name: &str, content: &[u8]) -> io::Result<()>;
    /// Gives a file a second name, which must be free.
    ///
    /// # Errors
    /// Those of the system.
    fn link(&mut self, from: &str, to: &str) -> io::Result<()>;
    /// Renames, replacing what has the new name.
    ///
    /// # Errors
    /// Those of the system.
    fn rename(&mut self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a name; a missing one is fine.
    ///
    /// # Errors
    /// Those of the system.
    fn remove(&mut self, name: &str) -> io::Result<()>;
    /// Waits until the names are on the disk.
    ///
    /// # Errors
    /// Those of the system.
    fn sync_dir(&mut self) -> io::Result<()>;
}

/// A directory of the machine.
#[derive(Debug)]
pub struct RealFs {
    dir: OwnedFd,
}

impl RealFs {
    /// Opens a directory, after making it (mode 0700) where it is missing.
    ///
    /// # Errors
    /// Those of the system.
    pub fn open(path: &Path) -> io::Result<Self> {
        use std::os::unix::fs::DirBuilderExt as _;
        if !path.is_dir() {
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)?;
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self { dir: rustix::fs::open(path, flags, Mode::empty())? })
    }

    /// Claims the directory for this process; false when another has it. The claim ends with the descriptor
    /// that is returned, however the process ends.
    ///
    /// # Errors
    /// Those of the system.
    pub fn lock(&self, name: &str) -> io::Result<Option<OwnedFd>> {
        // A file that is open for writing would keep the file system from being made read-only.
        let flags = OFlags::RDONLY | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = rustix::fs::openat(self.dir.as_fd(), name, flags, Mode::from_raw_mode(0o600))?;
        match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(file)),
            Err(Errno::WOULDBLOCK) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }
}

impl Fs for RealFs {
    fn read(&mut self, name: &str) -> io::Result<Option<Vec<u8>>> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let file = match rustix::fs::openat(self.dir.as_fd(), name, flags, Mode::empty()) {
            Err(Errno::NOENT) => return Ok(None),
            other => std::fs::File::from(other?),
        };
        let mut content = Vec::new();
        file.take(MAX_FILE + 1).read_to_end(&mut content)?;
        if content.len() as u64 > MAX_FILE {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "larger than 256 MiB"));
        }
        Ok(Some(content))
    }

    fn exists(&mut self, name: &str) -> io::Result<bool> {
        match rustix::fs::statat(self.dir.as_fd(), name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(_) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(e) => Err(e.into()),
        }
    }

    fn create(&mut self, name: &str, content: &[u8]) -> io::Result<()> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = rustix::fs::openat(self.dir.as_fd(), name, flags, Mode::from_raw_mode(0o600))?;
        let mut file = std::fs::File::from(file);
        file.write_all(content)?;
        file.sync_all()
    }

    fn link(&mut self, from: &str, to: &str) -> io::Result<()> {
        let dir = self.dir.as_fd();
        Ok(rustix::fs::linkat(dir, from, dir, to, AtFlags::empty())?)
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        let dir = self.dir.as_fd();
        Ok(rustix::fs::renameat(dir, from, dir, to)?)
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        match rustix::fs::unlinkat(self.dir.as_fd(), name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    fn sync_dir(&mut self) -> io::Result<()> {
        Ok(rustix::fs::fsync(&self.dir)?)
    }
}
