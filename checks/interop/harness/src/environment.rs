//! Virtual environments with one libtorrent release each.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use rustix::fs::{FlockOperation, flock};

/// A libtorrent release to test against. They differ on the wire: the older one asks for whole
/// 16 KiB blocks past the end of a file and wants them zero padded, the newer one does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Libtorrent {
    /// 2.0.11, the last before request lengths changed.
    V2_0_11,
    /// 2.0.15, after request lengths changed.
    V2_0_15,
}

impl Libtorrent {
    /// Every release under test.
    pub const ALL: [Self; 2] = [Self::V2_0_11, Self::V2_0_15];

    /// The version as PyPI writes it.
    pub const fn version(self) -> &'static str {
        match self {
            Self::V2_0_11 => "2.0.11",
            Self::V2_0_15 => "2.0.15",
        }
    }

    /// A Python interpreter that has this release, made on first use. Safe to call from several
    /// test processes at once.
    pub fn python(self) -> PathBuf {
        let variable = format!(
            "INTEROP_PYTHON_LIBTORRENT_{}",
            self.version().replace('.', "_")
        );
        if let Some(given) = std::env::var_os(&variable) {
            return given.into();
        }
        let root = repository().join("target/interop");
        fs::create_dir_all(&root).unwrap_or_else(|e| panic!("cannot make {}: {e}", root.display()));
        let venv = root.join(format!("libtorrent-{}", self.version()));
        let python = venv.join("bin/python");
        // The lock ends with the file, also when the process dies.
        let lock = File::create(venv.with_extension("lock")).expect("a lock file in target/");
        flock(&lock, FlockOperation::LockExclusive).expect("flock works on local file systems");
        let ready = venv.join("ready");
        if !ready.exists() {
            let _ = fs::remove_dir_all(&venv);
            run(
                Command::new("python3").args(["-m", "venv"]).arg(&venv),
                &variable,
            );
            run(
                Command::new(&python)
                    .args([
                        "-m",
                        "pip",
                        "install",
                        "--quiet",
                        "--disable-pip-version-check",
                    ])
                    .arg(format!("libtorrent=={}", self.version())),
                &variable,
            );
            fs::write(&ready, "").expect("a marker in target/");
        }
        python
    }
}

/// The root of the repository.
pub(crate) fn repository() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../.."))
}

fn run(command: &mut Command, variable: &str) -> Output {
    let hint = format!(
        "interop tests need python3 with venv and PyPI, or {variable} set to a Python that has the \
         module"
    );
    let output = command
        .output()
        .unwrap_or_else(|e| panic!("cannot start {command:?}: {e}\n{hint}"));
    assert!(
        output.status.success(),
        "{command:?} failed: {}\n{hint}",
        String::from_utf8_lossy(&output.stderr)
    );
    output
}
