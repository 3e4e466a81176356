import { afterEach, describe, expect, it, vi } from "vitest";
import { connect, type Feed, type FeedOptions, type Notice, type Quote, type Trade } from "../src/index.ts";
import { last, type Peer, quote, settle, type World, world } from "./scripted.ts";

const feeds: Feed[] = [];
afterEach(() => {
  for (const feed of feeds.splice(0)) feed.close();
});

async function open(around: World, options: FeedOptions = {}, url = "http://host:8000"): Promise<Feed> {
  const feed = connect(url, { surroundings: around.surroundings, ...options });
  feeds.push(feed);
  await settle();
  return feed;
}

async function welcomed(options: FeedOptions = {}): Promise<{ around: World; feed: Feed; peer: Peer }> {
  const around = world();
  const feed = await open(around, options);
  const peer = last(around.peers);
  peer.welcome();
  return { around, feed, peer };
}

/** Let time go by on a connection whose heartbeats come, and whose pings are answered. */
async function alive(around: World, peer: Peer, ms: number): Promise<void> {
  for (let passed = 0; passed < ms; passed += 1000) {
    await around.time.pass(Math.min(1000, ms - passed));
    peer.say({ type: "heartbeat", ts: passed, feeds: {} });
    for (const { op, id } of peer.said) if (op === "ping") peer.say({ type: "pong", id: id!, ts: 1 });
  }
}

