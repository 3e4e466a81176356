import { useStatus } from "@ticker/sdk/react";
import { type Dispatch, type KeyboardEvent, memo, useCallback, useEffect, useMemo, useRef, useState } from "react";
import { COLUMNS, type ColumnId, type Sort, sorted, spread } from "./columns";
import * as format from "./format";
import { troubleOf, useDataNow, useMarket, useNow, useRow, useRowsVersion } from "./hooks";
import type { ListsAction } from "./lists";
import { pathOf, type Row } from "./market";

const ROW_PX = 34;
const SPARE_ROWS = 8;
/** Rows come into view in strides: not every step of scrolling renders. */
const STRIDE_PX = 4 * ROW_PX;
/** A symbol without a tick for so long is marked. */
const STALE_S = 60;
const SPARK = { width: 88, height: 22 };

interface TableProps {
  symbols: readonly string[];
  columns: readonly ColumnId[];
  sort: Sort | null;
  onSort: (sort: Sort | null) => void;
  selected: string | null;
  onSelect: (symbol: string) => void;
  /** Where the list is one's own, and can be changed. */
  dispatch?: Dispatch<ListsAction>;
}

/** The watch list: rows that are in view, and no others; each renders when its own symbol changes. */
export function WatchTable({ symbols, columns, sort, onSort, selected, onSelect, dispatch }: TableProps) {
  const market = useMarket();
  const version = useRowsVersion();
  const stale = troubleOf(useStatus()) !== null;
  const box = useRef<HTMLDivElement>(null);
  const body = useRef<HTMLTableSectionElement>(null);
  const [view, setView] = useState({ top: 0, height: 800 });
  const [current, setCurrent] = useState<string | null>(null);
  const [dragged, setDragged] = useState<string | null>(null);
  const tick = useSortTick(sort);

  const named = useMemo(
    () => (symbols.some((name) => name.includes("*")) ? [...market.rows.keys()].sort() : symbols),
    [symbols, market, version],
  );
  const rows = useMemo(() => sorted(named, sort, (symbol) => market.rows.get(symbol)?.quote), [named, sort, market, tick, version]);

  useEffect(() => {
    const element = box.current;
    if (element === null) return undefined;
    const measure = (): void => {
      const top = Math.floor(element.scrollTop / STRIDE_PX) * STRIDE_PX;
      const height = element.clientHeight;
      setView((held) => (held.top === top && held.height === height ? held : { top, height }));
    };
    const sizes = new ResizeObserver(measure);
    sizes.observe(element);
    element.addEventListener("scroll", measure, { passive: true });
    return () => {
      sizes.disconnect();
      element.removeEventListener("scroll", measure);
    };
  }, []);

  const first = Math.max(0, Math.floor(view.top / ROW_PX) - SPARE_ROWS);
  const last = Math.min(rows.length, Math.ceil((view.top + STRIDE_PX + view.height) / ROW_PX) + SPARE_ROWS);
  const focused = current !== null && rows.includes(current) ? current : (rows[0] ?? null);

  /** Once what has changed is rendered. */
  const focusOn = useCallback((symbol: string | undefined) => {
    if (symbol === undefined) return;
    setCurrent(symbol);
    requestAnimationFrame(() => body.current?.querySelector<HTMLElement>(`[data-symbol="${CSS.escape(symbol)}"]`)?.focus());
  }, []);
  const focus = useCallback(
    (place: number) => {
      const symbol = rows[Math.max(0, Math.min(rows.length - 1, place))];
      const element = box.current;
      if (symbol === undefined || element === null) return;
      const at = rows.indexOf(symbol) * ROW_PX;
      const head = ROW_PX;
      if (at < element.scrollTop) element.scrollTop = at;
      else if (at + ROW_PX + head > element.scrollTop + element.clientHeight) element.scrollTop = at + ROW_PX + head - element.clientHeight;
      focusOn(symbol);
    },
    [rows, focusOn],
  );

  function pressed(event: KeyboardEvent): void {
    const symbol = event.target instanceof HTMLElement ? event.target.dataset.symbol : undefined;
    if (symbol === undefined) return;
    const place = rows.indexOf(symbol);
    const page = Math.max(1, Math.floor(view.height / ROW_PX) - 2);
    const moves: Record<string, number> = {
      ...{ ArrowDown: place + 1, ArrowUp: place - 1, PageDown: place + page, PageUp: place - page, Home: 0, End: rows.length - 1 },
    };
    const to = moves[event.key];
    if (event.altKey && (event.key === "ArrowUp" || event.key === "ArrowDown")) {
      if (dispatch !== undefined && sort === null) dispatch({ type: "move", symbol, by: event.key === "ArrowUp" ? -1 : 1 });
      focusOn(symbol);
    } else if (to !== undefined && !event.ctrlKey && !event.metaKey) focus(to);
    else if (event.key === "Enter" || event.key === " ") onSelect(symbol);
    else if (event.key === "Delete" || event.key === "Backspace") {
      if (dispatch === undefined) return;
      dispatch({ type: "remove", symbol });
      focusOn(rows[place + 1] ?? rows[place - 1]);
    } else return;
    event.preventDefault();
  }

  function sortBy(by: Sort["by"]): void {
    if (sort?.by !== by) onSort({ by, down: by !== "symbol" });
    else onSort(sort.down === (by !== "symbol") ? { by, down: !sort.down } : null);
  }

  const shown = COLUMNS.filter(({ id }) => columns.includes(id));
  const heading = (by: Sort["by"], label: string, sortable: boolean) => (
    <th
      key={by}
      scope="col"
      data-column={by}
      aria-sort={sort?.by === by ? (sort.down ? "descending" : "ascending") : undefined}
    >
      {sortable ? (
        <button type="button" onClick={() => sortBy(by)}>
          {label}
          <span aria-hidden="true">{sort?.by === by ? (sort.down ? " ↓" : " ↑") : ""}</span>
        </button>
      ) : (
        label
      )}
    </th>
  );

  return (
    <div className="scroll" ref={box} data-stale={stale} tabIndex={-1}>
      <table role="grid" aria-label="Prices" aria-rowcount={rows.length + 1} onKeyDown={pressed}>
        <thead>
          <tr aria-rowindex={1}>
            {heading("symbol", "Symbol", true)}
            {shown.map(({ id, label, value }) => heading(id, label, value !== null))}
            <th scope="col" className="act">
              <span className="unseen">Remove</span>
            </th>
          </tr>
        </thead>
        <tbody ref={body}>
          <Space rows={first} columns={shown.length + 2} />
          {rows.slice(first, last).map((symbol, at) => (
            <SymbolRow
              key={symbol}
              symbol={symbol}
              place={first + at}
              columns={columns}
              selected={symbol === selected}
              focusable={symbol === focused}
              onSelect={onSelect}
              onFocus={setCurrent}
              onDrag={setDragged}
              onDrop={(before) => dragged !== null && dispatch?.({ type: "place", symbol: dragged, before })}
              movable={dispatch !== undefined && sort === null}
              {...(dispatch === undefined ? {} : { dispatch })}
            />
          ))}
          <Space rows={rows.length - last} columns={shown.length + 2} />
        </tbody>
      </table>
      {rows.length === 0 && <p className="empty">{dispatch === undefined ? "No prices yet." : "This list is empty: add a symbol above, or press /."}</p>}
    </div>
  );
}

