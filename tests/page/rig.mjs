// The real bridge, a browser in front of it, and what a test needs to stand between the two:
// a proxy that cuts the network, a human who calls the API, a machine that follows a script.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import fs from "node:fs";
import http from "node:http";
import net from "node:net";
import os from "node:os";
import path from "node:path";
import { chromium } from "playwright-core";

/** Enough for a cold start of anything on a busy machine. */
export const PATIENCE = 60_000;

const BINARY = process.env.OBTO_PAGE_BINARY;
const SHOTS = process.env.OBTO_PAGE_SCREENSHOTS;

/** What is kept of a program's words. */
const LINES_MAX = 2_000;

/** Undoes in reverse order what a test set up. */
export class Cleanup {
  #steps = [];

  add(step) {
    this.#steps.push(step);
  }

  /** A step that hangs must not keep the others from running. */
  async run() {
    for (const step of this.#steps.reverse()) {
      let timer;
      const late = new Promise((resolve) => (timer = setTimeout(resolve, 15_000)));
      await Promise.race([step(), late]);
      clearTimeout(timer);
    }
    this.#steps = [];
  }
}

/** A home directory with nothing in it. */
export function emptyHome(cleanup) {
  const dir = fs.mkdtempSync(path.join(os.tmpdir(), "obto-page-"));
  cleanup.add(() => fs.rmSync(dir, { recursive: true, force: true, maxRetries: 5 }));
  return dir;
}

/** A program of ours: its lines can be waited for, and it ends with the test. */
export class Program {
  #lines = [];
  #waiting = new Set();

  constructor(cleanup, args, { home, env = {}, program = BINARY, input = null }) {
    const base = { HOME: home, PATH: process.env.PATH, LANG: "C.UTF-8", TMPDIR: home };
    this.name = `${path.basename(program)} ${args[0] ?? ""}`;
    this.child = spawn(program, args, { cwd: home, env: { ...base, ...env }, stdio: [input ? "pipe" : "ignore", "pipe", "pipe"] });
    // An open input that says nothing keeps a program that ends with it.
    if (typeof input === "string") this.child.stdin.end(input);
    this.ended = new Promise((resolve) => this.child.once("exit", resolve));
    for (const stream of [this.child.stdout, this.child.stderr]) this.#read(stream);
    cleanup.add(() => this.stop());
  }

  #read(stream) {
    let rest = "";
    stream.setEncoding("utf8").on("data", (text) => {
      const lines = (rest + text).split("\n");
      rest = lines.pop();
      this.#lines.push(...lines);
      this.#lines.splice(0, this.#lines.length - LINES_MAX);
      for (const look of this.#waiting) look();
    });
  }

