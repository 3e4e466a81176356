import type { Bar, BarInterval } from "@ticker/sdk";
import { useFeed, useStatus } from "@ticker/sdk/react";
import { CandlestickSeries, createChart, HistogramSeries, type UTCTimestamp } from "lightweight-charts";
import { useEffect, useRef, useState } from "react";
import * as format from "./format";
import { useMarket } from "./hooks";
import { colour } from "./theme";

const BARS = 300;
const REMOVE_MS = 500;

/** Candles with volume that go on live. What they show is said in a sentence too, for who cannot see it. */
export function Chart({ symbol, interval }: { symbol: string; interval: BarInterval }) {
  const feed = useFeed();
  const market = useMarket();
  const { mode } = useStatus();
  const box = useRef<HTMLDivElement>(null);
  const [newest, setNewest] = useState<Bar | null>(null);
  const decimals = market.decimals(symbol);

  useEffect(() => {
    const element = box.current;
    if (element === null || mode === null) return undefined;
    const chart = createChart(element, { autoSize: true, layout: { attributionLogo: false } });
    const candles = chart.addSeries(CandlestickSeries);
    const volumes = chart.addSeries(HistogramSeries, { priceScaleId: "", priceFormat: { type: "volume" }, lastValueVisible: false, priceLineVisible: false });
    volumes.priceScale().applyOptions({ scaleMargins: { top: 0.82, bottom: 0 } });
    candles.priceScale().applyOptions({ scaleMargins: { top: 0.08, bottom: 0.24 } });
    const paint = (): void => {
      const [up, down] = [colour("up"), colour("down")];
      chart.applyOptions({
        layout: { background: { color: "transparent" }, textColor: colour("dim"), attributionLogo: false, fontFamily: "system-ui, sans-serif" },
        grid: { vertLines: { color: colour("line") }, horzLines: { color: colour("line") } },
        timeScale: { timeVisible: interval !== "1d", secondsVisible: interval === "1s", borderColor: colour("line") },
        rightPriceScale: { borderColor: colour("line") },
      });
      candles.applyOptions({ upColor: up, downColor: down, wickUpColor: up, wickDownColor: down, borderVisible: false });
    };
    paint();
    addEventListener("themechange", paint);
    const dark = matchMedia("(prefers-color-scheme: dark)");
    dark.addEventListener("change", paint);

    // The chart takes bars in their order alone: an older one that was revised has all of them set anew.
    const bars = new Map<number, Bar>();
    let whole = true;
    let changed = new Map<number, Bar>();
    let frame = 0;
    let scale = -1;
    let gone = false;
    const draw = (): void => {
      frame = 0;
      const most = Math.min(8, market.decimals(symbol));
      if (most !== scale) {
        scale = most;
        candles.applyOptions({ priceFormat: { type: "price", precision: most, minMove: 1 / 10 ** most } });
      }
      if (whole) {
        const all = [...bars.values()].sort((a, b) => a.start - b.start).slice(-BARS);
        candles.setData(all.map(candle));
        volumes.setData(all.map(volume));
      } else {
        for (const bar of [...changed.values()].sort((a, b) => a.start - b.start)) {
          candles.update(candle(bar));
          volumes.update(volume(bar));
        }
      }
      whole = false;
      changed = new Map();
      const last = bars.get(Math.max(...bars.keys()));
      if (last !== undefined) setNewest(last);
    };
    const take = (bar: Bar): void => {
      const latest = bars.size === 0 ? -Infinity : Math.max(...bars.keys());
      bars.set(bar.start, bar);
      if (bars.size > 2 * BARS) for (const start of [...bars.keys()].sort((a, b) => a - b).slice(0, BARS)) bars.delete(start);
      whole ||= bar.start < latest;
      changed.set(bar.start, bar);
      frame ||= requestAnimationFrame(draw);
    };
    const live = feed.subscribeBars([symbol], interval, take, { intervalMs: 250 });
    if (mode === "live") {
      feed.bars(symbol, interval, BARS).then(
        (history) => {
          if (gone) return;
          for (const bar of history) if ((bars.get(bar.start)?.seq ?? -1) < bar.seq) bars.set(bar.start, bar);
          whole = true;
          frame ||= requestAnimationFrame(draw);
        },
        () => {}, // none before it are known
      );
    }
    return () => {
      gone = true;
      live.close();
      cancelAnimationFrame(frame);
      removeEventListener("themechange", paint);
      dark.removeEventListener("change", paint);
      // A chart that is removed before it has learnt of its canvas's pixels, a frame after it was made, throws.
      setTimeout(() => chart.remove(), REMOVE_MS);
    };
  }, [feed, market, symbol, interval, mode]);

  const text =
    newest === null
      ? "No candles yet."
      : `Candles of ${interval}; the last began at ${format.clock(newest.start)} UTC: open ${format.price(newest.open, decimals)}, high ${format.price(newest.high, decimals)}, low ${format.price(newest.low, decimals)}, close ${format.price(newest.close, decimals)}, volume ${format.size(newest.volume)}.`;
  return (
    <figure className="chart">
      <div ref={box} className="candles" aria-hidden="true" />
      <figcaption className={newest === null ? "empty" : "unseen"}>{text}</figcaption>
    </figure>
  );
}

function candle(bar: Bar): { time: UTCTimestamp; open: number; high: number; low: number; close: number } {
  const { open, high, low, close } = bar;
  return { time: timeOf(bar), open, high, low, close };
}

function volume(bar: Bar): { time: UTCTimestamp; value: number; color: string } {
  return { time: timeOf(bar), value: bar.volume, color: colour(bar.close >= bar.open ? "up-faint" : "down-faint") };
}

function timeOf(bar: Bar): UTCTimestamp {
  return (bar.start / 1e6) as UTCTimestamp;
}
