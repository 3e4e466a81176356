/** How long to wait before the next try: exponential with full jitter, anew only after a connection that lasted. */

export interface BackoffOptions {
  /** The first window, in milliseconds. */
  minMs: number;
  maxMs: number;
  /** A connection that lasted this long was a good one. */
  stableMs: number;
}

export class Backoff {
  #windowMs: number;

  constructor(
    private readonly options: BackoffOptions,
    private readonly random: () => number,
  ) {
    this.#windowMs = options.minMs;
  }

  /** The wait after a connection that lasted `livedMs`, 0 where none came about, and at least `afterMs`. */
  delayMs(livedMs: number, afterMs = 0): number {
    if (livedMs >= this.options.stableMs) this.#windowMs = this.options.minMs;
    const delayMs = this.spreadMs(afterMs);
    this.#windowMs = Math.min(2 * this.#windowMs, this.options.maxMs);
    return delayMs;
  }

  /** `afterMs` and a random part: those that were told the same do not come at once. */
  spreadMs(afterMs: number): number {
    return afterMs + this.random() * this.#windowMs;
  }
}
