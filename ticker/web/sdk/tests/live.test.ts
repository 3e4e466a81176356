/** Against a real server, whose address TICKER_URL gives: left out where it gives none. */

import { expect, it } from "vitest";
import { WebSocket } from "ws";
import { type Bar, connect, type FeedOptions, type Quote, type Trade } from "../src/index.ts";

const url = process.env.TICKER_URL ?? "";

async function until(ready: () => boolean, what: string): Promise<void> {
  for (let left = 1000; !ready(); left--) {
    if (left === 0) throw new Error(`expected ${what} within ten seconds`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

it.skipIf(url === "").each<[string, FeedOptions]>([
  ["websocket", {}],
  ["sse", { transports: ["sse"] }],
  ["polling", { transports: ["polling"] }],
])("over %s, what is held is what the server has at that seq, and every trade comes", async (transport, options) => {
  const feed = connect(url, { surroundings: { WebSocket: WebSocket as never }, ...options });
  try {
    const { items } = await feed.symbols("", 5);
    const symbols = items.map(({ symbol }) => symbol);
    const bySeq = new Map<string, Quote>();
    const trades: Trade[] = [];
    const bars: Bar[] = [];
    feed.subscribe(symbols, (quote) => bySeq.set(`${quote.symbol} ${quote.seq}`, quote), { intervalMs: 0 });
    feed.subscribeTrades(symbols, (trade) => trades.push(trade), { intervalMs: 20, onGap: () => expect.fail("no gap") });
    feed.subscribeBars(symbols, "1s", (bar) => bars.push(bar));
    let compared = 0;
    while (compared < 20) {
      await new Promise((resolve) => setTimeout(resolve, 50));
      const whole = await feed.snapshot(symbols);
      await new Promise((resolve) => setTimeout(resolve, 50));
      for (const item of whole.items) {
        const held = bySeq.get(`${item.symbol} ${item.seq}`);
        if (held === undefined) continue;
        const { hi: _hi, lo: _lo, vol: _vol, ...state } = held;
        expect(state).toEqual(item);
        compared++;
      }
    }
    const [symbol] = symbols;
    const of = (): Trade[] => trades.filter((trade) => trade.symbol === symbol);
    await until(() => of().length > 5 && bars.some(({ closed }) => closed), "trades and a closed bar");
    const told = of();
    const listed = await feed.trades(symbol ?? "", 500);
    const from = listed.findIndex(({ seq }) => seq === told[0]?.seq);
    expect(from).toBeGreaterThanOrEqual(0);
    expect(listed.slice(from, from + told.length)).toEqual(told);
    expect(feed.status).toMatchObject({ state: "open", transport });
    expect(feed.stats.resyncs).toBe(0);
  } finally {
    feed.close();
  }
}, 30_000);
