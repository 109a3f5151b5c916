// Questions on cards, the stop button, unread threads and what one machine can do, against the real
// bridge and a machine that follows a script.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { Machine } from "./machine.mjs";
import { Cleanup, Human, newContext, shot, startBridge, startBrowser } from "./rig.mjs";
import { begin, expectMessages, open, ready, say } from "./steps.mjs";

const cleanup = new Cleanup();
let bridge, human, machine, context, page;

before(async () => {
  bridge = await startBridge(cleanup);
  human = await Human.welcome(bridge);
  machine = await Machine.connect(cleanup, human, {
    agentId: "scripted",
    engines: [{ name: "alpha", version: "1.0" }, { name: "beta" }, { name: "gamma", missing: "gamma is not in PATH" }],
    projectDirs: ["/srv/one", "/srv/two"],
  });
  context = await newContext(cleanup, await startBrowser(cleanup));
  await human.lend(context);
  page = await context.newPage();
  await page.goto(`${bridge.url}/api/view`);
  await ready(page);
}, { timeout: 120_000 });

after(async () => {
  await cleanup.run();
  assert.deepEqual(context.problems, []);
}, { timeout: 120_000 });

const card = (code) => page.locator(`.card[data-code="${code}"]`);
const end = (code, text) => card(code).locator(".card-end", { hasText: text }).waitFor();

async function ask(question) {
  await say(page, `ask ${JSON.stringify(question)}`);
  await card(question.code).waitFor();
}

test("a new thread is offered what the machine has", async () => {
  await page.getByRole("button", { name: "New thread" }).first().click();
  const dialog = page.getByRole("dialog", { name: "New thread" });
  await dialog.getByRole("radio", { name: "alpha" }).waitFor();
  assert.equal(await dialog.getByRole("radio", { name: /gamma/ }).isDisabled(), true);
  assert.match(await dialog.locator(".agents").innerText(), /gamma is not in PATH/);
  await dialog.getByLabel("Directory").selectOption("/srv/two");
  await dialog.getByRole("radio", { name: "beta" }).check();
  await dialog.getByLabel("Message").fill("hello");
  await shot(page, "new-thread");
  await dialog.getByRole("button", { name: "Start" }).click();
  await expectMessages(page, ["hello", "beta heard: hello"]);
  const reply = await machine.heard("hello");
  assert.deepEqual([reply.agentId, reply.agent, reply.projectDir], ["scripted", "beta", "/srv/two"]);
});

test("a card is answered by its buttons", async () => {
  await ask({ code: "A2B3", subject: "cargo test" });
  await shot(page, "card");
  const text = await card("A2B3").innerText();
  for (const part of ["scripted", "wants to run a command", "cargo test", "/srv/project", "to build anew", "Expires in"]) {
    assert.ok(text.includes(part), `${part} is not in ${text}`);
  }
  await card("A2B3").getByRole("button", { name: "Allow once" }).click();
  await machine.heard("approve A2B3");
  await end("A2B3", "Allowed once");
  assert.equal(await card("A2B3").getByRole("button").count(), 0);

  await ask({ code: "C4D5", always: "Bash: cargo *" });
  assert.match(await card("C4D5").innerText(), /Always allows: Bash: cargo \*/);
  await card("C4D5").getByRole("button", { name: "Always for this thread" }).click();
  await machine.heard("always C4D5");
  await end("C4D5", "from now on");

  await ask({ code: "F6G7", always: null, kind: "edit", diff: "@@ -1 +1 @@\n-old\n+new", subject: "/srv/file" });
  assert.equal(await card("F6G7").getByRole("button", { name: /Always/ }).count(), 0);
  assert.equal(await card("F6G7").locator(".diff .added").innerText(), "+new\n");
  await card("F6G7").getByRole("button", { name: "Deny…" }).click();
  await card("F6G7").getByLabel("Reason for denying").fill("not on a\tFriday");
  await card("F6G7").getByRole("button", { name: "Deny", exact: true }).click();
  await machine.heard("deny F6G7 because not on a Friday");
  await end("F6G7", "Denied");
});

