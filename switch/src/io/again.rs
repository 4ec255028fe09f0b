//! Is a TAP that comes back from somebody who kept it still the device that it is said to be?
//!
//! A descriptor stays attached to its device whatever becomes of the device: it may have been renamed, moved to
//! another namespace or deleted meanwhile, and what is said about it may be about another one. The kernel is asked.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};

use super::host::is_ours;
use super::identity::NetnsIdentity;
use super::netlink::Netlink;
use super::netns::{NetnsId, run_in};
use super::opener::PortPlace;
use super::tap::{name_of, netns_of};

/// Checks that `tap` is attached to the device of this name at `place`, in the namespace of this identity.
///
/// # Errors
/// A sentence that says what it is instead, or what the kernel refused.
pub fn verify(tap: &OwnedFd, ifname: &str, place: PortPlace, identity: &NetnsIdentity) -> Result<(), String> {
    let asked = |what: &str| {
        let what = what.to_owned();
        move |e: io::Error| format!("{what}: {e}")
    };
    let name = name_of(tap).map_err(asked("it is no TAP of ours any more"))?;
    if name != ifname {
        return Err(format!("it is called {name} now"));
    }
    let netns = netns_of(tap).map_err(asked("its namespace"))?;
    if NetnsId::of(netns.as_fd()).map_err(asked("its namespace"))? != place.netns_id {
        return Err("it is in another namespace now".into());
    }
    let look = || -> io::Result<_> {
        let link = Netlink::open().and_then(|mut netlink| netlink.link(&name)).map_err(io::Error::other)?;
        Ok((NetnsIdentity::current()?, link))
    };
    let found = run_in(netns.as_fd(), look).and_then(|found| found);
    let (there, link) = found.map_err(asked("looking at it in its namespace"))?;
    if there != *identity {
        return Err("its namespace is another one than it was made in".into());
    }
    match link {
        Some(link) if link.index == place.ifindex && is_ours(&link) => Ok(()),
        Some(link) => Err(format!("it is interface {} and not {}, or not ours", link.index, place.ifindex)),
        None => Err("its namespace has no such interface".into()),
    }
}
