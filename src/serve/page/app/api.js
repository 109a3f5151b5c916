// Requests to the bridge. Who we are is in a cookie that scripts can't read; what changes something
// carries the session's token against forged requests, too.

const REQUEST_MS = 30_000;
const UPLOAD_MS = 180_000;

/** The bridge refused, or was not reached: then `status` is 0. */
class ApiError extends Error {
  constructor(status, text) {
    super(text);
    this.status = status;
  }

  /** Whether the same request may work later. */
  get isPassing() {
    return this.status === 0 || this.status === 429 || this.status >= 500;
  }
}

const api = {
  csrf: "",
  /** Called when the session is over. */
  onSignedOut: () => {},

  get(path, query = {}) {
    const given = Object.entries(query).filter(([, value]) => value !== undefined && value !== null && value !== "");
    const search = new URLSearchParams(given).toString();
    return this.request("GET", search ? `${path}?${search}` : path);
  },

  async post(path, body = {}, milliseconds = REQUEST_MS) {
    try {
      return await this.request("POST", path, body, milliseconds);
    } catch (error) {
      // Another tab may have signed in anew; then the token is another one.
      if (error.status !== 403 || !this.csrf || path.startsWith("/api/session")) throw error;
      const before = this.csrf;
      await this.session();
      if (this.csrf === before) throw error;
      return this.request("POST", path, body, milliseconds);
    }
  },

  async session() {
    const session = await this.request("GET", "/api/session");
    this.csrf = asText(session.csrf);
    return session;
  },

  async request(method, path, body, milliseconds = REQUEST_MS) {
    const headers = { Accept: "application/json" };
    if (method === "POST") {
      headers["Content-Type"] = "application/json";
      if (this.csrf) headers["X-CSRF-Token"] = this.csrf;
    }
    let response, answer;
    try {
      response = await fetch(path, {
        method,
        headers,
        body: method === "POST" ? JSON.stringify(body) : undefined,
        credentials: "same-origin",
        cache: "no-store",
        signal: AbortSignal.timeout(milliseconds),
      });
      answer = await response.json().catch(() => ({}));
    } catch {
      throw new ApiError(0, "The bridge can't be reached.");
    }
    if (response.ok && answer.ok !== false) return answer;
    const isSignIn = path === "/api/session" || path === "/api/session/redeem" || path === "/api/account/password";
    if (response.status === 401 && !isSignIn) this.onSignedOut();
    throw new ApiError(response.status, asText(answer.error) || `The bridge answered ${response.status}.`);
  },
};
