//! What an engine asks during a turn: decided by the policy, or put to the human. The human's answer
//! is heard by the dispatcher and comes back as a command.

use std::{
    collections::{HashMap, HashSet},
    path::Path,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::{
    agent::{ActionKind, Edit, Question, QuestionId, TurnCommand, Verdict},
    bridge::wire::{Message, PostKind},
    ids::{self, Engine, ThreadId, TurnId},
    permission::{
        self, Action, Decision, RealPlaces, Rule, Ruling,
        approval_prompt::{self, ApprovalRequest},
        code::Code,
    },
    store::audit::{By, EditRecord, Record},
    time,
    worker::{Report, host::Host, is_closed},
};

/// The questions of one turn.
#[derive(Default)]
pub(super) struct Asking {
    /// Those that the human has.
    put: HashMap<QuestionId, Put>,
    /// Those that are allowed as soon as the thread has its directory.
    waiting: HashSet<QuestionId>,
    /// The thread may write in its directory.
    has_directory: bool,
    /// Something was put to the human in this turn.
    pub(super) has_asked: bool,
    /// The daemon stopped while the human was asked.
    was_cut_short: bool,
}

/// A question that lies with the human.
struct Put {
    code: Code,
    kind: ActionKind,
    /// What `always` grants.
    always: Option<Rule>,
}

impl Asking {
    pub(super) fn new(has_directory: bool) -> Asking {
        Asking { has_directory, ..Asking::default() }
    }
}

/// Codes in an order in which none comes again for a long time.
#[derive(Debug)]
pub struct Codes(AtomicU32);

impl Default for Codes {
    fn default() -> Codes {
        Codes(AtomicU32::new(ids::random_number()))
    }
}

impl Codes {
    fn next(&self) -> Code {
        Code::from_seed(self.0.fetch_add(1, Ordering::Relaxed))
    }
}

/// Whether two threads could get in each other's way by it.
pub fn may_write(kind: ActionKind) -> bool {
    matches!(kind, ActionKind::Edit | ActionKind::Run)
}

/// Questions of a turn that wait for their directory; one more is refused.
const WAITING_MAX: usize = 100;

/// The author of questions (protocol section 8). No post of a model has it.
fn author(engine: &Engine) -> String {
    format!("{}-perm", engine.author())
}

/// Whether a message is one of our questions.
pub(super) fn is_ours(message: &Message) -> bool {
    message.author.as_deref().is_some_and(|author| author.ends_with("-bridge-perm"))
}

impl Host<'_, '_, '_> {
    pub(super) fn question(&mut self, question: Question, commands: &mut Vec<TurnCommand>) {
        let settings = &self.serving.shared.settings;
        let action = Action::of(
            &question,
            self.ride.engine(),
            &self.project_dir,
            &settings.home,
            &RealPlaces,
        );
        let decision = if !question.choices.is_empty() {
            decided(Ruling::Ask, "it is a question to the human")
        } else if settings.allow_all {
            decided(Ruling::Allow, "`allowAll` is set")
        } else {
            settings.policy.decide(&action, &self.serving.grants)
        };
        let always = permission::always(&action);
        log::info!(
            threadId = self.serving.thread.as_str(), tool = question.tool.as_str(),
            ruling = decision.ruling.as_str(), rule = decision.rule.as_deref().unwrap_or_default();
            "the engine asks for permission"
        );
        match (decision.ruling, settings.relay) {
            (Ruling::Allow, _) => self.allow(question, &decision, commands),
            (Ruling::Ask, Some(limit)) => self.put(question, always, limit),
            (Ruling::Ask, None) | (Ruling::Deny, _) => {
                self.audit(&question, "deny", &decision);
                let reason = permission::refusal(&question.tool, &decision);
                commands.push(decide(question.id, Verdict::Deny { reason }));
            }
        }
    }

    fn allow(&mut self, question: Question, decision: &Decision, commands: &mut Vec<TurnCommand>) {
        if !self.audit(&question, "allow", decision) {
            // Only when the daemon stops. Nothing is allowed that is not on record.
            let reason = "The daemon is stopping.".to_owned();
            commands.push(decide(question.id, Verdict::Deny { reason }));
            return;
        }
        if self.asking.has_directory || !may_write(question.kind) {
            commands.push(decide(question.id, Verdict::Allow));
            return;
        }
        if self.asking.waiting.len() >= WAITING_MAX {
            let reason = "Too much waits for this directory already; try again later.".to_owned();
            commands.push(decide(question.id, Verdict::Deny { reason }));
            return;
        }
        self.asking.waiting.insert(question.id.clone());
        self.report(|host| Report::Writes {
            entry: host.ride.job.entry,
            thread: host.serving.thread.clone(),
            question: question.id,
            directory: host.project_dir.clone(),
        });
    }

    /// The question is known to be open before anybody can see it, so that a daemon that dies knows
    /// what died with it, and an answer finds it.
    fn put(&mut self, question: Question, always: Option<Rule>, limit: Duration) {
        let code = self.serving.shared.codes.next();
        self.asking.has_asked = true;
        self.progress.asking.push(code.to_string());
        self.keep_progress();
        self.audit(&question, "ask", &decided(Ruling::Ask, "it is put to the human"));
        let request = ApprovalRequest {
            thread: self.serving.thread.clone(),
            turn: self.progress.turn.clone(),
            engine: self.ride.engine().clone(),
            code,
            directory: self.project_dir.clone(),
            always: always.as_ref().map(ToString::to_string),
            post: self.ride.next_post(),
            asked_at: time::now(),
            limit,
            takes_reasons: self.ride.def.kind.takes_reasons(),
            question,
        };
        let (body, card) = approval_prompt::render(&request);
        let put = Put { code, kind: request.question.kind, always };
        self.asking.put.insert(request.question.id.clone(), put);
        let mut post = self.serving.draft(
            PostKind::Question,
            author(self.ride.engine()),
            request.post.clone(),
        );
        post.question = Some(card);
        let entry = self.ride.job.entry;
        self.report(|_| Report::Asked { entry, request: Box::new(request) });
        self.serving.store(post, &body, None);
    }

    /// The engine no longer waits.
    pub(super) fn question_gone(&mut self, question: QuestionId) {
        self.asking.waiting.remove(&question);
        let Some(put) = self.asking.put.remove(&question) else { return };
        if is_closed(&self.serving.shared.stop) {
            // It stays on record until the thread is told, which a crash may still prevent.
            self.asking.was_cut_short = true;
        } else {
            self.no_longer_asking(put.code);
        }
        self.report(|host| Report::Withdrawn {
            thread: host.serving.thread.clone(),
            turn: host.progress.turn.clone(),
            question,
            code: put.code,
        });
    }

    /// A verdict reached the engine, or came too late.
    pub(super) fn question_decided(
        &mut self,
        question: &QuestionId,
        verdict: &Verdict,
        was_open: bool,
    ) {
        let is_allowed = matches!(verdict, Verdict::Allow | Verdict::AllowAlways);
        if self.asking.waiting.remove(question) {
            self.asking.has_directory |= is_allowed;
        }
        let Some(put) = self.asking.put.remove(question) else { return };
        self.asking.has_directory |= is_allowed && may_write(put.kind);
        self.no_longer_asking(put.code);
        if let (Verdict::AllowAlways, Some(rule), true) = (verdict, put.always, was_open) {
            self.serving.grants.push(rule.clone());
            self.report(|host| Report::Granted { thread: host.serving.thread.clone(), rule });
        }
        self.report(|host| Report::Decided {
            thread: host.serving.thread.clone(),
            turn: host.progress.turn.clone(),
            question: question.clone(),
            code: put.code,
            was_open,
        });
    }

    /// Whether the turn, which was interrupted because the daemon stops, waited for the human.
    pub(super) fn died_asking(&self) -> bool {
        self.asking.was_cut_short || !self.asking.put.is_empty()
    }

    fn no_longer_asking(&mut self, code: Code) {
        let code = code.to_string();
        self.progress.asking.retain(|open| *open != code);
        self.keep_progress();
    }

    /// Durable before the engine hears of it. False when the daemon stops before that was possible.
    fn audit(&self, question: &Question, ruling: &str, decision: &Decision) -> bool {
        let by = By::Policy(decision.rule.as_deref().unwrap_or(&decision.why));
        let subject = Subject {
            thread: self.serving.thread,
            turn: &self.progress.turn,
            engine: self.ride.engine(),
            directory: &self.project_dir,
            question,
        };
        self.serving.persist(|shared| shared.audit.write(&subject.record(ruling, by.clone())))
    }
}

