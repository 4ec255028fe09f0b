//! The Unix socket: who may connect, and a clean beginning and end of it.
//!
//! The socket is made under a temporary name, given its mode (0660) and then renamed into place: nobody can
//! connect before the mode is right, and what an earlier daemon left is replaced. A daemon that still answers
//! there is not. At the end the file is removed if it is still ours. A monitor makes it, and gives the listening
//! descriptor to its switch process.
//!
//! Limits: messages of [`ctl::MAX_MESSAGE_BYTES`], header lists of [`HEADERS`] bytes, 64 requests at a time on one
//! connection, and connections as [`incoming`] has them; a request that is being carried out when the daemon is told to
//! stop has [`GRACE`] to end. `docs/limits.md` has them all.

use std::future::Future;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ctl::proto::switch_server::SwitchServer;

use incoming::Incoming;

use super::Control;
use super::service::Api;

pub mod incoming;

/// Time that requests have to end when the daemon stops.
pub const GRACE: Duration = Duration::from_secs(3);
const REQUESTS: u32 = 64;
/// Longest list of headers in bytes, names and values together.
const HEADERS: u32 = 16 << 10;
const MODE: u32 = 0o660;
const PRIVATE: u32 = 0o600;

/// A listening socket; its file is removed when it is dropped.
#[derive(Debug)]
pub struct Socket {
    listener: Option<UnixListener>,
    file: Option<SocketFile>,
}

#[derive(Debug)]
struct SocketFile {
    /// Where clients look for it.
    path: PathBuf,
    /// Where it is, until it is published.
    temporary: Option<PathBuf>,
    /// Device and inode of the file we made.
    id: (u64, u64),
}

impl Socket {
    /// Makes the socket; connections are accepted from now on.
    ///
    /// # Errors
    /// As [`Socket::prepare`].
    pub fn bind(path: &Path) -> io::Result<Self> {
        let mut socket = Self::prepare(path)?;
        socket.publish()?;
        Ok(socket)
    }

    /// One that listens already, and whose file is somebody else's.
    #[must_use]
    pub const fn inherited(listener: UnixListener) -> Self {
        Self { listener: Some(listener), file: None }
    }

    /// One that a monitor before this one has made, if its file is still what clients find at `path`: those that have
    /// connected meanwhile have waited, and are served. `id` is the file's device and inode.
    #[must_use]
    pub fn returned(listener: UnixListener, path: &Path, id: (u64, u64)) -> Option<Self> {
        let found = std::fs::symlink_metadata(path).ok()?;
        let there = found.file_type().is_socket() && (found.dev(), found.ino()) == id;
        let file = SocketFile { path: path.to_owned(), temporary: None, id };
        there.then_some(Self { listener: Some(listener), file: Some(file) })
    }

    /// Makes the socket where no client looks for it.
    ///
    /// # Errors
    /// Those of the system; `AddrInUse` when another daemon answers there or something that is no socket is
    /// in the way.
    pub fn prepare(path: &Path) -> io::Result<Self> {
        Self::prepare_with(path, MODE)
    }

    /// The same, for processes of the same user only.
    ///
    /// # Errors
    /// As [`Socket::prepare`].
    pub fn prepare_private(path: &Path) -> io::Result<Self> {
        Self::prepare_with(path, PRIVATE)
    }

    /// One that another program has made.
    #[must_use]
    pub fn left(listener: UnixListener, path: PathBuf, id: (u64, u64)) -> Self {
        Self { listener: Some(listener), file: Some(SocketFile { path, temporary: None, id }) }
    }

    fn prepare_with(path: &Path, mode: u32) -> io::Result<Self> {
        if let Some(dir) = path.parent().filter(|d| !d.as_os_str().is_empty() && !d.is_dir()) {
            std::fs::DirBuilder::new().recursive(true).mode(0o755).create(dir)?;
        }
        if let Ok(meta) = std::fs::symlink_metadata(path) {
            if !meta.file_type().is_socket() {
                let text = format!("{} is there and is no socket", path.display());
                return Err(io::Error::new(io::ErrorKind::AddrInUse, text));
            }
            if UnixStream::connect(path).is_ok() {
                let text = format!("another swd answers at {}", path.display());
                return Err(io::Error::new(io::ErrorKind::AddrInUse, text));
            }
        }
        let mut temporary = path.as_os_str().to_owned();
        temporary.push(format!(".{}", std::process::id()));
        let temporary = PathBuf::from(temporary);
        match std::fs::remove_file(&temporary) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let listener = UnixListener::bind(&temporary)?;
        let finish = || -> io::Result<(u64, u64)> {
            std::fs::set_permissions(&temporary, std::fs::Permissions::from_mode(mode))?;
            listener.set_nonblocking(true)?;
            let meta = std::fs::symlink_metadata(&temporary)?;
            Ok((meta.dev(), meta.ino()))
        };
        match finish() {
            Ok(id) => {
                let file = SocketFile { path: path.to_owned(), temporary: Some(temporary), id };
                Ok(Self { listener: Some(listener), file: Some(file) })
            }
            Err(e) => {
                let _ = std::fs::remove_file(&temporary);
                Err(e)
            }
        }
    }
}

