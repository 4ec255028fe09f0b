//! `swctl cni status`: what keeps a runtime from using the switch, in the order in which it would find out.

use ctl::proto;
use serde::Serialize;

use crate::cni::{Places, probe};
use crate::cni_conflist::{Conflist, before};
use crate::context::{Context, Done, Outcome};
use crate::print::or_dash;

#[derive(Serialize)]
struct View {
    plugin: Plugin,
    config: Config,
    daemon: Daemon,
    /// Empty when pods can be started.
    problems: Vec<String>,
}

#[derive(Serialize)]
struct Plugin {
    path: String,
    version: String,
    spec_versions: Vec<String>,
}

#[derive(Serialize)]
struct Config {
    path: String,
    name: String,
    cni_version: String,
    network: String,
}

#[derive(Serialize)]
struct Daemon {
    socket: String,
    ready: bool,
    degraded: bool,
    /// Unknown when the daemon does not answer.
    free_addresses: Option<u64>,
}

pub fn run(places: &Places, context: &mut Context) -> Done {
    let mut problems = Vec::new();
    let plugin = plugin(places, &mut problems);
    let config = config(places, &plugin, &mut problems);
    let daemon = daemon(&config, context, &mut problems);
    let view = View { plugin, config, daemon, problems };
    if context.print.json {
        context.print.object(&view)?;
    } else {
        table(&view, context)?;
    }
    Ok(if view.problems.is_empty() { Outcome::Done } else { Outcome::Problems })
}

fn plugin(places: &Places, problems: &mut Vec<String>) -> Plugin {
    let path = places.plugin();
    let mut view =
        Plugin { path: path.display().to_string(), version: String::new(), spec_versions: Vec::new() };
    match probe(&path) {
        Ok(about) => (view.version, view.spec_versions) = (about.version, about.spec_versions),
        Err(_) if !path.exists() => {
            problems.push(format!("plugin: {} does not exist: swctl cni install", view.path));
        }
        Err(e) => problems.push(format!("plugin: {e}")),
    }
    view
}

fn config(places: &Places, plugin: &Plugin, problems: &mut Vec<String>) -> Config {
    let path = places.conflist();
    let shown = path.display().to_string();
    let none = String::new;
    let mut view = Config { path: shown.clone(), name: none(), cni_version: none(), network: none() };
    let list = match Conflist::read(&path) {
        Ok(Some(list)) if list.is_ours() => list,
        Ok(Some(_)) => {
            problems.push(format!("config: {shown} is not ours"));
            return view;
        }
        Ok(None) => {
            problems.push(format!("config: {shown} does not exist: swctl cni install"));
            return view;
        }
        Err(e) => {
            problems.push(format!("config: {e}"));
            return view;
        }
    };
    if !plugin.spec_versions.is_empty() && !plugin.spec_versions.contains(&list.version) {
        problems.push(format!("config: the plugin does not support CNI {}", list.version));
    }
    for plugin in list.plugins.iter().filter_map(crate::cni_conflist::kind) {
        if !places.bin_dir.join(plugin).exists() && plugin != crate::cni::PLUGIN {
            problems.push(format!("config: plugin {plugin} is not in {}", places.bin_dir.display()));
        }
    }
    match before(&path).as_deref() {
        Ok([]) => {}
        Ok([first, ..]) => {
            problems
                .push(format!("config: runtimes that use the first file take {} instead", first.display()));
        }
        Err(e) => problems.push(format!("config: cannot list {}: {e}", places.conf_dir.display())),
    }
    let own = list.plugins.iter().find(|p| crate::cni_conflist::kind(p) == Some(crate::cni::PLUGIN));
    let network = own.and_then(|p| p.get("network")?.as_str());
    view.network = network.unwrap_or_default().to_owned();
    (view.name, view.cni_version) = (list.name, list.version);
    view
}

fn daemon(config: &Config, context: &mut Context, problems: &mut Vec<String>) -> Daemon {
    let socket = context.global.socket.display().to_string();
    let request = proto::GetReadinessRequest { network: config.network.clone() };
    let reply = match context.call(async |s| s.get_readiness(request).await) {
        Ok(reply) => reply,
        Err(e) => {
            problems.push(format!("daemon: {}", e.message));
            return Daemon { socket, ready: false, degraded: false, free_addresses: None };
        }
    };
    if !reply.ready {
        let hint = if reply.hint.is_empty() { String::new() } else { format!(": {}", reply.hint) };
        problems.push(format!("daemon: {}{hint}", reply.cause));
    }
    let free_addresses = Some(reply.free_addresses);
    Daemon { socket, ready: reply.ready, degraded: reply.degraded, free_addresses }
}

fn table(view: &View, context: &mut Context) -> std::io::Result<()> {
    let (plugin, config, daemon) = (&view.plugin, &view.config, &view.daemon);
    let word = match (daemon.ready, daemon.degraded) {
        (true, _) => "ready",
        (false, true) => "not ready, pods suffer",
        (false, false) => "not ready",
    };
    let rows = [
        ("plugin", format!("{}  {}", plugin.path, or_dash(plugin.version.as_str()))),
        ("CNI", or_dash(plugin.spec_versions.join(", "))),
        ("config", config.path.clone()),
        (
            "network",
            format!("{}  CNI {}", or_dash(config.name.as_str()), or_dash(config.cni_version.as_str())),
        ),
        ("daemon", format!("{}  {word}", daemon.socket)),
        ("addresses", daemon.free_addresses.map_or("-".to_owned(), |free| format!("{free} free"))),
    ];
    for (key, value) in rows {
        context.print.line(&format!("  {key:<12}{value}"))?;
    }
    for problem in &view.problems {
        context.print.line(&format!("WARN  {problem}"))?;
    }
    Ok(())
}