/// What a line of the audit is about.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    pub thread: &'a ThreadId,
    pub turn: &'a TurnId,
    pub engine: &'a Engine,
    pub directory: &'a Path,
    pub question: &'a Question,
}

impl<'a> Subject<'a> {
    /// Of an edit only the digests: what it writes may be large, or secret.
    pub fn record(&self, ruling: &'a str, by: By<'a>) -> Record<'a> {
        const NO_INPUT: &Value = &Value::Null;
        let Question { kind, tool, subject, input, edits, .. } = self.question;
        let digest = |edit: &'a Edit| EditRecord {
            path: &edit.path,
            sha256: ids::hex(&Sha256::digest(edit.diff.as_bytes())),
        };
        Record {
            at: time::now(),
            thread_id: self.thread,
            turn: self.turn,
            agent: self.engine,
            kind: permission::kind_name(*kind),
            tool,
            subject,
            directory: self.directory,
            input: if edits.is_empty() { input } else { NO_INPUT },
            edits: edits.iter().map(digest).collect(),
            ruling,
            by,
        }
    }
}

fn decide(question: QuestionId, verdict: Verdict) -> TurnCommand {
    TurnCommand::Decide { question, verdict }
}

fn decided(ruling: Ruling, why: &str) -> Decision {
    Decision { ruling, rule: None, why: why.to_owned() }
}
