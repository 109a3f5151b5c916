// What people do on the page, by what they see of it: labels, names and roles.

import assert from "node:assert/strict";
import { PASSWORD, PATIENCE } from "./rig.mjs";

/** The one-time link: a new password, and in. */
export async function redeem(page, url, code) {
  await page.goto(`${url}/api/view#welcome=${code}`);
  await page.getByLabel("New password").fill(PASSWORD);
  await page.getByLabel("The same again").fill(PASSWORD);
  await page.getByRole("button", { name: "Set the password and go in" }).click();
  await ready(page);
}

export async function signIn(page, url, name = "owner") {
  await page.goto(`${url}/api/view`);
  await page.getByLabel("Name").fill(name);
  await page.getByLabel("Password").fill(PASSWORD);
  await page.getByRole("button", { name: "Sign in" }).click();
  await ready(page);
}

/** Signed in, and what there is to list is listed. */
export const ready = (page) => page.getByRole("navigation", { name: "Conversations" }).waitFor();

/** Through the dialog. Gives back the new thread's id. */
export async function begin(page, { machine, agent, text }) {
  await page.getByRole("button", { name: "New thread" }).first().click();
  const dialog = page.getByRole("dialog", { name: "New thread" });
  if (machine) await dialog.getByLabel("Machine", { exact: true }).selectOption(machine);
  if (agent) await dialog.getByRole("radio", { name: agent }).check();
  await dialog.getByLabel("Message").fill(text);
  const before = await page.evaluate(() => location.hash);
  await dialog.getByRole("button", { name: "Start" }).click();
  await page.waitForFunction((hash) => location.hash !== hash && location.hash.startsWith("#t/"), before);
  return decodeURIComponent((await page.evaluate(() => location.hash)).slice(3));
}

export async function say(page, text) {
  await page.getByRole("textbox", { name: "Reply" }).fill(text);
  await page.keyboard.press("Control+Enter");
}

export const open = (page, url, threadId) => page.goto(`${url}/api/view#t/${encodeURIComponent(threadId)}`);

/** All messages that are shown, as text. */
export const shown = (page) => page.locator(".messages .message .prose").allInnerTexts();

export const message = (page, text) => page.locator(".messages .message .prose", { hasText: text });

/** Waits until the messages are these and no others; a string must be equal, a pattern fit. */
export async function expectMessages(page, wanted, patience = PATIENCE) {
  const deadline = Date.now() + patience;
  for (;;) {
    const texts = (await shown(page)).map((it) => it.trim());
    const fits = texts.length === wanted.length && wanted.every((it, at) => (it instanceof RegExp ? it.test(texts[at]) : it === texts[at]));
    if (fits) return;
    if (Date.now() > deadline) assert.fail(`the page shows\n${JSON.stringify(texts, null, 1)}\nand not\n${wanted.join("\n")}`);
    // Woken by the next change of the page, or by a tick.
    await page.waitForFunction((before) => document.querySelector(".messages")?.innerText !== before, await page.locator(".messages").innerText(), { timeout: 500 }).catch(() => {});
  }
}
