//! Who else could write what we obey: with the config anybody can have commands run and ask for
//! nothing, with the state directory say what somebody wants done. As `sshd` does, we do not start
//! then. What others can only read is a warning elsewhere.

use std::{
    fs::{self, Metadata},
    io::ErrorKind,
    os::unix::fs::MetadataExt,
    path::Path,
};

use rustix::process::{getegid, geteuid};

use crate::config::{ConfigError, Paths};

const GROUP: u32 = 0o020;
const OTHERS: u32 = 0o002;
const STICKY: u32 = 0o1000;

/// # Errors
/// What others can write, and how to change that.
pub(super) fn check(paths: &Paths) -> Result<(), ConfigError> {
    let user = User { id: geteuid().as_raw(), group: getegid().as_raw() };
    // A link is as good as where it leads.
    let real = fs::canonicalize(&paths.config_file).ok();
    // In a directory like /tmp nobody can replace another's file. But whoever can make entries in a
    // directory of state makes messages.
    for (path, may_be_shared) in [
        (Some(&*paths.config_file), false),
        (paths.config_file.parent(), true),
        (real.as_deref().and_then(Path::parent), true),
        (Some(&*paths.state_dir), false),
    ] {
        let Some(path) = path else { continue };
        let meta = match fs::metadata(path) {
            Ok(meta) => meta,
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            Err(error) => {
                return Err(ConfigError(format!("cannot look at {}: {error}", path.display())));
            }
        };
        if let Some(who) = user.who_writes(&Rights::of(&meta), may_be_shared) {
            return Err(ConfigError(refusal(path, &who)));
        }
    }
    Ok(())
}

fn refusal(path: &Path, who: &Writer) -> String {
    let path = path.display();
    let why = "who can write it can run commands as you";
    match who {
        Writer::Owner(id) => format!(
            "{path} belongs to another user (uid {id}), and {why}; make it yours: \
             sudo chown \"$(id -un)\" '{path}'"
        ),
        Writer::Group => {
            format!("{path} can be written by its group, and {why}; run: chmod g-w '{path}'")
        }
        Writer::Others => {
            format!("{path} can be written by everybody, and {why}; run: chmod go-w '{path}'")
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Writer {
    Owner(u32),
    Group,
    Others,
}

struct Rights {
    mode: u32,
    owner: u32,
    group: u32,
}

impl Rights {
    fn of(meta: &Metadata) -> Rights {
        Rights { mode: meta.mode(), owner: meta.uid(), group: meta.gid() }
    }
}

struct User {
    id: u32,
    group: u32,
}

impl User {
    /// Who could write this besides us and root, if anybody. Root itself reads what belongs to
    /// others: in a container a mounted directory has the owner that it has outside.
    fn who_writes(&self, rights: &Rights, may_be_shared: bool) -> Option<Writer> {
        let Rights { mode, owner, group } = *rights;
        // Many systems give each user a group of their own, of the same number, and let it write.
        let is_own_group = group == self.group && group == self.id;
        if ![self.id, 0].contains(&owner) && self.id != 0 {
            Some(Writer::Owner(owner))
        } else if may_be_shared && mode & STICKY != 0 {
            None
        } else if mode & OTHERS != 0 {
            Some(Writer::Others)
        } else if mode & GROUP != 0 && !is_own_group {
            Some(Writer::Group)
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_writes_is_told_by_owner_group_and_mode() {
        #[track_caller]
        fn check(
            user: (u32, u32),
            owner: (u32, u32),
            mode: u32,
            shared: bool,
            expected: Option<Writer>,
        ) {
            let (user, rights) = (
                User { id: user.0, group: user.1 },
                Rights { mode, owner: owner.0, group: owner.1 },
            );
            assert_eq!(user.who_writes(&rights, shared), expected, "{owner:?} {mode:o}");
        }
        let (me, root) = ((1000, 1000), (0, 0));
        for mode in [0o600, 0o640, 0o644, 0o444, 0o700, 0o755, 0o664, 0o775] {
            check(me, me, mode, false, None);
            check(root, root, mode, false, None);
        }
        for mode in [0o602, 0o666, 0o777, 0o622] {
            check(me, me, mode, false, Some(Writer::Others));
            check(root, root, mode, false, Some(Writer::Others));
            check(me, root, mode, true, Some(Writer::Others));
        }
        // A group that others are in, too.
        for mode in [0o660, 0o664, 0o770, 0o2775] {
            check(me, (1000, 100), mode, false, Some(Writer::Group));
            check((1000, 100), (1000, 100), mode, false, Some(Writer::Group));
            check(me, root, mode, false, Some(Writer::Group));
            check(root, (0, 100), mode, false, Some(Writer::Group));
        }
        // Nobody replaces another's file there, and whose it is was looked at.
        check(me, root, 0o1777, true, None);
        check(me, root, 0o1777, false, Some(Writer::Others));
        check(me, (0, 100), 0o1775, true, None);
        // It was put there by somebody else.
        check(me, (1001, 1001), 0o600, false, Some(Writer::Owner(1001)));
        check(me, (1001, 1001), 0o1777, true, Some(Writer::Owner(1001)));
        check(me, root, 0o644, false, None);
        check(root, me, 0o600, false, None);
        check(root, me, 0o606, false, Some(Writer::Others));
    }
}
