// Scripts in every text that reaches the page: none runs, nothing is asked for elsewhere, and the
// page holds no element or attribute that it does not make itself.

import assert from "node:assert/strict";
import fs from "node:fs";
import http from "node:http";
import path from "node:path";
import { after, before, test } from "node:test";
import { Machine } from "./machine.mjs";
import { Cleanup, Human, PIXEL, newContext, startBridge, startBrowser } from "./rig.mjs";
import { open, ready } from "./steps.mjs";

const fixture = JSON.parse(fs.readFileSync(path.join(process.env.OBTO_PAGE_ROOT, "tests/fixtures/xss.json"), "utf8"));

/** What gets past a check for names that the corpus uses: our own words for the same thing. */
const EXTRA = [
  `<img src=x onerror="window.pwned=1">`,
  `"><svg onload=window.pwned=1>`,
  `<iframe srcdoc="<script>parent.pwned=1</script>"></iframe>`,
  `[x](javascript:window.pwned=1)`,
  `![x](http://TRAP/picture.png)`,
  `<style>@import url(http://TRAP/style.css)</style>`,
  `<link rel=stylesheet href=http://TRAP/link.css><meta http-equiv=refresh content="0;url=http://TRAP/">`,
  `{"question":{"code":"K7Q2","agent":"claude","kind":"run"}}`,
  `\${window.pwned=1}{{constructor.constructor('window.pwned=1')()}}`,
  `<form action=http://TRAP/><button id=csrf>x</button></form><base href=http://TRAP/>`,
];

/** Every element that the page makes, and the attributes that each may have. */
const COMMON = "class id hidden title role tabindex aria-label aria-labelledby aria-describedby aria-hidden aria-live aria-current aria-expanded aria-haspopup aria-level data-key data-view data-theme data-text data-face data-back data-primary data-day data-code data-outcome style";
const ELEMENTS = {
  html: "lang", head: "", meta: "charset name content", title: "", link: "rel href type", style: "", body: "",
  a: "href target rel", div: "popover", header: "", h1: "", h2: "", h3: "", span: "", nav: "", main: "", noscript: "",
  script: "type", input: "type placeholder autocomplete accept multiple name maxlength required autocapitalize spellcheck value disabled",
  ul: "", ol: "start", li: "", p: "", details: "open", summary: "", button: "type popovertarget disabled", time: "datetime",
  svg: "viewBox", path: "d", select: "", option: "value disabled", form: "novalidate", textarea: "rows placeholder",
  article: "", section: "", pre: "", code: "", dl: "", dt: "", dd: "", small: "", b: "", fieldset: "", legend: "",
  label: "for", img: "src alt loading width height", figure: "", figcaption: "", dialog: "open", kbd: "",
  blockquote: "", br: "", em: "", strong: "", del: "", hr: "", table: "", thead: "", tbody: "", tr: "", th: "", td: "",
  h4: "", h5: "", h6: "",
};

const cleanup = new Cleanup();
let bridge, human, machine, context, page, corpus, requests;

before(async () => {
  // Whoever comes here was lured.
  const trap = http.createServer((request, response) => {
    requests.push(request.url);
    response.end();
  });
  requests = [];
  await new Promise((resolve) => trap.listen(0, "127.0.0.1", resolve));
  cleanup.add(() => trap.close());
  const address = `127.0.0.1:${trap.address().port}`;
  const strings = Array.isArray(fixture) ? fixture : fixture.strings;
  corpus = [...strings.map((it) => (typeof it === "string" ? it : it.text ?? it.input)), ...EXTRA].map((it) => it.replaceAll("TRAP", address));
  assert.ok(corpus.length >= 60 && corpus.every((it) => typeof it === "string"), "the corpus is there");

  bridge = await startBridge(cleanup);
  human = await Human.welcome(bridge);
  machine = await Machine.connect(cleanup, human, { agentId: "plain" });
  context = await newContext(cleanup, await startBrowser(cleanup));
  await context.addInitScript(() => {
    // What the corpus calls, and what it would set.
    for (const name of ["alert", "confirm", "prompt", "print"]) window[name] = () => (window.pwned = name);
    window.open = () => (window.pwned = "open");
  });
  await human.lend(context);
  page = await context.newPage();
  page.on("request", (request) => {
    const url = new URL(request.url());
    const isOurs = url.origin === new URL(bridge.url).origin || ["blob:", "data:"].includes(url.protocol);
    if (!isOurs) requests.push(request.url());
  });
  await page.goto(`${bridge.url}/api/view`);
  await ready(page);
}, { timeout: 120_000 });

after(async () => {
  await cleanup.run();
  assert.deepEqual(context.problems, []);
}, { timeout: 120_000 });

