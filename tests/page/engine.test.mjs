// The page with a real engine behind it: Claude Code, whose model is scripted. What the human sees
// of its answers, its questions and its stop is what the daemon makes of the real thing.

import assert from "node:assert/strict";
import fs from "node:fs";
import path from "node:path";
import { after, before, test } from "node:test";
import { Cleanup, Human, Program, emptyHome, newContext, pastePicture, shot, startBridge, startBrowser } from "./rig.mjs";
import { begin, ready, say } from "./steps.mjs";

const cleanup = new Cleanup();
let bridge, context, page, project;

before(async () => {
  bridge = await startBridge(cleanup);
  const human = await Human.welcome(bridge);
  const home = emptyHome(cleanup);
  const model = new Program(cleanup, [], { home, program: process.env.OBTO_PAGE_MODEL, input: true });
  const [, url] = await model.line(/The model is at (\S+)/);
  const { token } = await human.post("/api/tokens");
  project = path.join(home, "project");
  fs.mkdirSync(project);
  fs.mkdirSync(path.join(home, ".obto-bridge"), { mode: 0o700 });
  const config = {
    baseUrl: bridge.url, apiToken: token, agentId: "workshop", projectDir: project, agent: "claude", relayPermissions: true,
    agents: { parrot: { command: [process.env.OBTO_PAGE_BINARY, "echo-agent"] } },
  };
  fs.writeFileSync(path.join(home, ".obto-bridge/config.json"), JSON.stringify(config), { mode: 0o600 });
  const bin = path.join(process.env.OBTO_E2E_ENGINES, "node_modules/.bin");
  const env = {
    PATH: `${bin}:/usr/local/bin:/usr/bin:/bin`, USER: "e2e", SHELL: "/bin/bash", ANTHROPIC_BASE_URL: url, ANTHROPIC_API_KEY: "sk-ant-scripted",
    CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC: "1", DISABLE_AUTOUPDATER: "1", DISABLE_ERROR_REPORTING: "1", DISABLE_TELEMETRY: "1", CLAUDE_CODE_MAX_RETRIES: "1",
  };
  new Program(cleanup, ["start"], { home, env });
  context = await newContext(cleanup, await startBrowser(cleanup));
  await human.lend(context);
  page = await context.newPage();
  await page.goto(`${bridge.url}/api/view#machines`);
  await ready(page);
  await page.getByRole("region", { name: "workshop" }).getByText("Connected").waitFor();
});

after(async () => {
  await cleanup.run();
  assert.deepEqual(context.problems, []);
});

/** Counts what the engine said, and not what the human asked it to say. */
const answer = (text) => page.locator(".message.agent .prose", { hasText: text });

test("a new thread is answered by the engine, and its Markdown is shown", async () => {
  await begin(page, { machine: "workshop", agent: "claude", text: "hello [[text:It is **done**, see `README.md`.]]" });
  await answer("It is done, see README.md.").waitFor();
  assert.equal(await answer("It is done").locator("strong").innerText(), "done");
  await page.reload();
  await answer("It is done, see README.md.").waitFor();
  assert.equal(await answer("It is done").count(), 1);
});

test("it works until it is stopped by the button", async () => {
  await say(page, "wait [[gate:never]][[text:too late]]");
  await page.getByText("claude is working").waitFor();
  await shot(page, "engine-working");
  await page.getByRole("button", { name: "Stop" }).click();
  await page.locator(".working-line").waitFor({ state: "hidden" });
  assert.equal(await answer("too late").count(), 0);
});

test("a permission is asked on a card and allowed, another one is denied with its reason", async () => {
  const [made, refused] = ["made.txt", "refused.txt"].map((name) => path.join(project, name));
  await say(page, `make it [[write:${made}|as asked]][[text:it is made]]`);
  const open = page.locator(".card:not(.closed)");
  await open.getByText("made.txt").first().waitFor();
  await shot(page, "engine-card");
  await open.getByRole("button", { name: "Allow once" }).click();
  await page.locator(".card-end", { hasText: "Allowed once" }).waitFor();
  await answer("it is made").waitFor();
  assert.equal(fs.readFileSync(made, "utf8").trim(), "as asked");

  await say(page, `and this [[write:${refused}|no]][[text:I was told: \${last_tool_result}]]`);
  await open.getByText("refused.txt").first().waitFor();
  await open.getByRole("button", { name: "Deny…" }).click();
  await open.getByLabel("Reason for denying").fill("not today");
  await open.getByRole("button", { name: "Deny", exact: true }).click();
  await page.locator(".card-end", { hasText: "Denied" }).waitFor();
  await answer("not today").waitFor();
  assert.equal(fs.existsSync(refused), false);
});

test("the thread is handed to another agent and back", async () => {
  await page.getByLabel("Agent of this thread").selectOption("parrot");
  await say(page, "and you");
  await answer("You said: and you").waitFor();
  await page.getByLabel("Agent of this thread").selectOption("claude");
  await say(page, "again [[text:claude is back]]");
  await answer("claude is back").waitFor();
});

test("a picture reaches the model", async () => {
  await pastePicture(page.getByRole("textbox", { name: "Reply" }));
  await page.waitForFunction(() => document.querySelector(".chip") && !document.querySelector(".chip small"));
  await say(page, "look [[text:seen]]");
  await answer("seen").waitFor();
  assert.equal(await page.locator(".message.human .picture img").count(), 1);
});