describe("quotes", () => {
  it("are kept current, immutable, and told as they change", async () => {
    const { feed, peer } = await welcomed();
    const told: Quote[] = [];
    feed.subscribe(["A"], (q) => told.push(q), { fields: ["bid", "last"], intervalMs: 250 });
    expect(peer.accept()).toEqual([
      { op: "subscribe", id: 2, channel: "ticker", symbols: ["A"], fields: ["bid", "last"], interval_ms: 250 },
    ]);
    peer.say({ type: "snapshot", ts: 1, items: [quote("A", 5, 10)] });
    const first = feed.quote("A");
    peer.say({ type: "update", ts: 2, items: [{ symbol: "A", prev: 5, seq: 8, n: 3, ts: 8, bid: 11, hi: 12, lo: 9, vol: 1 }] });
    expect(feed.quote("A")).toEqual({ symbol: "A", seq: 8, n: 8, ts: 8, bid: 11, hi: 12, lo: 9, vol: 1 });
    expect(first).toEqual(quote("A", 5, 10));
    peer.say({ type: "update", ts: 3, items: [{ symbol: "A", prev: 8, seq: 9, n: 1, ts: 9 }] });
    expect(last(told)).toEqual({ symbol: "A", seq: 9, n: 9, ts: 9, bid: 11 });
    expect(told).toHaveLength(3);
  });

  it("ask for a symbol whose chain broke, once, and go on with its snapshot", async () => {
    const { feed, peer } = await welcomed();
    const notices: Notice[] = [];
    feed.onNotice((notice) => notices.push(notice));
    feed.subscribe(["A", "B"]);
    peer.accept();
    peer.say({ type: "snapshot", ts: 1, items: [quote("A", 5, 10), quote("B", 5, 1)] });
    peer.say({ type: "update", ts: 2, items: [{ symbol: "A", prev: 7, seq: 8, n: 1, ts: 8, bid: 0 }] });
    peer.say({ type: "update", ts: 3, items: [{ symbol: "A", prev: 8, seq: 9, n: 1, ts: 9, bid: 0 }] });
    expect(peer.take().map(({ op, symbols }) => [op, symbols])).toEqual([["resync", ["A"]]]);
    expect(feed.quote("A")?.bid).toBe(10);
    peer.say({ type: "snapshot", ts: 4, items: [quote("A", 9, 12)] });
    peer.say({ type: "update", ts: 5, items: [{ symbol: "A", prev: 9, seq: 10, n: 1, ts: 10, bid: 13 }] });
    expect(feed.quote("A")?.bid).toBe(13);
    expect(feed.stats.resyncs).toBe(1);
    expect(notices).toContainEqual({ type: "resync", symbols: ["A"] });
  });

  it("share one subscription among all who want a symbol, as wide and as fast as any wants it", async () => {
    const { feed, peer } = await welcomed();
    const one = feed.subscribe(["A"], () => {}, { fields: ["bid"], intervalMs: 500 });
    const two = feed.subscribe(["A"], () => {}, { fields: ["last"], intervalMs: 250 });
    const three = feed.subscribe(["A"], () => {}, { fields: ["bid"], intervalMs: 1000 });
    expect(peer.accept().map(({ fields, interval_ms }) => [fields, interval_ms])).toEqual([
      [["bid"], 500],
      [["bid", "last"], 250],
    ]);
    peer.say({ type: "snapshot", ts: 1, items: [quote("A", 5, 10)] });
    one.close();
    two.close();
    expect(peer.take()).toEqual([]);
    three.close();
    expect(peer.take()).toMatchObject([{ op: "unsubscribe", channel: "ticker", symbols: ["A"] }]);
    expect(feed.quote("A")).toBeUndefined();
  });

  it("of a pattern are told to it, and a name within it keeps what the pattern wants", async () => {
    const { feed, peer } = await welcomed();
    const told: string[] = [];
    feed.subscribe(["v:*"], (q) => told.push(q.symbol), { fields: ["bid"] });
    feed.subscribe(["v:A"], () => {}, { fields: ["last"] });
    expect(peer.accept().map(({ symbols, fields }) => [symbols, fields])).toEqual([
      [["v:*"], ["bid"]],
      [["v:A"], ["bid", "last"]],
    ]);
    peer.say({ type: "snapshot", ts: 1, items: [quote("v:A", 1, 1), quote("v:B", 2, 1)] });
    expect(told).toEqual(["v:A", "v:B"]);
  });

  it("are told to a later subscriber at once", async () => {
    const { feed, peer } = await welcomed();
    feed.subscribe(["A"]);
    peer.accept();
    peer.say({ type: "snapshot", ts: 1, items: [quote("A", 5, 10)] });
    const told = vi.fn();
    feed.subscribe(["A"], told);
    expect(told).toHaveBeenCalledWith(quote("A", 5, 10));
  });

  it("that are refused are told with the reason", async () => {
    const { feed, peer } = await welcomed();
    const refused = vi.fn();
    feed.subscribe(["bad name"], () => {}, { onRejected: refused });
    const [{ id }] = peer.take() as unknown as [{ id: number }];
    const rejected = [{ symbol: "bad name", code: "invalid_symbol" }];
    peer.say({ type: "subscribed", id, channel: "ticker", symbols: [], pending: [], patterns: [], resumed: {}, rejected, interval_ms: 100 });
    expect(refused).toHaveBeenCalledWith("bad name", "invalid_symbol");
  });

  it("go on though a callback throws", async () => {
    const { feed, peer } = await welcomed();
    const report = vi.fn();
    vi.stubGlobal("reportError", report);
    const told = vi.fn();
    feed.subscribe(["A"], () => {
      throw new Error("mine");
    });
    feed.subscribe(["A"], told);
    peer.accept();
    peer.say({ type: "snapshot", ts: 1, items: [quote("A", 5, 10)] });
    vi.unstubAllGlobals();
    expect(report).toHaveBeenCalledTimes(1);
    expect(told).toHaveBeenCalledTimes(1);
  });

  it("come once a frame where that was asked for, the newest of each symbol", async () => {
    const { around, feed, peer } = await welcomed({ frames: true });
    const told: number[] = [];
    feed.subscribe(["A"], (q) => told.push(q.seq));
    peer.accept();
    peer.say({ type: "snapshot", ts: 1, items: [quote("A", 5, 10)] });
    peer.say({ type: "update", ts: 2, items: [{ symbol: "A", prev: 5, seq: 6, n: 1, ts: 6 }] });
    expect(told).toEqual([]);
    await around.time.pass(300);
    expect(told).toEqual([6]);
  });
});

