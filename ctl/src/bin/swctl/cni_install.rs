//! `swctl cni install` and `uninstall`.
//!
//! A runtime that finds a configuration declares the node ready and starts pods. So the plugin comes first, and the
//! configuration only when the daemon answers; removing goes the other way round. Both files are replaced by a
//! rename inside their directory: a plugin that runs at this moment goes on running, and the runtime notices the
//! new configuration. A file that is already as it shall be is not touched, because each change of the
//! configuration makes the runtime load it again.

use std::io;
use std::path::{Path, PathBuf};

use ctl::{atomic, proto};
use serde::Serialize;

use crate::args::parse_name;
use crate::cni::{PLUGIN, Places, file_error, probe};
use crate::cni_conflist::{Conflist, Wanted};
use crate::context::{Context, Done, Failure, Outcome};

#[derive(clap::Args, Debug)]
pub struct Install {
    #[command(flatten)]
    places: Places,
    /// Plugin to copy; default: swd-cni beside swctl
    #[arg(long, value_name = "PATH")]
    plugin: Option<PathBuf>,
    /// Name of the network for the runtime
    #[arg(long, default_value = "pods", value_parser = parse_cni_name)]
    name: String,
    /// The switch's network; default: the only one there is
    #[arg(long, value_name = "NAME", value_parser = parse_name)]
    network: Option<String>,
    /// Version of the CNI specification
    #[arg(long, value_name = "VERSION", default_value = "1.0.0")]
    cni_version: String,
    /// Plugin to run after ours; repeat for more
    #[arg(long, value_name = "TYPE")]
    chain: Vec<String>,
}

fn parse_cni_name(text: &str) -> Result<String, String> {
    parse_name(text).and_then(|name| match name.contains('/') {
        true => Err(format!("`{name}` cannot be the name of a CNI network: it has a /")),
        false => Ok(name),
    })
}

#[derive(Serialize)]
struct File {
    path: PathBuf,
    changed: bool,
}

impl File {
    fn line(&self, done: &str) -> String {
        let what = if self.changed { done } else { "unchanged" };
        format!("{what} {}", self.path.display())
    }
}

#[derive(Serialize)]
struct View {
    plugin: File,
    config: File,
}

pub fn install(args: Install, context: &mut Context) -> Done {
    let source = match args.plugin {
        Some(path) => path,
        None => beside_us()?,
    };
    let about = probe(&source).map_err(Failure::Io)?;
    if !about.spec_versions.contains(&args.cni_version) {
        let known = about.spec_versions.join(", ");
        return Err(Failure::Usage(format!(
            "CNI version {} is not supported: expected one of {known}",
            args.cni_version
        )));
    }
    refuse_foreign(&args.places.conflist())?;

    let plugin = args.places.plugin();
    let content = std::fs::read(&source).map_err(|e| file_error("read", &source, e))?;
    let plugin = replace(plugin, 0o755, &content)?;
    if !context.print.json {
        context.print.line(&plugin.line("installed"))?;
    }

    // An error here leaves the runtime without a configuration, as it shall be: pods could not be started.
    let request = proto::GetReadinessRequest { network: args.network.clone().unwrap_or_default() };
    let readiness = context.call(async |s| s.get_readiness(request).await)?;
    let wanted = Wanted {
        name: &args.name,
        version: &args.cni_version,
        network: args.network.as_deref(),
        socket: &context.global.socket,
        chain: &args.chain,
    };
    let config = replace(args.places.conflist(), 0o644, wanted.render().as_bytes())?;
    if context.print.json {
        context.print.object(&View { plugin, config })?;
    } else {
        context.print.line(&config.line("wrote"))?;
    }
    if !readiness.ready {
        context.note(&format!("pods cannot be started yet: {}", readiness.cause));
    }
    Ok(Outcome::Done)
}

pub fn uninstall(places: &Places, context: &mut Context) -> Done {
    refuse_foreign(&places.conflist())?;
    let remove = |path: PathBuf| {
        let changed = atomic::remove(&path).map_err(|e| file_error("remove", &path, e))?;
        Ok::<_, Failure>(File { path, changed })
    };
    let config = remove(places.conflist())?;
    let plugin = remove(places.plugin())?;
    if context.print.json {
        context.print.object(&View { plugin, config })?;
    } else {
        for file in [config, plugin] {
            let text = if file.changed {
                file.line("removed")
            } else {
                format!("not there: {}", file.path.display())
            };
            context.print.line(&text)?;
        }
    }
    Ok(Outcome::Done)
}

fn beside_us() -> Result<PathBuf, Failure> {
    let us =
        std::env::current_exe().map_err(|e| Failure::Io(format!("cannot find out where swctl is: {e}")))?;
    Ok(us.with_file_name(PLUGIN))
}

/// Somebody else's configuration under our name is neither replaced nor removed.
fn refuse_foreign(path: &Path) -> Result<(), Failure> {
    match Conflist::read(path) {
        Ok(None) => Ok(()),
        Ok(Some(list)) if list.is_ours() => Ok(()),
        Ok(Some(_)) => Err(Failure::Io(format!("{} is not ours: it has no plugin {PLUGIN}", path.display()))),
        Err(e) => Err(Failure::Io(format!("{e}; it may not be ours: remove it first"))),
    }
}

fn replace(path: PathBuf, mode: u32, content: &[u8]) -> Result<File, Failure> {
    use std::os::unix::fs::PermissionsExt as _;
    let same = match std::fs::read(&path) {
        Ok(old) => {
            let bits =
                std::fs::metadata(&path).map_err(|e| file_error("read", &path, e))?.permissions().mode();
            old == content && bits & 0o7777 == mode
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => false,
        Err(e) => return Err(file_error("read", &path, e)),
    };
    if !same {
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir).map_err(|e| file_error("make", dir, e))?;
        }
        atomic::write(&path, mode, content).map_err(|e| file_error("write", &path, e))?;
    }
    Ok(File { path, changed: !same })
}
