//! The private key file: written once by `keygen`, and read by the commands that sign.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use crate::cli::KeygenArgs;
use anyhow::{Context as _, Result, bail};
use file_kit::fs::sync_dir;
use service_kit::output::{errln, outln};
use snapshot_pointer::SigningKey;

/// Runs `keygen`: generates a key, writes it to a new file, and prints the public key.
pub(crate) fn keygen(args: &KeygenArgs) -> Result<()> {
    let key = SigningKey::generate()?;
    write(&args.path, &key)?;
    outln!("{}", key.authority());
    errln!(
        "The private key is in {}; keep a copy offline.\n\
         Mirrors follow it with --authority and the line above.",
        args.path.display()
    );
    Ok(())
}

fn write(path: &Path, key: &SigningKey) -> Result<()> {
    let opened = File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path);
    let mut file = match opened {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => bail!(
            "{} already exists and a lost key cannot be made again: choose another PATH",
            path.display()
        ),
        other => other.with_context(|| format!("cannot make {}", path.display()))?,
    };
    let text = key.to_hex();
    file.write_all(text.as_bytes())
        .and_then(|()| file.write_all(b"\n"))
        .and_then(|()| file.sync_all())
        .with_context(|| format!("cannot write {}", path.display()))?;
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty());
    Ok(sync_dir(dir.unwrap_or(Path::new(".")))?)
}

/// Reads the key. Refuses a file that other users can read.
pub(crate) fn read(path: &Path) -> Result<SigningKey> {
    check_owner(path)?;
    Ok(SigningKey::read(path)?)
}

fn check_owner(path: &Path) -> Result<()> {
    // systemd protects credentials by the permissions of their directory. The group bits of such a file only show the
    // mask of its access control list.
    let credentials = std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from);
    // Every path starts with an empty path, so an empty variable must not match.
    if credentials.is_some_and(|dir| dir.is_absolute() && path.starts_with(dir)) {
        return Ok(());
    }
    let metadata = path
        .metadata()
        .with_context(|| format!("cannot read the signing key {}", path.display()))?;
    let user = rustix::process::geteuid().as_raw();
    if metadata.uid() != user && metadata.uid() != 0 {
        bail!(
            "the signing key {} belongs to user {}, who may read and replace it: \
             make it yours with chown {user}",
            path.display(),
            metadata.uid(),
        );
    }
    if metadata.mode() & 0o077 != 0 {
        bail!(
            "the signing key {} may be read by others (mode {:03o}): chmod 600 it, and if others use \
             this machine, consider the key compromised",
            path.display(),
            metadata.mode() & 0o777,
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_written_key_is_private_and_reads_back() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("key");
        let key = SigningKey::generate().unwrap();
        write(&path, &key).unwrap();
        assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o600);
        assert_eq!(read(&path).unwrap().authority(), key.authority());
    }

    #[test]
    fn an_existing_file_stays_as_it_is() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("key");
        fs::write(&path, "precious").unwrap();
        let error = write(&path, &SigningKey::generate().unwrap()).unwrap_err();
        assert!(error.to_string().contains("already exists"), "{error}");
        assert_eq!(fs::read(&path).unwrap(), b"precious");
    }

    #[test]
    fn a_key_that_the_group_can_read_is_refused() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("key");
        write(&path, &SigningKey::generate().unwrap()).unwrap();
        for mode in [0o640, 0o604, 0o644, 0o660] {
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            let error = read(&path).unwrap_err().to_string();
            assert!(error.contains(&format!("{mode:03o}")), "{error}");
        }
    }
}
