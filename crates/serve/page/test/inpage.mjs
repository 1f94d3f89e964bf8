// Functions that run inside of the page. Each stands alone, as it is sent there as text.

/** Texts whose contrast with what is behind them is below `least`, at most ten. */
export function poorContrast(least) {
  const numbers = (colour) => {
    const parts = colour.match(/[\d.]+/g)?.map(Number) ?? [0, 0, 0, 0];
    const scale = colour.startsWith("color(") ? 255 : 1;
    return [parts[0] * scale, parts[1] * scale, parts[2] * scale, parts[3] ?? 1];
  };
  const over = (top, under) => [0, 1, 2].map((i) => top[i] * top[3] + under[i] * (1 - top[3])).concat(1);
  const light = (colour) => {
    const part = (value) => (value / 255 <= 0.04045 ? value / 255 / 12.92 : ((value / 255 + 0.055) / 1.055) ** 2.4);
    return 0.2126 * part(colour[0]) + 0.7152 * part(colour[1]) + 0.0722 * part(colour[2]);
  };
  const behind = (element) => {
    const layers = [];
    for (let at = element; at; at = at.parentElement) layers.push(numbers(getComputedStyle(at).backgroundColor));
    const dark = matchMedia("(prefers-color-scheme: dark)").matches;
    return layers.reverse().reduce((under, top) => over(top, under), dark ? [18, 18, 18, 1] : [255, 255, 255, 1]);
  };
  const poor = [];
  const seen = new Set();
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode() && poor.length < 10) {
    const element = walker.currentNode.parentElement;
    if (walker.currentNode.data.trim() === "" || seen.has(element)) continue;
    seen.add(element);
    if (element.closest(".xterm, .unseen, [hidden], title, script, svg") || element.getClientRects().length === 0) continue;
    const back = behind(element);
    const front = over(numbers(getComputedStyle(element).color), back);
    const [a, b] = [light(front), light(back)].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < least) poor.push(`${ratio.toFixed(2)} "${walker.currentNode.data.trim().slice(0, 30)}" ${element.className || element.tagName}`);
  }
  return poor;
}

/** What a text made that a text must not make, and characters that must not be there as they are. */
export function harm() {
  const main = document.getElementById("main");
  const made = [...main.querySelectorAll("img, script, iframe, object, embed, b, i, marquee, style, link, base, form[action], svg a, [onerror], [onload], [onclick]")]
    .filter((element) => !element.closest(".xterm")).map((element) => element.tagName);
  // eslint-disable-next-line no-control-regex
  const raw = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/.exec(main.textContent);
  if (raw) made.push(`a raw U+${raw[0].codePointAt(0).toString(16)}`);
  return made;
}

/** What is wider than the window. */
export function tooWide() {
  const width = document.documentElement.clientWidth;
  if (document.documentElement.scrollWidth <= width && document.body.scrollWidth <= width) return null;
  const wide = [...document.querySelectorAll("body *")].filter((element) => element.getBoundingClientRect().right > width + 1 && !element.closest(".scroll, .xterm, [role=tablist]"));
  return `${document.documentElement.scrollWidth} of ${width}: ${wide.slice(0, 4).map((element) => `${element.tagName}.${element.className}`).join(", ")}`;
}
