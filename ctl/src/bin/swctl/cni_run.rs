//! `swctl cni run`: the plugins of a configuration, run as a container runtime runs them.
//!
//! For finding out what is wrong without a runtime, and for what a runtime never did: a container that went away
//! without DEL keeps its address until somebody sends it.
//!
//! The result of ADD is kept for CHECK and DEL of the same container, as runtimes keep it, but in a directory of
//! our own: a runtime cleans up what it finds in its own.

use std::io;
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use ctl::desired::check;
use ctl::{atomic, tombstone};
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::args::{parse_ifname, parse_pair};
use crate::cni::{Places, file_error};
use crate::cni_chain::Chain;
use crate::cni_conflist::{Conflist, kind};
use crate::context::{Context, Done, Failure, Outcome};

#[derive(clap::Args, Debug)]
pub struct Run {
    #[arg(value_enum, ignore_case = true)]
    verb: Verb,
    /// Container, as the runtime names it
    #[arg(long, value_name = "ID", value_parser = parse_container_id)]
    container_id: Option<String>,
    /// Namespace: a name under /run/netns, a path, or a process id
    #[arg(long, value_name = "NAME|PATH|PID", value_parser = parse_netns)]
    netns: Option<String>,
    /// Name of the device in the namespace
    #[arg(long, default_value = "eth0", value_parser = parse_ifname)]
    ifname: String,
    /// Configuration with the plugins; default: 10-swd.conflist in --conf-dir
    #[arg(long, value_name = "FILE")]
    conf: Option<PathBuf>,
    /// What the runtime would pass to the plugins' capabilities
    #[arg(long, value_name = "JSON", value_parser = parse_object)]
    capability_args: Option<Object>,
    /// For CNI_ARGS; repeat for more
    #[arg(long = "args", value_name = "KEY=VALUE", value_parser = parse_pair)]
    args: Vec<(String, String)>,
    /// GC: an attachment that stays; repeat for more
    #[arg(long, value_name = "ID/IFNAME", value_parser = parse_attachment)]
    valid: Vec<(String, String)>,
    /// GC: none stays
    #[arg(long, conflicts_with = "valid")]
    none_valid: bool,
    /// Where results of ADD are kept
    #[arg(long, value_name = "DIR", default_value = "/run/swd/cni-results")]
    cache_dir: PathBuf,
    #[command(flatten)]
    places: Places,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "UPPER")]
enum Verb {
    Add,
    Del,
    Check,
    Status,
    Gc,
    Version,
}

impl Verb {
    fn word(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Del => "DEL",
            Self::Check => "CHECK",
            Self::Status => "STATUS",
            Self::Gc => "GC",
            Self::Version => "VERSION",
        }
    }
}

type Object = Map<String, Value>;

fn parse_object(text: &str) -> Result<Object, String> {
    match serde_json::from_str(text) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err("expected an object such as {\"mac\":\"02:00:00:00:00:01\"}".to_owned()),
        Err(e) => Err(format!("not JSON: {e}")),
    }
}

/// It becomes part of a file's name.
fn parse_container_id(text: &str) -> Result<String, String> {
    let good = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    if text.len() <= check::MAX_NAME && !text.starts_with('.') && !text.is_empty() && text.bytes().all(good) {
        return Ok(text.to_owned());
    }
    Err("expected letters, digits and . _ -, starting with a letter or digit".to_owned())
}

fn parse_attachment(text: &str) -> Result<(String, String), String> {
    let (id, ifname) = text.split_once('/').ok_or("expected ID/IFNAME, such as 0123abcd/eth0")?;
    Ok((parse_container_id(id)?, parse_ifname(ifname)?))
}

/// Plugins take a path and nothing else.
fn parse_netns(text: &str) -> Result<String, String> {
    if text.contains('/') {
        let path = std::path::absolute(text).map_err(|e| format!("`{text}`: {e}"))?;
        return path.into_os_string().into_string().map_err(|p| format!("{} is not UTF-8", p.display()));
    }
    check::netns(text)?;
    let is_pid = text.bytes().all(|b| b.is_ascii_digit());
    Ok(if is_pid { format!("/proc/{text}/ns/net") } else { format!("/run/netns/{text}") })
}

pub fn run(args: Run, context: &mut Context) -> Done {
    let path = args.conf.clone().unwrap_or_else(|| args.places.conflist());
    let list = Conflist::read(&path).map_err(Failure::Io)?;
    let list = list.ok_or_else(|| file_error("read", &path, "it does not exist"))?;
    let mut chain = chain(&args, list)?;
    match args.verb {
        Verb::Add => {
            let result = chain.add()?;
            let cached = cache(&args, &chain.list)?;
            keep(&cached, &result)?;
            show(&result, context)
        }
        Verb::Del => {
            let cached = cache(&args, &chain.list)?;
            // Before 0.4.0 runtimes did not hand it on.
            chain.previous = if chain.list.at_least([0, 4, 0]) { kept(&cached)? } else { None };
            chain.backward("DEL")?;
            atomic::remove(&cached).map_err(|e| file_error("remove", &cached, e))?;
            Ok(Outcome::Done)
        }
        Verb::Check => {
            let cached = cache(&args, &chain.list)?;
            chain.previous = kept(&cached)?;
            if chain.previous.is_none() {
                let cause = "there is no result of ADD: CHECK needs one, from `swctl cni run ADD`";
                return Err(file_error("read", &cached, cause));
            }
            if !chain.list.is_set("disableCheck") {
                chain.forward("CHECK")?;
            }
            Ok(Outcome::Done)
        }
        Verb::Status => chain.forward("STATUS").map(|()| Outcome::Done),
        Verb::Gc => {
            if !chain.list.is_set("disableGC") {
                chain.keys = valid(&args)?;
                chain.all("GC")?;
            }
            Ok(Outcome::Done)
        }
        Verb::Version => versions(&chain, context),
    }
}

