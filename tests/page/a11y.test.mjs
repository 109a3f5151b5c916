// For people who don't see the page, don't use a mouse, have a small screen or want it dark: axe on
// every view in both themes and both sizes, a walk by keys alone, and nothing wider than a phone.

import assert from "node:assert/strict";
import fs from "node:fs";
import { createRequire } from "node:module";
import { after, before, test } from "node:test";
import { Machine } from "./machine.mjs";
import { Cleanup, Human, PIXEL, newContext, shot, startBridge, startBrowser } from "./rig.mjs";
import { open, ready } from "./steps.mjs";

const AXE = fs.readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");

const DESKTOP = { width: 1280, height: 820 };
const PHONE = { width: 360, height: 740 };

const MARKDOWN = `# What changed

The notes are **half as long**, see [the diff](https://example.org/) and \`CHANGELOG.md\`.

- [x] one line a change
- [ ] no internals

| file | before | after, in a column that is wide |
|---|--:|:-:|
| CHANGELOG.md | 2,303 | 1,120 |

> quoted

\`\`\`rust
fn main() { println!("a line that is so long that it has to scroll sideways on the screen of a telephone"); }
\`\`\`
`;

const cleanup = new Cleanup();
let bridge, human, machine, browser, threadId;
const contexts = [];

before(async () => {
  bridge = await startBridge(cleanup);
  human = await Human.welcome(bridge);
  machine = await Machine.connect(cleanup, human, {
    agentId: "workshop", engines: [{ name: "scripted", version: "1.0" }, { name: "other", missing: "other is not in PATH" }], projectDirs: ["/srv/project"],
  });
  browser = await startBrowser(cleanup);
  threadId = (await human.post("/api/reply", { body: "Please shorten the release notes.", agent: "scripted", agentId: "workshop", clientMsgId: "1" })).threadId;
  await machine.heard("Please shorten the release notes.");
  const { attachmentId } = await human.post("/api/bridge/attachment/upload", { name: "shot.png", mediaType: "image/png", data: PIXEL });
  await human.post("/api/reply", { threadId, body: "like here", attachmentIds: [attachmentId], clientMsgId: "2" });
  await machine.say(threadId, MARKDOWN);
  await machine.say(threadId, "It did not work: 429 Too Many Requests", { kind: "error" });
  await machine.say(threadId, "Reading CHANGELOG.md", { kind: "status" });
  await machine.ask(threadId, { code: "A2B3", kind: "edit", diff: "@@ -1 +1 @@\n-old\n+new" });
  await machine.close(threadId, "A2B3", "denied");
  await machine.ask(threadId, { code: "C4D5" });
  const options = [{ label: "Plain", description: "One sentence" }, { label: "Detailed" }];
  await machine.ask(threadId, { code: "F6G7", kind: "choice", always: null, choices: [{ question: "Which tone?", options, multiple: false, open: true }] });
  await human.post("/api/reply", { threadId, body: "work", clientMsgId: "3" });
  await machine.heard("work");
  const other = await human.post("/api/reply", { body: "Something else", agent: "scripted", agentId: "workshop", clientMsgId: "4" });
  await machine.heard("Something else");
  await machine.say(other.threadId, "This was not read yet.");
  const turns = [{ role: "user", body: "Why is it flaky?", ts: new Date().toISOString() }, { role: "assistant", body: "It waits for time.", ts: new Date().toISOString() }];
  await machine.post("/api/bridge/external/sync", {
    agentId: "workshop", presentSessionIds: ["s1"],
    sessions: [{ source: "claude", sessionId: "s1", projectDir: "/srv/site", projectName: "site", title: "Fix the flaky test", lastActivityAt: Date.now(), lastMessagePreview: "It waits for time.", lastMessageAuthor: "assistant", recentMessages: turns }],
  });
}, { timeout: 120_000 });

after(async () => {
  await cleanup.run();
  for (const context of contexts) assert.deepEqual(context.problems, []);
}, { timeout: 120_000 });

async function signedIn(options) {
  const context = await newContext(cleanup, browser, options);
  contexts.push(context);
  await human.lend(context);
  const page = await context.newPage();
  await page.goto(`${bridge.url}/api/view`);
  await ready(page);
  return page;
}

