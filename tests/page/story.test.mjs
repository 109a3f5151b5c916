// The way of a person who starts a bridge for the first time, told once, with the real programs:
// the bridge, a daemon with the echo agent, and two tabs.

import assert from "node:assert/strict";
import fs from "node:fs";
import path from "node:path";
import { after, before, test } from "node:test";
import { Cleanup, Program, emptyHome, newContext, pastePicture, shot, startBridge, startBrowser, startProxy } from "./rig.mjs";
import { begin, expectMessages, message, ready, redeem, say, signIn } from "./steps.mjs";

const cleanup = new Cleanup();
let bridge, proxy, context, page, second;

before(async () => {
  bridge = await startBridge(cleanup);
  proxy = await startProxy(cleanup, bridge.url);
  context = await newContext(cleanup, await startBrowser(cleanup));
  page = await context.newPage();
}, { timeout: 120_000 });

after(async () => {
  await cleanup.run();
  assert.deepEqual(context.problems, []);
}, { timeout: 120_000 });

/** What the echo agent answers. */
const echo = (text) => new RegExp(`You said: ${text}`);

test("the one-time link sets the password and signs in, once", async () => {
  await page.goto(`${bridge.url}/api/view`);
  await page.getByRole("heading", { name: "Sign in" }).waitFor();
  await shot(page, "sign-in");
  await redeem(page, proxy.url, bridge.code);
  assert.equal(await page.evaluate(() => location.hash), "", "the code is not kept in the address");
  const other = await context.browser().newContext();
  const late = await other.newPage();
  await late.goto(`${bridge.url}/api/view#welcome=${bridge.code}`);
  await late.getByLabel("New password").fill("another password");
  await late.getByLabel("The same again").fill("another password");
  await late.getByRole("button", { name: "Set the password" }).click();
  await late.getByRole("alert").getByText(/used already|too old/).waitFor();
  await other.close();
});

test("a machine is connected by the line that the page shows", async () => {
  await page.getByRole("button", { name: "Machines" }).click();
  await page.getByRole("button", { name: "Make a token" }).click();
  const line = await page.locator(".made code").last().innerText();
  const home = emptyHome(cleanup);
  fs.mkdirSync(path.join(home, "project"));
  const bin = path.dirname(process.env.OBTO_PAGE_BINARY);
  const env = { PATH: `${bin}:${process.env.PATH}` };
  const init = new Program(cleanup, ["-c", line], { home, env, program: "/bin/sh" });
  assert.equal(await init.ended, 0);
  const file = path.join(home, ".obto-bridge/config.json");
  const command = [process.env.OBTO_PAGE_BINARY, "echo-agent"];
  const config = {
    ...JSON.parse(fs.readFileSync(file, "utf8")),
    baseUrl: bridge.url, agentId: "workshop", projectDir: path.join(home, "project"), agent: "parrot",
    agents: { parrot: { command }, parakeet: { command } },
  };
  fs.writeFileSync(file, JSON.stringify(config), { mode: 0o600 });
  new Program(cleanup, ["start"], { home, env });
  const box = page.getByRole("region", { name: "workshop" });
  await box.getByText("parrot").first().waitFor();
  await box.getByText("Connected").waitFor();
});

test("a new thread is answered without a reload, and shows in a second tab", async () => {
  await begin(page, { machine: "workshop", agent: "parrot", text: "first words" });
  await expectMessages(page, ["first words", echo("first words")]);
  second = await context.newPage();
  await second.goto(`${proxy.url}/api/view${await page.evaluate(() => location.hash)}`);
  await expectMessages(second, ["first words", echo("first words")]);
  await say(second, "from the second tab");
  const all = ["first words", echo("first words"), "from the second tab", echo("from the second tab")];
  await expectMessages(page, all);
  await expectMessages(second, all);
});

test("a reload keeps everything", async () => {
  await page.reload();
  await expectMessages(page, ["first words", echo("first words"), "from the second tab", echo("from the second tab")]);
});