describe("trades and bars", () => {
  const trade = (seq: number, i = 0): Trade => ({ symbol: "A", seq, i, ts: seq, price: 1, size: 1, side: "buy", id: null });
  const bar = (seq: number, closed: boolean, rev = 0) => ({
    ...{ symbol: "A", seq, rev, start: 0, end: 60, open: 1, high: 1, low: 1, close: seq },
    ...{ volume: 1, vwap: 1, trades: 1, closed },
  });

  it("resume where they were, and nothing comes twice", async () => {
    const { around, feed, peer } = await welcomed();
    const told: unknown[] = [];
    feed.subscribeTrades(["A"], (t) => told.push([t.seq, t.i]), { onGap: (gap) => told.push(gap) });
    feed.subscribeBars(["A"], "1m", (b) => told.push(["bar", b.close, b.rev, b.closed]));
    expect(peer.accept()).toMatchObject([{ channel: "trades" }, { channel: "bars", interval: "1m" }]);
    peer.say({ type: "trades", ts: 1, items: [trade(5), trade(5, 1)] });
    peer.say({ type: "bars", interval: "1m", ts: 1, items: [bar(5, true)] });
    peer.end();
    await around.time.pass(1000);
    last(around.peers).welcome();
    expect(last(around.peers).accept()).toMatchObject([
      { channel: "trades", since: { A: 5 }, epoch: "e-1" },
      { channel: "bars", interval: "1m", since: { A: 5 }, epoch: "e-1" },
    ]);
    last(around.peers).say({ type: "gap", channel: "trades", symbol: "A", from: 5, to: 9, count: null });
    last(around.peers).say({ type: "trades", ts: 1, items: [trade(5, 1), trade(10)] });
    last(around.peers).say({ type: "bars", interval: "1m", ts: 1, items: [bar(5, true), bar(10, true, 1)] });
    expect(told).toEqual([
      [5, 0],
      [5, 1],
      ["bar", 5, 0, true],
      { symbol: "A", from: 5, to: 9, count: null },
      [10, 0],
      ["bar", 10, 1, true],
    ]);
  });

  it("that no trade has come of resume from the quote that was held when they were subscribed", async () => {
    const { around, feed, peer } = await welcomed();
    feed.subscribe(["A"]);
    peer.accept();
    peer.say({ type: "snapshot", ts: 1, items: [quote("A", 7, 1)] });
    feed.subscribeTrades(["A"], () => {});
    peer.accept();
    peer.end();
    await around.time.pass(1000);
    last(around.peers).welcome();
    expect(last(around.peers).take()).toMatchObject([{ channel: "ticker" }, { channel: "trades", since: { A: 7 } }]);
  });

  it("of one symbol have one interval: the later subscription is served, the earlier told", async () => {
    const { feed, peer } = await welcomed();
    const told = vi.fn();
    feed.subscribeBars(["A"], "1s", () => {}, { onRejected: told });
    feed.subscribeBars(["A"], "1m", () => {});
    expect(told).toHaveBeenCalledWith("A", "replaced");
    expect(peer.take().map(({ interval }) => interval)).toEqual(["1s", "1m"]);
  });
});

