import type { Feed, Quote } from "@ticker/sdk";
import { describe, expect, it } from "vitest";
import { readColumns, SHOWN_AT_FIRST, sorted } from "../src/columns";
import * as format from "../src/format";
import { change, type Lists, readLists } from "../src/lists";
import { Market, pathOf } from "../src/market";
import { addressOf, shared } from "../src/share";
import { keeper } from "../src/storage";

const LISTS: Lists = { lists: [{ name: "One", symbols: ["A", "B", "C"] }], active: 0 };
const symbols = ({ lists, active }: Lists): readonly string[] => lists[active]?.symbols ?? [];

describe("lists", () => {
  it("take each symbol once, and nothing that is no symbol", () => {
    expect(symbols(change(LISTS, { type: "add", symbols: ["B", "D", "two words", "", "x".repeat(65)] }))).toEqual(["A", "B", "C", "D"]);
  });

  it("are put in order by steps and by dropping", () => {
    expect(symbols(change(LISTS, { type: "move", symbol: "C", by: -1 }))).toEqual(["A", "C", "B"]);
    expect(change(LISTS, { type: "move", symbol: "A", by: -1 })).toBe(LISTS);
    expect(symbols(change(LISTS, { type: "place", symbol: "C", before: "A" }))).toEqual(["C", "A", "B"]);
    expect(symbols(change(LISTS, { type: "place", symbol: "A", before: null }))).toEqual(["B", "C", "A"]);
    expect(change(LISTS, { type: "place", symbol: "Z", before: "A" })).toBe(LISTS);
  });

  it("are made, named and deleted, each with a name of its own, and one is always left", () => {
    const two = change(LISTS, { type: "create", name: "One", symbols: ["X"] });
    expect(two).toEqual({ lists: [...LISTS.lists, { name: "One 2", symbols: ["X"] }], active: 1 });
    expect(change(two, { type: "rename", name: "  Majors " }).lists[1]?.name).toBe("Majors");
    const one = change(two, { type: "delete" });
    expect(one).toEqual(LISTS);
    expect(change(one, { type: "delete" })).toBe(one);
  });

  it.each([null, 5, {}, { lists: [] }, { lists: [{ name: 1, symbols: [] }] }, { lists: "x" }])("that were kept as %j are none", (value) => {
    expect(readLists(value)).toBeNull();
  });

  it("are read as they were kept", () => {
    expect(readLists(JSON.parse(JSON.stringify(LISTS)))).toEqual(LISTS);
    expect(readLists({ ...LISTS, active: 7 })?.active).toBe(0);
  });

  it("are shared by an address", () => {
    const list = { name: "Mine & yours", symbols: ["v:A&B", "C#1"] };
    const address = addressOf(list, "https://host/?x=1#old");
    expect(address.startsWith("https://host/?x=1#")).toBe(true);
    expect(shared(new URL(address).hash)).toEqual(list);
    expect(shared("#list=x")).toBeNull();
    expect(shared("#symbols=<b c>,A")).toEqual({ name: "Shared", symbols: ["A"] });
  });
});

describe("what the browser keeps", () => {
  it("is nothing where it is blocked or full, which is told", () => {
    const blocked = keeper(() => {
      throw new Error("blocked");
    });
    expect(blocked.read("lists")).toBeNull();
    expect(blocked.write("lists", 1)).toBe(false);
    const nonsense = keeper(() => ({ getItem: () => "{", setItem: () => {} }) as unknown as Storage);
    expect(nonsense.read("lists")).toBeNull();
    expect(nonsense.write("lists", 1)).toBe(true);
  });
});

