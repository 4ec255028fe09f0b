//! The configuration that counts is the one that the monitor has read: somebody may be editing the file when the switch
//! process dies.

use crate::process::{healthy, kill_switch, next_process};
use lab::conserve::check;
use lab::swd::SwdOptions;
use lab::{Context, Lab, Result, ensure};

pub fn an_edited_configuration_waits_for_a_restart() -> Result<()> {
    let lab = Lab::new("config").node("a").build()?;
    let a = lab.node("a")?;
    let file = a.dir().join("swd.toml");
    let write = |text: &str| std::fs::write(&file, text).context(file.display());
    write("node = \"first\"\n")?;
    let args = vec!["--config".to_owned(), file.display().to_string()];
    a.start_swd_with(&SwdOptions { args, ..SwdOptions::default() })?;
    for text in ["node = \"second\"\n", "broken ["] {
        write(text)?;
        let pid = kill_switch(a)?;
        next_process(a, pid)?;
        healthy(a)?;
        let status = a.swctl(&["status"])?;
        ensure!(status["node"] == "first", "after {text:?}: {status}");
    }
    write("node = \"second\"\n")?;
    a.restart()?;
    let status = a.swctl(&["status"])?;
    ensure!(status["node"] == "second", "after a restart: {status}");
    check(lab.nodes(), &[])
}
