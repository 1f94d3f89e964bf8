// The parts of the page that need no browser: what becomes of hostile texts, of streams in pieces, of numbers.
//
//   node parts.test.mjs

import assert from "node:assert/strict";
import { parser } from "../api.js";
import { places } from "../chart.js";
import { SEQUENCES } from "../consolelog.js";
import { rank } from "../guests.js";
import { shown, shownLines } from "../text.js";
import { bytes, percent, time } from "../words.js";

function check(what, work) {
  work();
  console.log(`ok      ${what}`);
}

const spaces = (text) => text.replaceAll("\u00a0", " ");

check("what cannot be seen is written out", () => {
  assert.equal(shown("a\u0000b\u001b[31mc\u007f\u009bd"), "a\\x00b\\x1b[31mc\\x7f\\x9bd");
  assert.equal(shown("gnp\u202eexe\u2066\u200b\ufeff"), "gnp\\u202eexe\\u2066\\u200b\\ufeff");
  assert.equal(shown("a\nb\tc\u2028d"), "a\\x0ab\\x09c\\u2028d");
  assert.equal(shown("\ud800 \u{e0041} \u3164"), "\\ud800 \\u{e0041} \\u3164");
  assert.equal(shown("M\u00fcller \u05e9 \u{1f600} caf\u00e9"), "M\u00fcller \u05e9 \u{1f600} caf\u00e9");
  assert.equal(shown(null), "");
});

check("lines of a log stay lines", () => {
  assert.equal(shownLines("a\r\r\nb\rc\td\u202e"), "a\nb\\x0dc\td\\u202e");
});

check("marks do not pile up, and nothing goes on for ever", () => {
  assert.equal(shown(`e${"\u0301".repeat(50)}x`), `e${"\u0301".repeat(4)}\ufffdx`);
  assert.equal(shown("x".repeat(1e6)).length, 20000);
});

check("no text takes long", () => {
  const size = 200000;
  for (const hostile of ["\r", "\x1b[", "\x1b]", "\x1b[0", "\x1b]0;", "\x1b ", "\u0301", "\u202e", "\ud800", "a\r"]) {
    const text = hostile.repeat(size / hostile.length);
    for (const whole of [text, `\x1b[${text}`.replaceAll("\x1b[\x1b", "\x1b["), `\x1b[${"0".repeat(size)}`]) {
      const begun = performance.now();
      shownLines(whole.replace(SEQUENCES, ""));
      shown(whole);
      assert.ok(performance.now() - begun < 1500, `${JSON.stringify(hostile)} took ${performance.now() - begun} ms`);
    }
  }
});

check("a stream in pieces is the stream", () => {
  const stream = ': hi\n\nevent: vm\ndata: {"name":\ndata: "web"}\r\n\r\nid: 7\nevent: event\ndata: {"id":7}\n\ndata: broken\n\nevent: gone\rdata:{"name":"db"}\r\rdata: {"late":1}\n';
  for (const size of [1, 2, 3, 7, stream.length]) {
    const heard = [];
    const parse = parser((kind, data, id) => heard.push([kind, data, id]));
    for (let at = 0; at < stream.length; at += size) parse(stream.slice(at, at + size));
    assert.deepEqual(heard, [["vm", { name: "web" }, null], ["event", { id: 7 }, "7"], ["gone", { name: "db" }, null]], `pieces of ${size}`);
  }
});

check("memory lies somewhere, all of it, also where this page does not know", () => {
  const memory = { configured_bytes: 1000, resident_bytes: 300, paged_out: [
    { name: "zeros", value: 50 }, { name: "repeating", value: 20 }, { name: "same_as_another", value: 30 },
    { name: "compressed_in_memory", value: 100 }, { name: "in_file", value: 40 }, { name: "on_the_moon", value: 60 }] };
  const found = places(memory);
  assert.deepEqual(found.map((place) => [place.id, place.bytes]), [
    ["resident", 300], ["compressed_in_memory", 100], ["same", 50], ["in_file", 40], ["zeros", 50], ["on_the_moon", 60], ["untouched", 400]]);
  assert.equal(found.reduce((sum, place) => sum + place.bytes, 0), 1000);
  assert.equal(places({ configured_bytes: 10, resident_bytes: 10 }).at(-1).bytes, 0);
});

check("contradictions come first", () => {
  const vm = (state, standing, more = {}) => ({ state, insight: standing ? { standing } : null, ...more });
  const ranks = [vm("running", "contradicts"), vm("died", null), vm("running", "fine", { trouble: "x" }), vm("running", "blind"),
    vm("running", "fine", { insight: { standing: "fine", worst: "differs" } }), vm("running", "fine"), vm("ended", null)].map(rank);
  assert.deepEqual(ranks, [0, 1, 1, 2, 3, 4, 5]);
});

check("numbers in words", () => {
  assert.deepEqual([0, 1023, 1536, 97521664, 268435456, null].map(bytes).map(spaces), ["0 B", "1023 B", "1.5 KiB", "93.0 MiB", "256 MiB", "not known"]);
  assert.deepEqual([0, 9.94, 61, 7500, 90000, null].map(time).map(spaces), ["0.0 s", "9.9 s", "1 min 01 s", "2 h 05 min", "1 d 1 h", "not known"]);
  assert.deepEqual([percent(1, 3), percent(1, 1e6), percent(1, 0)].map(spaces), ["33.3 %", "< 0.1 %", ""]);
});