impl Socket {
    /// Lets clients find it.
    ///
    /// # Errors
    /// Those of renaming.
    pub fn publish(&mut self) -> io::Result<()> {
        let Some(file) = &mut self.file else { return Ok(()) };
        if let Some(temporary) = &file.temporary {
            std::fs::rename(temporary, &file.path)?;
            file.temporary = None;
        }
        Ok(())
    }

    /// The listening descriptor once more.
    ///
    /// # Errors
    /// No descriptors, or the socket was withdrawn.
    pub fn listener(&self) -> io::Result<UnixListener> {
        self.listener.as_ref().ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected))?.try_clone()
    }

    /// The listening descriptor.
    ///
    /// # Errors
    /// The socket was withdrawn.
    pub fn descriptor(&self) -> io::Result<BorrowedFd<'_>> {
        let listener = self.listener.as_ref().ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected))?;
        Ok(listener.as_fd())
    }

    /// Where clients find it, and device and inode of the file.
    #[must_use]
    pub fn place(&self) -> Option<(&Path, (u64, u64))> {
        self.file.as_ref().map(|file| (file.path.as_path(), file.id))
    }

    /// Leaves the file to another process.
    pub fn leave(&mut self) {
        if let Some(file) = self.file.take() {
            std::mem::forget(file);
        }
        self.listener = None;
    }

    /// Device and inode of its file, for [`Socket::returned`].
    #[must_use]
    pub fn id(&self) -> Option<(u64, u64)> {
        self.file.as_ref().map(|file| file.id)
    }

    /// Removes the file and stops to listen here.
    pub fn withdraw(&mut self) {
        self.listener = None;
        self.file = None;
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let at = self.temporary.as_ref().unwrap_or(&self.path);
        let ours = std::fs::symlink_metadata(at).is_ok_and(|m| (m.dev(), m.ino()) == self.id);
        if ours {
            let _ = std::fs::remove_file(at);
        }
    }
}

/// Why serving ended before it was told to.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The reflection data do not decode.
    #[error("reflection: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// The socket cannot be polled.
    #[error("the control socket: {0}")]
    Listen(io::Error),
    /// The transport failed.
    #[error("serving: {0}")]
    Transport(#[from] tonic::transport::Error),
}

/// Serves the API until `stop` is done.
///
/// # Errors
/// See [`ServeError`].
pub async fn serve(
    control: Control,
    mut socket: Socket,
    stop: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    let Some(listener) = socket.listener.take() else { return Ok(()) };
    let listener = tokio::net::UnixListener::from_std(listener).map_err(ServeError::Listen)?;
    let descriptors = control.core().await.settings.descriptors;
    let incoming = Incoming::new(listener, descriptors);
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(ctl::DESCRIPTOR_SET)
        .build_v1()?;
    let switch = SwitchServer::new(Api(control))
        .max_decoding_message_size(ctl::MAX_MESSAGE_BYTES)
        .max_encoding_message_size(ctl::MAX_MESSAGE_BYTES);
    let (told, mut telling) = tokio::sync::watch::channel(false);
    let server = tonic::transport::Server::builder()
        .concurrency_limit_per_connection(REQUESTS as usize)
        .max_concurrent_streams(REQUESTS)
        .http2_max_header_list_size(HEADERS)
        .add_service(switch)
        .add_service(reflection)
        .serve_with_incoming_shutdown(incoming, async move {
            let _ = telling.wait_for(|told| *told).await;
        });
    tokio::pin!(server);
    tokio::select! {
        result = &mut server => return Ok(result?),
        () = stop => {}
    }
    // Connect errors are clearer to clients than connections that nobody serves any more.
    drop(socket);
    let _ = told.send(true);
    match tokio::time::timeout(GRACE, server).await {
        Ok(result) => Ok(result?),
        Err(_) => {
            tracing::warn!("requests were still running after {GRACE:?} and were dropped");
            Ok(())
        }
    }
}
