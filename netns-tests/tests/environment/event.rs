//! Things that happen to a pod, and how they are over: told, or mended.

use std::time::{Duration, Instant};

use lab::impair::Rng;
use lab::{Lab, Node, Ns, Result, ensure, wait};

use crate::common::Host;
use crate::state::{LIMIT, Shown, port, until_devices, until_port};

/// What may happen.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Event {
    Deleted,
    Renamed,
    Moved,
    NamespaceGone,
    Down,
    Flap,
    Mtu,
    Mac,
    Address,
    Route,
}

impl Event {
    pub const ALL: [Self; 10] = [
        Self::Deleted,
        Self::Renamed,
        Self::Moved,
        Self::NamespaceGone,
        Self::Down,
        Self::Flap,
        Self::Mtu,
        Self::Mac,
        Self::Address,
        Self::Route,
    ];

    pub fn any(rng: &mut Rng) -> Self {
        Self::ALL[rng.below(Self::ALL.len() as u64) as usize]
    }
}

/// A pod that things happen to.
pub struct Victim<'l> {
    pub lab: &'l Lab,
    pub node: &'l Node,
    pub host: Host,
}

impl Victim<'_> {
    fn name(&self) -> &str {
        self.host.pod.name()
    }

    /// Does something in its namespace; then waits until the port is as it is to be. Gives the time from before the
    /// one to the other.
    fn then(&self, lines: &[String], what: &str, wanted: impl Fn(&Shown) -> bool) -> Result<Duration> {
        let since = Instant::now();
        self.host.ns().ip(lines)?;
        until_port(self.node, self.name(), what, since, wanted)
    }

    fn told(&self, line: String, words: &str) -> Result<Duration> {
        self.then(&[line], words, |shown| shown.problem.contains(words))
    }

    /// It is well, and has all that belongs to it.
    fn mended(&self, lines: &[String]) -> Result<Duration> {
        let since = Instant::now();
        self.then(lines, "is well", Shown::well)?;
        self.until_whole(since)
    }

    fn made_again(&self, lines: &[String]) -> Result<Duration> {
        let before = port(self.node, self.name())?.ifindex;
        let since = Instant::now();
        self.then(lines, "has another device", |shown| shown.well() && shown.ifindex != before)?;
        self.until_whole(since)
    }

    /// Lets it happen, and puts right what a pod has to put right itself. `limbo` is a namespace that devices are moved
    /// to. Gives how long each step took to be noticed.
    pub fn suffer(&mut self, event: Event, limbo: &Ns) -> Result<Vec<Duration>> {
        let line = |text: &str| vec![text.to_owned()];
        let took = match event {
            Event::Deleted => vec![self.made_again(&line("link del eth0"))?],
            Event::Renamed => {
                // Before Linux 6.0 it has to be down for that.
                vec![self.made_again(&["link set eth0 down".into(), "link set eth0 name other0".into()])?]
            }
            Event::Moved => vec![self.made_again(&[format!("link set eth0 netns {}", limbo.name())])?],
            Event::NamespaceGone => self.lose_namespace()?,
            Event::Down => {
                let down = self.then(&line("link set eth0 down"), "is down", |s| s.state == "down")?;
                vec![down, self.mended(&line("link set eth0 up"))?]
            }
            Event::Flap => {
                let lines = ["link set eth0 down", "link set eth0 up"].repeat(3);
                vec![self.mended(&lines.iter().map(ToString::to_string).collect::<Vec<_>>())?]
            }
            Event::Mtu => {
                let before = crate::common::mtu(self.host.ns(), "eth0")?;
                let told = self.told("link set eth0 mtu 1300".into(), "MTU 1300")?;
                vec![told, self.mended(&[format!("link set eth0 mtu {before}")])?]
            }
            Event::Mac => {
                let before = lab::netns::format_mac(self.host.ns().mac("eth0")?);
                let told =
                    self.told("link set eth0 address 02:00:00:00:00:77".into(), "02:00:00:00:00:77")?;
                vec![told, self.mended(&[format!("link set eth0 address {before}")])?]
            }
            Event::Address => {
                let address = format!("{}/64", self.host.v6);
                let told = self.removed(&format!("addr del {address} dev eth0"), "was removed")?;
                vec![told, self.mended(&[format!("addr add {address} dev eth0 nodad")])?]
            }
            Event::Route => {
                let gateway = self.gateway();
                let told = self.removed("route del default", "default route")?;
                vec![told, self.mended(&[format!("route add default via {gateway}")])?]
            }
        };
        until_devices(self.host.ns(), &["eth0"])?;
        until_devices(limbo, &[])?;
        Ok(took)
    }

    fn gateway(&self) -> String {
        let [a, b, c, _] = self.host.v4.octets();
        format!("{a}.{b}.{c}.1")
    }

    fn lose_namespace(&mut self) -> Result<Vec<Duration>> {
        let (name, since) = (self.name().to_owned(), Instant::now());
        let old = self.lab.pod(&format!("{name}-next"))?;
        let old = std::mem::replace(&mut self.host.pod, old);
        old.delete();
        let gone = |shown: &Shown| shown.state != "up" && shown.problem.contains("namespace");
        let told = until_port(self.node, &name, "has no namespace", since, gone)?;
        let since = Instant::now();
        let spare = std::mem::replace(&mut self.host.pod, self.lab.pod(&name)?);
        until_port(self.node, &name, "is back", since, Shown::well)?;
        let back = self.until_whole(since)?;
        spare.delete();
        Ok(vec![told, back])
    }

    /// Removes something until that is told. What goes just after the link was down is taken for the kernel's doing and
    /// given back, which is as good an end.
    fn removed(&self, line: &str, words: &str) -> Result<Duration> {
        for _ in 0..3 {
            let since = Instant::now();
            self.host.ns().ip([line])?;
            let told = wait::until(&format!("{line}: told or given back"), LIMIT, || {
                let shown = port(self.node, self.name()).ok()?;
                let told = shown.problem.contains(words);
                (told || self.whole().is_ok()).then_some(told)
            })?;
            if told {
                return Ok(since.elapsed());
            }
        }
        Err(lab::Error::failed(format!("{line}: given back each time, and never told")))
    }

    /// Waits until it has its addresses and its default route.
    fn until_whole(&self, since: Instant) -> Result<Duration> {
        wait::until_ok(&format!("{} has what it was given", self.name()), LIMIT, || {
            self.whole().map(|()| since.elapsed())
        })
    }

    /// An error unless it has them.
    fn whole(&self) -> Result<()> {
        let routes = self.host.ns().ip_json(&["route", "show", "default"])?;
        ensure!(routes[0]["gateway"].as_str() == Some(&self.gateway()), "default route: {routes}");
        for v6 in [false, true] {
            let address = self.host.ip(v6).to_string();
            let shown = self.host.ns().ip_json(&["addr", "show", "dev", "eth0", "to", &address])?;
            ensure!(shown.to_string().contains(&address), "no {address}: {shown}");
        }
        Ok(())
    }
}
