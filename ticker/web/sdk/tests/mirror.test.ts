import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { Backoff } from "../src/backoff.ts";
import { Interests, matches } from "../src/interests.ts";
import { Mirror } from "../src/mirror.ts";
import type { Quote, UpdateItem } from "../src/protocol.ts";
import { EventParser } from "../src/transports/sse.ts";

type Plain = { seq: number; n: number; bid: number | null; last: number | null };

describe("the mirror", () => {
  it("is the server's state whenever its chain is whole, whatever was lost on the way", () => {
    const change = fc.record({
      symbol: fc.constantFrom("A", "B"),
      ticks: fc.integer({ min: 1, max: 3 }),
      bid: fc.option(fc.integer()),
      last: fc.option(fc.integer()),
      lost: fc.boolean(),
      snapshot: fc.boolean(),
    });
    fc.assert(
      fc.property(fc.array(change, { maxLength: 60 }), (changes) => {
        const server = new Map<string, Plain>();
        const mirror = new Mirror();
        let seq = 0;
        for (const { symbol, ticks, bid, last, lost, snapshot } of changes) {
          const before = server.get(symbol);
          seq += ticks;
          const after: Plain = { seq, n: (before?.n ?? 0) + ticks, bid, last };
          server.set(symbol, after);
          if (lost) continue;
          if (before === undefined || snapshot) mirror.snapshot([{ symbol, ts: seq, ...after }]);
          else {
            const item: UpdateItem = { symbol, prev: before.seq, seq, n: ticks, ts: seq };
            const moved = { ...(bid === before.bid ? {} : { bid }), ...(last === before.last ? {} : { last }) };
            const { broken } = mirror.update([{ ...item, ...moved }]);
            for (const name of broken) expect(mirror.broken.has(name)).toBe(true);
          }
          if (!mirror.broken.has(symbol)) expect(mirror.quotes.get(symbol)).toMatchObject(after);
        }
        for (const [symbol, quote] of mirror.quotes) {
          if (mirror.broken.has(symbol)) mirror.snapshot([{ symbol, ts: 0, ...(server.get(symbol) as Plain) }]);
          expect(quote.seq).toBeLessThanOrEqual(server.get(symbol)?.seq ?? 0);
        }
      }),
    );
  });

  it("never changes a quote that it has given away", () => {
    const mirror = new Mirror();
    const held = Object.freeze({ symbol: "A", seq: 1, n: 1, ts: 1, bid: 1, vol: 2 }) as Quote;
    mirror.snapshot([held]);
    const { quotes } = mirror.update([{ symbol: "A", prev: 1, seq: 2, n: 1, ts: 2, bid: 2 }]);
    expect(quotes).toEqual([{ symbol: "A", seq: 2, n: 2, ts: 2, bid: 2 }]);
    expect(held.bid).toBe(1);
  });
});

describe("patterns", () => {
  it.each([
    ["*", "binance:BTC", true],
    ["B*", "BTC", true],
    ["B*", "ABTC", false],
    ["B?C", "BTC", true],
    ["B[TX]C", "BXC", true],
    ["B[!TX]C", "BXC", false],
    ["B[!TX]C", "BAC", true],
    ["a.b*", "axb1", false],
    ["a+b(*", "a+b(1", true],
    ["[z-a]", "m", false],
    ["x[", "x[", true],
  ])("%s and %s: %s", (pattern, symbol, expected) => {
    expect(matches(pattern, symbol)).toBe(expected);
  });

  it("of any make raise nothing", () => {
    fc.assert(fc.property(fc.string(), fc.string(), (pattern, symbol) => typeof matches(pattern, symbol) === "boolean"));
  });

  it("and names come to as few subscriptions as their terms allow", () => {
    const interests = new Interests();
    interests.add({ channel: "ticker", symbols: ["A", "B", "C*"], fields: ["bid"] });
    interests.add({ channel: "ticker", symbols: ["B"], fields: ["ask", "bid"], intervalMs: 50 });
    expect(interests.asks()).toEqual([
      { terms: { channel: "ticker", fields: ["bid"] }, symbols: ["A", "C*"] },
      { terms: { channel: "ticker", fields: ["bid", "ask"], interval_ms: 50 }, symbols: ["B"] },
    ]);
  });
});

describe("events", () => {
  it("are the same however the stream was cut", () => {
    const event = fc.record({ data: fc.array(fc.stringMatching(/^[ -~]*$/), { minLength: 1, maxLength: 3 }), id: fc.option(fc.stringMatching(/^[a-z]+$/)) });
    fc.assert(
      fc.property(fc.array(event), fc.constantFrom("\n", "\r\n", "\r"), fc.array(fc.nat(40)), (events, end, cuts) => {
        const text = events
          .map(({ data, id }) => [...(id === null ? [] : [`id: ${id}`]), "event: x", ...data.map((line) => `data: ${line}`), "", ""].join(end))
          .join("");
        const found: [string, string | null][] = [];
        const parser = new EventParser((data, id) => found.push([data, id]));
        let at = 0;
        for (const cut of cuts) {
          parser.push(text.slice(at, at + cut));
          at += cut;
        }
        parser.push(text.slice(at));
        parser.push(end === "\r" ? "\n" : ""); // a last \r might be half of a line's end
        expect(found).toEqual(events.map(({ data, id }) => [data.join("\n"), id]));
      }),
    );
  });
});

describe("the backoff", () => {
  it("doubles its window up to a ceiling, and waits at least as long as it is asked", () => {
    const backoff = new Backoff({ minMs: 500, maxMs: 3000, stableMs: 30_000 }, () => 1);
    expect([0, 0, 0, 0, 0].map((lived) => backoff.delayMs(lived))).toEqual([500, 1000, 2000, 3000, 3000]);
    expect(backoff.delayMs(30_000, 7000)).toBe(7500);
  });
});
