/** What the browser keeps for us, where it does: full or blocked, the page works and says that nothing is kept. */

const KEY = "ticker.dashboard";

export interface Kept {
  read(name: string): unknown;
  /** Keep a value; false where it cannot be. */
  write(name: string, value: unknown): boolean;
}

export function keeper(storage: () => Storage): Kept {
  return {
    read(name) {
      try {
        return JSON.parse(storage().getItem(`${KEY}.${name}`) ?? "null");
      } catch {
        return null; // blocked, or not what we wrote: as if it were not there
      }
    },
    write(name, value) {
      try {
        storage().setItem(`${KEY}.${name}`, JSON.stringify(value));
        return true;
      } catch {
        return false;
      }
    },
  };
}
