//! Where inputs live: `corpus/<target>/*` starts a run, `crashes/<target>/*` are findings that must stay fixed.
//! A crash `x` has its story, one line, in `x.txt`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The folder of this crate.
#[must_use]
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The folder of one kind (`corpus` or `crashes`) and target.
#[must_use]
pub fn dir(kind: &str, target: &str) -> PathBuf {
    root().join(kind).join(target)
}

/// All inputs of a folder by name, stories left out. A folder that does not exist is empty.
///
/// # Errors
/// A file that cannot be read.
pub fn load(dir: &Path) -> io::Result<Vec<(PathBuf, Vec<u8>)>> {
    let mut paths = Vec::new();
    match fs::read_dir(dir) {
        Ok(entries) => {
            for entry in entries {
                let path = entry?.path();
                let hidden = path.file_name().is_some_and(|n| n.to_string_lossy().starts_with('.'));
                if path.is_file() && !hidden && path.extension().is_none_or(|e| e != "txt") {
                    paths.push(path);
                }
            }
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(e),
    }
    paths.sort();
    paths.into_iter().map(|path| fs::read(&path).map(|bytes| (path, bytes))).collect()
}

/// Saves an input under a name made of its content; returns where.
///
/// # Errors
/// The folder or the file cannot be written.
pub fn save(dir: &Path, bytes: &[u8]) -> io::Result<PathBuf> {
    fs::create_dir_all(dir)?;
    let name = bytes.chunks(8).fold(bytes.len() as u64, |hash, chunk| {
        let word = chunk.iter().fold(0u64, |w, &b| w << 8 | u64::from(b));
        packet::flow::mix(hash, word)
    });
    let path = dir.join(format!("{name:016x}"));
    fs::write(&path, bytes)?;
    Ok(path)
}
