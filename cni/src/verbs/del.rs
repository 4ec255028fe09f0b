//! DEL: succeeds when there is nothing to delete, and also when the daemon does not run.
//!
//! The attachment is known by container and interface alone. `CNI_NETNS` is not looked at: it may be empty, gone,
//! or by now a path to another pod's namespace or the node's, because process ids are used again. Nor is
//! anything of the configuration read that is not needed to delete.
//!
//! With the daemon gone its devices are gone with it, so a pod can be deleted at once: a tombstone tells the
//! daemon when it is back. An external IPAM plugin is told in every case.

use std::io;
use std::path::Path;

use ctl::error::ApiError;
use ctl::proto;
use ctl::tombstone::{self, Tombstone};

use crate::config::Config;
use crate::daemon::{self, Daemon};
use crate::delegate::Delegate;
use crate::env::{Command, Env};
use crate::error::{CniError, Code, both};
use crate::request;

pub fn run(env: &Env, config: &Config) -> Result<(), CniError> {
    let socket = config.socket()?;
    let delegate = Delegate::of(env, config)?;
    let released = match delete(env, &socket) {
        Err(e) if e.reason.is_not_found() => Ok(()),
        Err(e) if daemon::is_unknown(&e) => leave_tombstone(env, config, &socket, &e),
        other => other.map_err(|e| CniError::from_api(&format!("cannot delete {}", env.subject()), e)),
    };
    // After the device: an address that is free for others must not be in use.
    both(released, delegate.map_or(Ok(()), |d| d.tell(Command::Del)))
}

fn delete(env: &Env, socket: &Path) -> Result<(), ApiError> {
    let request = proto::DeleteAttachmentRequest { key: Some(request::key(env)) };
    Daemon::connect(socket, daemon::DEL)?.call(async |s| s.delete_attachment(request).await).map(drop)
}

fn leave_tombstone(env: &Env, config: &Config, socket: &Path, cause: &ApiError) -> Result<(), CniError> {
    let dir = tombstone::directory(socket);
    match Tombstone::new(&env.container_id, &env.ifname, &config.name).write(&dir) {
        Ok(()) => Ok(()),
        // A key so long that no file can be named after it names no port either.
        Err(e) if e.kind() == io::ErrorKind::InvalidInput => Ok(()),
        Err(e) => {
            let (subject, shown) = (env.subject(), dir.display());
            let msg = format!("cannot delete {subject}: {cause}, and noting it in {shown} failed: {e}");
            Err(CniError::new(Code::TryAgainLater, msg).details(cause.hint.clone()))
        }
    }
}
