//! ADD: all or nothing.
//!
//! The daemon undoes what it could not finish. What is left to undo here is the reservation of an external IPAM
//! plugin, and an attachment of which we do not know whether it was made because the answer did not come: for
//! that a tombstone is left, so that it goes away even when the runtime never sends DEL.
//!
//! A tombstone of this very attachment, found before, is honoured first: container ids are used again (podman
//! does when a container is restarted), and the daemon must not find the old note after the new attachment.
//!
//! ADD of an attachment that is there already, as it is asked for, succeeds with what is there: a runtime that
//! lost our answer can ask again. An interface of that name that is not ours is an error, and so is a repeated
//! ADD with an external IPAM plugin, because such a plugin cannot be asked twice and DEL of the second attempt
//! would free the address of the first.

use ctl::error::Reason;
use ctl::proto;
use ctl::tombstone::{self, Tombstone};
use serde_json::Value;

use crate::config::Config;
use crate::daemon::{self, Daemon};
use crate::delegate::Delegate;
use crate::env::{Command, Env};
use crate::error::{CniError, Code};
use crate::request;
use crate::result::{self, Allocation, Own, Previous};

pub fn run(env: &Env, config: &Config) -> Result<Value, CniError> {
    env.refuse_own_netns()?;
    let mut request = request::add(env, config)?;
    let previous = Previous::of(config.prev_result()?)?;
    let dns = request::dns(config)?;
    let default_route = request.default_route.unwrap_or(true);
    let socket = config.socket()?;
    let delegate = Delegate::of(env, config)?;

    let what = format!("cannot add {}", env.subject());
    let mut daemon = Daemon::connect(&socket, daemon::ADD).map_err(|e| CniError::from_api(&what, e))?;
    let tombstones = tombstone::directory(&socket);
    honour_tombstone(env, &tombstones, &mut daemon, &what)?;

    let mut allocation = Allocation::default();
    if let Some(delegate) = &delegate {
        refuse_repeated(env, config, &mut daemon, &what)?;
        allocation = allocate(delegate)?;
        // Addresses asked for reach the IPAM plugin the same way they reached us, and it decides.
        request.ips = std::mem::take(&mut allocation.ips);
        request.delegated = true;
    }
    match daemon.call(async |s| s.add_attachment(request).await) {
        Ok(attachment) => {
            let dns = dns.or(allocation.dns);
            let own =
                Own { attachment: &attachment, ifname: &env.ifname, sandbox: &env.netns, default_route, dns };
            Ok(previous.with(config.version, own))
        }
        Err(e) => {
            let unknown = daemon::is_unknown(&e);
            let mut error = CniError::from_api(&what, e);
            if unknown {
                let note = Tombstone::new(&env.container_id, &env.ifname, &config.name);
                if let Err(e) = note.write(&tombstones) {
                    let msg = format!("cannot note in {} that it is to be undone: {e}", tombstones.display());
                    error = error.and(CniError::new(Code::Io, msg));
                }
            }
            Err(match delegate.map(|d| d.tell(Command::Del)) {
                Some(Err(e)) => error.and(e),
                _ => error,
            })
        }
    }
}

fn honour_tombstone(
    env: &Env,
    tombstones: &std::path::Path,
    daemon: &mut Daemon,
    what: &str,
) -> Result<(), CniError> {
    // A key that names no file has no tombstone; the daemon says what is wrong with it.
    let Ok(path) = tombstone::path(tombstones, &env.container_id, &env.ifname) else { return Ok(()) };
    if !path.exists() {
        return Ok(());
    }
    let request = proto::DeleteAttachmentRequest { key: Some(request::key(env)) };
    daemon.call(async |s| s.delete_attachment(request).await).map_err(|e| CniError::from_api(what, e))?;
    tombstone::remove(&path)
        .map(drop)
        .map_err(|e| CniError::new(Code::Io, format!("{what}: cannot remove {}: {e}", path.display())))
}

fn refuse_repeated(env: &Env, config: &Config, daemon: &mut Daemon, what: &str) -> Result<(), CniError> {
    let request = proto::CheckAttachmentRequest {
        key: Some(request::key(env)),
        cni_network: config.name.clone(),
        ..Default::default()
    };
    match daemon.call(async |s| s.check_attachment(request).await) {
        Err(e) if e.reason == Reason::PortNotFound => Ok(()),
        Err(e) => Err(CniError::from_api(what, e)),
        Ok(_) => Err(CniError::new(Code::Conflict, format!("{what}: it is there already"))
            .details("delete it first (DEL)")),
    }
}

/// When the plugin fails it is told to free what it may have reserved.
fn allocate(delegate: &Delegate<'_>) -> Result<Allocation, CniError> {
    let allocated = delegate.run(Command::Add).and_then(|out| result::allocation(&delegate.kind, &out));
    allocated.map_err(|e| match delegate.tell(Command::Del) {
        Ok(()) => e,
        Err(second) => e.and(second),
    })
}