/** No serious finding, and no sideways scrolling of the whole. */
async function check(page, where) {
  // Through the debugger, which the page's policy does not bind.
  if (!(await page.evaluate(() => typeof window.axe === "object"))) await page.evaluate(AXE);
  const { violations, passes } = await page.evaluate(async () => window.axe.run(document, { resultTypes: ["violations"] }));
  assert.ok(passes.length > 10, `${where}: only ${passes.length} rules had something to look at`);
  const serious = violations.filter((it) => ["serious", "critical"].includes(it.impact));
  const told = serious.map((it) => `${it.id} (${it.impact}): ${it.help}\n  ${it.nodes.slice(0, 4).map((node) => `${node.html.slice(0, 160)}\n    ${node.any[0]?.message ?? ""}`).join("\n  ")}`);
  assert.deepEqual(told, [], where);
  const wide = await page.evaluate(() => document.documentElement.scrollWidth - window.innerWidth);
  assert.ok(wide <= 0, `${where}: ${wide} points too wide`);
}

/** Each view: how to get there, and what shows that we are. */
const VIEWS = {
  list: async (page) => {
    await page.goto(`${bridge.url}/api/view#`);
    await page.locator(".external").evaluate((it) => (it.parentElement.open = true));
    await page.locator("a.thread.unread").waitFor();
  },
  thread: async (page) => {
    await open(page, bridge.url, threadId);
    await page.locator('.card[data-code="F6G7"]').waitFor();
    await page.getByText("is working").waitFor();
  },
  answer: async (page) => {
    await open(page, bridge.url, threadId);
    await page.getByRole("button", { name: "Deny…" }).click();
    await page.locator(".code-block").scrollIntoViewIfNeeded();
  },
  machines: async (page) => {
    await page.goto(`${bridge.url}/api/view#machines`);
    await page.locator(".machine").waitFor();
    await page.getByRole("button", { name: "Make a token" }).click();
    await page.locator(".made pre").waitFor();
  },
  account: async (page) => {
    await page.goto(`${bridge.url}/api/view#account`);
    await page.getByText("You are").waitFor();
  },
  session: async (page) => {
    await page.goto(`${bridge.url}/api/view#x/workshop/claude/s1`);
    await page.getByText("Why is it flaky?").waitFor();
  },
  dialog: async (page) => {
    await page.goto(`${bridge.url}/api/view#`);
    await page.locator("a.thread").first().waitFor();
    await page.locator("#side-tools").getByRole("button", { name: "New thread" }).click();
    await page.getByRole("radio", { name: "other" }).waitFor();
  },
};

for (const [size, viewport] of Object.entries({ desktop: DESKTOP, phone: PHONE })) {
  for (const colorScheme of ["light", "dark"]) {
    test(`every view, ${size}, ${colorScheme}`, async () => {
      const page = await signedIn({ viewport, colorScheme, hasTouch: size === "phone" });
      for (const [name, visit] of Object.entries(VIEWS)) {
        await visit(page);
        await shot(page, `${size}-${colorScheme}-${name}`);
        await check(page, `${name}, ${size}, ${colorScheme}`);
      }
      await page.context().close();
      const fresh = await newContext(cleanup, browser, { viewport, colorScheme });
      const gate = await fresh.newPage();
      for (const hash of ["", "#welcome=abc"]) {
        await gate.goto(`${bridge.url}/api/view${hash}`);
        await gate.locator(".gate-card").waitFor();
        await check(gate, `the gate${hash}, ${size}, ${colorScheme}`);
      }
      await fresh.close();
    });
  }
}

test("the theme is switched by hand, and stays", async () => {
  const page = await signedIn({ colorScheme: "light" });
  await page.goto(`${bridge.url}/api/view#account`);
  const ground = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
  const light = await ground();
  await page.getByText("Dark", { exact: true }).click();
  const dark = await ground();
  assert.notEqual(dark, light);
  await page.reload();
  await ready(page);
  assert.equal(await ground(), dark);
});

