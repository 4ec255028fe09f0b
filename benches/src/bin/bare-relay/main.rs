//! The practical limit of a userspace switch: a relay with every offload the switch uses, and no switching.
//!
//! One TAP to another on one node, or one TAP to a UDP tunnel and back. What a frame needs for segmentation and
//! merging is parsed; there are no tables, no learning, no guard, no counters, no control. TAPs are opened and set
//! as the switch sets them. One thread, one `epoll`, up to 64 reads of a source, then the writes.
//!
//! Limits: exactly two ends; peers are believed; a write that fails loses its frame without a word.

mod relay;

use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::os::fd::AsFd as _;
use std::process::ExitCode;

use clap::Parser;
use relay::{Relay, Tap, Tunnel};
use switch::io::link::{GSO_MAX_SIZE, LinkChange};
use switch::io::netlink::Netlink;
use switch::io::netns::run_in;
use switch::io::{NetnsRef, tap};

/// Ring slots of a TAP, as the switch has it for ports with offloads.
const QUEUE: u32 = 1000;
/// The same without offloads: a window of single packets has to fit.
const QUEUE_PLAIN: u32 = 4000;
/// Interface in the pod.
const IFNAME: &str = "eth0";

/// Moves frames between two TAPs, or between a TAP and a UDP tunnel, and does nothing else.
#[derive(Parser)]
struct Args {
    /// Network namespace (name or path) in which a TAP `eth0` is made; once or twice
    #[arg(long, value_name = "NETNS", required = true, num_args = 1)]
    tap: Vec<NetnsRef>,
    /// Where this end of the tunnel is bound
    #[arg(long, value_name = "IP:PORT", requires = "remote")]
    local: Option<SocketAddr>,
    /// The tunnel's other end
    #[arg(long, value_name = "IP:PORT", requires = "local")]
    remote: Option<SocketAddr>,
    /// MTU of the TAPs
    #[arg(long, default_value_t = 1450)]
    mtu: u32,
    /// Take and give complete standard packets only at the TAPs
    #[arg(long)]
    no_offload: bool,
    /// Write every frame to a TAP by itself
    #[arg(long)]
    no_merge: bool,
    /// Receive every datagram of the tunnel by itself
    #[arg(long)]
    no_udp_gro: bool,
    /// Send every datagram to the tunnel by itself
    #[arg(long)]
    no_udp_segment: bool,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            let _ = writeln!(io::stderr(), "bare-relay: {e}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> io::Result<()> {
    let taps = args.tap.iter().map(|netns| open(netns, args)).collect::<io::Result<Vec<_>>>()?;
    let tunnel = match (args.local, args.remote) {
        (Some(local), Some(remote)) => {
            Some(Tunnel::open(local, remote, !args.no_udp_gro, !args.no_udp_segment)?)
        }
        _ => None,
    };
    let ready = || -> io::Result<()> {
        let mut out = io::stdout();
        writeln!(out, "ready")?;
        out.flush()
    };
    match (<[Tap; 2]>::try_from(taps), tunnel) {
        (Ok([a, b]), None) => {
            ready()?;
            Relay::new(args.mtu).between_taps(a, b)
        }
        (Err(taps), Some(tunnel)) if taps.len() == 1 => {
            ready()?;
            let [tap] = <[Tap; 1]>::try_from(taps).map_err(|_| io::ErrorKind::InvalidInput)?;
            Relay::new(args.mtu).over(tap, tunnel)
        }
        _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "two TAPs, or one TAP and a tunnel")),
    }
}

/// Makes the TAP in the namespace, with the settings of a port of the switch.
fn open(netns: &NetnsRef, args: &Args) -> io::Result<Tap> {
    let fd = netns.open().map_err(io::Error::other)?;
    run_in(fd.as_fd(), || {
        let flags = tap::TapFlags { offload: !args.no_offload, ..tap::TapFlags::default() };
        let device = tap::Tap::open(IFNAME, flags)?;
        let mut netlink = Netlink::open().map_err(io::Error::other)?;
        let link = netlink.link(IFNAME).map_err(io::Error::other)?.ok_or(io::ErrorKind::NotFound)?;
        let change = LinkChange {
            mtu: Some(args.mtu),
            up: Some(true),
            txqueuelen: Some(if args.no_offload { QUEUE_PLAIN } else { QUEUE }),
            gso_max_size: Some(GSO_MAX_SIZE),
            ..LinkChange::default()
        };
        netlink.change_link(link.index, &change).map_err(io::Error::other)?;
        Ok(Tap::new(device, !args.no_merge))
    })?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_two_taps_or_a_tap_and_a_tunnel() {
        let parse = |args: &[&str]| Args::try_parse_from(std::iter::once(&"bare-relay").chain(args));
        assert_eq!(parse(&["--tap", "p", "--tap", "q"]).unwrap().tap.len(), 2);
        let ends = ["--tap", "p", "--local", "10.0.0.1:4789", "--remote", "10.0.0.2:4789"];
        assert!(parse(&ends).unwrap().remote.is_some());
        assert!(parse(&ends[..4]).is_err(), "a tunnel has two ends");
        assert!(parse(&[]).is_err());
    }
}