describe("a connection that ends", () => {
  it("comes back after a random wait that grows, and resumes with what is held", async () => {
    const { around, feed, peer } = await welcomed();
    feed.subscribe(["A", "B*"], () => {});
    peer.accept();
    peer.say({ type: "snapshot", ts: 1, items: [quote("A", 5, 10), quote("B1", 6, 1)] });
    peer.end();
    expect(feed.status).toMatchObject({ state: "waiting", retryAt: around.time.now + 250 });
    await around.time.pass(250);
    last(around.peers).end();
    await settle();
    expect(feed.status.retryAt).toBe(around.time.now + 500);
    await around.time.pass(500);
    expect(around.peers).toHaveLength(3);
    last(around.peers).welcome();
    expect(last(around.peers).accept()).toMatchObject([{ symbols: ["A", "B*"], since: { A: 5, B1: 6 }, epoch: "e-1" }]);
    expect(feed.stats.reconnects).toBe(2);
  });

  it("waits little again only after one that lasted", async () => {
    const { around, peer, feed } = await welcomed();
    const waits: number[] = [];
    const end = (which: Peer): void => {
      which.end();
      waits.push((feed.status.retryAt ?? 0) - around.time.now);
    };
    end(peer);
    for (const lasted of [10, 10, 31_000]) {
      await around.time.pass((feed.status.retryAt ?? 0) - around.time.now);
      last(around.peers).welcome();
      for (let at = 0; at < lasted; at += 1000) {
        last(around.peers).say({ type: "heartbeat", ts: 1, feeds: {} });
        await around.time.pass(Math.min(1000, lasted));
      }
      end(last(around.peers));
    }
    expect(waits).toEqual([250, 500, 1000, 250]);
  });

  it.each([
    [1000, "closed"],
    [1006, "waiting"],
    [1012, "waiting"],
    [1013, "waiting"],
    [4400, "closed"],
    [4401, "closed"],
    [4403, "closed"],
    [4408, "waiting"],
    [4429, "waiting"],
  ])("obeys close code %i", async (code, state) => {
    const { peer, feed } = await welcomed();
    peer.end(code, "why");
    expect(feed.status.state).toBe(state);
    if (code !== 1006) expect(feed.status.error).toEqual({ code: String(code), message: "why" });
  });

  it("asks a function for another token after a refusal", async () => {
    const tokens = ["old", "new"];
    const around = world();
    const feed = await open(around, { token: () => tokens.shift() ?? "none" });
    last(around.peers).open();
    expect(last(around.peers).take()).toMatchObject([{ op: "auth", token: "old" }]);
    last(around.peers).end(4401, "expired");
    await around.time.pass(1000);
    last(around.peers).open();
    expect(last(around.peers).take()).toMatchObject([{ op: "auth", token: "new" }]);
    expect(feed.status.state).toBe("connecting");
    expect(around.peers.every(({ url }) => !url.includes("old") && !url.includes("new"))).toBe(true);
  });

  it("tells at once that a token is asked for", async () => {
    const around = world();
    const feed = await open(around);
    last(around.peers).open();
    last(around.peers).say({ type: "auth_required", within_ms: 10_000 });
    expect(feed.status).toMatchObject({ state: "closed", error: { code: "auth_required" } });
    feed.reconnect("secret");
    await settle();
    last(around.peers).open();
    last(around.peers).say({ type: "auth_required", within_ms: 10_000 });
    expect(last(around.peers).take()).toMatchObject([{ op: "auth", token: "secret" }]);
    expect(feed.status.state).toBe("connecting");
  });

  it("shows another token before the last one ends", async () => {
    const tokens = ["first", "second", "third"];
    const around = world();
    const feed = await open(around, { token: async () => tokens.shift() ?? Promise.reject(new Error("no more")) });
    const peer = last(around.peers);
    peer.open();
    const [auth] = peer.take();
    peer.say({ type: "authenticated", id: auth!.id!, expires_in_ms: 10_000 });
    peer.welcome();
    peer.take();
    for (const token of ["second", "third"]) {
      await alive(around, peer, 8000);
      const renewed = peer.take().filter(({ op }) => op === "auth");
      expect(renewed).toMatchObject([{ token }]);
      peer.say({ type: "authenticated", id: renewed[0]!.id!, expires_in_ms: 10_000 });
    }
    const told: Notice[] = [];
    feed.onNotice((notice) => told.push(notice));
    await alive(around, peer, 8000);
    expect(told).toEqual([{ type: "error", code: "token", message: "Error: no more" }]);
    expect(feed.status.state).toBe("open");
  });

  it("goes on with the last token where another one is refused", async () => {
    const around = world();
    const feed = await open(around, { token: () => "t" });
    const peer = last(around.peers);
    peer.welcome();
    peer.say({ type: "authenticated", id: 1, expires_in_ms: 1000 });
    await around.time.pass(800);
    const renewed = peer.take().filter(({ op }) => op === "auth");
    expect(renewed).toHaveLength(2);
    peer.say({ type: "error", id: renewed[1]!.id!, code: "auth_failed", message: "no", fatal: false });
    expect(feed.status.state).toBe("open");
  });

  it("leaves a server that shuts down in its own time, reading on until then", async () => {
    const { around, feed, peer } = await welcomed();
    peer.say({ type: "shutdown", ts: 1, reconnect_after_ms: 1000 });
    expect(feed.status.state).toBe("open");
    await around.time.pass(1249);
    expect(around.peers).toHaveLength(1);
    await around.time.pass(2);
    expect(around.peers).toHaveLength(2);
    expect(peer.closedWith).toBe(1000);
  });

  it("is noticed by missed heartbeats", async () => {
    const { around, feed, peer } = await welcomed();
    await around.time.pass(2500);
    peer.say({ type: "heartbeat", ts: 1, feeds: {} });
    await around.time.pass(2900);
    expect(feed.status.state).toBe("open");
    const told: unknown[] = [];
    feed.onStatus(({ state, error }) => told.push([state, error?.code]));
    await around.time.pass(1200);
    expect(told[0]).toEqual(["waiting", "broken"]);
    expect(around.peers).toHaveLength(2);
  });

  it("is noticed after a sleep, by a ping that is not answered", async () => {
    const { around, feed, peer } = await welcomed();
    peer.said.length = 0;
    around.time.sleep(3_600_000);
    await around.time.pass(0);
    expect(peer.said.map(({ op }) => op)).toEqual(["ping"]);
    expect(feed.status.state).toBe("open");
    await around.time.pass(2999);
    expect(feed.status.state).toBe("open");
    await around.time.pass(2);
    expect(feed.status).toMatchObject({ state: "waiting", error: { message: "dead after a sleep" } });
  });

  it("that outlived a sleep goes on", async () => {
    const { around, feed, peer } = await welcomed();
    around.time.sleep(3_600_000);
    await around.time.pass(0);
    await around.time.pass(100);
    peer.say({ type: "pong", ts: 1 });
    await around.time.pass(3001);
    expect(feed.status).toMatchObject({ state: "open", rttMs: 100 });
  });

  it("is tried again at once when the machine is online again", async () => {
    const online: (() => void)[] = [];
    vi.stubGlobal("addEventListener", (event: string, listener: () => void) => event === "online" && online.push(listener));
    const { around, feed, peer } = await welcomed();
    vi.unstubAllGlobals();
    peer.end();
    expect(feed.status.state).toBe("waiting");
    for (const listener of online) listener();
    await settle();
    expect(around.peers).toHaveLength(2);
  });

  it("begins anew with another log", async () => {
    const { around, feed, peer } = await welcomed();
    feed.subscribe(["A"]);
    peer.accept();
    peer.say({ type: "snapshot", ts: 1, items: [quote("A", 500, 10)] });
    peer.end();
    await around.time.pass(1000);
    const next = last(around.peers);
    next.welcome({ epoch: "e-2" });
    expect(next.accept()).toMatchObject([{ symbols: ["A"] }]);
    next.say({ type: "snapshot", ts: 1, items: [quote("A", 1, 11)] });
    next.say({ type: "update", ts: 2, items: [{ symbol: "A", prev: 1, seq: 2, n: 1, ts: 2, bid: 12 }] });
    expect(feed.quote("A")).toMatchObject({ seq: 2, bid: 12 });
    expect(feed.status.epoch).toBe("e-2");
  });

  it("leaves no timer behind once it is closed", async () => {
    const { around, feed, peer } = await welcomed();
    feed.close();
    expect(peer.closedWith).toBe(1000);
    expect(around.time.timers).toBe(0);
    expect(feed.status.state).toBe("closed");
  });
});

