//! The plugin called as libcni calls it, with a real daemon behind it: every verb in every version, and the calls
//! out of order that runtimes are known for. What Kubernetes makes of it is in the suite `kubernetes`.

use lab::cmd::Output;
use lab::runtimes::machine::{BIN_DIR, Machine};
use lab::{Context, Error, Node, Result, ensure, wait};
use serde_json::{Value, json};

use crate::support::{Cluster, NETWORK, SOON, attachment, attachments, nothing_left};

/// Versions of the specification that a configuration may name.
const VERSIONS: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/// One attachment as a runtime thinks of it.
#[derive(Clone, Debug)]
struct Call<'n> {
    node: &'n Node,
    id: String,
    netns: String,
    config: Value,
}

/// What the plugin left.
#[derive(Debug)]
struct Answer {
    code: i32,
    json: Value,
}

impl Answer {
    /// The code of its error; 0 when it succeeded.
    fn error(&self) -> Result<i64> {
        if self.code == 0 {
            return Ok(0);
        }
        self.json["code"].as_i64().ok_or_else(|| Error::failed(format!("no error code: {}", self.json)))
    }

    fn expect(self, error: i64, what: &str) -> Result<Value> {
        ensure!(self.error()? == error, "{what}: expected error {error}, got {:?}", self);
        Ok(self.json)
    }
}

impl<'n> Call<'n> {
    /// A container with a network namespace of its own name.
    fn new(node: &'n Node, id: &str) -> Result<Self> {
        node.machine()?.cmd("ip").args(["netns", "add", id]).run()?;
        Ok(Self::without_netns(node, id))
    }

    /// A container whose namespace nobody made.
    fn without_netns(node: &'n Node, id: &str) -> Self {
        let config = json!({
            "cniVersion": "1.0.0",
            "name": NETWORK,
            "type": "swd-cni",
            "socket": node.socket(),
        });
        Self { node, id: id.to_owned(), netns: format!("/run/netns/{id}"), config }
    }

    fn version(mut self, version: &str) -> Self {
        self.config["cniVersion"] = version.into();
        self
    }

    fn previous(mut self, result: &Value) -> Self {
        self.config["prevResult"] = result.clone();
        self
    }

    fn netns(mut self, path: &str) -> Self {
        self.netns = path.to_owned();
        self
    }

    fn verb(&self, verb: &str) -> Result<Answer> {
        self.run(verb, &self.id, "eth0", &self.netns)
    }

    /// For GC and STATUS libcni exports the variables of an attachment as empty texts.
    fn network_verb(&self, verb: &str) -> Result<Answer> {
        self.run(verb, "", "", "")
    }

    fn run(&self, verb: &str, id: &str, ifname: &str, netns: &str) -> Result<Answer> {
        answer(
            self.node
                .machine()?
                .cmd(format!("{BIN_DIR}/swd-cni"))
                .env("CNI_COMMAND", verb)
                .env("CNI_CONTAINERID", id)
                .env("CNI_NETNS", netns)
                .env("CNI_ARGS", "")
                .env("CNI_IFNAME", ifname)
                .env("CNI_PATH", BIN_DIR)
                .stdin(self.config.to_string())
                .output()?,
        )
    }
}

fn answer(output: Output) -> Result<Answer> {
    let json = match output.stdout.trim() {
        "" => Value::Null,
        text => serde_json::from_str(text).context(format!("{output:?}"))?,
    };
    Ok(Answer { code: output.code, json })
}

/// A ping from a namespace of the machine.
fn ping(machine: &Machine, netns: &str, ip: &str) -> Result<()> {
    wait::until_ok(&format!("{ip} answers {netns}"), SOON, || {
        machine.cmd("ip").args(["netns", "exec", netns, "ping", "-c", "1", "-W", "1", ip]).run().map(drop)
    })
}

/// ADD, CHECK, DEL in every version, with a pod that can be reached in between.
pub fn every_version() -> Result<()> {
    let cluster = Cluster::single("cniver")?;
    let a = cluster.a()?;
    for version in VERSIONS {
        let id = format!("v{}", version.replace('.', "-"));
        let call = Call::new(a, &id)?.version(version);
        let result = call.verb("ADD")?.expect(0, version)?;
        ensure!(result["cniVersion"] == version, "{result}");
        let interface = &result["interfaces"][0];
        ensure!(interface["name"] == "eth0" && interface["sandbox"] == call.netns.as_str(), "{result}");
        ensure!(result["ips"].as_array().map(Vec::len) == Some(2), "{result}");
        for ip in result["ips"].as_array().into_iter().flatten() {
            ensure!(ip["interface"] == 0 && !ip["gateway"].is_null(), "{version}: {ip}");
            ensure!(ip["version"].is_string() == version.starts_with("0."), "{version}: {ip}");
        }
        let port = attachment(a, &id)?;
        ensure!(interface["mac"] == port["mac"], "{result}, but {port}");
        ping(a.machine()?, &id, "10.1.1.1")?;
        let checked = call.clone().previous(&result).verb("CHECK")?;
        // CHECK came with 0.4.0.
        checked.expect(if version.starts_with("0.3") { 1 } else { 0 }, "CHECK")?;
        call.verb("DEL")?.expect(0, "DEL")?;
        nothing_left(a)?;
    }
    // A version nobody knows: refused, and nothing is made.
    let call = Call::new(a, "future")?.version("9.9.9");
    call.verb("ADD")?.expect(1, "9.9.9")?;
    cluster.ends_clean()
}

