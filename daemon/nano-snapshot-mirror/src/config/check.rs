//! Checks of values that are valid by themselves: conflicting ports, and a data directory that cannot be used.

use std::fs::File;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;

use super::sizes::OrOff;
use super::{Config, Loaded};

/// Returns conflicts between listening addresses: the path of the key to change, and a message.
pub(super) fn equal_ports(config: &Config) -> Vec<(String, String)> {
    let peers = &config.peer.listen.value;
    let mut found = Vec::new();
    for (index, address) in peers.iter().enumerate() {
        if address.port() != 0 && peers.iter().take(index).any(|other| other == address) {
            let what = format!("{address} is listed twice; write it once");
            found.push(("peer.listen".to_owned(), what));
        }
    }
    if let OrOff::Value(http) = config.http.listen.value
        && let Some(peer) = peers.iter().find(|peer| meet(**peer, http))
    {
        let what = format!(
            "{http} and peer.listen = {peer} are the same TCP port; write another port for one of them"
        );
        found.push(("http.listen".to_owned(), what));
    }
    found
}

/// Returns whether two TCP sockets cannot listen on these addresses at the same time.
fn meet(one: SocketAddr, other: SocketAddr) -> bool {
    let covers = |all: IpAddr, ip: IpAddr| match all {
        IpAddr::V4(all) => all.is_unspecified() && ip.is_ipv4(),
        // A socket on `[::]` also accepts IPv4.
        IpAddr::V6(all) => all.is_unspecified(),
    };
    let (a, b) = (one.ip(), other.ip());
    one.port() != 0 && one.port() == other.port() && (a == b || covers(a, b) || covers(b, a))
}

/// Returns why the data directory cannot be used, with the place of the value. Tests it on this machine as this user. With `elsewhere` only the
/// path is checked.
pub(crate) fn unusable(loaded: &Loaded, elsewhere: bool) -> Option<String> {
    let dir = loaded.config.data_dir.as_deref()?;
    let place = loaded.place("data-dir");
    let what = if !dir.is_absolute() && !place.starts_with("flag ") {
        "is relative, so it depends on the directory that the program is started in; write an absolute path"
            .to_owned()
    } else if elsewhere {
        return None;
    } else {
        unwritable(&std::path::absolute(dir).ok()?)?
    };
    Some(format!("{place}: data-dir = {}: {what}", dir.display()))
}

/// Returns why a directory cannot be written to or created; `None` if it can. The path must be absolute.
fn unwritable(dir: &Path) -> Option<String> {
    let there = dir
        .ancestors()
        .find(|path| path.symlink_metadata().is_ok())?;
    if !there.is_dir() {
        return Some(format!("{} is not a directory", there.display()));
    }
    let error = write_to(there).err()?;
    let user = rustix::process::geteuid().as_raw();
    Some(format!(
        "user {user} cannot write to {} ({error}); run this as the user of the mirror, or change the owner or \
         mode of that directory",
        there.display(),
    ))
}

/// Creates an unnamed file in the directory. On file systems without O_TMPFILE, creates a file and removes it. Permission bits alone do not show
/// what root may write.
fn write_to(dir: &Path) -> io::Result<()> {
    let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
    match open(dir, flags, Mode::RUSR | Mode::WUSR) {
        Ok(_) => Ok(()),
        Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => {
            let path = dir.join(format!(".check-config.{}", std::process::id()));
            File::create_new(&path)?;
            std::fs::remove_file(&path)
        }
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_meet() {
        for (one, other, met) in [
            ("[::]:1", "127.0.0.1:1", true),
            ("0.0.0.0:1", "127.0.0.1:1", true),
            ("127.0.0.1:1", "127.0.0.1:1", true),
            ("0.0.0.0:1", "[::1]:1", false),
            ("127.0.0.1:1", "127.0.0.2:1", false),
            ("[::]:1", "127.0.0.1:2", false),
            ("[::]:0", "127.0.0.1:0", false),
        ] {
            let (a, b) = (one.parse().unwrap(), other.parse().unwrap());
            assert_eq!((meet(a, b), meet(b, a)), (met, met), "{one} {other}");
        }
    }

    #[test]
    fn directories_that_cannot_be_used() {
        let temp = tempfile::tempdir().unwrap();
        assert_eq!(unwritable(temp.path()), None);
        assert_eq!(std::fs::read_dir(temp.path()).unwrap().count(), 0);
        assert!(unwritable(Path::new("/proc/nothing")).is_some_and(|why| why.contains("to /proc")));
        assert_eq!(unwritable(&temp.path().join("a/b")), None);
        let file = temp.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert!(
            unwritable(&file.join("a"))
                .unwrap()
                .contains("not a directory")
        );
    }
}