describe("bad input", () => {
  it.each([
    ["not JSON", "{"],
    ["no object", "[1]"],
    ["no type", "{}"],
    ["items that are none", '{"type":"update","ts":1,"items":5}'],
    ["an item that is none", '{"type":"update","ts":1,"items":[null]}'],
    ["binary", new ArrayBuffer(4)],
  ])("%s breaks the connection, and nothing else", async (_, raw) => {
    const { around, feed, peer } = await welcomed();
    peer.raw(raw);
    expect(feed.status).toMatchObject({ state: "waiting", error: { code: "broken" } });
    await around.time.pass(1000);
    expect(around.peers).toHaveLength(2);
  });

  it("of a type that is not known is ignored", async () => {
    const { feed, peer } = await welcomed();
    peer.raw('{"type":"constructor","x":1}');
    peer.raw('{"type":"news","text":"hello"}');
    expect(feed.status.state).toBe("open");
  });

  it("a server of another protocol is left for good", async () => {
    const around = world();
    const feed = await open(around);
    last(around.peers).welcome({ protocol: "ticker.v9" });
    expect(feed.status).toMatchObject({ state: "closed", error: { code: "protocol" } });
  });

  it("an address that is none is a TypeError", () => {
    expect(() => connect("ftp://host")).toThrow("expected an address such as https://host:8000, was ftp://host");
  });
});