/// VERSION as libcni and podman ask for it: with nothing but a version on standard input, and dummies around.
pub fn version_and_status_as_libcni_asks() -> Result<()> {
    let cluster = Cluster::single("cnivers")?;
    let a = cluster.a()?;
    for stdin in [r#"{"cniVersion":"1.0.0"}"#, "{}", ""] {
        let asked = a.machine()?.cmd(format!("{BIN_DIR}/swd-cni")).env("CNI_COMMAND", "VERSION");
        let asked = asked.env("CNI_NETNS", "dummy").env("CNI_IFNAME", "dummy").env("CNI_PATH", "dummy");
        let reply = answer(asked.stdin(stdin).output()?)?.expect(0, stdin)?;
        ensure!(reply["supportedVersions"] == json!(VERSIONS), "{reply}");
    }
    let call = Call::without_netns(a, "nobody").version("1.1.0");
    call.network_verb("STATUS")?.expect(0, "STATUS")?;
    call.clone().version("1.0.0").network_verb("STATUS")?.expect(1, "STATUS before 1.1.0")?;
    // A required variable that is set but empty is missing, and named.
    let nobody = call.run("ADD", "", "eth0", "")?.expect(4, "ADD of nobody")?;
    let said = nobody["msg"].to_string() + &nobody["details"].to_string();
    ensure!(said.contains("CNI_CONTAINERID") && said.contains("CNI_NETNS"), "{nobody}");
    cluster.ends_clean()
}

/// DEL in every state the world can be in.
pub fn deletes_in_every_state() -> Result<()> {
    let cluster = Cluster::single("cnidel")?;
    let a = cluster.a()?;
    let machine = a.machine()?;
    let never = Call::without_netns(a, "never");
    never.verb("DEL")?.expect(0, "DEL of one that never was")?;
    never.clone().netns("").verb("DEL")?.expect(0, "the same without a namespace")?;

    // Twice, the second time with nothing left of it.
    let twice = Call::new(a, "twice")?;
    let result = twice.verb("ADD")?.expect(0, "ADD")?;
    twice.clone().previous(&result).verb("DEL")?.expect(0, "DEL with the result")?;
    twice.verb("DEL")?.expect(0, "DEL again")?;

    // The runtime lost the path, as `ctr` does.
    let pathless = Call::new(a, "pathless")?;
    pathless.verb("ADD")?.expect(0, "ADD")?;
    pathless.clone().netns("").verb("DEL")?.expect(0, "DEL without a path")?;
    ensure!(attachment(a, "pathless").is_err(), "DEL without a path left the port");

    // The namespace is gone.
    let gone = Call::new(a, "gone")?;
    gone.verb("ADD")?.expect(0, "ADD")?;
    machine.cmd("ip").args(["netns", "del", "gone"]).run()?;
    gone.verb("DEL")?.expect(0, "DEL after the namespace")?;
    ensure!(attachment(a, "gone").is_err(), "DEL after the namespace left the port");

    // The path now leads to another pod: that one stays as it is.
    let (old, other) = (Call::new(a, "old")?, Call::new(a, "other")?);
    old.verb("ADD")?.expect(0, "ADD")?;
    let kept = other.verb("ADD")?.expect(0, "ADD")?;
    old.netns(&other.netns).verb("DEL")?.expect(0, "DEL with another pod's path")?;
    ensure!(attachment(a, "old").is_err(), "DEL with another pod's path left the port");
    ping(machine, "other", "10.1.1.1")?;
    other.clone().previous(&kept).verb("CHECK")?.expect(0, "the other pod")?;
    other.verb("DEL")?.expect(0, "DEL")?;
    cluster.ends_abruptly()
}

