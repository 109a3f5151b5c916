//! One try at a message. It exists only once the inbox has it, and it alone gives names to posts:
//! two posts of one name are one post to the bridge, so no later start may use a name again.

use std::io;

use crate::{
    bridge::wire::Reply,
    ids::{ClientMsgId, TurnId},
    store::{
        entry::{EntryId, Progress},
        inbox::Inbox,
    },
    worker::run::Run,
};

#[derive(Debug)]
pub(super) struct Attempt {
    entry: EntryId,
    /// What names the message in the names of its posts.
    message: String,
    /// As the inbox has it.
    progress: Progress,
    pub(super) posts: u32,
    /// The message is answered, so its entry may be gone and must not come back.
    is_over: bool,
}

impl Attempt {
    /// Writes down that the engine is about to have the prompt. `progress.attempts` counts this
    /// attempt too; `posts` are those that an earlier turn of it has named.
    pub(super) fn begin(
        inbox: &Inbox,
        entry: EntryId,
        reply: &Reply,
        progress: Progress,
        posts: u32,
    ) -> io::Result<Attempt> {
        inbox.progressed(&entry, &progress)?;
        let message =
            reply.message_id.as_ref().map_or_else(|| entry.to_string(), ToString::to_string);
        Ok(Attempt { entry, message, progress, posts, is_over: false })
    }

    /// Names the next post: by message, attempt and the post's number in it.
    pub(super) fn next_post(&mut self) -> ClientMsgId {
        self.posts += 1;
        ClientMsgId::new(format!("{}.{}.{}", self.message, self.progress.attempts, self.posts))
    }

    pub(super) fn turn(&self) -> &TurnId {
        &self.progress.turn
    }

    pub(super) fn progress(&self) -> &Progress {
        &self.progress
    }

    /// Writes down how far the turn has come.
    pub(super) fn record(&mut self, run: &Run<'_>, change: impl FnOnce(&mut Progress)) {
        change(&mut self.progress);
        if !self.is_over {
            run.persist(|shared| shared.inbox.progressed(&self.entry, &self.progress));
        }
    }

    /// From here on nothing more is written about it.
    pub(super) fn end(&mut self) {
        self.is_over = true;
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path, sync::Arc};

    use super::*;
    use crate::{
        ids::Engine,
        store::{
            RealDisk,
            journal::{self},
            messages::{self, Opened},
        },
    };

    fn open(dir: &Path) -> (Inbox, Vec<(EntryId, u32)>) {
        let Opened { inbox, entries, .. } = messages::open(Arc::new(RealDisk), dir).unwrap();
        let attempts = |progress: Option<Progress>| progress.map_or(0, |it| it.attempts);
        (inbox, entries.into_iter().map(|it| (it.id, attempts(it.progress))).collect())
    }

    fn progress(attempts: u32) -> Progress {
        Progress {
            turn: TurnId::new("t"),
            engine: Engine::CLAUDE,
            session: None,
            attempts,
            asking: Vec::new(),
            answers: None,
            is_answered: false,
        }
    }

    /// A daemon that could not write its attempt down has named nothing, so the next one, which
    /// counts from what is on disk, can't use a name again.
    #[test]
    fn only_an_attempt_on_disk_names_posts() {
        let dir = tempfile::tempdir().unwrap();
        let reply = Reply::parse(r#"{"threadId":"t","messageId":"M"}"#).unwrap();
        let (inbox, _) = open(dir.path());
        let entry = inbox.put(&reply, 0).unwrap();
        let (journal, away) = (journal::path(dir.path()), dir.path().join("away"));
        fs::rename(&journal, &away).unwrap();
        fs::create_dir(&journal).unwrap();
        assert!(Attempt::begin(&inbox, entry, &reply, progress(1), 0).is_err());
        fs::remove_dir(&journal).unwrap();
        fs::rename(&away, &journal).unwrap();
        drop(inbox);
        let (inbox, left) = open(dir.path());
        assert_eq!(left, [(entry, 0)]);

        let mut attempt = Attempt::begin(&inbox, entry, &reply, progress(1), 0).unwrap();
        let names = [attempt.next_post(), attempt.next_post()].map(|it| it.to_string());
        assert_eq!(names, ["M.1.1", "M.1.2"]);
        drop(inbox);
        let (inbox, left) = open(dir.path());
        assert_eq!(left, [(entry, 1)], "what has named posts is on disk");
        let mut attempt =
            Attempt::begin(&inbox, entry, &reply, progress(1), attempt.posts).unwrap();
        assert_eq!(attempt.next_post().to_string(), "M.1.3");
    }
}
