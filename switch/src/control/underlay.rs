//! The underlay under our feet: its address goes and comes back, its link goes down, its MTU changes.
//!
//! Sockets stay bound to an address that is away, and work again when it is back; so nothing is to be done but to say
//! so. A changed MTU is followed: what reaches a peer changes at once, and so do the MTUs that are derived from it,
//! those of networks that declare none and of their pods' devices. Pods keep their devices and connections, which send
//! smaller segments from then on.

use std::time::Instant;

use super::Underlay;
use super::core::Core;
use super::program::ProgramError;
use crate::io::UnderlayLink;

/// What the underlay was like when it was last looked at.
#[derive(Debug, Default)]
pub(super) struct Ground {
    /// The interface that has the address; `None` also while it was not looked at.
    link: Option<UnderlayLink>,
    /// What is wrong, and the next step.
    problem: Option<(String, String)>,
}

impl Ground {
    /// What is wrong, and the next step.
    pub(super) fn problem(&self) -> Option<&(String, String)> {
        self.problem.as_ref()
    }

    /// May a change to this interface of the node be one of the underlay?
    pub(super) fn concerns(&self, ifindex: u32) -> bool {
        self.link.as_ref().is_none_or(|link| link.ifindex == ifindex)
    }
}

impl Core {
    /// Looks at the underlay, and follows its MTU.
    ///
    /// # Errors
    /// When the worker has ended.
    pub(super) fn look_at_underlay(&mut self, now: Instant) -> Result<(), ProgramError> {
        let Some(Underlay { addr, mtu }) = self.settings.underlay else { return Ok(()) };
        let (link, problem) = match self.opener.underlay_link(addr) {
            Ok(link) => {
                let problem = problem(addr, link.as_ref());
                (link, problem)
            }
            Err(e) => (None, Some((format!("it cannot be looked at: {e}"), String::new()))),
        };
        if problem != self.ground.problem {
            match &problem {
                Some((text, _)) => self.say("underlay", now, format_args!("the underlay: {text}")),
                None => self.say("underlay", now, format_args!("the underlay is well again")),
            }
        }
        let found = link.as_ref().map_or(mtu, |link| link.mtu);
        self.ground = Ground { link, problem };
        if found == mtu {
            return Ok(());
        }
        self.say("underlay", now, format_args!("the underlay's MTU was {mtu} and is {found}"));
        self.settings.underlay = Some(Underlay { addr, mtu: found });
        self.converge(now)
    }
}

fn problem(addr: std::net::IpAddr, link: Option<&UnderlayLink>) -> Option<(String, String)> {
    let Some(link) = link else {
        return Some((
            format!("no interface of this node has its address {addr} any more, so no peer is reached"),
            "give it back with `ip addr add`; traffic goes on by itself then".to_owned(),
        ));
    };
    let ifname = &link.ifname;
    if !link.up {
        return Some((
            format!("interface {ifname}, which has its address {addr}, is down"),
            format!("ip link set {ifname} up"),
        ));
    }
    (!link.carrier).then(|| {
        (
            format!("interface {ifname}, which has its address {addr}, has no carrier"),
            "is the other end up? see `ip link`".to_owned(),
        )
    })
}