describe("columns", () => {
  const quotes: Record<string, Partial<Quote>> = { A: { bid: 3 }, B: { bid: null }, C: { bid: 5 }, D: { bid: 1 } };
  const quoteOf = (symbol: string): Quote | undefined => quotes[symbol] as Quote | undefined;

  it("sort rows either way, those without a value last", () => {
    const names = ["A", "B", "C", "D", "E"];
    expect(sorted(names, { by: "bid", down: true }, quoteOf)).toEqual(["C", "A", "D", "B", "E"]);
    expect(sorted(names, { by: "bid", down: false }, quoteOf)).toEqual(["D", "A", "C", "B", "E"]);
    expect(sorted(names, { by: "symbol", down: true }, quoteOf)).toEqual(["E", "D", "C", "B", "A"]);
    expect(sorted(names, null, quoteOf)).toBe(names);
  });

  it("that were kept are those that there are", () => {
    expect(readColumns(["bid", "nonsense", "bid", "ask"])).toEqual(["bid", "ask"]);
    expect(readColumns("x")).toBe(SHOWN_AT_FIRST);
    expect(readColumns([])).toBe(SHOWN_AT_FIRST);
  });
});

describe("numbers", () => {
  it.each([
    [format.price(61686, 2), "61,686.00"],
    [format.price(null, 2), "–"],
    [format.price(-37.63, 2), "-37.63"],
    [format.size(1_234_567), "1.23M"],
    [format.size(0.00012), "0.00012"],
    [format.signed(-0.5, 2, "%"), "−0.50%"],
    [format.signed(0.5, 2), "+0.50"],
    [format.signed(0, 2), "0.00"],
    [format.age(0.4), "now"],
    [format.age(61), "1m"],
    [format.age(null), "–"],
    [format.clock(1_723_161_360_007_526, true), "23:56:00.007"],
    [String(format.decimalsOf(1e-7)), "7"],
    [String(format.decimalsOf(61685.99)), "2"],
    [String(format.decimalsOf(1e21)), "0"],
  ])("are shown as %s", (shown, expected) => {
    expect(shown).toBe(expected);
  });
});

describe("the market", () => {
  function market(): { rows: Market; tell: (quote: Partial<Quote>) => void; time: { now: number }; closed: () => number } {
    const time = { now: 0 };
    const told: ((quote: Quote) => void)[] = [];
    let closed = 0;
    const feed = {
      subscribe: (_: unknown, onQuote: (quote: Quote) => void) => {
        told.push(onQuote);
        return { close: () => closed++ };
      },
    } as unknown as Feed;
    const rows = new Market(feed, () => time.now);
    return { rows, tell: (quote) => told.at(-1)?.({ symbol: "A", seq: 1, n: 1, ts: 1, ...quote } as Quote), time, closed: () => closed };
  }

  it("knows which way a price moved last, and how often", () => {
    const { rows, tell } = market();
    rows.watch(["A"]);
    for (const last of [1, 2, 2, 1.5]) tell({ last });
    expect(rows.rows.get("A")).toMatchObject({ direction: -1, moves: 2 });
    expect(rows.decimals("A")).toBe(1);
  });

  it("keeps a minute of prices, one a second", () => {
    const { rows, tell, time } = market();
    rows.watch(["A"]);
    for (let at = 0; at < 200; at++) {
      time.now = at * 500;
      tell({ last: at });
    }
    const trend = rows.rows.get("A")?.trend ?? [];
    expect(trend).toHaveLength(60);
    expect(trend.at(-1)).toBe(198);
  });

  it("forgets what is watched no more, after it has asked for what is", () => {
    const { rows, tell, closed } = market();
    rows.watch(["A", "B"]);
    tell({ symbol: "B" });
    rows.watch(["A"]);
    expect(closed()).toBe(1);
    expect(rows.rows.has("B")).toBe(false);
  });

  it("draws a path through values, in the middle where nothing moves", () => {
    expect(pathOf([1], 10, 10)).toBe("");
    expect(pathOf([1, 1], 59, 10)).toBe("M58.0 5.0L59.0 5.0");
    expect(pathOf([0, 1], 59, 10)).toBe("M58.0 9.0L59.0 1.0");
  });
});
