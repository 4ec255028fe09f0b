//! The switch as users meet it: `swd` started in a node's namespace and programmed with `swctl`.
//!
//! A daemon counts as started when its socket answers `swctl status` (limit: 10 s). Its output
//! goes to a log that is shown when the test fails. State survives [`Node::restart`].

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::cmd::{Cmd, Daemon, Output};
use crate::error::{Context, Error, Result};
use crate::lab::Pod;
use crate::node::Node;
use crate::wait;

/// How long a daemon may take to answer, and to end after SIGTERM.
const START_LIMIT: Duration = Duration::from_secs(10);
/// Limit of one `swctl` call.
const SWCTL_LIMIT: Duration = Duration::from_secs(20);
/// `swctl` exit codes that mean "it answered": fine, and answered with findings.
const ANSWERED: [i32; 2] = [0, 6];

/// A running daemon and how it was started.
#[derive(Debug)]
pub struct Swd {
    daemon: Daemon,
    options: SwdOptions,
}

/// How to start a daemon.
#[derive(Clone, Debug, Default)]
pub struct SwdOptions {
    /// Value of `--underlay`; left out when absent.
    pub underlay: Option<IpAddr>,
    /// Further arguments.
    pub args: Vec<String>,
    /// Further environment.
    pub env: Vec<(String, String)>,
    /// Instead of the node's.
    pub state_dir: Option<PathBuf>,
    /// What to run it with, such as `setpriv` and its arguments.
    pub wrapper: Vec<String>,
}

/// Path of one of the switch's binaries; says how to build it when it is not there.
pub fn binary(name: &str) -> Result<PathBuf> {
    binary_in(&crate::enter::bin_dir()?, name)
}

fn binary_in(dir: &Path, name: &str) -> Result<PathBuf> {
    let path = dir.join(name);
    if path.is_file() {
        return Ok(path);
    }
    Err(Error::failed(format!(
        "{} does not exist: build it (cargo build --bin {name}) or set SWD_BIN_DIR",
        path.display()
    )))
}

/// Processes that this one has started.
fn children(pid: u32) -> Vec<u32> {
    let Ok(tasks) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    let lists = tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("children")).ok());
    lists
        .flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<u32>>())
        .collect()
}

/// Is there such a process, other than one that waits to be buried?
pub fn runs(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name in parentheses may have anything in it. The first thread may be through while others still hold files.
    let threads = || std::fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count);
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z') || threads() > 1)
}

/// What the threads of a process have spent of a processor so far.
fn spent(pid: u32) -> Result<Duration> {
    let dir = format!("/proc/{pid}/task");
    let mut nanoseconds = 0;
    for task in std::fs::read_dir(&dir).context(&dir)? {
        // One that has ended meanwhile has spent nothing since.
        let text = std::fs::read_to_string(task?.path().join("schedstat")).unwrap_or_default();
        nanoseconds += text.split(' ').next().and_then(|n| n.parse::<u64>().ok()).unwrap_or(0);
    }
    Ok(Duration::from_nanos(nanoseconds))
}

impl Node {
    /// Waits for a while, and says how much of a processor the daemon took of it, in percent.
    pub fn busy(&self, time: Duration) -> Result<f64> {
        let all = || self.swd_pids()?.into_iter().map(spent).sum::<Result<Duration>>();
        let (begun, before) = (Instant::now(), all()?);
        std::thread::sleep(time);
        Ok((all()?.saturating_sub(before)).as_secs_f64() / begun.elapsed().as_secs_f64() * 100.0)
    }

    /// Path of the daemon's control socket.
    pub fn socket(&self) -> PathBuf {
        self.dir().join("swd.sock")
    }

    /// Path of the daemon's state directory.
    pub fn state_dir(&self) -> PathBuf {
        self.dir().join("state")
    }

    /// Path of the daemon's log.
    pub fn log(&self) -> PathBuf {
        self.dir().join("swd.log")
    }

    /// Takes the binaries of this node from another directory from now on, e.g. to run two
    /// versions side by side or to replace one by the other.
    pub fn use_binaries(&self, dir: &Path) {
        if let Ok(mut slot) = self.bin_dir.lock() {
            *slot = Some(dir.to_owned());
        }
    }

    fn binary(&self, name: &str) -> Result<PathBuf> {
        match self.bin_dir.lock().ok().and_then(|slot| slot.clone()) {
            Some(dir) => binary_in(&dir, name),
            None => binary(name),
        }
    }

    /// How a person calls `swctl` in a kept lab.
    pub(crate) fn swctl_path(&self) -> String {
        self.binary("swctl").map_or_else(|_| "swctl".to_owned(), |p| p.display().to_string())
    }

