import { type Ask, isPattern } from "../interests.ts";
import type { Quote, ServerMessage } from "../protocol.ts";
import { authorization, type Ending, greeting, type Link, type LinkEvents, reason, retryAfterMs, type Surroundings } from "./link.ts";

/** How long the server may keep a request that has no news. */
const WAIT_S = 10;
/** The least time between two requests for the same. */
const PACE_MS = 1000;
/** A request that hangs is given up after three of these. */
const HEARTBEAT_MS = WAIT_S * 1000;
const TRADES = 100;
const BARS = 3;

/**
 * Plain requests, where nothing that streams gets through: quotes by long-polling, trades and bars of named symbols by
 * asking for the newest again and again. It tells what it finds as messages of the protocol.
 */
export function openPolling(base: string, token: string | null, events: LinkEvents, around: Surroundings): Link {
  const loops = new Map<string, AbortController>();
  let done = false;
  const greeter = new AbortController();
  let epoch: string | null = null;
  const greeted = greet();

  function tell(message: ServerMessage): void {
    if (!done) events.message(JSON.stringify(message));
  }

  function learn(now: string): void {
    if (epoch !== null && epoch !== now) tell({ type: "epoch", epoch: now });
    epoch = now;
  }

  function close(): void {
    done = true;
    greeter.abort();
    for (const loop of loops.values()) loop.abort();
    loops.clear();
  }

  function end(ending: Ending): void {
    if (done) return;
    close();
    events.ended(ending);
  }

  async function greet(): Promise<void> {
    try {
      const greeted = await greeting(base, authorization(token), HEARTBEAT_MS, greeter.signal, around);
      if (!("type" in greeted)) {
        end(greeted);
        return;
      }
      epoch = greeted.epoch;
      tell(greeted);
    } catch (failure) {
      if (!greeter.signal.aborted) end({ kind: "broken", message: String(failure) });
    }
  }

  async function request(address: string, signal: AbortSignal, etag?: string): Promise<Response> {
    const headers: Record<string, string> = { accept: "application/json", ...authorization(token) };
    if (etag !== undefined) headers["if-none-match"] = etag;
    const response = await around.fetch(`${base}${address}`, { headers, signal, cache: "no-store" });
    if (response.ok || response.status === 304 || response.status === 404) return response;
    const ending: Ending = { kind: "refused", code: response.status, message: await reason(response), afterMs: retryAfterMs(response) };
    throw new Ended(ending);
  }

  async function quotes({ terms, symbols }: Ask, signal: AbortSignal): Promise<void> {
    const query = new URLSearchParams({ symbols: symbols.join(","), wait: String(WAIT_S) });
    if (terms.fields !== undefined) query.set("fields", terms.fields.join(","));
    const told = new Map<string, string>();
    let etag: string | undefined;
    await greeted;
    while (!signal.aborted) {
      const response = await request(`/v1/snapshot?${query}`, signal, etag);
      if (response.status !== 304) {
        etag = response.headers.get("etag") ?? undefined;
        const body = (await response.json()) as { epoch: string; ts: number; items: Quote[] };
        learn(body.epoch);
        const items = body.items.filter((item) => told.get(item.symbol) !== `${body.epoch} ${item.seq}`);
        for (const item of items) told.set(item.symbol, `${body.epoch} ${item.seq}`);
        if (items.length > 0) tell({ type: "snapshot", ts: body.ts, items });
      }
      tell({ type: "heartbeat", ts: 0, feeds: {} });
      await pause(Math.max(PACE_MS, terms.interval_ms ?? 0), signal);
    }
  }

  async function newest({ terms, symbols }: Ask, signal: AbortSignal): Promise<void> {
    const named = symbols.filter((name) => !isPattern(name));
    await greeted;
    while (!signal.aborted) {
      for (const symbol of named) {
        const path = encodeURIComponent(symbol);
        const address =
          terms.channel === "trades" ? `/v1/trades/${path}?limit=${TRADES}` : `/v1/bars/${path}?interval=${terms.interval}&limit=${BARS}`;
        const response = await request(address, signal);
        if (response.status === 404) continue; // no feed has brought it yet
        const body = (await response.json()) as { epoch: string; ts: number; items: never[] };
        learn(body.epoch);
        if (terms.channel === "trades") tell({ type: "trades", ts: body.ts, items: body.items });
        else tell({ type: "bars", interval: terms.interval ?? "1m", ts: body.ts, items: body.items });
      }
      tell({ type: "heartbeat", ts: 0, feeds: {} });
      await pause(PACE_MS, signal);
    }
  }

  function pause(ms: number, signal: AbortSignal): Promise<void> {
    return new Promise((resolve) => {
      const timer = around.setTimeout(resolve, ms);
      signal.addEventListener("abort", () => {
        around.clearTimeout(timer);
        resolve();
      });
    });
  }

  queueMicrotask(() => {
    if (!done) events.opened();
  });
  return {
    talks: false,
    send() {},
    follow(asks: readonly Ask[]) {
      if (done) return;
      const wanted = new Map(asks.map((ask) => [JSON.stringify(ask), ask]));
      for (const [id, loop] of loops) {
        if (!wanted.has(id)) {
          loop.abort();
          loops.delete(id);
        }
      }
      for (const [id, ask] of wanted) {
        if (loops.has(id)) continue;
        const loop = new AbortController();
        loops.set(id, loop);
        (ask.terms.channel === "ticker" ? quotes(ask, loop.signal) : newest(ask, loop.signal)).catch((failure: unknown) => {
          if (!loop.signal.aborted) end(failure instanceof Ended ? failure.ending : { kind: "broken", message: String(failure) });
        });
      }
    },
    close,
  };
}

class Ended extends Error {
  constructor(readonly ending: Ending) {
    super(ending.message);
  }
}
