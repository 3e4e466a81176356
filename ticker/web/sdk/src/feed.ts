/**
 * A feed: the clock and the connections around a dialogue. It connects by the best way there is, comes back when a
 * connection ends, and calls back.
 */

import { Backoff } from "./backoff.ts";
import { type Clock, Dialogue, type Effects, type Notice } from "./dialogue.ts";
import type { Interest } from "./interests.ts";
import {
  type Bar,
  type BarInterval,
  type Channel,
  type Command,
  type FeedState,
  type Field,
  type Gap,
  parse,
  ProtocolError,
  type Quote,
  type Rejection,
  type Trade,
} from "./protocol.ts";
import { authorization, type Ending, type Link, type LinkEvents, reason, type Surroundings } from "./transports/link.ts";
import { openPolling } from "./transports/polling.ts";
import { type LastEvents, openEvents } from "./transports/sse.ts";
import { openWebSocket } from "./transports/websocket.ts";

export type TransportName = "websocket" | "sse" | "polling";

export interface FeedOptions {
  /** Sent as the first message, or in a header; never in an address. A function is asked anew for each connection, and before a token ends. */
  token?: string | (() => string | Promise<string>);
  /** In the order of preference; all three where left out. A replay takes a WebSocket. */
  transports?: readonly TransportName[];
  /** Call back in one turn for each frame of the screen. */
  frames?: boolean;
  /** The first and the longest window of the random wait before another try. */
  backoffMinMs?: number;
  backoffMaxMs?: number;
  /** A connection that lasted so long was a good one: the waits begin anew. */
  stableMs?: number;
  /** How long a connection may take to come about. */
  connectTimeoutMs?: number;
  /** Connected by another way: how often to try a WebSocket again. */
  upgradeMs?: number;
  /** What to use in place of the browser's own. */
  surroundings?: Partial<Surroundings>;
}

export type ConnectionState = "connecting" | "open" | "waiting" | "closed";

/** How the connection is. Immutable: another object after each change. */
export interface Status {
  readonly state: ConnectionState;
  readonly transport: TransportName | null;
  readonly mode: "live" | "replay" | null;
  readonly epoch: string | null;
  readonly rttMs: number | null;
  /** Milliseconds since 1970 of the next try, while waiting. */
  readonly retryAt: number | null;
  /** Why it is not open. */
  readonly error: { readonly code: string; readonly message: string } | null;
  /** Milliseconds since 1970 of the last heartbeat or change of state. */
  readonly heardAt: number | null;
  readonly feeds: Readonly<Record<string, FeedState>>;
  readonly clock: Clock | null;
  /** How late the data is, where it is served late. */
  readonly delayMs: number;
  /** What a replay's source spans. */
  readonly span: { readonly from: number; readonly to: number | null } | null;
}

/** What has come and gone so far. */
export interface Stats {
  messages: number;
  /** Characters of messages, which for what the server sends are bytes. */
  bytes: number;
  /** Rounds that the server skipped because we were slow. */
  skipped: number;
  resumes: number;
  resyncs: number;
  reconnects: number;
}

export interface Subscription {
  readonly symbols: readonly string[];
  close(): void;
}

export interface SymbolEntry {
  readonly symbol: string;
  readonly feed: string;
  readonly seq: number;
  readonly ts: number | null;
  readonly price_decimals: number | null;
  readonly size_decimals: number | null;
}

export interface Source {
  readonly source: string;
  readonly from?: number | null;
  readonly to?: number | null;
  readonly rows?: number;
  readonly symbols?: readonly string[];
  /** Of a topic, which is replayed until it is live. */
  readonly then?: "live";
}

type Rejected = (symbol: string, code: string) => void;
export type LiveBar = Bar & { readonly interval: BarInterval };

interface Wanted extends Interest {
  onQuote?: ((quote: Quote) => void) | undefined;
  onTrade?: ((trade: Trade) => void) | undefined;
  onGap?: ((gap: Gap) => void) | undefined;
  onBar?: ((bar: LiveBar) => void) | undefined;
  onRejected?: Rejected | undefined;
}

