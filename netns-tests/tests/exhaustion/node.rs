//! A node on which something runs out: two pods, one of which sends datagrams to the other all the time.

use std::time::Duration;

use crate::common::{Host, add_host, add_network, note};
use crate::stream::Stream;
use lab::cmd::Output;
use lab::swd::SwdOptions;
use lab::{Error, Lab, Node, Result, ensure, wait};

/// Datagrams per second.
const RATE: u64 = 2000;
/// For what takes a daemon a few seconds.
pub const LATER: Duration = Duration::from_secs(30);
/// What `swctl` ends with.
const REFUSED: i32 = 1;
const DEGRADED: i32 = 6;

/// The node and its pods.
pub struct Scarce {
    // Dropped before the pods.
    pub lab: Lab,
    from: Host,
    to: Host,
}

impl Scarce {
    /// Starts one; `before` is done before its daemon.
    pub fn build(name: &str, before: impl FnOnce(&Node) -> Result<()>) -> Result<Self> {
        let lab = Lab::new(name).node("a").build()?;
        let a = lab.node("a")?;
        before(a)?;
        a.start_swd_with(&SwdOptions::default())?;
        let prefix = ("10.1.1", "fd00:1");
        add_network(a, "pods", 1, &[prefix], &[])?;
        let from = add_host(&lab, a, "from", prefix, 2, &[])?;
        let to = add_host(&lab, a, "to", prefix, 3, &[])?;
        a.settle()?;
        Ok(Self { lab, from, to })
    }

    pub fn a(&self) -> Result<&Node> {
        self.lab.node("a")
    }

    /// Begins to send.
    pub fn send(&self) -> Result<Stream> {
        let stream = Stream::start(self.from.ns(), self.to.ns(), self.to.ip(false), RATE)?;
        stream.moves(100, LATER)?;
        Ok(stream)
    }
}

/// Ends a stream that nothing may be missing of.
pub fn nothing_lost(stream: Stream, what: &str) -> Result<()> {
    stream.moves(100, LATER)?;
    let heard = stream.finish()?;
    note(format!("{what}: {} of {} datagrams lost", heard.lost(), heard.sent));
    ensure!(heard.lost() == 0, "{what}: {} of {} datagrams lost", heard.lost(), heard.sent);
    Ok(())
}

/// What `swctl` was told is refused, with all of these words.
pub fn refused(node: &Node, line: &str, words: &[&str]) -> Result<()> {
    let output = node.swctl_output(&line.split_whitespace().collect::<Vec<_>>())?;
    ensure!(output.code == REFUSED, "swctl {line}: exit code {}: {}", output.code, output.stderr);
    said(&output.stderr, words)
}

/// `swctl status` warns, with all of these words.
pub fn warns(node: &Node, words: &[&str]) -> Result<()> {
    let Output { code, stdout, .. } = node.swctl_output(&["status"])?;
    ensure!(code == DEGRADED, "status: exit code {code}: {stdout}");
    said(&stdout, words)
}

fn said(text: &str, words: &[&str]) -> Result<()> {
    let missing: Vec<_> = words.iter().filter(|word| !text.contains(**word)).collect();
    ensure!(missing.is_empty(), "not a word of {missing:?}: {text}");
    Ok(())
}

/// Waits until all is well, by itself.
pub fn heals(node: &Node) -> Result<()> {
    wait::until_ok(&format!("{} is well again", node.name()), LATER, || {
        let output = node.swctl_output(&["status"])?;
        if output.code == 0 { Ok(()) } else { Err(Error::failed(output.stdout + &output.stderr)) }
    })
}
