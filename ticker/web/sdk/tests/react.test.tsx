// @vitest-environment happy-dom
import { act, cleanup, render, screen } from "@testing-library/react";
import { StrictMode } from "react";
import { afterEach, expect, it, vi } from "vitest";
import { connect, type Feed } from "../src/index.ts";
import { TickerProvider, useQuote, useStatus, useTicker } from "../src/react.tsx";
import { last, type Peer, quote, settle, world } from "./scripted.ts";

const feeds: Feed[] = [];
afterEach(() => {
  cleanup();
  for (const feed of feeds.splice(0)) feed.close();
});

async function connected(): Promise<{ feed: Feed; peer: Peer }> {
  const around = world();
  const feed = connect("http://host", { surroundings: around.surroundings });
  feeds.push(feed);
  await settle();
  last(around.peers).welcome();
  return { feed, peer: last(around.peers) };
}

it("renders only what has changed", async () => {
  const { feed, peer } = await connected();
  const rendered: string[] = [];
  function Row({ symbol }: { symbol: string }) {
    const q = useQuote(symbol);
    rendered.push(symbol);
    return <p data-testid={symbol}>{q?.bid}</p>;
  }
  render(
    <TickerProvider feed={feed}>
      <Row symbol="A" />
      <Row symbol="B" />
    </TickerProvider>,
  );
  peer.accept();
  await act(async () => peer.say({ type: "snapshot", ts: 1, items: [quote("A", 1, 10), quote("B", 2, 20)] }));
  expect(screen.getByTestId("A").textContent).toBe("10");
  rendered.length = 0;
  await act(async () => peer.say({ type: "update", ts: 2, items: [{ symbol: "B", prev: 2, seq: 3, n: 1, ts: 3, bid: 21 }] }));
  expect(rendered).toEqual(["B"]);
  expect(screen.getByTestId("B").textContent).toBe("21");
});

it("gives a map of the symbols asked for, and subscribes once though the list is written in place", async () => {
  const { feed, peer } = await connected();
  let renders = 0;
  function List() {
    const quotes = useTicker(["A", "B"], { fields: ["bid"] });
    renders++;
    return <p data-testid="list">{[...quotes.values()].map((q) => `${q.symbol}${q.bid}`).join(" ")}</p>;
  }
  const page = render(
    <TickerProvider feed={feed}>
      <List />
    </TickerProvider>,
  );
  expect(peer.accept()).toHaveLength(1);
  await act(async () => peer.say({ type: "snapshot", ts: 1, items: [quote("A", 1, 10), quote("B", 2, 20)] }));
  expect(screen.getByTestId("list").textContent).toBe("A10 B20");
  expect(renders).toBeLessThanOrEqual(3);
  page.rerender(
    <TickerProvider feed={feed}>
      <List />
    </TickerProvider>,
  );
  expect(peer.take()).toEqual([]);
  page.unmount();
  expect(peer.take()).toMatchObject([{ op: "unsubscribe", symbols: ["A", "B"] }]);
});

it("opens a feed of its own, in strict mode too, and closes it with the provider", async () => {
  const around = world();
  function State() {
    return <p data-testid="state">{useStatus().state}</p>;
  }
  const page = render(
    <StrictMode>
      <TickerProvider url="http://host" options={{ surroundings: around.surroundings }}>
        <State />
      </TickerProvider>
    </StrictMode>,
  );
  await act(async () => {
    await settle();
    last(around.peers).welcome();
  });
  expect(screen.getByTestId("state").textContent).toBe("open");
  page.unmount();
  expect(around.peers.filter(({ closedWith }) => closedWith === null)).toEqual([]);
  expect(around.time.timers).toBe(0);
});

it("says what is missing where there is no provider", () => {
  vi.spyOn(console, "error").mockImplementation(() => {});
  const Lost = () => <p>{useStatus().state}</p>;
  expect(() => render(<Lost />)).toThrow("expected a <TickerProvider> above");
  vi.restoreAllMocks();
});
