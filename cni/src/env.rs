//! The environment variables of the protocol: which a verb needs, and what they may contain.
//!
//! Runtimes export all of them for every verb, empty where they have nothing to say, so an empty variable is
//! a missing one. All that are missing are named at once. `CNI_PATH` is required where the specification says
//! so, for GC, and where another plugin must be found in it; see [`Env::path`].

use std::ffi::OsString;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use ctl::desired::check;

use crate::args;
use crate::error::{CniError, Code};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    Add,
    Del,
    Check,
    Gc,
    Status,
    Version,
}

impl Command {
    pub const ALL: [Self; 6] = [Self::Add, Self::Del, Self::Check, Self::Gc, Self::Status, Self::Version];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Del => "DEL",
            Self::Check => "CHECK",
            Self::Gc => "GC",
            Self::Status => "STATUS",
            Self::Version => "VERSION",
        }
    }

    const fn required(self) -> &'static [&'static str] {
        match self {
            Self::Add | Self::Check => &[CONTAINERID, NETNS, IFNAME],
            Self::Del => &[CONTAINERID, IFNAME],
            Self::Gc => &[PATH],
            Self::Status | Self::Version => &[],
        }
    }
}

pub const COMMAND: &str = "CNI_COMMAND";
const CONTAINERID: &str = "CNI_CONTAINERID";
const NETNS: &str = "CNI_NETNS";
const IFNAME: &str = "CNI_IFNAME";
const ARGS: &str = "CNI_ARGS";
const PATH: &str = "CNI_PATH";
const NETNS_OVERRIDE: &str = "CNI_NETNS_OVERRIDE";

/// The variables, checked as far as the verb needs them; others are empty.
#[derive(Clone, Debug)]
pub struct Env {
    pub command: Command,
    pub container_id: String,
    pub netns: String,
    pub ifname: String,
    pub args: String,
    path: String,
    netns_override: bool,
}

impl Env {
    /// Reads them; `None` when there is no `CNI_COMMAND`, because then no runtime is asking.
    pub fn read(get: impl Fn(&str) -> Option<OsString>) -> Result<Option<Self>, CniError> {
        let Some(command) = get(COMMAND) else { return Ok(None) };
        let command = Command::ALL.into_iter().find(|c| command == c.as_str()).ok_or_else(|| {
            let verbs = Command::ALL.map(Command::as_str).join(", ");
            let shown = command.display().to_string();
            invalid(format!("{COMMAND} is `{}`: expected one of {verbs}", shown.escape_default()))
        })?;
        if command == Command::Version {
            // Nothing else matters, so nothing else can be wrong.
            return Ok(Some(Self::of(command)));
        }
        let missing: Vec<_> = command
            .required()
            .iter()
            .copied()
            .filter(|&name| get(name).is_none_or(|v| v.is_empty()))
            .collect();
        if !missing.is_empty() {
            return Err(missing_variables(command, &missing));
        }
        let text = |name: &str| {
            get(name).unwrap_or_default().into_string().map_err(|_| invalid(format!("{name} is not UTF-8")))
        };
        let mut env = Self::of(command);
        env.path = text(PATH)?;
        if matches!(command, Command::Gc | Command::Status) {
            return Ok(Some(env));
        }
        env.container_id = text(CONTAINERID)?;
        env.ifname = text(IFNAME)?;
        env.args = text(ARGS)?;
        env.netns = text(NETNS)?;
        let flag = text(NETNS_OVERRIDE)?;
        env.netns_override = flag == "1" || flag.eq_ignore_ascii_case("true");
        if !is_identifier(&env.container_id) {
            let shown = env.container_id.escape_default();
            return Err(invalid(format!("{CONTAINERID} is `{shown}`: expected {IDENTIFIER}")));
        }
        check::ifname(&env.ifname).map_err(|e| invalid(format!("{IFNAME}: {e}")))?;
        Ok(Some(env))
    }