test("a walk by keys alone", async () => {
  const page = await signedIn({});
  const focused = () => page.evaluate(() => document.activeElement.getAttribute("aria-label") ?? document.activeElement.innerText.split("\n")[0]);
  await page.locator("a.thread").nth(1).waitFor();
  await page.keyboard.press("j");
  assert.match(await focused(), /Something else|Please shorten/);
  const first = await focused();
  await page.keyboard.press("ArrowDown");
  assert.notEqual(await focused(), first);
  await page.keyboard.press("k");
  assert.equal(await focused(), first);
  const outline = await page.evaluate(() => getComputedStyle(document.activeElement).outlineStyle);
  assert.equal(outline, "solid", "the focus is seen");
  await page.keyboard.press("/");
  await page.keyboard.type("shorten");
  await page.waitForFunction(() => document.querySelectorAll(".threads:not(.external) a.thread").length === 1);
  await page.keyboard.press("ArrowDown");
  await page.keyboard.press("Enter");
  await page.locator('.card[data-code="C4D5"]').waitFor();
  await page.waitForFunction(() => document.activeElement.getAttribute("aria-label") === "Reply");
  // Backwards from the reply box: stop, the choices, and the other card's buttons.
  const seen = [];
  for (let step = 0; step < 25 && !seen.includes("Allow once"); step += 1) {
    await page.keyboard.press("Shift+Tab");
    seen.push(await page.evaluate(() => document.activeElement.innerText || document.activeElement.value || ""));
  }
  assert.ok(seen.includes("Stop") && seen.includes("Allow once"), seen.join(" | "));
  await page.keyboard.press("Enter");
  await machine.heard("approve C4D5");
  await page.keyboard.press("Escape");
  assert.match(await focused(), /Please shorten/);
  await page.keyboard.press("n");
  await page.getByRole("dialog", { name: "New thread" }).waitFor();
  await page.keyboard.press("Escape");
  await page.getByRole("dialog").waitFor({ state: "detached" });
  await page.keyboard.press("r");
  await page.keyboard.type("by keys");
  await page.keyboard.press("Control+Enter");
  await machine.heard("by keys");
  await page.waitForFunction(() => document.querySelector("#announcer").innerText.includes("heard: by keys"));
});

test("the focus stays on its row when others move, and comes back to it from a dialog", async () => {
  const page = await signedIn({});
  const row = (title) => page.locator("a.thread", { hasText: title });
  const isFocused = (title) => row(title).evaluate((it) => it === document.activeElement);
  const below = (await page.locator("a.thread .thread-title").allTextContents())[1];
  const thread = (await row(below).getAttribute("href")).slice("#t/".length);
  await row(below).focus();
  await machine.say(thread, "It is now the first");
  await page.waitForFunction((title) => document.querySelector("a.thread .thread-title").textContent === title, below);
  assert.ok(await isFocused(below), "it moved up");
  await page.keyboard.press("n");
  await page.getByRole("dialog", { name: "New thread" }).waitFor();
  await machine.say(thread, "And says something else");
  await row(below).getByText("And says something else").waitFor();
  await page.keyboard.press("Escape");
  await page.getByRole("dialog").waitFor({ state: "detached" });
  assert.ok(await isFocused(below), "the dialog was opened from it");
});

test("on a phone the list leads to the conversation and back", async () => {
  const page = await signedIn({ viewport: PHONE, hasTouch: true });
  await page.locator("a.thread", { hasText: "Please shorten" }).tap();
  await page.getByRole("textbox", { name: "Reply" }).waitFor();
  assert.equal(await page.getByRole("navigation", { name: "Conversations" }).isVisible(), false);
  await page.getByRole("button", { name: "Back to the list" }).tap();
  await page.getByRole("navigation", { name: "Conversations" }).waitFor();
  assert.equal(await page.getByRole("textbox", { name: "Reply" }).isVisible(), false);
  await page.goBack();
  await page.getByRole("textbox", { name: "Reply" }).waitFor();
});

test("the page can be installed", async () => {
  const page = await signedIn({});
  const client = await page.context().newCDPSession(page);
  const { url, errors, manifest } = await client.send("Page.getAppManifest");
  assert.match(url, /manifest\.webmanifest$/);
  assert.deepEqual(errors, []);
  assert.ok(manifest ?? true);
  const { installabilityErrors } = await client.send("Page.getInstallabilityErrors");
  assert.deepEqual(installabilityErrors.map((it) => it.errorId).filter((it) => it !== "in-incognito"), []);
});