fn chain(args: &Run, list: Conflist) -> Result<Chain, Failure> {
    let missing = |option| Failure::Usage(format!("{} needs {option}", args.verb.word()));
    let per_container = matches!(args.verb, Verb::Add | Verb::Del | Verb::Check);
    if per_container && args.container_id.is_none() {
        return Err(missing("--container-id"));
    }
    if matches!(args.verb, Verb::Add | Verb::Check) && args.netns.is_none() {
        return Err(missing("--netns"));
    }
    let pairs: Vec<_> = args.args.iter().map(|(key, value)| format!("{key}={value}")).collect();
    if pairs.iter().any(|p| p.contains(';')) {
        return Err(Failure::Usage("--args cannot contain a semicolon".to_owned()));
    }
    // Runtimes export all of them, empty where they have nothing to say.
    let ifname = if per_container { args.ifname.clone() } else { String::new() };
    let env = [
        ("CNI_CONTAINERID", args.container_id.clone().unwrap_or_default()),
        ("CNI_NETNS", args.netns.clone().unwrap_or_default()),
        ("CNI_IFNAME", ifname),
        ("CNI_ARGS", pairs.join(";")),
        ("CNI_PATH", args.places.bin_dir.to_string_lossy().into_owned()),
    ];
    let capabilities = args.capability_args.clone().unwrap_or_default();
    Ok(Chain { list, env: env.into(), capabilities, previous: None, keys: Object::new() })
}

/// Both names of the key, as runtimes send it.
fn valid(args: &Run) -> Result<Object, Failure> {
    if args.valid.is_empty() && !args.none_valid {
        let cause = "GC deletes what is not named with --valid: name what stays, or say --none-valid";
        return Err(Failure::Usage(cause.to_owned()));
    }
    let entry = |(id, ifname): &(String, String)| json!({ "containerID": id, "ifname": ifname });
    let list: Value = args.valid.iter().map(entry).collect();
    let keys = ["cni.dev/valid-attachments", "cni.dev/attachments"];
    Ok(keys.into_iter().map(|k| (k.to_owned(), list.clone())).collect())
}

/// Named by the same rule as tombstones, so that every attachment there can be has a file.
fn cache(args: &Run, list: &Conflist) -> Result<PathBuf, Failure> {
    if list.name.contains('/') || list.name.starts_with('.') {
        return Err(Failure::Io(format!("`{}` cannot be the name of a CNI network", list.name)));
    }
    let id = args.container_id.as_deref().unwrap_or_default();
    tombstone::path(&args.cache_dir.join(&list.name), id, &args.ifname)
        .map_err(|e| Failure::Io(e.to_string()))
}

fn keep(path: &Path, result: &Value) -> Result<(), Failure> {
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir).map_err(|e| file_error("make", dir, e))?;
    }
    atomic::write(path, 0o600, result.to_string().as_bytes()).map_err(|e| file_error("write", path, e))
}

fn kept(path: &Path) -> Result<Option<Value>, Failure> {
    match std::fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|e| file_error("read", path, e)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(file_error("read", path, e)),
    }
}

fn show(result: &Value, context: &mut Context) -> Done {
    if context.print.json {
        context.print.object(result)?;
    } else {
        context.print.raw(format!("{result:#}\n").as_bytes())?;
    }
    Ok(Outcome::Done)
}

fn versions(chain: &Chain, context: &mut Context) -> Done {
    #[derive(Serialize)]
    struct View {
        r#type: String,
        supported_versions: Vec<String>,
    }
    let mut views = Vec::new();
    for plugin in &chain.list.plugins {
        let reply = chain.version(plugin)?;
        let versions = reply["supportedVersions"].as_array().map(Vec::as_slice).unwrap_or_default();
        views.push(View {
            r#type: kind(plugin).unwrap_or_default().to_owned(),
            supported_versions: versions.iter().filter_map(|v| Some(v.as_str()?.to_owned())).collect(),
        });
    }
    if context.print.json {
        context.print.object(&views)?;
    } else {
        for view in &views {
            context.print.line(&format!("{}  {}", view.r#type, view.supported_versions.join(", ")))?;
        }
    }
    Ok(Outcome::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn namespaces_become_paths() {
        for (text, path) in [("web-0", "/run/netns/web-0"), ("17", "/proc/17/ns/net"), ("/a/b", "/a/b")] {
            assert_eq!(parse_netns(text).unwrap(), path);
        }
        assert!(parse_netns("a/b").unwrap().starts_with('/'));
        assert!(parse_netns("").is_err() && parse_netns("..").is_err());
    }

    #[test]
    fn values() {
        assert_eq!(parse_attachment("c1/eth0").unwrap(), ("c1".to_owned(), "eth0".to_owned()));
        for bad in ["c1", "/eth0", "c1/", "../x/eth0", "c1/a/b"] {
            assert!(parse_attachment(bad).is_err(), "{bad}");
        }
        assert!(parse_object(r#"{"ips":["10.0.0.1"]}"#).is_ok());
        assert!(parse_object("[]").is_err() && parse_object("{").is_err());
    }
}