/** Room for rows that are not in view. */
function Space({ rows, columns }: { rows: number; columns: number }) {
  if (rows <= 0) return null;
  return (
    <tr aria-hidden="true" className="space">
      <td colSpan={columns} style={{ height: rows * ROW_PX }} />
    </tr>
  );
}

interface RowProps {
  symbol: string;
  place: number;
  columns: readonly ColumnId[];
  selected: boolean;
  focusable: boolean;
  movable: boolean;
  onSelect: (symbol: string) => void;
  onFocus: (symbol: string) => void;
  onDrag: (symbol: string | null) => void;
  onDrop: (before: string) => void;
  dispatch?: Dispatch<ListsAction>;
}

const SymbolRow = memo(
  function SymbolRow({ symbol, place, columns, selected, focusable, movable, onSelect, onFocus, onDrag, onDrop, dispatch }: RowProps) {
    const row = useRow(symbol);
    const market = useMarket();
    const refused = market.rejected.get(symbol);
    return (
      <tr
        aria-rowindex={place + 2}
        aria-selected={selected}
        data-symbol={symbol}
        data-seq={row?.quote.seq}
        data-odd={place % 2 === 1}
        tabIndex={focusable ? 0 : -1}
        draggable={movable}
        onClick={() => onSelect(symbol)}
        onFocus={() => onFocus(symbol)}
        onDragStart={(event) => {
          event.dataTransfer.setData("text/plain", symbol);
          onDrag(symbol);
        }}
        onDragEnd={() => onDrag(null)}
        onDragOver={(event) => movable && event.preventDefault()}
        onDrop={(event) => {
          event.preventDefault();
          onDrop(symbol);
        }}
      >
        <th scope="row" title={symbol}>
          {symbol}
        </th>
        {refused !== undefined ? (
          <td colSpan={columns.length} className="refused">
            not served: {refused.replaceAll("_", " ")}
          </td>
        ) : (
          COLUMNS.map(({ id }) => columns.includes(id) && <Cell key={id} id={id} row={row} decimals={market.decimals(symbol)} />)
        )}
        <td className="act">
          {dispatch !== undefined && (
            <button
              type="button"
              tabIndex={-1}
              aria-label={`Remove ${symbol}`}
              onClick={(event) => {
                event.stopPropagation();
                dispatch({ type: "remove", symbol });
              }}
            >
              ×
            </button>
          )}
        </td>
      </tr>
    );
  },
  (before, after) =>
    before.symbol === after.symbol &&
    before.place === after.place &&
    before.columns === after.columns &&
    before.selected === after.selected &&
    before.focusable === after.focusable &&
    before.movable === after.movable &&
    before.onDrop === after.onDrop,
);

