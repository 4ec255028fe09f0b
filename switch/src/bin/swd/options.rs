//! Flags and the file of `--config`, which has the same keys. A flag wins over the file.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use ctl::desired::DesiredState;
use serde::Deserialize;
use tunnel::entropy::MAX_LANES;

/// The switch of one node: forwards between the pods on it and, through tunnels, to the pods on others.
///
/// Runs in the foreground and is ready when its socket answers. Program it with swctl.
#[derive(Debug, clap::Parser)]
#[command(name = "swd", version)]
pub struct Cli {
    /// TOML file with the same keys as these options, such as `underlay = "192.168.77.1"`
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The rest.
    #[command(flatten)]
    pub options: Options,
}

/// What can be given either way.
#[derive(Debug, Default, PartialEq, Eq, clap::Args, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Options {
    /// Address of this node that tunnels end at; without it pods reach pods of this node only
    #[arg(long, value_name = "IP")]
    pub underlay: Option<IpAddr>,
    /// Control socket [default: /run/swd/swd.sock]
    #[arg(long, value_name = "PATH", env = "SWD_SOCKET")]
    pub socket: Option<PathBuf>,
    /// Directory of the durable state [default: /var/lib/swd]
    #[arg(long, value_name = "DIR", env = "SWD_STATE_DIR")]
    pub state_dir: Option<PathBuf>,
    /// UDP port of VXLAN, here and on peers that name none [default: 4789]
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub vxlan_port: Option<u16>,
    /// UDP port of Geneve, here and on peers that name none [default: 6081]
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub geneve_port: Option<u16>,
    /// UDP source ports towards each peer. More let a fabric of equal-cost paths and the peer's receive queues spread
    /// the flows, fewer keep sends longer; a flow stays on one [default: 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=i64::from(MAX_LANES)))]
    pub source_ports: Option<u16>,
    /// Name of this node in answers [default: the host name]
    #[arg(long, value_name = "NAME")]
    pub node: Option<String>,
    /// Most learned MAC addresses, all networks together [default: 65536]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(16..=16_777_216))]
    pub fdb_limit: Option<u32>,
    /// MTU of pods in networks that name none [default: what the underlay carries]
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(576..=65_521))]
    pub mtu: Option<u32>,
    /// Table of nftables for the node's port; every daemon in one network namespace needs its own [default: swd]
    #[arg(long, value_name = "NAME")]
    pub nft_table: Option<String>,
    /// Run as two processes: a monitor that holds the pods' devices, and the switch, which it starts again when it
    /// ends unasked; pods keep their links meanwhile. `false`: one process for all [default: true]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub monitor: Option<bool>,
    /// Take over from the daemon that serves the socket now, without a gap, as a new container does from an old one;
    /// where there is none, start as usual. It ends when this one forwards
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub take_over: Option<bool>,
    /// Whom the switch process runs as: a name in /etc/passwd, UID or UID:GID [default: swd, or 65521]
    #[arg(long, value_name = "USER")]
    pub user: Option<String>,
    /// Seconds that a process has to live with a state until that is the last-known-good one
    #[arg(long, value_name = "SECONDS", hide = true)]
    pub good_after: Option<u64>,
    /// Seconds that a switch process may show no sign of life before it is ready
    #[arg(long, value_name = "SECONDS", hide = true)]
    pub start_limit: Option<u64>,
    /// error, warn, info, debug or trace, or a filter such as `info,switch::control=debug` [default: info]
    #[arg(long, value_name = "LEVEL", env = "RUST_LOG")]
    pub log_level: Option<String>,
    /// In the file only: networks, peers and the node's own port, as `swctl apply` takes them. Applied at start.
    #[arg(skip)]
    pub plan: Option<DesiredState>,
}