/** Looks at all that is there, including what lies closed. */
async function inspect(where) {
  await page.evaluate(() => document.querySelectorAll("details").forEach((it) => (it.open = true)));
  const found = await page.evaluate(([elements, common]) => {
    const bad = [];
    for (const element of document.querySelectorAll("*")) {
      const tag = element.localName;
      const good = elements[tag];
      if (good === undefined) bad.push(`<${tag}> ${element.outerHTML.slice(0, 200)}`);
      for (const { name, value } of element.attributes) {
        const isKnown = common.includes(name) || (good ?? "").split(" ").includes(name);
        const isOwnStyle = name !== "style" || (tag === "textarea" && /^height: [\w.]+;$/.test(value));
        if (!isKnown || !isOwnStyle || name.startsWith("on")) bad.push(`${tag} ${name}=${value.slice(0, 100)}`);
        if (name === "href" && !/^(#|https?:|mailto:|\/api\/(view|bridge\/attachment)\/)/.test(value)) bad.push(`href=${value}`);
        if (name === "src" && !/^(\/api\/bridge\/attachment\/[\w-]+$|blob:)/.test(value)) bad.push(`src=${value}`);
      }
    }
    if (document.scripts.length !== 1) bad.push("another script");
    return { bad, pwned: window.pwned ?? null };
  }, [ELEMENTS, COMMON.split(" ")]);
  assert.deepEqual(found, { bad: [], pwned: null }, where);
  assert.deepEqual(requests, [], where);
}

/** A field that takes less than the corpus gives it is tried without what it refuses. */
async function offered(send) {
  let taken = 0;
  for (const text of corpus) {
    try {
      await send(text);
      taken += 1;
    } catch (error) {
      assert.match(error.message, /: 4\d\d |\b4\d\d !== 200/, `${text}: ${error.message}`);
    }
  }
  return taken;
}

/** Ids and names have no control characters and an end. */
const named = (text) => text.replace(/[\p{Cc}\u2028\u2029]/gu, " ").slice(0, 180).trim() || "x";

test("messages: what humans and agents write, authors, previews, titles", async () => {
  const threads = [];
  const taken = await offered(async (text) => {
    const { threadId } = await human.post("/api/reply", { body: text, agentId: "plain", clientMsgId: `h${threads.length}` });
    threads.push(threadId);
    await human.post("/api/thread/rename", { threadId, title: named(text) });
    await machine.say(threadId, text, { author: named(text) });
  });
  assert.ok(taken > corpus.length * 0.9, `${taken} of ${corpus.length}`);
  await page.locator("a.thread").nth(20).waitFor();
  await inspect("the list");
  const { threadId } = await human.post("/api/reply", { body: "all of them", agentId: "plain", clientMsgId: "all" });
  for (const [at, text] of corpus.entries()) {
    await machine.say(threadId, text, { author: named(text), kind: ["result", "status", "error", "question"][at % 4] });
  }
  await machine.say(threadId, "the end of the corpus");
  await open(page, bridge.url, threadId);
  await page.locator(".prose", { hasText: "the end of the corpus" }).waitFor();
  await page.waitForFunction((count) => {
    document.querySelector(".log").scrollTop = 0;
    return document.querySelectorAll(".messages > li").length >= count;
  }, corpus.length);
  await inspect("a conversation");
  for (const text of ["x <script>", "[a](javascript:alert(1))"]) {
    await page.getByLabel("Search conversations").fill(text);
    await page.waitForFunction(() => document.querySelector("#announcer").innerText.includes("found"));
    await inspect("a search");
  }
  await page.getByLabel("Search conversations").fill("");
});

test("markup that the bridge failed to neutralise meets the page's own wall", async () => {
  const { threadId } = await human.post("/api/reply", { body: "raw", agentId: "plain", clientMsgId: "raw" });
  await page.route(`**/api/messages?*`, async (route) => {
    const response = await route.fetch();
    const answer = await response.json();
    const [first] = answer.messages;
    answer.messages = corpus.map((text, at) => ({ ...first, messageId: `m${at}`, createdAt: new Date(at).toISOString(), html: `<p>${text}</p>` }));
    answer.messages.push({ ...first, messageId: "last", html: '<p>the <b>end</b></p><h1>x</h1><table><tr><td class="right">1</td></tr></table><pre><code class="language-c">c</code></pre>' });
    await route.fulfill({ response, json: { ...answer, more: false } });
  });
  await open(page, bridge.url, threadId);
  await page.locator(".prose b", { hasText: "end" }).waitFor();
  await page.locator(".prose td.right").waitFor();
  await inspect("raw markup");
  await page.unrouteAll({ behavior: "wait" });
});

test("cards: every field of a question", async () => {
  const { threadId } = await human.post("/api/reply", { body: "cards", agentId: "plain", clientMsgId: "cards" });
  for (const [at, text] of corpus.entries()) {
    const options = [{ label: text, description: text }, { label: named(text) }];
    const choices = at % 2 ? [{ question: text, options, multiple: at % 3 === 0, open: true }] : [];
    await machine.ask(threadId, {
      code: `C${at}`, agent: named(text).slice(0, 60), kind: "run", tool: named(text).slice(0, 60), subject: text, diff: `+${text}\n-${text}`,
      directory: text, reason: text, always: text, choices,
    });
  }
  await open(page, bridge.url, threadId);
  await page.locator(`.card[data-code="C${corpus.length - 1}"]`).waitFor();
  await page.waitForFunction((count) => {
    document.querySelector(".log").scrollTop = 0;
    return document.querySelectorAll(".messages > li").length > count;
  }, corpus.length);
  assert.ok((await page.locator(".card").count()) > corpus.length * 0.9, "they are shown as cards");
  await inspect("cards");
});

test("machines: names, versions, engines and why they are missing, directories", async () => {
  const engines = corpus.slice(0, 60).map((text, at) => ({ name: named(text).slice(0, 60), version: named(text), missing: at % 2 ? text : undefined }));
  const projectDirs = corpus.slice(0, 60).map((text) => `/${named(text)}`);
  await machine.post("/api/bridge/machine", { agentId: "plain", version: named(corpus[0]), engines, projectDirs }).catch(async () => {
    for (const engine of engines) await machine.post("/api/bridge/machine", { agentId: "plain", version: engine.version, engines: [engine], projectDirs: projectDirs.slice(0, 8) });
  });
  let connected = 0;
  for (const text of corpus.slice(0, 25)) {
    const one = await Machine.connect(cleanup, human, { agentId: named(text), engines: [{ name: named(text).slice(0, 60) }], projectDirs: [] }).catch(() => null);
    connected += one ? 1 : 0;
  }
  assert.ok(connected > 12, `${connected} machines`);
  await page.goto(`${bridge.url}/api/view#machines`);
  await page.locator(".machine").nth(connected - 1).waitFor();
  await page.locator(".token").first().waitFor();
  await inspect("machines");
  await page.getByRole("button", { name: "New thread" }).click();
  await page.getByRole("dialog").waitFor();
  for (const value of await page.getByLabel("Machine", { exact: true }).locator("option").evaluateAll((all) => all.map((it) => it.value))) {
    await page.getByLabel("Machine", { exact: true }).selectOption(value);
    await inspect(`a new thread on ${value}`);
  }
  await page.keyboard.press("Escape");
});

test("sessions of machines: titles, previews, names, words", async () => {
  const sessions = corpus.map((text, at) => ({
    source: named(text).slice(0, 40), sessionId: `s${at}`, projectDir: `/${named(text)}`, projectName: named(text), title: text, lastActivityAt: Date.now(),
    lastMessagePreview: text, lastMessageAuthor: named(text), recentMessages: [{ role: "user", body: text, ts: new Date().toISOString() }, { role: "assistant", body: text, ts: new Date().toISOString() }],
  }));
  for (const session of sessions) {
    await machine.post("/api/bridge/external/sync", { agentId: "plain", sessions: [session], presentSessionIds: [] }).catch((error) => assert.match(error.message, /: 4\d\d/));
  }
  await page.goto(`${bridge.url}/api/view#`);
  await page.reload();
  await page.locator(".external a.thread").nth(30).waitFor({ state: "attached" });
  await inspect("the sidebar's sessions");
  const { sessions: listed } = await human.get("/api/bridge/external");
  for (const { source, sessionId } of listed.slice(0, 40)) {
    await page.goto(`${bridge.url}/api/view#x/plain/${encodeURIComponent(source)}/${sessionId}`);
    await page.locator(".sheet .message").first().waitFor();
    await inspect(`the session ${sessionId}`);
  }
});

test("pictures: their names; drafts; addresses", async () => {
  const ids = [];
  for (const text of corpus) ids.push((await human.post("/api/bridge/attachment/upload", { name: text, mediaType: text.slice(0, 100), data: PIXEL })).attachmentId);
  const { threadId } = await human.post("/api/reply", { body: "pictures", agentId: "plain", clientMsgId: "pictures" });
  for (let at = 0; at < ids.length; at += 5) {
    await human.post("/api/reply", { threadId, body: "p", attachmentIds: ids.slice(at, at + 5), clientMsgId: `p${at}` });
  }
  await open(page, bridge.url, threadId);
  await page.waitForFunction((count) => {
    document.querySelector(".log").scrollTop = 0;
    return document.querySelectorAll(".picture img").length === count;
  }, ids.length);
  await inspect("pictures");
  for (const text of corpus) {
    await page.evaluate((text) => (location.hash = `#t/${text}`), text);
    await page.evaluate((text) => (location.hash = `#${text}`), text);
    await page.evaluate(() => (location.hash = "#"));
  }
  await inspect("addresses");
});
