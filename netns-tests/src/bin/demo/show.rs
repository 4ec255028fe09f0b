//! The sections of the demo. Each prints what it does and keeps a line for the summary.

use crate::containers::Runtime;
use crate::topology::{PodPlace, Topology};
use lab::Result;
use lab::conserve::Ledger;
use lab::probe::{self, IperfOptions};
use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;

/// Standard output, with emphasis where there is a terminal.
pub struct Screen {
    colour: bool,
}

impl Screen {
    /// Colour on a terminal unless NO_COLOR is set.
    pub fn new() -> Self {
        Self { colour: std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none() }
    }

    /// One line of text.
    pub fn line(&self, text: &str) -> Result<()> {
        writeln!(std::io::stdout().lock(), "{text}")?;
        Ok(())
    }

    /// A section heading.
    pub fn title(&self, text: &str) -> Result<()> {
        if self.colour {
            self.line(&format!("\n\x1b[1m== {text}\x1b[0m"))
        } else {
            self.line(&format!("\n== {text}"))
        }
    }

    /// A command as a person would type it on that node.
    pub fn command(&self, node: &str, words: &[&str]) -> Result<()> {
        let text = format!("{node}$ {}", words.join(" "));
        if self.colour { self.line(&format!("\x1b[2m{text}\x1b[0m")) } else { self.line(&text) }
    }

    /// The lab.
    pub fn picture(&self, pods: Option<Runtime>) -> Result<()> {
        let (who, devices) = match pods {
            None => ("pods, a namespace each", "eth0: pods (routed), eth1: lan (bridged)"),
            Some(Runtime::Podman) => ("containers of podman", "eth0: pods (routed), eth1: lan (bridged)"),
            Some(Runtime::Containerd) => ("pods of containerd", "eth0: pods (routed)"),
        };
        self.line(&format!(
            "
   web-0      db-0                              web-1      db-1         {who}
     |          |                                 |          |
   --+-- TAP ---+--                             --+-- TAP ---+--        {devices}
         swd                                          swd               one daemon per node, no kernel module
          |                                            |
     192.168.77.1 ================================ 192.168.77.2         underlay: VXLAN over UDP 4789
        node-a                   wire                node-b"
        ))
    }
}

/// What the last section says.
#[derive(Default)]
pub struct Summary {
    lines: Vec<(bool, String)>,
}

impl Summary {
    fn add(&mut self, good: bool, text: String) {
        self.lines.push((good, text));
    }

    /// Prints; true if everything is well.
    pub fn print(&self, screen: &Screen, took: Duration) -> Result<bool> {
        screen.title("Summary")?;
        for (good, text) in &self.lines {
            screen.line(&format!("{}  {text}", if *good { "ok  " } else { "FAIL" }))?;
        }
        let good = self.lines.iter().all(|(good, _)| *good);
        let verdict = if good { "everything works" } else { "something does not work, see above" };
        screen.line(&format!("{verdict} ({:.0} s)", took.as_secs_f64()))?;
        Ok(good)
    }
}

/// Ports, FDB, routes of both nodes.
pub fn tables(screen: &Screen, t: &Topology<'_>) -> Result<()> {
    screen.title("What the switches know")?;
    for node in t.lab.nodes() {
        for args in [&["port", "show"][..], &["fdb", "show"], &["route", "show"]] {
            let words: Vec<&str> = std::iter::once("swctl").chain(args.iter().copied()).collect();
            screen.command(node.name(), &words)?;
            screen.line(node.swctl_text(args)?.trim_end())?;
        }
    }
    Ok(())
}