const Cell = memo(function Cell({ id, row, decimals }: { id: ColumnId; row: Row | undefined; decimals: number }) {
  if (row === undefined) return <td data-column={id}>{format.NONE}</td>;
  const { quote } = row;
  switch (id) {
    case "last":
      return (
        <td data-column={id} className="last" data-direction={row.direction} data-flash={row.moves === 0 ? undefined : row.moves % 2}>
          <span className="mark" aria-hidden="true">
            {row.direction > 0 ? "▲" : row.direction < 0 ? "▼" : ""}
          </span>
          {format.price(quote.last, decimals)}
        </td>
      );
    case "change":
      return (
        <td data-column={id} data-direction={Math.sign(quote.change_pct ?? 0)}>
          {format.signed(quote.change_pct, 2, "%")}
        </td>
      );
    case "spark":
      return (
        <td data-column={id} aria-hidden="true">
          <svg {...SPARK} viewBox={`0 0 ${SPARK.width} ${SPARK.height}`} data-direction={Math.sign((row.trend.at(-1) ?? 0) - (row.trend[0] ?? 0))}>
            <path d={pathOf(row.trend, SPARK.width, SPARK.height)} />
          </svg>
        </td>
      );
    case "bid":
    case "ask":
    case "high":
    case "low":
      return <td data-column={id}>{format.price(quote[id], decimals)}</td>;
    case "spread":
      return <td data-column={id}>{format.price(spread(quote), decimals)}</td>;
    case "volume":
      return <td data-column={id}>{format.size(quote.volume)}</td>;
    case "age":
      return <Age ts={quote.ts} />;
  }
});

/** The time since the last tick, counted on once a second. */
function Age({ ts }: { ts: number | null }) {
  const now = useDataNow();
  const seconds = ts === null ? null : Math.max(0, (now * 1000 - ts) / 1e6);
  const stale = seconds !== null && seconds >= STALE_S;
  return (
    <td data-column="age" data-old={stale}>
      {format.age(seconds)}
      {stale && <span className="unseen"> stale</span>}
    </td>
  );
}

/** While rows are sorted by what changes, they are put in order once a second: no faster than can be read. */
function useSortTick(sort: Sort | null): number {
  const now = useNow();
  return sort === null || sort.by === "symbol" ? 0 : Math.floor(now / 1000);
}
