//! Who asked for what, and who decided: `audit.jsonl`, for a person who wants to know afterwards.
//! Only ever appended to; a line is durable before the engine gets the decision.

use std::{
    fs::File,
    io::{self, ErrorKind, Read as _, Seek as _, SeekFrom},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use serde::Serialize;
use serde_json::Value;

use crate::{
    ids::{Engine, MessageId, ThreadId, TurnId},
    store::Disk,
    time::Timestamp,
};

/// A file that has grown to this many bytes is put aside.
const ROTATE_BYTES: u64 = 10 * 1024 * 1024;

/// Files that are kept beside the newest: `audit.jsonl.1` is the youngest of them.
const KEPT: u32 = 4;

/// One decision.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Record<'a> {
    pub at: Timestamp,
    pub thread_id: &'a ThreadId,
    pub turn: &'a TurnId,
    pub agent: &'a Engine,
    pub kind: &'a str,
    pub tool: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub subject: &'a str,
    pub directory: &'a Path,
    /// The whole input, but for what an edit writes.
    pub input: &'a Value,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub edits: Vec<EditRecord<'a>>,
    /// `allow`, `always`, `deny`, `answer`, or `ask` when a person is asked.
    pub ruling: &'a str,
    pub by: By<'a>,
}

/// What a file would become: the path, and the SHA-256 of the difference.
#[derive(Clone, Debug, Serialize)]
pub struct EditRecord<'a> {
    pub path: &'a str,
    pub sha256: String,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum By<'a> {
    /// A rule of the policy, or the words that say why none was needed.
    Policy(&'a str),
    /// A person's message.
    Message { id: &'a MessageId, author: Option<&'a str> },
    /// No answer came in time.
    Timeout,
}

/// The open file. Its users are several tasks; each line is written as a whole.
#[derive(Debug)]
pub struct Audit {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    newest: Mutex<Newest>,
}

/// The newest file.
#[derive(Debug, Default)]
struct Newest {
    bytes: u64,
    /// It ends in a part of a line, which the next line must not continue.
    is_torn: bool,
}

impl Newest {
    fn look(path: &Path) -> io::Result<Newest> {
        let mut file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Newest::default()),
            Err(error) => return Err(error),
        };
        let bytes = file.metadata()?.len();
        let mut last = [b'\n'];
        if bytes > 0 {
            file.seek(SeekFrom::End(-1))?;
            file.read_exact(&mut last)?;
        }
        Ok(Newest { bytes, is_torn: last != [b'\n'] })
    }
}

impl Audit {
    /// # Errors
    /// The file is there and can't be read.
    pub fn open(disk: Arc<dyn Disk>, path: &Path) -> io::Result<Audit> {
        let newest = Mutex::new(Newest::look(path)?);
        Ok(Audit { disk, path: path.to_owned(), newest })
    }

    /// Durable when it returns.
    pub fn write(&self, record: &Record<'_>) -> io::Result<()> {
        let mut line = Vec::new();
        serde_json::to_writer(&mut line, record).expect("a record is plain data");
        line.push(b'\n');
        let mut newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        if ROTATE_BYTES <= newest.bytes {
            self.rotate()?;
            *newest = Newest::default();
        }
        if newest.is_torn {
            line.insert(0, b'\n');
        }
        let written = self.disk.append(&self.path, &line);
        let bytes = newest.bytes + line.len() as u64;
        *newest = if written.is_ok() {
            Newest { bytes, is_torn: false }
        } else {
            // Part of it may be there.
            Newest::look(&self.path).unwrap_or(Newest { bytes, is_torn: true })
        };
        written
    }

    /// From the oldest to the youngest, so that a crash in between loses nothing but the oldest.
    fn rotate(&self) -> io::Result<()> {
        let numbered = |number: u32| {
            let mut name = self.path.clone().into_os_string();
            name.push(format!(".{number}"));
            PathBuf::from(name)
        };
        for number in (1..KEPT).rev() {
            if numbered(number).exists() {
                self.disk.rename(&numbered(number), &numbered(number + 1))?;
            }
        }
        self.disk.rename(&self.path, &numbered(1))
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use serde_json::json;

    use super::*;
    use crate::store::RealDisk;

    fn write(audit: &Audit, input: &Value) {
        let record = Record {
            at: Timestamp::from_millis(0),
            thread_id: &ThreadId::new("t"),
            turn: &TurnId::new("1"),
            agent: &Engine::CLAUDE,
            kind: "run",
            tool: "Bash",
            subject: "make\n\u{1b}[2J",
            directory: Path::new("/p"),
            input,
            edits: Vec::new(),
            ruling: "allow",
            by: By::Message { id: &MessageId::new("m1"), author: Some("ann") },
        };
        audit.write(&record).unwrap();
    }

    #[test]
    fn a_line_is_one_decision_that_only_the_owner_can_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.jsonl");
        let audit = Audit::open(Arc::new(RealDisk), &path).unwrap();
        write(&audit, &json!({"command": "make\n\u{1b}[2J"}));
        write(&audit, &json!({}));
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().count(), 2);
        let line: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
        assert_eq!(line["by"]["message"]["id"], "m1");
        assert_eq!((&line["ruling"], &line["threadId"]), (&json!("allow"), &json!("t")));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    /// Half a line is all that a loss of power leaves.
    #[test]
    fn a_torn_line_is_not_continued() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.jsonl");
        File::create(&path).unwrap().set_len(3).unwrap();
        let audit = Audit::open(Arc::new(RealDisk), &path).unwrap();
        write(&audit, &json!({}));
        write(&audit, &json!({}));
        let text = fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!((lines.len(), lines[0]), (3, "\0\0\0"));
        assert!(lines[1..].iter().all(|line| serde_json::from_str::<Value>(line).is_ok()));
    }

    #[test]
    fn large_files_are_put_aside_and_the_oldest_goes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.jsonl");
        for round in 0..7_u64 {
            // A sparse file is as large as a full one.
            File::options().create(true).append(true).open(&path).unwrap();
            File::options().write(true).open(&path).unwrap().set_len(ROTATE_BYTES).unwrap();
            let audit = Audit::open(Arc::new(RealDisk), &path).unwrap();
            write(&audit, &json!({"round": round}));
        }
        let mut names: Vec<_> =
            fs::read_dir(dir.path()).unwrap().map(|it| it.unwrap().file_name()).collect();
        names.sort();
        let expected =
            ["audit.jsonl", "audit.jsonl.1", "audit.jsonl.2", "audit.jsonl.3", "audit.jsonl.4"];
        assert_eq!(names, expected);
        let newest = fs::read_to_string(&path).unwrap();
        assert!(newest.contains("\"round\":6") && newest.lines().count() == 1, "{newest}");
    }
}
