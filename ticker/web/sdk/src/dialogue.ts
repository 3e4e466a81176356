/**
 * What a client says, and what it makes of what it hears. Knows no socket, no clock and no timer: messages in, effects
 * out. One dialogue outlives its connections; what it holds is resumed on the next.
 */

import { type Ask, type Interest, Interests, isPattern, matches, type Terms } from "./interests.ts";
import { Mirror } from "./mirror.ts";
import {
  type Bar,
  type Channel,
  type ClockState,
  type Command,
  type FeedState,
  type Gap,
  PROTOCOL,
  type Quote,
  type Rejection,
  type ServerMessage,
  type Subscribed,
  type Trade,
  type Welcome,
} from "./protocol.ts";

/** Bytes of a client's message that every server takes. */
const MESSAGE_BYTES = 16_384;
/** What is asked by `auth` on a connection that is up already. */
const RENEW = "renew";
/** The share of a token's time after which it is renewed. */
const RENEWED_AFTER = 0.8;
/** Bars whose closing is remembered, so that a resumed one that comes again is not told twice. */
const CLOSED_REMEMBERED = 4;

export interface Clock {
  readonly ts: number;
  readonly speed: number | "max";
  readonly state: ClockState;
  readonly progress?: number;
}

export type Notice =
  | { readonly type: "connected"; readonly mode: "live" | "replay"; readonly epoch: string }
  | { readonly type: "epoch"; readonly epoch: string }
  | { readonly type: "slow"; readonly skipped: number }
  | { readonly type: "resync"; readonly symbols: readonly string[] }
  | { readonly type: "shutdown"; readonly reconnectAfterMs: number }
  | { readonly type: "completed"; readonly ts: number }
  | { readonly type: "live"; readonly ts: number }
  | { readonly type: "error"; readonly code: string; readonly message: string };

/** What a message came to. */
export interface Effects {
  commands: Command[];
  quotes: Quote[];
  trades: Trade[];
  gaps: Gap[];
  bars: (Bar & { interval: NonNullable<Terms["interval"]> })[];
  rejections: { channel: Channel; rejection: Rejection }[];
  notices: Notice[];
  /** The server asks to come back elsewhere or later. */
  leaveMs?: number;
  /** The token ends, and another one should be shown in so long. */
  renewMs?: number;
  /** The connection is of no use: why. `final` where another one would be neither. */
  failure?: { code: string; message: string; final: boolean };
}

export function nothing(): Effects {
  return { commands: [], quotes: [], trades: [], gaps: [], bars: [], rejections: [], notices: [] };
}

interface Told {
  seq: number;
  i: number;
}

interface TrackedBars {
  seq: number;
  /** Start of each of the last bars that closed, and its `rev`. */
  closed: Map<number, number>;
}

export class Dialogue<I extends Interest = Interest> {
  readonly mirror = new Mirror();
  readonly interests = new Interests<I>();
  feeds: Readonly<Record<string, FeedState>> = {};
  clock: Clock | null = null;
  mode: "live" | "replay" | null = null;
  /** The source's own span, of a replay. */
  span: { from: number; to: number | null } | null = null;
  heartbeatMs = 1000;
  /** How late the data is. */
  delayMs = 0;
  welcomed = false;
  /** A replay that has gone over to live. */
  caughtUp = false;
  resumes = 0;

  /** Whether the connection takes commands, or is made for what is wanted (Server-Sent Events, polling). */
  #talks = true;
  #token: string | null = null;
  #messageBytes = MESSAGE_BYTES;
  #ids = 0;
  /** By id: what was asked and is not answered. */
  #asked = new Map<number, Ask | string>();
  /** By channel and string: the terms that were asked for last, be it on an earlier connection. */
  #terms = new Map<string, string>();
  #trades = new Map<string, Told>();
  #bars = new Map<string, TrackedBars>();

  // -- connections ---------------------------------------------------------------------------------------------------