/// Every pair, both families, both networks.
pub fn pings(screen: &Screen, t: &Topology<'_>, summary: &mut Summary) -> Result<()> {
    screen.title("Ping between every pair of pods (average round trip in milliseconds)")?;
    let (mut sent, mut lost, mut kinds) = (0, 0, Vec::new());
    for (family, name) in ["pods, IPv4", "pods, IPv6", "lan, IPv4"].into_iter().enumerate() {
        let address = |p: &PodPlace| [Some(p.v4), Some(p.v6), p.lan][family];
        if t.pods.iter().any(|p| address(p).is_none()) {
            continue;
        }
        kinds.push(name);
        let header: String = t.pods.iter().map(|p| format!("{:>9}", p.name)).collect();
        screen.line(&format!("{name:<12}{header}"))?;
        for from in &t.pods {
            let mut row = format!("  {:<10}", from.name);
            for to in &t.pods {
                let Some(ip) = address(to).filter(|_| from.name != to.name) else {
                    row.push_str("        -");
                    continue;
                };
                sent += 1;
                match probe::ping(&from.ns, ip) {
                    Ok(report) => row.push_str(&format!("{:>9.3}", report.rtt_avg_ms.unwrap_or(0.0))),
                    Err(e) => {
                        lost += 1;
                        row.push_str("     lost");
                        screen.line(&format!("  {e}"))?;
                    }
                }
            }
            screen.line(&row)?;
        }
    }
    summary.add(
        lost == 0,
        format!("{} of {sent} pairs of pods reach each other ({})", sent - lost, kinds.join("; ")),
    );
    Ok(())
}

/// TCP on one node and across nodes.
pub fn throughput(screen: &Screen, t: &Topology<'_>, seconds: u32, summary: &mut Summary) -> Result<()> {
    screen.title("TCP throughput")?;
    for (name, from, to) in [("on one node", 0, 1), ("across nodes", 0, 2)] {
        let (from, to) = (&t.pods[from], &t.pods[to]);
        let options = IperfOptions { seconds, ..IperfOptions::default() };
        let report = probe::iperf(&from.ns, &to.ns, to.v4, &options)?;
        let gbits = report.bits_per_second / 1e9;
        screen.line(&format!(
            "  {name:<13} {} -> {}   {gbits:6.2} Gbit/s   {} retransmits   {}",
            from.name, to.name, report.retransmits, report.congestion
        ))?;
        summary.add(gbits > 0.1, format!("TCP {name}: {gbits:.2} Gbit/s"));
    }
    Ok(())
}

/// A packet's way across both nodes, without sending it.
pub fn trace(screen: &Screen, t: &Topology<'_>, summary: &mut Summary) -> Result<()> {
    screen.title("Where would this packet go?")?;
    let (a, b) = (&t.lab.nodes()[0], &t.lab.nodes()[1]);
    let far = t.pods[2].v4.to_string();
    let peer = format!("{}={}", b.name(), b.socket().display());
    let from = t.pods[0].port.as_str();
    let args =
        ["trace", "--from", from, "--to", &far, "--proto", "tcp", "--dport", "80", "--peer-socket", &peer];
    let rest = "--proto tcp --dport 80 --peer-socket node-b=...";
    screen.command(a.name(), &["swctl trace --from", from, "--to", &far, rest])?;
    let text = a.swctl_text(&args)?;
    screen.line(text.trim_end())?;
    summary.add(text.contains("DELIVERED"), "a traced packet is delivered across both nodes".to_owned());
    screen.line("")?;
    let args = ["trace", "--from", from, "--to", "203.0.113.9"];
    screen.command(a.name(), &[&["swctl"], &args[..]].concat())?;
    let outside = a.swctl_output(&args)?;
    screen.line(outside.stdout.trim_end())?;
    let (expected, what) = if t.has_way_out() {
        ("DELIVERED to port node", "a packet to the world leaves by the node's own port")
    } else {
        ("no-route", "a packet to nowhere is explained")
    };
    summary.add(outside.stdout.contains(expected), what.to_owned());
    Ok(())
}

/// The ledger of both nodes.
pub fn drops(screen: &Screen, t: &Topology<'_>, summary: &mut Summary) -> Result<()> {
    screen.title("The drop ledger")?;
    for node in t.lab.nodes() {
        screen.command(node.name(), &["swctl", "drops"])?;
        screen.line(node.swctl_text(&["drops"])?.trim_end())?;
        let balanced = Ledger::read(node)?.balanced();
        let verdict = balanced
            .as_ref()
            .map_or_else(ToString::to_string, |()| "every frame is accounted for".to_owned());
        summary.add(balanced.is_ok(), format!("{}: {verdict}", node.name()));
    }
    Ok(())
}