/// ADD again, with the same and with another wish; into a namespace that has an eth0; into none at all.
pub fn adds_that_are_repeated_or_refused() -> Result<()> {
    let cluster = Cluster::single("cniadd")?;
    let a = cluster.a()?;
    let machine = a.machine()?;
    let call = Call::new(a, "again")?;
    let first = call.verb("ADD")?.expect(0, "ADD")?;
    let second = call.verb("ADD")?.expect(0, "ADD again")?;
    ensure!(first == second, "{first}\n{second}");
    ensure!(attachments(a)?.len() == 1, "ADD again made a second port");
    let elsewhere = Call::new(a, "elsewhere")?;
    let refused =
        call.clone().netns(&elsewhere.netns).verb("ADD")?.expect(100, "ADD into another namespace")?;
    ensure!(refused.to_string().contains("again"), "{refused}");
    call.clone().previous(&first).verb("CHECK")?.expect(0, "the first goes on")?;

    machine
        .cmd("ip")
        .args(["-n", "elsewhere", "link", "add", "eth0", "type", "veth", "peer", "name", "x"])
        .run()?;
    let taken = elsewhere.verb("ADD")?;
    ensure!(taken.error()? != 0 && taken.json.to_string().contains("eth0"), "{taken:?}");
    let nowhere = Call::without_netns(a, "nowhere").verb("ADD")?;
    ensure!(nowhere.error()? != 0 && nowhere.json.to_string().contains("/run/netns/nowhere"), "{nowhere:?}");
    // The node's own namespace is not a pod's.
    Call::without_netns(a, "node").netns("/proc/1/ns/net").verb("ADD")?.expect(8, "ADD into the node")?;
    ensure!(attachments(a)?.len() == 1, "a refused ADD left a port: {:?}", attachments(a)?);
    call.verb("DEL")?.expect(0, "DEL")?;
    cluster.ends_clean()
}

/// CHECK with results as caches hold them, and after somebody has meddled.
pub fn checks() -> Result<()> {
    let cluster = Cluster::single("cnichk")?;
    let a = cluster.a()?;
    let machine = a.machine()?;
    let call = Call::new(a, "pod")?;
    let old = call.clone().version("0.4.0").verb("ADD")?.expect(0, "ADD")?;
    // The network was upgraded: the cached result is older than the configuration.
    for version in ["0.4.0", "1.0.0", "1.1.0"] {
        call.clone().version(version).previous(&old).verb("CHECK")?.expect(0, version)?;
    }
    call.verb("CHECK")?.expect(7, "CHECK without a result")?;
    let unknown = Call::new(a, "unknown")?.previous(&old);
    unknown.verb("CHECK")?.expect(3, "CHECK of one that was never added")?;

    let mut moved = old.clone();
    // The gateway's is the one address that the pod cannot have been given.
    moved["ips"][0]["address"] = "10.1.1.1/24".into();
    let wrong = call.clone().previous(&moved).verb("CHECK")?.expect(101, "another address")?;
    ensure!(wrong.to_string().contains("10.1.1.1/24"), "{wrong}");
    let checked = call.clone().previous(&old);
    meddle(&checked, "link set eth0 down", "down")?;
    machine.cmd("ip").args(["-n", "pod", "link", "set", "eth0", "up"]).run()?;
    // The kernel took the IPv6 address and the default route with the link; the daemon puts them back.
    wait::until("CHECK succeeds once eth0 is up again", SOON, || {
        checked.verb("CHECK").ok()?.expect(0, "eth0 is up again").ok()
    })?;
    // A device that is deleted is made anew, sooner than anybody can ask.
    let in_pod = |args: &[&str]| machine.cmd("ip").args(["-n", "pod"]).args(args).run();
    in_pod(&["link", "del", "eth0"])?;
    wait::until("CHECK succeeds with another device", SOON, || {
        in_pod(&["link", "show", "dev", "eth0"]).ok()?;
        checked.verb("CHECK").ok()?.expect(0, "eth0 is there again").ok()
    })?;
    call.verb("DEL")?.expect(0, "DEL")?;
    cluster.ends_abruptly()
}

/// Changes something in a container's namespace with `ip`; CHECK must then fail with a sentence that names `word`.
fn meddle(call: &Call<'_>, line: &str, word: &str) -> Result<()> {
    let words: Vec<&str> = line.split_whitespace().collect();
    call.node.machine()?.cmd("ip").args(["-n", &call.id]).args(&words).run()?;
    let said = wait::until(&format!("CHECK fails after ip {line}"), SOON, || {
        let answer = call.verb("CHECK").ok()?;
        (answer.error().ok()? == 101).then_some(answer.json.to_string())
    })?;
    ensure!(said.contains(word), "ip {line}: the message does not name {word}: {said}");
    Ok(())
}