    fn of(command: Command) -> Self {
        let none = String::new;
        let (container_id, netns, ifname, args, path) = (none(), none(), none(), none(), none());
        Self { command, container_id, netns, ifname, args, path, netns_override: false }
    }

    /// Where plugins are, for a verb that must run one.
    pub fn path(&self) -> Result<&str, CniError> {
        if self.path.is_empty() { Err(missing_variables(self.command, &[PATH])) } else { Ok(&self.path) }
    }

    /// `CNI_NETNS` for the daemon: its working directory is not ours.
    pub fn netns_path(&self) -> Result<String, CniError> {
        let path = std::path::absolute(&self.netns).map_err(|e| invalid(format!("{NETNS}: {e}")))?;
        path.into_os_string().into_string().map_err(|_| invalid(format!("{NETNS} is not UTF-8")))
    }

    /// Refuses the namespace that the plugin itself runs in: the node's interfaces would be touched. A path that
    /// leads nowhere is not refused here.
    pub fn refuse_own_netns(&self) -> Result<(), CniError> {
        if self.netns_override || !same_file(Path::new(&self.netns), Path::new("/proc/self/ns/net")) {
            return Ok(());
        }
        let msg = format!("{NETNS} is {}, which is the namespace of the node, not of a pod", self.netns);
        Err(CniError::new(Code::InvalidNetns, msg)
            .details("name the pod's namespace, or set CNI_NETNS_OVERRIDE=1 when this is meant"))
    }

    /// The attachment, in messages: by pod when the runtime says which, else by container.
    pub fn subject(&self) -> String {
        let pod = args::pod(&self.args).unwrap_or_else(|| format!("container {}", self.container_id));
        format!("{} of {pod}", self.ifname)
    }
}

const IDENTIFIER: &str = "letters, digits and . _ -, starting with a letter or digit";

/// What the specification allows as a container id and as the name of a network.
pub fn is_identifier(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
}

fn same_file(a: &Path, b: &Path) -> bool {
    let id = |path: &Path| std::fs::metadata(path).ok().map(|m| (m.dev(), m.ino()));
    id(a).is_some_and(|a| Some(a) == id(b))
}

fn invalid(msg: String) -> CniError {
    CniError::new(Code::InvalidEnvironment, msg)
}

