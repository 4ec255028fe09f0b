//! One network configuration and the plugins it names, run in order as the protocol has it.
//!
//! ADD hands each result on to the next plugin and stops at the first error; DEL goes backwards; GC goes on past
//! errors. Of the capability arguments a plugin gets those it declares, as `runtimeConfig`.

use std::collections::BTreeMap;
use std::process::Output;

use ctl::plugin;
use serde_json::{Map, Value};

use crate::cni_conflist::{Conflist, kind};
use crate::context::Failure;

pub struct Chain {
    pub list: Conflist,
    /// `CNI_*`, without the command.
    pub env: BTreeMap<&'static str, String>,
    pub capabilities: Map<String, Value>,
    /// `prevResult` for the plugins.
    pub previous: Option<Value>,
    /// More keys for each plugin's configuration.
    pub keys: Map<String, Value>,
}

type Plugin = Map<String, Value>;

impl Chain {
    /// ADD; the result of the last plugin.
    pub fn add(&mut self) -> Result<Value, Failure> {
        let plugins = self.list.plugins.clone();
        for plugin in &plugins {
            let out = self.one("ADD", plugin)?;
            let result = serde_json::from_slice(&out)
                .map_err(|e| Failure::Io(format!("plugin {}: its result is not JSON: {e}", name(plugin))))?;
            self.previous = Some(result);
        }
        Ok(self.previous.clone().unwrap_or_default())
    }

    /// Each, the first one first, until one fails.
    pub fn forward(&self, verb: &str) -> Result<(), Failure> {
        self.list.plugins.iter().try_for_each(|plugin| self.one(verb, plugin).map(drop))
    }

    /// Each, the last one first, until one fails.
    pub fn backward(&self, verb: &str) -> Result<(), Failure> {
        self.list.plugins.iter().rev().try_for_each(|plugin| self.one(verb, plugin).map(drop))
    }

    /// Each, whether or not others fail.
    pub fn all(&self, verb: &str) -> Result<(), Failure> {
        let failures = self.list.plugins.iter().filter_map(|plugin| self.one(verb, plugin).err());
        let texts: Vec<_> = failures.map(|f| f.to_string()).collect();
        if texts.is_empty() { Ok(()) } else { Err(Failure::Io(texts.join("; "))) }
    }

    /// What a plugin answers to VERSION.
    pub fn version(&self, plugin: &Plugin) -> Result<Value, Failure> {
        let out = self.one("VERSION", plugin)?;
        serde_json::from_slice(&out)
            .map_err(|e| Failure::Io(format!("plugin {}: its answer is not JSON: {e}", name(plugin))))
    }

    fn one(&self, verb: &str, plugin: &Plugin) -> Result<Vec<u8>, Failure> {
        let kind = name(plugin);
        let path = self.env.get("CNI_PATH").map(String::as_str).unwrap_or_default();
        let binary = plugin::find(path, kind).ok_or_else(|| {
            let hint = "install it, or name its directory with --bin-dir";
            Failure::Io(format!("plugin {kind} is not in {path}: {hint}"))
        })?;
        let config = Value::Object(self.config(plugin)).to_string();
        let variables = self.env.iter().map(|(key, value)| (*key, value.as_str()));
        let output = plugin::run(&binary, variables.chain([("CNI_COMMAND", verb)]), config.as_bytes())
            .map_err(|e| Failure::Io(format!("cannot run {}: {e}", binary.display())))?;
        if output.status.success() { Ok(output.stdout) } else { Err(failure(verb, kind, &output)) }
    }

    /// What the plugin gets on standard input.
    fn config(&self, plugin: &Plugin) -> Plugin {
        let mut config = plugin.clone();
        config.insert("name".into(), self.list.name.as_str().into());
        config.insert("cniVersion".into(), self.list.version.as_str().into());
        config.extend(self.keys.clone());
        if let Some(previous) = &self.previous {
            config.insert("prevResult".into(), previous.clone());
        }
        let declared = plugin.get("capabilities").and_then(Value::as_object);
        let declared = declared.into_iter().flatten().filter(|(_, on)| **on == true).map(|(key, _)| key);
        let given: Plugin =
            declared.filter_map(|key| Some((key.clone(), self.capabilities.get(key)?.clone()))).collect();
        if !given.is_empty() {
            config.insert("runtimeConfig".into(), given.into());
        }
        config
    }
}

fn name(plugin: &Plugin) -> &str {
    kind(plugin).unwrap_or_default()
}

/// With what the plugin says, when it says something.
fn failure(verb: &str, kind: &str, output: &Output) -> Failure {
    Failure::Io(match plugin::refusal(output) {
        Some(e) => {
            let details = if e.details.is_empty() { String::new() } else { format!("; {}", e.details) };
            format!("plugin {kind}: {verb} failed with code {}: {}{details}", e.code, e.msg)
        }
        None => format!("plugin {kind}: {verb} ended with {} and no error", output.status),
    })
}
