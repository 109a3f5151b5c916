//! Answers that are longer than a bridge takes: cut, with a note that names the file which has the
//! whole.

use std::{io, path::PathBuf, sync::Arc};

use crate::{
    ids::ClientMsgId,
    store::{Disk, journal::short_hash},
};

/// What a bridge takes in any case; ours takes 1 MiB characters.
const BODY_BYTES_MAX: usize = 1_000_000;

/// Room for the note.
const NOTE_BYTES: usize = 2_000;

/// Older ones are removed.
const FILES_MAX: usize = 100;

/// The directory of whole answers.
#[derive(Clone, Debug)]
pub struct Answers {
    pub disk: Arc<dyn Disk>,
    pub dir: PathBuf,
}

impl Answers {
    /// `body`, or as much of it as a bridge takes.
    ///
    /// # Errors
    /// When the whole can't be stored: then nothing may be cut off either.
    pub(super) fn fit(&self, body: &str, name: &ClientMsgId) -> io::Result<String> {
        if body.len() <= BODY_BYTES_MAX {
            return Ok(body.to_owned());
        }
        // Made of the post's name, so that a second try writes the same file.
        let file = self.dir.join(format!("{:08x}.md", short_hash(name.as_str())));
        self.disk.create_dir(&self.dir)?;
        self.disk.write_atomic(&file, body.as_bytes())?;
        self.forget_old()?;
        let end = body.floor_char_boundary(BODY_BYTES_MAX - NOTE_BYTES);
        Ok(format!(
            "{}\n\n---\n[Cut here: the answer has {} bytes, more than the bridge takes. The whole is in \
             `{}` on the machine.]",
            &body[..end],
            body.len(),
            file.display()
        ))
    }

    fn forget_old(&self) -> io::Result<()> {
        let files = self.disk.list(&self.dir)?;
        let mut files: Vec<_> = files
            .into_iter()
            .map(|file| (file.metadata().and_then(|meta| meta.modified()).ok(), file))
            .collect();
        files.sort();
        let surplus = files.len().saturating_sub(FILES_MAX);
        files[..surplus].iter().try_for_each(|(_, file)| self.disk.remove(file))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::RealDisk;

    #[test]
    fn a_long_answer_is_cut_and_kept_whole_in_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let answers = Answers { disk: Arc::new(RealDisk), dir: dir.path().join("answers") };
        let name = ClientMsgId::new("m.1.1");
        let short = "ä".repeat(BODY_BYTES_MAX / 2);
        assert_eq!(answers.fit(&short, &name).unwrap(), short);
        assert!(!answers.dir.exists());

        let long = "ä".repeat(BODY_BYTES_MAX / 2 + 1);
        let cut = answers.fit(&long, &name).unwrap();
        assert!(cut.len() <= BODY_BYTES_MAX, "{}", cut.len());
        let file = cut.rsplit('`').nth(1).unwrap();
        assert_eq!(std::fs::read_to_string(file).unwrap(), long);
        assert_eq!(answers.fit(&long, &name).unwrap(), cut, "a second try says the same");
    }

    #[test]
    fn old_files_go() {
        let dir = tempfile::tempdir().unwrap();
        let answers = Answers { disk: Arc::new(RealDisk), dir: dir.path().to_owned() };
        for number in 0..FILES_MAX + 3 {
            let name = dir.path().join(format!("{number}.md"));
            RealDisk.write_atomic(&name, b"old").unwrap();
        }
        answers.fit(&"x".repeat(BODY_BYTES_MAX + 1), &ClientMsgId::new("new")).unwrap();
        assert_eq!(RealDisk.list(dir.path()).unwrap().len(), FILES_MAX);
    }
}
