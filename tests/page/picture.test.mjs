// The picture in README.md: docs/page.png is a copy of what this test leaves in the screenshots.

import assert from "node:assert/strict";
import { after, test } from "node:test";
import { Machine } from "./machine.mjs";
import { Cleanup, Human, newContext, shot, startBridge, startBrowser } from "./rig.mjs";

const cleanup = new Cleanup();
after(() => cleanup.run(), { timeout: 120_000 });

test("a question waits on a phone", async () => {
  const bridge = await startBridge(cleanup);
  const human = await Human.welcome(bridge);
  const engines = [{ name: "claude", version: "2.1.197" }];
  const machine = await Machine.connect(cleanup, human, { agentId: "workshop", engines, projectDirs: ["/home/ann/shop"], quiet: true });
  const threadId = "picture";
  const body = "The checkout test fails since this morning. Can you find out why and fix it?";
  await human.post("/api/reply", { threadId, body, agent: "claude", projectDir: "/home/ann/shop" });
  await machine.heard(body);
  await machine.post("/api/bridge/thread/claim", { threadId, agentId: "workshop" });
  await machine.activity(threadId, "working");
  const found = "Found it: `parse_price` takes the comma of `12,50` for the end of the number, since the shop's locale changed.";
  await machine.say(threadId, found, { kind: "status", author: "claude-bridge" });
  await machine.ask(threadId, {
    agent: "claude", kind: "edit", tool: "Edit", subject: "src/price.py", directory: "/home/ann/shop", reason: "read both separators",
    always: "edit(src/price.py)", diff: "@@ -12 +12 @@\n-    return float(text)\n+    return float(text.replace(\",\", \".\"))",
  });
  const phone = { viewport: { width: 390, height: 900 }, deviceScaleFactor: 2, isMobile: true, hasTouch: true };
  const context = await newContext(cleanup, await startBrowser(cleanup), phone);
  await human.lend(context);
  const page = await context.newPage();
  await page.goto(`${bridge.url}/api/view#t/${threadId}`);
  await page.locator(".card").getByRole("button", { name: "Allow once" }).waitFor();
  await shot(page, "phone");
  assert.deepEqual(context.problems, []);
});