const HEARTBEATS_MISSED = 3;
/** How long the answer to a ping may take of a connection that may have died in our sleep. */
const WAKE_TIMEOUT_MS = 3000;
const PING_MS = 5000;
const LOOK_MS = 1000;
/** A timer that fires so much too late tells that the machine, or the tab, has slept. */
const SLEPT_MS = 5000;
/** Close codes after which another try would end in the same way. */
const FINAL_CODES = new Set([1009, 4400, 4401, 4403]);
/** The longest that a timer can be set for. */
const TIMER_MS_MAX = 2 ** 31 - 1;
const FRAME_MS_HIDDEN = 250;

export class Feed {
  readonly #dialogue = new Dialogue<Wanted>();
  readonly #around: Surroundings;
  readonly #backoff: Backoff;
  readonly #address: Address;
  readonly #options: FeedOptions;
  #transports: TransportName[];
  #link: Link | null = null;
  /** A WebSocket that is tried while another way serves. */
  #probe: Link | null = null;
  #transport: TransportName = "websocket";
  readonly #lastEvents: LastEvents = new Map();
  #timers = new Set<unknown>();
  #token: string | null = null;
  #tokenUsed: string | null = null;
  #attempt = 0;
  #welcomedAt: number | null = null;
  #heardAt = 0;
  /** When a ping was sent that is not answered, and when the last was. */
  #pingedAt: number | null = null;
  #askedAt = 0;
  #status: Status = {
    ...{ state: "connecting", transport: null, mode: null, epoch: null, rttMs: null, retryAt: null, error: null },
    ...{ heardAt: null, feeds: {}, clock: null, span: null, delayMs: 0 },
  };
  #statusListeners = new Set<(status: Status) => void>();
  #noticeListeners = new Set<(notice: Notice) => void>();
  #stats: Stats = { messages: 0, bytes: 0, skipped: 0, resumes: 0, resyncs: 0, reconnects: 0 };
  #owed: (() => void)[] = [];
  #owedQuotes = new Map<string, Quote>();
  #frame = false;

  constructor(url: string, options: FeedOptions = {}) {
    this.#options = options;
    this.#around = surroundings(options.surroundings);
    this.#address = addressOf(url);
    const { backoffMinMs: minMs = 500, backoffMaxMs: maxMs = 30_000, stableMs = 30_000 } = options;
    this.#backoff = new Backoff({ minMs, maxMs, stableMs }, this.#around.random);
    this.#transports = this.#address.replay ? ["websocket"] : [...(options.transports ?? (["websocket", "sse", "polling"] as const))];
    this.#transport = this.#transports[0] ?? "websocket";
    listen("online", this.#online);
    listen("visibilitychange", this.#visible);
    this.#watch();
    void this.#connect();
  }

  // -- what is wanted ------------------------------------------------------------------------------------------------

  /** Quotes of `symbols`, names or patterns: `onQuote` is called with each that has changed. */
  subscribe(
    symbols: readonly string[],
    onQuote?: (quote: Quote) => void,
    options: { intervalMs?: number; fields?: readonly Field[]; onRejected?: Rejected } = {},
  ): Subscription {
    const subscription = this.#want({ channel: "ticker", symbols, onQuote, ...options });
    if (onQuote !== undefined) {
      for (const [symbol, quote] of this.#dialogue.mirror.quotes) {
        if (symbols.includes(symbol)) this.#deliver(() => onQuote(this.quote(symbol) ?? quote));
      }
    }
    return subscription;
  }

  /** Every trade of `symbols`, in order; what is lost is told to `onGap`. */
  subscribeTrades(
    symbols: readonly string[],
    onTrade: (trade: Trade) => void,
    options: { intervalMs?: number; onGap?: (gap: Gap) => void; onRejected?: Rejected } = {},
  ): Subscription {
    return this.#want({ channel: "trades", symbols, onTrade, ...options });
  }

  /**
   * Bars of `symbols` as they change, and once more when they close. A server has one interval for each string: of two
   * subscriptions to the same string with different ones the later is served, and the earlier told `replaced`.
   */
  subscribeBars(
    symbols: readonly string[],
    interval: BarInterval,
    onBar: (bar: LiveBar) => void,
    options: { intervalMs?: number; onRejected?: Rejected } = {},
  ): Subscription {
    for (const name of symbols) {
      for (const other of this.#dialogue.interests.naming("bars", name)) {
        if (other.interval !== interval) this.#deliver(() => other.onRejected?.(name, "replaced"));
      }
    }
    return this.#want({ channel: "bars", symbols, interval, onBar, ...options });
  }

  #want(wanted: Wanted): Subscription {
    this.#say(this.#dialogue.add(wanted));
    this.#follow();
    return {
      symbols: wanted.symbols,
      close: () => {
        this.#say(this.#dialogue.remove(wanted));
        this.#follow();
      },
    };
  }

  // -- what is known -------------------------------------------------------------------------------------------------

  /** The newest quote of a symbol that is watched; while not connected, the last one known. */
  quote(symbol: string): Quote | undefined {
    return this.#dialogue.mirror.quotes.get(symbol);
  }

  get status(): Status {
    return this.#status;
  }

  get stats(): Stats {
    return { ...this.#stats, resumes: this.#dialogue.resumes };
  }

  /** Calls back with each change of the status; returns what ends that. */
  onStatus(callback: (status: Status) => void): () => void {
    this.#statusListeners.add(callback);
    return () => void this.#statusListeners.delete(callback);
  }

  /** Calls back with what there is to tell beside data; returns what ends that. */
  onNotice(callback: (notice: Notice) => void): () => void {
    this.#noticeListeners.add(callback);
    return () => void this.#noticeListeners.delete(callback);
  }

  // -- history, from the same server ---------------------------------------------------------------------------------

  async snapshot(symbols: readonly string[], fields?: readonly Field[]): Promise<{ epoch: string; ts: number; items: Quote[] }> {
    const query = new URLSearchParams({ symbols: symbols.join(","), ...(fields ? { fields: fields.join(",") } : {}) });
    return this.#get(`/v1/snapshot?${query}`);
  }

  async symbols(prefix = "", limit = 100): Promise<{ epoch: string; items: SymbolEntry[]; next: string | null }> {
    return this.#get(`/v1/symbols?${new URLSearchParams({ prefix, limit: String(limit) })}`);
  }

  /** What there is to replay. The first answer may take the server a while: it reads all of it. */
  async sources(): Promise<Source[]> {
    const { items } = await this.#get<{ items: Source[] }>("/v1/sources");
    return items;
  }

  async trades(symbol: string, limit = 100): Promise<Trade[]> {
    const { items } = await this.#get<{ items: Trade[] }>(`/v1/trades/${encodeURIComponent(symbol)}?limit=${limit}`);
    return items;
  }

  async bars(symbol: string, interval: BarInterval, limit = 500): Promise<Bar[]> {
    const path = `/v1/bars/${encodeURIComponent(symbol)}?interval=${interval}&limit=${limit}`;
    const { items } = await this.#get<{ items: Bar[] }>(path);
    return items;
  }

  async #get<T>(path: string): Promise<T> {
    const headers = { accept: "application/json", ...authorization(this.#token) };
    const response = await this.#around.fetch(`${this.#address.http}${path}`, { headers });
    if (!response.ok) throw new Error(await reason(response));
    return (await response.json()) as T;
  }

  // -- the clock of a replay -----------------------------------------------------------------------------------------

  play(): void {
    this.#control("play", {});
  }

  pause(): void {
    this.#control("pause", {});
  }

  speed(value: number | "max"): void {
    this.#control("speed", { value });
  }

  /** Go to a time, in microseconds since 1970. */
  seek(ts: number): void {
    this.#control("seek", { ts: Math.round(ts) });
  }

  step(rounds = 1): void {
    this.#control("step", { rounds });
  }

  #control(op: "play" | "pause" | "speed" | "seek" | "step", members: Record<string, unknown>): void {
    if (!this.#address.replay) throw new Error(`${op}: expected a feed of a replay`);
    this.#say([this.#dialogue.control(op, members)]);
  }

  // -- connections ---------------------------------------------------------------------------------------------------

  /** End it for good. */
  close(): void {
    this.#end();
    this.#set({ state: "closed", error: null, retryAt: null });
  }

  /** Try again at once, where it waits or was refused for good: with another token, say. */
  reconnect(token?: FeedOptions["token"]): void {
    if (token !== undefined) this.#options.token = token;
    this.#drop();
    this.#watch();
    void this.#connect();
  }

  #end(): void {
    this.#drop();
    unlisten("online", this.#online);
    unlisten("visibilitychange", this.#visible);
  }

  #drop(): void {
    this.#attempt++;
    for (const timer of this.#timers) this.#around.clearTimeout(timer);
    this.#timers.clear();
    this.#link?.close();
    this.#probe?.close();
    this.#link = this.#probe = null;
    this.#dialogue.lost();
  }

  #after(ms: number, then: () => void): unknown {
    const timer = this.#around.setTimeout(() => {
      this.#timers.delete(timer);
      then();
    }, ms);
    this.#timers.add(timer);
    return timer;
  }

  async #connect(): Promise<void> {
    const attempt = ++this.#attempt;
    this.#set({ state: "connecting", retryAt: null, transport: this.#transport });
    this.#welcomedAt = null;
    const { token = null } = this.#options;
    try {
      this.#token = typeof token === "function" ? await token() : token;
    } catch (failure) {
      if (attempt === this.#attempt) this.#wait({ code: "token", message: String(failure) });
      return;
    }
    if (attempt !== this.#attempt) return;
    this.#tokenUsed = this.#token;
    this.#heardAt = this.#around.now();
    const link = this.#open(this.#transport, {
      opened: () => {
        this.#heardAt = this.#around.now();
        this.#say(this.#dialogue.opened(link.talks, this.#token));
        this.#follow();
      },
      message: (text) => this.#hear(text),
      ended: (ending) => this.#ended(ending),
    });
    this.#link = link;
    this.#after(this.#options.connectTimeoutMs ?? 10_000, () => {
      if (attempt === this.#attempt && !this.#dialogue.welcomed) this.#ended({ kind: "blocked", message: "no answer in time" });
    });
  }

  #open(transport: TransportName, events: LinkEvents): Link {
    const { http, socket } = this.#address;
    if (transport === "websocket") {
      try {
        return openWebSocket(socket, events, this.#around);
      } catch (failure) {
        queueMicrotask(() => events.ended({ kind: "blocked", message: String(failure) }));
        return { talks: true, send() {}, follow() {}, close() {} };
      }
    }
    if (transport === "sse") return openEvents(http, this.#token, this.#lastEvents, events, this.#around);
    return openPolling(http, this.#token, events, this.#around);
  }

  #say(commands: readonly Command[]): void {
    for (const command of commands) this.#link?.send(command);
  }

  /** Tell a link that does not talk what is wanted. */
  #follow(): void {
    if (this.#link !== null && !this.#link.talks) this.#link.follow(this.#dialogue.asks());
  }

  #ended(ending: Ending): void {
    const attempt = this.#attempt;
    const welcomed = this.#dialogue.welcomed;
    this.#drop();
    const error = { code: ending.code === undefined ? ending.kind : String(ending.code), message: ending.message };
    if (this.#isFinal(ending)) {
      this.#set({ state: "closed", error, retryAt: null, rttMs: null });
      return;
    }
    if (this.#address.replay && welcomed && this.#dialogue.caughtUp) this.#address.live();
    else if (this.#address.replay && welcomed) {
      // Its clock and its state went with the connection.
      this.#set({ state: "closed", error: { code: "replay_lost", message: ending.message }, retryAt: null, rttMs: null });
      return;
    }
    if (!welcomed && ending.kind === "blocked" && this.#transports.length > 1) void this.#fallBack(attempt + 1, error);
    else this.#wait(error, ending.afterMs);
  }

  #isFinal({ kind, code }: Ending): boolean {
    if (kind === "closed" && code === 4401) return typeof this.#options.token !== "function";
    if (kind === "closed") return code === 1000 || (code !== undefined && FINAL_CODES.has(code));
    if (kind === "refused" && code === 401 && this.#welcomedAt !== null) return typeof this.#options.token !== "function";
    return kind === "refused" && code !== undefined && code < 500 && code !== 429 && code !== 408;
  }

  /** No WebSocket came about: where the server answers to plain requests, it is WebSockets that are blocked. */
  async #fallBack(attempt: number, error: { code: string; message: string }): Promise<void> {
    const answers = await this.#around.fetch(`${this.#address.http}/livez`, { cache: "no-store" }).then(
      (response) => response.ok,
      () => false,
    );
    if (attempt !== this.#attempt) return;
    const next = this.#transports[this.#transports.indexOf(this.#transport) + 1];
    if (answers && next !== undefined) {
      this.#transport = next;
      this.#watch();
      void this.#connect();
    } else {
      this.#transport = this.#transports[0] ?? "websocket";
      this.#wait(answers ? error : { code: "unreachable", message: "the server does not answer" });
    }
  }

  #wait(error: { code: string; message: string }, afterMs = 0): void {
    const lived = this.#welcomedAt === null ? 0 : this.#around.now() - this.#welcomedAt;
    const delay = this.#backoff.delayMs(lived, afterMs);
    this.#set({ state: "waiting", error, retryAt: this.#around.now() + delay, rttMs: null, feeds: {} });
    this.#after(delay, () => this.#again());
    this.#watch();
  }

  #again(): void {
    this.#stats.reconnects++;
    void this.#connect();
  }

  /** Over another way: see now and then whether a WebSocket comes about by now. */
  #upgrade(): void {
    if (this.#transport === "websocket" || !this.#transports.includes("websocket") || this.#probe !== null) return;
    const probe = this.#open("websocket", {
      opened: () => {
        if (this.#probe !== probe) return;
        this.#link?.close();
        this.#dialogue.lost();
        this.#link = probe;
        this.#probe = null;
        this.#transport = "websocket";
        this.#say(this.#dialogue.opened(true, this.#token));
      },
      message: (text) => {
        if (this.#link === probe) this.#hear(text);
      },
      ended: (ending) => {
        if (this.#link === probe) this.#ended(ending);
        else if (this.#probe === probe) this.#probe = null;
      },
    });
    this.#probe = probe;
    this.#after(this.#options.connectTimeoutMs ?? 10_000, () => {
      if (this.#probe === probe) {
        probe.close();
        this.#probe = null;
      }
    });
  }

  // -- time ----------------------------------------------------------------------------------------------------------

  /** Look regularly whether the connection is alive: a timer that comes much too late tells that we have slept. */
  #watch(): void {
    let expected = this.#around.now() + LOOK_MS;
    let upgradeAt = this.#around.now() + (this.#options.upgradeMs ?? 60_000);
    const look = (): void => {
      const now = this.#around.now();
      if (now - expected > SLEPT_MS) this.#wake();
      else if (this.#dialogue.welcomed) {
        if (now - this.#heardAt > this.#patienceMs) this.#ended({ kind: "broken", message: "nothing was heard in time" });
        else if (now - this.#askedAt >= PING_MS) this.#ping();
      }
      if (now >= upgradeAt) {
        upgradeAt = now + (this.#options.upgradeMs ?? 60_000);
        if (this.#dialogue.welcomed) this.#upgrade();
      }
      if (this.#status.state === "closed") return;
      expected = this.#around.now() + LOOK_MS;
      this.#watching = this.#after(LOOK_MS, look);
    };
    this.#around.clearTimeout(this.#watching);
    this.#timers.delete(this.#watching);
    this.#watching = this.#after(LOOK_MS, look);
  }

  #watching: unknown;

  get #patienceMs(): number {
    return Math.max(HEARTBEATS_MISSED * this.#dialogue.heartbeatMs, LOOK_MS);
  }

  #ping(): void {
    if (this.#link?.talks !== true || this.#pingedAt !== null) return;
    this.#pingedAt = this.#askedAt = this.#around.now();
    this.#say([this.#dialogue.ping()]);
  }

  /** We may have slept: the connection is to prove itself, and what waits need not wait. */
  #wake(): void {
    if (this.#status.state === "waiting") {
      this.#drop();
      this.#watch();
      this.#again();
    } else if (this.#dialogue.welcomed) {
      const asked = (this.#heardAt = this.#around.now()); // what was not heard in our sleep says nothing
      this.#pingedAt = null;
      this.#ping();
      this.#after(WAKE_TIMEOUT_MS, () => {
        if (this.#dialogue.welcomed && this.#heardAt <= asked) this.#ended({ kind: "broken", message: "dead after a sleep" });
      });
    }
  }

  #online = (): void => this.#wake();

  #visible = (): void => {
    if (globalThis.document?.visibilityState === "visible" && this.#around.now() - this.#heardAt > SLEPT_MS) this.#wake();
  };

  // -- what is heard -------------------------------------------------------------------------------------------------

  #hear(text: string): void {
    this.#stats.messages++;
    this.#stats.bytes += text.length;
    this.#heardAt = this.#around.now();
    let effects: Effects;
    try {
      const message = parse(text);
      if (message === null) return;
      if (message.type === "pong" && this.#pingedAt !== null) {
        this.#set({ rttMs: this.#heardAt - this.#pingedAt });
        this.#pingedAt = null;
      }
      const before = this.#dialogue.welcomed;
      effects = this.#dialogue.receive(message);
      if (this.#dialogue.welcomed && !before) this.#welcomed();
      if (["heartbeat", "status", "epoch", "clock", "replay_completed", "live", "welcome"].includes(message.type)) this.#tellStatus();
    } catch (failure) {
      if (!(failure instanceof ProtocolError || failure instanceof TypeError)) throw failure;
      this.#ended({ kind: "broken", message: failure.message });
      return;
    }
    this.#carryOut(effects);
  }

  #welcomed(): void {
    this.#welcomedAt = this.#around.now();
    this.#pingedAt = null;
    this.#ping();
  }

  #tellStatus(): void {
    const { mode, clock, feeds, span, delayMs, mirror, welcomed } = this.#dialogue;
    const open = welcomed ? ({ state: "open", error: null, retryAt: null, transport: this.#transport } as const) : {};
    this.#set({ ...open, mode, clock, feeds, span, delayMs, epoch: mirror.epoch, heardAt: this.#heardAt });
  }

  #carryOut(effects: Effects): void {
    this.#say(effects.commands);
    for (const quote of effects.quotes) this.#changed(quote);
    for (const trade of effects.trades) {
      for (const wanted of this.#dialogue.interests.concerned("trades", trade.symbol)) this.#deliver(() => wanted.onTrade?.(trade));
    }
    for (const gap of effects.gaps) {
      for (const wanted of this.#dialogue.interests.concerned("trades", gap.symbol)) this.#deliver(() => wanted.onGap?.(gap));
    }
    for (const bar of effects.bars) {
      for (const wanted of this.#dialogue.interests.concerned("bars", bar.symbol)) {
        if (wanted.interval === bar.interval) this.#deliver(() => wanted.onBar?.(bar));
      }
    }
    for (const { channel, rejection } of effects.rejections) this.#rejected(channel, rejection);
    for (const notice of effects.notices) {
      if (notice.type === "slow") this.#stats.skipped += notice.skipped;
      if (notice.type === "resync") this.#stats.resyncs++;
      for (const listener of this.#noticeListeners) this.#deliver(() => listener(notice));
    }
    if (effects.failure !== undefined) {
      const { code, message, final } = effects.failure;
      this.#lastEvents.clear(); // what they stand for may not be what is held
      const another = code.startsWith("auth_") && typeof this.#options.token === "function" && this.#tokenUsed !== null;
      this.#drop();
      if (final && !another) this.#set({ state: "closed", error: { code, message }, retryAt: null });
      else this.#wait({ code, message });
    } else if (effects.leaveMs !== undefined) this.#leave(effects.leaveMs);
    if (effects.renewMs !== undefined && typeof this.#options.token === "function") this.#renew(this.#options.token, effects.renewMs);
  }

  /** Show another token in a while. One that cannot be had is told of: the connection lasts as long as the last one. */
  #renew(token: () => string | Promise<string>, afterMs: number): void {
    const attempt = this.#attempt;
    this.#after(Math.min(afterMs, TIMER_MS_MAX), () => {
      Promise.resolve()
        .then(token)
        .then(
          (next) => {
            if (attempt === this.#attempt) this.#say(this.#dialogue.renew(next));
          },
          (failure: unknown) => {
            for (const listener of this.#noticeListeners) listener({ type: "error", code: "token", message: String(failure) });
          },
        );
    });
  }

  /** The server goes: come back after the time that it gave us, and read on until then. */
  #leave(afterMs: number): void {
    const link = this.#link;
    this.#after(this.#backoff.spreadMs(afterMs), () => {
      if (this.#link !== link || link === null) return;
      this.#drop();
      this.#watch();
      this.#again();
    });
  }

  #rejected(channel: Channel, { symbol, code }: Rejection): void {
    for (const wanted of this.#dialogue.interests.naming(channel, symbol)) this.#deliver(() => wanted.onRejected?.(symbol, code));
  }

  // -- calling back --------------------------------------------------------------------------------------------------

  #changed(quote: Quote): void {
    if (this.#options.frames === true) {
      this.#owedQuotes.set(quote.symbol, quote);
      this.#paint();
    } else this.#tellQuote(quote);
  }

  #tellQuote(quote: Quote): void {
    for (const wanted of this.#dialogue.interests.concerned("ticker", quote.symbol)) {
      if (wanted.onQuote !== undefined) safely(() => wanted.onQuote?.(quote));
    }
  }

  /** Call back, be it with the next frame: what it throws is reported, and stops nothing here. */
  #deliver(callback: () => void): void {
    if (this.#options.frames !== true) {
      safely(callback);
      return;
    }
    this.#owed.push(callback);
    if (this.#owed.length >= OWED_MAX) this.#flush();
    else this.#paint();
  }

  #paint(): void {
    if (this.#frame) return;
    this.#frame = true;
    const paint = (): void => this.#flush();
    if (globalThis.document?.visibilityState === "visible" && typeof requestAnimationFrame === "function") requestAnimationFrame(paint);
    else this.#around.setTimeout(paint, FRAME_MS_HIDDEN);
  }

  #flush(): void {
    this.#frame = false;
    const owed = this.#owed;
    const quotes = this.#owedQuotes;
    this.#owed = [];
    this.#owedQuotes = new Map();
    for (const quote of quotes.values()) this.#tellQuote(quote);
    for (const callback of owed) safely(callback);
  }

  #set(change: Partial<Status>): void {
    const names = Object.keys(change) as (keyof Status)[];
    if (names.every((name) => Object.is(this.#status[name], change[name]))) return;
    this.#status = { ...this.#status, ...change };
    for (const listener of this.#statusListeners) safely(() => listener(this.#status));
  }
}

/** Trades, bars and notices that wait for a frame at most. */
const OWED_MAX = 10_000;

/** A callback that throws is a fault of its own: it is reported as uncaught, and the feed goes on. */
function safely(callback: () => void): void {
  try {
    callback();
  } catch (failure) {
    if (typeof reportError === "function") reportError(failure);
    else
      queueMicrotask(() => {
        throw failure;
      });
  }
}

class Address {
  constructor(
    readonly http: string,
    public socket: string,
    public replay: boolean,
  ) {}

  /** The live stream beside a replay that has caught up. */
  live(): void {
    this.socket = this.socket.replace(/\/v1\/replay.*$/, "/v1/stream");
    this.replay = false;
  }
}

/** What an address means: that of a server, of its `/v1/stream`, or of a replay. */
function addressOf(url: string): Address {
  const page = globalThis.location?.href;
  const whole = new URL(url === "" ? "/" : url, page);
  const secure = whole.protocol === "https:" || whole.protocol === "wss:";
  if (!secure && whole.protocol !== "http:" && whole.protocol !== "ws:") {
    throw new TypeError(`url: expected an address such as https://host:8000, was ${url}`);
  }
  const place = /\/v1\/(stream|replay)$/.exec(whole.pathname);
  const folder = (place === null ? whole.pathname : whole.pathname.slice(0, place.index)).replace(/\/$/, "");
  const path = `${folder}/v1/${place?.[1] ?? "stream"}`;
  const http = `${secure ? "https" : "http"}://${whole.host}${folder}`;
  return new Address(http, `${secure ? "wss" : "ws"}://${whole.host}${path}${whole.search}`, place?.[1] === "replay");
}

function surroundings(own: Partial<Surroundings> = {}): Surroundings {
  return {
    WebSocket: globalThis.WebSocket,
    fetch: (input, init) => globalThis.fetch(input, init),
    now: () => Date.now(),
    random: () => Math.random(),
    setTimeout: (callback, ms) => globalThis.setTimeout(callback, ms),
    clearTimeout: (timer) => globalThis.clearTimeout(timer as number),
    ...own,
  };
}

function listen(event: string, listener: () => void): void {
  (event === "online" ? globalThis : globalThis.document)?.addEventListener?.(event, listener);
}

function unlisten(event: string, listener: () => void): void {
  (event === "online" ? globalThis : globalThis.document)?.removeEventListener?.(event, listener);
}

/** A feed of a server: `https://host:8000`, the page's own where empty, or a replay's address. */
export function connect(url: string, options?: FeedOptions): Feed {
  return new Feed(url, options);
}