describe("where WebSockets are blocked", () => {
  const stream = (...events: string[]): Response => {
    const body = new ReadableStream({
      start(controller) {
        for (const event of events) controller.enqueue(new TextEncoder().encode(event));
      },
    });
    return new Response(body, { headers: { "content-type": "text/event-stream" } });
  };
  const event = (message: object, id?: string): string => `${id === undefined ? "" : `id: ${id}\n`}data: ${JSON.stringify(message)}\n\n`;
  const WELCOME = {
    ...{ type: "welcome", protocol: "ticker.v1", mode: "live", epoch: "e-1", ts: 1, heartbeat_ms: 1000 },
    ...{ interval_ms: 100, limits: { symbols: 1000 } },
  };

  it("events bring the same to the same callbacks, and resume", async () => {
    const around = world();
    const feed = await open(around, { token: "secret" });
    const told: number[] = [];
    feed.subscribe(["A"], (q) => told.push(q.seq));
    around.answers.set("/livez", () => new Response("ok"));
    around.answers.set("/v1/sse", () => stream(event(WELCOME), event({ type: "snapshot", ts: 1, items: [quote("A", 5, 1)] }, "e-1 x=5")));
    last(around.peers).end();
    await around.time.pass(10);
    expect(feed.status).toMatchObject({ state: "open", transport: "sse" });
    expect(told).toEqual([5]);
    expect(last(around.asked)).toMatchObject({
      address: "http://host:8000/v1/sse?symbols=A",
      headers: { authorization: "Bearer secret" },
    });
    await around.time.pass(10_001);
    await around.time.pass(1000);
    expect(last(around.asked).headers).toMatchObject({ "last-event-id": "e-1 x=5" });
  });

  it("a WebSocket that comes about later takes over", async () => {
    const around = world();
    const feed = await open(around);
    feed.subscribe(["A"], () => {});
    around.answers.set("/livez", () => new Response("ok"));
    around.answers.set("/v1/sse", () => stream(event({ ...WELCOME, heartbeat_ms: 60_000 }), event({ type: "snapshot", ts: 1, items: [quote("A", 5, 1)] }, "x")));
    last(around.peers).end();
    await around.time.pass(10);
    expect(feed.status.transport).toBe("sse");
    await around.time.pass(61_000);
    expect(around.peers).toHaveLength(2);
    last(around.peers).welcome();
    expect(feed.status).toMatchObject({ state: "open", transport: "websocket" });
    expect(last(around.peers).take()).toMatchObject([{ op: "subscribe", since: { A: 5 }, epoch: "e-1" }]);
  });

  it("polling brings quotes, trades and bars where nothing that streams gets through", async () => {
    const around = world();
    const feed = await open(around, { transports: ["websocket", "polling"] });
    const told: unknown[] = [];
    feed.subscribe(["A"], (q) => told.push(q.seq));
    feed.subscribeTrades(["A"], (t) => told.push(["trade", t.seq]));
    let seq = 5;
    const json = (body: object): Response => new Response(JSON.stringify(body), { headers: { etag: `W/"${seq}"` } });
    around.answers.set("/livez", () => new Response("ok"));
    around.answers.set("/v1/symbols", () => json({ epoch: "e-1", items: [], next: null }));
    around.answers.set("/v1/snapshot", () => json({ epoch: "e-1", ts: 1, items: [quote("A", seq, 1)] }));
    around.answers.set("/v1/trades/A", () =>
      json({ epoch: "e-1", ts: 1, items: [{ symbol: "A", seq, i: 0, ts: 1, price: 1, size: 1, side: null, id: null }] }),
    );
    last(around.peers).end();
    await around.time.pass(10);
    expect(feed.status).toMatchObject({ state: "open", transport: "polling" });
    await around.time.pass(2500);
    seq = 6;
    await around.time.pass(1000);
    expect(told).toEqual([5, ["trade", 5], 6, ["trade", 6]]);
    expect(around.asked.some(({ headers }) => headers["if-none-match"] === 'W/"5"')).toBe(true);
  });

  it("a server that answers nothing at all is waited for, by a WebSocket", async () => {
    const around = world();
    const feed = await open(around);
    last(around.peers).end();
    await around.time.pass(10);
    expect(feed.status).toMatchObject({ state: "waiting", error: { code: "unreachable" } });
    await around.time.pass(1000);
    expect(around.peers).toHaveLength(2);
  });

  it("a refusal by plain HTTP is for good, and a full server is tried again when it says", async () => {
    const around = world();
    const feed = await open(around, { transports: ["sse"] });
    feed.subscribe(["A"], () => {});
    around.answers.set("/v1/sse", () => new Response("full", { status: 503, headers: { "retry-after": "5" } }));
    feed.reconnect();
    await settle();
    expect(feed.status.retryAt).toBe(around.time.now + 5500);
    around.answers.set("/v1/sse", () => new Response('{"message":"no"}', { status: 403 }));
    await around.time.pass(6000);
    expect(feed.status).toMatchObject({ state: "closed", error: { code: "403", message: "no" } });
  });
});