  /** The first match in what it has said or will say. */
  line(pattern) {
    return within(`a line of ${this.name} like ${pattern}`, (done) => {
      const look = () => {
        const match = this.#lines.map((it) => pattern.exec(it)).find(Boolean);
        if (match) done(match);
      };
      this.#waiting.add(look);
      look();
      return () => this.#waiting.delete(look);
    }, () => this.#lines.slice(-20).join("\n"));
  }

  async stop(signal = "SIGTERM") {
    if (this.child.exitCode === null && this.child.signalCode === null) this.child.kill(signal);
    const late = setTimeout(() => this.child.kill("SIGKILL"), 10_000);
    await this.ended;
    clearTimeout(late);
    if (SHOTS) fs.writeFileSync(path.join(SHOTS, `${this.name.replaceAll(/\W+/g, "-")}-${this.child.pid}.log`), this.#lines.join("\n"));
  }
}

/** A promise with a deadline. `begin` gets the way to fulfil it and gives back how to stop waiting. */
export function within(what, begin, more = () => "", patience = PATIENCE) {
  return new Promise((resolve, reject) => {
    let end = () => {};
    const timer = setTimeout(() => {
      end();
      reject(new Error(`waited ${patience} ms for ${what}\n${more()}`));
    }, patience);
    end = begin((value) => {
      clearTimeout(timer);
      end?.();
      resolve(value);
    }) ?? end;
  });
}

/** `obto-bridge serve` on a free port with an empty data directory. */
export async function startBridge(cleanup) {
  const home = emptyHome(cleanup);
  const program = new Program(cleanup, ["serve", "--listen", "127.0.0.1:0", "--data", path.join(home, "data")], { home });
  const [, url, code] = await program.line(/(http:\/\/[\w.:[\]]+)\/api\/view#welcome=(\S+)/);
  return { url, code, home, program };
}

export const PASSWORD = "correct horse battery";

/** Somebody who calls the API with a session, as the page does. */
export class Human {
  constructor(url) {
    this.url = url;
  }

  static async welcome(bridge) {
    const human = new Human(bridge.url);
    human.session = await human.post("/api/session/redeem", { code: bridge.code, password: PASSWORD });
    human.csrf = human.session.csrf;
    return human;
  }

  get(route) {
    return this.#call("GET", route);
  }

  post(route, body = {}) {
    return this.#call("POST", route, body);
  }

  async #call(method, route, body) {
    const headers = { Origin: new URL(this.url).origin };
    if (this.cookie) headers.Cookie = this.cookie;
    if (this.csrf) headers["X-CSRF-Token"] = this.csrf;
    const { status, answer, cookies } = await request(this.url + route, method, headers, body);
    if (cookies.length > 0) this.cookie = cookies.map((it) => it.split(";")[0]).join("; ");
    assert.equal(status, 200, `${method} ${route}: ${status} ${JSON.stringify(answer)}`);
    return answer;
  }

  /** Puts the session into a browser's jar. */
  async lend(context) {
    const cookies = this.cookie.split("; ").map((it) => it.split(/=(.*)/s));
    await context.addCookies(cookies.map(([name, value]) => ({ name, value, url: this.url, httpOnly: true, sameSite: "Strict" })));
  }
}

export function request(url, method, headers = {}, body) {
  return new Promise((resolve, reject) => {
    const text = body === undefined ? undefined : JSON.stringify(body);
    const all = text === undefined ? headers : { ...headers, "Content-Type": "application/json", "Content-Length": Buffer.byteLength(text) };
    const outgoing = http.request(url, { method, headers: all, timeout: PATIENCE }, (response) => {
      const parts = [];
      response.on("data", (part) => parts.push(part)).on("error", reject).on("end", () => {
        const whole = Buffer.concat(parts).toString();
        const answer = /json/.test(response.headers["content-type"] ?? "") ? JSON.parse(whole) : whole;
        resolve({ status: response.statusCode, answer, cookies: response.headers["set-cookie"] ?? [] });
      });
    });
    outgoing.on("timeout", () => outgoing.destroy(new Error(`${method} ${url} took too long`))).on("error", reject).end(text);
  });
}

/** Between browser and bridge. While it is cut nothing gets through, and nothing new is taken. */
export async function startProxy(cleanup, url) {
  const { hostname, port } = new URL(url);
  const sockets = new Set();
  let isCut = false;
  const server = net.createServer((browser) => {
    if (isCut) return browser.destroy();
    const bridge = net.connect(Number(port), hostname);
    for (const [socket, other] of [[browser, bridge], [bridge, browser]]) {
      sockets.add(socket);
      socket.on("error", () => {}).on("close", () => {
        sockets.delete(socket);
        other.destroy();
      });
      socket.pipe(other);
    }
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  const cut = () => {
    isCut = true;
    for (const socket of sockets) socket.destroy();
  };
  cleanup.add(() => {
    cut();
    server.close();
  });
  return { url: `http://127.0.0.1:${server.address().port}`, cut, mend: () => (isCut = false) };
}

export async function startBrowser(cleanup) {
  const args = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--force-device-scale-factor=1",
  ];
  const browser = await chromium.launch({ executablePath: process.env.OBTO_PAGE_CHROMIUM, args, timeout: PATIENCE });
  cleanup.add(() => browser.close());
  return browser;
}

/** A context whose pages report everything that must not happen. */
export async function newContext(cleanup, browser, options = {}) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 820 }, reducedMotion: "reduce", locale: "en-GB", ...options });
  context.setDefaultTimeout(PATIENCE);
  context.problems = [];
  context.on("page", (page) => {
    page.on("pageerror", (error) => context.problems.push(`${error.stack}`));
    page.on("dialog", (dialog) => {
      context.problems.push(`a dialog: ${dialog.message()}`);
      dialog.dismiss().catch(() => {});
    });
  });
  cleanup.add(() => context.close());
  return context;
}

/** Keeps a picture for people to look at; nothing compares it. */
export async function shot(page, name) {
  if (SHOTS) await page.screenshot({ path: path.join(SHOTS, `${name}.png`) });
}

/** The smallest PNG that is one: one grey point. */
export const PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR42mNoAAAAggCBTgXmTAAAAABJRU5ErkJggg==";

/** Gives the focused element a picture, as Ctrl+V after a screenshot does. */
export function pastePicture(locator, name = "shot.png") {
  return locator.evaluate((element, [data, name]) => {
    const bytes = Uint8Array.from(atob(data), (it) => it.charCodeAt(0));
    const transfer = new DataTransfer();
    transfer.items.add(new File([bytes], name, { type: "image/png" }));
    element.dispatchEvent(new ClipboardEvent("paste", { clipboardData: transfer, bubbles: true, cancelable: true }));
  }, [PIXEL, name]);
}
