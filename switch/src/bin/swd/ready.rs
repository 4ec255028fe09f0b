//! Telling a service manager that the daemon is ready: one datagram to the socket in `NOTIFY_SOCKET`.

use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// As [`notify`]; a service manager that does not listen is no reason to end.
pub fn tell(state: &str) {
    if let Err(e) = notify(state) {
        tracing::warn!("cannot tell the service manager: {e}");
    }
}

/// Says `state`, such as `READY=1`, if somebody wants to know.
///
/// # Errors
/// Those of the socket.
fn notify(state: &str) -> io::Result<()> {
    let Some(target) = std::env::var_os("NOTIFY_SOCKET") else { return Ok(()) };
    let address = match target.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(&target)?,
    };
    UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &address)?;
    Ok(())
}