    /// Starts `swd` on the IPv4 underlay address with further arguments.
    pub fn start_swd(&self, args: &[&str]) -> Result<()> {
        self.start_swd_with(&SwdOptions {
            underlay: Some(self.underlay4().into()),
            args: args.iter().map(|&a| a.to_owned()).collect(),
            ..SwdOptions::default()
        })
    }

    /// Starts `swd` and waits until it answers.
    pub fn start_swd_with(&self, options: &SwdOptions) -> Result<()> {
        if self.check_swd().is_ok() {
            return Err(Error::failed(format!("swd runs already on {}", self.name())));
        }
        std::fs::create_dir_all(self.state_dir()).context("state directory")?;
        *self.slot()? = Some(self.launch(options)?);
        self.wait_until_answers()
    }

    /// Starts another daemon on the same socket, with further arguments and a state directory of its own, and gives the
    /// one before. From now on the new one is the node's.
    pub fn start_beside(&self, state_dir: &Path, args: &[&str]) -> Result<Daemon> {
        let mut options = match self.slot()?.as_ref() {
            Some(swd) => swd.options.clone(),
            None => return Err(Error::failed(format!("no swd on {}", self.name()))),
        };
        options.state_dir = Some(state_dir.to_owned());
        options.args.extend(args.iter().map(|&a| a.to_owned()));
        let new = self.launch(&options)?;
        let old = self.slot()?.replace(new).ok_or("the old daemon is gone")?;
        Ok(old.daemon)
    }

    fn launch(&self, options: &SwdOptions) -> Result<Swd> {
        let state_dir = options.state_dir.clone().unwrap_or_else(|| self.state_dir());
        let swd = self.binary("swd")?;
        let mut cmd = match options.wrapper.split_first() {
            Some((program, args)) => self.cmd(program).args(args).arg(swd),
            None => self.cmd(swd),
        };
        if let Some(underlay) = options.underlay {
            cmd = cmd.args(["--underlay", &underlay.to_string()]);
        }
        cmd = cmd.arg("--socket").arg(self.socket()).arg("--state-dir").arg(state_dir);
        cmd = cmd.args(&options.args);
        for (key, value) in &options.env {
            cmd = cmd.env(key, value);
        }
        if self.is_confined() {
            cmd = cmd.confined(self.dir())?;
        }
        if let Some(manager) = self.manager() {
            cmd = manager.prepare(cmd)?;
        }
        let daemon = cmd.daemon(&format!("swd on {}", self.name()), &self.log())?;
        // It has copies of the descriptors that the daemon was given.
        drop(cmd);
        Ok(Swd { daemon, options: options.clone() })
    }

    /// Waits until the daemon answers; fails at once if it has ended.
    pub fn wait_until_answers(&self) -> Result<()> {
        let mut last = String::new();
        let answered = wait::until(&format!("swd on {} answers", self.name()), START_LIMIT, || {
            if let Err(e) = self.check_swd() {
                return Some(Err(e));
            }
            match self.swctl_output(&["status"]) {
                Ok(output) if ANSWERED.contains(&output.code) => Some(Ok(())),
                Ok(output) => {
                    last = output.stderr;
                    None
                }
                Err(e) => Some(Err(e)),
            }
        });
        match answered {
            Ok(result) => result,
            Err(e) => Err(Error::failed(format!("{e}; swctl said: {}", last.trim()))),
        }
    }

    /// Fails if the daemon does not run, quoting its log.
    pub fn check_swd(&self) -> Result<()> {
        match self.slot()?.as_mut() {
            Some(swd) => swd.daemon.check_running(),
            None => Err(Error::failed(format!("no swd on {}", self.name()))),
        }
    }

    /// Process id of the daemon.
    pub fn swd_pid(&self) -> Result<u32> {
        match self.slot()?.as_ref() {
            Some(swd) => Ok(swd.daemon.pid()),
            None => Err(Error::failed(format!("no swd on {}", self.name()))),
        }
    }

    /// Process ids of the daemon: the one that was started, and its children.
    pub fn swd_pids(&self) -> Result<Vec<u32>> {
        let pid = self.swd_pid()?;
        let mut pids = vec![pid];
        pids.extend(children(pid));
        Ok(pids)
    }

    /// Process id of the process that forwards: what a monitor has started, or the daemon itself.
    pub fn switch_pid(&self) -> Result<u32> {
        self.swd_pids()?.last().copied().ok_or_else(|| Error::failed("no process"))
    }

    /// Kills the whole daemon with SIGKILL, as a service manager does: no process of it is left. [`Node::restart`]
    /// brings it back.
    pub fn kill9(&self) -> Result<()> {
        let rest = children(self.swd_pid()?);
        match self.slot()?.as_mut() {
            Some(swd) => swd.daemon.kill9()?,
            None => return Err(Error::failed(format!("no swd on {}", self.name()))),
        }
        wait::until(&format!("the processes of swd on {} are gone", self.name()), START_LIMIT, || {
            rest.iter().all(|pid| !runs(*pid)).then_some(())
        })
    }

