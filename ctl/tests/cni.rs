//! `swctl cni` against scripts that stand for plugins, in directories of the test.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // helpers of tests are tests

mod fake;

use std::path::{Path, PathBuf};

use fake::{Run, Script, Server};
use serde_json::{Value, json};

const NETWORK: &str = "network add blue --vni 1 --subnet 10.1.1.0/24 --gateway 10.1.1.1";

/// Directories of a runtime, a plugin to install and a daemon.
struct Node {
    dir: tempfile::TempDir,
    server: Server,
}

impl Node {
    fn new() -> Self {
        let node = Self { dir: tempfile::tempdir().unwrap(), server: Server::start(Script::default()) };
        node.server.ok(NETWORK);
        std::fs::create_dir_all(node.path("bin")).unwrap();
        node.plugin("source", "swd-cni", "exit 0");
        node
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn conflist(&self) -> PathBuf {
        self.path("net.d/10-swd.conflist")
    }

    /// A script as a plugin: knows `--version` and VERSION, logs what it is asked, goes on with `body`.
    fn plugin(&self, dir: &str, kind: &str, body: &str) {
        let log = self.path("log");
        let script = format!(
            "#!/bin/sh\n\
             if [ \"$1\" = --version ]; then echo '{kind} 1.2.3 (CNI)'; exit; fi\n\
             if [ \"$CNI_COMMAND\" = VERSION ]; then\n\
             echo '{{\"cniVersion\":\"1.1.0\",\"supportedVersions\":[\"1.0.0\",\"1.1.0\"]}}'; exit; fi\n\
             config=$(cat)\n\
             printf '%s\\t%s\\t%s\\t%s\\t%s\\t%s\\n' {kind} \"$CNI_COMMAND\" \"$CNI_CONTAINERID\" \"$CNI_NETNS\" \
             \"$CNI_ARGS\" \"$config\" >> '{}'\n{body}\n",
            log.display()
        );
        std::fs::create_dir_all(self.path(dir)).unwrap();
        ctl::atomic::write(&self.path(dir).join(kind), 0o755, script.as_bytes()).unwrap();
    }

    fn swctl(&self, args: &[&str]) -> Run {
        let (bin, net) = (self.path("bin"), self.path("net.d"));
        let places = ["--bin-dir", bin.to_str().unwrap(), "--conf-dir", net.to_str().unwrap()];
        fake::swctl(&self.server.socket(), &[&["cni"], args, &places].concat())
    }

    fn ok(&self, args: &[&str]) -> Run {
        let run = self.swctl(args);
        assert_eq!(run.code, 0, "{args:?}: {run:?}");
        run
    }

    fn install(&self, more: &[&str]) -> Run {
        let source = self.path("source/swd-cni");
        self.swctl(&[&["install", "--plugin", source.to_str().unwrap()], more].concat())
    }

    /// A `cni run` with results kept in the test's directory.
    fn cni(&self, args: &[&str]) -> Run {
        let cache = self.path("cache");
        self.swctl(&[&["run", "--cache-dir", cache.to_str().unwrap()], args].concat())
    }

    /// Lines of the log: kind, verb, container, namespace, arguments, configuration.
    fn log(&self) -> Vec<(Vec<String>, Value)> {
        let text = std::fs::read_to_string(self.path("log")).unwrap_or_default();
        let _ = std::fs::remove_file(self.path("log"));
        text.lines()
            .map(|line| {
                let mut parts: Vec<_> = line.splitn(6, '\t').map(str::to_owned).collect();
                let config = serde_json::from_str(&parts.pop().unwrap()).unwrap();
                (parts, config)
            })
            .collect()
    }

    fn verbs(&self) -> Vec<String> {
        self.log().into_iter().map(|(parts, _)| format!("{} {}", parts[0], parts[1])).collect()
    }

    fn conf(&self, conf: &Value) {
        std::fs::create_dir_all(self.path("net.d")).unwrap();
        std::fs::write(self.conflist(), conf.to_string()).unwrap();
    }
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn inode(path: &Path) -> u64 {
    std::os::unix::fs::MetadataExt::ino(&path.metadata().unwrap())
}

#[test]
fn install_is_atomic_and_may_be_repeated() {
    let node = Node::new();
    // One that runs at this moment: its file must stay as it is.
    node.plugin("bin", "swd-cni", "exit 1");
    let old = std::fs::File::open(node.path("bin/swd-cni")).unwrap();
    let before = std::io::read_to_string(&old).unwrap();

    let run = node.install(&["--network", "blue", "--name", "web", "--chain", "tuning"]);
    assert_eq!(run.code, 0, "{run:?}");
    let (plugin, config) = (node.path("bin/swd-cni"), node.conflist());
    assert_eq!(run.out, format!("installed {}\nwrote {}\n", plugin.display(), config.display()));
    assert_eq!(std::fs::read(&plugin).unwrap(), std::fs::read(node.path("source/swd-cni")).unwrap());
    std::io::Seek::rewind(&mut &old).unwrap();
    assert_eq!(std::io::read_to_string(&old).unwrap(), before, "replaced, not written over");
    let list: Value = serde_json::from_slice(&std::fs::read(&config).unwrap()).unwrap();
    assert_eq!((&list["cniVersion"], &list["name"]), (&json!("1.0.0"), &json!("web")));
    assert_eq!(list["plugins"][0]["network"], "blue");
    assert_eq!(list["plugins"][0]["socket"], node.server.socket().to_str().unwrap());
    assert_eq!(list["plugins"][0]["capabilities"]["portMappings"], true);
    assert_eq!(list["plugins"][1], json!({ "type": "tuning" }));
    assert_eq!(names(&node.path("net.d")), ["10-swd.conflist"]);
    assert_eq!(names(&node.path("bin")), ["swd-cni"]);

    let inodes = [inode(&plugin), inode(&config)];
    let run = node.install(&["--network", "blue", "--name", "web", "--chain", "tuning", "-o", "json"]);
    let view: Value = serde_json::from_str(&run.out).unwrap();
    assert_eq!((&view["plugin"]["changed"], &view["config"]["changed"]), (&json!(false), &json!(false)));
    assert_eq!([inode(&plugin), inode(&config)], inodes);
    let view: Value = serde_json::from_str(&node.install(&["-o", "json"]).out).unwrap();
    assert_eq!(view["config"]["changed"], true);
}

/// No configuration before the daemon answers: the runtime would declare the node ready.
#[test]
fn without_a_daemon_only_the_plugin_is_installed() {
    let node = Node::new();
    let run = node.install(&["--socket", "/nonexistent/swd.sock"]);
    assert_eq!(run.code, 4, "{run:?}");
    assert!(node.path("bin/swd-cni").exists() && !node.conflist().exists());
    assert!(run.out.starts_with("installed "), "{run:?}");
}

#[test]
fn what_is_not_installed() {
    let node = Node::new();
    let old = node.install(&["--cni-version", "0.2.0"]);
    assert_eq!(old.code, 2);
    assert!(old.err.contains("1.0.0, 1.1.0"), "{old:?}");
    node.plugin("source", "other", "exit 0");
    let other = node.swctl(&["install", "--plugin", node.path("source/other").to_str().unwrap()]);
    assert!(other.code == 1 && other.err.contains("not a CNI plugin of ours"), "{other:?}");
    let none = node.swctl(&["install", "--plugin", "/nonexistent/swd-cni"]);
    assert!(none.code == 1 && none.err.contains("/nonexistent/swd-cni"), "{none:?}");
    assert_eq!(names(&node.path("bin")), [""; 0]);
    assert!(!node.conflist().exists());
}

#[test]
fn files_of_others_are_left_alone() {
    let node = Node::new();
    for foreign in
        ["{\"cniVersion\":\"1.0.0\",\"name\":\"a\",\"plugins\":[{\"type\":\"bridge\"}]}", "rubbish"]
    {
        std::fs::create_dir_all(node.path("net.d")).unwrap();
        std::fs::write(node.conflist(), foreign).unwrap();
        for run in [node.install(&[]), node.swctl(&["uninstall"])] {
            assert!(run.code == 1 && run.err.contains("ours"), "{run:?}");
        }
        assert_eq!(std::fs::read_to_string(node.conflist()).unwrap(), foreign);
        assert_eq!(names(&node.path("bin")), [""; 0]);
    }
}

#[test]
fn uninstall_removes_what_install_made() {
    let node = Node::new();
    assert_eq!(node.install(&[]).code, 0);
    let run = node.ok(&["uninstall"]);
    let (plugin, config) = (node.path("bin/swd-cni"), node.conflist());
    // The configuration first: without it no runtime looks for the plugin.
    assert_eq!(run.out, format!("removed {}\nremoved {}\n", config.display(), plugin.display()));
    assert!(!plugin.exists() && !config.exists());
    let again: Value = serde_json::from_str(&node.ok(&["uninstall", "-o", "json"]).out).unwrap();
    assert_eq!((&again["plugin"]["changed"], &again["config"]["changed"]), (&json!(false), &json!(false)));
}

#[test]
fn status_names_every_problem() {
    let node = Node::new();
    let problems = |args: &[&str]| -> Vec<String> {
        let run = node.swctl(&[&["status", "-o", "json"], args].concat());
        let view: Value = serde_json::from_str(&run.out).unwrap();
        let problems: Vec<_> =
            view["problems"].as_array().unwrap().iter().map(|p| p.as_str().unwrap().to_owned()).collect();
        assert_eq!(run.code, if problems.is_empty() { 0 } else { 6 }, "{run:?}");
        problems
    };
    let nothing = problems(&["--socket", "/nonexistent"]);
    assert_eq!(nothing.len(), 3, "{nothing:?}");
    assert!(
        nothing[0].starts_with("plugin:")
            && nothing[1].starts_with("config:")
            && nothing[2].starts_with("daemon:")
    );

    node.install(&["--network", "blue"]);
    assert!(problems(&[]).is_empty());
    let view: Value = serde_json::from_str(&node.ok(&["status", "-o", "json"]).out).unwrap();
    assert_eq!((&view["plugin"]["version"], &view["config"]["network"]), (&json!("1.2.3"), &json!("blue")));
    assert_eq!(view["daemon"]["ready"], true);
    assert!(node.ok(&["status"]).out.contains("ready"));

    std::fs::write(node.path("net.d/05-other.conf"), "{}").unwrap();
    let shadowed = problems(&[]);
    assert!(shadowed.len() == 1 && shadowed[0].contains("05-other.conf"), "{shadowed:?}");
    std::fs::remove_file(node.path("net.d/05-other.conf")).unwrap();

    node.install(&["--chain", "tuning"]);
    let unchained = problems(&[]);
    assert!(unchained.len() == 1 && unchained[0].contains("tuning"), "{unchained:?}");
    node.conf(&json!({ "cniVersion": "0.4.0", "name": "a", "plugins": [{ "type": "swd-cni" }] }));
    let old = problems(&[]);
    assert!(old.len() == 1 && old[0].contains("0.4.0"), "{old:?}");
    std::fs::write(node.conflist(), "{").unwrap();
    assert!(problems(&[])[0].contains("not JSON"));
}

/// Two plugins: results handed on, capabilities to those that declare them, DEL backwards.
#[test]
fn run_is_what_a_runtime_does() {
    let node = Node::new();
    let result = |who: &str| format!("if [ \"$CNI_COMMAND\" = ADD ]; then echo '{{\"by\":\"{who}\"}}'; fi");
    node.plugin("bin", "first", &result("first"));
    node.plugin("bin", "second", &result("second"));
    let first = json!({ "type": "first", "capabilities": { "ips": true, "mac": false }, "own": 1 });
    node.conf(&json!({ "cniVersion": "1.1.0", "name": "web", "plugins": [first, { "type": "second" }] }));
    let capabilities = r#"{"ips":["10.1.1.9"],"mac":"02:00:00:00:00:09"}"#;
    let add = [
        "ADD",
        "--container-id",
        "c1",
        "--netns",
        "web-0",
        "--capability-args",
        capabilities,
        "--args",
        "A=1",
        "--args",
        "B=2",
    ];
    let run = node.cni(&add);
    assert_eq!((run.code, run.err.as_str()), (0, ""), "{run:?}");
    assert_eq!(serde_json::from_str::<Value>(&run.out).unwrap(), json!({ "by": "second" }));
    let log = node.log();
    assert_eq!(log[0].0, ["first", "ADD", "c1", "/run/netns/web-0", "A=1;B=2"]);
    let common = json!({ "cniVersion": "1.1.0", "name": "web" });
    let mut expected = first.clone();
    expected.as_object_mut().unwrap().extend(common.as_object().unwrap().clone());
    expected["runtimeConfig"] = json!({ "ips": ["10.1.1.9"] });
    assert_eq!(log[0].1, expected);
    let mut expected = common.clone();
    expected["type"] = "second".into();
    expected["prevResult"] = json!({ "by": "first" });
    assert_eq!(log[1].1, expected);

    assert_eq!(node.cni(&["check", "--container-id", "c1", "--netns", "web-0"]).code, 0);
    let log = node.log();
    assert_eq!((log.len(), &log[0].1["prevResult"]), (2, &json!({ "by": "second" })));
    assert_eq!(node.cni(&["DEL", "--container-id", "c1"]).code, 0);
    let log = node.log();
    assert_eq!((log[0].0[0].as_str(), log[1].0[0].as_str()), ("second", "first"));
    assert_eq!(log[0].1["prevResult"], json!({ "by": "second" }));
    assert!(names(&node.path("cache/web")).is_empty());
    // Nothing kept: DEL all the same, CHECK cannot.
    assert_eq!(node.cni(&["DEL", "--container-id", "c1"]).code, 0);
    assert!(node.log()[0].1.get("prevResult").is_none());
    let check = node.cni(&["CHECK", "--container-id", "c1", "--netns", "web-0"]);
    assert!(check.code == 1 && check.err.contains("no result of ADD"), "{check:?}");
    assert_eq!(node.verbs(), [""; 0]);
    // The longest name that a port can have leaves this for the id.
    let long = "a".repeat(253 - "/eth0".len());
    for verb in ["ADD", "CHECK", "DEL"] {
        assert_eq!(node.cni(&[verb, "--container-id", &long, "--netns", "web-0"]).code, 0, "{verb}");
    }
    node.log();

    assert_eq!(node.cni(&["STATUS"]).code, 0);
    assert_eq!(node.verbs(), ["first STATUS", "second STATUS"]);
    let gc = ["GC", "--valid", "c1/eth0", "--valid", "c2/net1"];
    assert_eq!(node.cni(&gc).code, 0);
    let list = json!([{ "containerID": "c1", "ifname": "eth0" }, { "containerID": "c2", "ifname": "net1" }]);
    let log = node.log();
    assert_eq!((&log[0].1["cni.dev/valid-attachments"], &log[1].1["cni.dev/attachments"]), (&list, &list));
    let versions: Value = serde_json::from_str(&node.cni(&["VERSION", "-o", "json"]).out).unwrap();
    assert_eq!(versions[1], json!({ "type": "second", "supported_versions": ["1.0.0", "1.1.0"] }));
}

#[test]
fn run_and_failures() {
    let node = Node::new();
    let fails = r#"echo '{"code":11,"msg":"no swd","details":"start it"}'; exit 1"#;
    node.plugin("bin", "bad", fails);
    node.plugin("bin", "good", "echo '{}'");
    let plugins = [json!({ "type": "good" }), json!({ "type": "bad" }), json!({ "type": "good" })];
    node.conf(&json!({ "cniVersion": "0.3.1", "name": "web", "plugins": plugins }));
    let run = node.cni(&["ADD", "--container-id", "c1", "--netns", "a"]);
    assert_eq!((run.code, run.out.as_str()), (1, ""));
    assert!(run.err.contains("plugin bad: ADD failed with code 11: no swd; start it"), "{run:?}");
    assert_eq!(node.verbs(), ["good ADD", "bad ADD"], "ADD stops");
    node.cni(&["DEL", "--container-id", "c1"]);
    assert_eq!(node.verbs(), ["good DEL", "bad DEL"], "DEL stops");
    assert_eq!(node.cni(&["GC", "--none-valid"]).code, 1);
    assert_eq!(node.verbs(), ["good GC", "bad GC", "good GC"], "GC goes on");

    node.conf(&json!({ "cniVersion": "1.0.0", "name": "web", "plugins": [{ "type": "../good" }] }));
    let run = node.cni(&["STATUS"]);
    assert!(run.code == 1 && run.err.contains("is not in"), "{run:?}");
    for usage in [
        &["ADD"][..],
        &["ADD", "--container-id", "c1"],
        &["GC"],
        &["ADD", "--container-id", "../x", "--netns", "a"],
    ] {
        assert_eq!(node.cni(usage).code, 2, "{usage:?}");
    }
    std::fs::remove_file(node.conflist()).unwrap();
    assert!(node.cni(&["STATUS"]).err.contains("does not exist"));
}

/// A configuration may switch verbs off.
#[test]
fn run_honours_what_is_disabled() {
    let node = Node::new();
    node.plugin("bin", "first", "echo '{}'");
    let conf = json!({ "cniVersion": "1.1.0", "name": "web", "disableCheck": true, "disableGC": "true", "plugins": [{ "type": "first" }] });
    node.conf(&conf);
    assert_eq!(node.cni(&["ADD", "--container-id", "c1", "--netns", "a"]).code, 0);
    assert_eq!(node.cni(&["CHECK", "--container-id", "c1", "--netns", "a"]).code, 0);
    assert_eq!(node.cni(&["GC", "--none-valid"]).code, 0);
    assert_eq!(node.verbs(), ["first ADD"]);
}
