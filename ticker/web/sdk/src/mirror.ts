/** A copy of the server's quotes, kept by the protocol's rules. */

import type { Quote, UpdateItem } from "./protocol.ts";

export class Mirror {
  /** The newest quote of each symbol. */
  readonly quotes = new Map<string, Quote>();
  /** Symbols of which an update was missed: nothing is known of them until they come whole. */
  readonly broken = new Set<string>();
  /** Names the log that the quotes are of. */
  epoch: string | null = null;

  /** Take in whole items; returns the quotes. */
  snapshot(items: readonly Quote[]): Quote[] {
    for (const item of items) {
      this.quotes.set(item.symbol, item);
      this.broken.delete(item.symbol);
    }
    return items as Quote[];
  }

  /** Take in the items of an update; returns the quotes that are new, and the symbols that have just come apart. */
  update(items: readonly UpdateItem[]): { quotes: Quote[]; broken: string[] } {
    const quotes: Quote[] = [];
    const broken: string[] = [];
    for (const item of items) {
      if (this.broken.has(item.symbol)) continue;
      const held = this.quotes.get(item.symbol);
      if (held === undefined || held.seq !== item.prev) {
        this.broken.add(item.symbol);
        broken.push(item.symbol);
        continue;
      }
      const quote = merged(held, item);
      this.quotes.set(item.symbol, quote);
      quotes.push(quote);
    }
    return { quotes, broken };
  }

  /** What is held, for `since`: symbol to seq, of those that are whole. */
  since(): Map<string, number> {
    const since = new Map<string, number>();
    for (const [symbol, quote] of this.quotes) if (!this.broken.has(symbol)) since.set(symbol, quote.seq);
    return since;
  }

  /** Note that a server counts the ticks of what it holds as we do: of a resumed symbol, `n`. */
  counted(symbol: string, n: number): void {
    const held = this.quotes.get(symbol);
    if (held !== undefined) this.quotes.set(symbol, { ...held, n });
  }

  forget(symbol: string): void {
    this.quotes.delete(symbol);
    this.broken.delete(symbol);
  }
}

function merged(held: Quote, item: UpdateItem): Quote {
  const { hi: _hi, lo: _lo, vol: _vol, ...before } = held; // they are of one update alone
  const { prev: _prev, ...moved } = item;
  return { ...before, ...moved, n: held.n + item.n };
}
