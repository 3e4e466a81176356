/** Numbers and times as they are shown. Pure. */

export const NONE = "–";

const formats = new Map<string, Intl.NumberFormat>();

function format(least: number, most: number): Intl.NumberFormat {
  const key = `${least} ${most}`;
  let found = formats.get(key);
  if (found === undefined) {
    found = new Intl.NumberFormat("en", { minimumFractionDigits: least, maximumFractionDigits: most });
    formats.set(key, found);
  }
  return found;
}

/** A price with as many decimals as the symbol's prices have. */
export function price(value: number | null | undefined, decimals: number): string {
  return value == null ? NONE : format(decimals, decimals).format(value);
}

/** A size: at most `decimals`, large ones short. */
export function size(value: number | null | undefined, decimals = 8): string {
  if (value == null) return NONE;
  const magnitude = Math.abs(value);
  if (magnitude >= 1e9) return `${format(0, 2).format(value / 1e9)}B`;
  if (magnitude >= 1e6) return `${format(0, 2).format(value / 1e6)}M`;
  if (magnitude >= 1e5) return `${format(0, 1).format(value / 1e3)}K`;
  return format(0, Math.min(decimals, magnitude >= 100 ? 2 : 8)).format(value);
}

export function signed(value: number | null | undefined, decimals: number, unit = ""): string {
  if (value == null) return NONE;
  const text = format(decimals, decimals).format(Math.abs(value));
  const sign = value > 0 ? "+" : value < 0 ? "−" : "";
  return `${sign}${text}${unit}`;
}

/** The decimals that a number has as it is written, at most 10. */
export function decimalsOf(value: number): number {
  const [, fraction = "", exponent = "0"] = /^-?\d+(?:\.(\d+))?(?:e([+-]\d+))?$/.exec(String(value)) ?? [];
  return Math.max(0, Math.min(10, fraction.length - Number(exponent)));
}

/** How long ago, in seconds: short. */
export function age(seconds: number | null): string {
  if (seconds === null) return NONE;
  if (seconds < 1) return "now";
  if (seconds < 60) return `${Math.floor(seconds)}s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)}m`;
  return seconds < 86_400 ? `${Math.floor(seconds / 3600)}h` : `${Math.floor(seconds / 86_400)}d`;
}

/** A time of day, UTC, of microseconds since 1970. */
export function clock(us: number, millis = false): string {
  const iso = new Date(us / 1000).toISOString();
  return iso.slice(11, millis ? 23 : 19);
}

export function date(us: number): string {
  return new Date(us / 1000).toISOString().slice(0, 10);
}

export function bytes(value: number): string {
  if (value >= 1e6) return `${format(1, 1).format(value / 1e6)} MB`;
  return value >= 1e3 ? `${format(1, 1).format(value / 1e3)} kB` : `${Math.round(value)} B`;
}