/// Somebody took away what ADD made inside the pod: an address, the way out.
pub fn checks_inside_the_pod() -> Result<()> {
    let cluster = Cluster::single("cniin")?;
    let a = cluster.a()?;
    for (id, line, word) in [
        ("no-address", "addr flush dev eth0 scope global", "10.1.1."),
        ("no-route", "route del default", "default"),
        ("no-route-6", "-6 route del default", "default"),
    ] {
        let call = Call::new(a, id)?;
        let result = call.verb("ADD")?.expect(0, "ADD")?;
        let checked = call.clone().previous(&result);
        checked.verb("CHECK")?.expect(0, "CHECK")?;
        meddle(&checked, line, word)?;
        call.verb("DEL")?.expect(0, "DEL")?;
    }
    cluster.ends_clean()
}

/// GC deletes what is not listed, of its own network only, and nothing when it was told nothing.
pub fn collects_garbage() -> Result<()> {
    let cluster = Cluster::single("cnigc")?;
    let a = cluster.a()?;
    let mut all = Vec::new();
    for id in ["keep", "stale-1", "stale-2"] {
        let call = Call::new(a, id)?.version("1.1.0");
        call.verb("ADD")?.expect(0, "ADD")?;
        all.push(call);
    }
    let mut foreign = Call::new(a, "foreign")?.version("1.1.0");
    foreign.config["name"] = "another".into();
    foreign.config["network"] = NETWORK.into();
    foreign.verb("ADD")?.expect(0, "ADD")?;
    let mut gc = Call::without_netns(a, "").version("1.1.0");
    gc.network_verb("GC")?.expect(7, "GC that was told nothing")?;
    ensure!(attachments(a)?.len() == 4, "GC that was told nothing deleted something");
    let valid = json!([{ "containerID": "keep", "ifname": "eth0" }]);
    gc.config["cni.dev/valid-attachments"] = valid.clone();
    gc.config["cni.dev/attachments"] = valid;
    for _ in 0..2 {
        let done = gc.network_verb("GC")?.expect(0, "GC")?;
        ensure!(done.is_null(), "GC says something: {done}");
        let left: Vec<String> = attachments(a)?.iter().map(|p| p["name"].to_string()).collect();
        ensure!(left.len() == 2 && left.iter().any(|n| n.contains("keep")), "left: {left:?}");
        ensure!(left.iter().any(|n| n.contains("foreign")), "another network's was deleted: {left:?}");
    }
    ping(a.machine()?, "keep", "10.1.1.1")?;
    gc.config["cni.dev/valid-attachments"] = json!([]);
    gc.config["cni.dev/attachments"] = json!([]);
    gc.network_verb("GC")?.expect(0, "GC of all")?;
    let mut left = attachments(a)?;
    left.retain(|p| !p["name"].to_string().contains("foreign"));
    ensure!(left.is_empty(), "left: {left:?}");
    foreign.verb("DEL")?.expect(0, "DEL")?;
    cluster.ends_clean()
}

/// The daemon is dead: ADD asks to come again, STATUS says so, DEL succeeds and holds.
pub fn without_the_daemon() -> Result<()> {
    let cluster = Cluster::single("cnidead")?;
    let a = cluster.a()?;
    let (kept, ended) = (Call::new(a, "kept")?, Call::new(a, "ended")?);
    let status = Call::without_netns(a, "").version("1.1.0");
    let result = kept.verb("ADD")?.expect(0, "ADD")?;
    ended.verb("ADD")?.expect(0, "ADD")?;
    a.kill9()?;
    let late = Call::new(a, "late")?;
    let refused = late.verb("ADD")?.expect(11, "ADD without a daemon")?;
    ensure!(refused.to_string().contains("swd.sock"), "{refused}");
    status.network_verb("STATUS")?.expect(51, "STATUS without a daemon")?;
    let checked = kept.clone().previous(&result).verb("CHECK")?;
    ensure!(checked.error()? != 0, "CHECK without a daemon: {checked:?}");
    for _ in 0..2 {
        ended.verb("DEL")?.expect(0, "DEL without a daemon")?;
    }
    a.restart()?;
    a.settle()?;
    wait::until("what was deleted meanwhile is gone", SOON, || attachment(a, "ended").err())?;
    ping(a.machine()?, "kept", "10.1.1.1")?;
    wait::until("STATUS is good again", SOON, || {
        (status.network_verb("STATUS").ok()?.error().ok()? == 0).then_some(())
    })?;
    kept.clone().previous(&result).verb("CHECK")?.expect(0, "CHECK after the daemon came back")?;
    // Deleted while it was away, then added again under the same name: the old note must not touch the new one.
    a.kill9()?;
    kept.verb("DEL")?.expect(0, "DEL without a daemon")?;
    a.restart()?;
    kept.verb("ADD")?.expect(0, "ADD of the same again")?;
    a.restart()?;
    a.settle()?;
    ping(a.machine()?, "kept", "10.1.1.1")?;
    kept.verb("DEL")?.expect(0, "DEL")?;
    cluster.ends_clean()
}
