// A daemon that follows a script: it speaks the protocol with a token and runs no engine. With it a
// test decides what is asked, when it is answered, and how it ends.

import http from "node:http";
import { request, within } from "./rig.mjs";

export class Machine {
  #asked = new Map();
  #posts = 0;

  constructor(url, token, agentId) {
    Object.assign(this, { url, agentId, token, replies: [], waiting: new Set() });
    this.headers = { Authorization: `Bearer ${token}` };
  }

  /** Connects and says what it offers. */
  static async connect(cleanup, human, { agentId = "scripted", engines = [{ name: "scripted", version: "1.0" }], projectDirs = ["/srv/project"], url = human.url, quiet = false } = {}) {
    const { token } = await human.post("/api/tokens");
    const machine = new Machine(url, token, agentId);
    // A test says everything itself.
    machine.quiet = quiet;
    await machine.#listen(cleanup, engines.filter((it) => !it.missing).map((it) => it.name));
    await machine.post("/api/bridge/machine", { agentId, version: "9.9", engines, projectDirs });
    return machine;
  }

  #listen(cleanup, capabilities) {
    const query = new URLSearchParams({ agentId: this.agentId, capabilities: capabilities.join(",") });
    const headers = { ...this.headers, Accept: "text/event-stream" };
    return within("the machine's stream", (done) => {
      const stream = http.request(`${this.url}/api/bridge/stream?${query}`, { headers }, (response) => {
        let rest = "";
        response.setEncoding("utf8").on("error", () => {}).on("data", (text) => {
          const events = (rest + text).split("\n\n");
          rest = events.pop();
          for (const event of events) this.#take(event, done);
        });
      });
      stream.on("error", () => {}).end();
      cleanup.add(() => stream.destroy());
    });
  }

  #take(event, done) {
    const field = (name) => new RegExp(`^${name}: (.*)$`, "m").exec(event)?.[1];
    if (field("event") === "hello") done();
    if (field("event") !== "reply") return;
    const reply = JSON.parse(field("data"));
    this.replies.push(reply);
    for (const look of this.waiting) look();
    if (this.quiet) return;
    this.#answer(reply).catch((error) => this.replies.push({ body: `the script failed: ${error.stack}` }));
  }

  /** What it was told on any thread, once it was. */
  heard(body) {
    return within(`the reply ${body}`, (done) => {
      const look = () => {
        const found = this.replies.find((it) => (body instanceof RegExp ? body.test(it.body) : it.body === body));
        if (found) done(found);
      };
      this.waiting.add(look);
      look();
      return () => this.waiting.delete(look);
    }, () => JSON.stringify(this.replies.map((it) => it.body)));
  }

  async post(route, body) {
    const { status, answer } = await request(this.url + route, "POST", this.headers, body);
    if (status !== 200) throw new Error(`${route}: ${status} ${JSON.stringify(answer)}`);
    return answer;
  }

  say(threadId, body, more = {}) {
    this.#posts += 1;
    const clientMsgId = `${this.agentId}-${this.#posts}`;
    return this.post("/api/message", { threadId, body, kind: "result", role: "agent", author: "scripted-bridge", clientMsgId, ...more });
  }

  activity(threadId, state) {
    return this.post("/api/bridge/agent-activity", { threadId, state });
  }

  /** Puts a question as the daemon does, and remembers it for its answer. */
  async ask(threadId, question = {}) {
    const card = {
      code: "K7Q2", agent: "scripted", kind: "run", tool: "Bash", subject: "rm -r build", directory: "/srv/project",
      reason: "to build anew", always: "Bash: rm -r build", choices: [], expiresAt: new Date(Date.now() + 600_000).toISOString(), ...question,
    };
    this.#asked.set(card.code, threadId);
    await this.say(threadId, `May I? (${card.code})`, { kind: "question", author: `${card.agent}-bridge-perm`, question: card });
  }

  close(threadId, code, outcome) {
    this.#asked.delete(code);
    return this.say(threadId, `${code}: ${outcome}`, { kind: "status", author: "scripted-bridge-perm", questionClosed: { code, outcome } });
  }

  /** The script: `ask` asks, `work` works until it is stopped, everything else is echoed. */
  async #answer({ threadId, body, agentId, agent }) {
    if (agentId === null || agentId === undefined) {
      const { won } = await this.post("/api/bridge/thread/claim", { threadId, agentId: this.agentId });
      if (!won) return;
    } else if (agentId !== this.agentId) return;
    const [, verb, code] = /^(approve|always|deny) (\w+)/.exec(body) ?? [];
    if (verb && this.#asked.has(code)) {
      await this.close(threadId, code, { approve: "allowed", always: "always", deny: "denied" }[verb]);
    } else if (this.#asked.has(body.split(" ")[0])) {
      await this.close(threadId, body.split(" ")[0], "answered");
    } else if (body === "/stop") {
      await this.activity(threadId, "idle");
      await this.say(threadId, "Stopped.", { kind: "status" });
    } else if (body === "work") {
      await this.activity(threadId, "working");
    } else if (body.startsWith("ask ")) {
      await this.ask(threadId, JSON.parse(body.slice(4)));
    } else {
      await this.activity(threadId, "working");
      await this.say(threadId, `${agent} heard: ${body}`);
      await this.activity(threadId, "idle");
    }
  }
}