test("two cards are answered in any order", async () => {
  await ask({ code: "H2J3" });
  await ask({ code: "K4M5" });
  await card("K4M5").getByRole("button", { name: "Allow once" }).click();
  await end("K4M5", "Allowed once");
  await card("H2J3").getByRole("button", { name: "Deny…" }).click();
  await card("H2J3").getByRole("button", { name: "Deny", exact: true }).click();
  await machine.heard("deny H2J3");
  await end("H2J3", "Denied");
});

test("choices are made by number or in own words", async () => {
  const options = [{ label: "Red", description: "like a rose" }, { label: "Blue" }];
  await ask({ code: "N2P3", kind: "choice", always: null, choices: [{ question: "Which colour?", options, multiple: false, open: true }] });
  await shot(page, "choices");
  await card("N2P3").getByRole("radio", { name: /Blue/ }).check();
  await card("N2P3").getByRole("button", { name: "Answer" }).click();
  await machine.heard("N2P3 2");
  await end("N2P3", "Answered");

  const choices = [{ question: "Which?", options, multiple: true, open: false }, { question: "Why?", options: [], multiple: false, open: true }];
  await ask({ code: "Q4R5", kind: "choice", always: null, choices });
  await card("Q4R5").getByRole("button", { name: "Answer" }).click();
  await card("Q4R5").getByText("Choose, or write your own words.").waitFor();
  for (const name of [/Red/, /Blue/]) await card("Q4R5").getByRole("checkbox", { name }).check();
  await card("Q4R5").getByLabel("In your own words").fill("because");
  await card("Q4R5").getByRole("button", { name: "Answer" }).click();
  await machine.heard("Q4R5 1,2\nbecause");
  await end("Q4R5", "Answered");
});

test("a card that was answered elsewhere, expired or died says so", async () => {
  const { threadId } = machine.replies.at(-1);
  await ask({ code: "S2T3" });
  await human.post("/api/reply", { threadId, body: "approve S2T3", clientMsgId: "elsewhere" });
  await end("S2T3", "Allowed once");
  for (const [code, outcome, words] of [["V4W5", "expired", "Expired"], ["X6Z7", "gone", "No longer asked"]]) {
    await ask({ code });
    await machine.close(threadId, code, outcome);
    await end(code, words);
  }
  await ask({ code: "B8C9", expiresAt: new Date(Date.now() - 1000).toISOString() });
  await card("B8C9").getByText("Expired").waitFor();
  assert.equal(await card("B8C9").getByRole("button", { name: "Allow once" }).isDisabled(), true);
  await page.reload();
  await end("S2T3", "Allowed once");
  await end("X6Z7", "No longer asked");
});

test("only the daemon's own asker makes cards", async () => {
  const { threadId } = machine.replies.at(-1);
  const question = { code: "D2F3", agent: "alpha", kind: "run", tool: "Bash", subject: "x", directory: "/", choices: [], expiresAt: "2100-01-01T00:00:00.000Z" };
  await machine.say(threadId, "forged by its author", { author: "alpha-bridge", question });
  await machine.say(threadId, JSON.stringify({ question }), { author: "alpha-bridge" });
  await machine.say(threadId, "the last one", {});
  await page.locator(".messages .prose", { hasText: "the last one" }).waitFor();
  assert.equal(await card("D2F3").count(), 0);
});

test("a running turn shows its time and is stopped", async () => {
  await say(page, "work");
  await page.getByText(/(alpha|beta) is working/).waitFor();
  await page.locator(".working-line time", { hasText: /^0:0[1-9]$/ }).waitFor();
  await shot(page, "working");
  await page.getByRole("button", { name: "Stop" }).click();
  await machine.heard("/stop");
  await page.locator(".working-line").waitFor({ state: "hidden" });
  await page.locator(".messages .prose", { hasText: "Stopped." }).waitFor();
});

test("the agent is switched in the head", async () => {
  await page.getByLabel("Agent of this thread").selectOption("alpha");
  await page.waitForFunction(() => document.querySelector("[aria-current] .tag")?.textContent === "alpha");
  await say(page, "who is there");
  await page.locator(".messages .prose", { hasText: "alpha heard: who is there" }).waitFor();
});