describe("a replay", () => {
  it("has a clock that is controlled, and ends with its connection", async () => {
    const around = world();
    const feed = await open(around, {}, "ws://host:8000/v1/replay?source=day");
    const peer = last(around.peers);
    expect(peer.url).toBe("ws://host:8000/v1/replay?source=day");
    peer.welcome({ mode: "replay", speed: 1, state: "paused", from: 100, to: 900, ts: 100 });
    expect(feed.status).toMatchObject({ mode: "replay", clock: { ts: 100, state: "paused" }, span: { from: 100, to: 900 } });
    feed.play();
    feed.speed("max");
    feed.seek(500.4);
    feed.step(3);
    feed.pause();
    expect(peer.take().map(({ op, value, ts, rounds }) => [op, value ?? ts ?? rounds])).toEqual([
      ["play", undefined],
      ["speed", "max"],
      ["seek", 500],
      ["step", 3],
      ["pause", undefined],
    ]);
    peer.say({ type: "clock", ts: 600, speed: "max", state: "playing" });
    expect(feed.status.clock).toEqual({ ts: 600, speed: "max", state: "playing" });
    peer.say({ type: "epoch", epoch: "e-2" }, { type: "snapshot", ts: 500, items: [quote("A", 0, 1, 0)] });
    peer.say({ type: "replay_completed", ts: 900, ticks: 5 });
    expect(feed.status.clock?.state).toBe("completed");
    peer.end();
    expect(feed.status).toMatchObject({ state: "closed", error: { code: "replay_lost" } });
  });

  it("that has caught up comes back live, with what is held", async () => {
    const around = world();
    const feed = await open(around, {}, "http://host/base/v1/replay?source=kafka:p&then=live");
    last(around.peers).welcome({ mode: "replay", speed: "max", state: "playing", from: 1, to: null });
    feed.subscribe(["A"]);
    last(around.peers).accept();
    last(around.peers).say({ type: "snapshot", ts: 1, items: [quote("A", 5, 1)] }, { type: "live", ts: 9 });
    last(around.peers).end();
    await around.time.pass(1000);
    expect(last(around.peers).url).toBe("ws://host/base/v1/stream");
    last(around.peers).welcome();
    expect(last(around.peers).take()).toMatchObject([{ since: { A: 5 } }]);
  });

  it("is no live feed: a clock cannot be asked of one", async () => {
    const { feed } = await welcomed();
    expect(() => feed.play()).toThrow("play: expected a feed of a replay");
  });
});
