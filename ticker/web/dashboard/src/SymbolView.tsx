import type { BarInterval, Gap, Quote, Trade } from "@ticker/sdk";
import { useFeed, useStatus } from "@ticker/sdk/react";
import { memo, useEffect, useRef, useState } from "react";
import { Chart } from "./Chart";
import { spread } from "./columns";
import * as format from "./format";
import { useMarket, useRow } from "./hooks";

const INTERVALS: readonly BarInterval[] = ["1s", "1m", "5m", "1h", "1d"];
const TRADES_SHOWN = 60;

/** One symbol: its quote, candles and trades. */
export function SymbolView({ symbol, onClose }: { symbol: string; onClose: () => void }) {
  const [interval, setInterval] = useState<BarInterval>("1m");
  const heading = useRef<HTMLHeadingElement>(null);
  useEffect(() => heading.current?.focus(), [symbol]);
  return (
    <section className="symbol" aria-labelledby="symbol">
      <header>
        <h2 id="symbol" ref={heading} tabIndex={-1}>
          {symbol}
        </h2>
        <button type="button" onClick={onClose} aria-label="Close">
          ×
        </button>
      </header>
      <QuotePanel symbol={symbol} />
      <div className="intervals" role="radiogroup" aria-label="Interval of the candles">
        {INTERVALS.map((choice) => (
          <label key={choice}>
            <input type="radio" name="interval" checked={choice === interval} onChange={() => setInterval(choice)} />
            <span>{choice}</span>
          </label>
        ))}
      </div>
      <Chart key={interval} symbol={symbol} interval={interval} />
      <Trades symbol={symbol} />
    </section>
  );
}

function QuotePanel({ symbol }: { symbol: string }) {
  const row = useRow(symbol);
  const decimals = useMarket().decimals(symbol);
  const quote: Partial<Quote> = row?.quote ?? {};
  const entries: [string, string][] = [
    ["Bid", `${format.price(quote.bid, decimals)} × ${format.size(quote.bid_size)}`],
    ["Ask", `${format.price(quote.ask, decimals)} × ${format.size(quote.ask_size)}`],
    ["Spread", row === undefined ? format.NONE : format.price(spread(row.quote), decimals)],
    ["Open", format.price(quote.open, decimals)],
    ["High", format.price(quote.high, decimals)],
    ["Low", format.price(quote.low, decimals)],
    ["VWAP", format.price(quote.vwap, decimals)],
    ["Volume", format.size(quote.volume)],
  ];
  return (
    <div className="quote">
      <p className="price" data-direction={row?.direction ?? 0}>
        <span className="mark" aria-hidden="true">
          {row === undefined || row.direction === 0 ? "" : row.direction > 0 ? "▲" : "▼"}
        </span>
        {format.price(quote.last, decimals)}
      </p>
      <p className="moved" data-direction={Math.sign(quote.change ?? 0)}>
        {format.signed(quote.change, decimals)} ({format.signed(quote.change_pct, 2, "%")})
      </p>
      <dl>
        {entries.map(([name, value]) => (
          <div key={name}>
            <dt>{name}</dt>
            <dd>{value}</dd>
          </div>
        ))}
      </dl>
    </div>
  );
}

type Entry = { key: string } & ({ trade: Trade } | { gap: Gap });

/** The last trades, the newest first; what was lost has a line of its own. */
function Trades({ symbol }: { symbol: string }) {
  const feed = useFeed();
  const { mode } = useStatus();
  const decimals = useMarket().decimals(symbol);
  const [entries, setEntries] = useState<readonly Entry[]>([]);

  useEffect(() => {
    let held: Entry[] = [];
    let painted = 0;
    let gone = false;
    const show = (): void => {
      painted ||= requestAnimationFrame(() => {
        painted = 0;
        setEntries(held);
      });
    };
    const put = (entry: Entry): void => {
      held = [entry, ...held.slice(0, TRADES_SHOWN - 1)];
      show();
    };
    const live = feed.subscribeTrades([symbol], (trade) => put({ key: `${trade.seq} ${trade.i}`, trade }), {
      onGap: (gap) => put({ key: `gap ${gap.to}`, gap }),
    });
    if (mode === "live") {
      feed.trades(symbol, TRADES_SHOWN).then(
        (trades) => {
          if (gone) return;
          const known = new Set(held.map(({ key }) => key));
          const older = trades.reverse().map((trade) => ({ key: `${trade.seq} ${trade.i}`, trade }));
          held = [...held, ...older.filter(({ key }) => !known.has(key))].slice(0, TRADES_SHOWN);
          show();
        },
        () => {}, // none before it are known
      );
    }
    return () => {
      gone = true;
      live.close();
      cancelAnimationFrame(painted);
    };
  }, [feed, symbol, mode]);

  return (
    <div className="trades" tabIndex={0} role="region" aria-label="Trades">
      <table>
        <thead>
          <tr>
            <th scope="col">Time (UTC)</th>
            <th scope="col">Price</th>
            <th scope="col">Size</th>
            <th scope="col">Side</th>
          </tr>
        </thead>
        <tbody>
          {entries.map((entry) => (
            <TradeRow key={entry.key} entry={entry} decimals={decimals} />
          ))}
        </tbody>
      </table>
      {entries.length === 0 && <p className="empty">No trades yet.</p>}
    </div>
  );
}

const TradeRow = memo(function TradeRow({ entry, decimals }: { entry: Entry; decimals: number }) {
  if ("gap" in entry) {
    return (
      <tr className="gap">
        <td colSpan={4}>{entry.gap.count === null ? "trades were lost here" : `${entry.gap.count} trades were lost here`}</td>
      </tr>
    );
  }
  const { ts, price, size, side } = entry.trade;
  return (
    <tr data-side={side}>
      <td>{format.clock(ts, true)}</td>
      <td data-direction={side === "buy" ? 1 : side === "sell" ? -1 : 0}>{format.price(price, decimals)}</td>
      <td>{format.size(size)}</td>
      <td>{side ?? format.NONE}</td>
    </tr>
  );
});
