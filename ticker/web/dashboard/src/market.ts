/** The watched symbols as the page shows them: quote, trend, which way it moved. Told row by row. */

import { type Feed, type Field, type Quote, type Subscription } from "@ticker/sdk";
import { decimalsOf } from "./format";

export const FIELDS: readonly Field[] = [
  ...(["bid", "bid_size", "ask", "ask_size", "last", "last_size", "last_ts", "open", "high", "low"] as const),
  ...(["volume", "vwap", "trades", "change", "change_pct"] as const),
];
/** A price of more decimals than this has them from arithmetic, not from a venue. */
const DECIMALS_MAX = 8;
const POINTS = 60;
const POINT_MS = 1000;

/** A row: another object after each change. */
export interface Row {
  readonly quote: Quote;
  /** Which way the last move of the price went, and how many there have been: a flash for each. */
  readonly direction: -1 | 0 | 1;
  readonly moves: number;
  /** Prices of the last minute, oldest first. */
  readonly trend: readonly number[];
  /** Milliseconds since 1970, by our own clock. */
  readonly heardAt: number;
}

export class Market {
  readonly rows = new Map<string, Row>();
  readonly rejected = new Map<string, string>();
  /** The most decimals that a symbol's prices have had. */
  readonly #decimals = new Map<string, number>();
  readonly #sampledAt = new Map<string, number>();
  readonly #listeners = new Map<string, Set<() => void>>();
  readonly #ofAll = new Set<() => void>();
  #subscription: Subscription | null = null;
  #version = 0;

  constructor(
    private readonly feed: Feed,
    private readonly now: () => number = () => Date.now(),
  ) {}

  /** Watch these symbols, or patterns, and no others. */
  watch(symbols: readonly string[]): void {
    const before = this.#subscription;
    const kept = new Set(symbols);
    const all = symbols.some((name) => name.includes("*"));
    if (!all) {
      for (const symbol of this.rows.keys()) {
        if (kept.has(symbol)) continue;
        this.rows.delete(symbol);
        this.#sampledAt.delete(symbol);
      }
    }
    this.rejected.clear();
    this.#subscription =
      symbols.length === 0
        ? null
        : this.feed.subscribe(symbols, (quote) => this.#take(quote), {
            fields: FIELDS,
            onRejected: (symbol, code) => {
              this.rejected.set(symbol, code);
              this.#tell(symbol);
            },
          });
    before?.close(); // after: what is in both goes on
    this.#version++;
    for (const listener of this.#ofAll) listener();
  }

  close(): void {
    this.#subscription?.close();
  }

  /** Rises when a symbol is new: lists of rows are to be made anew. */
  get version(): number {
    return this.#version;
  }

  decimals(symbol: string): number {
    return this.#decimals.get(symbol) ?? 2;
  }

  onRow(symbol: string, listener: () => void): () => void {
    let listeners = this.#listeners.get(symbol);
    if (listeners === undefined) this.#listeners.set(symbol, (listeners = new Set()));
    listeners.add(listener);
    return () => {
      listeners.delete(listener);
      if (listeners.size === 0) this.#listeners.delete(symbol);
    };
  }

  onRows(listener: () => void): () => void {
    this.#ofAll.add(listener);
    return () => void this.#ofAll.delete(listener);
  }

  #take(quote: Quote): void {
    const held = this.rows.get(quote.symbol);
    if (held?.quote === quote) return; // told again, to a new subscription
    const price = priceOf(quote);
    const before = held === undefined ? null : priceOf(held.quote);
    const moved = price !== null && before !== null && price !== before;
    const now = this.now();
    this.#learn(quote);
    this.rows.set(quote.symbol, {
      quote,
      direction: moved ? (price > before ? 1 : -1) : (held?.direction ?? 0),
      moves: (held?.moves ?? 0) + (moved ? 1 : 0),
      trend: this.#trend(quote.symbol, held?.trend ?? [], price, now),
      heardAt: now,
    });
    if (held === undefined) {
      this.#version++;
      for (const listener of this.#ofAll) listener();
    }
    this.#tell(quote.symbol);
  }

  #learn({ symbol, bid, ask, last }: Quote): void {
    let most = this.#decimals.get(symbol) ?? 0;
    for (const value of [bid, ask, last]) {
      if (value == null || fits(value, most)) continue;
      const decimals = decimalsOf(value);
      if (decimals <= DECIMALS_MAX) most = Math.max(most, decimals);
    }
    this.#decimals.set(symbol, most);
  }

  #trend(symbol: string, trend: readonly number[], price: number | null, now: number): readonly number[] {
    if (price === null) return trend;
    const sampled = this.#sampledAt.get(symbol) ?? -Infinity;
    if (now - sampled < POINT_MS) return trend;
    this.#sampledAt.set(symbol, now);
    return [...trend.slice(1 - POINTS), price];
  }

  #tell(symbol: string): void {
    for (const listener of this.#listeners.get(symbol) ?? []) listener();
  }
}

/** Whether so many decimals express a value: nearly always they do, and that is quickly told. */
function fits(value: number, decimals: number): boolean {
  const power = 10 ** decimals;
  return Math.round(value * power) / power === value;
}

/** The price of a symbol: that of its last trade, else the middle of its quote. */
export function priceOf({ last, bid, ask }: Quote): number | null {
  if (last != null) return last;
  return bid == null || ask == null ? null : (bid + ask) / 2;
}

/** A path through `values` in a box of `width` and `height`; empty for fewer than two. */
export function pathOf(values: readonly number[], width: number, height: number): string {
  if (values.length < 2) return "";
  const [least, most] = [Math.min(...values), Math.max(...values)];
  const span = most - least || 1;
  const low = most === least ? least - 0.5 : least; // what does not move lies in the middle
  const step = width / (POINTS - 1);
  const from = width - step * (values.length - 1);
  return values
    .map((value, at) => `${at === 0 ? "M" : "L"}${(from + at * step).toFixed(1)} ${(height - 1 - ((value - low) / span) * (height - 2)).toFixed(1)}`)
    .join("");
}