    /// Ends the daemon with SIGTERM; gives its exit code.
    pub fn stop_swd(&self) -> Result<i32> {
        match self.slot()?.as_mut() {
            Some(swd) => swd.daemon.terminate(START_LIMIT),
            None => Err(Error::failed(format!("no swd on {}", self.name()))),
        }
    }

    /// Starts the daemon again with the same arguments on the same state; ends a running one first.
    pub fn restart(&self) -> Result<()> {
        let Some(mut swd) = self.slot()?.take() else {
            return Err(Error::failed(format!("no swd was started on {}", self.name())));
        };
        // An error here means that it has ended already; dropping makes sure in any case.
        let _ = swd.daemon.terminate(START_LIMIT);
        let options = swd.options.clone();
        drop(swd);
        self.start_swd_with(&options)
    }

    /// Runs `swctl` on this node's daemon, whatever its exit code.
    pub fn swctl_output(&self, args: &[&str]) -> Result<Output> {
        Cmd::new(self.binary("swctl")?)
            .arg("--socket")
            .arg(self.socket())
            .args(args)
            .timeout(SWCTL_LIMIT)
            .output()
    }

    /// `swctl -o json ARGS`; an exit code other than 0 is an error.
    pub fn swctl(&self, args: &[&str]) -> Result<Value> {
        let cmd = Cmd::new(self.binary("swctl")?)
            .arg("--socket")
            .arg(self.socket())
            .args(["-o", "json"])
            .args(args);
        let text = cmd.timeout(SWCTL_LIMIT).run()?;
        if text.trim().is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_str(&text).context(format!("swctl {}", args.join(" ")))
    }

    /// `swctl ARGS` as a person reads it; an exit code other than 0 is an error.
    pub fn swctl_text(&self, args: &[&str]) -> Result<String> {
        let cmd = Cmd::new(self.binary("swctl")?).arg("--socket").arg(self.socket()).args(args);
        cmd.timeout(SWCTL_LIMIT).run()
    }

    /// `swctl ARGS` to be run on the node itself, for what concerns its files and namespaces.
    pub fn swctl_here(&self, args: &[&str]) -> Result<Cmd> {
        let cmd = self.cmd(self.binary("swctl")?).arg("--socket").arg(self.socket());
        Ok(cmd.args(args).timeout(SWCTL_LIMIT))
    }

    /// Waits until the data path runs with everything that was acknowledged so far.
    pub fn settle(&self) -> Result<()> {
        let status = self.swctl_output(&["-o", "json", "status"])?;
        let json: Value = serde_json::from_str(&status.stdout).context(format!(
            "swctl status on {}: {}",
            self.name(),
            status.stderr.trim()
        ))?;
        let generation = generation(&json).ok_or("swctl status names no generation")?;
        self.swctl_text(&["wait", "--generation", &generation.to_string()]).map(drop)
    }

    /// Adds a port for a pod, named like the pod, with these addresses (CIDR).
    pub fn add_port(&self, pod: &Pod, network: &str, ips: &[&str]) -> Result<()> {
        self.add_port_with(pod, network, ips, &[])
    }

    /// As [`Node::add_port`] with further arguments of `swctl port add`.
    pub fn add_port_with(&self, pod: &Pod, network: &str, ips: &[&str], more: &[&str]) -> Result<()> {
        let netns = pod.ns().path();
        let netns = netns.to_string_lossy();
        let mut args = vec!["port", "add", pod.name(), "--network", network, "--netns", &netns];
        for ip in ips {
            args.extend(["--ip", ip]);
        }
        args.extend(more);
        self.swctl_text(&args).map(drop)
    }

    /// Adds another node of the lab as a peer under its name, reached over the family of `v6`.
    pub fn add_peer(&self, peer: &Node, v6: bool, more: &[&str]) -> Result<()> {
        let remote = peer.underlay(v6).to_string();
        let mut args = vec!["peer", "add", peer.name(), "--remote", &remote];
        args.extend(more);
        self.swctl_text(&args).map(drop)
    }

    fn slot(&self) -> Result<std::sync::MutexGuard<'_, Option<Swd>>> {
        self.swd.lock().map_err(|_| Error::failed("a test panicked while it handled swd"))
    }
}

/// The generation in a reply of `swctl`, wherever a mutation or `status` has put it.
pub fn generation(reply: &Value) -> Option<u64> {
    reply.get("generation").and_then(Value::as_u64)
}

/// Whether a path is that of an existing socket: for tests of the daemon's own behaviour.
pub fn is_socket(path: &Path) -> bool {
    use std::os::unix::fs::FileTypeExt;
    std::fs::metadata(path).is_ok_and(|m| m.file_type().is_socket())
}