fn missing_variables(command: Command, names: &[&str]) -> CniError {
    invalid(format!("{} needs environment variables that are missing: {}", command.as_str(), names.join(",")))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    const VARIABLES: [&str; 4] = [CONTAINERID, NETNS, IFNAME, PATH];

    fn full(command: &str) -> BTreeMap<&'static str, OsString> {
        let pairs = [
            (COMMAND, command),
            (CONTAINERID, "c1"),
            (NETNS, "/run/netns/a"),
            (IFNAME, "eth0"),
            (PATH, "/opt/cni/bin"),
        ];
        pairs.map(|(k, v)| (k, v.into())).into()
    }

    fn read(of: &BTreeMap<&'static str, OsString>) -> Result<Option<Env>, CniError> {
        Env::read(|name| of.get(name).cloned())
    }

    /// Every verb with every set of variables absent, and the same set empty.
    #[test]
    fn required_variables_of_each_verb() {
        for command in Command::ALL {
            for absent in 0..1_u32 << VARIABLES.len() {
                let names: Vec<_> = VARIABLES
                    .iter()
                    .enumerate()
                    .filter(|(at, _)| absent >> at & 1 == 1)
                    .map(|(_, n)| *n)
                    .collect();
                for empty in [false, true] {
                    let mut env = full(command.as_str());
                    for name in &names {
                        env.remove(name);
                        if empty {
                            env.insert(name, OsString::new());
                        }
                    }
                    let missing: Vec<_> =
                        command.required().iter().copied().filter(|n| names.contains(n)).collect();
                    match read(&env) {
                        Ok(Some(env)) => {
                            assert!(missing.is_empty(), "{command:?} without {missing:?}");
                            assert_eq!(env.command, command);
                        }
                        Ok(None) => panic!("{command:?} was not seen"),
                        Err(e) => {
                            assert_eq!(e.code, 4);
                            assert!(e.msg.ends_with(&missing.join(",")) && !missing.is_empty(), "{}", e.msg);
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn verbs() {
        assert!(read(&BTreeMap::new()).unwrap().is_none());
        for bad in ["", "FOO", "add", "ADD ", "\u{1b}[2J"] {
            let e = read(&full(bad)).unwrap_err();
            assert_eq!(e.code, 4);
            assert!(e.msg.contains("CNI_COMMAND") && !e.msg.contains('\u{1b}'), "{}", e.msg);
        }
    }

    #[test]
    fn a_verb_without_a_container_ignores_what_it_does_not_need() {
        for command in ["GC", "STATUS", "VERSION"] {
            let mut env = full(command);
            env.insert(CONTAINERID, "not an id".into());
            env.insert(IFNAME, "far too long for a device".into());
            assert!(read(&env).unwrap().is_some(), "{command}");
        }
    }

    #[test]
    fn path_is_required_only_when_a_plugin_must_be_found() {
        let mut env = full("ADD");
        env.remove(PATH);
        let e = read(&env).unwrap().unwrap().path().unwrap_err();
        assert!(e.code == 4 && e.msg.contains("CNI_PATH"), "{}", e.msg);
    }

    #[test]
    fn the_namespace_of_the_plugin_is_refused() {
        let mut env = full("ADD");
        env.insert(NETNS, "/proc/self/ns/net".into());
        let e = read(&env).unwrap().unwrap().refuse_own_netns().unwrap_err();
        assert_eq!(e.code, 8);
        env.insert(NETNS_OVERRIDE, "true".into());
        assert!(read(&env).unwrap().unwrap().refuse_own_netns().is_ok());
        env.insert(NETNS_OVERRIDE, "0".into());
        env.insert(NETNS, "/proc/none/ns/net".into());
        assert!(read(&env).unwrap().unwrap().refuse_own_netns().is_ok(), "a path that leads nowhere");
    }

    #[test]
    fn who_is_meant() {
        let mut env = full("ADD");
        assert_eq!(read(&env).unwrap().unwrap().subject(), "eth0 of container c1");
        env.insert(ARGS, "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-0".into());
        assert_eq!(read(&env).unwrap().unwrap().subject(), "eth0 of pod default/web-0");
    }

    proptest! {
        /// The specification's expression, written out a second time as a walk over characters.
        #[test]
        fn container_ids(id in "[A-Za-z0-9_./:é \\-]{1,12}") {
            let mut env = full("DEL");
            env.insert(CONTAINERID, id.clone().into());
            let mut chars = id.chars();
            let first = chars.next().is_some_and(|c| matches!(c, 'a'..='z' | 'A'..='Z' | '0'..='9'));
            let rest = chars.all(|c| matches!(c, 'a'..='z' | 'A'..='Z' | '0'..='9' | '_' | '.' | '-'));
            let read = read(&env);
            prop_assert_eq!(read.is_ok(), first && rest);
            if let Err(e) = read {
                prop_assert!(e.code == 4 && e.msg.contains(CONTAINERID));
            }
        }

        #[test]
        fn interface_names(name in "[a-z0-9.:/@é \\-\t]{1,18}") {
            let mut env = full("DEL");
            env.insert(IFNAME, name.clone().into());
            let good = name.len() <= 15
                && name != "."
                && name != ".."
                && !name.chars().any(|c| c == '/' || c == ':' || c.is_whitespace());
            let read = read(&env);
            prop_assert_eq!(read.is_ok(), good);
            if let Err(e) = read {
                prop_assert!(e.code == 4 && e.msg.contains(IFNAME));
            }
        }
    }
}