test("ten seconds without network lose nothing and double nothing", async () => {
  await say(page, "before the cut");
  await message(page, "You said: before the cut").waitFor();
  proxy.cut();
  const back = Date.now() + 10_000;
  await say(page, "written in the dark");
  await page.getByText("It is sent as soon as the bridge is back.").waitFor();
  assert.equal(await page.getByRole("textbox", { name: "Reply" }).inputValue(), "written in the dark");
  await page.getByText("The bridge can't be reached. Trying again").waitFor();
  await shot(page, "offline");
  // What happens meanwhile, seen by somebody whose network is there.
  const elsewhere = await newContext(cleanup, context.browser());
  const other = await elsewhere.newPage();
  await signIn(other, bridge.url);
  await other.goto(`${bridge.url}/api/view${await page.evaluate(() => location.hash)}`);
  await message(other, "You said: before the cut").waitFor();
  await say(other, "said meanwhile");
  await message(other, "You said: said meanwhile").waitFor();
  assert.equal(await message(page, "said meanwhile").count(), 0);
  await other.waitForFunction((time) => Date.now() >= time, back);
  proxy.mend();
  await page.getByText("The bridge can't be reached. Trying again").waitFor({ state: "hidden" });
  const all = [
    "first words", echo("first words"), "from the second tab", echo("from the second tab"),
    "before the cut", echo("before the cut"), "said meanwhile", echo("said meanwhile"),
    "written in the dark", echo("written in the dark"),
  ];
  for (const tab of [page, second, other]) await expectMessages(tab, all);
  assert.equal(await page.getByRole("textbox", { name: "Reply" }).inputValue(), "");
  await elsewhere.close();
});

test("a machine that slept and comes back reads what it missed", async () => {
  // A frozen page: its stream dies and no timer of it runs, until it is looked at again.
  const client = await context.newCDPSession(second);
  await client.send("Page.setWebLifecycleState", { state: "frozen" });
  await say(page, "while it slept");
  await message(page, "You said: while it slept").waitFor();
  await client.send("Page.setWebLifecycleState", { state: "active" });
  await message(second, "You said: while it slept").waitFor();
  assert.equal(await message(second, "You said: while it slept").count(), 1);
  await second.close();
});

test("the agent is switched", async () => {
  await page.getByLabel("Agent of this thread").selectOption("parakeet");
  await say(page, "who are you");
  const answer = page.locator(".message.agent", { hasText: "You said: who are you" });
  await answer.waitFor();
  assert.equal(await answer.locator(".author").innerText(), "parakeet");
});

test("a picture is pasted and sent", async () => {
  const box = page.getByRole("textbox", { name: "Reply" });
  await pastePicture(box);
  await page.locator(".chip img").waitFor();
  await page.waitForFunction(() => !document.querySelector(".chip small"));
  await shot(page, "picture");
  await say(page, "what is on it");
  const picture = page.locator(".message.human .picture img").last();
  await picture.waitFor();
  await page.waitForFunction(() => [...document.querySelectorAll(".picture img")].at(-1)?.naturalWidth === 1);
  assert.equal(await page.locator(".chip").count(), 0);
  const answer = page.locator(".message.agent", { hasText: "You said: what is on it" });
  await answer.waitFor();
});

test("a draft survives a reload", async () => {
  await page.getByRole("textbox", { name: "Reply" }).fill("half a thought");
  await page.reload();
  await ready(page);
  await message(page, "You said: what is on it").waitFor();
  assert.equal(await page.getByRole("textbox", { name: "Reply" }).inputValue(), "half a thought");
  await page.getByRole("textbox", { name: "Reply" }).fill("");
});

test("older messages come by scrolling, and the place is kept", async () => {
  for (let round = 0; round < 45; round += 1) {
    await say(page, `line ${round}`);
    await message(page, `You said: line ${round}`).first().waitFor();
  }
  await message(page, "You said: line 44").waitFor();
  await page.reload();
  await message(page, "You said: line 44").waitFor();
  assert.equal(await message(page, "first words").count(), 0, "only the newest are read at first");
  const line = page.locator(".message.human .prose", { hasText: "line 40" });
  const place = () => line.evaluate((it) => it.getBoundingClientRect().top - it.closest(".log").getBoundingClientRect().top);
  await line.scrollIntoViewIfNeeded();
  const count = await page.locator(".messages > li").count();
  const before = await place();
  const moved = await page.locator(".log").evaluate((it) => {
    const from = it.scrollTop;
    it.scrollTop = Math.min(from, 400);
    return from - it.scrollTop;
  });
  await page.waitForFunction((count) => document.querySelectorAll(".messages > li").length > count, count);
  assert.ok(Math.abs((await place()) - before - moved) < 3, "what was read stands where it stood");
  await page.waitForFunction(() => {
    const log = document.querySelector(".log");
    log.scrollTop = 0;
    return document.querySelector(".messages > li")?.innerText.includes("first words");
  });
  const texts = await page.locator(".messages > li").evaluateAll((items) => items.map((it) => it.dataset.key));
  assert.equal(new Set(texts).size, texts.length, "nothing is shown twice");
});

test("signing out leaves nothing behind", async () => {
  await page.getByRole("button", { name: "Account" }).click();
  await page.getByRole("button", { name: "Sign out" }).click();
  await page.getByRole("heading", { name: "Sign in" }).waitFor();
  assert.equal(await page.locator(".thread, .message, .machine").count(), 0);
  await page.reload();
  await page.getByRole("heading", { name: "Sign in" }).waitFor();
});
