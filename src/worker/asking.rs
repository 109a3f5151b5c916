//! What an engine asks during a turn: decided by the policy, or by a person. The loop receives the
//! person's answer and sends it back as a command.

use std::{
    collections::{HashMap, HashSet},
    path::Path,
    sync::atomic::{AtomicU32, Ordering},
};

use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::{
    agent::{ActionKind, Edit, Question, QuestionId, TurnCommand, Verdict},
    bridge::wire::{PostKind, Reply},
    coordinator::Event,
    ids::{self, ClientMsgId, Engine, ThreadId, TurnId},
    permission::{
        self, Action, Decision, RealPlaces, Rule, Ruling,
        approval_prompt::{self, ApprovalRequest},
        approvals::Key,
        code::Code,
    },
    store::audit::{By, EditRecord, Record},
    time,
    worker::{Shared, attempt::Attempt, is_closed, run::Run},
};

/// The questions of one turn.
pub(super) struct Asking<'a> {
    run: &'a Run<'a>,
    project_dir: &'a Path,
    /// What was allowed on this thread with `always`.
    grants: Vec<Rule>,
    /// Those that wait for a person.
    put: HashMap<QuestionId, Put>,
    /// Those that are allowed as soon as the thread has its directory's lock.
    waiting: HashSet<QuestionId>,
    /// The thread has the lock.
    has_lock: bool,
    /// The daemon stopped while a person was asked.
    was_cut_short: bool,
}

