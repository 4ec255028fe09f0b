//! The plugin as a runtime runs it: the real binary as a process, and a daemon without a data path behind a real
//! socket. The double keeps attachments in memory, answers what a test scripts, and remembers what it was asked.
#![allow(dead_code, unused_imports)] // each test binary uses its part

pub mod daemon;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

pub use daemon::{Answer, Daemon};

/// One run of the plugin, with what a runtime would hand over unless a test says otherwise.
#[derive(Clone, Debug)]
pub struct Call {
    env: BTreeMap<String, String>,
    pub config: Value,
    raw: Option<Vec<u8>>,
}

impl Call {
    pub fn new(verb: &str, socket: &Path) -> Self {
        let env = [
            ("CNI_COMMAND", verb),
            ("CNI_CONTAINERID", "c1"),
            ("CNI_NETNS", "/run/netns/swd-cni-test-none"),
            ("CNI_IFNAME", "eth0"),
            ("CNI_ARGS", ""),
            ("CNI_PATH", "/nonexistent"),
        ];
        let config = json!({ "cniVersion": "1.1.0", "name": "pods", "type": "swd-cni", "socket": socket });
        Self { env: env.map(|(k, v)| (k.to_owned(), v.to_owned())).into(), config, raw: None }
    }

    pub fn env(mut self, key: &str, value: &str) -> Self {
        self.env.insert(key.to_owned(), value.to_owned());
        self
    }

    pub fn without(mut self, key: &str) -> Self {
        self.env.remove(key);
        self
    }

    /// Sets keys of the configuration.
    pub fn with(mut self, keys: Value) -> Self {
        self.config.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
        self
    }

    pub fn version(self, version: &str) -> Self {
        self.with(json!({ "cniVersion": version }))
    }

    /// Other bytes on standard input than the configuration.
    pub fn stdin(mut self, bytes: &[u8]) -> Self {
        self.raw = Some(bytes.to_vec());
        self
    }

    pub fn start(&self) -> Child {
        let mut child = Command::new(env!("CARGO_BIN_EXE_swd-cni"))
            .env_clear()
            .envs(&self.env)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let bytes = self.raw.clone().unwrap_or_else(|| self.config.to_string().into_bytes());
        // A plugin may end without reading all of it.
        let _ = child.stdin.take().unwrap().write_all(&bytes);
        child
    }

    pub fn run(&self) -> Run {
        Run::of(self.start())
    }

    /// Runs, and it must succeed.
    pub fn ok(&self) -> Run {
        let run = self.run();
        assert_eq!(run.code, 0, "{self:?}: {run:?}");
        run
    }

    /// Runs, and it must fail as the protocol wants, with nothing on standard error.
    pub fn fails(&self) -> Error {
        let run = self.run();
        assert!(run.err.is_empty(), "{run:?}");
        run.error()
    }
}

#[derive(Debug)]
pub struct Run {
    pub code: i32,
    pub out: String,
    pub err: String,
}

/// What a runtime makes of a failure.
#[derive(Debug)]
pub struct Error {
    pub version: String,
    pub code: u64,
    pub msg: String,
    pub details: String,
}

impl Run {
    pub fn of(child: Child) -> Self {
        let output = child.wait_with_output().unwrap();
        Self {
            code: output.status.code().unwrap(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    /// One object on standard output, exit code not zero.
    pub fn error(&self) -> Error {
        assert!(self.code != 0, "{self:?}");
        let object = self.json();
        let text = |key: &str| object[key].as_str().unwrap_or_default().to_owned();
        Error {
            version: text("cniVersion"),
            code: object["code"].as_u64().unwrap_or_else(|| panic!("no code: {self:?}")),
            msg: text("msg"),
            details: text("details"),
        }
    }
}

/// A script that stands for an IPAM plugin. It logs its verb and its standard input beside itself, writes a line
/// to standard error, and goes on with `body`.
pub fn ipam(dir: &Path, body: &str) -> PathBuf {
    let path = dir.join("fake-ipam");
    let log = path.with_extension("log");
    let script = format!(
        "#!/bin/sh\nconfig=$(cat)\n\
         printf '%s %s %s %s\\n' \"$CNI_COMMAND\" \"$CNI_CONTAINERID\" \"$CNI_IFNAME\" \"$config\" >> '{}'\n\
         echo \"$CNI_COMMAND\" >&2\n{body}\n",
        log.display()
    );
    // Written under another name: a file that is open for writing in this process, or in a child forked
    // meanwhile, cannot be run.
    ctl::atomic::write(&path, 0o755, script.as_bytes()).unwrap();
    log
}

/// The verbs in the log of an IPAM script.
pub fn verbs(log: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    text.lines().filter_map(|l| l.split(' ').next()).map(str::to_owned).collect()
}