  /** A connection is up; returns what to say at once. The rest is due at `welcome`. */
  opened(talks: boolean, token: string | null): Command[] {
    this.#talks = talks;
    this.#token = token;
    this.#asked.clear();
    this.welcomed = false;
    return talks && token !== null ? [this.#ask("auth", "auth", { token })] : [];
  }

  /** Show another token, before the last one ends; returns what to say. */
  renew(token: string): Command[] {
    return this.#talks ? [this.#ask(RENEW, "auth", { token })] : [];
  }

  lost(): void {
    this.welcomed = false;
    this.feeds = {};
  }

  // -- what is wanted ------------------------------------------------------------------------------------------------

  /** Want something more; returns what to say. */
  add(interest: I): Command[] {
    this.interests.add(interest);
    return this.welcomed && this.#talks ? this.#subscribe(this.#changed(interest)) : [];
  }

  /** Want something no more; returns what to say. What nothing else wants is forgotten. */
  remove(interest: I): Command[] {
    if (!this.interests.delete(interest)) return [];
    const { channel } = interest;
    const gone = interest.symbols.filter((name) => this.interests.naming(channel, name).length === 0);
    for (const name of gone) this.#terms.delete(key(channel, name));
    this.#forget(channel);
    if (gone.length === 0 || !this.welcomed || !this.#talks) return [];
    return batches(gone.map((name) => [name, []] as const), this.#messageBytes).map(({ symbols }) =>
      this.#ask("unsubscribe", "unsubscribe", { channel, symbols }),
    );
  }

  /** All that is wanted, for a connection that is made for that and takes no commands. */
  asks(): Ask[] {
    const asks = this.interests.asks();
    for (const { terms, symbols } of asks) {
      for (const name of symbols) this.#terms.set(key(terms.channel, name), JSON.stringify(terms));
    }
    return asks;
  }

  /** The strings of an interest, and those it overlaps, that are to be served in another way than they are. */
  #changed(interest: I): [Channel, string][] {
    const { channel } = interest;
    const names = new Set(interest.symbols);
    for (const pattern of interest.symbols.filter(isPattern)) {
      for (const name of this.interests.names(channel)) if (isPattern(name) || matches(pattern, name)) names.add(name);
    }
    return [...names]
      .filter((name) => this.#terms.get(key(channel, name)) !== JSON.stringify(this.interests.terms(channel, name)))
      .map((name) => [channel, name]);
  }

  #subscribe(names: Iterable<readonly [Channel, string]> | undefined, resuming = false): Command[] {
    const commands: Command[] = [];
    for (const { terms, symbols } of this.interests.asks(names)) {
      const parts = symbols.map((name) => {
        const at = key(terms.channel, name);
        const same = this.#terms.get(at) === JSON.stringify(terms);
        this.#terms.set(at, JSON.stringify(terms));
        return [name, resuming && same ? this.#held(terms, name) : []] as const;
      });
      for (const batch of batches(parts, this.#messageBytes)) {
        const resume = batch.since.length > 0 ? { since: Object.fromEntries(batch.since), epoch: this.#heldEpoch } : {};
        commands.push(this.#ask({ terms, symbols: batch.symbols }, "subscribe", { ...terms, symbols: batch.symbols, ...resume }));
      }
    }
    return commands;
  }

  /** The epoch of what was held when the connection was welcomed. */
  #heldEpoch: string | null = null;

  /** What is held of a string: symbol and seq. */
  #held({ channel, interval }: Terms, name: string): [string, number][] {
    if (this.#heldEpoch === null) return [];
    const held: Iterable<readonly [string, number]> =
      channel === "ticker"
        ? this.mirror.since()
        : channel === "trades"
          ? [...this.#trades].map(([symbol, { seq }]) => [symbol, seq] as const)
          : [...this.#bars].flatMap(([id, { seq }]) =>
              id.startsWith(`${interval} `) ? [[id.slice(id.indexOf(" ") + 1), seq] as const] : [],
            );
    const own = isPattern(name) ? (symbol: string) => matches(name, symbol) : (symbol: string) => symbol === name;
    return [...held].filter(([symbol]) => own(symbol)).map(([symbol, seq]) => [symbol, seq]);
  }

  #forget(channel: Channel): void {
    const unwanted = (symbol: string) => this.interests.concerned(channel, symbol).length === 0;
    if (channel === "ticker") {
      for (const symbol of this.mirror.quotes.keys()) if (unwanted(symbol)) this.mirror.forget(symbol);
    } else if (channel === "trades") {
      for (const symbol of this.#trades.keys()) if (unwanted(symbol)) this.#trades.delete(symbol);
    } else {
      for (const id of this.#bars.keys()) if (unwanted(id.slice(id.indexOf(" ") + 1))) this.#bars.delete(id);
    }
  }

  // -- what else is said ---------------------------------------------------------------------------------------------

  ping(): Command {
    return this.#ask("ping", "ping", {});
  }

  /** A command to the clock of a replay. */
  control(op: "play" | "pause" | "speed" | "seek" | "step", members: Record<string, unknown>): Command {
    return this.#ask(op, op, members);
  }

  #ask(what: Ask | string, op: string, members: Record<string, unknown>): Command {
    const id = ++this.#ids;
    this.#asked.set(id, what);
    return { op, id, ...members };
  }

  // -- what is heard -------------------------------------------------------------------------------------------------

  receive(message: ServerMessage): Effects {
    const effects = nothing();
    const asked = "id" in message && typeof message.id === "number" ? this.#asked.get(message.id) : undefined;
    if ("id" in message && typeof message.id === "number") this.#asked.delete(message.id);
    switch (message.type) {
      case "welcome":
        this.#welcome(message, effects);
        break;
      case "subscribed":
        this.#subscribed(message, asked, effects);
        break;
      case "snapshot":
        effects.quotes = this.mirror.snapshot(message.items);
        break;
      case "update":
        this.#update(message.items, effects);
        break;
      case "trades":
        for (const trade of message.items) if (this.#isNews(trade)) effects.trades.push(trade);
        break;
      case "gap":
        this.#trades.set(message.symbol, { seq: message.to, i: Infinity });
        effects.gaps.push({ symbol: message.symbol, from: message.from, to: message.to, count: message.count });
        break;
      case "bars":
        for (const bar of message.items) {
          if (this.#isNewBar(message.interval, bar)) effects.bars.push({ ...bar, interval: message.interval });
        }
        break;
      case "heartbeat":
        this.feeds = message.feeds;
        if (this.clock !== null && this.mode === "replay") this.clock = { ...this.clock, ts: message.ts };
        break;
      case "status": {
        const { state, age_ms, lag } = message;
        this.feeds = { ...this.feeds, [message.feed]: { state, age_ms, ...(lag === undefined ? {} : { lag }) } };
        break;
      }
      case "slow":
        effects.notices.push({ type: "slow", skipped: message.skipped });
        break;
      case "epoch":
        this.#renewed(message.epoch, effects);
        break;
      case "clock":
        this.clock = {
          ...{ ts: message.ts, speed: message.speed, state: message.state },
          ...(message.progress === undefined ? {} : { progress: message.progress }),
        };
        break;
      case "replay_completed":
        if (this.clock !== null) this.clock = { ...this.clock, ts: message.ts, state: "completed" };
        effects.notices.push({ type: "completed", ts: message.ts });
        break;
      case "live":
        this.caughtUp = true;
        this.clock = { ts: message.ts, speed: 1, state: "live" };
        effects.notices.push({ type: "live", ts: message.ts });
        break;
      case "shutdown":
        effects.leaveMs = message.reconnect_after_ms;
        effects.notices.push({ type: "shutdown", reconnectAfterMs: message.reconnect_after_ms });
        break;
      case "error":
        this.#refused(message, asked, effects);
        break;
      case "auth_required":
        if (this.#token === null) effects.failure = { code: "auth_required", message: "the server asks for a token", final: true };
        break;
      case "authenticated":
        if (message.expires_in_ms !== undefined) effects.renewMs = message.expires_in_ms * RENEWED_AFTER;
        break;
      case "unsubscribed":
      case "pong":
        break;
    }
    return effects;
  }

  #welcome(message: Welcome, effects: Effects): void {
    if (message.protocol !== PROTOCOL) {
      const text = `expected a server of ${PROTOCOL}, was ${message.protocol}`;
      effects.failure = { code: "protocol", message: text, final: true };
      return;
    }
    const first = !this.welcomed;
    this.welcomed = true;
    this.mode = message.mode;
    this.heartbeatMs = message.heartbeat_ms;
    this.#messageBytes = Math.min(message.limits.message_bytes ?? MESSAGE_BYTES, 262_144);
    if (message.mode === "replay") {
      this.clock = { ts: message.ts, speed: message.speed ?? 1, state: message.state ?? "paused" };
      this.span = { from: message.from ?? message.ts, to: message.to ?? null };
    }
    this.delayMs = message.delay_ms ?? 0;
    this.#heldEpoch = this.mirror.epoch;
    this.mirror.epoch = message.epoch;
    if (!sharesLog(this.#heldEpoch, message.epoch)) this.#begin();
    if (first) effects.notices.push({ type: "connected", mode: message.mode, epoch: message.epoch });
    if (first && this.#talks) effects.commands = this.#subscribe(undefined, true);
  }

  #subscribed(message: Subscribed, asked: Ask | string | undefined, effects: Effects): void {
    for (const rejection of message.rejected) {
      effects.rejections.push({ channel: message.channel, rejection });
      if (rejection.count === undefined) this.#terms.delete(key(message.channel, rejection.symbol));
    }
    const resumed = Object.entries(message.resumed);
    if (resumed.length > 0) this.resumes++;
    if (message.channel === "ticker") {
      for (const [symbol, n] of resumed) this.mirror.counted(symbol, n);
    } else if (message.channel === "trades") {
      // From here on every trade comes: what a later connection resumes from, where none has come until then.
      for (const symbol of typeof asked === "object" ? message.symbols : []) {
        const seq = this.mirror.quotes.get(symbol)?.seq;
        if (seq !== undefined && !this.#trades.has(symbol)) this.#trades.set(symbol, { seq, i: Infinity });
      }
    }
  }

  #update(items: Extract<ServerMessage, { type: "update" }>["items"], effects: Effects): void {
    const { quotes, broken } = this.mirror.update(items);
    effects.quotes = quotes;
    if (broken.length === 0) return;
    effects.notices.push({ type: "resync", symbols: broken });
    if (!this.#talks) {
      effects.failure = { code: "chain", message: `an update of ${broken[0]} was missed`, final: false };
      return;
    }
    for (const { symbols } of batches(broken.map((name) => [name, []] as const), this.#messageBytes)) {
      effects.commands.push(this.#ask("resync", "resync", { symbols }));
    }
  }

  #isNews(trade: Trade): boolean {
    const told = this.#trades.get(trade.symbol);
    if (told !== undefined && (trade.seq < told.seq || (trade.seq === told.seq && trade.i <= told.i))) return false;
    this.#trades.set(trade.symbol, { seq: trade.seq, i: trade.i });
    return true;
  }

  #isNewBar(interval: string, bar: Bar): boolean {
    const id = `${interval} ${bar.symbol}`;
    let tracked = this.#bars.get(id);
    if (tracked === undefined) this.#bars.set(id, (tracked = { seq: bar.seq, closed: new Map() }));
    tracked.seq = Math.max(tracked.seq, bar.seq);
    if (!bar.closed) return true;
    if (tracked.closed.get(bar.start) === bar.rev) return false;
    tracked.closed.set(bar.start, bar.rev);
    if (tracked.closed.size > CLOSED_REMEMBERED) tracked.closed.delete(Math.min(...tracked.closed.keys()));
    return true;
  }

  #renewed(epoch: string, effects: Effects): void {
    this.mirror.epoch = epoch;
    this.#begin();
    if (this.clock?.state === "completed") this.clock = { ...this.clock, state: "paused" };
    effects.notices.push({ type: "epoch", epoch });
  }

  /** The log is another one: nothing that was told of the old one stands before what comes. */
  #begin(): void {
    this.#trades.clear();
    this.#bars.clear();
    for (const symbol of this.mirror.quotes.keys()) this.mirror.broken.add(symbol);
  }

  #refused(message: Extract<ServerMessage, { type: "error" }>, asked: Ask | string | undefined, effects: Effects): void {
    const { code, message: text } = message;
    if (message.symbol !== undefined) {
      const { symbol, count } = message;
      effects.rejections.push({ channel: "ticker", rejection: { symbol, code, ...(count === undefined ? {} : { count }) } });
    } else if (asked !== RENEW && (asked === "auth" || code.startsWith("auth_"))) {
      effects.failure = { code, message: text, final: true };
    } else if (typeof asked === "object") {
      for (const symbol of asked.symbols) {
        this.#terms.delete(key(asked.terms.channel, symbol));
        effects.rejections.push({ channel: asked.terms.channel, rejection: { symbol, code } });
      }
    }
    effects.notices.push({ type: "error", code, message: text });
  }
}

function key(channel: Channel, name: string): string {
  return `${channel} ${name}`;
}

/** Whether two epochs have a log in common. */
function sharesLog(held: string | null, now: string): boolean {
  if (held === null) return true;
  const logs = new Set(held.split("+"));
  return now.split("+").some((log) => logs.has(log));
}

interface Batch {
  symbols: string[];
  since: (readonly [string, number])[];
}

/** Strings with what is held of each, in batches of so many bytes: no batch with two patterns, which may be dear. */
function batches(parts: readonly (readonly [string, readonly (readonly [string, number])[]])[], bytesMax: number): Batch[] {
  const found: Batch[] = [];
  let room = 0;
  let patterned = false;
  for (const [name, since] of parts) {
    const cost = name.length + 4 + since.reduce((sum, [symbol]) => sum + symbol.length + 22, 0);
    const pattern = isPattern(name);
    let batch = found.at(-1);
    if (batch === undefined || cost > room || (pattern && patterned)) {
      found.push((batch = { symbols: [], since: [] }));
      room = bytesMax - 1024;
      patterned = false;
    }
    batch.symbols.push(name);
    patterned ||= pattern;
    for (const entry of since) {
      if (room < 0 && batch.since.length > 0) break; // what has no room comes whole
      batch.since.push(entry);
      room -= entry[0].length + 22;
    }
    room -= name.length + 4;
  }
  return found;
}