impl Options {
    /// Reads a file.
    ///
    /// # Errors
    /// A sentence that names the file.
    pub fn read(path: &Path) -> Result<String, String> {
        std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))
    }

    /// What a file says.
    ///
    /// # Errors
    /// A sentence that names the file.
    pub fn parse(path: &Path, text: &str) -> Result<Self, String> {
        let options: Self =
            toml::from_str(text).map_err(|e| format!("{}: {}", path.display(), e.to_string().trim_end()))?;
        options.check().map_err(|e| format!("{}: {e}", path.display()))?;
        Ok(options)
    }

    /// The ranges that flags are held to as well.
    fn check(&self) -> Result<(), String> {
        if self.vxlan_port == Some(0) || self.geneve_port == Some(0) {
            return Err("UDP port 0 is out of range".into());
        }
        if self.fdb_limit.is_some_and(|n| !(16..=16_777_216).contains(&n)) {
            return Err("fdb-limit is out of range: expected 16 to 16777216".into());
        }
        if self.source_ports.is_some_and(|n| !(1..=MAX_LANES).contains(&n)) {
            return Err(format!("source-ports is out of range: expected 1 to {MAX_LANES}"));
        }
        if self.mtu.is_some_and(|n| !(576..=65_521).contains(&n)) {
            return Err("mtu is out of range: expected 576 to 65521".into());
        }
        Ok(())
    }

    /// These, and from `other` what they leave open.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self {
            underlay: self.underlay.or(other.underlay),
            socket: self.socket.or(other.socket),
            state_dir: self.state_dir.or(other.state_dir),
            vxlan_port: self.vxlan_port.or(other.vxlan_port),
            geneve_port: self.geneve_port.or(other.geneve_port),
            source_ports: self.source_ports.or(other.source_ports),
            node: self.node.or(other.node),
            fdb_limit: self.fdb_limit.or(other.fdb_limit),
            mtu: self.mtu.or(other.mtu),
            nft_table: self.nft_table.or(other.nft_table),
            monitor: self.monitor.or(other.monitor),
            take_over: self.take_over.or(other.take_over),
            user: self.user.or(other.user),
            good_after: self.good_after.or(other.good_after),
            start_limit: self.start_limit.or(other.start_limit),
            log_level: self.log_level.or(other.log_level),
            plan: self.plan.or(other.plan),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;

    fn read(path: &Path) -> Result<Options, String> {
        Options::parse(path, &Options::read(path)?)
    }

    #[test]
    fn the_command_line_is_sound() {
        use clap::CommandFactory as _;
        Cli::command().debug_assert();
        assert!(Cli::try_parse_from(["swd", "--mtu", "100"]).is_err());
    }

    /// Whoever takes the comment signs away has a file that is read.
    #[test]
    fn the_sample_is_sound() {
        let sample = include_str!("../../../../packaging/systemd/swd.toml");
        assert_eq!(Options::parse(Path::new("swd.toml"), sample).unwrap(), Options::default());
        let is_key = |rest: &&str| !rest.starts_with(' ') && (rest.contains(" = ") || rest.starts_with('['));
        let bare = |line: &str| line.strip_prefix('#').filter(is_key).unwrap_or(line).to_owned();
        let filled: Vec<String> = sample.lines().map(bare).collect();
        let options = Options::parse(Path::new("swd.toml"), &filled.join("\n")).unwrap();
        assert!(options.underlay.is_some() && options.plan.is_some_and(|plan| plan.networks.len() == 1));
    }

    #[test]
    fn flags_win_over_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("swd.toml");
        std::fs::write(&path, "underlay = \"192.168.77.1\"\nvxlan-port = 8472\nnode = \"a\"\n").unwrap();
        let cli = Cli::try_parse_from(["swd", "--node", "b", "--state-dir", "/x"]).unwrap();
        let options = cli.options.or(read(&path).unwrap());
        assert_eq!(options.underlay, Some("192.168.77.1".parse().unwrap()));
        assert_eq!((options.vxlan_port, options.node.as_deref()), (Some(8472), Some("b")));
        std::fs::write(&path, "node = \"a\"\n[[plan.networks]]\nname = \"pods\"\nvni = 1\n").unwrap();
        assert_eq!(read(&path).unwrap().plan.map(|p| p.networks.len()), Some(1));
        for bad in [
            "[plan]\nnetwork = 1",
            "mtuu = 1500",
            "mtu = 10",
            "vxlan-port = 0",
            "underlay = 7",
            "fdb-limit = 1",
            "source-ports = 17",
        ] {
            std::fs::write(&path, bad).unwrap();
            let e = read(&path).unwrap_err();
            assert!(e.contains("swd.toml"), "{e}");
        }
    }
}
