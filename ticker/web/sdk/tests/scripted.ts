/** A server that says what a test has it say, and time that goes by when told to. */

import type { Command, ServerMessage } from "../src/protocol.ts";
import type { Surroundings } from "../src/transports/link.ts";

export class Time {
  now = 1_700_000_000_000;
  #timers = new Map<number, { at: number; callback: () => void }>();
  #ids = 0;

  readonly setTimeout = (callback: () => void, ms: number): number => {
    this.#timers.set(++this.#ids, { at: this.now + ms, callback });
    return this.#ids;
  };

  readonly clearTimeout = (id: unknown): void => void this.#timers.delete(id as number);

  /** Let time go by, and all that is due happen in its order. */
  async pass(ms: number): Promise<void> {
    const until = this.now + ms;
    for (;;) {
      await settle();
      const [next] = [...this.#timers].filter(([, { at }]) => at <= until).sort(([, a], [, b]) => a.at - b.at);
      if (next === undefined) break;
      const [id, { at, callback }] = next;
      this.#timers.delete(id);
      this.now = Math.max(this.now, at);
      callback();
    }
    this.now = until;
    await settle();
  }

  /** The machine sleeps: time has gone by, and no timer has fired. */
  sleep(ms: number): void {
    this.now += ms;
  }

  get timers(): number {
    return this.#timers.size;
  }
}

/** Let promises that are kept be noticed. */
export async function settle(): Promise<void> {
  for (let turn = 0; turn < 20; turn++) await Promise.resolve();
}

/** The server's end of one WebSocket. */
export class Peer {
  readonly said: Command[] = [];
  readyState = 0;
  onopen: (() => void) | null = null;
  onmessage: ((event: { data: unknown }) => void) | null = null;
  onclose: ((event: { code: number; reason: string }) => void) | null = null;
  closedWith: number | null = null;

  constructor(
    readonly url: string,
    readonly protocol: string,
  ) {}

  send(text: string): void {
    this.said.push(JSON.parse(text) as Command);
  }

  close(code: number): void {
    this.readyState = 3;
    this.closedWith = code;
  }

  /** Take the connection, and welcome the client. */
  welcome(more: Partial<Extract<ServerMessage, { type: "welcome" }>> = {}): void {
    this.open();
    const terms = { heartbeat_ms: 1000, interval_ms: 100, limits: { symbols: 1000, message_bytes: 262_144 } };
    this.say({ type: "welcome", protocol: "ticker.v1", mode: "live", epoch: "e-1", ts: 1, ...terms, ...more });
  }

  open(): void {
    this.readyState = 1;
    this.onopen?.();
  }

  say(...messages: ServerMessage[]): void {
    for (const message of messages) this.raw(JSON.stringify(message));
  }

  raw(data: unknown): void {
    this.onmessage?.({ data });
  }

  end(code = 1006, reason = ""): void {
    this.readyState = 3;
    this.onclose?.({ code, reason });
  }

  /** What it was told since this was asked last, but for pings. */
  take(): Command[] {
    return this.said.splice(0).filter(({ op }) => op !== "ping");
  }

  /** Answer what was asked as a server does that takes all. */
  accept(): Command[] {
    const commands = this.take();
    for (const { op, id, channel = "ticker", symbols, interval } of commands) {
      if (op !== "subscribe") continue;
      const about = { id: id as number, channel, symbols, pending: [], patterns: [], resumed: {}, rejected: [], interval_ms: 100 };
      this.raw(JSON.stringify({ type: "subscribed", ...about, ...(interval === undefined ? {} : { interval }) }));
    }
    return commands;
  }
}

export interface World {
  readonly time: Time;
  readonly peers: Peer[];
  readonly surroundings: Surroundings;
  /** Answers to plain requests, by how their address begins. */
  readonly answers: Map<string, () => Response | Promise<Response>>;
  readonly asked: { address: string; headers: Record<string, string> }[];
}

export function world(random = () => 0.5): World {
  const time = new Time();
  const peers: Peer[] = [];
  const answers = new Map<string, () => Response | Promise<Response>>();
  const asked: World["asked"] = [];
  class Socket extends Peer {
    constructor(url: string, protocol: string) {
      super(url, protocol);
      peers.push(this);
    }
  }
  const surroundings: Surroundings = {
    WebSocket: Socket as unknown as NonNullable<Surroundings["WebSocket"]>,
    fetch: async (input, init) => {
      const address = String(input);
      asked.push({ address, headers: { ...(init?.headers as Record<string, string>) } });
      const path = address.replace(/^https?:\/\/[^/]+/, "");
      const [, answer] = [...answers].find(([start]) => path.startsWith(start)) ?? [];
      if (answer === undefined) throw new TypeError("fetch failed");
      return answer();
    },
    now: () => time.now,
    random,
    setTimeout: time.setTimeout,
    clearTimeout: time.clearTimeout,
  };
  return { time, peers, surroundings, answers, asked };
}

export function last<T>(list: readonly T[]): T {
  const found = list.at(-1);
  if (found === undefined) throw new Error("expected at least one");
  return found;
}

export function quote(symbol: string, seq: number, bid: number, n = seq): { symbol: string; seq: number; n: number; ts: number; bid: number } {
  return { symbol, seq, n, ts: seq, bid };
}