test("what comes in another thread is unread, in the list and the title", async () => {
  const { threadId } = machine.replies.at(-1);
  const other = await begin(page, { text: "the other thread" });
  await page.locator(".messages .prose", { hasText: "heard: the other thread" }).waitFor();
  await machine.say(threadId, "are you there?");
  await page.waitForFunction(() => document.title.startsWith("(1) "));
  await page.locator("a.thread.unread", { hasText: "are you there?" }).locator(".badge").waitFor();
  await open(page, bridge.url, threadId);
  await page.locator(".messages .prose", { hasText: "are you there?" }).waitFor();
  await page.waitForFunction(() => !document.title.startsWith("("));
  assert.ok(other !== threadId);
});

test("a message that comes while the page is still reading is not lost", async () => {
  const threadId = await page.evaluate(() => decodeURIComponent(location.hash.slice(3)));
  // The page's answer is from before the message, and comes after it.
  for (const [what, path] of [["messages", "**/api/messages?*"], ["list", "**/api/threads?*"]]) {
    const text = `meanwhile, beside the ${what}`;
    let isHeld = false;
    await page.route(path, async (route) => {
      const response = await route.fetch();
      if (!isHeld) {
        isHeld = true;
        await machine.say(threadId, text);
        await human.get("/api/threads");
      }
      await route.fulfill({ response });
    });
    await page.reload();
    await page.locator(".messages .prose", { hasText: text }).first().waitFor();
    await page.unrouteAll({ behavior: "wait" });
    await machine.say(threadId, `after ${text}`);
    await page.locator(".messages .prose", { hasText: `after ${text}` }).waitFor();
    assert.equal(await page.locator(".messages .prose", { hasText: `after ${text}` }).count(), 1);
  }
});

test("a thread is renamed, found, and deleted", async () => {
  const threadId = await begin(page, { text: "a passing thought" });
  await page.getByRole("button", { name: "More" }).click();
  await page.getByRole("button", { name: "Rename" }).click();
  await page.getByLabel("Name", { exact: true }).fill("Zanzibar");
  await page.getByRole("dialog").getByRole("button", { name: "Rename" }).click();
  await page.locator("a.thread", { hasText: "Zanzibar" }).waitFor();
  await page.getByLabel("Search conversations").fill("passing thought");
  await page.waitForFunction(() => document.querySelectorAll(".threads:not(.external) a.thread").length === 1);
  assert.match(await page.locator(".threads:not(.external) a.thread").innerText(), /Zanzibar/);
  await page.getByLabel("Search conversations").fill("");
  await page.getByRole("button", { name: "More" }).click();
  await page.getByRole("button", { name: "Delete" }).click();
  await page.getByRole("dialog").getByRole("button", { name: "Delete" }).click();
  await page.locator("a.thread", { hasText: "Zanzibar" }).waitFor({ state: "detached" });
  const { threads } = await human.get("/api/threads");
  assert.ok(!threads.some((it) => it.threadId === threadId));
});

test("machines and tokens are shown, made and revoked", async () => {
  await page.getByRole("button", { name: "Machines" }).click();
  const box = page.getByRole("region", { name: "scripted" });
  await box.getByText("gamma is not in PATH").waitFor();
  assert.match(await box.innerText(), /Connected[\s\S]*9\.9[\s\S]*\/srv\/one, \/srv\/two/);
  await page.getByRole("button", { name: "Make a token" }).click();
  const line = await page.locator(".made code").last().innerText();
  const [, token] = /^echo (obto_\w+) \| obto-bridge init --base-url http:\S+ --token -$/.exec(line) ?? [];
  assert.ok(token, line);
  await shot(page, "machines");
  const count = await page.locator(".token").count();
  await page.locator(".token", { hasText: token.slice(0, 10) }).getByRole("button").click();
  await page.getByRole("dialog").getByRole("button", { name: "Revoke" }).click();
  await page.waitForFunction((count) => document.querySelectorAll(".token").length === count - 1, count);
});
