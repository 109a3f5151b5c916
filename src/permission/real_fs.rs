//! What is really on the disk: the one part of this module that looks at anything.

use std::{fs, io, path::Path};

use super::place::{Found, Places};

#[derive(Clone, Copy, Debug)]
pub struct RealPlaces;

impl Places for RealPlaces {
    fn look(&self, path: &Path) -> Found {
        match fs::symlink_metadata(path) {
            Ok(meta) if meta.is_symlink() && !is_of_processes(path) => {
                fs::read_link(path).map_or(Found::Unknown, Found::Link)
            }
            Ok(meta) if meta.is_symlink() => Found::Unknown,
            Ok(_) => Found::Plain,
            // Below a file there is nothing, either.
            Err(error) => match error.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Found::Plain,
                _ => Found::Unknown,
            },
        }
    }
}

/// Whether a link is in a file system of processes, wherever that is mounted: such a link leads to
/// what the one that follows it has open.
#[cfg(target_os = "linux")]
fn is_of_processes(link: &Path) -> bool {
    let dir = link.parent().unwrap_or(link);
    rustix::fs::statfs(dir).is_ok_and(|it| it.f_type == rustix::fs::PROC_SUPER_MAGIC)
}

#[cfg(not(target_os = "linux"))]
fn is_of_processes(_: &Path) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_are_seen_and_what_is_not_there_is_plain() {
        let dir = tempfile::tempdir().unwrap();
        symlink("/etc", dir.path().join("link")).unwrap();
        fs::File::create(dir.path().join("file")).unwrap();
        let look = |name: &str| RealPlaces.look(&dir.path().join(name));
        assert_eq!(look("link"), Found::Link("/etc".into()));
        for plain in ["file", "not-there", "file/below"] {
            assert_eq!(look(plain), Found::Plain, "{plain}");
        }
    }

    /// Also where the file system of processes is not at `/proc`, which only root can arrange here:
    /// the answer goes by the file system, not by the name.
    #[cfg(target_os = "linux")]
    #[test]
    fn a_link_that_is_another_one_for_each_process_is_unknown() {
        for link in ["/proc/self", "/proc/thread-self", "/proc/self/cwd", "/proc/self/exe"] {
            assert_eq!(RealPlaces.look(Path::new(link)), Found::Unknown, "{link}");
        }
    }
}
