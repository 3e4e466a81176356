/** What a program wants to be told, and what that comes to on the wire: one subscription for each string. */

import { FIELDS, type BarInterval, type Channel, type Field } from "./protocol.ts";

/** One subscription of a program. */
export interface Interest {
  readonly channel: Channel;
  readonly symbols: readonly string[];
  /** Of bars alone. */
  readonly interval?: BarInterval | undefined;
  /** Of quotes alone; all where undefined. */
  readonly fields?: readonly Field[] | undefined;
  /** The server's where undefined. */
  readonly intervalMs?: number | undefined;
}

/** How a string is to be served: what `subscribe` says beside the symbols. */
export interface Terms {
  readonly channel: Channel;
  readonly interval?: BarInterval;
  readonly fields?: readonly Field[];
  readonly interval_ms?: number;
}

export interface Ask {
  readonly terms: Terms;
  readonly symbols: readonly string[];
}

const WILDCARD = /[*?[]/;

export function isPattern(name: string): boolean {
  return WILDCARD.test(name);
}

const matchers = new Map<string, RegExp>();

/** Whether a shell pattern matches a symbol, as the server has it: `*`, `?`, `[abc]`, `[!abc]`. */
export function matches(pattern: string, symbol: string): boolean {
  let matcher = matchers.get(pattern);
  if (matcher === undefined) {
    if (matchers.size >= 1000) matchers.clear();
    matchers.set(pattern, (matcher = compiled(pattern)));
  }
  return matcher.test(symbol);
}

function compiled(pattern: string): RegExp {
  let source = "";
  for (let at = 0; at < pattern.length; at++) {
    const sign = pattern.charAt(at);
    if (sign === "*") source += ".*";
    else if (sign === "?") source += ".";
    else if (sign === "[") {
      const from = at + (pattern[at + 1] === "!" ? 2 : 1);
      const end = pattern.indexOf("]", from + 1);
      if (end < 0) {
        source += "\\[";
        continue;
      }
      const negated = pattern[at + 1] === "!" ? "^" : "";
      source += `[${negated}${pattern.slice(from, end).replace(/[\\\]^[]/g, "\\$&")}]`;
      at = end;
    } else source += sign.replace(/[\\^$.|+()\]{}/-]/g, "\\$&");
  }
  try {
    return new RegExp(`^${source}$`);
  } catch {
    return /^(?!)/; // a range that is out of order matches nothing
  }
}

/** All interests of a program, and who of them is concerned by a symbol. */
export class Interests<I extends Interest> {
  readonly #all = new Set<I>();
  #concerned = new Map<string, I[]>();

  add(interest: I): void {
    this.#all.add(interest);
    this.#concerned.clear();
  }

  delete(interest: I): boolean {
    this.#concerned.clear();
    return this.#all.delete(interest);
  }

  /** Those that are to be told of a symbol on a channel. */
  concerned(channel: Channel, symbol: string): readonly I[] {
    const key = `${channel} ${symbol}`;
    let found = this.#concerned.get(key);
    if (found === undefined) {
      found = [...this.#all].filter((interest) => interest.channel === channel && covers(interest, symbol));
      this.#concerned.set(key, found);
    }
    return found;
  }

  /** Those that name a string, be it a pattern. */
  naming(channel: Channel, name: string): I[] {
    return [...this.#all].filter((interest) => interest.channel === channel && interest.symbols.includes(name));
  }

  /** Every string that is named on a channel, in the order in which they came. */
  names(channel: Channel): Set<string> {
    const names = new Set<string>();
    for (const interest of this.#all) {
      if (interest.channel === channel) for (const name of interest.symbols) names.add(name);
    }
    return names;
  }

  /** How a string is to be served so that all whom it concerns have what they want. */
  terms(channel: Channel, name: string): Terms {
    const pattern = isPattern(name);
    const all = [...this.#all].filter(
      (interest) =>
        interest.channel === channel &&
        (interest.symbols.includes(name) ||
          (pattern ? interest.symbols.some(isPattern) : interest.symbols.some((own) => isPattern(own) && matches(own, name)))),
    );
    const paces = all.map((interest) => interest.intervalMs);
    const known = paces.filter((pace) => pace !== undefined);
    // Where one leaves its pace to the server, no slower one may be put in its place.
    const slowest = known.length === paces.length ? Infinity : DEFAULT_INTERVAL_MS;
    const pace = known.length > 0 ? Math.min(...known, slowest) : undefined;
    return {
      channel,
      ...(channel === "bars" ? { interval: this.naming(channel, name).at(-1)?.interval ?? "1m" } : {}),
      ...(channel === "ticker" && all.every((interest) => interest.fields !== undefined) ? { fields: union(all) } : {}),
      ...(pace === undefined ? {} : { interval_ms: pace }),
    };
  }

  /** What is to be subscribed: strings of the same terms together. */
  asks(names: Iterable<readonly [Channel, string]> = this.#everything()): Ask[] {
    const asks = new Map<string, { terms: Terms; symbols: string[] }>();
    for (const [channel, name] of names) {
      const terms = this.terms(channel, name);
      const key = JSON.stringify(terms);
      const ask = asks.get(key);
      if (ask === undefined) asks.set(key, { terms, symbols: [name] });
      else ask.symbols.push(name);
    }
    return [...asks.values()];
  }

  *#everything(): Iterable<readonly [Channel, string]> {
    for (const channel of ["ticker", "trades", "bars"] as const) {
      for (const name of this.names(channel)) yield [channel, name];
    }
  }
}

/** What a server that says nothing else serves. */
const DEFAULT_INTERVAL_MS = 100;

function covers(interest: Interest, symbol: string): boolean {
  return interest.symbols.some((name) => name === symbol || (isPattern(name) && matches(name, symbol)));
}

function union(interests: readonly Interest[]): Field[] {
  const wanted = new Set(interests.flatMap((interest) => interest.fields ?? []));
  return FIELDS.filter((field) => wanted.has(field));
}
