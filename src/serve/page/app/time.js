// Times for people. The server's clock counts: a phone's may be minutes off.

const clock = { offset: 0 };

/** `serverTime` is RFC 3339. */
function setClock(serverTime) {
  const at = Date.parse(serverTime);
  if (!Number.isNaN(at)) clock.offset = at - Date.now();
}

const now = () => Date.now() + clock.offset;

const [MINUTE, HOUR, DAY] = [60_000, 3_600_000, 86_400_000];

/** "now", "5 min", "3 h", "2 d", then a date. */
function age(time) {
  const at = Date.parse(time);
  if (Number.isNaN(at)) return "";
  const passed = now() - at;
  if (passed < MINUTE) return "now";
  if (passed < HOUR) return `${Math.floor(passed / MINUTE)} min`;
  if (passed < DAY) return `${Math.floor(passed / HOUR)} h`;
  if (passed < 7 * DAY) return `${Math.floor(passed / DAY)} d`;
  return new Date(at).toLocaleDateString(undefined, { day: "numeric", month: "short" });
}

/** "0:07", "12:30", "1:02:03". */
function clockTime(milliseconds) {
  const seconds = Math.max(0, Math.floor(milliseconds / 1000));
  const [h, m, s] = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60, seconds % 60];
  const two = (number) => String(number).padStart(2, "0");
  return h > 0 ? `${h}:${two(m)}:${two(s)}` : `${m}:${two(s)}`;
}

/** A `<time>` that stays true: `tick` renews its text. */
function timeElement(time, show = age) {
  const element = make("time", { datetime: time }, show(time));
  const at = Date.parse(time);
  if (!Number.isNaN(at)) element.title = new Date(at).toLocaleString();
  element.renew = () => {
    const text = show(time);
    if (element.textContent !== text) element.textContent = text;
  };
  return element;
}

/** Everything on the page that shows a time, once a second. */
function tick() {
  for (const element of document.querySelectorAll("time")) element.renew?.();
}