/// A question that waits for a person.
struct Put {
    code: Code,
    kind: ActionKind,
    /// What `always` grants.
    always: Option<Rule>,
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

/// Questions of a turn that wait for their directory; one more is refused.
const WAITING_MAX: usize = 100;

/// The author of questions (protocol section 8). No post of a model has it.
fn author(engine: &Engine) -> String {
    format!("{}-perm", engine.author())
}

/// Whether a message is one of our questions.
pub(super) fn is_ours(message: &Reply) -> bool {
    message.author.as_deref().is_some_and(|author| author.ends_with("-bridge-perm"))
}

impl<'a> Asking<'a> {
    pub(super) fn new(run: &'a Run<'a>, project_dir: &'a Path) -> Asking<'a> {
        Asking {
            run,
            project_dir,
            grants: run.job.grants.clone(),
            put: HashMap::new(),
            waiting: HashSet::new(),
            has_lock: run.begin.has_directory,
            was_cut_short: false,
        }
    }

    pub(super) fn ask(
        &mut self,
        question: Question,
        attempt: &mut Attempt,
        commands: &mut Vec<TurnCommand>,
    ) {
        let Shared { config, policy, .. } = self.run.shared;
        let action = Action {
            question: &question,
            engine: self.run.engine(),
            directory: self.project_dir,
            home: config.home.as_std_path(),
            places: &RealPlaces,
            shell: self.run.shell(),
        };
        if let Some(why) = question.cannot_allow {
            let reason = format!("Refused: {why}.");
            return self.refuse(question, why, reason, attempt.next_post(), attempt, commands);
        }
        let decision = if !question.choices.is_empty() {
            decided(Ruling::Ask, "it is a question to the user")
        } else if config.allow_all {
            decided(Ruling::Allow, "`allowAll` is set")
        } else {
            policy.decide(&action, &self.grants)
        };
        let always = policy
            .always(&action)
            .filter(|rule| approval_prompt::can_be_offered(&rule.to_string()));
        log::info!(
            threadId = self.run.begin.thread.as_str(), tool = question.tool.as_str(),
            ruling = decision.ruling.as_str(), rule = decision.rule.as_deref().unwrap_or_default();
            "the engine asks for permission"
        );
        match decision.ruling {
            Ruling::Allow => self.allow(question, &decision, attempt, commands),
            Ruling::Ask if config.relay_permissions => {
                self.put(question, always, decision, attempt, commands);
            }
            Ruling::Ask | Ruling::Deny => {
                self.audit(&question, "deny", &decision, attempt);
                let reason = permission::refusal(&question.tool, &decision);
                commands.push(decide(question.id, Verdict::Deny { reason }));
            }
        }
    }

    fn allow(
        &mut self,
        question: Question,
        decision: &Decision,
        attempt: &Attempt,
        commands: &mut Vec<TurnCommand>,
    ) {
        let waits = !self.has_lock && question.kind.may_write();
        if waits && self.waiting.len() >= WAITING_MAX {
            let decision = decided(Ruling::Deny, "too many actions wait for this directory");
            self.audit(&question, "deny", &decision, attempt);
            let reason =
                "Too many actions wait for this directory already; try again later.".to_owned();
            commands.push(decide(question.id, Verdict::Deny { reason }));
            return;
        }
        if !self.audit(&question, "allow", decision, attempt) {
            // Nothing is allowed that is not on record. The turn is being stopped, and the question
            // with it.
            return;
        }
        if !waits {
            commands.push(decide(question.id, Verdict::Allow));
            return;
        }
        self.waiting.insert(question.id.clone());
        let directory = self.project_dir.canonicalize();
        self.run.report(Event::Writes {
            thread: self.run.thread(),
            entry: self.run.begin.entry,
            question: question.id,
            directory: directory.unwrap_or_else(|_| self.project_dir.to_owned()),
        });
    }

    /// Refuses what a person can't be asked about, whatever the policy says, and tells the thread.
    fn refuse(
        &self,
        question: Question,
        why: &str,
        reason: String,
        post: ClientMsgId,
        attempt: &Attempt,
        commands: &mut Vec<TurnCommand>,
    ) {
        self.audit(&question, "deny", &decided(Ruling::Deny, why), attempt);
        self.run.say(post, &approval_prompt::not_put(self.run.engine(), &question, why));
        commands.push(decide(question.id, Verdict::Deny { reason }));
    }

    /// The question is on record before anyone can see it, so that the next daemon knows what was
    /// orphaned, and an answer finds it.
    fn put(
        &mut self,
        question: Question,
        always: Option<Rule>,
        decision: Decision,
        attempt: &mut Attempt,
        commands: &mut Vec<TurnCommand>,
    ) {
        let run = self.run;
        let code = run.shared.codes.next();
        let request = ApprovalRequest {
            thread: run.thread(),
            turn: attempt.turn().clone(),
            engine: run.engine().clone(),
            code,
            directory: self.project_dir.to_owned(),
            rule: decision.rule.clone(),
            why: decision.why.clone(),
            always: always.as_ref().map(ToString::to_string),
            post: attempt.next_post(),
            asked_at: time::now(),
            limit: run.shared.config.relay_timeout,
            takes_reasons: run.def.description.takes_reasons,
            question,
        };
        if let Some(reason) = approval_prompt::too_large(&request) {
            let why = "it is too large to be shown whole";
            let ApprovalRequest { question, post, .. } = request;
            return self.refuse(question, why, reason, post, attempt, commands);
        }
        attempt.record(run, |progress| progress.asking.push(code.to_string()));
        self.audit(&request.question, "ask", &decision, attempt);
        let (body, fields) = approval_prompt::render(&request);
        let put = Put { code, kind: request.question.kind, always };
        self.put.insert(request.question.id.clone(), put);
        let mut post = run.draft(PostKind::Question, request.post.clone());
        post.author = author(run.engine());
        post.question = Some(fields);
        run.report(Event::Asked { entry: run.begin.entry, request: Box::new(request) });
        run.post(post, &body);
    }

    /// The engine no longer waits. The question stays on record until the loop, which says so on the
    /// thread, gives its verdict.
    pub(super) fn withdrawn(&mut self, question: QuestionId, attempt: &Attempt) {
        self.waiting.remove(&question);
        let Some(put) = self.put.get(&question) else { return };
        self.was_cut_short |= is_closed(&self.run.shared.stop);
        self.run.report(Event::Withdrawn(self.key(question, put.code, attempt)));
    }

    /// A verdict reached the engine, or came too late.
    pub(super) fn decided(
        &mut self,
        question: &QuestionId,
        verdict: &Verdict,
        was_open: bool,
        attempt: &mut Attempt,
    ) {
        let is_allowed = matches!(verdict, Verdict::Allow | Verdict::AllowAlways);
        if self.waiting.remove(question) {
            self.has_lock |= is_allowed;
        }
        let Some(put) = self.put.remove(question) else { return };
        self.has_lock |= is_allowed && put.kind.may_write();
        self.no_longer_asking(put.code, attempt);
        if let (Verdict::AllowAlways, Some(rule), true) = (verdict, put.always, was_open) {
            self.grants.push(rule.clone());
            let rule = rule.to_string();
            self.run.report(Event::Granted { thread: self.run.thread(), rule });
        }
        let key = self.key(question.clone(), put.code, attempt);
        self.run.report(Event::Decided { key, was_open });
    }

    fn key(&self, question: QuestionId, code: Code, attempt: &Attempt) -> Key {
        Key { thread: self.run.thread(), turn: attempt.turn().clone(), question, code }
    }

    /// Whether the turn, which was interrupted because the daemon stops, waited for a person.
    pub(super) fn was_cut_short(&self) -> bool {
        self.was_cut_short || !self.put.is_empty()
    }

    fn no_longer_asking(&self, code: Code, attempt: &mut Attempt) {
        let code = code.to_string();
        attempt.record(self.run, |progress| progress.asking.retain(|open| *open != code));
    }

    /// Durable before the engine has the verdict. False when the turn is being stopped before that
    /// was possible.
    fn audit(
        &self,
        question: &Question,
        ruling: &str,
        decision: &Decision,
        attempt: &Attempt,
    ) -> bool {
        let by = By::Policy(decision.rule.as_deref().unwrap_or(&decision.why));
        let subject = Subject {
            thread: &self.run.begin.thread,
            turn: attempt.turn(),
            engine: self.run.engine(),
            directory: self.project_dir,
            question,
        };
        let record = subject.record(ruling, by);
        self.run.persist(|shared| shared.audit.write(&record)).is_some()
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
